"""Applications that start processes: the child is a copy of the server, and must do nothing that the server does."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.system.server_process import ServerProcess
from tests.waiting import wait_for

APP = "tests.system.forking_app"
ROWS = b"".join(b"row %d\n" % number for number in range(25))
SIGTERM_STATUS = -signal.SIGTERM


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "tls"])
def server(request: pytest.FixtureRequest) -> Iterator[ServerProcess]:
    with ServerProcess(APP, tls=request.param) as running:
        yield running


def result(server: ServerProcess, path: str) -> Any:
    """What a view found, which ran in the server's process and no other."""
    status, body = server.get(f"/{path}", timeout=60)
    assert status == 200, f"{body!r}\n{server.log}"
    answer = json.loads(body)
    assert answer["pid"] == server.worker_pid
    return answer["result"]


@contextlib.contextmanager
def two_streams(server: ServerProcess) -> Iterator[None]:
    """Two clients read rows meanwhile, and get each of them once."""
    bodies: list[bytes] = []
    threads = [threading.Thread(target=lambda: bodies.append(server.get("/rows", timeout=60)[1])) for _ in range(2)]
    for thread in threads:
        thread.start()
    time.sleep(0.1)
    yield
    for thread in threads:
        thread.join(60)
    assert bodies == [ROWS, ROWS]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("process", [1, 4, 9, 0]),
        ("terminate", SIGTERM_STATUS),
        ("pool", [1, 4, 9, 16]),
        ("executor", [1, 4, 9, 16]),
        ("pipe", 42),
        ("large_message", [3_000_000, 3_000_000]),
        ("locks", [40, 0]),
        ("manager", [7]),
        ("spawn", [1, 4, 9, 0]),
        ("forkserver", [1, 4, 9, 0]),
        ("fork_and_exit", 7),
        ("fork_and_sys_exit", 8),
        ("fork_and_raise", 1),
        ("fork_and_return", 0),
        ("fork_and_stream", 0),
        ("fork_in_greenlet", 9),
        ("fork_in_thread", 0),
        ("fork_in_loop", 0),
        ("pty", "0 sockets"),
        ("subprocess", ["hi\n", 3, SIGTERM_STATUS]),
        ("posix_spawn", 0),
        ("work_in_child", ["hi\n", "PING", True, 9, "127.0.0.1"]),
    ],
)
def test_a_view_starts_processes_and_other_clients_notice_nothing(server: ServerProcess, path: str, expected: object) -> None:
    with two_streams(server):
        assert result(server, path) == expected
    assert result(server, "hello") == "hello"


def test_what_a_child_raises_is_a_traceback_and_nothing_else(server: ServerProcess) -> None:
    result(server, "fork_and_raise")
    server.wait_for_log("LookupError: raised in the child")
    assert "application error" not in server.log


