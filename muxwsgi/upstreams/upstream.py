"""`Upstream`: several servers behind one name. It chooses, waits, connects, and tries the next one.

One session goes through these steps:

    1  choose among the servers that are up and ready, with room (`maxconn`); backups only if no other one is up. If there is none: refuse
    2  if all are full, wait in the queue, in order, at most `queue_timeout`
    3  connect; after a failure go on with 1, `retries` times, with servers that were not tried first
    4  the session counts for its server until `Session.end`

All of it ends at `total_timeout`. No byte of the client is read before step 4, so a retry loses and repeats nothing.
"""

import logging
from collections import deque
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any

import gevent
from gevent.event import Event

from muxwsgi.dial.errors import DialError, DialTimeout
from muxwsgi.errors import Cut
from muxwsgi.settings.upstream import UpstreamSettings
from muxwsgi.upstreams.balance import choosing
from muxwsgi.upstreams.checks import Checker
from muxwsgi.upstreams.errors import AllDown, AllFailed, QueueFull, QueueTimeout
from muxwsgi.upstreams.server import UpstreamServer
from muxwsgi.upstreams.service import Service
from muxwsgi.upstreams.state import REFUSALS, Readiness
from muxwsgi.wire.connection import Connection
from muxwsgi.wire.lifeline import Lifeline

__all__ = ["Session", "Upstream"]

log = logging.getLogger("muxwsgi.upstream")

#: Seconds before a server is tried again that was tried already (HAProxy has the same second).
TURN_AROUND = 1.0

#: Seconds between two looks of the first one in the queue: room also comes with a slow start, or from an upstream of before a reload.
LOOK = 0.5


class Session:
    """A connection to a server, which counts for it until `end`.

    server      the server
    connection  to it, once it is there. Who uses the session closes it
    """

    __slots__ = ("_greenlet", "_line", "_upstream", "connection", "server")

    def __init__(self, upstream: "Upstream", server: UpstreamServer) -> None:
        self._upstream = upstream
        self._greenlet: Any = gevent.getcurrent()
        self.server = server
        self._line: Lifeline | None = None
        self.connection: Connection | None = None
        server.state.sessions.add(self)

    def end(self) -> None:
        """Count no more. Does not wait. Idempotent."""
        self.server.state.sessions.discard(self)
        self._upstream.wake()

    def leave_greenlet(self, line: Lifeline) -> None:
        """The session goes on without its greenlet. `line` is that of the client's connection, which is relayed."""
        self._line = line
        self._greenlet = self.connection = None

    def cut(self) -> None:
        """Have both connections ended."""
        if self._line is not None:
            self._line.fail(Cut())
        elif self.connection is not None:
            gevent.kill(self._greenlet, Cut)


