"""Readiness: the only place that touches gevent's watchers and the hub.

The shape that is fast, and why. A watcher is started once and *stays armed*: its callback switches to the greenlet that
waits or, when nobody waits, stops the watcher. So a keep-alive connection starts and stops nothing per request (a
gevent socket does both, with a fresh `Waiter`, at every wait), and nothing spins while the application is busy.

What the short form of that gets wrong, each seen in practice:

- The waiter is recorded per wait and cleared in `finally`. A stale one, left behind by a Timeout or a kill, would
  let the callback switch to a greenlet that sleeps somewhere else by now.
- Starting a watcher on a dead descriptor aborts the process inside libev, hence the check before each start.
- Only the hub switches to a waiter. `fail` may be called by any greenlet, so it goes through `run_callback`.
- A greenlet can be switched to by anybody. `wait` returns only when its own callback fired, and goes on waiting
  after a stray switch.
- `shutdown(SHUT_RD)` as a way to wake sleepers was tried and dropped: writers stay blocked, and TLS cannot send afterwards.
"""

import errno
import fcntl
import logging
import math
import select
import sys
import termios
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Protocol, cast

from gevent import get_hub, getcurrent
from gevent.exceptions import ConcurrentObjectUseError
from gevent.monkey import get_original
from greenlet import error as SwitchError  # noqa: N812

from muxwsgi.errors import Draining, Expired
from muxwsgi.wire.syscalls import check_descriptor

if TYPE_CHECKING:
    from greenlet import greenlet

__all__ = [
    "READ",
    "WRITE",
    "DescriptorReady",
    "Lifeline",
    "Pace",
    "Ready",
    "SendQueue",
    "WritePace",
    "give_turn",
    "sweep",
    "unacknowledged",
]

log = logging.getLogger("muxwsgi.error")

READ = 1
WRITE = 2

#: gevent's would wait for the next turn of the loop.
_poll = get_original("select", "poll")
_POLL_EVENTS = {READ: select.POLLIN, WRITE: select.POLLOUT}
_thread_id: Callable[[], int] = get_original("threading", "get_ident")


