"""`Server`: opens sockets, makes a `Composition`, and serves with it: starts, swaps, drains, cuts.

There are two phases, so that a master can fork between them. The constructor reads settings and certificates and opens listening sockets.
It makes no gevent hub and runs no application code. `start` does the work of a worker: the hub, greenlets, the application.
"""

import logging
import signal
from collections.abc import Callable, Iterable, Mapping, Sequence
from time import monotonic
from typing import TYPE_CHECKING

import gevent
from gevent.event import Event

from muxwsgi.errors import Cut
from muxwsgi.events import Events
from muxwsgi.http.environ import ErrorStream, WSGIApplication
from muxwsgi.http.exchange import OnExchange
from muxwsgi.mux.hijack import Hijacker
from muxwsgi.mux.mux import Mux
from muxwsgi.mux.registry import Registered
from muxwsgi.mux.route import Handler, Route
from muxwsgi.server.bind_text import parse_bind
from muxwsgi.server.binds import Listening, listen_on
from muxwsgi.server.composition import Composition
from muxwsgi.server.drain import DRAIN_INTERVAL, Drain, end_of_grace
from muxwsgi.server.gate import Gate
from muxwsgi.server.handover import Handover
from muxwsgi.server.health import Health
from muxwsgi.server.serving import Serving
from muxwsgi.server.spawned_failures import SpawnedFailures
from muxwsgi.server.turned_away import TurnedAway
from muxwsgi.server.worker import Worker
from muxwsgi.settings import BindSettings, ServerSettings
from muxwsgi.signals import Signals
from muxwsgi.wire import fork
from muxwsgi.wire.lifeline import Lifeline
from muxwsgi.wire.listener import Listener
from muxwsgi.wire.room import Room
from muxwsgi.wire.sweeper import Sweeper

if TYPE_CHECKING:
    from cryptography import x509

    from muxwsgi.upstreams.upstreams import Upstreams
    from muxwsgi.wire.tls.server_context import ServerContext

__all__ = ["Server"]

log = logging.getLogger("muxwsgi.error")

