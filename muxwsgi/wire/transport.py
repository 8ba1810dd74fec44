"""Transports move bytes. They have no protocol, no read-ahead and no policy.

Every operation takes `timeout`: seconds for this operation, `None` for no limit (the deadlines of the `Lifeline` hold all the same), 0 to
raise `BlockingIOError` instead of waiting. Here are the protocol of all transports, the one over a socket, and that of a closed connection.
"""

import errno
import os
import select
import socket as socket_module
from collections.abc import Callable
from time import monotonic
from typing import Any, NoReturn, Protocol

from gevent import get_hub
from gevent.lock import Semaphore
from gevent.monkey import get_original

from muxwsgi.wire.lifeline import Lifeline
from muxwsgi.wire.pace import WritePace
from muxwsgi.wire.plain_socket import PlainSocket
from muxwsgi.wire.ready import READ, DescriptorReady, give_turn, unacknowledged
from muxwsgi.wire.syscalls import Kind, close_descriptor, peek, receive, receive_into, transmit, transmit_two

__all__ = [
    "BYTES_PER_TURN",
    "CUT_GRACE",
    "ClosedTransport",
    "SocketTransport",
    "Transport",
    "WriteTurn",
    "note_sent",
    "sent_before",
]

Buffer = bytes | bytearray | memoryview

#: The unpatched function, which is called without waiting.
_poll: Callable[[], "select.poll"] = get_original("select", "poll")

#: As numbers: sockets have enum members, which are slow to look up and to compare. A socket that is made with SOCK_NONBLOCK knows that it
#: does not block, without a system call.
_AF_UNIX, _SOCK_NONBLOCK = int(socket_module.AF_UNIX), int(socket_module.SOCK_NONBLOCK)

#: After this many reads that filled their buffer, or written bytes that never blocked, other greenlets run. Otherwise a peer that is as
#: fast as this process would keep the whole worker.
READS_PER_TURN = 16
BYTES_PER_TURN = 1 << 20

#: `SendQueue.step` of a socket. A peer whose receive buffer is full opens its window again when it has room for two segments, or for a
#: sixteenth of the buffer. Measured on Linux at readers of 500 to 150,000 B/s: up to 2.8 segments of loopback's 47 KiB (TCP), and
#: 37 KB (unix). An Ethernet's segments are small, and 64 KiB is a sixteenth of a buffer that is large for a slow reader.
STEP, STEP_SEGMENTS = 1 << 16, 3

#: Seconds that a connection which is cut waits for its peer to take what was sent before.
CUT_GRACE = 2.0


class Transport(Protocol):
    """One byte stream in both directions."""

    lifeline: Lifeline

    def recv(self, n: int, timeout: float | None) -> bytes:
        """Between 1 and `n` bytes, or b"" at the end of the stream."""

    def recv_into(self, view: memoryview, timeout: float | None) -> int:
        """As `recv`, into `view`; the number of bytes, 0 at the end of the stream."""

    def sendall(self, data: Buffer, timeout: float | None) -> None:
        """All of `data` (one-dimensional bytes). After an error it is unknown how much of it was sent."""

    def shutdown(self, how: int, timeout: float | None) -> None:
        """`socket.shutdown` for this layer and those below."""

    def close(self) -> None:
        """Close the descriptor. Greenlets that wait are woken with EBADF. TLS sends close_notify where that needs no wait."""

    def socket(self) -> socket_module.socket | None:
        """The socket at the bottom, for its name and options; None in memory."""


def note_sent(error: BaseException, count: int) -> None:
    """Note that `error` has ended a write of which `count` bytes were taken. The outermost layer's note counts."""
    error.__dict__["_muxwsgi_sent"] = count


def sent_before(error: BaseException) -> int:
    """How many bytes of a write were taken before `error` ended it."""
    count: int = error.__dict__.pop("_muxwsgi_sent", 0)
    return count