class Ready:
    """Readiness of one direction of one stream, which is announced by `notify` (a pair in memory has no descriptor).

    At most one greenlet waits at a time: a second one gets `ConcurrentObjectUseError`, never a lost wake-up.
    """

    __slots__ = ("_armed", "_closed", "_failure", "_fired", "_hub", "_waiter")

    def __init__(self) -> None:
        self._begin(get_hub())
        self._armed = True

    def _begin(self, hub: Any) -> None:  # for who knows the hub already; and in a compiled class there is no fast way to super().__init__
        self._hub = hub
        self._armed = False
        self._closed = False
        self._fired = False
        self._failure: BaseException | None = None
        self._waiter: "greenlet | None" = None

    def wait(self, timeout: float | None = None) -> None:
        """Sleep until ready. `timeout` is in seconds, `None` for ever (deadlines come from the sweeper instead).

        Raises `TimeoutError` after `timeout`, `BlockingIOError` where `timeout` is 0, `OSError` (EBADF) once closed,
        `RuntimeError` in another thread, and whatever `fail` was given.
        """
        if self._waiter is not None:
            raise ConcurrentObjectUseError(f"{self._waiter!r} waits on this direction of the connection already")
        if self._closed:
            raise OSError(errno.EBADF, "the connection is closed")
        timer = None
        if timeout is not None:
            if timeout <= 0:
                raise BlockingIOError(errno.EAGAIN, "would block")
            self.check_thread()
            timer = self._hub.loop.timer(timeout)
            timer.start(self._time_out)
        self._fired = False
        self._waiter = getcurrent()
        try:
            if not self._armed:
                self._arm()
            hub = self._hub
            while True:
                hub.switch()
                if self._failure is not None:
                    raise self._failure
                if self._fired:
                    return
        except SwitchError:
            self.check_thread()
            raise
        finally:
            self._waiter = None
            self._failure = None
            if timer is not None:
                timer.close()

    def check_thread(self) -> None:
        """Raises `RuntimeError` in a thread that is not the hub's: only the hub's own greenlets can wait here."""
        if _thread_id() != self._hub.thread_ident:
            raise RuntimeError("a Connection is for greenlets of its own thread: call as_socket() there, and use that socket here")

    def notify(self) -> None:
        """Wake the waiter, if there is one. Callable from any greenlet of the hub's thread."""
        if self._waiter is not None and not self._fired:
            self._fired = True
            self._hub.loop.run_callback(self._wake)

    def fail(self, error: BaseException) -> None:
        """Make the wait that is going on, if any, raise `error`. Later waits are not affected. Callable from any thread, so that one may
        close a connection of another's."""
        if self._waiter is not None and self._failure is None:
            self._failure = error
            self._hub.loop.run_callback_threadsafe(self._wake)

    def close(self) -> None:
        """Wake the waiter with EBADF and refuse every later wait. Comes before the descriptor is closed. Idempotent."""
        if not self._closed:
            self._closed = True
            if self._waiter is not None:
                self.fail(OSError(errno.EBADF, "the connection was closed by another greenlet"))

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    @property
    def waiting(self) -> bool:
        """Whether a greenlet waits right now."""
        return self._waiter is not None

    def unsent(self) -> int:
        """Bytes that were sent, and that the peer has not acknowledged (TCP) or read (unix sockets). 0 in memory."""
        return 0

    def is_ready(self) -> bool:
        """Whether the wait that goes on would end at once: it has been notified, or the descriptor is ready."""
        return self._waiter is not None and self._fired

    def _arm(self) -> None:
        raise NotImplementedError

    def _wake(self) -> None:
        # The wait this was meant for may be over, and another one begun, before the loop comes here.
        if self._waiter is not None and (self._fired or self._failure is not None):
            self._waiter.switch()

    def _time_out(self) -> None:
        if self._waiter is not None:
            self._failure = TimeoutError(errno.ETIMEDOUT, "timed out")
            self._waiter.switch()


class DescriptorReady(Ready):
    """Readiness of one direction of a descriptor, told by the event loop."""

    __slots__ = ("_events", "_fd", "_watcher")

    def __init__(self, fd: int, events: int, hub: Any = None) -> None:
        """`hub` is this thread's, and is looked up where it is None."""
        self._begin(hub or get_hub())
        self._fd = fd
        self._events = events
        self._watcher: Any = None  # made at the first wait

    def to_write(self) -> "DescriptorReady":
        """The other direction of the same descriptor, closed where this one is."""
        writer = DescriptorReady(self._fd, WRITE, self._hub)
        writer._closed = self._closed
        return writer

    def is_ready(self) -> bool:
        if self._closed:
            return False
        poll = _poll()
        poll.register(self._fd, _POLL_EVENTS[self._events])
        return bool(poll.poll(0))

    def _arm(self) -> None:
        self.check_thread()
        # EBADF here, where libev would abort: from the check, or from making the watcher.
        if self._watcher is None:
            self._watcher = self._hub.loop.io(self._fd, self._events)
        else:
            check_descriptor(self._fd)
        self._watcher.start(self._on_ready)
        self._armed = True

    def unsent(self) -> int:
        if self._closed:
            return 0
        try:
            return unacknowledged(self._fd)
        except OSError:  # something else than a socket was given as one
            return 0

    def _on_ready(self) -> None:
        waiter = self._waiter
        if waiter is None:
            self._watcher.stop()
            self._armed = False
        else:
            self._fired = True
            waiter.switch()

    def close(self) -> None:
        if self._watcher is not None:
            self._watcher.stop()
            self._watcher.close()
            self._watcher = None
        Ready.close(self)  # as in a compiled class, where super() knows no cpdef methods


def unacknowledged(fd: int) -> int:
    """Bytes that were sent and that the peer's kernel has not taken yet (TCP), or its reader (unix sockets)."""
    return int.from_bytes(fcntl.ioctl(fd, termios.TIOCOUTQ, bytes(4)), sys.byteorder)


