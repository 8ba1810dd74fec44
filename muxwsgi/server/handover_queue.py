"""`HandoverQueue`: the socketpair through which workers hand over connections. Made by the master, so this module imports no gevent.

A new master in place of the old one (`server/upgrade.py`) has another queue, which the old one has made: `following`. So workers of the old
master can hand over to those of the new one, and those read only what is meant for them.
"""

import errno
import os
import socket
from array import array

from muxwsgi.wire.plain_socket import close_now

__all__ = ["LONGEST", "HandoverQueue"]

#: Bytes of a message, at most.
LONGEST = 16384

#: Errors of sendmsg(2) after which the next attempt may succeed: the queue is full, or too many descriptors are in it.
_FULL = frozenset({errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM, errno.ETOOMANYREFS})


class HandoverQueue:
    """A queue of descriptors, each with a message. All workers of a master put and get; each entry is got once.

    following   the queue of a new master's workers; None in a queue that is the following one itself
    """

    def __init__(self, sockets: tuple[socket.socket, socket.socket] | None = None, *, is_following: bool = False) -> None:
        """`sockets` are those of the old master's `following`; None makes new ones. Raises `OSError` if no descriptor is left."""
        # SOCK_SEQPACKET keeps messages apart. The first socket is read, the second one is written.
        self._out, self._in = sockets or socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._out.setblocking(False)
        self._in.setblocking(False)
        self.following = None if is_following else HandoverQueue(is_following=True)

    @property
    def sockets(self) -> tuple[socket.socket, ...]:
        """All ends, which a process that is not a worker closes: the one to read, the one to write, and those of `following`."""
        return (self._out, self._in) if self.following is None else (self._out, self._in, *self.following.sockets)

    def fileno(self) -> int:
        """The descriptor that is readable when there is an entry."""
        return self._out.fileno()

    def close(self) -> None:
        """Close all ends in this process."""
        for each in self.sockets:
            each.close()

    def put(self, descriptor: int, message: bytes) -> bool:
        """Add an entry. It has a copy of the descriptor. False if the queue is full for now, or `message` is too long. Does not wait.
        Raises `OSError`."""
        if len(message) > LONGEST:
            return False
        try:
            self._in.sendmsg([message], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", [descriptor]))], socket.MSG_NOSIGNAL)
        except OSError as error:
            if error.errno in _FULL:
                return False
            raise
        return True

    def get(self) -> tuple[int, bytes] | None:
        """The next entry, which belongs to the caller; None without one. Does not wait.

        Raises `OSError`: EMFILE, and no entry is lost, if this process has no free descriptor; and others."""
        close_now(os.dup(self._out.fileno()))  # the kernel drops a descriptor for which there is no number
        try:
            message, extra, _, _ = self._out.recvmsg(LONGEST, socket.CMSG_SPACE(array("i").itemsize), socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return None
        descriptors = array("i")
        for _, _, data in extra:
            descriptors.frombytes(data[: len(data) - len(data) % descriptors.itemsize])
        if len(descriptors) != 1:
            raise OSError(errno.EBADMSG, "an entry of the handover has no descriptor")
        return descriptors[0], message