class SocketQueue:
    """The `SendQueue` of a socket: bytes that its peer has not acknowledged (TCP), or not read (unix)."""

    __slots__ = ("_sock", "step")

    def __init__(self, sock: socket_module.socket) -> None:
        self._sock = sock
        self.step = STEP
        if sock.family in (socket_module.AF_INET, socket_module.AF_INET6):
            self.step = max(STEP, STEP_SEGMENTS * sock.getsockopt(socket_module.IPPROTO_TCP, socket_module.TCP_MAXSEG))

    def size(self) -> int:
        number = self._sock.fileno()
        return unacknowledged(number) if number >= 0 else 0


class WriteTurn:
    """One writer at a time, at no cost until a write first blocks.

    Between two parts of a blocked `sendall` other greenlets run. Without a turn their bytes would land in the middle of it,
    which a stream of TLS records does not survive.
    """

    __slots__ = ("_line", "_sock", "lock", "sent")

    def __init__(self, line: Lifeline, sock: socket_module.socket | None = None) -> None:
        """`sock` is what is written to; None where the lifeline knows the queue already."""
        self._line = line
        self._sock = sock
        self.lock: Semaphore | None = None  # None until a write has blocked once
        self.sent = 0  # bytes since others had a turn

    def take(self) -> Semaphore:
        """The lock, made on first need. Held over the whole of a blocked write."""
        if self.lock is None:
            self.lock = Semaphore(1)
        return self.lock

    @property
    def taken(self) -> bool:
        """Whether a blocked write is under way."""
        return self.lock is not None and self.lock.locked()

    def yield_turn(self) -> None:
        """More than `BYTES_PER_TURN` have been `sent` without waiting: let others run."""
        self.sent = 0
        give_turn()

    def write(self, send_more: Callable[[int], int], count: int, timeout: float | None) -> int:
        """Call `send_more(done)` until `count` bytes are sent or it sends none, waiting when it would block. The number sent.

        `timeout` limits the whole, as `socket.sendall` has it. A peer that takes less than the lifeline's minimum rate is
        given up by the sweeper (see `WritePace`).

        Where it raises, the stream lacks something, and closing the connection is a reset from then on. Only a `BlockingIOError` before
        the first byte leaves it as it was.
        """
        give_up = None if timeout is None else monotonic() + timeout
        pace: WritePace | None = None
        done = 0
        with self.take():
            try:
                while done < count:
                    try:
                        sent = send_more(done)
                    except BlockingIOError:
                        if timeout == 0:
                            raise
                        pace = self._wait(pace, give_up)
                        continue
                    if not sent:
                        break
                    done += sent
                    self.sent += sent
                    self._line.under_way += sent
                    if self.sent > BYTES_PER_TURN:
                        self.yield_turn()
            except BaseException as error:
                if done or not isinstance(error, BlockingIOError):
                    self._line.reset_at_close = True
                note_sent(error, done)
                raise
        return done

    def _wait(self, pace: WritePace | None, give_up: float | None) -> WritePace | None:
        """Wait until there may be room. The pace of the peer in this write, made at its first wait; None where it may take its time."""
        line = self._line
        queue = line.queue
        if queue is None and self._sock is not None:
            queue = line.queue = SocketQueue(self._sock)
        began = monotonic()
        if line.min_rate and queue is not None:
            if pace is None:
                pace = WritePace(line.min_rate, line.rate_grace, queue)
            pace.begin(began)
            line.write_pace = pace
        try:
            if give_up is None:
                line.writer.wait()
            elif give_up > began:
                line.writer.wait(give_up - began)
            else:
                raise TimeoutError(errno.ETIMEDOUT, "timed out")
        finally:
            line.write_pace = None
        if pace is not None:
            pace.look(monotonic())
        return pace