def give_turn() -> None:
    """Let everybody run who is ready, those included whose descriptors have become so, and come back.

    `gevent.sleep(0)` is not that: it looks at descriptors and timers once in up to a thousand calls. A greenlet that works for a
    millisecond between them keeps all others waiting for a second, the sweeper included.
    """
    hub = get_hub()
    timer = hub.loop.timer(0)
    try:
        hub.wait(timer)
    finally:
        timer.close()


class Pace:
    """The patience that a peer has left, who must move at least `rate` bytes a second while we wait.

    Waiting uses it up and bytes earn it back, to `grace` seconds at most: otherwise a peer that took 5 GB in a minute could then
    stall for weeks. Time in which we do not wait (the application is busy) costs the peer nothing.

    `patience` is what is left, in seconds.
    """

    __slots__ = ("_grace", "_rate", "patience")

    def __init__(self, rate: float, grace: float) -> None:
        """`rate` in bytes per second, above 0; `grace` in seconds."""
        self._rate = rate
        self._grace = grace
        self.patience = grace

    def moved(self, count: int, waited: float) -> None:
        """Note that `count` bytes came after `waited` seconds."""
        self.patience = min(self._grace, self.patience - waited + count / self._rate)


class SendQueue(Protocol):
    """What was written to a stream and not yet taken by its peer.

    step    bytes that the peer may read before the queue gets shorter: it reports what it has read in steps
    """

    step: int

    def size(self) -> int:
        """Bytes in the queue; 0 where the stream is closed."""


class WritePace(Pace):
    """The `Pace` of a peer that a blocked write waits for.

    It counts what the peer has taken out of `queue`. What a send accepts says little: the kernel holds megabytes, and accepts more only
    when a third of them are gone. The peer may read `queue.step` bytes unseen, so their time at the minimum rate is added to the grace.
    """

    __slots__ = ("_at", "_queue", "_size")

    def __init__(self, rate: float, grace: float, queue: SendQueue) -> None:
        super().__init__(rate, grace + queue.step / rate)
        self._queue = queue
        self._size = 0
        self._at = 0.0

    def begin(self, now: float) -> None:
        """A wait begins at `now` (`time.monotonic()` seconds). The time since the last one counts for nothing."""
        self._size = self._queue.size()
        self._at = now

    def look(self, now: float) -> None:
        """Note what the peer has taken until `now`."""
        size = self._queue.size()
        self.moved(max(self._size - size, 0), max(now - self._at, 0.0))
        self._size = size
        self._at = now


class Stream(Protocol):
    """What a `Lifeline` wants to know of the outermost connection."""

    @property
    def bytes_received(self) -> int: ...
    @property
    def bytes_sent(self) -> int: ...
    def forsake(self) -> None: ...


