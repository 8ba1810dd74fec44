"""Sockets that a `Connection` gives away."""

import _socket
import errno
import os
import socket as socket_module
from collections.abc import Callable, Iterable
from select import POLLIN, POLLOUT
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

import gevent.socket
from gevent.monkey import get_original

if TYPE_CHECKING:
    import select

    from muxwsgi.wire.connection import Connection

__all__ = ["KeptSocket", "StreamSocket"]

#: The unpatched functions.
_poll: Callable[[], "select.poll"] = get_original("select", "poll")
_thread_id: Callable[[], int] = get_original("threading", "get_ident")

#: The type of the value that a read returns if there are no bytes.
Nothing = TypeVar("Nothing", bytes, int)

_DONTWAIT = int(socket_module.MSG_DONTWAIT)

#: Options of these levels, and these options of the socket level, are set on the connection. They have no effect on a socketpair.
_LEVELS = frozenset({int(socket_module.IPPROTO_IP), int(socket_module.IPPROTO_IPV6), int(socket_module.IPPROTO_TCP)})
_OPTIONS = frozenset({int(socket_module.SO_KEEPALIVE), int(socket_module.SO_LINGER)})


class Carrier(Protocol):
    """The object that copies the bytes of a connection.

    failure     the error that ended the connection; None for a regular end, and before the end
    torn        not all bytes of the application reach the peer, so the connection has to end in a reset
    """

    failure: OSError | None
    torn: bool


class KeptSocket(gevent.socket.socket):  # type: ignore[misc]  # mypy is not shown its type
    """A socket whose descriptor may have another owner. So only `close()` closes it, and garbage collection does not."""

    def __del__(self) -> None:
        if not self._closed:
            _socket.socket.detach(self._sock)


