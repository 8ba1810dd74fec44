"""A worker process: `WorkerProcess` is its object in the master, `Worker` the object in the worker. This module imports no gevent.

    booting --ready--> serving -----------------------+--told to end--> ending --reaped--> (gone)
      |
      +--fails: it tells the master why, and ends
                         |                            |                   |
                         +--wants to leave--> leaving-+--retired--> retiring
                         +--blocked---------> blocked-+

A worker that leaves, or whose event loop is blocked, is told to end when another one is ready in its slot. A worker leaves also if another
process than the master sends it SIGTERM. If other workers have taken
over, a worker is retired with SIGUSR2. It ends as with SIGTERM, but keeps connections open on which the next request may be under way.

**Signals at the fork.** Signals are blocked from before the fork until the child has set its actions. With the handlers of the master, the
child would lose a SIGTERM that comes while it boots. So until the child takes the signals, those that stop end it at once, and it ignores
the others. By default these would end it too.

**The master dies.** Until a worker serves, Linux kills it with its master. Later it notices that itself, and ends as if the master had told
it to. If it cannot, Linux ends it: see `parent.py`.
"""

import logging
import os
import signal
import sys
from collections.abc import Sequence
from time import monotonic
from typing import Protocol

from muxwsgi.record import record
from muxwsgi.server.handover_queue import HandoverQueue
from muxwsgi.server.heartbeat import Heartbeat
from muxwsgi.server.page import Entry, SharedPage, State
from muxwsgi.server.parent import die_with

__all__ = ["LONGEST_REASON", "Forks", "Given", "State", "Worker", "WorkerProcess", "fork", "start", "take_defaults"]

log = logging.getLogger("muxwsgi.error")

#: The messages of a worker to the master. All bytes after `_FAILED` are the reason.
_READY, _LEAVES, _CHANGED, _FAILED = b"R", b"L", b"C", b"F"

#: Bytes of a reason. With them the pipe, which holds 64 KiB, takes the reason without waiting for the master.
LONGEST_REASON = 32768


#: Signals that a worker ignores until it takes them.
_IGNORED = frozenset({signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTTIN, signal.SIGTTOU})


@record()
class Given:
    """What a worker of a preloader gets from the owner of the master.

    age             how many workers were started before it and with it
    descriptors     of the sockets of its slot
    """

    age: int = 0
    descriptors: tuple[int, ...] = ()


class Worker:
    """A worker in its process.

    number      its slot, from 0 on
    announces   whether it logs what is served, because all workers of its generation serve the same
    beat        its event loop calls it once a second, once the worker is ready
    page        what all workers report; `entry` is the part of this one
    queue       through which workers hand over connections
    is_ready    whether `ready` was called
    leaves      whether `leave` was called
    given       what the owner gave it through a preloader; None if the master has forked it
    """

    def __init__(
        self,
        number: int,
        tells: int,
        heartbeat: Heartbeat,
        page: SharedPage,
        entry: Entry,
        queue: HandoverQueue,
        *,
        announces: bool,
        given: Given | None = None,
    ) -> None:
        self.number = number
        self.page = page
        self.entry = entry
        self.queue = queue
        self.announces = announces
        self.given = given
        self.beat = heartbeat.beat
        self.is_ready = False
        self._heartbeat = heartbeat
        self._tells = tells
        self._master = os.getppid()
        self.leaves = False

    def fileno(self) -> int:
        """The pipe to the master. Poll reports an error on it once the master has ended, because nobody else can read it."""
        return self._tells

    def ready(self) -> None:
        """Tell the master that connections are accepted from now on. Call it once, in the main thread."""
        self._heartbeat.answer_signals()
        self.beat()
        self.is_ready = True
        self._tell(_READY)

    def leave(self) -> None:
        """Ask the master to replace this worker. It serves until it is told to end."""
        self.leaves = True
        self._tell(_LEAVES)

    @property
    def is_to_end(self) -> bool:
        """Whether the master has told this worker to end, or has ended itself. The master notes it before it sends SIGTERM, so otherwise
        another process has sent the signal."""
        return self.entry.state is State.ENDING or os.getppid() != self._master

    def change(self) -> None:
        """Tell the master that a file has changed, so that it reloads. It ignores workers of an earlier generation."""
        self._tell(_CHANGED)

    def fail(self, reason: str) -> bool:
        """Tell the master why this worker cannot start: one line, and a traceback after it. Of a long traceback the end is told. Returns
        whether there is a master. The worker then ends with a status that is not 0."""
        line, _, detail = reason.encode("utf-8", "backslashreplace").partition(b"\n")
        line = line[:LONGEST_REASON]
        return self._tell(_FAILED + line + b"\n" + detail[max(0, len(detail) + len(line) - LONGEST_REASON) :])

    def _tell(self, message: bytes) -> bool:
        try:
            os.write(self._tells, message)
        except BrokenPipeError:
            return False  # the master has ended, and its signal is on its way
        return True


