"""`Output`: writes bytes to a descriptor without waiting for a reader. Imports no gevent, so a process without a hub can use it.

A pipe takes 64 KiB. Then the next write(2) blocks until the reader reads, and a server with one thread would stop. So bytes that a pipe, a
terminal or a socket does not take at once wait in memory, up to a limit. Bytes beyond the limit are lost and counted.

Other ways, and why they are not used:
- O_NONBLOCK belongs to the open file description, which the shell and all processes that inherited it share. So a pipe or a terminal is
  opened once more, through /proc/self/fd, and this new description is not shared. A socket gets MSG_DONTWAIT with each send.
- A thread that writes from a queue: the last lines are lost if the process crashes, a forked child does not have the thread, and each line
  costs two changes of the GIL's owner. Here the pipe has the bytes when `write` returns.
"""

import _socket
import _thread
import errno
import io
import os
import select
import stat
import sys
import time
import weakref
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

__all__ = ["Output", "TextOutput", "may_wait", "native", "standard_output"]

#: Bytes that may wait for a reader. A single record may be larger.
WAITING_AT_MOST = 1 << 20

#: If poll(2) reports room, write(2) on a pipe takes so many bytes whole.
PIPE_BUF = select.PIPE_BUF

#: Seconds between two attempts to write waiting bytes, if the caller waits for that.
RETRY = 0.02


