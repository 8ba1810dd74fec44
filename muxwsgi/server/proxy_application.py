"""What the server asks of an application that is a proxy: it is more than HTTP, and has to know where it is served."""

from collections.abc import Callable, Iterable
from typing import Protocol, runtime_checkable

from muxwsgi.http.exchange import OnExchange
from muxwsgi.http.h1.h1 import HTTP1, OnReject
from muxwsgi.mux.mux import OnRefusal
from muxwsgi.mux.route import Handler, Route
from muxwsgi.settings import HTTPSettings, Transparent
from muxwsgi.wire.connection import Address, Connection

__all__ = ["ProxyApplication"]


@runtime_checkable
class ProxyApplication(Protocol):
    """`muxwsgi.proxy.Proxy` is one. The server knows it by its methods, so that it need not import a proxy to serve an application."""

    engine: HTTP1

    def front_routes(self) -> list[Route]:
        """What is asked beside HTTP on every bind."""

    def admit(self, connection: Connection) -> None:
        """Whether a client may reach what is served on the proxy's binds beside the proxy. Raises `PeerError` where not."""

    def transparent_door(self, way: Transparent, listening: Address) -> Handler:
        """Who gets all connections of a transparent bind that listens at `listening`."""

    def check(self, address: Address, *, transparent: bool) -> None:
        """Whether it may be served at `address`. Raises `OperatorError`."""

    def serve_in(
        self,
        http: HTTPSettings,
        hijackers: Iterable[Route],
        addresses: Callable[[], list[tuple[str, int]]],
        on_exchange: OnExchange | None,
        on_reject: OnReject | None = None,
        on_refusal: OnRefusal | None = None,
    ) -> None:
        """Told once, before it serves: the HTTP settings, the hijackers, where we listen, the access log, and who is told of requests
        that are refused and of routes at their limit."""

    def close(self) -> None:
        """The server has stopped."""
