"""The interface of an application that is a proxy. A proxy serves more than HTTP, and must know its addresses. This module imports no
gevent, because a master imports it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from muxwsgi.events import Events
from muxwsgi.mux.route import Handler, Route
from muxwsgi.settings import HTTP2Settings, HTTPSettings, Transparent

if TYPE_CHECKING:
    from cryptography import x509

    from muxwsgi.http.environ import WSGIApplication
    from muxwsgi.http.h1.h1 import HTTP1
    from muxwsgi.http.h2.h2 import HTTP2
    from muxwsgi.wire.connection import Address, Connection

__all__ = ["ProxyApplication", "ServedProxy"]


class ServedProxy(Protocol):
    """A proxy in one composition of a server. It is a WSGI application.

    engines     serve HTTP inside of tunnels
    """

    engines: "Sequence[HTTP1 | HTTP2]"

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Callable[[bytes], None]]) -> Iterable[bytes]:
        """Answer a request that came outside of tunnels."""

    def check(self, address: "Address", *, transparent: bool) -> None:
        """Check that it may be served at `address`. Raises `OperatorError` if not."""

    def front_routes(self) -> list[Route]:
        """The routes beside HTTP, on every bind."""

    def transparent_door(self, way: Transparent, listening: "Address") -> Handler:
        """The handler for all connections of a transparent bind that listens at `listening`."""

    def start(self) -> None:
        """Called when the server starts. Idempotent."""

    def close(self) -> None:
        """Called when the last connection that it served has ended. Idempotent."""


@runtime_checkable
class ProxyApplication(Protocol):
    """The type of `muxwsgi.proxy.Proxy`. It is a protocol, so that a server does not import the proxy to serve another application."""

    @property
    def counts(self) -> Mapping[str, int]:
        """Numbers of leaves and of connections to upstreams: see `Proxy.counts`."""

    @property
    def ca_certificates(self) -> "Sequence[x509.Certificate]":
        """The certificates of its CA; empty while none is loaded."""

    def admit(self, connection: "Connection") -> None:
        """Check that a client may use the hijackers on the proxy's binds. Raises `PeerError` if not."""

    def serve_in(
        self,
        http: HTTPSettings,
        http2: HTTP2Settings,
        hijackers: Iterable[Route],
        addresses: Callable[[], list[tuple[str, int]]],
        events: Events,
        around: "Sequence[Callable[[WSGIApplication], WSGIApplication]]",
    ) -> ServedProxy:
        """Compose the proxy for one server. The arguments are the server's HTTP settings, its hijackers, the addresses where it listens,
        its events, and functions that wrap what answers requests, inside of tunnels too. Starts nothing. Raises `OperatorError`."""
