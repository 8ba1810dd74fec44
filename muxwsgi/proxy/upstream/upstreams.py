"""`Upstreams`: connections to upstreams, from the pool or dialled, plain or TLS, directly or through another proxy.

It translates the errors of a dial to the proxy's `Fault`.
"""

import logging
from dataclasses import replace
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING
from weakref import WeakSet

import gevent
from gevent.event import Event

from muxwsgi.dial.dialer import Dialer
from muxwsgi.dial.errors import DialError
from muxwsgi.dial.upstream_proxy import DIRECT, UpstreamProxy
from muxwsgi.http.client.connection import BODIES, ClientConnection, ClientSettings
from muxwsgi.http.client.h2_exchange import StreamExchange
from muxwsgi.http.client.h2_session import ClientSession
from muxwsgi.http.client.pool import Pool
from muxwsgi.names import address_text
from muxwsgi.proxy.context import Context, Layer
from muxwsgi.proxy.fault import Fault, Phase
from muxwsgi.proxy.upstream.early_stream import EarlyStream
from muxwsgi.proxy.upstream.endpoint import Endpoint
from muxwsgi.proxy.upstream.tls import UpstreamTLS
from muxwsgi.proxy.via import Via
from muxwsgi.settings import HTTP2Settings
from muxwsgi.wire.connection import Connection
from muxwsgi.wire.sweeper import Sweeper

if TYPE_CHECKING:
    from muxwsgi.proxy.settings import ProxySettings

__all__ = ["Client", "Upstreams"]

#: What one exchange is on.
Client = ClientConnection | StreamExchange

log = logging.getLogger("muxwsgi.proxy")


