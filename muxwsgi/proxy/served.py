"""`ServedProxy`: a proxy as one server serves it. `Proxy.serve_in` makes one for each composition of a server.

What depends on the server is made here: the HTTP engine and the mux of tunnels, the entrance to them, and the doors. What does not depend
on it is made by the `Proxy`, once, and shared: rules, upstream connections, leaves, flows.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from muxwsgi.events import Events
from muxwsgi.http.environ import WSGIApplication
from muxwsgi.http.h1.h1 import HTTP1
from muxwsgi.http.h2.h2 import HTTP2
from muxwsgi.mux.mux import Mux
from muxwsgi.mux.route import Route
from muxwsgi.proxy.certificates.leaf_contexts import LeafContexts
from muxwsgi.proxy.certificates.passthrough import PassThrough
from muxwsgi.proxy.doors.access import Access
from muxwsgi.proxy.doors.http import ENTRANCE
from muxwsgi.proxy.doors.socks import SocksDoor
from muxwsgi.proxy.doors.transparent import TransparentDoor, Way
from muxwsgi.proxy.rules.rules import Rules
from muxwsgi.proxy.tunnel.entrance import Entrance
from muxwsgi.proxy.tunnel.relays import Relays
from muxwsgi.proxy.tunnel.tunnels import Tunnels
from muxwsgi.proxy.upstream.upstreams import Upstreams
from muxwsgi.records.recorder import Recorder
from muxwsgi.settings import HTTP2Settings, HTTPSettings

if TYPE_CHECKING:
    from muxwsgi.proxy.settings import ProxySettings
    from muxwsgi.wire.connection import Address

__all__ = ["ServedProxy", "Shared"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Shared:
    """What a proxy has once, for all servers that it is served in."""

    settings: "ProxySettings"
    rules: Rules
    access: Access
    passthrough: PassThrough
    leaf_contexts: LeafContexts
    upstreams: Upstreams
    recorder: Recorder
    hijackers: tuple[Route, ...]

    @property
    def may_intercept(self) -> bool:
        """Whether a tunnel may be intercepted, so that a CA is needed."""
        return self.settings.default_action == "mitm" or self.rules.may_intercept


class ServedProxy:
    """A WSGI application: the proxy's, told in which server it is.

    engines     serve HTTP inside of tunnels
    mux         what is asked inside of tunnels
    addresses   gives (host, port) of each listening socket of the server
    """

    def __init__(
        self,
        shared: Shared,
        application: WSGIApplication,
        http: HTTPSettings,
        http2: HTTP2Settings,
        hijackers: Iterable[Route],
        addresses: Callable[[], list[tuple[str, int]]],
        events: Events | None = None,
        *,
        on_start: Callable[["ServedProxy"], None],
        on_close: Callable[["ServedProxy"], None],
    ) -> None:
        """`application` is the proxy's. `on_start` and `on_close` tell the proxy when the server starts, and when it has ended."""
        self.addresses = addresses
        self._shared = shared
        self._application = application
        self._on_start = on_start
        self._on_close = on_close
        http = replace(http, server_header="")
        http1 = HTTP1(self, http, events=events)
        served_http2 = HTTP2(self, http, http2, events=events) if http2.http2 == "on" else None
        self.engines: list[HTTP1 | HTTP2] = [http1] if served_http2 is None else [http1, served_http2]
        own = {route.name for route in shared.hijackers}
        relays = Relays(shared.settings, shared.rules, shared.upstreams, shared.recorder)
        tunnels = Tunnels(
            shared.settings,
            shared.rules,
            shared.upstreams,
            shared.recorder,
            http1,
            served_http2,
            shared.leaf_contexts.offering,
            shared.passthrough,
            [*shared.hijackers, *(route for route in hijackers if route.name not in own)],
            relays,
            events,
        )
        self.mux: Mux = tunnels.mux
        self.entrance = Entrance(shared.settings, shared.rules, shared.upstreams, shared.recorder, tunnels, relays)

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Callable[[bytes], None]]) -> Iterable[bytes]:
        environ[ENTRANCE] = self.entrance
        return self._application(environ, start_response)

    def check(self, address: "Address", *, transparent: bool) -> None:
        """Whether the proxy may be served at `address`, as `getsockname` has it. Raises `OperatorError` where it would be open to all, and
        where it needs a CA and has none."""
        self._shared.access.check_bind(address, can_ask=not transparent)
        if self._shared.may_intercept:
            self._shared.leaf_contexts.offering(self.mux.alpn)

    def front_routes(self) -> list[Route]:
        """The routes that are asked beside HTTP of connections to the proxy: SOCKS."""
        return SocksDoor(self._shared.access, self.entrance.open, self._shared.settings.handshake_timeout).routes()

    def transparent_door(self, way: Way, listening: "Address") -> TransparentDoor:
        """The handler for connections that the kernel brings to a bind that listens at `listening` (`getsockname`)."""
        return TransparentDoor(self._shared.access, self.entrance.open, way, listening)

    def start(self) -> None:
        """The server starts. Idempotent."""
        self._on_start(self)

    def close(self) -> None:
        """The last connection of the server has ended. Idempotent."""
        self._on_close(self)