class WorkerProcess:
    """A worker in the master.

    told        the pipe for the worker's messages; None when the worker has ended
    entry       its part of the shared page
    reason      why it could not start: one line, and perhaps a traceback after it; None if it has not said it
    was_ready   whether it has become ready
    has_changed whether a file of it has changed, and the master has not noticed that yet
    kill_at     when it is killed, if it has not ended by then (`monotonic`)
    killed      whether the master has killed it
    blocked_since   the last heartbeat before its event loop was found to be blocked
    asked       how often it was asked what blocks its event loop; asked_at is the last time
    """

    def __init__(self, pid: int, slot: int, generation: int, told: int, heartbeat: Heartbeat, entry: Entry) -> None:
        self.pid = pid
        self.entry = entry
        entry.pid = pid
        self._state = State.BOOTING
        self.slot = slot
        self.generation = generation
        self.started = monotonic()
        self.told: int | None = told
        self.heartbeat = heartbeat
        self.was_ready = False
        self.has_changed = False
        self._failed: bytes | None = None
        self.kill_at: float | None = None
        self.killed = False
        self.blocked_since: float | None = None
        self.asked = 0
        self.asked_at = 0.0

    def __str__(self) -> str:
        return f"worker {self.pid}"

    @property
    def state(self) -> State:
        """Its state. Other processes see it in the shared page."""
        return self._state

    @state.setter
    def state(self, state: State) -> None:
        self._state = self.entry.state = state

    @property
    def reason(self) -> str | None:
        return None if self._failed is None else self._failed.decode("utf-8", "replace").rstrip()

    def hear(self) -> None:
        """Read its messages. The end of the stream means that it has ended."""
        assert self.told is not None
        try:
            said = os.read(self.told, 2 * LONGEST_REASON)
        except BlockingIOError:  # it has ended, but a process that its application has forked still has the other end
            return
        if not said:
            os.close(self.told)
            self.told = None
        if self._failed is None:
            said, failed, reason = said.partition(_FAILED)
            self._failed = reason if failed else None
        elif len(self._failed) < LONGEST_REASON:
            self._failed += said
            return
        if _READY in said:
            self.was_ready = True
            if self.state is State.BOOTING:
                self.state = State.SERVING
        self.has_changed |= _CHANGED in said
        if _LEAVES in said and self.state is State.SERVING:
            log.info("%s leaves: another one starts", self)
            self.state = State.LEAVING

    def tell(self, number: int) -> None:
        """Send it a signal."""
        try:
            os.kill(self.pid, number)
        except ProcessLookupError:
            pass  # it has ended, and is reaped next

    def ask(self, number: int) -> None:
        """Ask what blocks its event loop, with one of the signals of `server/heartbeat.py`."""
        self.asked += 1
        self.asked_at = monotonic()
        self.tell(number)

    def end(self, seconds: float, kill_after: float) -> None:
        """Tell it to end its connections within `seconds`. It is killed `kill_after` seconds later."""
        if self.state is not State.ENDING:
            self._end(signal.SIGTERM, seconds + kill_after)

    def cut(self, kill_after: float) -> None:
        """Tell it to cut its connections. It is killed `kill_after` seconds later."""
        # A worker that boots has no connections, and the default action of SIGQUIT would write a core file.
        self._end(signal.SIGQUIT if self.was_ready else signal.SIGTERM, kill_after)

    def _end(self, number: int, seconds: float) -> None:
        self.state = State.ENDING
        kill_at = monotonic() + seconds
        self.kill_at = kill_at if self.kill_at is None else min(self.kill_at, kill_at)
        self.tell(number)

    def retire(self, seconds: float, kill_after: float) -> None:
        """Tell it that others serve instead, so that it ends its connections within `seconds`. It is killed `kill_after` seconds later."""
        if self.state not in (State.RETIRING, State.ENDING):
            booting = self.state is State.BOOTING
            self.state = State.RETIRING
            self.kill_at = monotonic() + seconds + kill_after
            self.tell(signal.SIGUSR2)
            if booting:  # it may not handle that signal yet. If it does, it may have clients already, and ignores this one
                self.tell(signal.SIGTERM)

    def abort(self, kill_after: float) -> None:
        """Send it SIGABRT. It is killed `kill_after` seconds later."""
        self.kill_at = monotonic() + kill_after
        self.tell(signal.SIGABRT)

    def kill(self, again_after: float) -> None:
        """Kill it, and again `again_after` seconds later, because a process that waits for a disk does not end at once."""
        self.kill_at = monotonic() + again_after
        self.killed = True
        self.tell(signal.SIGKILL)

    def close(self) -> None:
        """Close the descriptors, after it was reaped, or in another child."""
        self.heartbeat.close()
        if self.told is not None:
            os.close(self.told)
            self.told = None


