"""A preloader: the process between the master and the workers of a generation (`--preload`, `--preload-module`). Imports no gevent.

The master forks it. It patches itself, loads the application or modules, and then forks each worker when the master asks for one, so that
workers share its memory, and start at once. The master stays without gevent and without the application. Each reload has a new preloader,
which loads new code. `PreloaderProcess` is its object in the master, `Preloader` the object in the preloader.

    master -> preloader     a request: JSON, with the descriptors of the worker (SCM_RIGHTS); or `_REOPEN`
    preloader -> master     `_READY`, or `_FAILED` and the reason; then to each request JSON with the pid, or the error

**Workers are children of the master**, which waits for them as for all others. The preloader forks a process, which forks the worker and
ends. The kernel gives the worker to the nearest ancestor that adopts orphans (PR_SET_CHILD_SUBREAPER, prctl(2)): the master. Only then
may the worker ask for the signal that it gets when its parent ends, so it waits for a byte of the preloader.

**It never runs its event loop.** Greenlets that the application has started while it was loaded, threads among them, do not run in the
preloader. They run in each worker, as if each had loaded the application. It has nothing to lose, so it is killed when it is not needed any
more. If the master dies, Linux kills it.
"""

import array
import ctypes
import errno
import json
import logging
import os
import select
import signal
import socket
from collections.abc import Callable, Sequence
from time import monotonic

from muxwsgi.record import record
from muxwsgi.server.handover_queue import HandoverQueue
from muxwsgi.server.heartbeat import Heartbeat
from muxwsgi.server.page import SharedPage
from muxwsgi.server.parent import die_with
from muxwsgi.server.worker import LONGEST_REASON, Given, Worker, fork, take_defaults
from muxwsgi.wire.plain_socket import close_now

__all__ = ["Preloader", "PreloaderProcess", "start_preloader"]

log = logging.getLogger("muxwsgi.error")

_PR_SET_CHILD_SUBREAPER = 36

_READY, _FAILED, _REOPEN = b"R", b"F", b"O"

#: Seconds for which the master waits until a worker is forked. Meanwhile it acts on no signal.
FORK_TIMEOUT = 10.0

#: Seconds for which it waits for the end of a preloader that it has killed. It may have forked a worker at that moment.
LATE_ANSWER = 2.0

#: Bytes of a request, and descriptors in it, at most: unix(7), SCM_MAX_FD.
_LONGEST, _DESCRIPTORS = 4096, 253


