"""The route that does the TLS handshake and asks an inner mux about the decrypted bytes."""

import math
from time import monotonic
from typing import TYPE_CHECKING

from muxwsgi.errors import PeerError
from muxwsgi.mux.matchers import Matcher
from muxwsgi.mux.mux import Mux
from muxwsgi.mux.route import FIRST, Route
from muxwsgi.protocols.tls import ClientHello, parse_client_hello, tls
from muxwsgi.settings.tls import HANDSHAKE_TIMEOUT

if TYPE_CHECKING:
    from muxwsgi.mux.explain import Opening
    from muxwsgi.wire.connection import Connection
    from muxwsgi.wire.tls.server_context import ServerContext

__all__ = ["TLSHandler", "tls_route", "unreadable_hello"]

#: A fatal alert: decode_error (RFC 8446 section 6).
_DECODE_ERROR = b"\x15\x03\x03\x00\x02\x02\x32"

_VERSIONS = {0x0300: "SSL 3.0", 0x0301: "TLS 1.0", 0x0302: "TLS 1.1", 0x0303: "TLS 1.2", 0x0304: "TLS 1.3"}


class TLSHandler:
    """Does the handshake as server and hands the connection inside to the mux `inner`. It is a `LayerHandler` for `explain`."""

    def __init__(self, context: "ServerContext", inner: Mux, handshake_timeout: float) -> None:
        self.context = context
        self.inner = inner
        self.handshake_timeout = handshake_timeout

    def __call__(self, connection: "Connection") -> None:
        """Raises `HandshakeError`, `Expired` when the handshake takes too long, and the errors of `inner`.
        """
        connection.deadline = min(connection.deadline, monotonic() + self.handshake_timeout)
        inside = connection.start_tls(self.context)
        inside.deadline = math.inf
        agreed = inside.tls
        if agreed is not None:
            inside.trace.append(f"{agreed.version}, server name {agreed.sni or 'none'}, ALPN {agreed.alpn or 'none'}")
        self.inner(inside)

    def opening(self, data: bytes) -> "Opening":
        """What the ClientHello says that `data` begins with."""
        from muxwsgi.mux.explain import Opening, listed  # no server explains

        hello = parse_client_hello(data)
        if not isinstance(hello, ClientHello):
            return Opening("TLS", "Inside TLS: the bytes hold no complete ClientHello, so its server name and ALPN are not known.")
        versions = [_VERSIONS[version] for version in hello.versions if version in _VERSIONS]
        return Opening("TLS", f"ClientHello: server name {hello.sni or 'none'}; ALPN {listed(hello.alpn)}; {listed(versions)}", hello.alpn)

    def __repr__(self) -> str:
        return f"<TLS, then {self.inner!r}>"


def tls_route(
    context: "ServerContext",
    inner: Mux,
    handshake_timeout: float = HANDSHAKE_TIMEOUT,
    *,
    name: str = "tls",
    match: Matcher = tls,
    priority: int = 0,
) -> Route:
    """A route for TLS with `context`, whose decrypted stream `inner` decides on.

    `handshake_timeout` is in seconds. The context should offer `inner.alpn`. `match` may be narrower, such as
    `sni_is("example.com")`.
    """
    return Route(name, match, TLSHandler(context, inner, handshake_timeout), priority=priority, takes_late=True, is_stream=False)


def unreadable_hello(match: Matcher) -> Route:
    """The route behind a `tls_route` for complete ClientHellos: it refuses what `match` takes for TLS besides. OpenSSL accepts some
    ClientHellos that are not read here, such as one in many records, and one may come more slowly than the mux waits. If they were
    served, a client could choose whether the routes by its server name are asked."""
    return Route("unreadable ClientHello", match, _refuse, priority=FIRST, is_stream=False)


def _refuse(connection: "Connection") -> None:
    connection.sendall(_DECODE_ERROR)
    raise PeerError(400, "the ClientHello is not complete or not well-formed, and routes of this bind look at it")
