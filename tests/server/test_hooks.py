"""Hooks of a configuration file, in real processes: when each is called, where, with what, and what follows if it raises."""

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from muxwsgi.cli.hooks import HOOKS, Hooks, markdown
from muxwsgi.cli.options import collect
from muxwsgi.errors import OperatorError
from tests import warm
from tests.system.server_process import ROOT, ServerProcess
from tests.waiting import wait_for

#: Each hook writes a line: its name, whether its process has gevent, and what it was given.
FILE = """
import json, os, sys

def say(name, **more):
    patched = "gevent" in sys.modules and sys.modules["gevent.monkey"].is_module_patched("socket")
    with open(os.environ["HOOKS_LOG"], "a") as file:
        file.write(json.dumps({"hook": name, "pid": os.getpid(), "patched": patched, **more}) + "\\n")

def on_starting(server):
    say("on_starting", server=server.pid, workers=server.cfg.workers, bind=server.cfg.bind, keepalive=server.cfg.keepalive)
    server.shared = "kept"

def when_ready(server):
    server.log.info("hook: ready on %s", server.address)
    say("when_ready", address=server.address, num=server.num_workers, sockets=len(server.LISTENERS))

def nworkers_changed(server, new, old):
    say("nworkers_changed", new=new, old=old)

def pre_fork(server, worker):
    say("pre_fork", age=worker.age, worker=worker.pid)

def post_fork(server, worker):
    server.log.info("hook: worker %s of %s", worker.pid, worker.ppid)
    say("post_fork", age=worker.age, worker=worker.pid, ppid=worker.ppid, shared=server.shared, app="hooked_app" in sys.modules)

def post_worker_init(worker):
    say("post_worker_init", worker=worker.pid, app="hooked_app" in sys.modules, wsgi=callable(worker.wsgi), booted=worker.booted)

def pre_request(worker, req):
    if req.path == "/raises":
        raise RuntimeError("not this one")
    say("pre_request", worker=worker.pid, method=req.method, path=req.path, uri=req.uri, query=req.query, version=req.version,
        headers=req.headers, scheme=req.scheme, client=req.remote_addr[0])

def post_request(worker, req, environ, resp):
    say("post_request", worker=worker.pid, path=req.path, seen=environ.get("seen"), status=resp.status, code=resp.status_code, sent=resp.sent,
        length=resp.response_length, headers=resp.headers)
    if req.path == "/after":
        raise RuntimeError("after the response")

def worker_int(worker):
    say("worker_int", worker=worker.pid)

def worker_abort(worker):
    say("worker_abort", worker=worker.pid, aborted=worker.aborted)

def worker_exit(server, worker):
    say("worker_exit", server=server.pid, worker=worker.pid, alive=worker.alive)

def child_exit(server, worker):
    say("child_exit", worker=worker.pid, age=worker.age, known=worker.pid in server.WORKERS)

def pre_exec(server):
    say("pre_exec", server=server.pid)
    os.environ["FROM_HOOK"] = "yes"

def on_reload(server):
    say("on_reload", keepalive=server.cfg.keepalive)

def on_exit(server):
    say("on_exit", workers=len(server.WORKERS))
"""

APPLICATION = """
import os, time

def app(environ, start_response):
    environ["seen"] = "by the application"
    if environ["PATH_INFO"] == "/spin":
        give_up = time.monotonic() + 60
        while time.monotonic() < give_up:
            pass
    if environ["PATH_INFO"] == "/exit":
        os._exit(9)
    start_response("201 Created", [("Content-Length", "5")])
    return [b"hello"]
"""


class Run:
    """A server with hooks, and what they have said."""

    def __init__(self, server: ServerProcess, log: Path, file: Path) -> None:
        self.server, self.log, self.file = server, log, file

    def said(self, *names: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.log.read_text().splitlines()] if self.log.exists() else []
        return [line for line in lines if line["hook"] in names] if names else lines

    def wait(self, name: str, times: int = 1) -> list[dict[str, Any]]:
        return wait_for(lambda: (found := self.said(name)) if len(self.said(name)) >= times else None, lambda: f"{name}: {self.said()}\n{self.server.log}")


