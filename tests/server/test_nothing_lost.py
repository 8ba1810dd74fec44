"""Nothing that was accepted is lost, whatever an operator does: reloads, workers that are ended and started, and a new master, all under load
of every kind. What cannot be handed over goes on until it ends, or ends as its protocol has it."""

import contextlib
import os
import random
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import websocket

from muxwsgi.server.heartbeat import ASK
from tests.ports import reserved_port
from tests.server.test_handover_processes import GET, POST, Client, read_answer
from tests.server.test_upgrade import Service, children_of, ended, service
from tests.system.server_process import insecure_context, takes_signal
from tests.waiting import wait_for

pytestmark = pytest.mark.slow

APPLICATION = """
import os, time
from muxwsgi.websocket import accept

def app(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/ws":
        ws = accept(environ)
        for message in ws:
            ws.send(message)
        return []
    if path == "/hijack":
        return hijacked(environ["muxwsgi.hijack"]())
    if path == "/events":
        start_response("200 OK", [("Content-Type", "text/event-stream")])
        return (time.sleep(0.05) or b"data: %d\\n\\n" % number for number in range(40))
    received = 0
    while data := environ["wsgi.input"].read(65536):
        received += len(data)
    body = f"{os.getpid()} {received}".encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]

def hijacked(connection):
    connection.sendall(b"HTTP/1.1 101 Switching Protocols\\r\\nUpgrade: lines\\r\\nConnection: Upgrade\\r\\n\\r\\n")
    said = False

    def say():
        nonlocal said
        said = True
        connection.sendall(b"BYE\\n")

    connection.on_drain(say)
    while data := connection.recv():
        if not said:
            connection.sendall(data)
    return []
"""


class Session(threading.Thread):
    """A client that has one session after the other, until `end`.

    done        sessions that ended as the client wanted
    drained     sessions that the server has ended, in the way of their protocol
    failed      what happened to the others
    address     of the client in its present session
    """

    def __init__(self, port: int, *, tls: bool = False) -> None:
        super().__init__()
        self.done = self.drained = 0
        self.failed: list[str] = []
        self._port = port
        self._tls = insecure_context() if tls else None
        self.address: object = None
        self._over = False
        self.start()

    def end(self) -> None:
        self._over = True
        self.join()

    def run(self) -> None:
        while not self._over:
            try:
                if self.session():
                    self.done += 1
                else:
                    self.drained += 1
            except Exception as error:
                self._over |= len(self.failed) > 5
                of = f"{type(self).__name__}{' with TLS' if self._tls else ''} from {self.address}"
                self.failed.append(f"{of} at {time.strftime('%X')}: {error!r}")

    def session(self) -> bool:
        """Whether the client has ended it. Raises if it ended in another way than it should."""
        raise NotImplementedError

    @contextlib.contextmanager
    def connected(self) -> Iterator[socket.socket]:
        with socket.create_connection(("127.0.0.1", self._port), timeout=60) as sock:
            self.address = sock.getsockname()
            if self._tls is None:
                yield sock
            else:
                with self._tls.wrap_socket(sock, server_hostname="localhost") as secure:
                    yield secure


