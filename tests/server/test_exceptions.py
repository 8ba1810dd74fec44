"""What an application raises is its error, whatever the class: a 500 and a traceback, and the worker lives."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import gevent
import pytest

import muxwsgi
from muxwsgi.errors import Cut
from muxwsgi.mux.matchers import prefix
from muxwsgi.wire.connection import Connection
from tests import warm
from tests.http.conftest import hello
from tests.system.server_process import ROOT, ServerProcess, read_until_closed
from tests.waiting import until

APP = "tests.server.raising_app"

CLASSES = ("ValueError", "SystemError", "MemoryError", "KeyboardInterrupt", "SystemExit", "GeneratorExit", "GreenletExit", "Timeout")


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with ServerProcess(APP) as process:
        yield process
        assert process.stop() == 0


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("where", ["call", "first"])
def test_it_is_a_500_and_a_traceback(where: str, name: str, server: ServerProcess) -> None:
    before = server.log.count("answered with 500")
    assert server.get(f"/{where}/{name}") == (500, b"Internal Server Error\n")
    server.wait_for_log(f"application error in GET /{where}/{name}: answered with 500")
    assert server.log.count("answered with 500") == before + 1
    assert server.get("/") == (200, b"hello")


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("where", ["later", "taken"])
def test_after_the_head_it_is_a_cut_and_a_traceback(where: str, name: str, server: ServerProcess) -> None:
    with server.connect() as sock:
        sock.sendall(f"GET /{where}/{name} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        answer = read_until_closed(sock)
    assert not answer.endswith(b"0\r\n\r\n") and b"500" not in answer
    server.wait_for_log(f"application error in GET /{where}/{name}: the connection")
    assert server.get("/") == (200, b"hello")


@pytest.mark.parametrize("name", CLASSES)
def test_a_close_that_raises_is_a_traceback_behind_a_whole_response(name: str, server: ServerProcess) -> None:
    assert server.get(f"/close/{name}") == (200, b"beginning")
    server.wait_for_log(f"application error in GET /close/{name}: the response is complete all the same")


@pytest.mark.parametrize("name", CLASSES)
def test_a_greenlet_of_the_application_ends_alone(name: str, server: ServerProcess) -> None:
    assert server.get(f"/spawned/{name}") == (200, b"spawned")
    assert server.get("/") == (200, b"hello")


# Hijackers


@pytest.fixture(params=[KeyboardInterrupt, SystemExit, gevent.GreenletExit, GeneratorExit, gevent.Timeout, SystemError])
def raised(request: pytest.FixtureRequest) -> type[BaseException]:
    kind: type[BaseException] = request.param
    return kind


def connected(server: muxwsgi.Server) -> Connection:
    host, _, port = server.addresses[0].rpartition(":")
    return Connection.from_socket(gevent.socket.create_connection((host, int(port)), timeout=10))


def test_what_a_hijacker_raises_costs_its_connection_alone(raised: type[BaseException], caplog: pytest.LogCaptureFixture) -> None:
    @muxwsgi.hijack(match=prefix(b"FAIL"))
    def failing(connection: Connection) -> None:
        raise raised()

    # As under `muxwsgi run`, where SIGINT is taken; else a KeyboardInterrupt may be the user's.
    before = signal.signal(signal.SIGINT, lambda *_: None)
    server = muxwsgi.Server(hello, binds=["127.0.0.1:0"], hijackers=[failing])
    server.start()
    try:
        connection = connected(server)
        connection.sendall(b"FAIL")
        with pytest.raises(ConnectionResetError):
            connection.recv()
        assert raised.__name__ in caplog.text and "route 'failing' said YES" in caplog.text
        connection.close()
        other = connected(server)
        other.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert other.recv().endswith(b"hello")
        other.close()
    finally:
        server.stop(graceful_timeout=0)
        signal.signal(signal.SIGINT, before)


def test_a_drain_still_ends_who_lasts_too_long(caplog: pytest.LogCaptureFixture) -> None:
    ended: list[Any] = []

    def waits(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        try:
            gevent.sleep(60)
        except BaseException as error:
            ended.append(type(error))
            raise
        return []

    server = muxwsgi.Server(waits, binds=["127.0.0.1:0"])
    server.start()
    connection = connected(server)
    connection.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    until(lambda: server.connections == 1)
    gevent.sleep(0.05)
    server.stop(graceful_timeout=0)
    assert ended == [Cut] and server.connections == 0
    assert "Traceback" not in caplog.text
    connection.close()


def test_ctrl_c_in_a_view_ends_a_program_that_has_not_taken_it() -> None:
    """`muxwsgi.Server` in a program of somebody else: what Python makes of SIGINT may come out of a view."""
    program = (
        "from gevent import monkey; monkey.patch_all()\n"
        "import muxwsgi, os, signal, time, gevent\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell that starts tests in the background has it ignored
        "def app(environ, start_response):\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    give_up = time.monotonic() + 30\n"
        "    while time.monotonic() < give_up: pass\n"
        "server = muxwsgi.Server(app, binds=['127.0.0.1:0'])\n"
        "server.start()\n"
        "print(server.addresses[0], flush=True)\n"
        "try:\n"
        "    gevent.sleep(60)\n"
        "except KeyboardInterrupt:\n"
        "    print('interrupted', flush=True)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        host, _, port = process.stdout.readline().strip().rpartition(":")
        with socket.create_connection((host, int(port)), timeout=15) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert process.stdout.readline() == "interrupted\n"
    finally:
        process.kill()
        process.wait()


# Loading


@pytest.mark.parametrize("command", ["run", "check"])
@pytest.mark.parametrize(
    ("value", "said"), [("", "sys.exit()"), ("3", "sys.exit(3)"), ("DATABASE_URL is not set", "DATABASE_URL is not set")]
)
def test_a_factory_that_exits_is_one_line(command: str, value: str, said: str) -> None:
    done = warm.run(
        [sys.executable, "-m", "muxwsgi", command, f"{APP}:factory()", "-b", "127.0.0.1:0"],
        cwd=ROOT,
        env={**os.environ, "TEST_EXIT": value},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"muxwsgi: error: app '{APP}:factory()': the factory ended the program: {said} (")
    assert "raising_app.py, line " in done.stderr


def test_a_factory_that_is_interrupted_by_itself_has_failed() -> None:
    done = warm.run(
        [sys.executable, "-m", "muxwsgi", "run", f"{APP}:interrupted()", "-b", "127.0.0.1:0"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2 and "the factory failed: KeyboardInterrupt" in done.stderr