class Lifeline:
    """What the sweeper sees of one descriptor, shared by every connection that is layered on it.

    deadline        absolute `time.monotonic()` seconds; a wait in either direction that is later than this fails with `Expired`
    write_pace      of the write that is blocked; None while there is none, or where it may take its time
    queue           what the peer has not taken yet; None until a write first blocks
    idle_timeout    seconds without a byte in either direction, `None` for no limit. A byte that the peer takes out of the kernel's buffer
                    counts too
    min_rate        bytes per second that a blocked send must move once `rate_grace` seconds are over; 0 for no minimum
    resting         set by a handler while it waits for a new message, so that closing loses nothing
    reset_at_close  whether the stream is incomplete as it stands: closing it is a reset then, and under TLS there is no close_notify
    service         what the server gives to all connections of a bind (`Service`); None where none serves it
    top             the outermost connection: the one in use
    under_way       bytes that moved and are not in the counts of `top` when they do: of writes that had to wait, and read ahead
    """

    __slots__ = (
        "_active_at",
        "_moved",
        "_unsent",
        "_writer",
        "under_way",
        "deadline",
        "idle_timeout",
        "min_rate",
        "queue",
        "rate_grace",
        "reader",
        "reset_at_close",
        "resting",
        "service",
        "top",
        "write_pace",
    )

    def __init__(self, reader: Ready, writer: Ready | None = None) -> None:
        """`writer` is made from the reader, which is a descriptor's then, where it is None and somebody asks for it: most connections never
        wait to write."""
        self.reader = reader
        self._writer = writer
        self.deadline = math.inf
        self.write_pace: WritePace | None = None
        self.queue: SendQueue | None = None
        self.idle_timeout: float | None = None
        self.min_rate = 0.0
        self.rate_grace = 0.0
        self.resting = False
        self.reset_at_close = False
        self.service: Any = None
        self.top: Stream | None = None
        self.under_way = 0
        self._moved = -1
        self._unsent = -1
        self._active_at = 0.0

    @property
    def writer(self) -> Ready:
        """Readiness to write."""
        if self._writer is None:
            self._writer = cast(DescriptorReady, self.reader).to_write()
        return self._writer

    def fail(self, error: BaseException) -> None:
        """Make the waits of both directions raise `error`."""
        self.reader.fail(error)
        if self._writer is not None:
            self._writer.fail(error)

    def drain(self) -> None:
        """Wake the handler with `Draining` where it said that it rests, and nothing has come meanwhile: a message that is here already is
        read and answered. To be repeated while the server drains."""
        if self.resting and not self.reader.is_ready():
            self.reader.fail(Draining("the server is shutting down"))

    def close(self) -> None:
        """End both directions, before the descriptor is closed or given away."""
        self.reader.close()
        if self._writer is not None:
            self._writer.close()

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self.reader.closed

    def check_writer(self, now: float) -> None:
        """Fail the blocked write with `Expired` once the peer has taken less than the minimum rate for too long."""
        pace = self.write_pace
        if pace is not None:
            pace.look(now)
            if pace.patience < 0:
                self.writer.fail(Expired("the peer takes the data more slowly than allowed"))

    @property
    def untouched(self) -> bool:
        """Whether the client has sent nothing yet that somebody has read. A handshake and a look at first bytes do not count."""
        return self.top is not None and self.top.bytes_received == 0

    def check_idle(self, now: float) -> None:
        """Fail the waits with `Expired` once no byte has moved for `idle_timeout` seconds."""
        top = self.top
        if top is None or self.idle_timeout is None:
            return
        moved = top.bytes_received + top.bytes_sent + self.under_way
        if self.queue is not None:
            moved -= self.queue.size()  # what the peer has taken is movement, also of a write that goes on
        if moved != self._moved:
            self._moved = moved
            self._unsent = -1
            self._active_at = now
            return
        if self._unsent:  # asked once when bytes stop to move, and again for as long as the peer has not taken all
            unsent = self.reader.unsent()
            if self._unsent not in (unsent, -1):
                self._active_at = now
            self._unsent = unsent
        if now - self._active_at > self.idle_timeout:
            self.fail(Expired(f"no byte in either direction for {self.idle_timeout:g} s"))

    def taken_by_peer(self) -> int:
        """A number that changes whenever the peer takes a byte."""
        top = self.top
        unsent = self.reader.unsent() if self.queue is None else self.queue.size()
        return (0 if top is None else top.bytes_sent) + self.under_way - unsent


def sweep(lifelines: Iterable[Lifeline], now: float) -> None:
    """Fail the waits whose deadline is over. `now` is `time.monotonic()`; called by the worker about once a second.

    No timer object is made for any deadline: 10,000 connections cost about 0.5 ms a sweep.
    """
    for line in lifelines:
        try:
            if line.deadline < now:
                line.fail(Expired("the deadline of this phase is over"))
                continue
            if line.write_pace is not None:
                line.check_writer(now)
            if line.idle_timeout is not None:
                line.check_idle(now)
        except Exception as error:  # of one connection: the others have deadlines too
            log.exception("a connection cannot be swept")
            line.fail(error)
