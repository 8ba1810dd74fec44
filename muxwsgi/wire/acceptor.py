"""`Acceptor`: the accept loop of a `Listener`.

gevent's own loop makes two sockets for each connection, asks for an address that accept(2) has returned, and starts a `Greenlet`. Here a
`Connection` is made from the descriptor, and a raw greenlet starts in the accept itself. That saves a third of the instructions of a
connection that carries one request. The loop is a separate class because a compiled class cannot inherit from `StreamServer`.

What the loop does, by state:

- idle: there is no watcher. `start` makes it and watches the listening socket.
- watching: each time that the socket is readable, `_accept_some` accepts up to `_most` connections. Each is served, in its own greenlet,
  until it first waits; then the hub comes back to the loop.
- waiting for room: the watcher is stopped. `Room` calls `accept_next` when a place is free and those that waited before have had theirs.
  Where a pool is full, the watcher is gone, and the pool calls `Listener.start_accepting`.
- standing back: other workers of the same sockets have fewer connections, so the watcher is stopped for a millisecond, and then one
  connection is accepted. Only with an `AcceptGate`.
- pausing: accept(2) has failed, so the watcher is stopped until `_pause_timer` has ticked often enough. Clients wait in the backlog.
- draining: `take_backlog` accepts the whole backlog, up to a limit, and `_serve_accepted` serves it as there is room.
- closed: nothing starts it again but `start`.

All of it runs in the hub, which cannot wait. So it logs by another greenlet.
"""

import errno
import logging
import resource
import socket
import sys
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

import gevent
from gevent import get_hub, getcurrent
from greenlet import greenlet

from muxwsgi.wire.connection import Address, Connection
from muxwsgi.wire.ready import READ
from muxwsgi.wire.room import AcceptGate, Room
from muxwsgi.wire.service import Service
from muxwsgi.wire.syscalls import accept_one, close_descriptor, kind_of

__all__ = ["GATE_PAUSE", "IN_RAW_GREENLET", "Acceptor", "ConnectionGreenlet", "Serve"]

log = logging.getLogger("muxwsgi.error")

#: Serves a connection, which is closed when it returns.
Serve = Callable[[Connection], None]

#: Stands for the default way to serve a connection: in a `ConnectionGreenlet`.
IN_RAW_GREENLET: Any = object()

#: Errors of accept(2) that are about one connection: the next one may be accepted.
_CONNECTION_FAILED = frozenset(
    {errno.ECONNABORTED, errno.EINTR, errno.EPROTO, errno.EPERM, errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTDOWN, errno.EHOSTUNREACH}
    | {errno.ENONET, errno.ENOPROTOOPT, errno.EOPNOTSUPP}
)

#: Failures of that kind, one after the other, after which accepting pauses. A system call filter answers EPERM every time.
FAILED_IN_A_ROW = 64

#: Seconds between two ticks of the timer for pauses, at least.
SHORTEST_PAUSE = 0.001

#: Seconds in which other workers may accept what this one leaves to them. A tick of the timer, which is a millisecond.
GATE_PAUSE = 0.001

#: Connections that are accepted and wait to be served, at most, while it drains: a quarter of the descriptors that the process may have,
#: and this at least. The application needs some, too.
ACCEPTED_AT_LEAST = 64


class Owner(Protocol):
    """The parts of a `Listener` that the loop uses."""

    max_accept: int
    min_delay: float
    max_delay: float
    delay: float

    def is_fatal_error(self, error: BaseException) -> bool: ...
    def fail(self, error: OSError) -> None: ...
    def wait_for_pool(self) -> None: ...


class ConnectionGreenlet(greenlet):  # type: ignore[misc]  # mypy is not shown its types
    """Serves one connection. As the greenlets of `gevent.spawn_raw` it has no `join`, no `link` and no result. In a `gevent.Greenlet` these
    are a tenth of a connection's work. `gevent.kill` works on it, and so does everything that waits.
    """

    @property
    def loop(self) -> Any:
        """Where `gevent.killall` looks for the loop of a greenlet."""
        return get_hub().loop