class Output:
    """Writes as many bytes as the descriptor takes, and keeps the rest for the next attempt.

    lost    number of lines that are lost
    """

    def __init__(self, fd: int, *, shared: bool = False, at_most: int = WAITING_AT_MOST) -> None:
        """Takes over `fd`, which does not block. A `shared` one (standard output) may block, and is neither changed nor closed."""
        self.lost = 0
        self._fd = fd
        self._shared = shared
        self._at_most = at_most
        self._waiting: deque[bytes] = deque()
        self._size = 0  # bytes that wait
        self._begun = False  # a part of the first waiting record is written
        self._torn = False  # the rest of a line that was begun is lost
        # A destructor or a signal handler that prints may run in the middle of a write. So the lock is reentrant, and only excludes other
        # threads.
        self._lock = native(_thread, "RLock")()
        self._busy = False  # a write or a flush is under way
        self._own: Any = None  # the object to close
        self._identity = _identity(fd)
        self._send: Callable[[bytes], int] = partial(os.write, fd)
        if shared:
            self._prepare()
        _outputs.add(self)

    @property
    def waiting(self) -> bool:
        """Whether bytes wait for the descriptor."""
        return bool(self._waiting)

    def is_named(self, path: str) -> bool:
        """Whether `path` is the name of this file."""
        try:
            status = os.stat(path)
        except OSError:
            return False
        return (status.st_dev, status.st_ino) == self._identity

    def same_reader(self, fd: int) -> bool:
        """Whether `fd` refers to the same pipe, socket or terminal."""
        return may_wait(fd) and self._identity == _identity(fd)

    def write(self, data: bytes) -> None:
        """Write `data`, or keep it. Raises `OSError` if it or earlier waiting bytes are lost."""
        with self._lock:
            if self._shared and not self._busy and self._was_replaced():
                self._prepare()
            if self._size and self._size + len(data) > self._at_most:
                self._try()
                if self._size and self._size + len(data) > self._at_most:
                    self.lost += _lines(data)
                    raise BlockingIOError(errno.EAGAIN, "its reader does not keep up")
            self._waiting.append(data)
            self._size += len(data)
            self._try()

    def flush(self, timeout: float = 0) -> None:
        """Try to write the waiting bytes, for `timeout` seconds. Raises `OSError` if they are lost."""
        give_up = time.monotonic() + timeout
        while True:
            with self._lock:
                self._try()
            if not self._waiting or time.monotonic() >= give_up:
                return
            time.sleep(RETRY)

    def close(self) -> None:
        """Close the descriptors that this object has opened. Waiting bytes are lost. Idempotent."""
        with self._lock:
            self._drop()
            self._close_own()
            if not self._shared and self._fd >= 0:
                fd, self._fd = self._fd, -1
                _close_quietly(fd)

    def forget(self) -> None:
        """In a forked child: drop the waiting bytes, which the parent writes. Replace the lock, which a thread of the parent may hold."""
        self._lock = native(_thread, "RLock")()
        self._waiting.clear()
        self._size = 0
        self._begun = self._busy = False

    def _was_replaced(self) -> bool:
        """Whether the application has replaced the file behind the descriptor (dup2(2)). If it closed the descriptor, the number may belong
        to a client's connection by now."""
        identity = _identity(self._fd)
        return identity not in (self._identity, None) and not stat.S_ISSOCK(os.fstat(self._fd).st_mode)

    def _try(self) -> None:
        if self._busy:
            return  # the interrupted call writes the waiting bytes, or the next call does
        self._busy = True
        try:
            self._write_waiting()
        finally:
            self._busy = False

    def _write_waiting(self) -> None:
        while self._waiting:
            data = self._waiting[0]
            try:
                if self._torn:
                    self._send(b"\n")
                    self._torn = False
                count = self._send(data)
            except BlockingIOError:
                return
            except OSError:
                self._drop()
                raise
            self._size -= count
            self._begun = count < len(data)
            if self._begun:
                self._waiting[0] = data[count:]
            else:
                self._waiting.popleft()

    def _drop(self) -> None:
        self.lost += sum(map(_lines, list(self._waiting)))
        self._waiting.clear()
        self._size = 0
        self._torn, self._begun = self._torn or self._begun, False

    def _prepare(self) -> None:
        """Find a way to write to a shared descriptor without waiting."""
        self._close_own()
        self._identity = _identity(self._fd)
        self._send = partial(os.write, self._fd)
        if self._identity is None:
            return
        mode = os.fstat(self._fd).st_mode
        if stat.S_ISSOCK(mode):
            self._own = sock = _socket.socket(fileno=os.dup(self._fd))  # the C class: gevent's class would wait
            self._send = lambda data: sock.send(data, _socket.MSG_DONTWAIT)
        elif stat.S_ISFIFO(mode) or os.isatty(self._fd):
            try:
                self._own = os.open(f"/proc/self/fd/{self._fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
                self._send = partial(os.write, self._own)
            except OSError:  # another user's pipe, or no /proc
                self._send = partial(_write_where_room, self._fd)

    def _close_own(self) -> None:
        own, self._own = self._own, None
        if isinstance(own, int):
            _close_quietly(own)
        elif own is not None:
            own.close()


class TextOutput(io.RawIOBase):
    """An `Output` as a raw stream, for `io.TextIOWrapper`. A write takes all bytes and raises nothing. The `Output` counts lost lines."""

    def __init__(self, output: Output, fd: int, name: str) -> None:
        self._output = output
        self._fd = fd
        self.name = name
        self.mode = "wb"

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._fd

    def isatty(self) -> bool:
        return os.isatty(self._fd)

    def write(self, data: Any) -> int:
        data = bytes(data)
        try:
            self._output.write(data)
        except OSError:
            pass  # counted
        return len(data)

    def flush(self) -> None:
        try:
            self._output.flush()
        except OSError:
            pass  # counted


_outputs: "weakref.WeakSet[Output]" = weakref.WeakSet()
_standard: dict[int, Output] = {}


def standard_output(fd: int) -> Output:
    """The `Output` of descriptor 1 or 2, which all writers share. If both descriptors are the same pipe, they also share it. Otherwise
    another line could be written into the middle of a line that has to wait."""
    if fd not in _standard:
        same = (output for output in _standard.values() if output.same_reader(fd))
        _standard[fd] = next(same, None) or Output(fd, shared=True)
    return _standard[fd]


def may_wait(fd: int) -> bool:
    """Whether writing to `fd` may wait for a reader. For a file on a disk it is False, because the wait is bounded."""
    mode = os.fstat(fd).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or os.isatty(fd)


def _forget() -> None:
    for output in list(_outputs):
        output.forget()


os.register_at_fork(after_in_child=_forget)


def native(module: Any, name: str) -> Any:
    """Python's unpatched function. gevent's could switch to another greenlet, and the hub, which also writes, must not do that."""
    monkey = sys.modules.get("gevent.monkey")
    return getattr(module, name) if monkey is None else monkey.get_original(module.__name__, name)


def _write_where_room(fd: int, data: bytes) -> int:
    """Write if poll(2) reports room. It only waits if another process fills the pipe between the two calls."""
    poll = native(select, "poll")()
    poll.register(fd, select.POLLOUT)
    if not poll.poll(0):
        raise BlockingIOError(errno.EAGAIN, "would block")
    return os.write(fd, data[:PIPE_BUF])


def _identity(fd: int) -> tuple[int, int] | None:
    try:
        status = os.fstat(fd)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _lines(data: bytes) -> int:
    return max(1, data.count(b"\n"))


def _close_quietly(fd: int) -> None:
    try:
        native(os, "close")(fd)
    except OSError:
        pass  # the descriptor is closed all the same (close(2)); bytes that the disk did not take were lost before
