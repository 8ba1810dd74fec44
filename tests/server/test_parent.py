"""What becomes of a process whose master is killed, whatever it does at that moment."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.system.server_process import ServerProcess
from tests.waiting import wait_for

#: A lock that its own thread waits for, in C code that no signal ends, and that holds the GIL.
DEADLOCK = """
def block():
    import ctypes
    libc = ctypes.PyDLL(None)
    mutex = ctypes.create_string_buffer(128)
    libc.pthread_mutex_lock(mutex)
    libc.pthread_mutex_lock(mutex)
"""

#: A master that forks one process, and a process that blocks. The first says the pid of the second when all is prepared.
PROGRAM = f"""
import os, signal, sys, time
from muxwsgi.server import parent
{DEADLOCK}
master = os.getpid()
if os.fork() == 0:
    if sys.argv[1] == "die_with":
        parent.die_with(master)
    else:
        parent._FIRST = parent._LAST = signal.SIGHUP  # 1, so one second
        parent.die_after(master, 40)
    print(os.getpid(), flush=True)
    block()
time.sleep(600)
"""

APPLICATION = f"""
import os, signal
from muxwsgi.server import parent
parent._FIRST = parent._LAST = signal.SIGHUP
{DEADLOCK}
def app(environ, start_response):
    start_response("200 OK", [("Content-Length", str(len(str(os.getpid()))))])
    yield str(os.getpid()).encode()
    if environ["PATH_INFO"] == "/c":
        block()
    while environ["PATH_INFO"] == "/python":
        pass
"""


def is_gone(pid: int) -> bool:
    """Whether it has ended. Its parent is gone, and another one may not have reaped it yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


@contextmanager
def ending(pid: int) -> Iterator[None]:
    """Kill it after the test that has failed."""
    try:
        yield
    finally:
        if not is_gone(pid):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("way", ["die_with", "die_after"])
def test_a_process_that_holds_the_gil_ends_after_its_parent(way: str) -> None:
    with subprocess.Popen([sys.executable, "-c", PROGRAM, way], stdout=subprocess.PIPE) as master:
        assert master.stdout is not None
        pid = int(master.stdout.readline())
        with ending(pid):
            assert not is_gone(pid)
            master.kill()
            wait_for(lambda: is_gone(pid))


@pytest.mark.parametrize("options", [(), ("--preload",)], ids=["", "preloaded"])
@pytest.mark.parametrize("code", ["c", "python"])
def test_a_worker_whose_event_loop_is_blocked_ends_after_its_master(tmp_path: Path, code: str, options: tuple[str, ...]) -> None:
    (tmp_path / "deadlock_app.py").write_text(APPLICATION)
    with ServerProcess("deadlock_app:app", "--pythonpath", str(tmp_path), "--timeout", "0", *options) as server:
        pid = int(server.get(f"/{code}")[1])
        with ending(pid):
            os.kill(server.pid, signal.SIGKILL)
            wait_for(lambda: is_gone(pid), lambda: server.log)
    assert "the master has ended" not in server.log, "its event loop was not blocked"


#: It looks for its master once an hour.
WATCHES = """
import os
from muxwsgi.cli import place
place.BEAT = 3600.0

def app(environ, start_response):
    start_response("200 OK", [])
    return [str(os.getpid()).encode()]
"""


@pytest.mark.parametrize("options", [(), ("--preload",)], ids=["", "preloaded"])
def test_a_worker_that_serves_notices_the_end_of_its_master_and_ends_gracefully(tmp_path: Path, options: tuple[str, ...]) -> None:
    (tmp_path / "watching_app.py").write_text(WATCHES)
    with ServerProcess("watching_app:app", "--pythonpath", str(tmp_path), "--timeout", "0", *options) as server:
        pid = int(server.get("/")[1])
        with ending(pid):
            os.kill(server.pid, signal.SIGKILL)
            wait_for(lambda: is_gone(pid), lambda: server.log)
        server.wait_for_log("the master has ended: this worker ends too")
    assert "Traceback" not in server.log


def test_a_worker_that_does_not_serve_yet_is_killed_with_its_master(tmp_path: Path) -> None:
    (tmp_path / "deadlock_app.py").write_text(f"import os\n{DEADLOCK}\nprint('loads', os.getpid(), flush=True)\nblock()\n")
    command = [sys.executable, "-m", "muxwsgi", "run", "deadlock_app:app", "-b", f"unix:{tmp_path}/socket"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": os.getcwd()}) as master:
        assert master.stdout is not None
        pid = int(master.stdout.readline().split()[1])
        with ending(pid):
            master.kill()
            wait_for(lambda: is_gone(pid))
