"""A stop loses no client whom the kernel has told that it is connected."""

import contextlib
import resource
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.system.server_process import ServerProcess, insecure_context, read_until_closed

APP = "tests.server.busy_app"
COUNT = 60


def post(number: int) -> bytes:
    body = b"number %d" % number
    return b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


def hold(server: ServerProcess, seconds: float = 1.5) -> socket.socket:
    """Make the application busy, so that whoever connects from now on waits in the backlog."""
    sock = server.open()
    sock.sendall(b"POST /?%g HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nheld" % seconds)
    time.sleep(0.2)
    return sock


def check_answers(answers: list[bytes], most_are_last: bool = True) -> None:
    """All are answered. The first few may have been accepted before the signal was acted on, so their answers promise more."""
    wrong = [answer for number, answer in enumerate(answers) if not is_answered(answer, number)]
    assert wrong == [], f"{len(wrong)} of {len(answers)}"
    if most_are_last:
        assert sum(b"\r\nConnection: close\r\n" in answer for answer in answers) > 0.8 * len(answers)


def is_answered(answer: bytes, number: int) -> bool:
    return answer.startswith(b"HTTP/1.1 200 ") and answer.endswith(b"\r\n\r\nhello number %d" % number)


def answer_on(sock: socket.socket) -> bytes:
    with sock:
        return read_until_closed(sock)


def no_more_than(files: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))


@pytest.mark.parametrize("limit", ["", "connections", "descriptors"])
def test_who_waits_in_the_backlog_is_answered_and_told_that_it_was_the_last(limit: str) -> None:
    options = ["--max-connections=2"] if limit == "connections" else []
    with ServerProcess(APP, *options, preexec=no_more_than(48) if limit == "descriptors" else None) as server:
        held = hold(server)
        waiting = [server.connect() for _ in range(COUNT)]
        for number, sock in enumerate(waiting):
            sock.sendall(post(number))
        server.send_signal(signal.SIGTERM)
        check_answers([answer_on(sock) for sock in waiting])
        assert read_until_closed(held).endswith(b"hello held")
        assert server.ended() == 0
        assert server.tracebacks() == [] and "were cut" not in server.log


