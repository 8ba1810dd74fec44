"""Reloads under load: real processes and clients. Connections are handed over, and whatever cannot be handed over is not cut."""

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.ports import reserved_port
from tests.server.test_workers import wait_until, workers_of
from tests.system.server_process import ServerProcess

APPLICATION = """
import os, time

def app(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/hijack":
        connection = environ["muxwsgi.hijack"]()
        connection.sendall(b"HTTP/1.1 101 Switching Protocols\\r\\nUpgrade: echo\\r\\nConnection: Upgrade\\r\\n\\r\\n")
        while data := connection.recv():
            connection.sendall(data)
        return []
    if path == "/events":
        start_response("200 OK", [("Content-Type", "text/event-stream")])
        return (time.sleep(0.05) or b"data: %d\\n\\n" % number for number in range(int(environ["QUERY_STRING"])))
    received = 0
    while data := environ["wsgi.input"].read(65536):
        received += len(data)
    body = f"{os.getpid()} {received}".encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""

GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 20\r\n\r\n" + b"x" * 20


@contextlib.contextmanager
def serving(folder: Path, *options: str, workers: int = 2, tls: bool = False) -> Iterator[ServerProcess]:
    (folder / "handed_app.py").write_text(APPLICATION)
    environment = {"XDG_DATA_HOME": str(folder)}
    arguments = ("-w", str(workers), "--pythonpath", str(folder), *options)
    with ServerProcess("handed_app:app", *arguments, tls=tls, environment=environment) as server:
        server.wait_for_log(" ready", patience=60)
        yield server
        assert server.tracebacks() == []


def reload(server: ServerProcess, times: int) -> None:
    """Reload again and again, each time after the one before."""
    before = server.log.count("workers are ready")
    for number in range(1, times + 1):
        server.send_signal(signal.SIGHUP)
        server.wait_for_log_times("workers are ready", before + number, 60)


def read_answer(sock: socket.socket) -> tuple[bytes, bytes]:
    data = b""
    while b"\r\n\r\n" not in data:
        more = sock.recv(65536)
        if not more:
            raise ConnectionError(f"closed after {data!r}")
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
    while len(body) < length:
        more = sock.recv(65536)
        if not more:
            raise ConnectionError(f"closed after {data!r}")
        body += more
    return head, body


class Client(threading.Thread):
    """Keeps its connection, sends one request after the other, and thinks between them for up to `think` seconds."""

    def __init__(self, port: int, think: float, request: bytes = GET) -> None:
        super().__init__()
        self.answered = self.connected = 0
        self.failed: list[str] = []
        self._port, self._think, self._request = port, think, request
        self._over = False
        self.start()

    def end(self) -> None:
        self._over = True
        self.join()

    def run(self) -> None:
        sock: socket.socket | None = None
        while not self._over:
            try:
                if sock is None:
                    sock = socket.create_connection(("127.0.0.1", self._port), timeout=20)
                    self.connected += 1
                sock.sendall(self._request)
                head, _ = read_answer(sock)
                if not head.startswith(b"HTTP/1.1 200 "):
                    self.failed.append(head.decode())
                self.answered += 1
                if b"connection: close" in head.lower():
                    sock.close()
                    sock = None
            except OSError as error:
                self.failed.append(f"at {time.strftime('%X')}: {error!r}, after {self.answered} answers, from {sock and sock.getsockname()}")
                sock = None
            time.sleep(random.uniform(0, self._think))
        if sock is not None:
            sock.close()


def all_are_answered_twice_more(clients: Sequence[Client]) -> None:
    before = [client.answered for client in clients]
    wait_until(lambda: all(client.answered >= answers + 2 for client, answers in zip(clients, before, strict=True)), "some are not answered")


def test_clients_at_rest_keep_their_connections_whatever_ends_a_worker(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        clients = [socket.create_connection(("127.0.0.1", server.port), timeout=20) for _ in range(20)]

        def ask() -> set[int]:
            found = set()
            for client in clients:
                client.sendall(GET)
                head, body = read_answer(client)
                assert b"Connection: close" not in head
                found.add(int(body.split()[0]))
            return found

        for end in (signal.SIGHUP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGTTOU, signal.SIGHUP):
            before = ask()
            old = set(workers_of(server))
            server.send_signal(end)
            if end == signal.SIGHUP:
                wait_until(lambda old=old: not old & set(workers_of(server)), lambda: server.log)
                assert not ask() & before
            else:
                wait_until(lambda old=old: len(set(workers_of(server)) ^ old) == 1, lambda: server.log)
                server.wait_for_log(" ready")
                ask()
        for client in clients:
            client.close()
        assert server.stop() == 0


def test_clients_at_rest_keep_their_connections_when_a_worker_has_served_enough(tmp_path: Path) -> None:
    with serving(tmp_path, "--max-requests", "50", workers=1) as server:
        (first,) = workers_of(server)
        clients = [Client(server.port, 0.02) for _ in range(5)]
        wait_until(lambda: first not in workers_of(server), lambda: server.log)
        for client in clients:
            client.end()
        assert [failure for client in clients for failure in client.failed] == []
        assert server.stop() == 0


@pytest.mark.parametrize("request_", [GET, POST], ids=["GET", "POST"])
@pytest.mark.parametrize("think", [0.02, 0.5])
@pytest.mark.parametrize("reloads", [3, pytest.param(30, marks=pytest.mark.slow)])
def test_no_client_fails_and_hardly_one_connects_again(tmp_path: Path, think: float, request_: bytes, reloads: int) -> None:
    with serving(tmp_path) as server:
        clients = [Client(server.port, think, request_) for _ in range(20)]
        reload(server, reloads)
        all_are_answered_twice_more(clients)  # a client that thinks may have slept through several reloads
        for client in clients:
            client.end()
        assert [failure for client in clients for failure in client.failed] == []
        # A client whose requests are under way each time that the worker looks, for a second, is told to connect again.
        assert sum(client.connected for client in clients) <= 20 + reloads
        assert server.stop() == 0


def test_a_storm_of_workers_that_come_and_go_loses_nothing(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        clients = [Client(server.port, 0.02) for _ in range(10)]
        for _ in range(15):
            server.send_signal(random.choice([signal.SIGTTIN, signal.SIGTTOU]))
            time.sleep(random.uniform(0, 0.5))
        for client in clients:
            client.end()
        assert [failure for client in clients for failure in client.failed] == []
        assert server.stop(timeout=40) == 0


def test_what_cannot_be_handed_over_is_not_cut(tmp_path: Path) -> None:
    """A hijacked connection, a stream of events and a slow upload, through reloads."""
    with serving(tmp_path) as server:
        hijacked, events, upload = (socket.create_connection(("127.0.0.1", server.port), timeout=20) for _ in range(3))
        hijacked.sendall(b"GET /hijack HTTP/1.1\r\nHost: localhost\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\n")
        assert hijacked.recv(1000).startswith(b"HTTP/1.1 101 ")
        events.sendall(b"GET /events?100 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        upload.sendall(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n")
        reloading = threading.Thread(target=reload, args=(server, 3))
        reloading.start()
        number = 0
        while reloading.is_alive() or number < 20:
            number += 1
            hijacked.sendall(b"%d" % number)
            assert hijacked.recv(100) == b"%d" % number
            if number <= 100:
                upload.sendall(b"x" * 1000)
            time.sleep(0.05)
        reloading.join()
        for _ in range(number, 100):
            upload.sendall(b"x" * 1000)
        _, body = read_answer(upload)
        assert body.endswith(b" 100000")
        stream = b""
        while more := events.recv(65536):
            stream += more
        assert stream.count(b"data: ") == 100 and b"data: 99\n\n" in stream
        hijacked.sendall(b"still here")
        assert hijacked.recv(100) == b"still here"
        for sock in (hijacked, events, upload):
            sock.close()
        assert server.stop() == 0 and "were cut" not in server.log


def test_a_stop_closes_connections_at_rest(tmp_path: Path) -> None:
    with serving(tmp_path) as server, contextlib.closing(socket.create_connection(("127.0.0.1", server.port), timeout=20)) as client:
        client.sendall(GET)
        read_answer(client)
        began = time.monotonic()
        assert server.stop() == 0
        assert client.recv(1) == b"" and time.monotonic() - began < 10


def nginx_of(folder: Path, port: int, upstream: int) -> list[str]:
    (folder / "nginx.conf").write_text(f"""
        daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log stderr error; events {{ worker_connections 1000; }}
        http {{
            access_log off; client_body_temp_path {folder}/b; proxy_temp_path {folder}/p;
            fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
            upstream app {{ server 127.0.0.1:{upstream} max_fails=0; keepalive 32; }}
            server {{
                listen 127.0.0.1:{port};
                location / {{
                    proxy_pass http://app; proxy_http_version 1.1; proxy_set_header Connection "";
                    proxy_next_upstream off;
                }}
            }}
        }}
    """)
    return ["nginx", "-e", "stderr", "-c", str(folder / "nginx.conf")]


def haproxy_of(folder: Path, port: int, upstream: int) -> list[str]:
    (folder / "haproxy.cfg").write_text(textwrap.dedent(f"""\
        defaults
            mode http
            timeout connect 5s
            timeout client 60s
            timeout server 60s
            http-reuse always
            retries 0
        frontend front
            bind 127.0.0.1:{port}
            default_backend app
        backend app
            server one 127.0.0.1:{upstream}
    """))
    return ["haproxy", "-db", "-f", str(folder / "haproxy.cfg")]


@pytest.mark.parametrize("request_", [GET, POST], ids=["GET", "POST"])
@pytest.mark.parametrize("front", [nginx_of, haproxy_of])
@pytest.mark.parametrize("reloads", [3, pytest.param(50, marks=pytest.mark.slow)])
def test_behind_a_front_that_keeps_its_connections_nobody_sees_an_error(
    tmp_path: Path, front: Callable[[Path, int, int], list[str]], request_: bytes, reloads: int
) -> None:
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(serving(tmp_path))
        reserved = stack.enter_context(reserved_port())
        port = reserved.getsockname()[1]
        command = front(tmp_path, port, server.port)
        assert shutil.which(command[0], path=f"{os.environ['PATH']}:/usr/sbin"), f"{command[0]} is missing"
        environment = {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin"}
        process = subprocess.Popen(command, env=environment)
        try:
            wait_until(lambda: connects(port))
            clients = [Client(port, 0.02, request_) for _ in range(20)]
            reload(server, reloads)
            all_are_answered_twice_more(clients)
            for client in clients:
                client.end()
            assert [failure for client in clients for failure in client.failed] == []
        finally:
            process.terminate()  # a killed nginx leaves its worker behind
            process.wait(20)
        assert server.stop() == 0


def connects(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5):
        return True
    return False