class SocketTransport:
    """Plain bytes over a connected stream socket (TCP or unix), whose descriptor it owns."""

    __slots__ = ("_drained", "_fd", "_kind", "_lowat", "_reads", "_reader", "_sent", "_sock", "_turn", "can_peek", "lifeline")

    def __init__(self, fd: int, kind: Kind, hub: Any = None) -> None:
        """`fd` does not block. `hub` is this thread's, and is looked up where it is None."""
        if hub is None:
            hub = get_hub()
        self._fd = fd
        self._kind = kind
        self._sock: socket_module.socket | None = None  # made when something else than bytes is asked for: for most connections it never is
        self._reader = DescriptorReady(fd, READ, hub)
        self.lifeline = Lifeline(self._reader)
        self._drained = False  # the last read took all there was: wait before the next
        self._reads = 0
        self._lowat = False
        self._turn: WriteTurn | None = None  # made when a write blocks, or for a file
        self._sent = 0  # as `WriteTurn.sent`, of writes that did not block
        #: Whether the kernel can show bytes without giving them: SO_RCVLOWAT has no effect on the polling of unix sockets.
        self.can_peek = kind[0] != _AF_UNIX

    def recv(self, n: int, timeout: float | None) -> bytes:
        if self._drained and timeout != 0:
            self._reader.wait(timeout)
        while True:
            try:
                data = receive(self._fd, n)
            except BlockingIOError:
                data = None
            if data is None:
                self._reader.wait(timeout)
                continue
            if len(data) < n:
                self._drained = True
            else:
                self._note_full_read()
            return data

    def recv_into(self, view: memoryview, timeout: float | None) -> int:
        if self._drained and timeout != 0:
            self._reader.wait(timeout)
        while True:
            try:
                count = receive_into(self._fd, view)
            except BlockingIOError:
                count = -1
            if count < 0:
                self._reader.wait(timeout)
                continue
            if count < len(view):
                self._drained = True
            else:
                self._note_full_read()
            return count

    def _note_full_read(self) -> None:
        self._reads += 1
        self._drained = self._reads % READS_PER_TURN == 0

    def peek_beyond(self, seen: int, limit: int, timeout: float | None) -> bytes | None:
        """The first bytes in the kernel's buffer, left there: more than `seen` and at most `limit` of them.

        No more than `seen` means that the stream ended. None means that the kernel woke us for another reason (memory pressure
        may do that): read them instead. The low-water mark makes the wait last until a new byte comes; without it the wait
        returns at once, for ever, because the bytes that were seen are still there.
        """
        if seen:
            self.socket().setsockopt(socket_module.SOL_SOCKET, socket_module.SO_RCVLOWAT, seen + 1)
            self._lowat = True
            self._reader.wait(timeout)
        while True:
            try:
                data = peek(self._fd, limit, self.socket)
            except BlockingIOError:
                data = None
            if data is None:
                self._reader.wait(timeout)
                continue
            if len(data) > seen or not data or self._ended():
                return data
            return None

    def _ended(self) -> bool:
        poll = _poll()
        poll.register(self._fd, select.POLLRDHUP)
        return bool(poll.poll(0))

    def settle(self) -> None:
        """Put the low-water mark back, so that every byte wakes a reader again."""
        if self._lowat:
            self.socket().setsockopt(socket_module.SOL_SOCKET, socket_module.SO_RCVLOWAT, 1)
            self._lowat = False

    def sendall(self, data: Buffer, timeout: float | None) -> None:
        sent = 0
        if self._turn is None or not self._turn.taken:
            try:
                sent = transmit(self._fd, data)
            except BlockingIOError:
                pass
            if sent == len(data):
                self._sent += sent
                if self._sent > BYTES_PER_TURN:
                    self._sent = 0
                    give_turn()
                return
        self._send_waiting(memoryview(data)[sent:], timeout, sent)

    def _send_waiting(self, view: memoryview, timeout: float | None, before: int) -> None:
        try:
            self._writing().write(lambda done: transmit(self._fd, view[done:]), len(view), timeout)
        except BaseException as error:
            note_sent(error, before + sent_before(error))
            raise

    def sendall_gathered(self, head: bytes, data: bytes, timeout: float | None) -> None:
        """As `sendall(head + data)`, without joining them."""
        sent = 0
        if self._turn is None or not self._turn.taken:
            try:
                sent = transmit_two(self._fd, head, data)
            except BlockingIOError:
                pass
            if sent == len(head) + len(data):
                self._sent += sent
                if self._sent > BYTES_PER_TURN:
                    self._sent = 0
                    give_turn()
                return
        self._gather_waiting(head, data, timeout, sent)

    def _gather_waiting(self, head: bytes, data: bytes, timeout: float | None, before: int) -> None:
        if before >= len(head):
            self._send_waiting(memoryview(data)[before - len(head) :], timeout, before)
            return
        head = head[before:]
        size, view = len(head), memoryview(data)

        def send_more(done: int) -> int:
            return transmit_two(self._fd, head[done:], data) if done < size else transmit(self._fd, view[done - size :])

        try:
            self._writing().write(send_more, size + len(data), timeout)
        except BaseException as error:
            note_sent(error, before + sent_before(error))
            raise

    def send_now(self, view: memoryview) -> int:
        """What there is room for; how much. Raises `BlockingIOError` where that is nothing, or another greenlet is sending."""
        if self._turn is not None and self._turn.taken:
            raise BlockingIOError(errno.EAGAIN, "would block")
        return transmit(self._fd, view)

    def _writing(self) -> WriteTurn:
        if self._turn is None:
            self._turn = WriteTurn(self.lifeline, self.socket())
        return self._turn

    def sendfile(self, fd: int, offset: int, count: int, timeout: float | None) -> int:
        """`count` bytes of the file `fd` from `offset`, by the kernel; fewer where the file ends before. The number sent."""

        def send_more(done: int) -> int:
            # 1 MiB a call, so that a disk that is slower than the network holds the worker for a short time only.
            return os.sendfile(self._fd, fd, offset + done, min(count - done, BYTES_PER_TURN))

        return self._writing().write(send_more, count, timeout)

    def shutdown(self, how: int, timeout: float | None) -> None:
        self.socket().shutdown(how)

    def close(self) -> None:
        self.lifeline.close()
        fd, self._fd = self._fd, -1  # from here on the kernel may give the number to another file
        if self._sock is not None:
            self._sock.close()
        elif fd >= 0:
            close_descriptor(fd)

    def socket(self) -> socket_module.socket:
        if self._sock is None:
            if self._fd < 0:
                raise OSError(errno.EBADF, "the connection is closed")
            family, kind, proto = self._kind
            self._sock = PlainSocket(family, kind | _SOCK_NONBLOCK, proto, fileno=self._fd)
        return self._sock

    def lend(self) -> int:
        """The descriptor, for code that moves the bytes in place of this transport. -1 if a greenlet is writing or closing it."""
        if self._turn is not None and self._turn.taken:
            return -1
        self.settle()
        self._reader.rest()
        return self._fd

    @property
    def is_unix(self) -> bool:
        """Whether it is a unix socket."""
        return bool(self._kind[0] == _AF_UNIX)

    def release_descriptor(self) -> int:
        """As `release`, without a socket object."""
        self.settle()
        self.lifeline.close()
        fd, self._fd = self._fd, -1
        if self._sock is not None:
            self._sock.detach()
        return fd

    def release(self) -> socket_module.socket:
        """Give the socket away, without a watcher on it. The transport cannot be used afterwards."""
        self.settle()
        sock = self.socket()
        self.lifeline.close()
        self._fd = -1
        return sock


class ClosedTransport:
    """Replaces a closed connection's transport. Every use raises EBADF with the reason."""

    __slots__ = ("lifeline", "reason")

    def __init__(self, lifeline: Lifeline, reason: str) -> None:
        self.lifeline = lifeline
        self.reason = reason

    def _refuse(self) -> NoReturn:
        raise OSError(errno.EBADF, self.reason)

    def recv(self, n: int, timeout: float | None) -> bytes:
        self._refuse()

    def recv_into(self, view: memoryview, timeout: float | None) -> int:
        self._refuse()

    def sendall(self, data: Buffer, timeout: float | None) -> None:
        self._refuse()

    def shutdown(self, how: int, timeout: float | None) -> None:
        self._refuse()

    def close(self) -> None:
        """There is nothing left to close."""

    def socket(self) -> socket_module.socket:
        self._refuse()
