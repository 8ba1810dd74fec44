"""`muxwsgi run --workers N`: real processes, an application that says which of them answers."""

import contextlib
import functools
import http.client
import os
import random
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import warm
from tests.system.server_process import ROOT, ServerProcess, insecure_context
from tests.waiting import wait_for

wait_until = functools.partial(wait_for, patience=20)

APPLICATION = """
import os, resource, signal, time

VERSION = "first"

def app(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/spin":
        give_up = time.monotonic() + 60
        while time.monotonic() < give_up:
            pass
    if path == "/sleep":
        time.sleep(2)
    if path == "/exit":
        os._exit(9)
    if path == "/crash":
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.kill(os.getpid(), signal.SIGSEGV)
    if path == "/big":
        start_response("200 OK", [("Content-Length", "20000000")])
        return (b"x" * 100_000 for _ in range(200))
    body = f"{VERSION} {os.getpid()} {environ['wsgi.multiprocess']}".encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "worker_app.py").write_text(APPLICATION)
    return tmp_path


@contextlib.contextmanager
def serving(folder: Path, workers: str, *options: str, tls: bool = False, cold: bool = False) -> Iterator[ServerProcess]:
    environment = {"PYTHONDONTWRITEBYTECODE": "1", "XDG_DATA_HOME": str(folder)}
    options = ("-w", workers, "--pythonpath", str(folder), *options)
    with ServerProcess("worker_app:app", *options, tls=tls, environment=environment, cold=cold) as server:
        server.wait_for_log(" ready", patience=30)
        yield server


def answers(server: ServerProcess, times: int = 12, *, workers: int = 2) -> set[tuple[str, int]]:
    """Versions and pids of those that answer. `workers` is their configured number."""
    found = set()
    for _ in range(times):
        status, body = server.get("/")
        assert status == 200
        version, pid, multiprocess = body.decode().split()
        assert (multiprocess == "True") is (workers > 1)
        found.add((version, int(pid)))
    return found


def workers_of(server: ServerProcess) -> list[int]:
    return server.worker_pids


def test_any_worker_answers_while_another_one_is_busy(folder: Path) -> None:
    with serving(folder, "2") as server:
        pids = workers_of(server)
        assert len(pids) == 2
        busy = server.connect()
        busy.sendall(b"GET /spin HTTP/1.1\r\nHost: localhost\r\n\r\n")
        time.sleep(0.3)
        answering = {pid for _, pid in answers(server, 5)}
        assert len(answering) == 1 and answering < set(pids)
        (computing,) = set(pids) - answering
        os.kill(computing, signal.SIGKILL)  # the master would wait for it
        assert server.stop(signal.SIGQUIT, timeout=30) == 0


def test_one_worker_serves_if_no_number_is_given_and_is_replaced_as_others_are(folder: Path) -> None:
    with serving(folder, "1", "--max-requests", "3") as server:
        first = answers(server, 4, workers=1)
        assert {pid for _, pid in first} <= set(workers_of(server))
        wait_until(lambda: bool(answers(server, 1, workers=1) - first), lambda: server.log)
        assert server.stop() == 0


def test_a_reload_serves_new_code_and_loses_no_request(folder: Path) -> None:
    with serving(folder, "2") as server:
        stop = threading.Event()
        lost: list[BaseException] = []
        seen: set[str] = set()

        def ask() -> None:
            while not stop.is_set():
                try:
                    seen.add(server.get("/")[1].decode().split()[0])
                except BaseException as error:
                    lost.append(error)

        clients = [threading.Thread(target=ask) for _ in range(4)]
        for client in clients:
            client.start()
        for number in range(1, 6):
            (folder / "worker_app.py").write_text(APPLICATION.replace("first", f"number-{number}"))
            server.send_signal(signal.SIGHUP)
            wait_until(lambda number=number: f"number-{number}" in seen, lambda: server.log)
        stop.set()
        for client in clients:
            client.join()
        assert lost == []
        wait_until(lambda: {version for version, _ in answers(server)} == {"number-5"}, lambda: server.log)
        assert server.stop() == 0 and server.tracebacks() == []


def test_code_that_cannot_be_loaded_leaves_what_serves(folder: Path) -> None:
    with serving(folder, "2") as server:
        before = answers(server)
        (folder / "worker_app.py").write_text("def app(environ:\n")
        server.send_signal(signal.SIGHUP)
        server.wait_for_log("the reload failed, and what served before goes on: app 'worker_app:app': ", patience=20)
        assert "SyntaxError" in server.log
        assert answers(server) & before
        assert server.stop() == 0


def test_an_application_that_cannot_be_loaded_ends_the_start(folder: Path) -> None:
    (folder / "worker_app.py").write_text("raise RuntimeError('no database')\n")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "muxwsgi", "run", "worker_app:app", "-w", "2", "--pythonpath", str(folder), "-b", f"127.0.0.1:{port}"]
    ran = warm.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 2 and "muxwsgi: error: app 'worker_app:app'" in ran.stderr and "no database" in ran.stderr
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


class KeptConnection:
    """A client that sends one request after the other on a connection, with pauses, and connects again where it is told to."""

    def __init__(self, server: ServerProcess) -> None:
        self._server = server
        self.answered = 0
        self.errors: list[OSError] = []
        self._over = False
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def end(self) -> None:
        self._over = True
        self._thread.join()

    def _run(self) -> None:
        sock: socket.socket | None = None
        while not self._over and not self.errors:
            try:
                sock = sock or self._server.open()
                sock.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
                answer = b""
                while not answer.endswith(b"True"):
                    more = sock.recv(4096)
                    if not more:
                        raise ConnectionError(f"closed after {answer!r}")
                    answer += more
                self.answered += 1
                if b"Connection: close" in answer:
                    sock.close()
                    sock = None
            except OSError as error:
                self.errors.append(error)
            time.sleep(random.uniform(0, 0.02))
        if sock is not None:
            sock.close()


@pytest.mark.parametrize("tls", [False, True])
def test_clients_that_keep_their_connections_lose_no_request_in_reloads(folder: Path, tls: bool) -> None:
    with serving(folder, "2", tls=tls, cold=True) as server:
        clients = [KeptConnection(server) for _ in range(20)]
        for number in range(1, 11):
            server.send_signal(signal.SIGHUP)
            server.wait_for_log_times("workers are ready", number + 1)
        answered = [client.answered for client in clients]
        wait_until(lambda: all(client.answered > before for client, before in zip(clients, answered, strict=True)), lambda: server.log)
        for client in clients:
            client.end()
        assert "gevent" not in Path(f"/proc/{server.pid}/maps").read_text(), "the master needs none"
        assert [error for client in clients for error in client.errors] == []
        assert server.stop() == 0 and server.tracebacks() == []


@pytest.mark.parametrize("count", ["0", "x", "-1", "2000"])
def test_a_number_of_workers_that_cannot_be_is_one_line(folder: Path, count: str) -> None:
    command = [sys.executable, "-m", "muxwsgi", "run", "worker_app:app", f"--workers={count}", "-b", "127.0.0.1:0"]
    ran = warm.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (ran.returncode, ran.stderr) == (2, f"muxwsgi: error: workers: {count!r} is not a number from 1 to 1024, or auto\n")


def test_web_concurrency_is_the_number_of_workers(folder: Path) -> None:
    with ServerProcess("worker_app:app", "--pythonpath", str(folder), environment={"WEB_CONCURRENCY": "2"}) as server:
        server.wait_for_log("2 workers are ready", patience=30)
        assert server.stop() == 0


def test_a_worker_that_dies_is_replaced_while_the_other_one_serves(folder: Path) -> None:
    with serving(folder, "2") as server:
        with contextlib.suppress(ConnectionError, OSError):
            server.get("/exit")
        server.wait_for_log("has ended with status 9: another one starts in 0.5 s")
        assert len(answers(server)) >= 1
        assert server.stop() == 0


def test_a_worker_that_computes_for_too_long_is_named_with_its_request_and_replaced(folder: Path) -> None:
    with serving(folder, "2", "--timeout", "1") as server:
        sock = server.connect()
        sock.sendall(b"GET /spin HTTP/1.1\r\nHost: localhost\r\n\r\n")
        server.wait_for_log("is killed: its event loop is still blocked", patience=30)
        assert "It serves GET '/spin' from 127.0.0.1" in server.log and 'worker_app.py", line' in server.log
        assert sock.recv(1) == b""
        assert len(answers(server)) >= 1
        assert server.stop() == 0


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--max-requests", "5"], "it has served"),
        (["--worker-lifetime", "1"], "it has reached its lifetime"),
        (["--max-worker-memory", "1"], "MiB in memory"),
    ],
)
def test_a_worker_is_replaced_before_it_ends(folder: Path, options: list[str], reason: str) -> None:
    with serving(folder, "2", *options) as server:
        first = answers(server, 20)
        server.wait_for_log(reason, patience=20)
        server.wait_for_log("leaves: another one starts", patience=20)
        wait_until(lambda: bool(answers(server, 2) - first), lambda: server.log)
        assert server.stop() == 0 and server.tracebacks() == []


def test_a_worker_that_another_process_ends_is_replaced_first_and_a_second_signal_ends_it(folder: Path) -> None:
    with serving(folder, "1", "--log-level", "debug") as server, server.connect() as kept:

        def ask(*, last: bool = False) -> int:
            kept.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            answer = kept.recv(1000)
            assert answer.startswith(b"HTTP/1.1 200 ") and (b"Connection: close" in answer) is last, answer
            return int(answer.rpartition(b"first ")[2].split()[0])

        first = ask()
        os.kill(first, signal.SIGTERM)
        wait_until(lambda: first not in workers_of(server), lambda: server.log)
        second = ask()
        assert second != first and f"worker {first} leaves: another one starts" in server.log
        (folder / "worker_app.py").write_text("no code")
        os.kill(second, signal.SIGTERM)
        server.wait_for_log("has ended before it was ready", patience=30)
        assert ask() == second, "it serves, because no other one can"
        os.kill(second, signal.SIGTERM)
        server.wait_for_log_times("this worker retires", 2)
        assert ask(last=True) == second, "nobody else can take the connection over"
        wait_until(lambda: second not in workers_of(server), lambda: server.log)
        (folder / "worker_app.py").write_text(APPLICATION)
        assert len(answers(server, 1, workers=1)) == 1
        assert server.stop() == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "systemd"])
def test_a_stop_that_reaches_all_processes_cuts_nothing(folder: Path, number: signal.Signals) -> None:
    with serving(folder, "2") as server:
        sock = server.connect()
        sock.sendall(b"GET /sleep HTTP/1.1\r\nHost: localhost\r\n\r\n")
        time.sleep(0.3)
        for pid in [server.pid, *workers_of(server)]:
            os.kill(pid, number)
        assert server.ended() == 0
        assert sock.recv(1000).startswith(b"HTTP/1.1 200 OK")


def test_a_unix_socket_outlives_a_worker_and_goes_with_the_master(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "sock"
    with serving(folder, "2", "-b", f"unix:{path}") as server:

        def ask() -> bytes:
            with socket.socket(socket.AF_UNIX) as sock:
                sock.connect(str(path))
                sock.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                return sock.recv(1000)

        assert b"first" in ask()
        server.send_signal(signal.SIGTTOU)
        server.wait_for_log("has ended", patience=20)
        assert path.exists() and b"first" in ask()
        assert server.stop() == 0
        assert not path.exists()


def test_workers_end_with_a_master_that_is_killed(folder: Path) -> None:
    with serving(folder, "2") as server:
        children = workers_of(server)
        os.kill(server.pid, signal.SIGKILL)
        wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children), lambda: server.log)


def test_a_worker_that_crashes_is_named_with_its_signal_and_replaced(folder: Path) -> None:
    with serving(folder, "2") as server:
        with contextlib.suppress(ConnectionError, OSError):
            server.get("/crash")
        server.wait_for_log("has ended by SIGSEGV: another one starts", patience=30)
        assert len(answers(server)) >= 1
        assert server.stop() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=["stop", "reload"])
def test_a_slow_reader_of_a_big_response_gets_all_of_it(folder: Path, number: signal.Signals) -> None:
    with serving(folder, "1") as server, socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        sock.settimeout(20)
        sock.connect(("127.0.0.1", server.port))
        sock.sendall(b"GET /big HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        received = len(sock.recv(1000))
        server.send_signal(number)
        server.wait_for_log_times("stopping:" if number == signal.SIGTERM else " ready", 1 if number == signal.SIGTERM else 2)
        while data := sock.recv(1 << 20):
            received += len(data)
            if received < 2_000_000:
                time.sleep(0.02)
        assert received > 20_000_000
        assert server.stop() == 0 and "were cut" not in server.log


def test_an_unforeseen_error_in_a_reload_leaves_what_serves(folder: Path) -> None:
    options = folder / "options.py"
    options.write_text("")
    with serving(folder, "1", "-c", str(options)) as server:
        # It is a text for the options, and `open` raises ValueError.
        options.write_text("access_logfile = 'a\\0b'\nerror_logfile = 'a\\0b'\nbind = ['127.0.0.1:0', 'unix:" + str(folder) + "/new']\n")
        server.send_signal(signal.SIGHUP)
        server.wait_for_log("the reload failed, and what served before goes on")
        assert len(answers(server, 2, workers=1)) == 1 and not (folder / "new").exists()
        assert server.stop() == 0


def test_a_reload_takes_what_has_changed_and_a_failed_one_leaves_all_as_it_was(folder: Path) -> None:
    (folder / "other").mkdir()
    options, first, second = folder / "options.toml", folder / "first.log", folder / "second.log"

    def configure(workers: int, log: Path, *lines: str) -> None:
        log.touch()
        new = folder / "options.new"
        new.write_text("\n".join([f"workers = {workers}", f'error_logfile = "{log}"', *lines]))
        new.rename(options)

    def status(context: ssl.SSLContext | None) -> int:
        kind = http.client.HTTPConnection if context is None else functools.partial(http.client.HTTPSConnection, context=context)
        connection = kind("127.0.0.1", server.port, timeout=10)
        with contextlib.closing(connection):
            connection.request("GET", "/")
            return connection.getresponse().status

    configure(1, first)
    environment = {"XDG_DATA_HOME": str(folder)}
    command = ["worker_app:app", "-c", str(options), "--pythonpath", str(folder), ]
    with ServerProcess(*command, environment=environment, error_log=first) as server:
        wait_until(lambda: "1 worker is ready" in first.read_text(), first.read_text)
        (child,) = workers_of(server)
        descriptors = len(os.listdir(f"/proc/{server.pid}/fd"))
        working = os.readlink(f"/proc/{server.pid}/cwd")

        application = (folder / "worker_app.py").read_text()
        (folder / "worker_app.py").write_text("def app(environ:\n")
        configure(2, second, f'chdir = "{folder / "other"}"', "tls_dev = true")
        server.send_signal(signal.SIGHUP)
        wait_until(lambda: "what served before goes on" in first.read_text(), first.read_text)
        wait_until(lambda: workers_of(server) == [child], first.read_text)
        assert os.readlink(f"/proc/{server.pid}/cwd") == working
        assert len(os.listdir(f"/proc/{server.pid}/fd")) == descriptors
        assert status(None) == 200
        server.send_signal(signal.SIGTTIN)
        wait_until(lambda: len(workers_of(server)) == 2, first.read_text)
        wait_until(lambda: first.read_text().count("SIGTTIN") == 1, second.read_text)

        (folder / "worker_app.py").write_text(application)
        server.send_signal(signal.SIGHUP)
        wait_until(lambda: "2 workers are ready" in second.read_text(), second.read_text)
        assert status(insecure_context()) == 200
        assert os.readlink(f"/proc/{server.pid}/cwd") == str(folder / "other")

        configure(1, second)
        server.send_signal(signal.SIGHUP)
        wait_until(lambda: "1 worker is ready" in second.read_text(), second.read_text)
        wait_until(lambda: len(workers_of(server)) == 1, second.read_text)
        assert status(None) == 200
        wait_until(lambda: len(os.listdir(f"/proc/{server.pid}/fd")) == descriptors, second.read_text)
        assert server.stop() == 0


def test_a_master_without_standard_streams_serves_and_reloads(folder: Path) -> None:
    """What it opens would get their numbers, and what it logs would go there."""

    def close_all() -> None:
        for fd in range(3):
            os.close(fd)

    log = folder / "log"
    with ServerProcess(
        "worker_app:app", "-w", "2", "--pythonpath", str(folder), "--error-logfile", str(log), preexec=close_all
    ) as server:
        wait_until(lambda: "2 workers are ready" in log.read_text(), log.read_text)
        server.send_signal(signal.SIGHUP)
        wait_until(lambda: log.read_text().count("2 workers are ready") == 2, log.read_text)
        for pid in [server.pid, *workers_of(server)]:
            assert {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in range(3)} == {"/dev/null"}
        assert len(answers(server)) >= 1
        server.send_signal(signal.SIGTERM)
        assert server.ended() == 0


def test_a_stop_while_the_options_are_read_is_heard(folder: Path) -> None:
    options = folder / "options"
    os.mkfifo(options)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "muxwsgi", "run", "worker_app:app", "-c", str(options), "--pythonpath", str(folder)]
    process = warm.Popen([*command, "-b", f"127.0.0.1:{port}"], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    with open(options, "w") as writer:  # waits for the reader, which has taken its signals
        process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        writer.write("workers = 2\n")
    _, log = process.communicate(timeout=30)
    assert process.returncode == 0 and "master: SIGTERM" in log and "are ready" not in log
