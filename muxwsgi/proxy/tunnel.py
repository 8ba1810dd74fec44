"""What runs inside of tunnels. One inner `Mux` serves all tunnels of a proxy, and asks again behind each layer of TLS:

    the tunnel's first bytes -+-> TLS: a leaf for the server name, the handshake, and the same question at the decrypted bytes
                              +-> HTTP/1: the proxy's own WSGI application, rules and all
                              +-> a hijacker's protocol: that hijacker, which finds `connection.destination` and `connection.tunnel`
                              +-> anything else, or silence: relayed to the destination, encrypted again where it came encrypted

Nothing here looks at a port number.
"""

import logging
import math
from collections.abc import Callable, Iterable
from time import monotonic
from typing import TYPE_CHECKING

from cryptography import x509

from muxwsgi.errors import Expired, HandshakeError, OperatorError, PeerError
from muxwsgi.http.h1 import HTTP1
from muxwsgi.mux import client_hello, matchers
from muxwsgi.mux.client_hello import ClientHello
from muxwsgi.mux.match import Match
from muxwsgi.mux.mux import Mux
from muxwsgi.mux.route import Route
from muxwsgi.proxy.certificates.leaf_context import LeafContext
from muxwsgi.proxy.certificates.leaves import MintingFailed
from muxwsgi.proxy.certificates.passthrough import PassThrough
from muxwsgi.proxy.context import ClientTLS, Context, Layer
from muxwsgi.proxy.fault import Fault
from muxwsgi.proxy.flow import Flow
from muxwsgi.proxy.recorder import Recorder, address_text
from muxwsgi.proxy.rules.actions import CONTINUE, Accept, Hijack, Mitm, Refused, Reject
from muxwsgi.proxy.rules.place import canonical_host, split_host_port
from muxwsgi.proxy.rules.rules import Rules
from muxwsgi.proxy.streams.inspected import relay_inspected
from muxwsgi.proxy.upstream.upstreams import Endpoint, Upstreams

if TYPE_CHECKING:
    from muxwsgi.proxy.settings import ProxySettings
    from muxwsgi.wire.connection import Connection

__all__ = ["Tunnels"]

log = logging.getLogger("muxwsgi.proxy")

#: Asked first: the six bytes that begin a ClientHello are nobody else's.
TLS_FIRST = 1 << 30