class PreloaderProcess:
    """The preloader of a generation, in the master.

    is_ready    whether it has loaded all, so that `fork` works
    reason      why it could not load: one line, and perhaps a traceback after it; None if it has not said it
    killed      whether the master has killed it
    """

    def __init__(self, pid: int, stream: socket.socket) -> None:
        self.pid = pid
        self.started = monotonic()
        self.is_ready = False
        self.reason: str | None = None
        self.killed = False
        self._stream = stream
        self._has_ended = False

    def __str__(self) -> str:
        return f"the preloader {self.pid}"

    @property
    def is_loading(self) -> bool:
        """Whether it may still say something without being asked."""
        return not self.is_ready and not self._has_ended

    def fileno(self) -> int:
        """The descriptor that is readable when `hear` has something to read."""
        return self._stream.fileno()

    def hear(self) -> None:
        """Read a message, before it is ready. Does not wait."""
        try:
            said = self._stream.recv(2 * LONGEST_REASON, socket.MSG_DONTWAIT)
        except OSError:  # nothing, or it has ended
            return
        if said == _READY:
            self.is_ready = True
        elif not said:
            self._has_ended = True
        elif said.startswith(_FAILED):
            self.reason = said[1:].decode("utf-8", "replace").rstrip()

    def fork(self, slot: int, entry: int, heartbeat: int, tells: int, given: Given, *, announces: bool) -> int:
        """Let it fork a worker with these descriptors and this entry of the page. Returns the pid. Raises `OSError`: its own, or
        `TimeoutError` if it does not answer, and then it is killed."""
        descriptors = array.array("i", [heartbeat, tells, *given.descriptors])
        request = {"slot": slot, "entry": entry, "announces": announces, "age": given.age, "descriptors": len(descriptors)}
        poll = select.poll()
        poll.register(self._stream, select.POLLIN)
        said, is_late = b"", False
        try:
            self._stream.sendmsg([json.dumps(request).encode()], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)], socket.MSG_NOSIGNAL)
            is_late = not poll.poll(FORK_TIMEOUT * 1000)
            if is_late:
                self.kill()
                poll.poll(LATE_ANSWER * 1000)  # it may have forked the worker
            said = self._stream.recv(_LONGEST, socket.MSG_DONTWAIT)
        except (ConnectionError, BlockingIOError):
            pass
        if not said and is_late:
            raise TimeoutError(errno.ETIMEDOUT, f"the preloader has not answered in {FORK_TIMEOUT:g} s")
        if not said:
            raise OSError(errno.EPIPE, "the preloader has ended")
        answer = json.loads(said)
        if "error" in answer:
            raise OSError(answer["error"], os.strerror(answer["error"]))
        pid: int = answer["pid"]
        return pid

    def reopen_logs(self) -> None:
        """Let it reopen its logs, after SIGUSR1. One that loads still opens them later."""
        if self.is_ready:
            try:
                self._stream.send(_REOPEN, socket.MSG_NOSIGNAL)
            except OSError:
                pass  # it has ended, and is reaped next

    def kill(self) -> None:
        """End it. It is reaped later."""
        self.killed = True
        try:
            os.kill(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass

    def close(self) -> None:
        """Close the descriptor, after it has ended, or in another child."""
        self._stream.close()


def start_preloader(taken: Sequence[int], page: SharedPage, queue: HandoverQueue) -> "PreloaderProcess | Preloader":
    """Start one. Returns a `PreloaderProcess` in the master, and a `Preloader` in the child. Raises `OSError`, in the master only."""
    adopt_orphans()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    master = os.getpid()
    try:
        pid = fork(taken)
    except OSError:
        ours.close()
        theirs.close()
        raise
    if pid == 0:
        ours.close()
        return Preloader(master, theirs, taken, page, queue)
    theirs.close()
    return PreloaderProcess(pid, ours)


def adopt_orphans() -> None:
    """Let this process be the parent of its descendants whose parent ends. Raises `OSError`."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"the master cannot adopt workers: {os.strerror(number)}")


@record()
class _Request:
    slot: int
    entry: int
    announces: bool
    age: int
    descriptors: int


class Preloader:
    """The preloader, in its process."""

    def __init__(self, master: int, stream: socket.socket, taken: Sequence[int], page: SharedPage, queue: HandoverQueue) -> None:
        self._master = master
        self._stream = stream
        self._taken = taken
        self._page = page
        self._queue = queue

    def fail(self, reason: str) -> bool:
        """Tell the master why nothing could be loaded: one line, and a traceback after it. Returns whether there is a master."""
        line, _, detail = reason.encode("utf-8", "backslashreplace").partition(b"\n")
        line = line[:LONGEST_REASON]
        try:
            self._stream.send(_FAILED + line + b"\n" + detail[max(0, len(detail) + len(line) - LONGEST_REASON) :], socket.MSG_NOSIGNAL)
        except OSError:
            return False
        return True

    def run(self, plain_fork: Callable[[], int], plain_wait: Callable[[int, int], object], reopen_logs: Callable[[], None]) -> Worker:
        """Tell the master that all is loaded, and fork a worker for each request. Returns in each worker, and ends this process when there
        is no master any more. Given are `os.fork` and `os.waitpid` of Python, and not gevent's."""
        self._stream.send(_READY, socket.MSG_NOSIGNAL)
        while True:
            data, extra, _, _ = self._stream.recvmsg(_LONGEST, socket.CMSG_SPACE(4 * _DESCRIPTORS), socket.MSG_CMSG_CLOEXEC)
            if not data:
                os._exit(0)
            if data == _REOPEN:
                reopen_logs()
                continue
            descriptors = array.array("i")
            for _, _, numbers in extra:
                descriptors.frombytes(numbers[: len(numbers) - len(numbers) % descriptors.itemsize])
            request = _Request(**json.loads(data))
            try:
                if len(descriptors) != request.descriptors:  # the kernel dropped those for which there was no number
                    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
                if self._fork(plain_fork, plain_wait):
                    return self._become(request, list(descriptors))
            except OSError as error:
                self._answer({"error": error.errno or errno.EAGAIN})
            for fd in descriptors:
                close_now(fd)

    def _answer(self, answer: dict[str, int]) -> None:
        self._stream.send(json.dumps(answer).encode(), socket.MSG_NOSIGNAL)

    def _fork(self, plain_fork: Callable[[], int], plain_wait: Callable[[int, int], object]) -> bool:
        """Fork a worker, and tell the master its pid. Returns True in the worker, when it is a child of the master. Raises `OSError`."""
        ends: list[int] = []
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            hears, says = os.pipe2(os.O_CLOEXEC)  # the pid of the worker
            ends += hears, says
            waits, frees = os.pipe2(os.O_CLOEXEC)  # a byte, when the worker has the master as its parent
            ends += waits, frees
            middle = plain_fork()
            if middle == 0:
                self._in_middle(plain_fork, says)
                # Only the worker comes here.
                close_now(frees)
                ends.remove(frees)
                if not os.read(waits, 1):
                    os._exit(1)  # the preloader was killed
                take_defaults(self._taken)
                die_with(self._master)
                return True
            close_now(says)
            ends.remove(says)
            plain_wait(middle, 0)
            said = os.read(hears, 64)
            if not said:
                raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
            # If this process is killed between these two lines, the worker ends. So no worker serves that the master does not know.
            self._answer({"pid": int(said)})
            os.write(frees, b"1")
            return False
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            for fd in ends:
                close_now(fd)

    @staticmethod
    def _in_middle(plain_fork: Callable[[], int], says: int) -> None:
        """Fork the worker, and end. Returns in the worker."""
        try:
            pid = plain_fork()
        except OSError:
            os._exit(1)
        if pid:
            os.write(says, b"%d" % pid)
            os._exit(0)

    def _become(self, request: _Request, descriptors: list[int]) -> Worker:
        self._stream.close()
        heartbeat, tells, *given = descriptors
        entry = self._page.entry(request.entry)
        entry.pid = os.getpid()  # the master writes it too, perhaps later
        return Worker(
            request.slot,
            tells,
            Heartbeat.inherited(entry, heartbeat),
            self._page,
            entry,
            self._queue,
            announces=request.announces,
            given=Given(request.age, tuple(given)),
        )