@contextmanager
def serving(folder: Path, text: str = FILE, *options: str, workers: str = "1") -> Iterator[Run]:
    (folder / "hooked_app.py").write_text(APPLICATION)
    file = folder / "hooks.conf.py"
    file.write_text(text)
    log = folder / "hooks.log"
    arguments = ("-c", str(file), "-w", workers, "--pythonpath", str(folder), "--hijack", "none", *options)
    with ServerProcess("hooked_app:app", *arguments, environment={"HOOKS_LOG": str(log), "PYTHONDONTWRITEBYTECODE": "1"}) as server:
        yield Run(server, log, file)


def test_hooks_of_a_start_and_a_stop_come_in_the_order_of_gunicorn(tmp_path: Path) -> None:
    with serving(tmp_path) as run:
        assert run.server.get("/?a=1") == (201, b"hello")
        run.wait("post_request")
        assert run.server.stop() == 0
        said = run.said()
    assert [line["hook"] for line in said] == [
        "nworkers_changed", "on_starting", "when_ready", "pre_fork", "post_fork", "post_worker_init", "pre_request", "post_request",
        "worker_exit", "child_exit", "on_exit",
    ]  # fmt: skip
    by_name = {line["hook"]: line for line in said}
    master, worker = by_name["on_starting"]["pid"], by_name["post_fork"]["pid"]
    in_worker = {"post_fork", "post_worker_init", "pre_request", "post_request", "worker_exit"}
    for line in said:
        assert line["pid"] == (worker if line["hook"] in in_worker else master), line
        assert line["patched"] == (line["hook"] in in_worker), line
    assert by_name["on_starting"] | {"server": master, "workers": "1", "keepalive": 75.0} == by_name["on_starting"]
    assert by_name["when_ready"] | {"address": [run.server.address], "num": 1, "sockets": 1} == by_name["when_ready"]
    assert by_name["nworkers_changed"] | {"new": 1, "old": None} == by_name["nworkers_changed"]
    assert by_name["pre_fork"] | {"age": 1, "worker": None} == by_name["pre_fork"]
    assert by_name["post_fork"] | {"age": 1, "worker": worker, "ppid": master, "shared": "kept", "app": False} == by_name["post_fork"]
    assert by_name["post_worker_init"] | {"worker": worker, "app": True, "wsgi": True, "booted": True} == by_name["post_worker_init"]
    assert by_name["worker_exit"] | {"server": master, "worker": worker, "alive": False} == by_name["worker_exit"]
    assert by_name["child_exit"] | {"worker": worker, "age": 1, "known": False} == by_name["child_exit"]
    assert f"hook: worker {worker} of {master}" in run.server.log and f"hook: ready on ['{run.server.address}']" in run.server.log


def test_hooks_of_a_request_get_the_request_and_its_response(tmp_path: Path) -> None:
    with serving(tmp_path) as run:
        assert run.server.get("/a%20b?x=1&y=") == (201, b"hello")
        before, after = run.wait("pre_request")[0], run.wait("post_request")[0]
        assert (before["method"], before["uri"], before["path"], before["query"], before["version"]) == ("GET", "/a%20b?x=1&y=", "/a%20b", "x=1&y=", [1, 1])
        assert ["HOST", run.server.address] in before["headers"] and (before["scheme"], before["client"]) == ("http", "127.0.0.1")
        assert (after["status"], after["code"], after["sent"], after["length"]) == ("201 Created", 201, 5, 5)
        assert after["seen"] == "by the application" and after["headers"] == [["Content-Length", "5"]]
        assert run.server.get("/raises") == (500, b"Internal Server Error\n")
        run.server.wait_for_log("RuntimeError: not this one")
        assert run.server.get("/after") == (201, b"hello")
        run.server.wait_for_log("RuntimeError: after the response")
        assert "the hook post_request failed" in run.server.log
        assert run.server.get("/") == (201, b"hello")


