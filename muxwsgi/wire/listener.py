"""Accepting: a greenlet for each connection, as many as there is room for, and living on when there are no descriptors left.

gevent's `StreamServer` does the same over its own sockets. Here connections are made straight from descriptors: between accept(2) and the
handler there is one object of ours where there would be two sockets, an address that is asked for again, and options set one by one.
"""

import errno
import logging
import resource
import socket
import sys
from collections import deque
from collections.abc import Callable
from typing import Any

import gevent
from gevent import get_hub, getcurrent
from greenlet import greenlet

from muxwsgi.wire.connection import Address, Connection
from muxwsgi.wire.fork import leave_to_parent
from muxwsgi.wire.ready import READ
from muxwsgi.wire.service import Service
from muxwsgi.wire.syscalls import accept_one, close_descriptor, kind_of

__all__ = ["Listener", "Room", "Serve"]

log = logging.getLogger("muxwsgi.error")

#: Owns the connection and closes it.
Serve = Callable[[Connection], None]

#: What is wrong with one connection and not with accepting (accept(2)): the next one may be in order.
_GONE = frozenset(
    {errno.ECONNABORTED, errno.EINTR, errno.EPROTO, errno.EPERM, errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTDOWN, errno.EHOSTUNREACH}
    | {errno.ENONET, errno.ENOPROTOOPT, errno.EOPNOTSUPP}
)

#: Connections accepted before the loop turns, at most. It begins with one, as nginx has it: of several processes the one that is idle
#: should take the next. It doubles for as long as there is a crowd: else each of it waits for a turn, and an application may make it long.
ACCEPTED_AT_MOST = 64

#: Connections that are accepted and wait to be served, at most, while it drains: a quarter of the descriptors that the process may have,
#: and this at least. The application needs some, too.
ACCEPTED_AT_LEAST = 64

#: Seconds without accepting when there are no descriptors, or no memory. Waiting clients stay in the backlog meanwhile.
BACK_OFF = 0.2


class ConnectionGreenlet(greenlet):  # type: ignore[misc]  # mypy is not shown its types
    """Serves one connection. As the greenlets of `gevent.spawn_raw` it has no `join`, no `link` and no result, which nobody asks for: in a
    `gevent.Greenlet` they are a tenth of a connection's work. `gevent.kill` works on it, and so does everything that waits.
    """

    @property
    def loop(self) -> Any:
        """Where `gevent.killall` looks for the loop of a greenlet."""
        return get_hub().loop


class Room:
    """Room for connections, shared by listeners: at most `limit` are served at once, None for as many as come.

    taken       how many are served
    """

    def __init__(self, limit: int | None) -> None:
        self.taken = 0
        self._limit = sys.maxsize if limit is None else limit
        self._waiting: deque[Listener] = deque()

    def is_full(self) -> bool:
        """Whether one more is too many."""
        return self.taken >= self._limit

    def wait(self, listener: "Listener") -> None:
        """Let `listener` have a place when it is its turn."""
        self._waiting.append(listener)

    def take(self) -> None:
        """Take a place."""
        self.taken += 1

    def free(self) -> None:
        """Give it back."""
        self.taken -= 1
        self._call_next()

    def _call_next(self) -> None:
        # By the hub, whose business accepting is: a place is given back by a connection's greenlet, and by one that ends at once while
        # `accept_next` still runs.
        if self._waiting and not self.is_full():
            get_hub().loop.run_callback(self._pass_on)

    def _pass_on(self) -> None:
        # One place each, in the order in which they came: a crowd on one port does not lock out another.
        if self._waiting and not self.is_full():
            self._waiting.popleft().accept_next()
            self._call_next()