def test_a_child_has_no_sockets_of_the_server(server: ServerProcess) -> None:
    with contextlib.closing(server.open()) as resting:
        resting.sendall(b"GET /hello HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b"200 OK" in resting.recv(1000)
        parents, childs = result(server, "sockets")
        assert len(parents) >= 3 and childs == []
        resting.sendall(b"GET /hello HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b"200 OK" in resting.recv(1000)


def test_a_child_that_uses_its_parents_connection_is_told_so(server: ServerProcess) -> None:
    with two_streams(server):
        assert result(server, "connection_in_child") == [9, 9, 9]


def test_a_child_that_reads_the_body_takes_nothing_of_it_away(server: ServerProcess) -> None:
    with contextlib.closing(server.open()) as sock:
        sock.sendall(b"POST /input_in_child HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n")
        sock.settimeout(20)
        assert sock.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(b"body")
        answer = sock.recv(1000)
        while b"}" not in answer:
            answer += sock.recv(1000)
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["result"] == [9, "body"]


def test_a_child_has_default_signals(server: ServerProcess) -> None:
    handlers = result(server, "signals")
    assert handlers == [str(signal.SIG_DFL), str(signal.default_int_handler), str(signal.SIG_DFL), str(signal.SIG_DFL), []]


def test_a_child_keeps_the_handlers_of_python_and_gives_up_those_of_the_parents_loop(server: ServerProcess) -> None:
    assert result(server, "application_signals") == [["usr2", "winch"], [str(signal.SIG_DFL), False, "usr2 again", "winch"]]


def test_another_greenlet_goes_on_in_one_process_only(tmp_path: Path) -> None:
    with ServerProcess(APP, environment={"NOTES": str(tmp_path / "notes")}) as server:
        result(server, "fork_beside_others")
        assert (tmp_path / "notes").read_text() == f"woke up in {server.worker_pid}\n"


def test_a_child_cannot_wake_a_greenlet_of_its_parent(tmp_path: Path) -> None:
    with ServerProcess(APP, environment={"NOTES": str(tmp_path / "notes")}) as server:
        assert result(server, "wake_others") == "still here"
        woken = ("event", "killed", "lock", "queue")
        assert sorted((tmp_path / "notes").read_text().split("\n")[:-1]) == [f"{name} in {server.worker_pid}" for name in woken]


def test_children_that_end_at_the_same_time_are_all_waited_for(server: ServerProcess) -> None:
    found: list[Any] = []
    paths = ["process", "pool", "terminate", "fork_and_return", "executor", "subprocess"] * 2
    threads = [threading.Thread(target=lambda path=path: found.append((path, result(server, path)))) for path in paths]
    with two_streams(server):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert len(found) == len(paths)


def gone(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


@pytest.mark.parametrize("sig", [signal.SIGKILL, signal.SIGTERM])
def test_a_child_that_outlives_the_server_holds_neither_the_port_nor_a_connection(sig: signal.Signals) -> None:
    with ServerProcess(APP) as server:
        resting = server.open()
        resting.sendall(b"GET /hello HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b"200 OK" in resting.recv(1000)
        child = result(server, "orphan")
        try:
            assert server.stop(sig) == (-sig if sig == signal.SIGKILL else 0)
            assert not gone(child)
            resting.settimeout(10)
            assert resting.recv(1) == b""
            with socket.create_server(("127.0.0.1", server.port)) as again:
                assert again.getsockname()[1] == server.port
        finally:
            os.kill(child, signal.SIGTERM)
            wait_for(lambda: gone(child))
            resting.close()


def test_a_unix_socket_outlives_the_child(tmp_path: Path) -> None:
    path = tmp_path / "sock"
    with ServerProcess(APP, "-b", f"unix:{path}") as server:
        result(server, "process")
        result(server, "fork_and_return")
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(10)
            client.connect(str(path))
            client.sendall(b"GET /hello HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert b"200 OK" in client.recv(1000)


def test_the_access_log_has_each_request_once(tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    with ServerProcess(APP, "--access-logfile", str(log), "--access-logformat", "%(U)s") as server:
        for _ in range(5):
            result(server, "hello")
            result(server, "fork_and_return")
            result(server, "process")
            result(server, "fork_and_raise")
        assert server.stop() == 0
    lines = log.read_text().splitlines()
    assert sorted(lines) == sorted(["/hello", "/fork_and_return", "/process", "/fork_and_raise"] * 5)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("fork_and_exit", 7),
        ("fork_and_sys_exit", 8),
        ("fork_and_raise", 1),
        ("fork_and_return", 0),
        ("fork_and_stream", 0),
        ("fork_in_greenlet", 9),
        ("process", [1, 4, 9, 0]),
        ("subprocess", ["hi\n", 3, SIGTERM_STATUS]),
    ],
)
@pytest.mark.parametrize("server", [True], ids=["tls"], indirect=True)
def test_a_stream_of_http2_starts_processes_while_another_one_waits(server: ServerProcess, tmp_path: Path, path: str, expected: object) -> None:
    """On one connection: the application of the first stream waits, so the second one is served by a greenlet that also reads on."""
    children = Path(f"/proc/{server.worker_pid}/task/{server.worker_pid}/children")
    before = set(children.read_text().split())  # of other tests: a fork server, for example
    command = ["curl", "-sSk", "-m", "60", "--http2", "--parallel", "-w", "%{http_version} %{num_connects}\n"]
    for name in ("rows", path, "hello"):
        command += ["-o", str(tmp_path / name), f"https://{server.address}/{name}"]
    with two_streams(server):
        ran = subprocess.run(command, capture_output=True, text=True, timeout=90)
    assert ran.returncode == 0 and sorted(ran.stdout.splitlines()) == ["2 0", "2 0", "2 1"], f"{ran}\n{server.log}"
    assert (tmp_path / "rows").read_bytes() == ROWS
    for name, wanted in ((path, expected), ("hello", "hello")):
        answer = json.loads((tmp_path / name).read_text())
        assert (answer["pid"], answer["result"]) == (server.worker_pid, wanted), server.log
    wait_for(lambda: set(children.read_text().split()) <= before, lambda: f"{children.read_text()}: {server.log}")
