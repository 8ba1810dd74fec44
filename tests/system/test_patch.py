"""What `patch_all` changes in Python: the private names are there, and nothing breaks where they are not."""

import subprocess
import sys

from tests.system.server_process import ROOT


def output_of(program: str) -> str:
    """What a Python program prints that begins by `patch_all()`."""
    command = [sys.executable, "-c", "from muxwsgi.patch import patch_all; patch_all(); patch_all()\n" + program]
    return subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True, timeout=120).stdout.strip()


def test_the_private_names_of_multiprocessing_are_there() -> None:
    program = (
        "from multiprocessing.connection import Connection\n"
        "from multiprocessing.synchronize import SemLock\n"
        "print(Connection._recv.__module__, Connection._send.__module__, SemLock._make_methods.__module__)"
    )
    assert output_of(program) == " ".join(["muxwsgi.patch.processes"] * 3)


def test_multiprocessing_stays_as_it_is_where_its_private_names_are_gone() -> None:
    command = (
        "from multiprocessing.connection import Connection\n"
        "from multiprocessing.synchronize import SemLock\n"
        "del Connection._send, SemLock._make_methods\n"
        "from muxwsgi.patch import patch_all\n"
        "patch_all()\n"
        "print(Connection._recv.__module__, Connection.__init__.__module__, SemLock.__enter__.__module__)"
    )
    found = subprocess.run([sys.executable, "-c", command], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True, timeout=120)
    assert found.stdout.split() == ["multiprocessing.connection", "multiprocessing.connection", "multiprocessing.synchronize"]


def test_a_lock_of_two_processes_has_its_timeouts() -> None:
    program = (
        "import multiprocessing, time\n"
        "lock = multiprocessing.get_context('fork').Lock()\n"
        "began = time.monotonic()\n"
        "print(lock.acquire(), lock.acquire(False), lock.acquire(timeout=0.2), time.monotonic() - began >= 0.2)"
    )
    assert output_of(program) == "True False False True"


def test_importing_it_changes_nothing() -> None:
    command = "import socket, muxwsgi.patch, asyncio.events as e; print(socket.socket.__module__, e.get_running_loop.__module__)"
    found = subprocess.run([sys.executable, "-c", command], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True, timeout=120)
    assert found.stdout.split()[0] == "socket"
