"""Processes of `python -m muxwsgi` that do not import everything anew.

A cold start takes three quarters of a second of processor time, and most of that are imports which every start repeats. So a process that
has imported muxwsgi, and nothing of applications, waits for orders. For each order it forks a child, which becomes the command: it has the
arguments, the environment, the folder, the descriptors and the signals of a process that was started. All that it does itself is done anew,
with the patches of Python and the workers that are forked.

`Popen` starts cold what is not such a command, and what depends on the start of the interpreter: see `_can_be_warm`. So a test can use it
for every process. What is about imports, memory, asyncio, or the command line that `ps` shows wants `subprocess.Popen`.
"""

import array
import atexit
import contextlib
import gc
import importlib
import io
import json
import os
import runpy
import select
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["Popen", "run"]

ROOT = Path(__file__).parents[1]
COMMAND = [sys.executable, "-m", "muxwsgi"]

#: What the interpreter and C libraries read when they start, or when a module is imported.
_AT_START = ("PYTHON", "GEVENT", "GREENLET", "LD_", "LC_", "LANG", "MALLOC", "GLIBC", "OPENSSL", "TZ", "FAKETIME", "COVERAGE")

#: Of these, what `_become` does for a process.
_SET_LATER = frozenset({"PYTHONPATH", "PYTHONDONTWRITEBYTECODE"})

#: What `muxwsgi run` and `muxwsgi proxy` import, in the master and in a worker. A worker imports most of it after it has patched Python. It can
#: be imported before, because of what gevent replaces no module here takes more than clocks and constants by name (a test looks).
IMPORTED: tuple[str, ...] = ("muxwsgi.cli.run", "muxwsgi.cli.workers", "muxwsgi.proxy.served", "httptools", "cryptography.x509")
IMPORTED += tuple(f"gevent.{name}" for name in ("builtins", "monkey", "select", "selectors", "signal", "subprocess", "thread", "threading", "threadpool", "time"))

_LENGTH = struct.Struct("!I")
_STATUS = struct.Struct("!i")


def _seen_at_start(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name.startswith(_AT_START) and name not in _SET_LATER}


def _python_path(environment: Mapping[str, str]) -> list[str]:
    return list(filter(None, environment.get("PYTHONPATH", "").split(os.pathsep)))


class _Warm:
    """The process that waits, as those that start others see it. There is one for each process of the tests, from the first start on."""

    def __init__(self) -> None:
        self.seen_at_start = _seen_at_start(os.environ)
        self._socket, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-m", "tests.warm", str(theirs.fileno())]
            self._process = subprocess.Popen(command, cwd=ROOT, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
        self._of = os.getpid()
        atexit.register(self._end)

    def is_mine(self) -> bool:
        """Whether this process started it, and it runs."""
        return self._of == os.getpid() and self._process.poll() is None

    def start(self, order: dict[str, Any], descriptors: Sequence[int]) -> int:
        """The pid of a new process with `descriptors` as 0, 1 and 2. The fourth gets its status."""
        data = json.dumps(order).encode()
        rights = array.array("i", descriptors)
        self._socket.sendmsg([_LENGTH.pack(len(data))], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
        self._socket.sendall(data)
        answer = self._socket.recv(_STATUS.size, socket.MSG_WAITALL)
        if len(answer) < _STATUS.size:
            raise OSError("the process that waits for orders has ended")
        pid: int = _STATUS.unpack(answer)[0]
        return pid

    def _end(self) -> None:
        if self._of == os.getpid():
            self._socket.close()
            self._process.wait(30)


_warm: _Warm | None = None


def _waiting_process() -> _Warm:
    global _warm
    if _warm is None or not _warm.is_mine():
        _warm = _Warm()
    return _warm


def _is_readable(descriptor: int) -> bool:
    poll = select.poll()  # and not `select`, which takes no descriptor from 1024 on
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))


class Popen(subprocess.Popen[Any]):
    """As `subprocess.Popen`."""

    _status: int | None = None  # a descriptor, of a process that was not started by this one

    def _execute_child(self, args: Any, executable: Any, preexec_fn: Any, close_fds: Any, pass_fds: Any, cwd: Any, env: Any, *others: Any) -> None:
        _startup, _flags, shell, p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite, restore_signals, gid, gids, uid, umask, *last = others
        environment = dict(os.environ if env is None else env)
        plain = preexec_fn is None and close_fds and not pass_fds and executable is None and not shell and restore_signals
        plain = plain and (gid, gids, uid, umask) == (None, None, None, -1) and last in ([False], [False, -1])
        if not plain or not _can_be_warm(args, cwd, environment):
            super()._execute_child(args, executable, preexec_fn, close_fds, pass_fds, cwd, env, *others)  # type: ignore[misc]
            return
        self._status, theirs = os.pipe()
        try:
            current = os.umask(0o22)
            os.umask(current)
            order = {"arguments": list(map(os.fspath, args)), "environment": environment, "folder": os.path.abspath(cwd or "."), "umask": current}
            standard = [p2cread if p2cread >= 0 else 0, c2pwrite if c2pwrite >= 0 else 1, errwrite if errwrite >= 0 else 2]
            self.pid = _waiting_process().start(order, [*standard, theirs])
            self._child_created = True
        finally:
            os.close(theirs)
            self._close_pipe_fds(p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite)  # type: ignore[attr-defined]

    def _try_wait(self, wait_flags: int) -> tuple[int, int]:
        if self._status is None:
            return super()._try_wait(wait_flags)  # type: ignore[misc,no-any-return]
        if wait_flags & os.WNOHANG and not _is_readable(self._status):
            return 0, 0
        data = os.read(self._status, _STATUS.size)
        os.close(self._status)
        self._status = None
        # Without a status the process that waits has ended before: what `subprocess` makes of a child that somebody else waited for.
        return self.pid, _STATUS.unpack(data)[0] if data else 0

    def _internal_poll(self, _deadstate: int | None = None, *others: Any) -> int | None:
        if self._status is None:
            return super()._internal_poll(_deadstate, *others)  # type: ignore[misc,no-any-return]
        if self.returncode is None and self._waitpid_lock.acquire(False):  # type: ignore[attr-defined]
            try:
                pid, status = self._try_wait(os.WNOHANG)
                if pid:
                    self._handle_exitstatus(status)  # type: ignore[attr-defined]
            finally:
                self._waitpid_lock.release()  # type: ignore[attr-defined]
        return self.returncode


