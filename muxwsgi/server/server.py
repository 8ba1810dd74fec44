"""`Server`: the composition root. It opens sockets and contexts, builds the muxes, and runs.

There are two phases, so that a master can come between them: making a `Server` does what may happen before a fork (settings, certificates,
listening sockets; no gevent hub, no application code), `start` does what belongs to a worker (the hub, greenlets, the application).
"""

import errno
import logging
import signal
from collections.abc import Callable, Iterable, Sequence
from time import monotonic

import gevent
from gevent.event import Event

from muxwsgi.errors import Cut, Draining, Expired, HandshakeError, OperatorError, PeerError, TLSError
from muxwsgi.hijackers.resolve import resolve
from muxwsgi.hijackers.tls_route import tls_route
from muxwsgi.http.buffering import with_buffering
from muxwsgi.http.environ import ErrorStream
from muxwsgi.http.exchange import OnExchange
from muxwsgi.http.gevent_websocket import with_gevent_websocket
from muxwsgi.http.h1.h1 import HTTP1, WSGIApplication
from muxwsgi.mux.hijack import Hijacker, hijacker_of
from muxwsgi.mux.mux import Mux
from muxwsgi.mux.registry import Registered
from muxwsgi.mux.route import FIRST, Handler, Route
from muxwsgi.protocols.http1 import http_last, http_route
from muxwsgi.protocols.tls import tls, tls_like
from muxwsgi.server.binds import Listening, parse_bind, serves_both_families
from muxwsgi.server.plain_http import https_required, redirect_to_https
from muxwsgi.server.proxy_application import ProxyApplication
from muxwsgi.server.spawned_failures import SpawnedFailures
from muxwsgi.server.turned_away import TurnedAway
from muxwsgi.settings import BindSettings, ServerSettings, Transparent
from muxwsgi.signals import Signals, may_be_ctrl_c
from muxwsgi.wire import fork
from muxwsgi.wire.connection import Connection
from muxwsgi.wire.listener import Listener, Room, Serve
from muxwsgi.wire.ready import Lifeline
from muxwsgi.wire.service import Service
from muxwsgi.wire.sweeper import Sweeper
from muxwsgi.wire.tls.server_context import ServerContext

__all__ = ["Server"]

log = logging.getLogger("muxwsgi.error")

#: Seconds between two looks at what is left during a drain.
DRAIN_INTERVAL = 0.05

#: Seconds that new connections have for their first bytes once a drain has begun: their requests may be under way.
FIRST_BYTES_GRACE = 1.0

#: Seconds that connections which are cut may take to end.
CUT_TIMEOUT = 5.0

#: Errors that a peer or the network causes, beside `ConnectionError`, `TimeoutError` and `TLSError`. EBADF: another greenlet closed it.
_PEER_ERRNOS = frozenset({errno.EBADF, errno.ENOTCONN, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN, errno.EPROTO})


