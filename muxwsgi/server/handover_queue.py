"""`HandoverQueue`: the socketpair through which workers hand over connections. Made by the master, so this module imports no gevent."""

import errno
import os
import socket
from array import array

__all__ = ["LONGEST", "HandoverQueue"]

#: Bytes of a message, at most.
LONGEST = 16384

#: Errors of sendmsg(2) after which the next attempt may succeed: the queue is full, or too many descriptors are in it.
_FULL = frozenset({errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM, errno.ETOOMANYREFS})


class HandoverQueue:
    """A queue of descriptors, each with a message. All workers of a master put and get; each entry is got once."""

    def __init__(self) -> None:
        """Raises `OSError` if no descriptor is left."""
        # It keeps messages apart. The first socket is read, the second one is written.
        self._out, self._in = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._out.setblocking(False)
        self._in.setblocking(False)

    @property
    def sockets(self) -> tuple[socket.socket, socket.socket]:
        """Both ends, which a process that is not a worker closes."""
        return self._out, self._in

    def fileno(self) -> int:
        """The descriptor that is readable when there is an entry."""
        return self._out.fileno()

    def close(self) -> None:
        """Close both ends in this process."""
        self._out.close()
        self._in.close()

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
        os.close(os.dup(self._out.fileno()))  # the kernel drops a descriptor for which there is no number
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