class Upstreams:
    """Returns connections for endpoints: from the pool, or new ones."""

    def __init__(
        self, settings: "ProxySettings", dialer: Dialer, pool: Pool, sweeper: Sweeper, tls: UpstreamTLS, via: Via
    ) -> None:
        """`sweeper` enforces the deadlines of connections that rules make. `via` is the proxy's entry in the Via field."""
        self._sweeper = sweeper
        self._settings = settings
        self._dialer = dialer
        self._pool = pool
        self._tls = tls
        self._via = via
        self._client_settings = ClientSettings(
            response_head_timeout=settings.response_head_timeout, accept_invalid=settings.accept_invalid_http_response
        )
        limits = self._client_settings
        self._bodies = replace(BODIES, limit_request_head=limits.limit_response_head, limit_request_fields=limits.limit_response_fields)
        self._http2 = HTTP2Settings()
        self._sessions: dict[tuple[object, ...], list[ClientSession]] = {}
        self._resting: dict[ClientSession, tuple[object, ...]] = {}  # without exchanges, the one that has rested longest first
        self._dialling: dict[tuple[object, ...], Event] = {}
        self._early: dict[Context, EarlyStream] = {}
        self._bound: WeakSet[Connection] | None = None  # made for the first one, because most proxies never need it

    def next_proxy(self, endpoint: Endpoint, ctx: Context) -> UpstreamProxy:
        """The proxy that requests for `endpoint` go through; `DIRECT` for none, and if a rule dials by itself. Raises `Fault`."""
        return self._next_proxy("tunnel" if endpoint.is_proxy else endpoint.scheme, endpoint, ctx)

    def _next_proxy(self, scheme: str, endpoint: Endpoint, ctx: Context) -> UpstreamProxy:
        if ctx.dial is not None:
            return DIRECT
        try:
            return self._dialer.next_proxy(scheme, endpoint.host, endpoint.port, ctx.client, ctx.upstream)
        except DialError as error:
            raise Fault.of_dial(error) from error

    def take(self, endpoint: Endpoint, ctx: Context, via: UpstreamProxy, *, pooled: bool = True, sends: bool = False) -> Client:
        """A connection, or a stream of HTTP/2, for the exclusive use of one exchange, until it is given back. `sends`: its request has a
        body. Raises `Fault`."""
        if ctx.flow is not None:
            ctx.flow.dialling = ctx.flow.now()
        if endpoint.speaks_http2:
            return StreamExchange(self._session(endpoint, ctx, via, pooled, sends), self._client_settings, alone=ctx.dial is not None)
        if ctx.dial is None and pooled:
            kept = self._kept(endpoint, via, ctx)
            if kept is not None:
                self._note_reuse(kept.connection, ctx)
                return kept
        self._pool.opened += 1
        if endpoint.is_asked_of(via):
            if self._early:
                self.drop_early(self._owner(ctx))  # a stream through the proxy, which this request does not need
            try:
                dialled = self._dialer.to_proxy(via, ctx.client)
            except DialError as error:
                raise Fault.of_dial(error) from error
            connection = dialled.connection
            if ctx.flow is not None:
                ctx.flow.address = dialled.address
                ctx.flow.connected = ctx.flow.now()
        else:
            connection = self._stream(endpoint, ctx, via, quiet=True)
        connection.idle_timeout = self._settings.upstream_idle_timeout
        return ClientConnection(connection, self._client_settings)

    def _kept(self, endpoint: Endpoint, via: UpstreamProxy, ctx: Context) -> ClientConnection | None:
        """A kept connection, if this client is allowed to connect to its address. It may have been made for a client with more rights."""
        key = self._key(endpoint, via, ctx)
        kept = self._pool.take(key)
        if kept is None:
            return None
        if not self._may_reuse(kept.connection, ctx, via):
            self._pool.put(key, kept)  # for other clients; for this one, the name may have another address that is allowed
            return None
        return kept

    def _session(self, endpoint: Endpoint, ctx: Context, via: UpstreamProxy, pooled: bool, sends: bool) -> ClientSession:
        """A connection of HTTP/2 on which a stream can be opened. A body does not go where others have used up the window, since the server
        may not be reading these."""
        key = self._key(endpoint, via, ctx)
        if ctx.dial is not None:
            return self._new_session(key, endpoint, ctx, via)
        others = self._dialling.get(key)
        while True:
            for session in self._sessions.get(key, ()):
                if pooled and session.room > 0 and not (sends and session.is_full) and self._may_reuse(session.connection, ctx, via):
                    self._resting.pop(session, None)
                    self._pool.reused += 1
                    self._note_reuse(session.connection, ctx)
                    return session
            if others is None:
                break
            # Those that come at the same time share what the first one makes. If it fails, they do not wait for each other.
            others.wait()
            others = None
        dialled = Event()
        self._dialling.setdefault(key, dialled)
        try:
            session = self._new_session(key, endpoint, ctx, via)
            self._sessions.setdefault(key, []).append(session)
            return session
        finally:
            dialled.set()
            if self._dialling.get(key) is dialled:
                del self._dialling[key]

    def _new_session(self, key: tuple[object, ...], endpoint: Endpoint, ctx: Context, via: UpstreamProxy) -> ClientSession:
        self._pool.opened += 1
        connection = self._stream(endpoint, ctx, via, quiet=True)
        if endpoint.layers and (connection.tls is None or connection.tls.alpn != "h2"):
            connection.finish()
            raise Fault(Phase.TLS, f"{endpoint.authority}: the server does not agree on HTTP/2")
        return ClientSession(connection, self._bodies, self._http2, None if ctx.dial is not None else partial(self._rests, key))

    def _rests(self, key: tuple[object, ...], session: ClientSession) -> None:
        """`session` has no exchanges any more. Above the limits of the pool, those that have rested longest are closed."""
        sessions = self._sessions.get(key, ())
        if session not in sessions:
            return  # it is closed
        resting = self._resting
        resting[session] = key
        of_key = [each for each in sessions if each in resting]
        if len(of_key) > self._settings.max_idle_per_host:
            oldest = min(of_key, key=lambda each: each.idle_since)
        elif len(resting) > self._settings.max_idle:
            oldest = next(iter(resting))
        else:
            return
        self._close(resting[oldest], oldest)

    def _close(self, key: tuple[object, ...], session: ClientSession) -> None:
        """Close `session`, and do not wait for its GOAWAY, since its server may take nothing."""
        self._resting.pop(session, None)
        sessions = self._sessions.get(key, [])
        if session in sessions:
            sessions.remove(session)
        if not sessions:
            self._sessions.pop(key, None)
        gevent.spawn(session.close)

    def _note_reuse(self, connection: Connection, ctx: Context) -> None:
        """The exchange of `ctx` goes on a connection that was there. One that was dialled early for this client is not needed."""
        if self._early:
            self.drop_early(self._owner(ctx))
        if ctx.flow is not None:
            ctx.flow.reused = True
            ctx.flow.address = address_text(connection.client)

    def _may_reuse(self, connection: Connection, ctx: Context, via: UpstreamProxy) -> bool:
        try:
            self._dialer.check_reuse(connection, ctx.client, via)
        except DialError:
            return False
        return True

    def prune(self) -> None:
        """Close connections that have rested too long. Call it every few seconds."""
        self._pool.prune()
        oldest = monotonic() - self._settings.idle_timeout
        for key, sessions in list(self._sessions.items()):
            for session in list(sessions):
                if session.over or (not session.exchanges and session.idle_since <= oldest):
                    self._close(key, session)

    def give_back(self, endpoint: Endpoint, ctx: Context, via: UpstreamProxy, client: Client) -> None:
        """Take a connection back after its exchange. It is pooled, or closed if it was made by a rule."""
        if isinstance(client, StreamExchange):
            client.finish()
        elif ctx.dial is not None:
            client.close()
        else:
            self._pool.put(self._key(endpoint, via, ctx), client)

    def stream(self, endpoint: Endpoint, ctx: Context) -> Connection:
        """A connection to `endpoint` for any protocol. The caller closes it. Raises `Fault`."""
        return self._stream(endpoint, ctx, self._next_proxy("tunnel", endpoint, ctx))

    # Early streams

    def dial_early(self, endpoint: Endpoint, ctx: Context) -> None:
        """Connect to `endpoint` for the tunnel `ctx` before its protocol is known. If it fails, the first request or relay retries."""
        try:
            via = self._next_proxy("tunnel", endpoint, ctx)
            connection = self._stream(endpoint, ctx, via)
        except Fault as fault:
            log.debug("%r: cannot connect to %s before its client speaks: %s", ctx, endpoint.authority, fault)
        else:
            self._early[ctx] = EarlyStream(connection, endpoint, via, ctx.dial)

    def early_connection(self, ctx: Context) -> Connection | None:
        """The connection that `dial_early` has made. It stays here for the first request or relay of the tunnel."""
        early = self._early.get(ctx)
        return None if early is None else early.connection

    def drop_early(self, ctx: Context) -> None:
        """Close the early connection of the tunnel `ctx` if it has not been used."""
        early = self._early.pop(ctx, None)
        if early is not None:
            early.connection.finish()

    def _owner(self, ctx: Context) -> Context:
        return ctx if ctx in self._early or ctx.tunnel is None else ctx.tunnel

    def _take_early(self, endpoint: Endpoint, ctx: Context, via: UpstreamProxy, quiet: bool) -> tuple[Connection, tuple[Layer, ...]] | None:
        """The early connection of the tunnel of `ctx`, and the layers of TLS that it still needs. `quiet`: use it only if the server has
        not sent anything, because it has to answer requests."""
        owner = self._owner(ctx)
        early = self._early.get(owner)
        if early is None:
            return None
        left = early.layers_left(endpoint, via, ctx.dial)
        if left is None or ((quiet or left) and not early.is_quiet):
            self.drop_early(owner)
            return None
        del self._early[owner]
        return early.connection, left

    def close(self) -> None:
        """Close the kept connections."""
        self._pool.close()
        for sessions in list(self._sessions.values()):
            for session in list(sessions):
                session.close()
        self._sessions.clear()
        self._resting.clear()

    def bind(self, ctx: Context) -> None:
        """Bind upstream connections to the client connection of `ctx`, which authenticates connections and not requests (NTLM, Negotiate:
        RFC 4559 section 6). From now on they are not given to other clients, which the server would take for that user."""
        if self._bound is None:
            self._bound = WeakSet()
        self._bound.add(ctx.connection)

    def _key(self, endpoint: Endpoint, via: UpstreamProxy, ctx: Context) -> tuple[object, ...]:
        owner = ctx.connection.id if self._bound is not None and ctx.connection in self._bound else None
        # None for no proxy, since the pool hashes the key five times an exchange.
        way = None if via is DIRECT else (via, endpoint.is_asked_of(via))
        return (endpoint.host, endpoint.port, endpoint.layers, way, owner)

    def _stream(self, endpoint: Endpoint, ctx: Context, via: UpstreamProxy, quiet: bool = False) -> Connection:
        flow = ctx.flow
        early = self._take_early(endpoint, ctx, via, quiet) if self._early else None
        layers = endpoint.layers
        deadline = monotonic() + self._settings.connect_timeout
        if early is not None:
            connection, layers = early
        elif ctx.dial is not None:
            try:
                connection = ctx.dial(endpoint.host, endpoint.port)
            except OSError as error:
                raise Fault(Phase.CONNECT, f"{endpoint.authority}: {error.strerror or error}") from error
            self._sweeper.lines[connection.lifeline] = None
        else:
            try:
                dialled = self._dialer.connect(
                    endpoint.host, endpoint.port, ctx.client, via=via, via_field=self._via.in_connect(ctx.passed), deadline=deadline
                )
            except DialError as error:
                raise Fault.of_dial(error) from error
            connection = dialled.connection
            if flow is not None and dialled.resolved is not None:
                flow.resolved = dialled.resolved - flow.began
        if flow is not None:
            flow.address = address_text(connection.client)
            flow.connected = flow.now()
        for layer in layers:
            connection = self._tls.secure(connection, endpoint.authority, layer, ctx)
        return connection