def test_hooks_of_a_reload_and_of_the_number_of_workers(tmp_path: Path) -> None:
    with serving(tmp_path) as run:
        run.file.write_text(FILE + "keepalive = 7\n")
        run.server.send_signal(signal.SIGHUP)
        assert run.wait("on_reload")[0]["keepalive"] == 7.0
        run.wait("child_exit")
        run.server.send_signal(signal.SIGTTIN)
        assert run.wait("nworkers_changed", 2)[1] | {"new": 2, "old": 1} == run.said("nworkers_changed")[1]
        assert [line["age"] for line in run.wait("pre_fork", 3)] == [1, 2, 3]
        run.server.send_signal(signal.SIGTTOU)
        assert run.wait("nworkers_changed", 3)[2] | {"new": 1, "old": 2} == run.said("nworkers_changed")[2]
        run.wait("child_exit", 2)
        run.file.write_text(FILE.replace('say("on_reload"', 'raise RuntimeError("no reload"'))
        run.server.send_signal(signal.SIGHUP)
        run.server.wait_for_log("what served before goes on: the hook on_reload failed: ")
        assert run.server.get("/") == (201, b"hello")
        assert len(run.said("pre_fork")) == 3


def test_a_hook_before_a_new_master_may_give_it_variables_and_refuse_it(tmp_path: Path) -> None:
    with serving(tmp_path) as run:
        run.file.write_text(FILE.replace('os.environ["FROM_HOOK"] = "yes"', "raise RuntimeError('not today')"))
        old = run.server.pid
        assert "FROM_HOOK" not in os.environ
        run.server.send_signal(signal.SIGHUP)
        run.wait("on_reload")
        run.server.send_signal(signal.SIGUSR2)
        run.server.wait_for_log("SIGUSR2: no new master is started: the hook pre_exec failed: RuntimeError: not today")
        run.server.wait_for_log_times("1 worker is ready", 2)
        run.file.write_text(FILE)
        run.server.send_signal(signal.SIGHUP)
        run.server.wait_for_log_times("1 worker is ready", 3)
        run.server.send_signal(signal.SIGUSR2)
        assert [line["server"] for line in run.wait("pre_exec", 2)] == [old, old]
        run.server.wait_for_log("a new master starts, with the process id ")
        new = int(run.server.log.partition("a new master starts, with the process id ")[2].split()[0])
        try:
            wait_for(lambda: b"FROM_HOOK=yes" in Path(f"/proc/{new}/environ").read_bytes().split(b"\0"), lambda: run.server.log)
            run.server.wait_for_log_times("1 worker is ready", 4)
        finally:
            os.kill(new, signal.SIGTERM)


def test_a_child_that_ends_by_itself_is_reported_too(tmp_path: Path) -> None:
    with serving(tmp_path) as run:
        first = run.wait("post_fork")[0]["pid"]
        with pytest.raises(OSError):
            run.server.get("/exit")
        assert run.wait("child_exit")[0]["worker"] == first
        assert run.said("worker_exit") == []
        assert run.wait("post_fork", 2)[1]["pid"] != first


def test_a_worker_that_is_interrupted_or_aborted_says_so(tmp_path: Path) -> None:
    with serving(tmp_path) as run:
        worker = run.wait("post_worker_init")[0]["pid"]
        run.server.wait_for_log("1 worker is ready")
        os.kill(worker, signal.SIGINT)
        run.wait("worker_int")
        assert run.server.get("/") == (201, b"hello")
        os.kill(worker, signal.SIGABRT)
        assert run.wait("worker_abort")[0] | {"worker": worker, "pid": worker, "aborted": True} == run.said("worker_abort")[0]
        assert run.wait("child_exit")[0]["worker"] == worker
        second = run.wait("post_worker_init", 2)[1]["pid"]
        wait_for(lambda: _answers(run.server), lambda: run.server.log)
        run.server.send_signal(signal.SIGQUIT)
        assert run.server.ended() == 0
        assert run.said("worker_int")[-1]["pid"] == second
        assert [line["pid"] for line in run.said("worker_exit")] == [worker, second]