def run(
    command: Sequence[str | os.PathLike[str]], *, input: Any = None, capture_output: bool = False, timeout: float | None = None, check: bool = False, **options: Any
) -> subprocess.CompletedProcess[Any]:
    """As `subprocess.run`."""
    if input is not None:
        options["stdin"] = subprocess.PIPE
    if capture_output:
        options["stdout"] = options["stderr"] = subprocess.PIPE
    with Popen(command, **options) as process:
        try:
            stdout, stderr = process.communicate(input, timeout=timeout)
        except BaseException:
            process.kill()
            process.wait()
            raise
        status = process.wait()
    if check and status:
        raise subprocess.CalledProcessError(status, list(command), stdout, stderr)
    return subprocess.CompletedProcess(list(command), status, stdout, stderr)


def _can_be_warm(command: Any, cwd: Any, environment: Mapping[str, str]) -> bool:
    if isinstance(command, (str, bytes)) or [*map(os.fspath, command)][:3] != COMMAND:
        return False
    if _seen_at_start(environment) != _waiting_process().seen_at_start:
        return False
    for folder in map(Path, [cwd or ".", *_python_path(environment)]):  # where it finds the package
        if (folder / "muxwsgi").exists():
            return folder.resolve() == ROOT
    return str(ROOT) not in _python_path(os.environ)


# The process that waits


def wait_for_orders() -> None:
    """The whole of that process. It ends with the one that gives orders; its children go on, as children of any process."""
    for name in IMPORTED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # a child that ends does not touch these
    orders = socket.socket(fileno=int(sys.argv[1]))
    running: dict[int, int] = {}  # pid -> where its status is written
    wake, woken = os.pipe()
    os.set_blocking(wake, False)
    os.set_blocking(woken, False)
    signal.set_wakeup_fd(woken)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the tests, which then close the socket
    while True:
        readable: list[Any] = [orders, wake]
        ready = select.select(readable, [], [])[0]
        if wake in ready:
            os.read(wake, 4096)
            for pid, status in list(_ended()):
                with contextlib.suppress(BrokenPipeError):  # nobody wants to know
                    os.write(running[pid], _STATUS.pack(status))
                os.close(running.pop(pid))
        if orders in ready:
            head, descriptors, _, _ = socket.recv_fds(orders, _LENGTH.size, 4)
            if not head:
                return
            order = json.loads(orders.recv(_LENGTH.unpack(head)[0], socket.MSG_WAITALL))
            pid = os.fork()
            if not pid:
                _become(order, descriptors)
                return
            running[pid] = descriptors.pop()
            for descriptor in descriptors:
                os.close(descriptor)
            orders.sendall(_STATUS.pack(pid))


def _ended() -> Any:
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            yield ended


def _become(order: dict[str, Any], descriptors: list[int]) -> None:
    """In the child: run the command, and return or raise as it does."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for descriptor in descriptors[:3]:
        assert descriptor > 2
    for number, descriptor in enumerate(descriptors[:3]):
        os.dup2(descriptor, number)
    os.closerange(3, 1 << 16)
    own_path = len(_python_path(os.environ))
    os.environ.clear()
    os.environ.update(order["environment"])
    os.umask(order["umask"])
    os.chdir(order["folder"])
    # As the interpreter opens them (`create_stdio` in Python/pylifecycle.c).
    for name, number in ("stdin", 0), ("stdout", 1), ("stderr", 2):
        old = getattr(sys, name)
        raw = io.FileIO(number, "r" if name == "stdin" else "w", closefd=False)
        unbuffered = old.write_through and name != "stdin"
        buffer: Any = raw if unbuffered else io.BufferedReader(raw) if name == "stdin" else io.BufferedWriter(raw)
        by_line = not unbuffered and (name == "stderr" or raw.isatty())
        new = io.TextIOWrapper(buffer, old.encoding, old.errors, line_buffering=by_line, write_through=unbuffered)
        new.mode = old.mode  # type: ignore[misc]
        setattr(sys, name, new)
        setattr(sys, f"__{name}__", new)
    sys.orig_argv[:] = order["arguments"]
    sys.argv[:] = ["-m", *order["arguments"][3:]]
    sys.dont_write_bytecode = bool(os.environ.get("PYTHONDONTWRITEBYTECODE"))
    sys.path[: 1 + own_path] = [os.getcwd(), *map(os.path.abspath, _python_path(os.environ))]
    importlib.invalidate_caches()
    runpy._run_module_as_main("muxwsgi")  # type: ignore[attr-defined]


if __name__ == "__main__":
    wait_for_orders()