class StreamSocket(gevent.socket.socket):  # type: ignore[misc]
    """The application's end of the socketpair behind `Connection.as_socket()`.

    It behaves as code for blocking sockets expects. gevent's sockets do not:

    - `send` sends everything, as send(2) on a blocking socket does;
    - it may be used in any thread. In the server's thread, a wait blocks the greenlet; in others, it blocks the thread;
    - its descriptor is in blocking mode, for processes that inherit it. So each call here has MSG_DONTWAIT;
    - if the connection fails (a reset, `Expired`, `Draining`), `recv` raises that error, so that an incomplete stream does not look
      complete. A socketpair alone can only show an end. Code that reads the descriptor without this object sees that end.

    connection      the connection behind it
    """

    connection: "Connection"
    _carrier: "Carrier"
    _home: int

    @classmethod
    def over(cls, sock: socket_module.socket, connection: "Connection", carrier: "Carrier") -> "StreamSocket":
        """A `StreamSocket` with the descriptor of `sock`, which it takes over."""
        made = cls(sock.family, sock.type, sock.proto, fileno=sock.detach())
        made.connection = connection
        made._carrier = carrier
        made._home = _thread_id()
        os.set_blocking(made.fileno(), True)
        return made

    def dup(self) -> "StreamSocket":
        """Another socket for the same stream. The connection ends when both are closed."""
        copy: StreamSocket = super().dup()
        copy.connection, copy._carrier, copy._home = self.connection, self._carrier, self._home
        return copy

    # Waiting

    def _wait(self, watcher: Any, timeout_exc: Any = None) -> None:
        if _thread_id() == self._home:
            super()._wait(watcher, *([] if timeout_exc is None else [timeout_exc]))
            return
        poll = _poll()
        poll.register(self.fileno(), POLLOUT if watcher is self._write_event else POLLIN)
        if not poll.poll(None if self.timeout is None else self.timeout * 1000):
            raise timeout_exc or TimeoutError("timed out")

    def _real_close(self, *more: Any) -> None:
        if _thread_id() == self._home:
            super()._real_close(*more)
        else:  # gevent's loop must not be used in other threads
            self.hub.loop.run_callback_threadsafe(super()._real_close)

    # Reading

    def recv(self, bufsize: int, flags: int = 0) -> bytes:
        """As `socket.recv`."""
        data: bytes = super().recv(bufsize, flags | _DONTWAIT)
        return data if data or not bufsize else self._end(data)

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        """As `socket.recv_into`."""
        count: int = super().recv_into(buffer, nbytes, flags | _DONTWAIT)
        return count if count or not memoryview(buffer).nbytes else self._end(count)

    def recvfrom(self, bufsize: int, flags: int = 0) -> tuple[bytes, Any]:
        """As `socket.recvfrom`; the address is None, as on every stream."""
        return self.recv(bufsize, flags), None

    def recvfrom_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> tuple[int, Any]:
        """As `socket.recvfrom_into`."""
        return self.recv_into(buffer, nbytes, flags), None

    def recvmsg(self, bufsize: int, ancbufsize: int = 0, flags: int = 0) -> tuple[bytes, list[Any], int, Any]:
        """As `socket.recvmsg`. There is no ancillary data."""
        return self.recv(bufsize, flags), [], 0, None

    def recvmsg_into(self, buffers: Iterable[Any], ancbufsize: int = 0, flags: int = 0) -> tuple[int, list[Any], int, Any]:
        """As `socket.recvmsg_into`, into the first of `buffers` that is not empty."""
        for buffer in buffers:
            if memoryview(buffer).nbytes:
                return self.recv_into(buffer, 0, flags), [], 0, None
        return 0, [], 0, None

    def _end(self, nothing: Nothing) -> Nothing:
        """`nothing` at a regular end of the stream. Raises the error that ended it otherwise."""
        failure = self._carrier.failure
        if failure is not None:
            raise type(failure)(*failure.args) from failure
        return nothing

    # Writing

    def sendall(self, data: Any, flags: int = 0) -> None:
        """As `socket.sendall`."""
        view = memoryview(data).cast("B")
        give_up = None if self.timeout is None else monotonic() + self.timeout
        done = 0
        try:
            while done < len(view):
                if done and give_up is not None and monotonic() > give_up:
                    raise TimeoutError("timed out")
                done += super().send(view[done:], flags | _DONTWAIT)
        except BaseException:
            if done:
                self._carrier.torn = True
            raise

    def send(self, data: Any, flags: int = 0, *more: Any) -> int:
        """Send all of `data`, and return the number of bytes. A socket with a timeout of 0 may send less."""
        if self.timeout == 0 or flags & _DONTWAIT:
            return int(super().send(data, flags | _DONTWAIT, 0))
        self.sendall(data, flags)
        return memoryview(data).nbytes

    def sendmsg(self, buffers: Iterable[Any], ancdata: Iterable[Any] = (), flags: int = 0, address: Any = None) -> int:
        """As `send`, of all `buffers`. Raises `OSError` (EOPNOTSUPP) for `ancdata`."""
        if list(ancdata):
            raise OSError(errno.EOPNOTSUPP, "a connection carries no ancillary data")
        return self.send(b"".join(buffers), flags)

    # Names and options

    def getpeername(self) -> Any:
        """The peer of the connection."""
        return self.connection.client

    def getsockname(self) -> Any:
        """The local address of the connection."""
        return self.connection.server

    def setsockopt(self, level: int, option: int, *value: Any) -> None:
        """Options of TCP and IP, SO_KEEPALIVE and SO_LINGER are set on the connection, others on the socketpair."""
        if level in _LEVELS or (level == socket_module.SOL_SOCKET and option in _OPTIONS):
            self.connection.setsockopt(level, option, *value)
        else:
            super().setsockopt(level, option, *value)

    def getsockopt(self, level: int, option: int, *length: int) -> int | bytes:
        """The option of the socket that `setsockopt` sets it on."""
        if level in _LEVELS or (level == socket_module.SOL_SOCKET and option in _OPTIONS):
            return self.connection.getsockopt(level, option, *length)
        return cast("int | bytes", super().getsockopt(level, option, *length))
