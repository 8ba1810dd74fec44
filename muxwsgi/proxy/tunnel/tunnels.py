"""Intercepts tunnels. One inner `Mux` serves all tunnels of a proxy, and detects the protocol again inside each layer of TLS:

    the tunnel's first bytes -+-> TLS: a handshake with a leaf for the server name, then the same detection on the decrypted bytes
                              +-> HTTP: the proxy's WSGI application, with the rules
                              +-> a hijacker's protocol: that hijacker, which finds `connection.destination` and `connection.tunnel`
                              +-> anything else, or silence: relayed to the destination, encrypted again if it came encrypted

Port numbers are never used. A client cannot bypass the rules by waiting either: a stream whose first bytes come slowly is relayed, but
detection continues on it. If the client is silent, detection starts with its first bytes, unless the server speaks first.
"""

import logging
import math
from collections.abc import Callable, Iterable
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING

import gevent

from muxwsgi.errors import HandshakeError, OperatorError, PeerError
from muxwsgi.events import Events
from muxwsgi.http.h1.h1 import HTTP1
from muxwsgi.http.h2.h2 import HTTP2
from muxwsgi.mux.match import Match
from muxwsgi.mux.matchers import never
from muxwsgi.mux.mux import MAX_DEPTH, Mux
from muxwsgi.mux.route import FIRST, LAST, Route
from muxwsgi.names import address_text, comparable, split_host_port
from muxwsgi.protocols.http1 import FirstLine, http_last, http_route, nearly_http
from muxwsgi.protocols.http2 import PROTOCOL as HTTP2_PROTOCOL
from muxwsgi.protocols.http2 import http2_preface, http2_route
from muxwsgi.protocols.tls import nearly_tls, tls
from muxwsgi.proxy.certificates.leaf_context import LeafContext
from muxwsgi.proxy.certificates.leaves import MintingFailed
from muxwsgi.proxy.certificates.passthrough import CERTIFICATE_ALERTS, PassThrough, alert
from muxwsgi.proxy.context import Context, Layer
from muxwsgi.proxy.rules.actions import CONTINUE, Accept, Action, Hijack, Mitm, Reject
from muxwsgi.proxy.rules.rules import Rules
from muxwsgi.proxy.streams.first_speaker import Speaker, first_to_speak, has_spoken_within, patience, says_something
from muxwsgi.proxy.streams.watches import NoRequest, SlowStart
from muxwsgi.proxy.tunnel.hello import peek_client_hello, refuse_lookalike
from muxwsgi.proxy.tunnel.probe import Probe
from muxwsgi.proxy.tunnel.relays import Relays
from muxwsgi.proxy.upstream.endpoint import Endpoint
from muxwsgi.proxy.upstream.upstreams import Upstreams
from muxwsgi.records.fingerprint import ClientTLS
from muxwsgi.records.flow import Flow
from muxwsgi.records.recorder import Recorder

if TYPE_CHECKING:
    from muxwsgi.proxy.rules.rule import ChunkFunction
    from muxwsgi.proxy.settings import ProxySettings
    from muxwsgi.wire.connection import Connection
    from muxwsgi.wire.tls.server_context import ServerSide

__all__ = ["Tunnels"]

log = logging.getLogger("muxwsgi.proxy")

ALPN_HTTP2 = HTTP2_PROTOCOL.alpn


