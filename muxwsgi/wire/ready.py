"""Readiness: how a greenlet waits for one direction of a stream. Only this module uses gevent's watchers of connections.

The states of a `Ready`
-----------------------

A `Ready` has two independent states, the watcher's and the waiter's, and one final state.

watcher     off, or armed: started in the loop. `wait` arms it. It *stays armed* after the wait, and its callback turns it off when no
            greenlet waits. A pair in memory has no watcher; `notify` is called instead.
waiter      none, or one greenlet: from the beginning of `wait` to its end, and never longer. A second one gets `ConcurrentObjectUseError`.
closed      `wait` raises EBADF. The watcher is gone, because the descriptor is closed next.

What ends a wait: the watcher's callback or `notify` (`_fired`), `fail`, the timer of `timeout`, `close`, and an exception that is thrown
into the greenlet (a Timeout, a kill). The first four wake it by `switch`. If anything else switches to the greenlet, it goes on waiting.

Which greenlet does what
------------------------

- The waiter is in `hub.switch()`, inside of `wait`.
- The hub runs `_on_ready`, `_wake` and `_time_out`. Only the hub switches to a waiter.
- Any greenlet may call `fail`, `notify` and `close`. Threads may call `fail` and `close`. These set a flag, and the hub switches later
  (`run_callback`). By then the wait may be over, and another may have begun. So `_wake` checks the flags, which each wait clears.

What must hold
--------------

- The waiter is cleared in `finally`. Otherwise, after a Timeout or a kill, the hub could switch to a greenlet that waits elsewhere.
- libev aborts the process when a watcher is started on a closed descriptor. So each start is preceded by a check.
- A timeout of 0 never waits. Deadlines are not timers: the sweeper calls `fail` (see `lifeline.py`).

Tried, and not used
-------------------

- gevent's sockets, which start and stop the watcher and make a `Waiter` at each wait. With a watcher that stays armed, a keep-alive
  connection starts and stops nothing per request.
- A watcher that is never turned off: it fires in each turn of the loop while bytes wait and the application is busy.
- `shutdown(SHUT_RD)` to wake a reader: writers stay blocked, and TLS cannot send afterwards.
"""

import errno
import fcntl
import select
import sys
import termios
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from gevent import get_hub, getcurrent
from gevent.exceptions import ConcurrentObjectUseError
from gevent.monkey import get_original
from greenlet import error as SwitchError  # noqa: N812

from muxwsgi.wire.syscalls import check_descriptor

if TYPE_CHECKING:
    from greenlet import greenlet

__all__ = [
    "READ",
    "WRITE",
    "DescriptorReady",
    "Ready",
    "give_turn",
    "unacknowledged",
]

READ = 1
WRITE = 2

#: The unpatched function. gevent's would wait for the next turn of the loop.
_poll = get_original("select", "poll")
_POLL_EVENTS = {READ: select.POLLIN, WRITE: select.POLLOUT}
_thread_id: Callable[[], int] = get_original("threading", "get_ident")


class Ready:
    """Readiness of one direction of one stream. `notify` announces it, because a pair in memory has no descriptor.

    At most one greenlet waits at a time. A second one gets `ConcurrentObjectUseError`, so that no wake-up is lost.
    """

    __slots__ = ("_armed", "_closed", "_failure", "_fired", "_hub", "_waiter")

    def __init__(self) -> None:
        self._begin(get_hub())
        self._armed = True

    def _begin(self, hub: Any) -> None:  # for a caller that knows the hub; in a compiled class super().__init__ is slow
        self._hub = hub
        self._armed = False
        self._closed = False
        self._fired = False
        self._failure: BaseException | None = None
        self._waiter: "greenlet | None" = None

    def wait(self, timeout: float | None = None) -> None:
        """Sleep until ready. `timeout` is in seconds; None sets no timeout. Deadlines come from the sweeper instead.

        Raises `TimeoutError` after `timeout`, `BlockingIOError` if `timeout` is 0, `OSError` (EBADF) once closed,
        `RuntimeError` in another thread, and the error that `fail` was given.
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
        """Raises `RuntimeError` in a thread that is not the hub's, because only the hub's greenlets can wait here."""
        if _thread_id() != self._hub.thread_ident:
            raise RuntimeError("a Connection works only in its thread: call as_socket() there, and use that socket here")

    def notify(self) -> None:
        """Wake the waiter, if any. Any greenlet of the hub's thread may call it."""
        if self._waiter is not None and not self._fired:
            self._fired = True
            self._hub.loop.run_callback(self._wake)

    def fail(self, error: BaseException) -> None:
        """Make the present wait, if any, raise `error`. Later waits are not affected. Any thread may call it, so that one thread can close
        the connection of another."""
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

    @property
    def undisturbed(self) -> bool:
        """Whether a greenlet waits, and nothing has ended the wait yet. What `fail` is given now ends it for certain."""
        return self._waiter is not None and not self._fired and self._failure is None

    def unsent(self) -> int:
        """Sent bytes that the peer's kernel has not acknowledged (TCP) or the peer has not read (unix sockets). 0 in memory."""
        return 0

    def is_ready(self) -> bool:
        """Whether the present wait would end at once, because `notify` was called or the descriptor is ready."""
        return self._waiter is not None and self._fired

    def _arm(self) -> None:
        raise NotImplementedError

    def _wake(self) -> None:
        # By the time the loop runs this, the wait that it was meant for may be over, and another may have begun.
        if self._waiter is not None and (self._fired or self._failure is not None):
            self._waiter.switch()

    def _time_out(self) -> None:
        if self._waiter is not None:
            self._failure = TimeoutError(errno.ETIMEDOUT, "timed out")
            self._waiter.switch()


class DescriptorReady(Ready):
    """Readiness of one direction of a descriptor, which the event loop announces."""

    __slots__ = ("_events", "_fd", "_watcher")

    def __init__(self, fd: int, events: int, hub: Any = None) -> None:
        """`hub` is this thread's; None to look it up."""
        self._begin(hub or get_hub())
        self._fd = fd
        self._events = events
        self._watcher: Any = None  # made at the first wait

    def to_write(self) -> "DescriptorReady":
        """The writing direction of the same descriptor. It is closed if this one is."""
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
        # A closed descriptor raises EBADF here, in the check or in making the watcher. libev would abort the process.
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
        except OSError:  # the descriptor is not a socket
            return 0

    def rest(self) -> None:
        """Give up the watcher, until the next wait. It takes as much memory as all the rest."""
        if self._watcher is not None and self._waiter is None:
            self._watcher.stop()
            self._watcher.close()
            self._watcher = None
            self._armed = False

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
    """Sent bytes that the peer's kernel has not acknowledged (TCP) or the peer has not read (unix sockets)."""
    return int.from_bytes(fcntl.ioctl(fd, termios.TIOCOUTQ, bytes(4)), sys.byteorder)


def give_turn() -> None:
    """Let all ready greenlets run, also those whose descriptors have become ready, and return.

    `gevent.sleep(0)` does less: it looks at descriptors and timers once in up to a thousand calls. If a greenlet works for a millisecond
    between two calls, all other greenlets, the sweeper included, wait for up to a second.
    """
    hub = get_hub()
    timer = hub.loop.timer(0)
    try:
        hub.wait(timer)
    finally:
        timer.close()
