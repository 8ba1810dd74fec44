"""`Master`: starts worker processes, replaces those that end, and acts on signals. It imports no gevent and runs no code of an application.

Theory of operation
-------------------

**One loop.** `poll` waits for a signal's byte (`signal.set_wakeup_fd`), for the byte of a worker that has become ready, or until the next
deadline. Then it does four things, in this order: it acts on signals, reaps children that have ended, checks deadlines, and starts and ends
workers as needed (`_reconcile`). Only `_reconcile` starts workers, so a signal in the middle of a reload needs no separate code.

**Slots and generations.** There are as many slots as workers. A reload begins a new generation, which boots beside the one that serves.
When all its workers are ready, the old generation is retired. When one of them ends before it is ready, the new generation is told to
end, and the old one goes on. If the first generation fails, the master ends too, with the status of the worker that failed. A worker of the
old generation that ends meanwhile is replaced by one with the old configuration, because the new generation may fail.

**Delays.** A worker that ends after it has lived for `settled_after` seconds is replaced at once. One that ends earlier is replaced after
half a second. Each further failure in the same slot doubles that delay, up to 30 s.

**A blocked event loop** (`server/heartbeat.py`). The worker is asked what blocks it, another worker starts in its slot, and it is killed
when that one is ready. If its event loop runs again before, it ends normally.

**A preloader** (`server/preloader.py`). With `Owner.preloads`, a generation has a process that forks its workers, once it has loaded what
they share. If it ends before the generation serves, the generation has failed. Later, another one starts, after a delay as for a worker.

**A child is not the master.** `run` returns in each process: in the master when all has ended, and in each child as soon as it is forked,
with a `Worker` or a `Preloader`. So the frames and the descriptors of the loop are gone in the child, which ends as any program does.

Reference: signal names and their meaning are gunicorn's (docs.gunicorn.org, "Signal Handling").

The file is long because signals, ended workers and deadlines change the same state, in one loop.
"""

import logging
import math
import os
import select
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from time import monotonic, time
from typing import Protocol

from muxwsgi.errors import OperatorError
from muxwsgi.server.board import Board
from muxwsgi.server.handover_queue import HandoverQueue
from muxwsgi.server.heartbeat import ASK, BEAT, DUMP
from muxwsgi.server.page import SharedPage, State
from muxwsgi.server.preloader import Preloader, PreloaderProcess, start_preloader
from muxwsgi.server.side_process import Beside, SideProcess, wait_for_end
from muxwsgi.server.worker import Given, Worker, WorkerProcess, start
from muxwsgi.settings import WorkerSettings

__all__ = ["Master", "Owner"]

log = logging.getLogger("muxwsgi.error")

#: Seconds of a wait without a near deadline. A signal or a worker's byte wakes the master at once.
LONGEST_WAIT = 60.0

#: Delays before a worker that failed is started again, seconds.
FIRST_DELAY, LONGEST_DELAY = 0.5, 30.0

#: If a worker must cut its connections, it is killed after so many seconds without a heartbeat.
DEAF_AFTER = 3.0

#: If the master wakes so many seconds too late, the machine stood still, or all processes were stopped.
STOOD_STILL = 3.0

#: Seconds that a blocked worker has to end by SIGABRT, until it is killed.
ABORT_TIME = 2.0

#: Generations that may retire at a time. Each takes memory. To end one closes connections on which a request may be under way.
IN_GRACE = 4

#: Seconds for a blocked worker's answer.
ANSWER_TIME = 0.5

#: The signals that ask a blocked worker. `DUMP` also works while C code holds the GIL, but does not report the request.
QUESTIONS = (ASK, DUMP)

_STOPPING = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGQUIT})

_TAKEN = (*_STOPPING, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTTIN, signal.SIGTTOU, signal.SIGWINCH, signal.SIGCHLD)


class _Forked(BaseException):
    """Raised in a child, through the master's frames, up to `run`."""

    def __init__(self, child: Worker | Preloader) -> None:
        self.child = child