class Listener:
    """Calls `serve(connection)` in a greenlet for each connection that it accepts on `listening`, which it closes at the end."""

    def __init__(
        self,
        listening: socket.socket,
        serve: Serve,
        room: Room | None = None,
        server: Address | None = None,
        service: Service | None = None,
    ) -> None:
        """`listening` does not block. `server` is the address that clients have reached, None where only the accepted socket knows.
        `service` is what connections find as their lifeline's."""
        self._service = service
        self._socket = listening
        self._serve = serve
        self._room = room or Room(None)
        self._hub: Any = None
        self._server = server
        self._kind = kind_of(listening)
        self._watcher: Any = None
        self._pause_timer: Any = None  # made beforehand: a pause is for want of memory, too
        self._closed = False
        self._pausing = False  # until the timer ends it
        self._exhausted = False  # from a failure until the backlog was found empty: each is logged once, and not with every pause
        self._most = 1
        self._draining = False
        self._accepted: deque[tuple[int, Any]] = deque()  # while it drains: taken from the backlog, and not served yet
        self._serving_them = False  # `_serve_accepted` is due, or waits for room

    def start(self) -> None:
        """Accept from now on."""
        if self._kind[0] != socket.AF_UNIX:
            # What is accepted inherits it: one call instead of one per connection (tcp(7) on Linux; a test says so where it is not).
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._hub = get_hub()
        loop = self._hub.loop
        self._pause_timer = loop.timer(0, BACK_OFF)  # one that does not repeat would be over at once when it is started again
        self._watcher = loop.io(self._socket.fileno(), READ)
        leave_to_parent(self)
        self.resume()

    def forsake(self) -> None:
        """In a forked child: close the child's copy of the socket, see `fork`."""
        self.close()

    def resume(self) -> None:
        """Accept again after a pause. Does nothing once closed."""
        if not self._closed and self._watcher is not None:
            self._watcher.start(self._accept_some)

    def serve_with(self, serve: Serve, service: Service | None) -> None:
        """Call `serve` from now on, for connections that have `service`. Those that are served already are not touched."""
        self._serve = serve
        self._service = service

    def drain(self) -> bool:
        """Accept all who wait in the backlog, close the socket once it is empty, and serve them as there is room. To be called again, in a
        moment, until it returns True: then everybody is being served.

        Closing the socket resets those who wait there, though the kernel has told them that they are connected. Accepting takes
        microseconds and serving may take seconds, so they are accepted first: the address is free at once, and who comes later is refused.
        """
        self._draining = True
        self._stop_watching()
        if not self._closed:
            self._take_backlog()
        if self._accepted and not self._serving_them:
            self._serving_them = True
            self._hub.loop.run_callback(self._serve_accepted)
        return self._closed and not self._accepted

    def unserved(self) -> int:
        """Connections that were accepted and wait to be served, while it drains."""
        return len(self._accepted)

    def close(self) -> None:
        """Accept no more, close the socket, and those who were accepted and not served yet. Idempotent."""
        self._closed = True
        self._stop_watching()
        self._socket.close()
        while self._accepted:
            close_descriptor(self._accepted.popleft()[0])

    def _stop_watching(self) -> None:
        if self._watcher is not None:
            self._watcher.stop()
            self._watcher.close()
            self._watcher = None
            self._pause_timer.stop()
            self._pause_timer.close()

    def _take_backlog(self) -> None:
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        most = sys.maxsize if limit == resource.RLIM_INFINITY else max(ACCEPTED_AT_LEAST, limit // 4)
        while len(self._accepted) < most:
            try:
                accepted = self.accept()
            except OSError as error:
                if error.errno in _GONE:
                    continue
                return  # no descriptors: as others end there are some
            if accepted is None:
                self._closed = True
                self._socket.close()
                return
            self._accepted.append(accepted)

    def _serve_accepted(self) -> None:
        """Serve one of those who were accepted, as the hub, and come back for the next."""
        self._serving_them = bool(self._accepted)
        if not self._accepted:
            return
        if self._room.is_full():
            self._room.wait(self)
            return
        fd, client = self._accepted.popleft()
        self._hub.loop.run_callback(self._serve_accepted)
        self._serve_one(fd, client)

    def accept_next(self) -> None:
        """There is room for one more: take it, and wait for the next place; or where there is nobody, for a client."""
        if self._draining:
            self._serve_accepted()
            return
        if self._closed:
            return
        if self._accept(1):
            self._room.wait(self)
        elif not self._pausing:
            self.resume()

    def _accept_some(self) -> None:
        if self._room.is_full():
            self._watcher.stop()
            self._room.wait(self)
        elif self._accept(self._most):
            self._most = min(2 * self._most, ACCEPTED_AT_MOST)
        else:
            self._most = 2 if self._exhausted else 1  # only an accept that finds nobody says that it is over

    def _accept(self, most: int) -> bool:
        """Accept up to `most`. Whether there was one for each. Raises nothing: the loop would stop watching for good."""
        try:
            for _ in range(most):
                if self._closed or self._draining or self._room.is_full():  # the handler of the last one may have done it
                    return False
                accepted = self.accept()
                if accepted is None:
                    self._note_empty()
                    return False
                self._serve_one(accepted[0], accepted[1])
        except Exception as error:
            if not isinstance(error, OSError) or error.errno not in _GONE:
                self._pause(error)
            return False
        return True

    def _serve_one(self, fd: int, client: Address) -> None:
        try:
            connection = Connection.accepted(fd, self._kind, client, self._server, self._hub)
        except OSError:  # it is gone already, and has no address any more
            return
        connection.lifeline.service = self._service
        # From the hub, where this is: the connection is served until it first waits, without the loop between.
        try:
            ConnectionGreenlet(self._run, self._hub).switch(connection)
        except BaseException:  # it has not begun
            connection.finish()  # nobody else does, and its circle of references would keep it open
            raise

    def _run(self, connection: Connection) -> None:
        """All that a connection's greenlet does. What it raised would come out where it was started."""
        self._room.take()
        try:
            self._serve(connection)
        except BaseException:
            self._hub.handle_error(getcurrent(), *sys.exc_info())
        finally:
            self._room.free()

    def accept(self) -> tuple[int, Any] | None:
        """The descriptor of the next connection and its peer's address; None where nobody waits."""
        return accept_one(self._socket, self._kind[0])

    # Whoever logs may have to wait, which the hub cannot: a greenlet does it.

    def _pause(self, error: Exception) -> None:
        if self._watcher is None:  # a handler has closed or drained the listener
            return
        self._watcher.stop()
        self._pausing = True
        self._pause_timer.again(self._end_pause)
        if not self._exhausted:
            reason = error.strerror if isinstance(error, OSError) else repr(error)
            try:
                gevent.spawn(log.error, "cannot accept connections for now: %s", reason)
            except MemoryError:  # then the next pause says it
                return
            self._exhausted = True

    def _end_pause(self) -> None:
        self._pause_timer.stop()
        self._pausing = False
        self.resume()

    def _note_empty(self) -> None:
        if self._exhausted:  # it is over, and not just for one connection
            self._exhausted = False
            gevent.spawn(log.warning, "accepting again")