def test_a_blocked_worker_is_aborted_before_it_is_killed(tmp_path: Path) -> None:
    with serving(tmp_path, FILE, "--timeout", "2") as run:
        blocked = run.wait("post_worker_init")[0]["pid"]
        busy = run.server.connect()
        busy.sendall(b"GET /spin HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert run.wait("worker_abort")[0] | {"worker": blocked, "pid": blocked, "aborted": True} == run.said("worker_abort")[0]
        wait_for(lambda: [line["worker"] for line in run.said("child_exit")] == [blocked])
        assert "/spin" in run.server.log
        wait_for(lambda: run.server.get("/") == (201, b"hello"))


@pytest.mark.parametrize("name", ["on_starting", "when_ready", "pre_fork", "post_fork", "post_worker_init"])
def test_a_hook_that_fails_at_the_start_stops_it(tmp_path: Path, name: str) -> None:
    (tmp_path / "hooked_app.py").write_text(APPLICATION)
    (tmp_path / "x.conf.py").write_text(f"def {name}(*arguments):\n    raise RuntimeError('not today')\n")
    command = [sys.executable, "-m", "muxwsgi", "run", "hooked_app:app", "-b", "127.0.0.1:0", "-c", str(tmp_path / "x.conf.py"), "--pythonpath", str(tmp_path)]
    done = warm.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    lines = done.stderr.splitlines()
    assert lines[-1] == f"muxwsgi: error: the hook {name} failed: RuntimeError: not today"
    assert done.returncode in (1, 2) and "Traceback (most recent call last):" in lines and "line 2" in done.stderr


@pytest.mark.parametrize("name", ["nworkers_changed", "child_exit", "worker_exit", "on_exit", "worker_int"])
def test_a_hook_that_fails_beside_the_service_is_reported_and_nothing_else(tmp_path: Path, name: str) -> None:
    text = f"import sys\ndef {name}(*arguments):\n    sys.exit('not today')\n"
    with serving(tmp_path, text) as run:
        run.server.wait_for_log("1 worker is ready")
        assert run.server.get("/") == (201, b"hello")
        assert run.server.stop(signal.SIGQUIT if name == "worker_int" else signal.SIGTERM) == 0
        assert f"the hook {name} failed" in run.server.log and "SystemExit: not today" in run.server.log


def test_a_worker_that_cannot_fork_is_tried_again(tmp_path: Path) -> None:
    text = "import os\ndef pre_fork(server, worker):\n    if worker.age in (2, 3):\n        raise RuntimeError('not yet')\n"
    with serving(tmp_path, text) as run:
        run.server.wait_for_log("1 worker is ready")
        with pytest.raises(OSError):
            run.server.get("/exit")
        run.server.wait_for_log_times("the hook pre_fork failed: RuntimeError: not yet", 2)
        wait_for(lambda: _answers(run.server), lambda: run.server.log)


def _answers(server: ServerProcess) -> bool:
    try:
        return server.get("/", timeout=2) == (201, b"hello")
    except OSError:
        return False


def test_a_hook_that_does_not_exist_costs_nothing() -> None:
    hooks = Hooks()
    hooks.tell("child_exit", None, None)
    hooks.require("on_starting", None)
    assert hooks.get("pre_request") is None and hooks.names == []


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("pre_fork = 3", r"x\.conf\.py: pre_fork: 3 is not a function that takes \(server, worker\)"),
        ("def pre_fork(server): pass", r"x\.conf\.py: pre_fork: the function does not take \(server, worker\)"),
        ("pre_fork = 'no_such_module.hook'", r"x\.conf\.py: pre_fork: No module named 'no_such_module'"),
        ("def post_request(worker): pass", r"post_request: the function does not take \(worker, req, environ, resp\)"),
    ],
)
def test_a_hook_of_a_wrong_kind_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, says: str) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    Path("x.conf.py").write_text(text)
    with pytest.raises(OperatorError, match=says):
        collect({}, "x.conf.py", {})


def test_hooks_may_be_named_and_post_request_may_take_less(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    Path("x.conf.py").write_text("on_exit = 'os.path.exists'\ndef post_request(worker, req):\n    worker.append(req)\n")
    hooks = collect({}, "x.conf.py", {})["hooks"]
    assert hooks.names == ["on_exit", "post_request"] and hooks.get("on_exit") is os.path.exists
    seen: list[object] = []
    hooks.tell("post_request", seen, "req", {}, None)
    assert seen == ["req"]


def test_every_hook_is_called_in_a_test() -> None:
    assert all(f"def {name}(" in FILE for name in HOOKS)


def test_the_page_has_the_table_of_hooks() -> None:
    """If this fails: python -c 'from muxwsgi.cli import hooks; print(hooks.markdown())'"""
    assert markdown() in (ROOT / "docs" / "hooks.md").read_text()
