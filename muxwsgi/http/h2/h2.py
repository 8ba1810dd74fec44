"""HTTP/2: the handler of its connections. `session` serves one, and `engine` is its state; both begin with the theory."""

from typing import TYPE_CHECKING

from muxwsgi.events import Events
from muxwsgi.http.authority import is_host
from muxwsgi.http.environ import ErrorStream, WSGIApplication
from muxwsgi.http.forwarding import Forwarding
from muxwsgi.http.gateway import Gateway
from muxwsgi.http.h2.sender import OwnFields
from muxwsgi.http.h2.session import Session
from muxwsgi.settings import HTTP2Settings, HTTPSettings, TrustSettings

if TYPE_CHECKING:
    from muxwsgi.wire.connection import Connection

__all__ = ["HTTP2"]


class HTTP2:
    """A handler that serves HTTP/2 with a WSGI application, from the connection preface on.

    `draining` is set by the server at shutdown: see `session`. `errors` is the `wsgi.errors` of connections that begin.
    """

    def __init__(
        self,
        app: WSGIApplication,
        http: HTTPSettings,
        settings: HTTP2Settings,
        *,
        events: Events | None = None,
        multiprocess: bool = False,
        trust: TrustSettings | None = None,
    ) -> None:
        """As `HTTP1`."""
        self._http = http
        self._settings = settings
        self._gateway = Gateway(
            app,
            software=http.server_header or "muxwsgi",
            events=Events() if events is None else events,
            multiprocess=multiprocess,
            forwarding=None if trust is None else Forwarding(trust, is_host),
        )
        self._own = OwnFields(http.server_header)

    @property
    def errors(self) -> ErrorStream:
        """The `wsgi.errors` of connections that begin."""
        return self._gateway.errors

    @errors.setter
    def errors(self, value: ErrorStream) -> None:
        self._gateway.errors = value

    @property
    def draining(self) -> bool:
        """Whether connections end."""
        return self._own.closing

    @draining.setter
    def draining(self, value: bool) -> None:
        self._own.closing = value

    def __call__(self, connection: "Connection") -> None:
        """Serve `connection` until either side ends it. Raises its errors, which are the peer's faults, and nothing else."""
        Session(connection, self._gateway, self._http, self._settings, self._own).serve()
