"""How the admin process gets a stream to each worker, also to those that start after it, and after it was started again. No gevent.

The master makes one pair of sockets before it forks. A worker makes another pair, keeps one end, and sends the other one through the first
pair to the admin process (SCM_RIGHTS, unix(7)). When the admin process ends, so do its streams, and each worker sends a new one. What waits
in the pair meanwhile is bounded by the kernel. All of it is private to the processes of one master: there is no name in a folder or in a
network namespace.
"""

import array
import os
import socket
from contextlib import suppress

__all__ = ["Introductions"]

_FD = array.array("i").itemsize


class Introductions:
    """Made by the master. A child keeps one end: `in_worker` or `in_admin`."""

    def __init__(self) -> None:
        """Raises `OSError` if no descriptor is left."""
        self._workers, self._admin = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def in_worker(self) -> None:
        """Keep the end of workers."""
        _close(self._admin)
        self._workers.setblocking(False)

    def in_admin(self) -> socket.socket:
        """Keep the end of the admin process, and return it. It blocks."""
        _close(self._workers)
        return self._admin

    def close(self) -> None:
        """Close both ends. Idempotent."""
        _close(self._workers)
        _close(self._admin)

    def introduce(self) -> socket.socket | None:
        """In a worker: a stream to the admin process. None if it has not taken the last ones yet; try again later."""
        try:
            own, other = socket.socketpair()
        except OSError:  # no descriptors
            return None
        with other:
            try:
                self._workers.sendmsg(
                    [str(os.getpid()).encode()], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [other.fileno()]))]
                )
            except OSError:
                own.close()
                return None
        return own


def receive(introductions: socket.socket) -> tuple[int, socket.socket] | None:
    """In the admin process: the pid of a worker, and the stream to it. Waits. None if no descriptor was left for the stream. Raises
    `EOFError` when the master and all workers have ended."""
    data, ancillary, _, _ = introductions.recvmsg(32, socket.CMSG_SPACE(_FD))
    if not data:
        raise EOFError
    for level, kind, numbers in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            (fd,) = array.array("i", numbers[:_FD])
            return int(data), socket.socket(fileno=fd)
    return None


def _close(sock: socket.socket) -> None:
    with suppress(OSError):
        sock.close()
