"""`--preload` and `--preload-module`: real processes, and an application that says where it was loaded."""

import contextlib
import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ports import reserved_port
from tests.system.server_process import ROOT, ServerProcess
from tests.waiting import wait_for
from tests.warm import Popen

APPLICATION = """
import gevent.monkey, json, os, sys, threading, time

VERSION = "first"
LOADED_IN = os.getpid()
LARGE = bytes(range(256)) * 200_000  # 51 MB
ticks = 0

def tick():
    global ticks
    while True:
        time.sleep(0.01)
        ticks += 1

threading.Thread(target=tick, daemon=True).start()

def app(environ, start_response):
    told = {"version": VERSION, "loaded_in": LOADED_IN, "pid": os.getpid(), "parent": os.getppid(), "ticks": ticks,
            "patched": gevent.monkey.is_module_patched("socket"), "shared": getattr(sys.modules.get("shared_module"), "PID", None)}
    body = json.dumps(told).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "preloaded.py").write_text(APPLICATION)
    return tmp_path


@contextlib.contextmanager
def serving(folder: Path, *options: str) -> Iterator[ServerProcess]:
    with ServerProcess("preloaded:app", "--pythonpath", str(folder), *options, environment={"PYTHONDONTWRITEBYTECODE": "1"}) as server:
        yield server


def told(server: ServerProcess, pid: int) -> dict[str, object]:
    """What the worker `pid` says. Others may answer before."""
    def ask() -> dict[str, object] | None:
        status, body = server.get("/")
        assert status == 200
        answer: dict[str, object] = json.loads(body)
        return answer if answer["pid"] == pid else None

    return wait_for(ask, lambda: f"{pid} never answered:\n{server.log}")


def preloader_of(server: ServerProcess) -> int | None:
    found = [pid for pid in server.child_pids if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"muxwsgi: preloader")]
    return found[0] if len(found) == 1 else None


def private_memory(pid: int) -> int:
    """Bytes that only this process has."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) << 10


def open_files(pid: int) -> set[str]:
    return {os.readlink(each) for each in Path(f"/proc/{pid}/fd").iterdir()}


def two_workers(server: ServerProcess) -> list[int] | None:
    pids = server.worker_pids
    return pids if len(pids) == 2 else None


def test_workers_share_what_was_loaded_once_and_a_reload_loads_new_code(folder: Path) -> None:
    log = folder / "log"
    with serving(folder, "-w", "2", "--preload", "--error-logfile", str(log)) as server:
        preloader = preloader_of(server)
        workers = server.worker_pids
        assert preloader is not None and len(workers) == 2
        for pid in workers:
            said = told(server, pid)
            assert (said["loaded_in"], said["parent"], said["patched"]) == (preloader, server.pid, True)
            wait_for(lambda pid=pid, said=said: told(server, pid)["ticks"] > said["ticks"], "a thread of the import runs in each worker")
            assert private_memory(pid) < 40 << 20

        os.kill(workers[0], signal.SIGKILL)  # another one comes from the same preloader
        (another,) = wait_for(lambda: set(two_workers(server) or ()) - set(workers))
        assert told(server, another)["loaded_in"] == preloader

        log.rename(folder / "log.1")
        server.send_signal(signal.SIGUSR1)
        for pid in (server.pid, *server.child_pids):
            wait_for(lambda pid=pid: str(log) in open_files(pid) and f"{log}.1" not in open_files(pid), f"{pid} reopens the log")

        (folder / "preloaded.py").write_text("1 / 0\n")
        server.send_signal(signal.SIGHUP)
        wait_for(lambda: "the reload failed, and what served before goes on: app 'preloaded:app': " in log.read_text())
        assert preloader_of(server) == preloader and told(server, another)["version"] == "first"

        (folder / "preloaded.py").write_text(APPLICATION.replace('"first"', '"second"'))
        server.send_signal(signal.SIGHUP)
        wait_for(lambda: "2 workers are ready" in log.read_text())
        wait_for(lambda: not set(server.child_pids) & {preloader, *workers, another}, lambda: server.log)
        second = preloader_of(server)
        for pid in server.worker_pids:
            said = told(server, pid)
            assert (said["version"], said["loaded_in"]) == ("second", second)
        assert server.stop() == 0
        assert log.read_text().count("Traceback") == 1, "that of the division"


def test_a_preloader_that_ends_is_replaced_and_a_killed_master_leaves_nothing(folder: Path) -> None:
    with serving(folder, "-w", "2", "--preload", "--reuse-port") as server:
        first, workers = preloader_of(server), server.worker_pids
        assert first is not None
        os.kill(first, signal.SIGKILL)
        server.wait_for_log(f"the preloader {first} has ended by SIGKILL")
        second = wait_for(lambda: preloader_of(server) not in (None, first) and preloader_of(server))
        server.send_signal(signal.SIGTTIN)  # a slot with a socket that is newer than the preloader
        (third,) = wait_for(lambda: set(server.worker_pids) - set(workers) if len(server.worker_pids) == 3 else None)
        assert told(server, third)["loaded_in"] == second
        children = server.child_pids
        os.kill(server.pid, signal.SIGKILL)
        wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children), lambda: server.log)


FRAGILE = """
import signal

def killed(at, function):
    def call(*arguments):
        if open("{file}").read() == at and (at == "answer" and "pid" in arguments[0] or at == "release" and arguments[1] == b"1"):
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments)
    return call

json.dumps, os.write = killed("answer", json.dumps), killed("release", os.write)
"""