class Forks(Protocol):
    """A preloader, as the master sees it."""

    def fork(self, slot: int, entry: int, heartbeat: int, tells: int, given: Given, *, announces: bool) -> int: ...


def start(
    slot: int,
    generation: int,
    taken: Sequence[int],
    page: SharedPage,
    queue: HandoverQueue,
    *,
    announces: bool,
    preloader: Forks | None = None,
    given: Given | None = None,
) -> WorkerProcess | Worker:
    """Start a worker. Returns a `WorkerProcess` in the master, and a `Worker` in the child. See `fork` for its signals `taken`. The worker
    has an entry of `page`, until the master retires it. `queue` is for all workers. If `preloader` forks it, with what is `given`, this
    returns in the master only.

    Raises `OSError` if the machine has no process, no descriptor or no memory left. It raises in the master only.
    """
    entry = page.take(slot, generation)
    heartbeat: Heartbeat | None = None
    told = tells = -1
    try:
        heartbeat = Heartbeat(entry)
        told, tells = os.pipe2(os.O_CLOEXEC)
        if preloader is None:
            pid = fork(taken)
        else:
            pid = preloader.fork(slot, entry.index, heartbeat.write_end, tells, given or Given(), announces=announces)
    except OSError:
        page.retire(entry)
        if heartbeat is not None:
            heartbeat.close()
        for fd in (told, tells):
            if fd >= 0:
                os.close(fd)
        raise
    if pid == 0:
        os.close(told)
        entry.pid = os.getpid()  # the master writes it too, perhaps later
        return Worker(slot, tells, heartbeat, page, entry, queue, announces=announces)
    os.close(tells)
    os.set_blocking(told, False)
    heartbeat.in_master()
    return WorkerProcess(pid, slot, generation, told, heartbeat, entry)


def fork(taken: Sequence[int]) -> int:
    """Fork a child that ends when the master does. Returns its pid, or 0 in the child. Of the signals `taken`, the child ignores those that
    `_IGNORED` names, and has the default actions for the others. Raises `OSError`, in the master only."""
    master = os.getpid()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        _flush_streams()
        pid = os.fork()
        if pid == 0:
            take_defaults(taken)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    if pid == 0:
        die_with(master)
    return pid


def take_defaults(taken: Sequence[int]) -> None:
    """In a child that was forked with all signals blocked: give up the handlers of its parent, as `fork` says."""
    signal.set_wakeup_fd(-1)
    for number in taken:
        signal.signal(number, signal.SIG_IGN if number in _IGNORED else signal.SIG_DFL)


def _flush_streams() -> None:
    """Write the buffered text before a fork, because otherwise both processes would write it. Text that cannot be written is lost."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:  # the descriptor was closed when Python started
                stream.flush()
        except (OSError, ValueError):
            pass
