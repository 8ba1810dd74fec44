"""Accepting: a greenlet for each connection, as many as there is room for, and living on when there are no descriptors left.

gevent's `StreamServer` does the same over its own sockets. Here connections are made straight from descriptors: between accept(2) and the
handler there is one object of ours where there would be two sockets, an address that is asked for again, and options set one by one.
"""

import errno
import logging
import socket
from collections import deque
from collections.abc import Callable
from typing import Any

import gevent
from gevent import get_hub

from muxwsgi.wire.connection import Address, Connection
from muxwsgi.wire.ready import READ
from muxwsgi.wire.syscalls import accept_one, kind_of

__all__ = ["Listener", "Room", "Serve"]

log = logging.getLogger("muxwsgi.error")

#: Owns the connection and closes it.
Serve = Callable[[Connection], None]

#: What is wrong with one connection and not with accepting (accept(2)): the next one may be in order.
_GONE = frozenset(
    {errno.ECONNABORTED, errno.EINTR, errno.EPROTO, errno.EPERM, errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTDOWN, errno.EHOSTUNREACH}
    | {errno.ENONET, errno.ENOPROTOOPT, errno.EOPNOTSUPP}
)

#: Connections accepted before the loop turns, as nginx has it: asking whether there are more costs as much as a turn, and of several
#: processes the one that is idle should take the next. More after a pause, to see when the backlog is empty.
ACCEPTED_PER_TURN = 1
ACCEPTED_AFTER_PAUSE = 100

#: Seconds without accepting when there are no descriptors, or no memory. Waiting clients stay in the backlog meanwhile.
BACK_OFF = 0.2


class ConnectionGreenlet(gevent.Greenlet):  # type: ignore[misc]  # gevent has no types for it
    """Serves one connection. Where it was spawned is always the same place, so no stack is taken down."""

    spawning_stack_limit = 0


class Room:
    """Room for connections, shared by listeners: at most `limit` are served at once, None for as many as come.

    taken       how many are served, where there is a limit
    """

    def __init__(self, limit: int | None) -> None:
        self.limit = limit
        self.taken = 0
        self._waiting: deque[Listener] = deque()

    @property
    def full(self) -> bool:
        """Whether one more is too many."""
        return self.limit is not None and self.taken >= self.limit

    def wait(self, listener: "Listener") -> None:
        """Let `listener` have a place when it is its turn."""
        self._waiting.append(listener)

    def take(self, greenlet: gevent.Greenlet) -> None:
        """A place for as long as `greenlet` lives, which may end before it has begun."""
        if self.limit is not None:
            self.taken += 1
            greenlet.rawlink(self._free)

    def _free(self, greenlet: gevent.Greenlet) -> None:
        self.taken -= 1
        # One place each, in the order in which they came: a crowd on one port does not lock out another.
        while self._waiting and not self.full:
            self._waiting.popleft().accept_next()


class Listener:
    """Calls `serve(connection)` in a greenlet for each connection that it accepts on `listening`, which it closes at the end."""

    def __init__(self, listening: socket.socket, serve: Serve, room: Room | None = None, server: Address | None = None) -> None:
        """`listening` does not block. `server` is the address that clients have reached, None where only the accepted socket knows."""
        self._socket = listening
        self._serve = serve
        self._room = room or Room(None)
        self._server = server
        self._kind = kind_of(listening)
        self._watcher: Any = None
        self._closed = False
        self._pausing = False
        self._exhausted = False

    def start(self) -> None:
        """Accept from now on."""
        if self._kind[0] != socket.AF_UNIX:
            # What is accepted inherits it: one call instead of one per connection (tcp(7) on Linux; a test says so where it is not).
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._watcher = get_hub().loop.io(self._socket.fileno(), READ)
        self.resume()

    def resume(self) -> None:
        """Accept again after a pause. Does nothing once closed."""
        if not self._closed:
            self._watcher.start(self._accept_some)

    def close(self) -> None:
        """Accept no more, and close the socket. Idempotent."""
        self._closed = True
        if self._watcher is not None:
            self._watcher.stop()
            self._watcher.close()
            self._watcher = None
        self._socket.close()

    def accept_next(self) -> None:
        """There is room for one more: take it, and wait for the next place; or where there is nobody, for a client."""
        if self._closed:
            return
        if self._accept(1):
            self._room.wait(self)
        elif not self._pausing:
            self.resume()

    def _accept_some(self) -> None:
        if self._room.full:
            self._watcher.stop()
            self._room.wait(self)
        else:
            self._accept(ACCEPTED_AFTER_PAUSE if self._exhausted else ACCEPTED_PER_TURN)

    def _accept(self, most: int) -> bool:
        """Accept up to `most`. Whether there was one for each. Raises nothing: the loop would stop watching for good."""
        try:
            for _ in range(most):
                if self._room.full:
                    return False
                accepted = self.accept()
                if accepted is None:
                    self._note_empty()
                    return False
                self._serve_one(*accepted)
        except Exception as error:
            if not isinstance(error, OSError) or error.errno not in _GONE:
                self._pause(error)
            return False
        return True

    def _serve_one(self, fd: int, client: Address) -> None:
        try:
            connection = Connection.accepted(fd, self._kind, client, self._server)
        except OSError:  # it is gone already, and has no address any more
            return
        self._room.take(ConnectionGreenlet.spawn(self._serve, connection))

    def accept(self) -> tuple[int, Any] | None:
        """The descriptor of the next connection and its peer's address; None where nobody waits."""
        return accept_one(self._socket, self._kind[0])

    # Whoever logs may have to wait, which the hub cannot: a greenlet does it.

    def _pause(self, error: Exception) -> None:
        self._watcher.stop()
        self._pausing = True
        gevent.spawn_later(BACK_OFF, self._end_pause)
        if not self._exhausted:
            self._exhausted = True
            reason = error.strerror if isinstance(error, OSError) else repr(error)
            gevent.spawn(log.error, "cannot accept connections for now: %s", reason)

    def _end_pause(self) -> None:
        self._pausing = False
        self.resume()

    def _note_empty(self) -> None:
        if self._exhausted:  # it is over, and not just for one connection
            self._exhausted = False
            gevent.spawn(log.warning, "accepting again")
