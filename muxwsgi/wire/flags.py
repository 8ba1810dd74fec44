"""`recv` and `send` of a `Connection` with flags, and without waiting. Few callers use them."""

import contextlib
import errno
import socket as socket_module
from time import monotonic
from typing import TYPE_CHECKING

from muxwsgi.wire.memory import MemoryTransport
from muxwsgi.wire.transport import Buffer, ClosedTransport, SocketTransport

if TYPE_CHECKING:
    from muxwsgi.wire.connection import Connection

__all__ = ["OTHER_SEND_FLAGS", "SEND_FLAGS", "recv_as", "send_as"]

_PEEK, _WAITALL, _DONTWAIT = int(socket_module.MSG_PEEK), int(socket_module.MSG_WAITALL), int(socket_module.MSG_DONTWAIT)
_RECEIVE_FLAGS = _PEEK | _WAITALL | _DONTWAIT | int(socket_module.MSG_NOSIGNAL)
SEND_FLAGS = int(socket_module.MSG_NOSIGNAL) | int(socket_module.MSG_MORE)
OTHER_SEND_FLAGS = "the send flags that a Connection knows are MSG_NOSIGNAL, MSG_MORE and, for send(), MSG_DONTWAIT"


def recv_as(connection: "Connection", n: int, flags: int) -> bytes:
    """`recv` with flags. Between its reads other greenlets run."""
    if flags & ~_RECEIVE_FLAGS:
        raise ValueError("the receive flags that a Connection knows are MSG_PEEK, MSG_WAITALL, MSG_DONTWAIT and MSG_NOSIGNAL")
    timeout = 0.0 if flags & _DONTWAIT else connection._timeout
    if flags & _PEEK:
        return _peek_as(connection, n, bool(flags & _WAITALL), timeout)
    give_up = None if timeout is None else monotonic() + timeout
    gathered = bytearray()
    try:
        while len(gathered) < n:
            if gathered and timeout and give_up is not None and (timeout := give_up - monotonic()) <= 0:
                raise TimeoutError(errno.ETIMEDOUT, "timed out")
            if connection._ahead:
                data = bytes(connection._ahead[: n - len(gathered)])
                del connection._ahead[: len(data)]
            else:
                data = connection._transport.recv(n - len(gathered), timeout)
            connection.bytes_received += len(data)
            gathered += data
            if not data or not flags & _WAITALL:
                break
    except BaseException as error:
        if isinstance(error, BlockingIOError) and gathered:
            return bytes(gathered)
        if not isinstance(connection._transport, ClosedTransport):
            connection.unread(bytes(gathered))
        raise
    return bytes(gathered)


def _peek_as(connection: "Connection", n: int, all_of_them: bool, timeout: float | None) -> bytes:
    have = len(connection._ahead or b"")
    if all_of_them and timeout != 0:
        connection._look(n, timeout)
    elif not have:
        connection._look(min(n, 1), timeout)
    elif have < n:
        with contextlib.suppress(BlockingIOError):  # more bytes may have come by now
            connection._look(have + 1, 0.0)
    return bytes((connection._ahead or b"")[:n])


def send_as(connection: "Connection", data: Buffer, flags: int) -> int:
    """`send` with flags, or on a connection with a timeout of 0."""
    if flags & ~(SEND_FLAGS | _DONTWAIT):
        raise ValueError(OTHER_SEND_FLAGS)
    transport = connection._transport
    if connection._timeout == 0 or flags & _DONTWAIT:
        if isinstance(transport, SocketTransport | MemoryTransport):
            count = transport.send_now(memoryview(data).cast("B"))
            connection.bytes_sent += count
            return count
        if flags & _DONTWAIT and not isinstance(transport, ClosedTransport):  # a TLS record cannot be sent in part
            raise OSError(errno.EOPNOTSUPP, "MSG_DONTWAIT cannot be had in TLS: the socket of as_socket() has it")
    connection.sendall(data)
    return memoryview(data).nbytes