#: Seconds in which a worker that retires goes on as before: connections that come to rest are handed over, and no client is told to close.
HANDED_OVER_FIRST = 1.0


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
        listening: Sequence[Listening] | None = None,
        multiprocess: bool = False,
        worker: Worker | None = None,
        contexts: "Mapping[str, ServerContext] | None" = None,
        around: Sequence[Callable[[WSGIApplication], WSGIApplication]] = (),
        health: Health | None = None,
    ) -> None:
        """Open everything. `binds` are as `parse_bind` reads them, and take the place of those in `settings`.

        `hijackers` are callables decorated with `@hijack`, or routes. `registered` are further ones that `fallback` and `silence` may name.
        `on_exchange` subscribes to `events.exchange`, for an access log. `errors` is the `wsgi.errors` of applications, None for standard
        error. `listening` are sockets that are open already, as those of a master, instead of `binds`. `multiprocess` means that other
        processes serve the same application. It goes into the environ. `worker` is what this process is to a master. Connections are then
        spread over the workers that accept on the same sockets. `contexts` are TLS contexts that a master has made, by address, so that all
        workers resume the sessions of each other. `around` are functions that wrap each application that is served, the
        outermost last; of a proxy they also get the requests inside of tunnels. `health` answers health checks on all binds.
        Raises `OperatorError`.
        """
        settings = settings or ServerSettings()
        #: What happens to connections and requests. Subscribe at any time.
        self.events = Events()
        #: Connections and requests that are refused or dropped, counted by kind, and reported in the error log.
        self.turned_away = TurnedAway(self.events)
        if on_exchange is not None:
            self.events.subscribe(exchange=on_exchange)
        self._errors = errors
        self._multiprocess = multiprocess
        self._gate = None if worker is None else Gate(worker.page, worker.entry)
        self._contexts = contexts
        self._around = tuple(around)
        self._health = health
        self._sweeper = Sweeper()
        self._lines = self._sweeper.lines
        self._serving = Serving(self._lines, self.events)
        self._handover: Handover | None = None
        if worker is not None and self._gate is not None:
            self._handover = Handover(worker, self._gate, self._lines, self._serving, lambda: self._composition)
        self._failures = SpawnedFailures(self._lines)
        self._listeners: dict[str, Listener] = {}
        self._retiring: list[gevent.Greenlet[..., None]] = []
        self._stop_wanted = False
        self._stopped: Event | None = None
        self._cut_at = 0.0
        self._cut_wanted = False
        self._grace_wanted = False
        if listening is None:
            wanted = settings.binds if binds is None else [b if isinstance(b, BindSettings) else parse_bind(b) for b in binds]
            listening = listen_on(wanted, settings.backlog)
        self._listening = list(listening)
        try:
            self._composition = self._composed(app, hijackers, settings, registered, None)
        except BaseException:
            self.close()
            raise

    def _composed(
        self,
        app: WSGIApplication,
        hijackers: Iterable[Handler | Hijacker | Route],
        settings: ServerSettings,
        registered: Sequence[Registered],
        before: Composition | None,
    ) -> Composition:
        return Composition(
            app,
            hijackers,
            self._listening,
            settings=settings,
            events=self.events,
            registered=registered,
            errors=self._errors,
            before=before,
            contexts=self._contexts,
            multiprocess=self._multiprocess,
            around=self._around,
            health=self._health,
        )

    # The parts

    @property
    def settings(self) -> ServerSettings:
        """The settings that new connections are served with."""
        return self._composition.settings

    @property
    def routes(self) -> list[Route]:
        """HTTP and the hijackers, which all binds use, in order. If the application is a proxy, also SOCKS."""
        return self._composition.routes

    @property
    def destinations(self) -> dict[str, str]:
        """The routes of the configuration by name, each with where its connections go, as the operator wrote it."""
        return self._composition.destinations

    @property
    def upstreams(self) -> "Upstreams":
        """The servers that routes forward to."""
        return self._composition.upstreams

    @property
    def muxes(self) -> dict[str, Mux]:
        """The mux of each bind, by its address. Transparent binds have none."""
        return self._composition.muxes

    @property
    def addresses(self) -> list[str]:
        """The listening addresses, as an operator writes them: `HOST:PORT` with the real port, or `unix:PATH`."""
        return [listening.address for listening in self._listening]

    @property
    def binds(self) -> list[tuple[str, BindSettings]]:
        """Each address with the bind that asked for it."""
        return [(listening.address, listening.bind) for listening in self._listening]

    @property
    def connections(self) -> int:
        """Connections that are served right now."""
        return len(self._lines)

    @property
    def live(self) -> list[Lifeline]:
        """The lifelines of the connections that are served right now."""
        return list(self._lines)

    @property
    def accepting(self) -> bool:
        """Whether connections are accepted: it was started, and no stop has begun."""
        return bool(self._listeners) and not self._stop_wanted

    @property
    def certificates(self) -> "list[tuple[str, x509.Certificate]]":
        """The certificates that are served, each with the bind that shows it, and those of a proxy's CA, with `proxy CA`."""
        return self._composition.certificates

    @property
    def proxy_counts(self) -> Mapping[str, int] | None:
        """The numbers of the proxy that is served; None if the application is none."""
        return self._composition.proxy_counts

    @property
    def peer_errors(self) -> int:
        """Number of connections that ended with an error of the peer, since the start."""
        return self._serving.peer_errors

    # Running

    def start(self) -> None:
        """Serve from now on, in greenlets."""
        fork.serving(self)
        self._stopped = Event()
        self._failures.watch()
        self._composition.start()
        room = Room(self.settings.max_connections or None, self._gate)
        for listening in self._listening:
            server = None if listening.wildcard else listening.name
            front = self._composition.fronts[listening.address]
            serve = self._serving.with_handler(front.handler)
            listener = Listener(listening.socket, serve, room=room, server=server, service=front.service)
            self._listeners[listening.address] = listener
            listener.start()
        if self._handover is not None:
            self._handover.start(self._listening, room)
        if self._gate is not None:
            self._gate.open()
        self._sweeper.start()

    def swap(
        self,
        app: WSGIApplication,
        hijackers: Iterable[Handler | Hijacker | Route] = (),
        *,
        settings: ServerSettings | None = None,
        registered: Sequence[Registered] = (),
    ) -> None:
        """Serve new connections with this application and these hijackers, on the same sockets. `settings` None keeps the settings. The
        `binds`, `backlog` and `max_connections` of new settings are ignored. Does not wait.

        Open connections stay with the old application. They are drained as by `stop` with `grace`, while new ones are accepted. If it
        raises `OperatorError`, nothing has changed. Does nothing once `stop` has begun.
        """
        if self._stop_wanted:
            return
        old = self._composition
        new = self._composition = self._composed(app, hijackers, settings or self.settings, registered, old)
        if not self._listeners:  # not started yet: the old one has served no connection
            return
        new.start()
        for address, listener in self._listeners.items():
            front = new.fronts[address]
            listener.serve_with(self._serving.with_handler(front.handler), front.service)
        old.drain()
        self._retiring = [greenlet for greenlet in self._retiring if not greenlet.dead]
        self._retiring.append(gevent.spawn(self._retire, old))

    def _retire(self, old: Composition) -> None:
        """Drain a composition, and close it after its last connection."""
        drain = Drain(self._lines, old.serves)
        begin = now = monotonic()
        cut_at = begin + old.settings.graceful_timeout
        grace_until = end_of_grace(begin, cut_at)
        try:
            while not drain.look(grace=now < grace_until) and now < cut_at:
                gevent.sleep(DRAIN_INTERVAL)
                now = monotonic()
            if drain.left():
                log.warning("%d connections were cut: they were begun before the reload", drain.left())
                drain.cut()
        finally:
            old.close()

    def serve_forever(self) -> None:
        """`start`, and return after `stop` or `request_stop` when everything has ended.

        In the main thread, SIGINT (Ctrl-C) and SIGTERM call `request_stop` meanwhile, unless the program handles them.
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
            self.stop(grace=self._grace_wanted)
        finally:
            signals.release()

    def request_stop(self, *, grace: bool = False) -> None:
        """Make `serve_forever` drain and return. The second call cuts the remaining connections. It does not wait, so signal handlers can
        call it.

        Use `grace` if another process has taken over: see `stop`. Then the next call without `grace` ends the grace, and the one after that
        cuts.
        """
        if not self._stop_wanted or self._grace_wanted:
            self._grace_wanted = grace
        elif not grace:
            self._cut_wanted = True  # `stop` may not have begun
        self._stop_wanted = True
        if self._stopped is not None:
            self._stopped.set()

    def stop(self, graceful_timeout: float | None = None, *, grace: bool = False) -> None:
        """Accept only the clients that are in the backlog already. Let exchanges and hijacked connections end, and cut them after
        `graceful_timeout` seconds (None: as in the settings).

        Connections without a request under way are closed. With `grace`, other workers get those that they can serve
        (`server/handover.py`), and HTTP waits for one more request on each that is left (`server/drain.py`).
        """
        self._stop_wanted = True
        self._grace_wanted = grace
        if self._gate is not None:
            self._gate.close()
        begin = monotonic()
        self._cut_at = begin + (self.settings.graceful_timeout if graceful_timeout is None else graceful_timeout)
        grace_until = end_of_grace(begin, self._cut_at)
        drains_at = begin
        if self._handover is not None:
            self._handover.stop()
            if grace and self._handover.possible():
                drains_at = min(begin + HANDED_OVER_FIRST, grace_until)
        for listening in self._listening:
            listening.unlink()
        listeners = list(self._listeners.values())
        drain = Drain(self._lines)
        while not self._is_cut():
            drained = [listener.drain() for listener in listeners]
            now = monotonic()
            in_grace = self._grace_wanted and now < grace_until
            if now >= drains_at or not self._grace_wanted:
                self._composition.drain()
            if self._handover is not None:
                if in_grace:
                    self._handover.give()
                self._handover.take_back()
            ended = drain.look(grace=in_grace)
            if all(drained) and ended:
                break
            gevent.sleep(DRAIN_INTERVAL)
        self._composition.drain()
        left = drain.left() + sum(listener.unserved() for listener in listeners)
        for listener in listeners:
            listener.close()
        self._listeners.clear()
        self.close()
        if left:
            log.warning("%d connections were cut at shutdown", left)
            drain.cut()
        self._sweeper.stop()
        self._failures.unwatch()
        gevent.killall(self._retiring)
        self._composition.close()
        if self._stopped is not None:
            self._stopped.set()
        fork.stopped_serving(self)

    def _is_cut(self) -> bool:
        return self._cut_wanted or monotonic() >= self._cut_at

    def cut(self, connection: int) -> bool:
        """End the connection with this id, by `Cut`. Does not wait. Whether there is one."""
        for line, serving in list(self._lines.items()):
            if getattr(line.top, "id", None) == connection:
                if serving is not None:
                    gevent.kill(serving, Cut)
                else:  # a relay without a greenlet
                    line.fail(Cut())
                return True
        return False

    def close(self) -> None:
        """Close the listening sockets without serving. Idempotent."""
        for listening in self._listening:
            listening.close()

    def reload_certificates(self) -> None:
        """Read all certificate files again. A faulty file is logged, and the certificate before stays in use."""
        self._composition.reload_certificates()