def test_a_preloader_that_is_killed_while_it_forks_leaves_no_worker_that_nobody_knows(folder: Path) -> None:
    at = folder / "at"
    at.write_text("")
    (folder / "preloaded.py").write_text(APPLICATION + FRAGILE.format(file=at))
    with serving(folder, "-w", "2", "--preload") as server:
        for where in ("answer", "release"):
            before, workers = preloader_of(server), server.worker_pids
            at.write_text(where)
            os.kill(workers[0], signal.SIGKILL)
            server.wait_for_log(f"the preloader {before} has ended by SIGKILL")
            at.write_text("")
            wait_for(lambda before=before: preloader_of(server) not in (None, before), lambda: server.log)
            wait_for(lambda workers=workers: set(two_workers(server) or ()) - set(workers), lambda: f"{server.child_pids}: {server.log}")
        assert server.stop() == 0 and server.tracebacks() == []


def test_a_preloader_keeps_no_descriptors_of_the_workers_that_it_has_forked(folder: Path) -> None:
    with serving(folder, "-w", "2", "--preload") as server:
        preloader = preloader_of(server)
        opened = len(os.listdir(f"/proc/{preloader}/fd"))
        os.kill(server.worker_pids[0], signal.SIGKILL)
        wait_for(lambda: two_workers(server) and server.log.count("has ended by SIGKILL"), lambda: server.log)
        for number in (3, 4):
            server.send_signal(signal.SIGTTIN)
            wait_for(lambda number=number: len(server.worker_pids) == number, lambda: server.log)
        assert (preloader_of(server), len(os.listdir(f"/proc/{preloader}/fd"))) == (preloader, opened)


@contextlib.contextmanager
def adopting_orphans() -> Iterator[None]:
    """This process is the parent of those whose parent has ended, as a service manager is."""
    libc, set_child_subreaper = ctypes.CDLL(None), 36
    assert libc.prctl(set_child_subreaper, 1, 0, 0, 0) == 0
    try:
        yield
    finally:
        libc.prctl(set_child_subreaper, 0, 0, 0, 0)


def test_a_master_that_is_stopped_while_a_preloader_loads_leaves_it_to_nobody(folder: Path) -> None:
    (folder / "preloaded.py").write_text(f"import os, time\nopen('{folder}/new', 'w').write(str(os.getpid()))\nos.rename('{folder}/new', '{folder}/pid')\ntime.sleep(60)\n")
    with adopting_orphans(), reserved_port() as reserved:
        address = f"127.0.0.1:{reserved.getsockname()[1]}"
        command = [sys.executable, "-m", "muxwsgi", "run", "preloaded:app", "--pythonpath", str(folder), "-b", address, "--preload"]
        with Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL) as process:
            preloader = wait_for(lambda: int((folder / "pid").read_text()))
            process.send_signal(signal.SIGTERM)
            assert process.wait(15) == 0
        assert not Path(f"/proc/{preloader}").exists()


def test_modules_are_imported_once_and_the_application_by_each_worker(folder: Path) -> None:
    (folder / "shared_module.py").write_text("import os, socket\nPID = os.getpid()\nassert 'gevent' in socket.socket.__module__\n")
    with serving(folder, "-w", "2", "--preload-module", "shared_module") as server:
        preloader = preloader_of(server)
        for pid in server.worker_pids:
            said = told(server, pid)
            assert (said["loaded_in"], said["shared"]) == (pid, preloader)
        assert server.stop() == 0 and server.tracebacks() == []


def start(folder: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    with reserved_port() as reserved:
        address = f"127.0.0.1:{reserved.getsockname()[1]}"
        command = [sys.executable, "-m", "muxwsgi", "run", "preloaded:app", "--pythonpath", str(folder), "-b", address]
        return subprocess.run([*command, *options], cwd=ROOT, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    ("code", "options", "says"),
    [
        (APPLICATION, ["--preload-module", "no_such_module"], "preload_module 'no_such_module': there is no module 'no_such_module'"),
        (APPLICATION + "os._exit(7)\n", ["--preload"], "has ended before it was ready with status 7"),
        ("from muxwsgi.proxy import Proxy\napp = Proxy()\n", ["--preload"], "preload_app: the application is a proxy"),
    ],
)
def test_what_cannot_be_preloaded_is_said_in_one_line(folder: Path, code: str, options: list[str], says: str) -> None:
    (folder / "preloaded.py").write_text(code)
    done = start(folder, *options)
    assert done.returncode == (7 if "_exit" in code else 2)
    assert says in done.stderr.splitlines()[-1] and done.stderr.splitlines()[-1].startswith("muxwsgi: error: ")


def test_what_workers_cannot_share_is_named(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as database:
        host, port = database.getsockname()
        code = f"import asyncio, socket, subprocess\nsock = socket.create_connection(('{host}', {port}))\n"
        code += "child = subprocess.Popen(['sleep', '60'], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)\nasyncio.run(asyncio.sleep(0))\nloop = asyncio.new_event_loop()\n"
        (folder / "preloaded.py").write_text(APPLICATION + code)
        done = start(folder, "--preload")
    assert f"preload_app: the application has connected to {host}:{port} while it was loaded" in done.stderr
    child = done.stderr.partition("has started processes while it was loaded (")[2].partition(")")[0]
    os.kill(int(child), signal.SIGKILL)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("muxwsgi: error: preload_app: the application has made an event loop of asyncio")


def test_with_reload_each_worker_loads_the_application(folder: Path) -> None:
    with serving(folder, "--preload", "--reload") as server:
        assert "with --reload and --debug each worker loads the application itself" in server.log
        (pid,) = server.worker_pids
        assert told(server, pid)["loaded_in"] == pid
        assert server.stop() == 0


def test_a_proxy_loads_no_application() -> None:
    command = [sys.executable, "-m", "muxwsgi", "proxy", "--preload", "-b", "127.0.0.1:0"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and done.stderr.startswith("muxwsgi: error: preload_app: `muxwsgi proxy` loads no application")
