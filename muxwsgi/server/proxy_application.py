"""What the server asks of an application that is a proxy: a proxy does more than HTTP, and has to know where it is served. Imports no
gevent: a master imports it."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from muxwsgi.events import Events
from muxwsgi.mux.route import Handler, Route
from muxwsgi.settings import HTTPSettings, Transparent

if TYPE_CHECKING:
    from muxwsgi.http.h1.h1 import HTTP1
    from muxwsgi.wire.connection import Address, Connection

__all__ = ["ProxyApplication", "ServedProxy"]


class ServedProxy(Protocol):
    """A proxy as one composition of a server serves it. It is a WSGI application.

    engine      serves HTTP inside of tunnels
    """

    engine: "HTTP1"

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Callable[[bytes], None]]) -> Iterable[bytes]:
        """Answer a request that came outside of tunnels."""

    def check(self, address: "Address", *, transparent: bool) -> None:
        """Whether it may be served at `address`. Raises `OperatorError` where not."""

    def front_routes(self) -> list[Route]:
        """The routes that are asked beside HTTP on every bind."""

    def transparent_door(self, way: Transparent, listening: "Address") -> Handler:
        """The handler for all connections of a transparent bind that listens at `listening`."""

    def start(self) -> None:
        """The server starts. Idempotent."""

    def close(self) -> None:
        """The last connection that it served has ended. Idempotent."""


@runtime_checkable
class ProxyApplication(Protocol):
    """`muxwsgi.proxy.Proxy` is one. The server knows it by its methods, so that it need not import a proxy to serve an application."""

    def admit(self, connection: "Connection") -> None:
        """Whether a client may reach what is served on the proxy's binds beside the proxy. Raises `PeerError` where not."""

    def serve_in(
        self,
        http: HTTPSettings,
        hijackers: Iterable[Route],
        addresses: Callable[[], list[tuple[str, int]]],
        events: Events,
    ) -> ServedProxy:
        """Compose all that one server serves the proxy with. Given are its HTTP settings, its hijackers, the addresses where it listens,
        and its events. Starts nothing. Raises `OperatorError`."""
