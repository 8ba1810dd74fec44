"""Accepting: gevent's `StreamServer`, handing over plain sockets, and living on when there are no descriptors left."""

import errno
import logging
import socket
from collections.abc import Callable
from typing import Any

import gevent
from gevent.pool import Pool
from gevent.server import StreamServer

from muxwsgi.wire.transport import PlainSocket

__all__ = ["Listener", "Serve"]

log = logging.getLogger("muxwsgi.error")

Serve = Callable[[socket.socket, Any], None]

#: The file table of the process or the machine is full, or the kernel has no memory for a socket: it passes.
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

#: Nothing to accept after all, or the client went away while it waited.
_NOTHING = frozenset({errno.EAGAIN, errno.ECONNABORTED, errno.EINTR, errno.EPROTO})

#: Connections accepted before the loop turns, as nginx has it. Asking for more than there are is an exception each time, which costs more
#: than a turn of the loop.
ACCEPTED_PER_TURN = 1

#: Seconds without accepting when there are no descriptors. Waiting clients stay in the backlog meanwhile.
BACK_OFF = 0.2


class Listener(StreamServer):  # type: ignore[misc]  # gevent has no types for it
    """Calls `serve(socket, address)` in a greenlet for each connection that it accepts on `listening`, which it closes at the end.

    With a `pool` it accepts only while there is room in it.
    """

    def __init__(self, listening: socket.socket, serve: Serve, pool: Pool | None = None) -> None:
        super().__init__(listening, serve, spawn="default" if pool is None else pool)
        # Each of these is an enum member that sockets make anew when they are asked.
        self._kind = int(listening.family), int(listening.type), listening.proto
        self._tcp = listening.family != socket.AF_UNIX
        self._exhausted = False
        self.max_accept = ACCEPTED_PER_TURN

    def do_read(self) -> tuple[socket.socket, Any] | None:
        """Accept one connection; None where there is none."""
        try:
            accepted = _accept(self.socket, self._kind)
        except OSError as error:
            if error.errno in _EXHAUSTED:
                self._back_off(error)
            elif error.errno not in _NOTHING:
                raise
            elif self._exhausted:  # the backlog is empty: it is over, and not just for one connection
                self._exhausted = False
                self.max_accept = ACCEPTED_PER_TURN
                log.warning("accepting again")
            return None
        if self._tcp:
            accepted[0].setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return accepted

    def _back_off(self, error: OSError) -> None:
        if not self._exhausted:
            self._exhausted = True
            self.max_accept = StreamServer.max_accept  # to see that the backlog is empty
            log.error("cannot accept connections for now: %s", error.strerror)
        self.stop_accepting()
        gevent.spawn_later(BACK_OFF, self._resume)

    def _resume(self) -> None:
        if self.started and not self.closed:
            self.start_accepting()


def _accept(listening: socket.socket, kind: tuple[int, int, int]) -> tuple[socket.socket, Any]:
    """Accept as a `PlainSocket` of this family, type and protocol.

    The public `accept()` makes a gevent socket in a patched process, and two objects more.
    """
    try:
        accept = listening._accept  # type: ignore[attr-defined]
    except AttributeError:
        sock, address = listening.accept()
        return PlainSocket(*kind, fileno=sock.detach()), address
    fd, address = accept()
    return PlainSocket(*kind, fileno=fd), address