class Upload(Session):
    """300 kB in 3 s."""

    def session(self) -> bool:
        with self.connected() as sock:
            sock.sendall(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 300000\r\nConnection: close\r\n\r\n")
            for _ in range(30):
                sock.sendall(bytes(10_000))
                time.sleep(0.1)
            head, body = read_answer(sock)
        assert head.startswith(b"HTTP/1.1 200 ") and body.endswith(b" 300000"), (head, body)
        return True


class Events(Session):
    """40 events in 2 s."""

    def session(self) -> bool:
        with self.connected() as sock:
            sock.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
            answer = b""
            while not answer.endswith(b"\r\n0\r\n\r\n"):
                more = sock.recv(65536)
                assert more, f"cut after {answer!r}"
                answer += more
        assert answer.startswith(b"HTTP/1.1 200 ") and answer.count(b"data: ") == 40, answer
        return True


class WebSocket(Session):
    """Ends after 200 messages, or gets a Close with 1001 before."""

    def session(self) -> bool:
        with self.connected() as sock, contextlib.closing(websocket.create_connection("ws://localhost/ws", socket=sock)) as ws:
            for number in range(200):
                ws.send(f"message {number}")
                opcode, frame = ws.recv_data_frame(control_frame=True)
                if opcode == websocket.ABNF.OPCODE_CLOSE:
                    assert frame.data[:2] == (1001).to_bytes(2), frame
                    return False
                assert frame.data == b"message %d" % number, frame
                time.sleep(0.02)
        return True


class Hijacked(Session):
    """Ends after 200 lines, or gets BYE before, which the handler says when the server drains."""

    def session(self) -> bool:
        with self.connected() as sock:
            sock.sendall(b"GET /hijack HTTP/1.1\r\nHost: localhost\r\nUpgrade: lines\r\nConnection: Upgrade\r\n\r\n")
            lines = sock.makefile("rb")
            assert lines.readline().startswith(b"HTTP/1.1 101 ")
            while lines.readline() != b"\r\n":
                pass
            for number in range(200):
                sock.sendall(b"line %d\n" % number)
                answer = lines.readline()
                if answer == b"BYE\n":
                    return False
                assert answer == b"line %d\n" % number, answer
                time.sleep(0.02)
        return True


class Echo(Session):
    """A hijacker that is found by the first bytes, and knows of no drain. 100 messages in 2 s."""

    def session(self) -> bool:
        with self.connected() as sock:
            sent = received = b""
            for number in range(100):
                data = b"ECHO %d\n" % number
                sock.sendall(data)
                sent += data
                while len(received) < len(sent):
                    more = sock.recv(65536)
                    assert more, f"cut after {received!r}"
                    received += more
                time.sleep(0.02)
            assert received == sent
        return True


class Operator:
    """What an operator does to the service, one thing after the other."""

    def __init__(self, server: Service) -> None:
        self._server = server

    def reload(self) -> None:
        before = self._server.log.count(" ready\n")
        os.kill(self._server.master, signal.SIGHUP)
        wait_for(lambda: self._server.log.count(" ready\n") > before, lambda: self._server.log, 120)

    def end_a_worker(self) -> None:
        workers = [pid for pid in map(int, children_of(self._server.master)) if is_worker(pid)]
        if workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(random.choice(workers), signal.SIGTERM)
        time.sleep(random.uniform(0, 0.5))

    def change_the_number(self) -> None:
        for _ in range(random.randrange(1, 6)):
            os.kill(self._server.master, random.choice([signal.SIGTTIN, signal.SIGTTOU]))
            time.sleep(random.uniform(0, 0.1))

    def upgrade(self) -> None:
        old = self._server.upgrade()
        wait_for(lambda: self._server.process.poll() is not None if old == self._server.process.pid else ended(old), lambda: self._server.log, 120)


def is_worker(pid: int) -> bool:
    """Whether it is a worker that serves or ends."""
    try:
        return takes_signal(pid, ASK)
    except FileNotFoundError:
        return False


def test_reloads_workers_that_come_and_go_and_a_new_master_lose_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    with reserved_port() as one, reserved_port() as other:
        plain, secure = one.getsockname()[1], other.getsockname()[1]
        options = ("-w", "2", "--graceful-timeout", "60", "--tls-dev", "-b", f"127.0.0.1:{secure},tls=required")
        with service(tmp_path, *options, bind=f"127.0.0.1:{plain},tls=off", application=APPLICATION) as server:
            thinkers = [Client(plain, 0.05, request) for request in (GET, POST) for _ in range(4)]
            sessions: list[Session] = []
            for kind in (Upload, Events, WebSocket, Hijacked, Echo):
                sessions += [kind(plain), kind(plain), kind(secure, tls=True)]
            wrk = [
                subprocess.Popen(["wrk", "-t1", f"-c{clients}", "-d3000", "--timeout", "60", url], stdout=subprocess.PIPE, text=True)
                for clients, url in ((6, f"http://127.0.0.1:{plain}/"), (2, f"https://127.0.0.1:{secure}/"))
            ]
            try:
                operator = Operator(server)
                steps = [operator.reload] * 50 + [operator.end_a_worker] * 20 + [operator.change_the_number] * 15
                random.shuffle(steps)
                steps.insert(len(steps) // 2, operator.upgrade)
                for step in steps:
                    step()
            finally:
                for each in (*thinkers, *sessions):
                    each.end()
                for process in wrk:
                    process.send_signal(signal.SIGINT)
                reports = [process.communicate(timeout=60)[0] for process in wrk]
            failed = [failure for each in (*thinkers, *sessions) for failure in each.failed]
            assert failed == [], f"{failed}\n{server.log}"
            for report in reports:
                assert "Non-2xx" not in report and "Socket errors" not in report, report
                assert int(re.findall(r"(\d+) requests in", report)[0]) > 100
            for each in sessions:
                assert each.done > 3 or each.drained > 20, (each, each.done, each.drained)
                assert each.drained == 0 or isinstance(each, WebSocket | Hijacked)
            assert all(each.drained > 10 for each in sessions if isinstance(each, WebSocket | Hijacked))
            for fault in ("Traceback", "were cut", "is killed", "is closed", "reload failed", "[ERROR]"):
                assert fault not in server.log, server.log