class Tunnels:
    """Serves intercepted tunnels. Their connections have a `Context` as `connection.tunnel`."""

    def __init__(
        self,
        settings: "ProxySettings",
        rules: Rules,
        upstreams: Upstreams,
        recorder: Recorder,
        engine: HTTP1,
        http2: HTTP2 | None,
        leaves: Callable[[tuple[str, ...]], LeafContext],
        passthrough: PassThrough,
        hijackers: Iterable[Route],
        relays: Relays,
        events: Events | None = None,
    ) -> None:
        """`http2` is None if HTTP/2 is not served. `leaves` returns the TLS context that offers the given ALPN ids. It may raise
        `OperatorError`, which ends the connection."""
        self._settings = settings
        self._rules = rules
        self._upstreams = upstreams
        self._recorder = recorder
        self._engine = engine
        self._leaves = leaves
        self._passthrough = passthrough
        self._relays = relays
        self._probe = Probe(upstreams)
        relayed = Route("relay", never, self._relay_unmatched)
        silent = Route("relay", never, self._relay_silent)
        first = Route("tls", tls, self._serve_tls, priority=FIRST, is_stream=False)  # no other protocol begins with its six bytes
        self.mux = Mux(
            [
                first,
                *(() if http2 is None else (http2_route(http2),)),
                http_route(engine),
                *hijackers,
                # Last, because the matcher of a hijacker knows its protocol better.
                Route("nearly tls", nearly_tls, refuse_lookalike, priority=LAST, is_stream=False),
                Route("http/2", http2_preface, self._refuse_or_relay, priority=LAST),
                Route("nearly http", self._nearly_http, engine, priority=LAST, is_stream=False),
                http_last(engine, fallback=True),
            ],
            name="tunnel",
            events=events,
            fallback=relayed,
            silence=silent,
            sniff_timeout=settings.sniff_timeout,
        )

    def intercept(self, connection: "Connection", ctx: Context, action: Mitm) -> None:
        """Decrypt the tunnel, and serve the protocol inside."""
        ctx.action = action
        ctx.server_side = partial(self._server_side, ctx)
        ctx.mux = self._ask
        if action.before is not None and action.before(connection, ctx) is not CONTINUE:
            return
        try:
            self._ask(connection)
        finally:
            self._upstreams.drop_early(ctx)

    def _ask(self, connection: "Connection") -> None:
        """Let the mux detect the protocol of a client that sends bytes. While the client is silent, connect to its destination, in case the
        server speaks first. The connection serves the first request or relay."""
        ctx: Context = connection.tunnel
        mux = self.mux
        if connection.depth >= MAX_DEPTH or _is_agreed(connection, mux) or has_spoken_within(connection, patience(connection)):
            mux(connection)
            return
        early = self._dial_early(connection, ctx)
        if early is None:
            mux(connection)
            return
        match first_to_speak(connection, early, self._settings.tunnel_idle_timeout):
            case Speaker.CLIENT:
                mux(connection)
            case Speaker.SERVER:
                connection.trace.append(f"mux {mux.name!r}: the server speaks first")
                self._relay_silent(connection)
            case Speaker.NEITHER:
                self._relays.end_idle(connection, ctx, ctx.record(self._recorder, "raw", connection))

    def _dial_early(self, connection: "Connection", ctx: Context) -> "Connection | None":
        """Connect to the destination while the client is silent. None if the client speaks before, or if connecting fails."""
        assert ctx.destination is not None
        endpoint = Endpoint(*ctx.destination, ctx.layers)
        dialling = gevent.spawn(self._upstreams.dial_early, endpoint, ctx)
        listening = gevent.spawn(says_something, connection)
        try:
            gevent.wait([dialling, listening], count=1)
        finally:
            gevent.killall([dialling, listening])
            connection.settle()
        return self._upstreams.early_connection(ctx)

    def _look_after(self, connection: "Connection") -> None:
        """Call the action's `after` with the connection inside a layer of TLS. Continue if it returns `CONTINUE`."""
        action = connection.tunnel.action
        after = action.after if isinstance(action, Mitm) else None
        if after is None or after(connection, connection.tunnel) is CONTINUE:
            self._ask(connection)

    # TLS

    def _serve_tls(self, connection: "Connection") -> None:
        """Decrypt TLS, with a certificate for the host that the client asked for. Raises `HandshakeError`, and errors from inside."""
        ctx: Context = connection.tunnel
        assert ctx.destination is not None  # every tunnel has one
        host = ctx.destination[0]

        # 1. Which host does the client ask for?
        connection.deadline = monotonic() + self._settings.handshake_timeout
        hello = peek_client_hello(connection)
        if hello is not None:
            ctx.tls = ClientTLS(hello)
        name = (hello.sni if hello is not None else None) or host

        # 2. If the server name differs from the host, the rules decide about it too.
        if comparable(name) != comparable(host):
            action, goes_to = self._rules.connect(address_text((name, ctx.destination[1])), ctx)
            if action is not None and self._decided_by_name(name, action, goes_to, connection, ctx):
                return

        # 3. Some hosts are exempt from interception.
        if self._passthrough.covers(host) or self._passthrough.covers(name):
            connection.deadline = math.inf
            if not self._passthrough.covers(host):
                _connect_by_name(name, connection, ctx)
            connection.trace.append(f"TLS for {name} is passed through")
            self._relays.relay(connection)
            return

        # 4. The handshake, with a leaf that is minted before it. OpenSSL handles a hello that cannot be parsed here.
        offered = self.mux.alpn
        probed = hello is not None and bool(hello.alpn) and not set(hello.alpn) & set(offered)
        if probed:
            assert hello is not None
            offered = self._probe.agreed_alpn(ctx, name, hello.alpn)
        try:
            like = self._probe.certificate(ctx, name) if self._settings.mimic else None
            side = self._leaves(offered).for_host(name, () if name == host else (host,), like)
        except (ValueError, MintingFailed) as error:
            raise PeerError(400, f"no leaf can be minted for {name!r}: {error}") from error
        except OperatorError as error:
            log.error("TLS for %s cannot be intercepted: %s", name, error)
            connection.trace.append("closed, because there is no CA to mint a leaf with")
            return
        try:
            inside = connection.start_tls(side)
        except HandshakeError as error:
            self._recorder.end(ctx.record(self._recorder, "connect", connection), f"the client's {error.strerror}")
            refusal = alert(str(error))
            if refusal in CERTIFICATE_ALERTS:
                log.info(
                    "%s does not trust the proxy's certificate for %s (%s): install the proxy's CA there (/ca.pem of this proxy, or"
                    " `muxwsgi ca show`), or do not intercept the host's TLS (--passthrough %s)",
                    address_text(connection.client),
                    name,
                    refusal,
                    name,
                )
            if self._passthrough.rejected(name, str(error)):
                log.warning("clients refuse the proxy's certificate for %s: its TLS is passed through from now on", name)
            raise
        inside.deadline = math.inf
        ctx.connection = inside
        agreed = inside.tls
        protocol = agreed.alpn if agreed is not None else None
        if protocol in ALPN_HTTP2 and not probed:
            protocol = "http/1.1"  # what the server speaks is found out by the first request, and requests are translated
        ctx.layers = (*ctx.layers, Layer(name, (protocol,) if protocol else ()))
        if agreed is not None:
            inside.trace.append(f"{agreed.version}, server name {agreed.sni or 'none'}, ALPN {agreed.alpn or 'none'}")

        # 5. The same detection on the decrypted bytes.
        self._look_after(inside)

    def _server_side(self, ctx: Context) -> "ServerSide":
        """TLS for a hijacker's STARTTLS, with a leaf for the tunnel's host. Raises `OperatorError` without a CA."""
        assert ctx.destination is not None
        return self._leaves(()).for_host(ctx.destination[0])

    def _decided_by_name(self, name: str, action: Action, goes_to: str, connection: "Connection", ctx: Context) -> bool:
        """Perform the action that rules decided for the server name. Transparent clients, and those that resolve names themselves, connect
        to an address, so the name is known only now. Returns whether the connection was served. If not, it is to be intercepted."""
        assert ctx.destination is not None
        connection.deadline = math.inf
        if isinstance(action, Reject):
            raise PeerError(403, f"a rule refuses {name}")
        if goes_to != address_text((name, ctx.destination[1])):
            host, port = split_host_port(goes_to)
            assert port is not None  # `Rules` has checked
            ctx.destination = connection.destination = (host, port)
        ctx.action = action
        if isinstance(action, Hijack):
            action.handler(connection, ctx)
            return True
        if isinstance(action, Accept):
            if goes_to == address_text((name, ctx.destination[1])):
                _connect_by_name(name, connection, ctx)
            self._relays.relay(connection)
            return True
        return False

    # Anything else

    @property
    def _requests_are_judged(self) -> bool:
        return self._rules.has_http_rules

    def _nearly_http(self, data: bytes) -> Match:
        """Bytes that some servers accept as HTTP. Without rules for HTTP, no check is needed."""
        return nearly_http(data) if self._requests_are_judged else Match.NO

    def _refuse_or_relay(self, connection: "Connection") -> None:
        """HTTP/2 that is not served (`--http2 off`). It is relayed, so rules see no requests: if there are any for HTTP, it is refused."""
        if self._requests_are_judged:
            self._engine(connection)  # 505
        else:
            self._relays.relay(connection)

    def _relay_unmatched(self, connection: "Connection") -> None:
        """Relay a stream that no route matched, or none in time. Slow bytes may still become TLS, HTTP or a hijacker's protocol. They are
        relayed until that is detected, and the stream is refused then. So is a stream that some servers accept as a request."""
        try:
            begun = connection.peek_beyond(0, self.mux.peek_limit)
        finally:
            connection.settle()
        watches: list[ChunkFunction] = []
        if self._requests_are_judged:
            if FirstLine().is_request(begun):
                self._engine(connection)  # sends the error response
                return
            watches.append(NoRequest())
        if self.mux.decide(begun) is None:
            watches.append(SlowStart(self.mux))
        self._relays.relay(connection, watches)

    def _relay_silent(self, connection: "Connection") -> None:
        """The client is silent. If the server speaks first, relay. If the client speaks first, detect its protocol."""
        ctx: Context = connection.tunnel
        flow = ctx.record(self._recorder, "raw", connection)
        upstream = self._relays.open(connection, ctx, flow)
        if upstream is None:
            return
        try:
            first = first_to_speak(connection, upstream, self._settings.tunnel_idle_timeout)
        except BaseException as error:
            upstream.finish()
            self._recorder.end(flow, repr(error))
            raise
        if first is Speaker.CLIENT:
            upstream.finish()
            self._recorder.end(flow, "the client spoke before the server did, and its protocol was detected")
            self.mux(connection)
        elif first is Speaker.NEITHER:
            upstream.finish()
            self._relays.end_idle(connection, ctx, flow)
        else:
            self._relays.relay_to(connection, upstream, ctx, flow, (NoRequest(),) if self._requests_are_judged else ())

    def relay_by_name(self, connection: "Connection", upstream: "Connection", ctx: Context, flow: Flow | None) -> None:
        """Relay a tunnel for whose host no rule has decided. The rules also decide about its server name, which is read without
        interception. Otherwise a client could bypass a rule for a name by connecting to its address, or to another name of it."""
        try:
            client_first = first_to_speak(connection, upstream, self._settings.tunnel_idle_timeout) is Speaker.CLIENT
            name = self._server_name(connection, ctx) if client_first else None
            assert ctx.destination is not None
            if name is not None and comparable(name) == comparable(ctx.destination[0]):
                name = None  # the rules have decided about it
            action, goes_to = (None, "") if name is None else self._rules.connect(address_text((name, ctx.destination[1])), ctx)
        except BaseException as error:
            upstream.finish()
            self._recorder.end(flow, repr(error))
            raise
        if name is None or action is None:
            self._relays.relay_to(connection, upstream, ctx, flow)
            return
        upstream.finish()
        self._recorder.end(flow, f"the rules decide by the server name {name}")
        if not self._decided_by_name(name, action, goes_to, connection, ctx) and isinstance(action, Mitm):
            self.intercept(connection, ctx, action)

    def _server_name(self, connection: "Connection", ctx: Context) -> str | None:
        connection.deadline = monotonic() + self._settings.handshake_timeout
        hello = peek_client_hello(connection)
        if hello is None and nearly_tls(connection.peek_beyond(0, self.mux.peek_limit)) is Match.YES:
            refuse_lookalike(connection)
        connection.deadline = math.inf
        if hello is None:
            return None
        ctx.tls = ClientTLS(hello)
        return hello.sni


def _is_agreed(connection: "Connection", mux: Mux) -> bool:
    """Whether ALPN has selected the protocol inside."""
    parent = connection.parent
    return connection.tls is not None and connection.tls.alpn in mux.alpn and parent is not None and connection.depth == parent.depth


def _connect_by_name(name: str, connection: "Connection", ctx: Context) -> None:
    """Set the tunnel's destination to its server name. That name exempted it from interception, but a client can send any name. So the
    tunnel goes to that host, and not to the original destination."""
    assert ctx.destination is not None
    ctx.destination = connection.destination = (name, ctx.destination[1])
