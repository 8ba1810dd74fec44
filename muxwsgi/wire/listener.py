"""`Listener`: gevent's `StreamServer`, whose connections are `Connection`s.

It is used as every `StreamServer` is: `start`, `stop`, `serve_forever`, `address`, `started`, `pool` and so on are gevent's. What differs:

- `handle` is called with one argument, the `Connection`, which is closed when it returns.
- With `spawn="default"` it runs in a raw greenlet (`ConnectionGreenlet`), and `Room` limits how many there are, for several listeners
  together. With a pool, a number, None or a function, gevent's documentation of `spawn` holds.
- What gevent writes to standard error goes to the error log.
- `max_accept` is where the number of accepts at one wake-up ends. It begins with 1 and doubles as long as there is a crowd.
- `drain` accepts the connections in the backlog before it closes the socket, which would reset them.
- TLS is not an argument: a handler calls `start_tls`.

The loop itself is in `acceptor.py`.
"""

import logging
import socket
from typing import Any

import gevent
from gevent.server import StreamServer

from muxwsgi.wire.acceptor import IN_RAW_GREENLET, Acceptor, Serve
from muxwsgi.wire.connection import Address, Connection
from muxwsgi.wire.fork import leave_to_parent
from muxwsgi.wire.room import Room
from muxwsgi.wire.service import Service

__all__ = ["Listener"]

log = logging.getLogger("muxwsgi.error")


class Listener(StreamServer):  # type: ignore[misc]  # mypy is not shown its types
    """Calls `handle(connection)` in a greenlet for each connection that it accepts."""

    #: Connections accepted before the loop turns, at most. Read when accepting starts.
    max_accept = 64

    #: Seconds without accepting when there are no descriptors, or no memory. All pauses are as long as the first, because what is missing
    #: comes back when any connection ends. Clients wait in the backlog meanwhile.
    min_delay = max_delay = 0.2

    def __init__(
        self,
        listener: Any,
        handle: Serve | None = None,
        backlog: int | None = None,
        spawn: Any = "default",
        *,
        room: Room | None = None,
        server: Address | None = None,
        service: Service | None = None,
    ) -> None:
        """`listener` is an address, or a socket that listens; from `start` on it does not block. `server` is the address that clients have
        reached, None where only the accepted socket knows. `service` is what connections find as their lifeline's."""
        self._room = room or Room(None)
        self._acceptor = Acceptor(self, self._room, server, service)
        super().__init__(listener, handle, backlog, spawn)

    def set_spawn(self, spawn: Any) -> None:
        """See the documentation of `BaseServer`; "default" is a raw greenlet here."""
        super().set_spawn(spawn)
        self._acceptor.pool = self.pool
        if self.pool is not None:
            self._acceptor.spawn = self.pool.spawn
        else:
            self._acceptor.spawn = IN_RAW_GREENLET if spawn == "default" else spawn

    def set_handle(self, handle: Serve | None) -> None:
        """Set `handle` for the connections that come from now on."""
        super().set_handle(handle)
        self._acceptor.serve = self.handle

    def init_socket(self) -> None:
        """Called by `start`. Raises `TypeError` without a `handle`. `stop` forgets the one of the constructor."""
        self.set_handle(None)
        super().init_socket()
        self.socket.setblocking(False)
        if self.socket.family != socket.AF_UNIX:
            # What is accepted inherits it: one call instead of one per connection (Linux does that; a test notices where it is not so).
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        leave_to_parent(self)

    def start_accepting(self) -> None:
        """Accept, once `start` has made the socket. Does nothing where it accepts already."""
        self._acceptor.start(self.socket)

    def stop_accepting(self) -> None:
        """Accept nothing until `start_accepting`. Clients wait in the backlog meanwhile."""
        self._acceptor.stop()

    def full(self) -> bool:
        """Whether one more connection is too many."""
        return self._room.is_full()

    def do_read(self) -> tuple[Connection] | None:
        """Accept one connection and return it, None where the backlog is empty. The accept loop does not call this."""
        connection = self._acceptor.accept_connection()
        return None if connection is None else (connection,)

    def do_handle(self, *args: Any) -> None:
        """Serve a connection that `do_read` has returned. The accept loop does not call this."""
        self.loop.run_callback(self._acceptor.begin, *args)  # by the hub, to which what it starts comes back

    def do_close(self, *args: Any) -> None:
        """Close a connection that `do_read` has returned."""
        for connection in args:
            connection.finish()

    def wait_for_pool(self) -> None:
        """Accept again when the pool has a place."""
        # As `BaseServer` does it, and takes it back when it closes.
        self.pool._semaphore.rawlink(self._start_accepting_if_started)

    def fail(self, error: OSError) -> None:
        """Accepting has failed in a way that another attempt cannot mend: end it."""
        gevent.spawn(log.error, "%s accepts no more connections: %s", str(self), error.strerror)
        self.close()

    def close(self) -> None:
        """Accept no more, and close the socket and the connections that were accepted and not served yet. Idempotent."""
        super().close()
        self._acceptor.close()

    def serve_with(self, serve: Serve, service: Service | None) -> None:
        """Call `serve` from now on, for connections that have `service`. Those that are served already are not touched."""
        self.set_handle(serve)
        self._acceptor.service = service

    def drain(self) -> bool:
        """Accept all connections in the backlog, close the socket once it is empty, and serve them as there is room. To be called again, in
        a moment, until it returns True: then all of them are being served.

        Closing the socket resets the connections in the backlog, though their clients are connected. Accepting takes microseconds and
        serving may take seconds, so they are accepted first: the address is free at once, and clients that come later are refused.
        """
        if not self.closed and self._acceptor.take_backlog():
            super().close()
        return self._acceptor.serve_accepted() and self.closed

    def unserved(self) -> int:
        """How many connections were accepted and wait to be served, while it drains."""
        return self._acceptor.unserved()

    def forsake(self) -> None:
        """In a forked child, close the child's copy of the socket, see `fork`. `serve_forever` runs in the parent, so it is not woken."""
        self._acceptor.close()
        listening = self.__dict__.pop("socket", None)
        if listening is not None:
            listening.close()