class Acceptor:
    """Accepts for `owner` and serves each connection. See the file for its states.

    serve       the function that serves a connection
    service     the `service` of the connections' lifelines
    spawn       how it is called: `IN_RAW_GREENLET`; None for in the hub; any other is called as `gevent.spawn`
    pool        the pool that limits connections, None without
    """

    def __init__(self, owner: Owner, room: Room, server: Address | None, service: Service | None) -> None:
        """`server` is the address that clients have reached, None where only the accepted socket knows."""
        self.serve: Any = None
        self.spawn: Any = IN_RAW_GREENLET
        self.pool: Any = None
        self._owner = owner
        self.service = service
        self._socket: Any = None
        self._room = room
        self._hub: Any = None
        self._server = server
        self._kind = (0, 0, 0)
        self._watcher: Any = None
        self._pause_timer: Any = None  # made beforehand, since a pause may be for want of memory
        self._ticks = 0  # of the timer, until the pause ends
        self._pausing = False
        self._waits_for_room = False
        self._gate: AcceptGate | None = None
        self._gate_timer: Any = None
        self._stood_back = False  # the next one is accepted without asking the gate
        self._exhausted = False  # from a failure until the backlog was found empty: each is logged once, and not with every pause
        self._failed = 0  # in a row, each with its connection's own fault
        self._delayed = False  # from a pause until an accept succeeds
        self._most = 1  # connections accepted before the loop turns: see `_accept_some`
        self._at_most = 1  # where that ends
        self._draining = False
        self._accepted: deque[tuple[int, Any]] = deque()  # while it drains: taken from the backlog, and not served yet
        self._serving_them = False  # `_serve_accepted` is due, or waits for room

    def start(self, listening: socket.socket) -> None:
        """Accept from `listening`, which does not block. Does nothing where it accepts already."""
        if self._watcher is not None:
            return
        self._socket = listening
        self._kind = kind_of(listening)
        self._hub = get_hub()
        self._draining = False
        self._at_most = self._owner.max_accept
        loop = self._hub.loop
        # One that does not repeat would be over at once when it is started again.
        self._pause_timer = loop.timer(0, max(self._owner.min_delay, SHORTEST_PAUSE))
        self._watcher = loop.io(listening.fileno(), READ)
        self._stood_back = False
        self._gate = self._room.gate
        if self._gate is not None and listening.family != socket.AF_UNIX and listening.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT):
            self._gate = None  # the kernel has chosen this process: no other one sees the same connections
        if self._gate is not None:
            self._gate_timer = loop.timer(0, GATE_PAUSE)
        if not self._waits_for_room:
            self._watcher.start(self._accept_some)

    def stop(self) -> None:
        """Accept no more, until `start`. Idempotent."""
        self._pausing = False
        if self._watcher is not None:
            self._watcher.stop()
            self._watcher.close()
            self._watcher = None
            self._pause_timer.stop()
            self._pause_timer.close()
            if self._gate_timer is not None:
                self._gate_timer.stop()
                self._gate_timer.close()
                self._gate_timer = None

    def close(self) -> None:
        """`stop`, and close the connections that were accepted and not served yet. Idempotent."""
        self.stop()
        while self._accepted:
            close_descriptor(self._accepted.popleft()[0])

    def take_backlog(self) -> bool:
        """Accept all connections in the backlog. Whether it is empty now."""
        self._draining = True
        self.stop()
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        most = sys.maxsize if limit == resource.RLIM_INFINITY else max(ACCEPTED_AT_LEAST, limit // 4)
        failed = 0
        while len(self._accepted) < most:
            try:
                accepted = self.accept()
            except OSError as error:
                failed += 1
                if error.errno in _CONNECTION_FAILED and failed < FAILED_IN_A_ROW:
                    continue
                return False  # no descriptors: as others end there are some
            if accepted is None:
                return True
            failed = 0
            self._accepted.append(accepted)
        return False

    def serve_accepted(self) -> bool:
        """Go on serving what `take_backlog` accepted. Whether all of them are served."""
        if self._accepted and not self._serving_them:
            self._serving_them = True
            self._hub.loop.run_callback(self._serve_accepted)
        return not self._accepted

    def unserved(self) -> int:
        """How many connections were accepted and wait to be served, while it drains."""
        return len(self._accepted)

    def _serve_accepted(self) -> None:
        """Called by the hub: serve one of the connections that were accepted, and come back for the next."""
        self._serving_them = bool(self._accepted)
        if not self._accepted:
            return
        if self._room.is_full():
            self._wait_for_room()
            return
        if self._pool_is_full():  # `serve_accepted` is called again
            self._serving_them = False
            return
        fd, client = self._accepted.popleft()
        self._hub.loop.run_callback(self._serve_accepted)
        self._serve_one(fd, client)

    def _wait_for_room(self) -> None:
        if not self._waits_for_room:
            self._waits_for_room = True
            self._room.wait(self)

    def _pool_is_full(self) -> bool:
        return self.pool is not None and self.pool.full()

    def accept_next(self) -> None:
        """There is room for one more: accept it, and wait for the next place; or for a client, where the backlog is empty."""
        self._waits_for_room = False
        if self._draining:
            self._serve_accepted()
            return
        if self._watcher is None:
            return
        if self._pool_is_full():
            self._wait_for_pool()
        elif self._gate is not None and not self._admitted():
            pass
        elif self._accept(1):
            self._wait_for_room()
        elif self._watcher is not None and not self._pausing:
            self._watcher.start(self._accept_some)

    def _wait_for_pool(self) -> None:
        self.stop()
        self._owner.wait_for_pool()

    def _accept_some(self) -> None:
        # It begins with one, as nginx does: of several processes the one that is idle should take the next. It doubles for as long as there
        # is a crowd: otherwise each of it waits for a turn, and an application may make that long.
        if self._room.is_full():
            self._watcher.stop()
            self._wait_for_room()
            return
        most = self._most
        if self._gate is not None:
            most = min(most, self._admitted())
            if not most:
                return
        if self._accept(most):
            if most == self._most:
                self._most = min(2 * most, self._at_most)
        else:
            self._most = min(2, self._at_most) if self._exhausted else 1  # only an empty backlog shows that the failure is over

    def _admitted(self) -> int:
        """How many connections the gate lets in now. With 0, it is called again in a moment."""
        assert self._gate is not None
        if self._stood_back:
            self._stood_back = False
            return 1
        allowed = self._gate.allowed()
        if not allowed:
            self._stood_back = True
            self._watcher.stop()
            self._gate_timer.again(self._come_forward, update=True)
        return allowed

    def _come_forward(self) -> None:
        self._gate_timer.stop()
        if not self._pausing and not self._waits_for_room:
            self._watcher.start(self._accept_some)

    def _accept(self, most: int) -> bool:
        """Accept up to `most`. Whether there was one for each. Raises nothing: the loop would stop watching for good."""
        accepting = True
        try:
            for _ in range(most):
                # The handler of the last one may have stopped it.
                if self._watcher is None or self._draining or self._room.is_full():
                    return False
                if self._pool_is_full():
                    self._wait_for_pool()
                    return False
                accepting = True
                accepted = self.accept()
                if self._failed or self._delayed:
                    self._note_success()
                if accepted is None:
                    self._note_empty()
                    return False
                accepting = False
                self._serve_one(accepted[0], accepted[1])
        except Exception as error:
            self._note_failure(error, accepting)
            return False
        return True

    def _note_failure(self, error: Exception, accepting: bool) -> None:
        if isinstance(error, OSError) and accepting:
            if error.errno in _CONNECTION_FAILED:
                self._failed += 1
                if self._failed < FAILED_IN_A_ROW:
                    return
            elif self._owner.is_fatal_error(error):
                self._owner.fail(error)
                return
        self._pause(error)

    def _serve_one(self, fd: int, client: Address) -> None:
        try:
            connection = Connection.accepted(fd, self._kind, client, self._server, self._hub)
        except OSError:  # it is gone already, and has no address any more
            return
        connection.lifeline.service = self.service
        self.begin(connection)

    def begin(self, connection: Connection) -> None:
        """Serve `connection`, in the way that `spawn` is."""
        spawn = self.spawn
        try:
            if spawn is IN_RAW_GREENLET:
                # From the hub, where this is: the connection is served until it first waits, without the loop between.
                ConnectionGreenlet(self._run, self._hub).switch(connection)
            elif spawn is None:
                self._run(connection)
            else:
                spawn(self._run_in_place, connection)
        except BaseException:  # it has not begun
            connection.finish()  # nothing else does, and its circle of references would keep it open
            raise

    def _run(self, connection: Connection) -> None:
        """All that a connection's greenlet does. What it raised would come out where it was started."""
        try:
            self._run_in_place(connection)
        except BaseException:
            self._hub.handle_error(getcurrent(), *sys.exc_info())

    def _run_in_place(self, connection: Connection) -> None:
        """The same for a greenlet that reports what it raised by itself."""
        self._room.take()
        try:
            self.serve(connection)
        finally:
            if connection.lifeline.afterwards is None:
                self.over(connection, None)
            else:
                connection.lifeline.afterwards.append(self)

    def over(self, connection: Connection, error: BaseException | None) -> None:
        """`connection` is not served any more. See `Lifeline.afterwards`."""
        try:
            if connection.lifeline.top is not None:  # neither closed nor detached
                connection.finish()
        finally:
            self._room.free()

    def accept_connection(self) -> Connection | None:
        """The next connection, None where the backlog is empty."""
        accepted = self.accept()
        if accepted is None:
            return None
        connection = Connection.accepted(accepted[0], self._kind, accepted[1], self._server, self._hub)
        connection.lifeline.service = self.service
        return connection

    def accept(self) -> tuple[int, Any] | None:
        """The descriptor of the next connection and its peer's address; None where the backlog is empty."""
        return accept_one(self._socket, self._kind[0])

    def _pause(self, error: Exception) -> None:
        if self._watcher is None:  # a handler has closed or drained the listener
            return
        owner = self._owner
        if owner.delay >= 0:
            self._watcher.stop()
            self._pausing = self._delayed = True
            self._ticks = int(owner.delay / max(owner.min_delay, SHORTEST_PAUSE) + 0.5)
            owner.delay = min(owner.max_delay, 2 * owner.delay)
            self._pause_timer.again(self._end_pause)
        if not self._exhausted:
            reason = error.strerror if isinstance(error, OSError) else repr(error)
            try:
                gevent.spawn(log.error, "cannot accept connections for now: %s", reason)
            except MemoryError:  # then the next pause logs it
                return
            self._exhausted = True

    def _end_pause(self) -> None:
        self._ticks -= 1
        if self._ticks > 0:
            return
        self._pause_timer.stop()
        self._pausing = False
        if not self._waits_for_room:
            self._watcher.start(self._accept_some)

    def _note_success(self) -> None:
        self._failed = 0
        self._delayed = False
        self._owner.delay = self._owner.min_delay

    def _note_empty(self) -> None:
        if self._exhausted:  # it is over, and not just for one connection
            self._exhausted = False
            gevent.spawn(log.warning, "accepting again")
