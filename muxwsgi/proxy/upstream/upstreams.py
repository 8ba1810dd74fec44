"""`Upstreams`: connections to upstreams, from the pool or dialled, plain or TLS, directly or through another proxy.

It translates the errors of a dial to the proxy's `Fault`.
"""

import logging
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING
from weakref import WeakSet

from muxwsgi.dial.dialer import Dialer
from muxwsgi.dial.errors import DialError
from muxwsgi.dial.upstream_proxy import DIRECT, UpstreamProxy
from muxwsgi.errors import OperatorError
from muxwsgi.http.client.connection import BODIES, ClientConnection, ClientSettings
from muxwsgi.http.client.h2_exchange import StreamExchange
from muxwsgi.http.client.h2_session import ClientSession
from muxwsgi.http.client.pool import Pool
from muxwsgi.names import InvalidName, address_text, canonical, comparable, split_host_port
from muxwsgi.proxy.context import Context, Layer
from muxwsgi.proxy.fault import Fault, Phase
from muxwsgi.proxy.upstream.early_stream import EarlyStream
from muxwsgi.proxy.upstream.endpoint import HTTP_IDS, Endpoint, offering
from muxwsgi.proxy.upstream.needs import Needs
from muxwsgi.proxy.upstream.sessions import HTTP1Only, Sessions
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
        self._sessions = Sessions(settings.max_idle, settings.max_idle_per_host, settings.idle_timeout)
        self._http1_only = HTTP1Only()
        self._h2c = _destinations(settings.upstream_h2c)
        self._early: dict[Context, EarlyStream] = {}
        self._bound: WeakSet[Connection] | None = None  # made for the first one, because most proxies never need it

    def begins_http2(self, endpoint: Endpoint) -> bool:
        """Whether requests for `endpoint`, which is not behind TLS, are of HTTP/2."""
        if self._settings.upstream_http2 != "on" or endpoint.layers or endpoint.is_proxy:
            return False
        if endpoint.begins_http2 or not self._h2c:
            return endpoint.begins_http2
        host = comparable(endpoint.host)
        return (host, None) in self._h2c or (host, endpoint.port) in self._h2c

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

    def take(self, endpoint: Endpoint, ctx: Context, via: UpstreamProxy, needs: Needs) -> Client:
        """A connection, or a stream of HTTP/2, for the exclusive use of one exchange, until it is given back. Raises `Fault`."""
        if ctx.flow is not None:
            ctx.flow.dialling = ctx.flow.now()
        if self._may_be_http2(endpoint, ctx, needs):
            return self._take_either(endpoint, ctx, via, needs)
        return self._take_http1(endpoint, ctx, via, needs)

    def _may_be_http2(self, endpoint: Endpoint, ctx: Context, needs: Needs) -> bool:
        if endpoint.begins_http2:
            return True
        if not endpoint.chooses or needs.http1 or endpoint.is_proxy or self._settings.upstream_http2 != "on":
            return False
        return self._bound is None or ctx.connection not in self._bound  # what is authenticated is a connection of HTTP/1.1

    def _take_http1(self, endpoint: Endpoint, ctx: Context, via: UpstreamProxy, needs: Needs) -> Client:
        if ctx.dial is None and needs.kept:
            kept = self._kept(self._key(endpoint, via, ctx), via, ctx)
            if kept is not None:
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
        return self._of_http1(connection)

    def _of_http1(self, connection: Connection) -> ClientConnection:
        connection.idle_timeout = self._settings.upstream_idle_timeout
        return ClientConnection(connection, self._client_settings)

    def _take_either(self, endpoint: Endpoint, ctx: Context, via: UpstreamProxy, needs: Needs) -> Client:
        """A stream on a connection of HTTP/2, or a connection of HTTP/1.1, as the server chooses."""
        key = self._key(endpoint, via, ctx)
        new = needs.alone or not needs.kept or ctx.dial is not None
        if endpoint.chooses and (
            (new and needs.websocket)  # the server may choose HTTP/2, and not take WebSockets there
            or (ctx.dial is None and self._http1_only.covers(key, asked=True))
        ):
            return self._take_http1(endpoint, ctx, via, needs)
        if needs.alone or ctx.dial is not None:
            return self._dial(key, endpoint, ctx, via, alone=True)
        waited = not needs.kept
        while needs.kept:
            session = self._sessions.find(key, needs, lambda connection: self._may_reuse(connection, ctx, via))
            if session is not None:
                self._pool.reused += 1
                self._note_reuse(session.connection, ctx)
                return StreamExchange(session, self._client_settings)
            if endpoint.chooses:
                if needs.websocket:  # there is no connection whose server is known to take it
                    return self._take_http1(endpoint, ctx, via, needs)
                kept = self._kept(key, via, ctx)
                if kept is not None:
                    return kept
            # If what others dial fails, the requests that have waited for it do not wait for each other.
            if waited or self._http1_only.covers(key) or not self._sessions.wait_for_others(key):
                break
            waited = True
        dialled = self._sessions.begin_dial(key)
        try:
            return self._dial(key, endpoint, ctx, via, alone=False)
        finally:
            self._sessions.end_dial(key, dialled)

    def _dial(self, key: tuple[object, ...], endpoint: Endpoint, ctx: Context, via: UpstreamProxy, *, alone: bool) -> Client:
        """A new connection, of the HTTP that its server chooses. `alone`: if it is of HTTP/2, it is for one exchange."""
        self._pool.opened += 1
        layers = offering(endpoint.layers, HTTP_IDS) if endpoint.chooses else ()
        tells = ctx.dial is None  # the server that a rule dials may be another than the one of this name
        offered = self._owner(ctx) not in self._early  # an early connection may not have offered HTTP/2
        try:
            connection = self._stream(endpoint, ctx, via, quiet=True, layers=layers)
        except Fault:
            if tells:
                self._http1_only.forget(key)
            raise
        if layers and (connection.tls is None or connection.tls.alpn != "h2"):
            if tells and offered:
                self._http1_only.note(key)
            return self._of_http1(connection)
        if tells:
            self._http1_only.forget(key)
        rests = None if alone else partial(self._sessions.rests, key)
        session = ClientSession(connection, self._bodies, self._http2, rests)
        if not alone:
            self._sessions.add(key, session)
        return StreamExchange(session, self._client_settings, alone=alone)

    def needs_http1(self, endpoint: Endpoint, ctx: Context, via: UpstreamProxy) -> None:
        """The server has asked for HTTP/1.1 (HTTP_1_1_REQUIRED, RFC 9113 section 7)."""
        if ctx.dial is None:
            self._http1_only.note(self._key(endpoint, via, ctx), asked=True)

    def _kept(self, key: tuple[object, ...], via: UpstreamProxy, ctx: Context) -> ClientConnection | None:
        """A kept connection, if this client is allowed to connect to its address. It may have been made for a client with more rights."""
        kept = self._pool.take(key)
        if kept is None:
            return None
        if not self._may_reuse(kept.connection, ctx, via):
            self._pool.put(key, kept)  # for other clients; for this one, the name may have another address that is allowed
            return None
        self._note_reuse(kept.connection, ctx)
        return kept

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
        self._sessions.prune()

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

    def agree_early(self, endpoint: Endpoint, ctx: Context) -> str | None:
        """Connect to `endpoint` for the tunnel `ctx`, and return the ALPN id that the server selects. The connection is kept as an early
        one. Raises `Fault`."""
        via = self._next_proxy("tunnel", endpoint, ctx)
        connection = self._stream(endpoint, ctx, via)
        agreed = connection.tls.alpn if connection.tls is not None else None
        made = Endpoint(endpoint.host, endpoint.port, offering(endpoint.layers, () if agreed is None else (agreed,)))
        self._early[ctx] = EarlyStream(connection, made, via, ctx.dial)
        return agreed

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

    def _take_early(self, endpoint: Endpoint, ctx: Context, via: UpstreamProxy, quiet: bool) -> tuple[Connection, int] | None:
        """The early connection of the tunnel of `ctx`, and the number of layers of TLS that it still needs. `quiet`: use it only if the
        server has not sent anything, because it has to answer requests."""
        owner = self._owner(ctx)
        early = self._early.get(owner)
        if early is None:
            return None
        left = early.layers_left(endpoint, via, ctx.dial)
        if left is None or ((quiet or left) and not early.is_quiet):
            self.drop_early(owner)
            return None
        del self._early[owner]
        return early.connection, len(left)

    def close(self) -> None:
        """Close the kept connections."""
        self._pool.close()
        self._sessions.close()

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
        layers = endpoint.layers
        if endpoint.chooses and layers[-1].alpn:  # what the client has agreed on with the proxy makes no difference
            layers = offering(layers, ())
        return (endpoint.host, endpoint.port, layers, way, owner)

    def _stream(
        self, endpoint: Endpoint, ctx: Context, via: UpstreamProxy, quiet: bool = False, layers: tuple[Layer, ...] | None = None
    ) -> Connection:
        """`layers` are those of `endpoint`, maybe with other ALPN ids. A layer that an early connection has already stays as it is."""
        flow = ctx.flow
        early = self._take_early(endpoint, ctx, via, quiet) if self._early else None
        if layers is None:
            layers = endpoint.layers
        deadline = monotonic() + self._settings.connect_timeout
        if early is not None:
            connection, left = early
            layers = layers[len(layers) - left :]
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


def _destinations(texts: Iterable[str]) -> frozenset[tuple[str, int | None]]:
    """`HOST` and `HOST:PORT`. Raises `OperatorError`."""
    found = set()
    for text in texts:
        host, port = split_host_port(text)
        try:
            found.add((canonical(host), port))
        except InvalidName:
            raise OperatorError(f"upstream_h2c: {text!a} is neither HOST nor HOST:PORT") from None
    return frozenset(found)
