"""`Output`: bytes on a descriptor, without waiting for a reader. Imports no gevent: a process without a hub can use it.

A pipe takes 64 KiB, and the next write(2) then lasts until the reader reads. A server with one thread would stop there. So
what a pipe, a terminal or a socket does not take at once waits in memory, up to a limit; what comes beyond the limit is lost, and counted.

Other ways, and why not:
- O_NONBLOCK on the descriptor itself belongs to the open file description. The shell shares it, and all processes that inherited it.
  So a pipe or a terminal is opened once more, by /proc/self/fd, and that description is ours alone. A socket is told with each send.
- A thread that waits in our place has the last lines in a queue when the process crashes, is missing in a forked child, and each line costs
  two changes of the GIL's owner. Here what the pipe has taken is in it when `write` returns.
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

__all__ = ["Output", "TextOutput", "may_wait", "standard_output"]

#: Bytes that may wait for a reader; one record may be larger.
WAITING_AT_MOST = 1 << 20

#: Bytes that write(2) on a pipe takes whole when poll(2) reports room.
PIPE_BUF = select.PIPE_BUF

#: Seconds between two attempts to write waiting bytes, for callers that wait for that.
RETRY = 0.02


class Output:
    """Writes to a descriptor what it takes, and keeps the rest for the next try.

    lost    lines that were not written and will not be
    """

    def __init__(self, fd: int, *, shared: bool = False, at_most: int = WAITING_AT_MOST) -> None:
        """Takes over `fd`, which does not block. A `shared` one (standard output) may block; it is neither changed nor closed."""
        self.lost = 0
        self._fd = fd
        self._shared = shared
        self._at_most = at_most
        self._waiting: deque[bytes] = deque()
        self._size = 0  # bytes of them
        self._begun = False  # a part of the first of them is written
        self._torn = False  # the rest of a line that was begun is lost
        # A destructor or a signal handler that prints may run in the middle of a write: the lock is for the other threads alone.
        self._lock = _native(_thread, "RLock")()
        self._busy = False  # a write or a flush is under way
        self._own: Any = None  # what is to be closed
        self._identity = _identity(fd)
        self._send: Callable[[bytes], int] = partial(os.write, fd)
        if shared:
            self._prepare()
        _outputs.add(self)

    @property
    def waiting(self) -> bool:
        """Whether something waits for the descriptor to take it."""
        return bool(self._waiting)

    def is_named(self, path: str) -> bool:
        """Whether `path` leads to the file that is written."""
        try:
            status = os.stat(path)
        except OSError:
            return False
        return (status.st_dev, status.st_ino) == self._identity

    def same_reader(self, fd: int) -> bool:
        """Whether `fd` leads to the same pipe, socket or terminal."""
        return may_wait(fd) and self._identity == _identity(fd)

    def write(self, data: bytes) -> None:
        """Write `data`, or keep it. Raises `OSError` where it, or what waited before it, is lost."""
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
        """Try to write what waits, for `timeout` seconds. Raises `OSError` where it is lost."""
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
        """In a forked child: what waits is the parent's to write, and the lock may be held by a thread that is not there."""
        self._lock = _native(_thread, "RLock")()
        self._waiting.clear()
        self._size = 0
        self._begun = self._busy = False

    def _was_replaced(self) -> bool:
        """Whether the application has put another file in its place (dup2(2)). Where it only closed the descriptor, the number may be that
        of a client's connection by now."""
        identity = _identity(self._fd)
        return identity not in (self._identity, None) and not stat.S_ISSOCK(os.fstat(self._fd).st_mode)

    def _try(self) -> None:
        if self._busy:
            return  # what waits is written by the call that this one interrupts, or by the next one
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
        """Find a way to write to a shared descriptor that does not wait."""
        self._close_own()
        self._identity = _identity(self._fd)
        self._send = partial(os.write, self._fd)
        if self._identity is None:
            return
        mode = os.fstat(self._fd).st_mode
        if stat.S_ISSOCK(mode):
            self._own = sock = _socket.socket(fileno=os.dup(self._fd))  # the class in C: gevent's would wait
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
    """An `Output` as a raw stream, for `io.TextIOWrapper`. A write takes all and raises nothing: the `Output` counts what is lost."""

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
    """The `Output` of descriptor 1 or 2: one for all writers, and one for both descriptors if they are the same pipe. Otherwise the rest
    of a line that had to wait would come behind another line."""
    if fd not in _standard:
        same = (output for output in _standard.values() if output.same_reader(fd))
        _standard[fd] = next(same, None) or Output(fd, shared=True)
    return _standard[fd]


def may_wait(fd: int) -> bool:
    """Whether writing to `fd` waits for a reader. A disk is not counted: it does not make one wait for ever."""
    mode = os.fstat(fd).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or os.isatty(fd)


def _forget() -> None:
    for output in list(_outputs):
        output.forget()


os.register_at_fork(after_in_child=_forget)


def _native(module: Any, name: str) -> Any:
    """What gevent may have replaced, as Python has it: nothing here may change to another greenlet, as the hub writes too."""
    monkey = sys.modules.get("gevent.monkey")
    return getattr(module, name) if monkey is None else monkey.get_original(module.__name__, name)


def _write_where_room(fd: int, data: bytes) -> int:
    """Never waits, unless another process fills the pipe between the two calls."""
    poll = _native(select, "poll")()
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
        os.close(fd)
    except OSError:
        pass  # closed all the same (close(2)); what the disk did not take was lost before
