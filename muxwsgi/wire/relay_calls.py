"""System calls of the relay engine. None of them waits, and none raises: what fails returns the negative error number.

Reading and writing use one buffer for all relays of the process, so an idle relay holds none. `relay_calls.pxd` has the compiled half.
"""

import errno
import fcntl
import os
import select
import socket as socket_module
from collections.abc import Callable
from typing import Any

from gevent.monkey import get_original

from muxwsgi.wire.plain_socket import PlainSocket, close_now

__all__ = [
    "BLOCK",
    "END",
    "FAILED",
    "INPUT",
    "OUTPUT",
    "PIPE",
    "REST",
    "end_writing",
    "event_fd",
    "event_mask",
    "held",
    "make_epoll",
    "make_pipe",
    "move",
    "poll",
    "put",
    "put_bytes",
    "socket_error",
    "take",
    "unwatch",
    "watch",
]

#: Bytes of the shared buffer, as HAProxy's. 64 KiB is not faster: it leaves the processor's cache.
BLOCK = 16384

#: Bytes that a pipe takes. The default of 64 KiB needs four times as many calls.
PIPE = 1 << 18

#: Events in one call of `poll`, at most.
EVENTS = 256

#: Masks of events. After `END` or `REST`, a read that gets less than it asked for does not show that nothing is left: the end of the
#: stream or an error may follow, or it has stopped at urgent data.
INPUT = select.EPOLLIN
OUTPUT = select.EPOLLOUT
FAILED = select.EPOLLERR
END = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
REST = select.EPOLLPRI

_WATCHED = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLPRI | select.EPOLLET

_buffer = bytearray(BLOCK)
_view = memoryview(_buffer)
_events: list[tuple[int, int]] = []
_epolls: dict[int, Any] = {}


def take(fd: int, n: int) -> int:
    """recv(2): read up to `n` bytes, at most `BLOCK`, into the shared buffer; their number, 0 at the end of the stream."""
    return _take(fd, n)  # type: ignore[name-defined, no-any-return]  # noqa: F821


def put(fd: int, n: int) -> int:
    """send(2): write the first `n` bytes of the shared buffer; the number that was written."""
    return _put(fd, n)  # type: ignore[name-defined, no-any-return]  # noqa: F821


def held(start: int, end: int) -> bytes:
    """A copy of these bytes of the shared buffer. Raises `MemoryError`."""
    return _held(start, end)  # type: ignore[name-defined, no-any-return]  # noqa: F821


def put_bytes(fd: int, data: bytes, start: int) -> int:
    """send(2) of `data[start:]`."""
    return _put_bytes(fd, data, start)  # type: ignore[name-defined, no-any-return]  # noqa: F821


def move(source: int, target: int, n: int) -> int:
    """splice(2): move up to `n` bytes. One of the two is a pipe."""
    return _move(source, target, n)  # type: ignore[name-defined, no-any-return]  # noqa: F821


def make_pipe() -> tuple[int, int] | None:
    """The reading and the writing end of a pipe of `PIPE` bytes. None if there are no descriptors, or if the user has as much memory in
    pipes as the kernel allows (pipe-user-pages-soft)."""
    try:
        reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.fcntl(writer, _SET_PIPE_SIZE, PIPE)
    except OSError:
        close_now(reader)
        close_now(writer)
        return None
    return reader, writer


def make_epoll() -> Any:
    """An epoll object, whose descriptor is for `watch` and `poll`. Raises `OSError`."""
    made = get_original("select", "epoll")()
    _epolls[made.fileno()] = made
    return made


def watch(epoll: int, fd: int) -> int:
    """epoll_ctl(2): watch both directions of `fd`, edge-triggered."""
    return _watch(epoll, fd)  # type: ignore[name-defined, no-any-return]  # noqa: F821


def unwatch(epoll: int, fd: int) -> int:
    """The reverse of `watch`."""
    return _unwatch(epoll, fd)  # type: ignore[name-defined, no-any-return]  # noqa: F821


def poll(epoll: int) -> int:
    """epoll_wait(2): the number of events. They are kept until the next call."""
    return _poll(epoll)  # type: ignore[name-defined, no-any-return]  # noqa: F821


def event_fd(at: int) -> int:
    """The descriptor of an event."""
    return _event_fd(at)  # type: ignore[name-defined, no-any-return]  # noqa: F821


def event_mask(at: int) -> int:
    """The mask of an event."""
    return _event_mask(at)  # type: ignore[name-defined, no-any-return]  # noqa: F821


def end_writing(fd: int) -> int:
    """shutdown(2) of the writing direction."""
    return _end_writing(fd)  # type: ignore[name-defined, no-any-return]  # noqa: F821


def socket_error(fd: int) -> int:
    """The pending error of a socket, as a positive number. 0 for none."""
    return _socket_error(fd)  # type: ignore[name-defined, no-any-return]  # noqa: F821


_SET_PIPE_SIZE = getattr(fcntl, "F_SETPIPE_SZ", 1031)


def _number(call: Callable[..., Any]) -> Callable[..., int]:
    def called(*arguments: Any) -> int:
        try:
            return call(*arguments) or 0
        except OSError as error:
            return -(error.errno or errno.EIO)

    return called


def _poll_by_python(epoll: int) -> int:
    _events[:] = _epolls[epoll].poll(0, EVENTS)
    return len(_events)


def _on_socket(call: Callable[[socket_module.socket], Any], fd: int) -> Any:
    sock = PlainSocket(fileno=fd)
    try:
        return call(sock)
    finally:
        sock.detach()


# In the compiled build these names are C functions, and the compiler refuses an assignment to one. So `globals()` sets them here.
globals().update(
    _take=_number(lambda fd, n: os.readv(fd, [_view[:n]])),
    _put=_number(lambda fd, n: os.write(fd, _view[:n])),
    _held=lambda start, end: bytes(_view[start:end]),
    _put_bytes=_number(lambda fd, data, start: os.write(fd, memoryview(data)[start:])),
    _move=_number(lambda source, target, n: os.splice(source, target, n, flags=os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK)),
    _watch=_number(lambda epoll, fd: _epolls[epoll].register(fd, _WATCHED)),
    _unwatch=_number(lambda epoll, fd: _epolls[epoll].unregister(fd)),
    _poll=_number(_poll_by_python),
    _event_fd=lambda at: _events[at][0],
    _event_mask=lambda at: _events[at][1],
    _end_writing=_number(lambda fd: _on_socket(lambda sock: sock.shutdown(socket_module.SHUT_WR), fd)),
    _socket_error=lambda fd: _on_socket(lambda sock: sock.getsockopt(socket_module.SOL_SOCKET, socket_module.SO_ERROR), fd),
)
