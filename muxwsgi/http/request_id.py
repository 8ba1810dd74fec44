"""Request ids: each request has one, in its environ, in the logs, and in its response if the operator wants that. Imports no gevent.

A trusted peer (a proxy in front) may give the id, in the field that the operator names. The requests of all others get a new one, because a
client that chooses ids could make its requests look like those of another client.

An id is known to log lines by a context variable. A greenlet that the application spawns in a request inherits it. Requests may be nested:
those inside of a tunnel of the proxy are served by the greenlet that serves its CONNECT.
"""

import logging
import os
import re
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NamedTuple

from muxwsgi.http.field_list import with_field

if TYPE_CHECKING:
    from muxwsgi.http.exchange import Exchange

__all__ = ["KEY", "NONE", "RequestIds", "current_id", "name_ids_in_records"]

#: The key of the environ that has the id.
KEY = "muxwsgi.request_id"

#: The id outside of requests.
NONE = "-"

#: Ids of other programs that are taken: no character of them needs escaping in a log or in a field.
_VALID = re.compile(r"[A-Za-z0-9._~+/=:@-]{1,128}")

_App = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class _Identified(NamedTuple):
    """The id of the request with this environ. `around` is that of the request that it is nested in."""

    given: str
    environ: dict[str, Any]
    around: "_Identified | None"


_current: ContextVar[_Identified | None] = ContextVar("muxwsgi.request_id", default=None)


def current_id() -> str:
    """The id of the request that this greenlet serves; `-` outside of a request."""
    now = _current.get()
    return NONE if now is None else now.given


class RequestIds:
    """Wraps an application."""

    def __init__(self, header: str, *, trusts: Callable[[Any], bool], responds: bool) -> None:
        """`header` is the field that has the id. `trusts(address)` says whether a peer may give it. With `responds`, the response has the
        field too."""
        self._header = header
        self._key = "HTTP_" + header.upper().replace("-", "_")
        self._trusts = trusts
        self._responds = responds

    def around(self, app: _App, *, passes_on: bool = False) -> _App:
        """`app`, each of whose requests has an id. With `passes_on`, `app` is a proxy, and sends the field on."""

        def identified(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
            given = environ.get(self._key)
            if given is None or not _VALID.fullmatch(given) or not self._trusts(environ["muxwsgi.connection"].client):
                given = os.urandom(16).hex()  # as nginx's $request_id
            environ[self._key] = environ[KEY] = given
            if passes_on:
                environ["muxwsgi.fields"] = with_field(environ["muxwsgi.fields"], self._header, given)
            _current.set(_Identified(given, environ, _current.get()))
            return app(environ, self._with_field(start_response, given) if self._responds else start_response)

        return identified

    def forget(self, exchange: "Exchange") -> None:
        """An exchange of this greenlet has ended (it is an `OnExchange`)."""
        now = _current.get()
        if now is not None and now.environ is exchange.environ:  # and not a request that was refused inside of it
            _current.set(now.around)

    def _with_field(self, start_response: Callable[..., Any], given: str) -> Callable[..., Any]:
        name = self._header.lower()

        def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            if not any(each[0].lower() == name for each in headers):
                headers = [*headers, (self._header, given)]
            return start_response(status, headers, exc_info)

        return start


def name_ids_in_records() -> None:
    """Give all records of logging the attribute `request_id`, for formatters of the operator. Idempotent."""
    make = logging.getLogRecordFactory()
    if getattr(make, "names_ids", False):
        return

    def factory(*arguments: Any, **more: Any) -> logging.LogRecord:
        record = make(*arguments, **more)
        record.request_id = current_id()
        return record

    factory.names_ids = True  # type: ignore[attr-defined]
    logging.setLogRecordFactory(factory)