class Server:
    """Serves a WSGI application, and hijackers beside it, on any number of addresses.

        server = muxwsgi.Server(app, binds=["127.0.0.1:8000"], hijackers=[echo])
        server.serve_forever()
    """

    def __init__(
        self,
        app: WSGIApplication,
        binds: Sequence[str | BindSettings] | None = None,
        hijackers: Iterable[Handler | Hijacker | Route] = (),
        *,
        settings: ServerSettings | None = None,
        registered: Sequence[Registered] = (),
        on_exchange: OnExchange | None = None,
        errors: ErrorStream | None = None,
    ) -> None:
        """Open everything. `binds` are as `parse_bind` reads them, and take the place of those in `settings`.

        `hijackers` are callables decorated with `@hijack`, or routes. `registered` are further ones that `fallback` and `silence` may name.
        `on_exchange` is called after each exchange, for an access log. `errors` is what applications get as `wsgi.errors`, None for
        standard error. Raises `OperatorError`.
        """
        self.settings = settings or ServerSettings()
        self._on_exchange = on_exchange
        if not isinstance(app, ProxyApplication):  # a proxy passes bodies and WebSockets on as they come
            http = self.settings.http
            app = with_gevent_websocket(with_buffering(app, http.buffer_chunked, http.limit_buffered_body))
        #: Connections and requests that nobody serves: counted by kind, and said in the error log.
        self.turned_away = TurnedAway()
        self._http = HTTP1(app, self.settings.http, on_exchange=on_exchange, on_reject=self.turned_away.refused)
        self._engines = [self._http]
        self._contexts: list[tuple[BindSettings, ServerContext]] = []
        #: What is asked on each bind, by its address as the operator wrote it. Nothing is on a transparent one.
        self.muxes: dict[str, Mux] = {}
        self._fronts: dict[str, Handler] = {}
        #: What `start_tls()` of a handler serves with, by the bind's address.
        self._starttls: dict[str, ServerContext] = {}
        self._proxy = app if isinstance(app, ProxyApplication) else None
        #: Behind the proxy's access list, where the application is one: they have none of their own.
        self._hijackers = [self._admitted(route) for route in _hijacker_routes(hijackers)]
        #: HTTP and the hijackers, as they are asked on every bind; SOCKS too, where the application is a proxy.
        self.routes = self._shared_routes()
        self._fallback = self._named("fallback", self.settings.fallback, registered)
        self._silence = self._named("silence", self.settings.silence, registered)
        takers = [route.name for route in self.routes if route.takes_silence]
        if self._silence is None and len(takers) > 1:
            both = " and ".join(takers)
            raise OperatorError(f"silence: {both} want connections on which the client says nothing: name one (--silence {takers[0]})")
        wanted = self.settings.binds if binds is None else [b if isinstance(b, BindSettings) else parse_bind(b) for b in binds]
        #: How many connections ended with an error of the peer, since the start.
        self.peer_errors = 0
        self._sweeper = Sweeper()
        self._lines = self._sweeper.lines
        self._failures = SpawnedFailures(self._lines)
        self._listeners: list[Listener] = []
        self._stop_wanted = False
        self._stopped: Event | None = None
        self._draining: Event | None = None
        self._cut_at = 0.0
        self._cut_wanted = False
        self._listening: list[Listening] = []
        try:
            if self._proxy is not None:
                away = self.turned_away
                self._proxy.serve_in(
                    self.settings.http, self._hijackers, self._tcp_addresses, on_exchange, on_reject=away.refused, on_refusal=away.limited
                )
                self._engines.append(self._proxy.engine)
            for bind in wanted:
                others = [other for other in wanted if other is not bind]
                listening = Listening(bind, self.settings.backlog, both_families=serves_both_families(bind, others))
                self._listening.append(listening)
                if self._proxy is not None:
                    self._proxy.check(listening.name, transparent=bind.transparent is not None)
                if bind.transparent is not None:
                    self._fronts[listening.address] = self._transparent_door(bind.transparent, listening)
                else:
                    self._fronts[listening.address] = self.muxes[listening.address] = self._front_mux(bind, listening)
            if errors is not None:
                for engine in self._engines:
                    engine.errors = errors
        except BaseException:
            self.close()
            raise

    # Composition

    def _shared_routes(self) -> list[Route]:
        """HTTP and the hijackers: the same routes, so the same limits, on every bind and inside and outside of TLS."""
        routes = [http_route(self._http), *self._hijackers]
        if self._proxy is not None:
            routes += self._proxy.front_routes()
        for route in routes:
            if sum(other.name == route.name for other in routes) > 1:
                raise OperatorError(f"hijackers: two are named {route.name!r}")
        return routes

    def _admitted(self, route: Route) -> Route:
        return route if self._proxy is None else route.behind(self._proxy.admit)

    def _named(self, option: str, spec: str, registered: Sequence[Registered]) -> Route | None:
        try:
            route = resolve(spec, self.routes, registered)
        except OperatorError as error:
            raise OperatorError(f"{option}: {error}") from error
        return route if route is None or route in self.routes else self._admitted(route)

    def _mux(self, name: str, routes: list[Route], fallback: Route | None, silence: Route | None, engine: HTTP1 | None = None) -> Mux:
        """A mux of `routes`, and `engine` (None: the application's) for what turns out to be HTTP when all of them have said no."""
        settings = self.settings.mux
        last = http_last(engine or self._http, fallback=fallback is not None)
        return Mux(
            [*routes, last],
            name=name,
            fallback=fallback,
            silence=silence,
            sniff_timeout=settings.sniff_timeout,
            patience=self.settings.http.request_head_timeout,
            peek_limit=settings.peek_limit,
            on_refusal=self.turned_away.limited,
            on_unserved=self.turned_away.unserved,
        )

    def _front_mux(self, bind: BindSettings, listening: Listening) -> Mux:
        """The first question on a bind, and through the TLS route the second."""
        open_mux = self._mux(listening.address, self.routes, self._fallback, self._silence)
        if bind.certificates:
            context = self._starttls[listening.address] = ServerContext(self.settings.tls_of(bind), alpn=open_mux.alpn)
            self._contexts.append((bind, context))
        if bind.tls == "off":
            return open_mux
        inner = self._mux(f"{listening.address}, in TLS", self.routes, self._fallback, self._silence)
        # TLS is asked first: its six bytes are nobody else's.
        # Where TLS is required, OpenSSL answers whatever begins like TLS: with an alert, where it is broken.
        match = tls_like if bind.tls == "required" else tls
        first = tls_route(context, inner, self.settings.handshake_timeout, match=match, priority=FIRST)
        if bind.tls == "optional":
            return self._mux(listening.address, [first, *self.routes], self._fallback, self._silence)
        port = listening.name[1] if isinstance(listening.name, tuple) else 443
        refuse = redirect_to_https(port) if bind.redirect_http else https_required
        engine = HTTP1(refuse, self.settings.http, on_exchange=self._on_exchange, on_reject=self.turned_away.refused)
        self._engines.append(engine)
        return self._mux(listening.address, [first, http_route(engine, name="plain-http", alpn=())], None, None, engine)

    def _transparent_door(self, way: Transparent, listening: Listening) -> Handler:
        """Nothing is asked in front: where a connection goes is known, and its own server may speak first."""
        if self._proxy is None:
            raise OperatorError(f"bind {listening.bind.address}: transparent={way} is for a proxy, and the application is none")
        if way == "tproxy":
            from muxwsgi.proxy.doors.transparent import prepare_tproxy

            prepare_tproxy(listening.socket)
        return self._proxy.transparent_door(way, listening.name)

    def _tcp_addresses(self) -> list[tuple[str, int]]:
        return [listening.name[:2] for listening in self._listening if isinstance(listening.name, tuple)]

    @property
    def addresses(self) -> list[str]:
        """Where it listens, as an operator writes it: `HOST:PORT` with the real port, or `unix:PATH`."""
        return [listening.address for listening in self._listening]

    @property
    def binds(self) -> list[tuple[str, BindSettings]]:
        """Each address with the bind that asked for it."""
        return [(listening.address, listening.bind) for listening in self._listening]

    # Running

    def start(self) -> None:
        """Serve from now on, in greenlets."""
        fork.serving(self)
        self._stopped = Event()
        self._draining = Event()
        self._failures.watch()
        room = Room(self.settings.max_connections or None)
        for listening in self._listening:
            server = None if listening.wildcard else listening.name
            service = Service(self._draining, self._starttls.get(listening.address))
            listener = Listener(listening.socket, self._serve(self._fronts[listening.address]), room, server, service)
            self._listeners.append(listener)
            listener.start()
        self._sweeper.start()

    def serve_forever(self) -> None:
        """`start`, and return after `stop` or `request_stop` when everything has ended.

        SIGINT (Ctrl-C) and SIGTERM are a `request_stop` meanwhile, where this is the main thread and the program has not taken them.
        """
        signals = Signals()
        signals.take_untouched((signal.SIGINT, signal.SIGTERM))
        try:
            self.start()
            loop = gevent.get_hub().loop
            actions: dict[int, Callable[[], None]] = {signal.SIGINT: self.request_stop, signal.SIGTERM: self.request_stop}
            signals.act(actions, lambda: loop.run_callback_threadsafe(gevent.spawn, signals.perform))
            assert self._stopped is not None
            while not self._stop_wanted:
                self._stopped.wait()
            self.stop()
        finally:
            signals.release()

    def request_stop(self) -> None:
        """Make `serve_forever` drain and return. Called again, it cuts what is left. For signal handlers: it does not wait."""
        if self._stop_wanted:
            self._cut_wanted = True  # `stop` may not have begun
        self._stop_wanted = True
        if self._stopped is not None:
            self._stopped.set()

    def stop(self, graceful_timeout: float | None = None) -> None:
        """Accept who waits in the backlog and nobody else, let exchanges and hijacked connections end, and cut those that last longer than
        `graceful_timeout` seconds (None: as in the settings)."""
        self._stop_wanted = True
        self._cut_at = monotonic() + (self.settings.graceful_timeout if graceful_timeout is None else graceful_timeout)
        if self._draining is not None:
            self._draining.set()
        for engine in self._engines:
            engine.draining = True
        for listening in self._listening:
            listening.unlink()
        spared_until: dict[Lifeline, float] = {}  # those that have sent nothing yet
        while not self._is_cut():
            drained = [listener.drain() for listener in self._listeners]
            now = monotonic()
            for line in list(self._lines):
                if not line.untouched or now > spared_until.setdefault(line, now + FIRST_BYTES_GRACE):
                    line.drain()
            if all(drained) and not self._lines:
                break
            gevent.sleep(DRAIN_INTERVAL)
        left = len(self._lines) + sum(listener.unserved() for listener in self._listeners)
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()
        self.close()
        if left:
            log.warning("%d connections were cut at shutdown", left)
            for greenlet in list(self._lines.values()):
                gevent.kill(greenlet, Cut)
            give_up = monotonic() + CUT_TIMEOUT
            while self._lines and monotonic() < give_up:
                gevent.sleep(DRAIN_INTERVAL)
        self._sweeper.stop()
        self._failures.unwatch()
        if self._proxy is not None:
            self._proxy.close()
        if self._stopped is not None:
            self._stopped.set()
        fork.stopped_serving(self)

    def _is_cut(self) -> bool:
        return self._cut_wanted or monotonic() >= self._cut_at

    def close(self) -> None:
        """Close the listening sockets without serving. Idempotent."""
        for listening in self._listening:
            listening.close()

    def reload_certificates(self) -> None:
        """Read all certificate files again. One that is broken is logged, and the one before goes on serving."""
        for bind, context in self._contexts:
            try:
                context.reload()
            except OperatorError as error:
                log.error("bind %s: the certificates in use stay: %s", bind.address, error)
            else:
                log.info("bind %s: certificates reloaded", bind.address)

    @property
    def connections(self) -> int:
        """Connections that are served right now."""
        return len(self._lines)

    def _serve(self, front: Handler) -> Serve:
        lines = self._lines

        def serve(connection: Connection) -> None:
            """One connection, from accept to close."""
            line = connection.lifeline
            lines[line] = gevent.getcurrent()
            cut = False
            try:
                front(connection)
            except Cut:
                cut = True
                raise
            except (PeerError, ConnectionError, TimeoutError, TLSError) as error:
                self._note_peer_error(connection, error)
            except BaseException as error:  # SystemExit and KeyboardInterrupt too: a handler ends its connection, never the worker
                fork.end_child(error)
                if isinstance(error, OSError) and error.errno in _PEER_ERRNOS:
                    self._note_peer_error(connection, error)
                else:
                    log.exception("%r failed; its way: %s", connection, "; ".join(connection.trace))
                    line.reset_at_close = True  # the peer is not to take what it got for the whole
                    if may_be_ctrl_c(error):
                        raise
            finally:
                try:
                    connection.finish(cut)
                finally:
                    lines.pop(line, None)

        return serve

    def _note_peer_error(self, connection: Connection, error: Exception) -> None:
        self.peer_errors += 1
        if not isinstance(error, PeerError | Expired | Draining):
            # It may be an error of another connection, of a server that the handler asks: then its peer has half of something.
            connection.lifeline.reset_at_close = True
        if isinstance(error, HandshakeError) and connection.tunnel is None:
            self.turned_away.handshake_failed(connection, error)
        log.debug("%r: %s", connection, error)


def _hijacker_routes(hijackers: Iterable[Handler | Hijacker | Route]) -> list[Route]:
    routes = []
    for hijacker in hijackers:
        if isinstance(hijacker, Route):
            routes.append(hijacker)
            continue
        described = hijacker if isinstance(hijacker, Hijacker) else hijacker_of(hijacker)
        if described is None:
            raise OperatorError(f"hijackers: {hijacker!r} is not decorated with @hijack")
        routes.append(described.route())
    return routes