class Upstream:
    """The servers of an upstream.

    settings    as given
    servers     in the order of the configuration, and behind them those of services, which come and go
    is_watched  whether its checks run. Otherwise no server would ever come up again, so none goes down
    refused     sessions that were refused, by reason
    retries     attempts after a failed one
    """

    def __init__(self, settings: UpstreamSettings, servers: Sequence[UpstreamServer], clock: Callable[[], float] = monotonic) -> None:
        self.settings = settings
        self.servers = list(servers)
        self._fixed = list(servers)
        self._services: dict[Service, list[UpstreamServer]] = {}
        self.is_watched = False
        self.refused = dict.fromkeys(REFUSALS, 0)
        self.retries = 0
        self._clock = clock
        self._choose: Callable[[Sequence[UpstreamServer], str], UpstreamServer] = choosing(settings.options)
        self._queue: deque[Event] = deque()
        self._checkers = {server: Checker(server, self._checked) for server in self.servers}

    def __str__(self) -> str:
        return self.settings.name

    @property
    def waiting(self) -> int:
        """Connections in the queue."""
        return len(self._queue)

    # Sessions

    def open(self, client: Connection) -> Session:
        """A session for `client`. The caller ends it, and closes its connection. Raises `DialError`."""
        try:
            return self._open(client)
        except AllDown:
            self.refused["down"] += 1
            raise
        except QueueFull:
            self.refused["queue_full"] += 1
            raise
        except QueueTimeout:
            self.refused["queue_timeout"] += 1
            raise
        except DialError:
            self.refused["failed"] += 1
            raise

    def _open(self, client: Connection) -> Session:
        options = self.settings.options
        deadline = monotonic() + options.total_timeout
        for service in self._services:
            service.wait(options.connect_timeout)
        failures: list[tuple[UpstreamServer, DialError]] = []
        tried: set[UpstreamServer] = set()
        for attempt in range(1 + options.retries):
            if attempt:
                usable = self._usable()
                if usable and tried.issuperset(usable):
                    gevent.sleep(max(0.0, min(TURN_AROUND, deadline - monotonic())))
                    tried.clear()
                if monotonic() >= deadline:
                    break
                self.retries += 1
            try:
                session = self._take(client, tried, deadline)
            except DialError as error:
                if not failures:
                    raise
                raise type(error)(f"{_listed(failures)}; then {error.reason}") from error
            try:
                return self._connected(session, client, deadline)
            except DialError as error:
                session.end()
                failures.append((session.server, error))
                tried.add(session.server)
            except BaseException:
                session.end()
                raise
        if len(failures) == 1:
            raise failures[0][1]
        raise AllFailed(_listed(failures))

    def _connected(self, session: Session, client: Connection, deadline: float) -> Session:
        server = session.server
        began = self._clock()
        timeout = self.settings.options.connect_timeout
        is_short = deadline - monotonic() < timeout / 2  # the queue and other servers have used up the rest
        try:
            session.connection = server.connect(client, timeout, deadline)
        except DialError as error:
            server.state.counts.connect_failures += 1
            reason = f"{error.phase}: {error.reason}"
            observed = self.is_watched and server.settings.observe == "layer4" and server.proves_fault(error)
            if not observed or (is_short and isinstance(error, DialTimeout)):
                server.state.remember(reason)
            elif server.state.note_failure(reason, began, server.settings.fall):
                self._changed(server, reason)
            raise
        server.state.note_success()
        server.state.counts.connected += 1
        return session

    def _usable(self) -> list[UpstreamServer]:
        """The servers that may get new sessions: the backups only if there is no other one."""
        usable = [server for server in self.servers if server.is_usable]
        return [server for server in usable if not server.settings.backup] or usable

    def _take(self, client: Connection, tried: set[UpstreamServer], deadline: float) -> Session:
        """A place at one of the servers. Raises `AllDown`, `QueueFull` and `QueueTimeout`."""
        options = self.settings.options
        key = client.client[0] if isinstance(client.client, tuple) else client.client
        until = min(deadline, monotonic() + options.queue_timeout)
        place: Event | None = None
        try:
            while True:
                usable = self._usable()
                if not usable:
                    raise AllDown(self._why_none())
                free = [server for server in usable if server.has_room]
                if free and (not self._queue or self._queue[0] is place):
                    return Session(self, self._choose([server for server in free if server not in tried] or free, key))
                if place is None:
                    if len(self._queue) >= options.maxqueue:
                        raise QueueFull(f"all servers are at maxconn, and {len(self._queue)} connections wait")
                    place = Event()
                    self._queue.append(place)
                left = until - monotonic()
                if left <= 0:
                    raise QueueTimeout(f"all servers stayed at maxconn for {options.queue_timeout:g} s")
                place.wait(min(left, LOOK))
                place.clear()
        finally:
            if place is not None:
                self._queue.remove(place)
                self.wake()

    def wake(self) -> None:
        """Have the first one in the queue look again, because there may be room."""
        if self._queue:
            self._queue[0].set()

    def _why_none(self) -> str:
        down = [server for server in self.servers if not server.state.up]
        held = [server for server in self.servers if server.state.up]
        parts = [f"{server} is down ({server.state.last_failure})" for server in down]
        parts += [f"{server} is in {server.state.readiness.value}" for server in held]
        parts += [f"{service}: {service.failure}" for service in self._services if service.failure]
        return "no server can be used: " + ("; ".join(parts) or "there is none")

    # State

    def start(self) -> None:
        """Watch the servers from now on."""
        self.is_watched = True
        for service in self._services:
            service.start()
        for checker in self._checkers.values():
            checker.start()

    def stop(self) -> None:
        """End the checks and lookups. Idempotent."""
        self.is_watched = False
        for service in self._services:
            service.stop()
        for server, checker in self._checkers.items():
            checker.stop()
            server.stop()

    def set_servers(self, service: Service, servers: Sequence[UpstreamServer]) -> None:
        """These are the servers of `service` now. Sessions of others go on."""
        before = self._services.get(service, [])
        self._services[service] = list(servers)
        self.servers = [*self._fixed, *(server for each in self._services.values() for server in each)]
        for server in before:
            if server not in servers:
                self._checkers.pop(server).stop()
                server.stop()
        for server in servers:
            if server not in before:
                checker = self._checkers[server] = Checker(server, self._checked)
                if self.is_watched:
                    checker.start()
        if self.is_watched:
            log.info("upstream %s: %s has the servers %s now", self, service, ", ".join(map(str, servers)) or "none")
        self._wake_all()

    def of_service(self, service: Service) -> list[UpstreamServer]:
        """The servers that `service` has now."""
        return self._services.get(service, [])

    def begin_down(self, server: UpstreamServer) -> None:
        """The worker before found this server down. Checks find out whether it is up."""
        server.state.begin_down()
        log.info("upstream %s: server %s is down, as before the reload; %s", self, server, self._left())
        self._checkers[server].wake()

    def set_readiness(self, server: UpstreamServer, readiness: Readiness) -> None:
        """Take the operator's word about a server."""
        if server.state.set_readiness(readiness):
            log.warning("upstream %s: server %s is set to %s by the operator; %s", self, server, readiness.value, self._left())
            self._checkers[server].wake()
            self._wake_all()

    def _checked(self, server: UpstreamServer, failure: str | None) -> None:
        """A check has ended."""
        if server.state.note_check(failure, server.settings.rise, server.settings.fall):
            self._changed(server, failure)

    def _changed(self, server: UpstreamServer, failure: str | None) -> None:
        """A server has gone up or down."""
        for each in self.servers:  # a debt of full weight would last long in a slow start
            each.credit = 0.0
        if server.state.up:
            log.warning("upstream %s: server %s is up: checks succeed; %s", self, server, self._left())
        else:
            log.warning("upstream %s: server %s is down: %s; %s", self, server, failure, self._left())
            self._checkers[server].wake()
            if server.settings.on_marked_down == "shutdown-sessions":
                for session in list(server.state.sessions):
                    session.cut()
        self._wake_all()

    def _left(self) -> str:
        usable = sum(server.is_usable for server in self.servers)
        return f"{usable} of {len(self.servers)} can be used" if usable else "none is left: connections are refused"

    def _wake_all(self) -> None:
        for place in self._queue:
            place.set()


def _listed(failures: Sequence[tuple[UpstreamServer, DialError]]) -> str:
    return "; ".join(f"{server}: {error.phase}: {error.reason}" for server, error in failures)
