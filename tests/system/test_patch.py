"""What `patch_all` changes in Python: the private names are there, and nothing breaks where they are not."""

import ast
import importlib
import os
import subprocess
import sys
from pathlib import Path

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


def test_what_an_application_does_not_use_is_not_imported() -> None:
    assert output_of("import sys; print([name for name in ('asyncio', 'multiprocessing') if name in sys.modules])") == "[]"


def test_a_module_that_is_imported_later_is_patched_and_keeps_its_loader() -> None:
    program = (
        "import importlib.util, inspect, asyncio\n"
        "from muxwsgi.patch.running_loop import is_patched\n"
        "found = importlib.util.find_spec('multiprocessing.connection')\n"
        "print(is_patched(), type(asyncio.__loader__).__name__, type(asyncio.__spec__.loader).__name__, bool(inspect.getsource(asyncio)),\n"
        "      found.loader.get_filename().rpartition('/')[2])"
    )
    assert output_of(program) == "True SourceFileLoader SourceFileLoader True connection.py"


def test_an_import_that_fails_may_be_tried_again(tmp_path: Path) -> None:
    (tmp_path / "late.py").write_text("import late_too\nvalue = 1\n")
    program = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from muxwsgi.patch.on_import import when_imported\n"
        "when_imported('late', lambda: print('acts on', sys.modules['late'].value))\n"
        "try: import late\n"
        "except ModuleNotFoundError as error: print(error.name)\n"
        "sys.modules['late_too'] = sys\n"
        "import late, late\n"
        "when_imported('late', lambda: print('at once'))"
    )
    assert output_of(program) == "late_too\nacts on 1\nat once"


_COUNTING = (
    "from importlib import metadata\n"
    "read, original = [], metadata.entry_points\n"
    "metadata.entry_points = counting = lambda **names: read.append(names) or original(**names)\n"
    "from muxwsgi.patch import patch_all\n"
    "patch_all()\n"
    "from gevent import events\n"
    "print(read, metadata.entry_points is counting, events.notify_and_call_entry_points is events.notify)"
)


def test_the_installed_packages_are_not_read_without_a_plugin_of_gevent() -> None:
    found = subprocess.run([sys.executable, "-c", _COUNTING], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True, timeout=120)
    assert found.stdout.strip() == "[] True False"


def test_they_are_read_once_if_there_is_one_and_it_is_called(tmp_path: Path) -> None:
    information = tmp_path / "plugin-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text("[gevent.plugins.monkey.did_patch_all]\nsays = says_so:say\n")
    (tmp_path / "says_so.py").write_text("def say(event): print('called')\n")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    found = subprocess.run(
        [sys.executable, "-c", _COUNTING], cwd=ROOT, env=environment, check=True, stdout=subprocess.PIPE, text=True, timeout=120
    )
    assert found.stdout.split("\n")[:2] == ["called", "[{}] True False"]


def test_importing_it_changes_nothing() -> None:
    command = "import socket, muxwsgi.patch, asyncio.events as e; print(socket.socket.__module__, e.get_running_loop.__module__)"
    found = subprocess.run([sys.executable, "-c", command], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True, timeout=120)
    assert found.stdout.split()[0] == "socket"


def test_no_module_takes_by_name_what_gevent_replaces() -> None:
    """So it does not matter whether a module was imported before the patch, as by a configuration file in Python, or after it."""
    replaced: dict[str, set[str]] = {}
    for name in ("queue", "select", "signal", "socket", "ssl", "subprocess", "threading", "time"):
        replaced[name] = set(importlib.import_module(f"gevent.{name}").__implements__)
    replaced["os"] = {"fork", "forkpty", "waitpid", "posix_spawn", "posix_spawnp"}
    replaced["threading"] |= {"Condition", "Event", "Lock", "RLock", "Semaphore", "Thread", "Timer", "local"}
    taken = [
        f"{path}, line {node.lineno}: {node.module}.{alias.name}"
        for path in (ROOT / "muxwsgi").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and node.module in replaced
        for alias in node.names
        if alias.name in replaced[node.module]
    ]
    assert taken == []
