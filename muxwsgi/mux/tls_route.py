"""The route that peels TLS off and asks again, at the decrypted bytes."""

import math
from time import monotonic
from typing import TYPE_CHECKING

from muxwsgi.mux import matchers
from muxwsgi.mux.matchers import Matcher
from muxwsgi.mux.mux import Mux
from muxwsgi.mux.route import Route
from muxwsgi.settings import HANDSHAKE_TIMEOUT

if TYPE_CHECKING:
    from muxwsgi.wire.connection import Connection
    from muxwsgi.wire.tls.server_context import ServerContext

__all__ = ["TLSHandler", "tls_route"]


class TLSHandler:
    """Does the handshake as server and hands the connection inside to a mux. `inner` is that mux: `explain`
    looks into it.
    """

    def __init__(self, context: "ServerContext", inner: Mux, handshake_timeout: float) -> None:
        self.context = context
        self.inner = inner
        self.handshake_timeout = handshake_timeout

    def __call__(self, connection: "Connection") -> None:
        """Raises `HandshakeError`, `Expired` when the handshake takes too long, and whatever `inner` raises.
        """
        connection.deadline = min(connection.deadline, monotonic() + self.handshake_timeout)
        inside = connection.start_tls(self.context)
        inside.deadline = math.inf
        tls = inside.tls
        if tls is not None:
            inside.trace.append(f"{tls.version}, server name {tls.sni or 'none'}, ALPN {tls.alpn or 'none'}")
        self.inner(inside)

    def __repr__(self) -> str:
        return f"<TLS, then {self.inner!r}>"


def tls_route(
    context: "ServerContext",
    inner: Mux,
    handshake_timeout: float = HANDSHAKE_TIMEOUT,
    *,
    name: str = "tls",
    match: Matcher = matchers.tls,
    priority: int = 0,
) -> Route:
    """A route for TLS with `context`, whose decrypted stream `inner` decides on.

    `handshake_timeout` is in seconds. The context should offer `inner.alpn`. `match` may be narrower, such as
    `sni_is("example.com")`.
    """
    return Route(name, match, TLSHandler(context, inner, handshake_timeout), priority=priority, takes_late=True)
