"""Accepting: a greenlet for each connection, as many as there is room for, and living on when there are no descriptors left.

gevent's `StreamServer` does the same over its own sockets. Here connections are made straight from descriptors: between accept(2) and the
handler there is one object of ours where there would be two sockets, an address that is asked for again, and options set one by one.
"""

import errno
import logging
import socket
from collections.abc import Callable
from typing import Any

import gevent
from gevent import get_hub

from muxwsgi.wire.connection import Address, Connection
from muxwsgi.wire.ready import READ
from muxwsgi.wire.syscalls import Kind, accept_one

__all__ = ["Listener", "Room", "Serve"]

log = logging.getLogger("muxwsgi.error")

#: Owns the connection and closes it.
Serve = Callable[[Connection], None]

#: The file table of the process or the machine is full, or the kernel has no memory for a socket: it passes.
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

#: The client went away while it waited.
_GONE = frozenset({errno.ECONNABORTED, errno.EINTR, errno.EPROTO, errno.ENETDOWN, errno.EHOSTUNREACH, errno.ENETUNREACH})

#: Connections accepted before the loop turns. Those that are served have a say in between.
ACCEPTED_PER_TURN = 16

#: Seconds without accepting when there are no descriptors. Waiting clients stay in the backlog meanwhile.
BACK_OFF = 0.2


class ConnectionGreenlet(gevent.Greenlet):  # type: ignore[misc]  # gevent has no types for it
    """Serves one connection. Where it was spawned is always the same place, so no stack is taken down."""

    spawning_stack_limit = 0


class Room:
    """Room for connections, shared by listeners: at most `limit` are served at once, None for as many as come."""

    def __init__(self, limit: int | None) -> None:
        self.limit = limit
        self.taken = 0
        self._waiting: list[Listener] = []

    @property
    def full(self) -> bool:
        """Whether one more is too many."""
        return self.limit is not None and self.taken >= self.limit

    def wait(self, listener: "Listener") -> None:
        """Resume `listener` when there is room again."""
        self._waiting.append(listener)

    def free(self) -> None:
        """A connection has ended."""
        self.taken -= 1
        while self._waiting and not self.full:
            self._waiting.pop().resume()


class Listener:
    """Calls `serve(connection)` in a greenlet for each connection that it accepts on `listening`, which it closes at the end."""

    def __init__(self, listening: socket.socket, serve: Serve, room: Room | None = None, server: Address | None = None) -> None:
        """`listening` does not block. `server` is the address that clients have reached, None where only the accepted socket knows."""
        self._socket = listening
        self._serve = serve
        self._room = room or Room(None)
        self._server = server
        self._kind: Kind = (int(listening.family), int(listening.type), listening.proto)
        self._watcher: Any = None
        self._closed = False
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

    def _accept_some(self) -> None:
        for _ in range(ACCEPTED_PER_TURN):
            if self._room.full:
                self._watcher.stop()
                self._room.wait(self)
                return
            try:
                accepted = self.accept()
            except OSError as error:
                if error.errno not in _GONE:
                    self._back_off(error)
                return
            if accepted is None:
                if self._exhausted:  # the backlog is empty: it is over, and not just for one connection
                    self._exhausted = False
                    log.warning("accepting again")
                return
            try:
                connection = Connection.accepted(accepted[0], self._kind, accepted[1], self._server)
            except OSError:  # it is gone already, and has no address any more
                continue
            self._room.taken += 1
            ConnectionGreenlet.spawn(self._serve_one, connection)

    def accept(self) -> tuple[int, Any] | None:
        """The descriptor of the next connection and its peer's address; None where nobody waits."""
        return accept_one(self._socket, self._kind[0])

    def _serve_one(self, connection: Connection) -> None:
        try:
            self._serve(connection)
        finally:
            self._room.free()

    def _back_off(self, error: OSError) -> None:
        if not self._exhausted:
            self._exhausted = True
            log.error("cannot accept connections for now: %s", error.strerror)
        self._watcher.stop()
        gevent.spawn_later(BACK_OFF, self.resume)