def test_who_waits_in_the_backlog_of_a_unix_socket_is_answered_and_nobody_else_connects(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with ServerProcess(APP, "-b", f"unix:{path}") as server:
        hold(server)
        waiting = []
        for number in range(COUNT):
            sock = socket.socket(socket.AF_UNIX)
            sock.settimeout(15)
            sock.connect(str(path))
            sock.sendall(post(number))
            waiting.append(sock)
        server.send_signal(signal.SIGTERM)
        check_answers([answer_on(sock) for sock in waiting])
        assert not path.exists()
        assert server.ended() == 0


def test_a_client_whose_handshake_waits_in_the_backlog_gets_its_answer(tmp_path: Path) -> None:
    """With ALPN nothing is asked inside of TLS, so the request is under way when HTTP already waits for it."""
    answers: dict[int, bytes] = {}
    contexts = [insecure_context(), insecure_context()]
    contexts[1].set_alpn_protocols(["http/1.1"])

    def ask(plain: socket.socket, number: int) -> None:
        with contextlib.suppress(OSError), contexts[number % 2].wrap_socket(plain, server_hostname="localhost") as sock:
            time.sleep(0.1)
            sock.sendall(post(number))
            answers[number] = read_until_closed(sock)

    with ServerProcess(APP, tls=True, environment={"XDG_DATA_HOME": str(tmp_path)}) as server:
        hold(server)
        threads = [threading.Thread(target=ask, args=(server.connect(), number)) for number in range(20)]
        server.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        check_answers([answers.get(number, b"") for number in range(20)], most_are_last=False)
        assert server.ended() == 0
        assert server.tracebacks() == []


def test_a_hijackers_client_that_waits_in_the_backlog_is_served() -> None:
    with ServerProcess(APP, "--hijack=echo") as server:
        hold(server)
        sock = server.connect()
        sock.sendall(b"ECHO in the backlog")
        server.send_signal(signal.SIGTERM)
        assert sock.recv(100) == b"ECHO in the backlog"
        sock.close()
        assert server.ended() == 0


def test_a_request_that_came_on_a_kept_connection_before_the_stop_is_answered() -> None:
    with ServerProcess(APP) as server:
        kept = server.connect()
        kept.sendall(post(0))
        assert kept.recv(1000).endswith(b"number 0")
        hold(server, 1.0)
        kept.sendall(post(1))
        server.send_signal(signal.SIGTERM)
        assert is_answered(read_until_closed(kept), 1)
        assert server.ended() == 0


@pytest.mark.parametrize("tls", [False, True])
def test_a_new_connection_that_says_nothing_holds_the_stop_up_for_a_moment_alone(tls: bool, tmp_path: Path) -> None:
    options = ["--sniff-timeout=60", "--request-head-timeout=60", "--graceful-timeout=60"]
    with ServerProcess(APP, *options, tls=tls, environment={"XDG_DATA_HOME": str(tmp_path)}) as server:
        context = insecure_context()
        context.set_alpn_protocols(["http/1.1"])
        sock: Any = server.connect()
        if tls:
            sock = context.wrap_socket(sock, server_hostname="localhost")
        time.sleep(0.2)
        assert server.stop(timeout=10) == 0
        assert server.tracebacks() == []
        with contextlib.suppress(ssl.SSLError):
            assert sock.recv(1) == b""
        sock.close()


def test_those_who_were_accepted_and_never_served_are_counted_among_the_cut() -> None:
    with ServerProcess(APP, "--max-connections=1", "--graceful-timeout=1") as server:
        busy = server.connect()
        busy.sendall(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nha")
        time.sleep(0.2)
        waiting = [server.connect() for _ in range(5)]
        for number, sock in enumerate(waiting):
            sock.sendall(post(number))
        server.send_signal(signal.SIGTERM)
        for sock in [busy, *waiting]:
            with contextlib.suppress(ConnectionResetError):
                assert read_until_closed(sock) == b""
        assert server.ended() == 0
        server.wait_for_log("6 connections were cut at shutdown")


def test_the_address_is_free_while_the_old_process_still_serves() -> None:
    with ServerProcess(APP) as server:
        held = hold(server, 0.5)
        busy = server.connect()
        busy.sendall(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nha")
        server.send_signal(signal.SIGTERM)
        server.wait_for_log("stopping")
        give_up = time.monotonic() + 10
        while True:
            try:
                with socket.create_server(("127.0.0.1", server.port)):
                    break
            except OSError:
                assert time.monotonic() < give_up
                time.sleep(0.02)
        busy.sendall(b"lf")
        assert read_until_closed(busy).endswith(b"hello half")
        assert server.ended() == 0
        held.close()


# Behind nginx

NGINX = """
worker_processes 1;
daemon off;
pid {folder}/pid;
error_log {folder}/error;
events {{ worker_connections 512; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://127.0.0.1:{upstream};
            proxy_http_version 1.1;
            proxy_next_upstream off;
        }}
    }}
}}
"""


@contextlib.contextmanager
def nginx(folder: Path, upstream: int) -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    (folder / "conf").write_text(NGINX.format(folder=folder, port=port, upstream=upstream))
    process = subprocess.Popen(["nginx", "-c", str(folder / "conf"), "-e", str(folder / "error")], stderr=subprocess.DEVNULL)
    try:
        give_up = time.monotonic() + 15
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=5).close()
                break
            except OSError:
                assert time.monotonic() < give_up and process.poll() is None, (folder / "error").read_text()
                time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        process.wait()


def test_nginx_gets_an_answer_to_all_that_it_has_sent(tmp_path: Path) -> None:
    """502 is right where the port is closed, and nginx says so. No request that was sent may end in a reset."""
    with ServerProcess(APP) as server, nginx(tmp_path, server.port) as port:
        hold(server)
        waiting = []
        for number in range(45):
            sock = socket.create_connection(("127.0.0.1", port), timeout=20)
            sock.sendall(post(number).replace(b"Host:", b"Connection: close\r\nHost:"))
            waiting.append(sock)
        time.sleep(0.3)
        server.send_signal(signal.SIGTERM)
        answers = [read_until_closed(sock) for sock in waiting]
        assert [answer[:30] for answer in answers if not answer.startswith(b"HTTP/1.1 200 ")] == []
        assert server.ended() == 0
        assert "reset by peer" not in (tmp_path / "error").read_text()