class Owner(Protocol):
    """The program that a master works for. Each method returns at once, and raises nothing.

    settings    how many workers there are, and when one is replaced; read again after each reload
    """

    @property
    def settings(self) -> WorkerSettings: ...

    def before_fork(self, slot: int, *, booting: bool) -> None:
        """Called before a worker of `slot` is forked, of the generation that boots or else of the one that serves. The child inherits what
        this sets. It may raise `OperatorError`: then no worker is forked."""

    def after_fork(self, pid: int | None) -> None:
        """Called in the master after `before_fork`, with the worker's process id, or with None if no worker was forked."""

    @property
    def preloads(self) -> bool:
        """Whether workers of the newest configuration are forked by a preloader."""

    def before_preload(self, *, booting: bool) -> None:
        """Called before a preloader is forked, as `before_fork` before a worker. `after_fork(None)` is called in the master after it."""

    def given(self, slot: int, *, booting: bool) -> Given:
        """What a worker of `slot` has to get through its preloader. Called after `before_fork`."""

    def reaped(self, pid: int) -> None:
        """Called when the process of a worker has ended."""

    def resized(self, workers: int) -> None:
        """Called when the number of workers changes that should serve."""

    @property
    def aborts(self) -> bool:
        """Whether workers act on SIGABRT. Then they get it before they are killed."""

    def reload(self) -> bool:
        """Read the configuration again, before a new generation of workers starts. False if that fails; the reason is in the log."""

    def reloaded(self, whole: bool) -> None:
        """Called when the new generation serves (`whole`), or has failed and the one before goes on."""

    def reopen_logs(self) -> None:
        """Reopen the logs, after SIGUSR1."""

    def steer(self, live: Sequence[int]) -> None:
        """Workers serve in these slots. Called often; without one, it is not called."""

    def stop(self) -> None:
        """Stop accepting clients, because the master stops."""

    def upgrade(self) -> None:
        """Start another master in place of this one, after SIGUSR2. It goes on until `watched` says that the other one serves."""

    def watched(self) -> Mapping[int, Callable[[], bool]]:
        """Descriptors to wait for, and what to call when one can be read. It returns True if this master is to end, because another one
        serves on its sockets."""

    @property
    def sign_interval(self) -> float | None:
        """Seconds between two calls of `sign_of_life`; None if it is not wanted."""

    def sign_of_life(self) -> None:
        """Tell the service manager that the loop of the master runs, and the event loop of a worker."""


@dataclass(slots=True)
class _Slot:
    """How often workers of the slot failed since one settled, and when the next one may start."""

    failures: int = 0
    start_at: float = 0.0

    def back_off(self, now: float) -> None:
        """Let the next one start after a delay, which doubles with each failure."""
        self.start_at = now + min(FIRST_DELAY * 2**self.failures, LONGEST_DELAY)
        self.failures += 1


@dataclass(slots=True)
class _Preloading:
    """The preloader of a generation; `process` is None while none runs."""

    process: PreloaderProcess | None = None
    slot: _Slot = field(default_factory=_Slot)