class Tunnels:
    """Serves the inside of tunnels, whose connections have a `Context` as `connection.tunnel`."""

    def __init__(
        self,
        settings: "ProxySettings",
        rules: Rules,
        upstreams: Upstreams,
        recorder: Recorder,
        engine: HTTP1,
        leaves: Callable[[tuple[str, ...]], LeafContext],
        passthrough: PassThrough,
        hijackers: Iterable[Route],
    ) -> None:
        """`leaves` gives the context to serve TLS with that offers the protocol ids it is given. It may raise `OperatorError`, which ends
        the connection."""
        self._settings = settings
        self._rules = rules
        self._upstreams = upstreams
        self._recorder = recorder
        self._leaves = leaves
        self._passthrough = passthrough
        relayed = Route("relay", matchers.never, self.relay)
        tls = Route("tls", matchers.tls, self._serve_tls, priority=TLS_FIRST)
        self.mux = Mux(
            [
                tls,
                Route("http", matchers.http1, engine, alpn=("http/1.1",)),
                *hijackers,
            ],
            name="tunnel",
            fallback=relayed,
            silence=relayed,
            sniff_timeout=settings.sniff_timeout,
        )
        # Where somebody wants to look behind TLS, what is there is known to be that only when no TLS comes.
        open_to_see = Route("after", matchers.never, self._look_after)
        self._before_after = Mux(
            [tls], name="tunnel, TLS or not", fallback=open_to_see, silence=open_to_see, sniff_timeout=settings.sniff_timeout
        )

    def look(self, connection: "Connection", ctx: Context, action: Mitm) -> None:
        """Serve what runs in the tunnel, with TLS taken off."""
        ctx.action = action
        if action.before is not None and action.before(connection, ctx) is not CONTINUE:
            return
        if action.after is not None:
            self._before_after(connection)
        else:
            self.mux(connection)

    def _look_after(self, connection: "Connection") -> None:
        """What is inside, to whom wants to see it, and on where that one lets it."""
        action = connection.tunnel.action
        after = action.after if isinstance(action, Mitm) else None
        if after is None or after(connection, connection.tunnel) is CONTINUE:
            self.mux(connection)

    # TLS

    def _serve_tls(self, connection: "Connection") -> None:
        """The server's side of TLS, in the name of whom the client wanted. Raises `HandshakeError` and what happens inside."""
        ctx: Context = connection.tunnel
        assert ctx.destination is not None  # there is no tunnel to nowhere
        host = ctx.destination[0]

        # 1. Whom does the client want?
        connection.deadline = monotonic() + self._settings.handshake_timeout
        hello = _client_hello(connection)
        if hello is not None:
            ctx.tls = ClientTLS(hello)
        name = (hello.sni if hello is not None else None) or host

        # 2. A name that was not known before: the rules are asked about it too.
        if canonical_host(name) != canonical_host(host) and self._decided_by_name(name, connection, ctx):
            return

        # 3. Some are not looked into.
        if self._passthrough.covers(name) or self._passthrough.covers(host):
            connection.deadline = math.inf
            connection.trace.append(f"TLS for {name} is passed through")
            self.relay(connection)
            return

        # 4. The handshake, with a leaf that is minted before it. A hello that we cannot read is OpenSSL's to judge.
        offered = self.mux.alpn
        if hello is not None and hello.alpn and not set(hello.alpn) & set(offered):
            offered = self._agreed_upstream(ctx, name, hello.alpn)
        try:
            like = self._names_of_upstream(ctx, name) if self._settings.mimic else None
            side = self._leaves(offered).for_host(name, () if name == host else (host,), like)
        except (ValueError, MintingFailed) as error:
            raise PeerError(400, f"there is no leaf for {name!r}: {error}") from error
        except OperatorError as error:
            log.error("TLS for %s cannot be looked into: %s", name, error)
            connection.trace.append("there is no CA to mint a leaf with: closed")
            return
        try:
            inside = connection.start_tls(side)
        except HandshakeError as error:
            if self._passthrough.rejected(name, str(error)):
                log.warning("clients do not take our certificate for %s: its TLS is passed through from now on", name)
            raise
        inside.deadline = math.inf
        ctx.connection = inside
        tls = inside.tls
        ctx.layers = (*ctx.layers, Layer(name, (tls.alpn,) if tls is not None and tls.alpn else ()))
        if tls is not None:
            inside.trace.append(f"{tls.version}, server name {tls.sni or 'none'}, ALPN {tls.alpn or 'none'}")

        # 5. The same question at the decrypted bytes.
        self._look_after(inside)

    def _decided_by_name(self, name: str, connection: "Connection", ctx: Context) -> bool:
        """What rules say of a tunnel once its server name is known (transparent clients, and those that resolve names themselves, give
        us an address). Whether the connection was served by it."""
        assert ctx.destination is not None
        said, goes_to = self._rules.connect(address_text((name, ctx.destination[1])), ctx)
        if said is None:
            return False
        connection.deadline = math.inf
        if isinstance(said, Reject):
            raise PeerError(403, f"a rule refuses {name}")
        if goes_to != address_text((name, ctx.destination[1])):
            host, port = split_host_port(goes_to)
            assert port is not None  # `Rules` has looked
            ctx.destination = connection.destination = (host, port)
        ctx.action = said
        if isinstance(said, Hijack):
            said.handler(connection, ctx)
            return True
        if isinstance(said, Accept):
            self.relay(connection)
            return True
        return False

    def _agreed_upstream(self, ctx: Context, name: str, offered: tuple[str, ...]) -> tuple[str, ...]:
        """What the server agrees on with a client that offers nothing we speak, HTTP/2 alone for example: what is relayed has to be what
        the server speaks. Empty where it agrees on nothing, or cannot be asked."""
        assert ctx.destination is not None
        try:
            upstream = self._upstreams.stream(Endpoint(*ctx.destination, (*ctx.layers, Layer(name, offered))), ctx)
        except Fault as fault:
            log.debug("%s cannot be asked which protocol it speaks: %s", name, fault)
            return ()
        agreed = upstream.tls.alpn if upstream.tls is not None else None
        upstream.finish()
        return () if agreed is None else (agreed,)

    def _names_of_upstream(self, ctx: Context, name: str) -> x509.Certificate | None:
        """The certificate of the server, whose names the leaf is to have; None where it cannot be had: then there is nothing to be like."""
        assert ctx.destination is not None
        try:
            upstream = self._upstreams.stream(Endpoint(*ctx.destination, (*ctx.layers, Layer(name))), ctx)
        except Fault as fault:
            log.debug("no certificate of %s to take the names of: %s", name, fault)
            return None
        certificate = upstream.tls.peer_certificate if upstream.tls is not None else None
        upstream.finish()
        return certificate

    # Anything else

    def relay(self, connection: "Connection") -> None:
        """Carry the bytes to the destination and back, through the chunk hooks."""
        ctx: Context = connection.tunnel
        flow = self._recorder.begin("raw", ctx, connection)
        try:
            assert ctx.destination is not None
            upstream = self._upstreams.stream(Endpoint(*ctx.destination, ctx.layers), ctx)
        except Fault as fault:
            ctx.error = fault
            connection.trace.append(f"relay: {fault.reason}")
            self._recorder.end(flow, ctx, fault.reason)
            log.debug("%r: %s", connection, fault)
            return
        except BaseException as error:
            self._recorder.end(flow, ctx, repr(error))
            raise
        self.relay_to(connection, upstream, ctx, flow)

    def relay_to(self, connection: "Connection", upstream: "Connection", ctx: Context, flow: Flow | None) -> None:
        """The same to an `upstream` that is there already, which is closed at the end."""
        reason: str | None = None
        try:
            result = relay_inspected(connection, upstream, ctx, self._rules.chunk_hooks(ctx), self._settings.tunnel_idle_timeout)
            reason = None if result.error is None else str(result.error)
            connection.trace.append(f"relayed: {result.forth} bytes there, {result.back} back" + (f", ended by {reason}" if reason else ""))
        except Refused as refused:
            reason = str(refused)
            connection.trace.append(f"relay: refused: {reason}")
            log.info("%r to %s: refused by a rule: %s", connection, ctx.destination, reason)
        except BaseException as error:
            reason = repr(error)
            raise
        finally:
            upstream.finish()
            self._recorder.end(flow, ctx, reason)


def _client_hello(connection: "Connection") -> ClientHello | None:
    """The ClientHello that the first bytes begin, left in the stream; None where we cannot read it."""
    seen = 0
    try:
        while True:
            data = connection.peek_beyond(seen, client_hello.MAX_LENGTH)
            found = client_hello.parse(data)
            if isinstance(found, ClientHello):
                return found
            if found is Match.NO or len(data) <= seen:
                return None
            seen = len(data)
    except Expired:
        raise PeerError(408, "the ClientHello came too late") from None
    finally:
        connection.settle()