class Master:
    """Keeps `owner.settings.workers` processes.

    page    what all workers report, for every process that the master forks
    board   what the master reports, likewise
    queue   through which workers hand over connections. A child that is not a worker closes it
    """

    def __init__(
        self, owner: Owner, page: SharedPage | None = None, board: Board | None = None, queue: HandoverQueue | None = None
    ) -> None:
        """`page`, `board` and `queue` are made if they are None. Raises `OSError` if no memory or no descriptor is left."""
        self._owner = owner
        self.page = page or SharedPage()
        self.board = board or Board()
        self.board.put("muxwsgi_start_time_seconds", int(time() * 1e6))
        self.queue = queue or HandoverQueue()
        self._size = owner.settings.workers  # workers of the generation that serves, or of the first one
        self._next_size = self._size  # workers of the generation that boots
        self._workers: dict[int, WorkerProcess] = {}
        self._slots: dict[int, _Slot] = {}
        self._preloading: dict[int, _Preloading] = {}  # by generation, if it preloads
        self._killed_preloaders: set[int] = set()  # those that were not reaped yet
        self._serving = 0  # the generation that serves; 0 before the first is ready
        self._booting: int | None = None  # the generation that boots
        self._last = 0  # number of the last generation
        self._reload_wanted = False
        self._empties = False  # whether all workers are to end when the generation that boots has begun or failed, after SIGWINCH
        self._status: int | None = None  # exit status of the master, once it stops
        self._stopped = False  # whether a signal has said so: the next one cuts
        #: Why the first generation could not start: one line, and perhaps a traceback after it. None if it could, or has not said why.
        self.failure: str | None = None
        #: Another child, which is no worker; None without one.
        self.beside: SideProcess | None = None
        self._pid = 0
        self._wakeup, self._wakeup_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._runs_since = monotonic()  # since when the master runs without a break
        self._look_due = math.inf
        self._sign_due = 0.0  # when the next sign of life is due

    @property
    def has_served(self) -> bool:
        """Whether a generation has become ready."""
        return self._serving > 0

    @property
    def _settings(self) -> WorkerSettings:
        return self._owner.settings

    def run(self, noted: Callable[[], Iterable[int]] = tuple) -> "int | Worker | Preloader | Beside":
        """Keep workers until a signal asks for a stop. `noted` returns the signals that came before the master took them.

        Returns the exit status: 0, or that of the worker that could not start. In each child it returns the `Worker` or `Preloader`; see
        `start` for its signals. In the child of `beside` it returns a `Beside`, which says what to do."""
        self._pid = os.getpid()
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, _TAKEN)
        before = {number: signal.signal(number, _noted) for number in _TAKEN}
        previous = signal.set_wakeup_fd(self._wakeup_end, warn_on_full_buffer=False)
        earlier = list(noted())
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        try:
            for number in earlier:
                self._act(number)
            self._begin_generation()
            self._reconcile()
            while self._status is None or self._workers:
                self._wait()
                for number in self._signals():
                    self._act(number)
                self._reap()
                self._look_at_deadlines()
                self._reconcile()
                self._steer()
            return self._status
        except _Forked as forked:
            return forked.child
        except Beside as beside:
            return beside
        finally:
            if os.getpid() == self._pid:
                if self.beside is not None:
                    self.beside.stop()
                for pid in self._killed_preloaders:
                    wait_for_end(pid)
                signal.set_wakeup_fd(previous)
                for number, handler in before.items():
                    signal.signal(number, handler)
            os.close(self._wakeup)
            os.close(self._wakeup_end)
            for worker in self._workers.values():
                worker.close()
            for preloader in self._preloaders():
                preloader.close()

    # Waiting

    def _wait(self) -> None:
        """Wait for a signal, a worker's byte, or the next deadline."""
        now = monotonic()
        timeout = min(max(0.0, min(self._deadlines(), default=now + LONGEST_WAIT) - now), LONGEST_WAIT)
        self._look_due = now + timeout
        words = {worker.told: worker for worker in self._workers.values() if worker.told is not None}
        loading = {preloader.fileno(): preloader for preloader in self._preloaders() if preloader.is_loading}
        watched = self._owner.watched()
        poll = select.poll()  # and not `select`, which takes no descriptor from 1024 on
        for fd in (self._wakeup, *words, *loading, *watched):
            poll.register(fd, select.POLLIN)
        for fd, _ in poll.poll(math.ceil(timeout * 1000)):
            if fd in words:
                words[fd].hear()
            elif fd in loading:
                loading[fd].hear()
            elif fd in watched and watched[fd]():
                self._hand_over()

    def _deadlines(self) -> Iterator[float]:
        if self._owner.sign_interval is not None:
            yield self._sign_due
        for worker in self._workers.values():
            if worker.kill_at is not None:
                yield worker.kill_at
            elif worker.state is State.BOOTING:
                yield self._boots_until(worker)
            elif self._settings.timeout:
                yield monotonic() + BEAT
        for preloading in self._preloading.values():
            if preloading.process is None:
                yield preloading.slot.start_at
            elif preloading.process.is_loading and not preloading.process.killed:
                yield self._boots_until(preloading.process)
        if self.beside is not None and self._status is None:
            yield self.beside.due
        if self._status is None and self._serving:
            for number, slot in self._slots.items():
                if number < self._size and self._is_missing(number, self._serving):
                    yield slot.start_at

    def _signals(self) -> Iterator[int]:
        try:
            numbers = os.read(self._wakeup, 4096)
        except BlockingIOError:
            return
        yield from numbers

    # Signals

    def _act(self, number: int) -> None:
        if number != signal.SIGCHLD:
            log.info("master: %s", _name(number))
        if number in _STOPPING:
            stopped, self._stopped = self._stopped, True
            self._stop(cut=number == signal.SIGQUIT or stopped)
        elif number == signal.SIGHUP:
            self._reload_wanted = True
        elif number == signal.SIGUSR1:
            self._owner.reopen_logs()
            self._tell_all(signal.SIGUSR1)
            for preloader in self._preloaders():
                preloader.reopen_logs()
        elif number == signal.SIGUSR2 and self._status is None:
            self._owner.upgrade()
        elif number == signal.SIGTTIN:
            self._next_size += 1
        elif number == signal.SIGTTOU:
            self._next_size = max(1, self._next_size - 1)
        elif number == signal.SIGWINCH and not any(os.isatty(fd) for fd in range(3)):  # a terminal sends it when its size changes
            if self._booting is None:
                self._next_size = 0
            else:
                self._empties = True

    def _stop(self, *, cut: bool, status: int = 0) -> None:
        """End all workers, gracefully or by cutting their connections, and then the master."""
        if self._serving and cut:
            log.info("stopping at once: connections are cut")
        elif self._serving:
            log.info("stopping: connections have %g s to end; a second signal cuts them", self._settings.graceful_timeout)
        if self._status is None:
            self._status = status
            self._owner.stop()
        self._keep_preloader(None)
        for worker in self._workers.values():
            self._end(worker, cut=cut)

    def _hand_over(self) -> None:
        """Retire all workers and end, because another master serves on the same sockets."""
        if self._status is None:
            self._status = 0
            self._owner.stop()
        self._keep_preloader(None)
        for worker in self._workers.values():
            self._retire(worker)

    def _end(self, worker: WorkerProcess, *, cut: bool = False) -> None:
        """Tell a worker to end. A worker that is ending already is told again only to cut. A blocked worker does not react."""
        if cut:
            deaf = self._silence(worker, monotonic()) > DEAF_AFTER
            worker.cut(0.0 if deaf else self._settings.kill_after)
        else:
            worker.end(self._settings.graceful_timeout, self._settings.kill_after)

    def _retire(self, worker: WorkerProcess) -> None:
        """Tell a worker that others serve in its place."""
        worker.retire(self._settings.graceful_timeout, self._settings.kill_after)

    def _tell_all(self, number: int) -> None:
        for worker in self._workers.values():
            worker.tell(number)

    # Children that have ended

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            worker = self._workers.pop(pid, None)
            if worker is None:
                self._killed_preloaders.discard(pid)
                for generation, preloading in list(self._preloading.items()):
                    if preloading.process is not None and preloading.process.pid == pid:
                        self._preloader_ended(generation, preloading, status)
                if self.beside is not None:
                    self.beside.ended(pid, status)
                continue  # the first process of a container is given the orphans of all others
            if worker.told is not None:
                worker.hear()
            worker.close()
            self._owner.reaped(pid)
            if worker.state not in (State.BOOTING, State.SERVING) or self._status is not None:
                log.info("%s has ended%s", worker, _reason(worker, status))
            else:
                self._failed(worker, status)
            self.page.retire(worker.entry)

    def _failed(self, worker: WorkerProcess, status: int) -> None:
        """Handle a worker that has ended by itself."""
        booting = worker.state is State.BOOTING
        self.board.add("muxwsgi_worker_failures_total", 0 if booting else 2 if os.WIFSIGNALED(status) else 1)
        now = monotonic()
        if worker.generation == self._booting:
            self._could_not_boot(worker, status)
            return
        slot = self._slots.setdefault(worker.slot, _Slot())
        if now - worker.started >= self._settings.settled_after and worker.state is not State.BOOTING:
            slot.failures = 0
            slot.start_at = now
        else:
            slot.back_off(now)
        delay = slot.start_at - now
        log.error(
            "%s has ended%s%s: %s",
            worker,
            " before it was ready" if worker.state is State.BOOTING else "",
            _reason(worker, status),
            (f"another one starts in {delay:.1f} s" if delay else "another one starts") + (f". {worker.reason}" if worker.reason else ""),
        )

    def _preloader_ended(self, generation: int, preloading: _Preloading, status: int) -> None:
        preloader, preloading.process = preloading.process, None
        assert preloader is not None
        preloader.hear()
        preloader.close()
        if generation == self._booting:
            self._could_not_boot(preloader, status)
            return
        now = monotonic()
        if preloader.is_ready and now - preloader.started >= self._settings.settled_after:
            preloading.slot.failures = 0
        preloading.slot.back_off(now)
        delay, why = preloading.slot.start_at - now, f". {preloader.reason}" if preloader.reason else ""
        log.error("%s has ended%s: another one starts in %.1f s%s", preloader, _reason(preloader, status), delay, why)

    def _could_not_boot(self, child: WorkerProcess | PreloaderProcess, status: int) -> None:
        why = child.reason or f"{child} has ended before it was ready{_reason(child, status)}"
        code = os.waitstatus_to_exitcode(status)
        self._give_up_booting(why, 128 - code if code < 0 and not child.killed else max(code, 1))

    def _give_up_booting(self, why: str, status: int) -> None:
        """End the generation that boots, because one of its workers has failed. If it is the first generation, the master ends too."""
        generation, self._booting = self._booting, None
        if not self._serving:
            self.failure = why
            self._stop(cut=True, status=status)
            return
        self._next_size = self._size
        self._keep_preloader(self._serving)
        for worker in self._workers.values():
            if worker.generation == generation:
                self._end(worker, cut=True)
        self.board.add("muxwsgi_reloads_total", 1)
        self._owner.reloaded(False)
        log.error("the reload failed, and what served before goes on: %s", why)

    # Deadlines

    def _look_at_deadlines(self) -> None:
        now = monotonic()
        if now > self._look_due + STOOD_STILL:
            self._runs_since = now
        interval = self._owner.sign_interval
        if interval is not None and now >= self._sign_due:
            self._sign_due = now + interval
            if self._is_alive(now, interval):
                self._owner.sign_of_life()
        for worker in self._workers.values():
            if worker.kill_at is not None and now >= worker.kill_at:
                log.error("%s has not ended in time: it is killed", worker)
                self.board.add("muxwsgi_worker_kills_total")
                worker.kill(self._settings.kill_after)
            elif worker.state is State.BOOTING and worker.kill_at is None and now >= self._boots_until(worker):
                log.error("%s is not ready after %g s: it is killed", worker, self._settings.boot_timeout)
                self.board.add("muxwsgi_worker_kills_total")
                worker.kill(self._settings.kill_after)
            elif worker.state in (State.SERVING, State.LEAVING, State.BLOCKED) and self._settings.timeout:
                self._look_at_heartbeat(worker, now)
        for preloader in self._preloaders():
            if preloader.is_loading and not preloader.killed and now >= self._boots_until(preloader):
                log.error("%s is not ready after %g s: it is killed", preloader, self._settings.boot_timeout)
                preloader.kill()

    def _look_at_heartbeat(self, worker: WorkerProcess, now: float) -> None:
        """Ask a worker whose event loop is blocked what blocks it, and replace it. It is killed when its replacement is ready."""
        since = self._silence(worker, now)
        if since < self._settings.timeout:
            # If only the master was late, the worker has written no time since.
            if worker.state is State.BLOCKED and worker.heartbeat.last != worker.blocked_since:  # another worker has its slot
                log.warning("%s runs again: it ends its connections", worker)
                self._retire(worker)
            worker.asked = 0
            return
        if now < worker.asked_at + ANSWER_TIME:
            return
        if worker.state in (State.SERVING, State.LEAVING):
            if not worker.asked:
                worker.heartbeat.forget_answers()
            answer = worker.heartbeat.answer()
            if not answer and worker.asked < len(QUESTIONS):
                worker.ask(QUESTIONS[worker.asked])
                return
            worker.state = State.BLOCKED
            worker.blocked_since = worker.heartbeat.last
            self.board.add("muxwsgi_worker_blocked_total")
            self.board.report(worker.pid, answer or "unknown")
            log.error("%s: its event loop is blocked for %.0f s: another one starts. It serves %s", worker, since, answer or "unknown")

    def _is_alive(self, now: float, interval: float) -> bool:
        """Whether the event loop of a worker has run in the last `interval` seconds. None has to run at the start, at the end, and after
        WINCH."""
        if self._status is not None or not self._serving or self._size == 0:
            return True
        serving = (worker for worker in self._workers.values() if worker.state in (State.SERVING, State.LEAVING))
        return any(self._silence(worker, now) < max(interval, 2 * BEAT) for worker in serving)

    def _boots_until(self, child: WorkerProcess | PreloaderProcess) -> float:
        return max(child.started, self._runs_since) + self._settings.boot_timeout

    def _silence(self, worker: WorkerProcess, now: float) -> float:
        """Seconds without a heartbeat. Time in which the master did not run either is not counted, because then the machine stood still or
        all processes were stopped."""
        last = worker.heartbeat.last
        return 0.0 if last is None else now - max(last, self._runs_since)

    # What should be

    def _reconcile(self) -> None:
        """Start missing workers, and end surplus workers."""
        self._put_state()
        if self._status is not None:
            return
        self._notice_changes()
        if self._reload_wanted and self._booting is None:
            self._reload_wanted = False
            if self._owner.reload():
                self._next_size = self._settings.workers
                self._begin_generation()
            else:
                self.board.add("muxwsgi_reloads_total", 1)
        if self._booting is None and self._empties:  # a generation that boots has to serve first: it may fail
            self._empties = False
            self._next_size = 0
        if self._booting is None and self._size != self._next_size:
            self._size = self._next_size
            self._owner.resized(self._size)
        if self._serving:
            self._start_missing(self._size, self._serving)
        if self._booting is not None:
            self._start_missing(self._next_size, self._booting)
        generation = self._serving if self._booting is None else self._booting
        for worker in list(self._workers.values()):
            if worker.slot >= (self._next_size if worker.generation == generation else self._size):
                self._retire(worker)
            elif worker.state in (State.LEAVING, State.BLOCKED) and self._is_ready(worker.slot, worker.generation):
                self._replaced(worker)
        if self._booting is not None and all(self._is_served(number, self._booting) for number in range(self._next_size)):
            self._serving, self._booting = self._booting, None
            self._size = self._next_size
            self._put_state()
            if self._serving > 1:
                self.board.add("muxwsgi_reloads_total", 0)
            self._keep_preloader(self._serving)  # first, because the one before has the sockets that the owner closes
            self._owner.reloaded(True)
            self._owner.resized(self._size)
            log.info("%d %s ready", self._size, "worker is" if self._size == 1 else "workers are")
            for worker in list(self._workers.values()):
                if worker.state is State.RETIRING and worker.generation <= self._serving - IN_GRACE:
                    self._end(worker)
                elif worker.generation != self._serving:
                    self._retire(worker)
        if self.beside is not None and self._status is None:
            self.beside.look(_TAKEN)  # last, so that the first workers start first

    def _notice_changes(self) -> None:
        """Reload if a file of a worker of the newest generation has changed. A file of an earlier one was read again since."""
        newest = self._serving if self._booting is None else self._booting
        for worker in self._workers.values():
            self._reload_wanted |= worker.has_changed and worker.generation == newest
            worker.has_changed = False

    def _steer(self) -> None:
        """Tell the owner in which slots workers serve, and none is about to end."""
        live = {worker.slot for worker in self._workers.values() if worker.state in (State.SERVING, State.LEAVING)}
        if live and self._status is None:
            self._owner.steer(sorted(live))

    def _start_missing(self, size: int, generation: int) -> None:
        if not self._can_fork(generation):
            return
        now = monotonic()
        for number in range(size):
            slot = self._slots.setdefault(number, _Slot())
            due = generation == self._booting or now >= slot.start_at
            if due and self._is_missing(number, generation) and not self._start(number, generation):
                return  # the generation may have been given up

    def _put_state(self) -> None:
        self.board.put("muxwsgi_workers_wanted", self._size if self._booting is None else self._next_size)
        self.board.put("muxwsgi_generation", self._serving)
        self.board.put("muxwsgi_stopping", int(self._status is not None))

    def _replaced(self, worker: WorkerProcess) -> None:
        """End or kill `worker`, because another worker is ready in its place."""
        if worker.state is State.LEAVING:
            self._retire(worker)
            return
        log.error("%s is killed: its event loop is still blocked", worker)
        worker.state = State.ENDING
        self.board.add("muxwsgi_worker_kills_total")
        if self._owner.aborts:
            worker.abort(ABORT_TIME)
        else:
            worker.kill(self._settings.kill_after)

    def _begin_generation(self) -> None:
        self._last += 1
        self._booting = self._last
        if self._owner.preloads:
            self._preloading[self._booting] = _Preloading()

    def _worker_of(self, slot: int, generation: int) -> WorkerProcess | None:
        for worker in self._workers.values():
            if worker.slot == slot and worker.generation == generation and worker.state in (State.BOOTING, State.SERVING):
                return worker
        return None

    def _is_missing(self, slot: int, generation: int) -> bool:
        """Whether a worker is to be started in `slot`.

        A worker that leaves is replaced only after the process before it has ended. Otherwise clients could make many processes: they
        send many requests (`max_requests`), and keep one open in each worker until the graceful timeout.
        """
        if self._worker_of(slot, generation) is not None:
            return False
        states = [(worker.state, worker.generation) for worker in self._workers.values() if worker.slot == slot]
        return (State.LEAVING, generation) not in states or all(state not in (State.RETIRING, State.ENDING) for state, _ in states)

    def _is_served(self, slot: int, generation: int) -> bool:
        """Whether a worker of `generation` accepts connections in `slot`. A worker that leaves counts too."""
        return any(
            worker.slot == slot and worker.generation == generation and worker.state in (State.SERVING, State.LEAVING)
            for worker in self._workers.values()
        )

    def _is_ready(self, slot: int, generation: int) -> bool:
        worker = self._worker_of(slot, generation)
        return worker is not None and worker.state is State.SERVING

    # Preloaders

    def _preloaders(self) -> list[PreloaderProcess]:
        """Those that run."""
        return [each.process for each in self._preloading.values() if each.process is not None]

    def _keep_preloader(self, generation: int | None) -> None:
        """End the preloaders of all generations but this one."""
        for number in [number for number in self._preloading if number != generation]:
            preloader = self._preloading.pop(number).process
            if preloader is not None:
                preloader.kill()
                preloader.close()
                self._killed_preloaders.add(preloader.pid)

    def _can_fork(self, generation: int) -> bool:
        """Whether a worker of `generation` can be forked now. Starts its preloader if that is needed. Raises `_Forked` in the preloader."""
        preloading = self._preloading.get(generation)
        if preloading is None:
            return True
        if preloading.process is not None:
            return preloading.process.is_ready and not preloading.process.killed
        if monotonic() < preloading.slot.start_at:
            return False
        try:
            self._owner.before_preload(booting=generation == self._booting)
            started = start_preloader(_TAKEN, self.page, self.queue)
        except OSError as error:
            self._owner.after_fork(None)
            preloading.slot.back_off(monotonic())
            self._no_worker(generation, error)
            return False
        if isinstance(started, Preloader):
            raise _Forked(started)
        self._owner.after_fork(None)
        preloading.process = started
        return False

    # Starting one

    def _start(self, slot: int, generation: int) -> bool:
        """Start a worker, and return whether that worked. Raises `_Forked` in the child."""
        boots = generation == self._booting
        try:
            self._owner.before_fork(slot, booting=boots)
            preloading = self._preloading.get(generation)
            preloader = None if preloading is None else preloading.process
            given = None if preloader is None else self._owner.given(slot, booting=boots)
            announces = boots and slot == 0
            started = start(slot, generation, _TAKEN, self.page, self.queue, announces=announces, preloader=preloader, given=given)
        except (OSError, OperatorError) as error:
            self._owner.after_fork(None)
            if not boots:
                self._slots[slot].back_off(monotonic())
            self._no_worker(generation, error)
            return False
        if isinstance(started, Worker):
            raise _Forked(started)
        self._owner.after_fork(started.pid)
        self._workers[started.pid] = started
        self.board.add("muxwsgi_worker_starts_total")
        return True

    def _no_worker(self, generation: int, error: OSError | OperatorError) -> None:
        """Handle a failed start: the machine has no process, no descriptor or no memory left, or the owner does not want one."""
        of_owner = isinstance(error, OperatorError)
        why = f"{error}\n{error.detail}".rstrip() if isinstance(error, OperatorError) else f"no worker can be started: {error.strerror}"
        if generation == self._booting:
            self._give_up_booting(why, status=2 if of_owner else 1)
        else:
            log.error("%s", why)


def _noted(number: int, frame: object) -> None:
    """Does nothing, because the byte in the wakeup pipe is enough."""


def _name(number: int) -> str:
    """The name of a signal. Most real-time signals have none in Python."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _reason(child: WorkerProcess | PreloaderProcess, status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        return f" by {_name(-code)}" + (", perhaps for want of memory" if -code == signal.SIGKILL and not child.killed else "")
    return f" with status {code}" if code else ""
