"""Thousands of idle keep-alive connections are held while requests flow."""

import resource
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.system.server_process import ServerProcess, insecure_context
from tests.waiting import wait_for

CONNECTIONS = 2000
REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture
def many_files() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = CONNECTIONS + 500
    if hard != resource.RLIM_INFINITY and hard < needed:
        pytest.fail(f"this machine allows {hard} descriptors, {needed} are needed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, needed), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def exchange(sock: socket.socket) -> None:
    sock.sendall(REQUEST)
    received = b""
    while not received.endswith(b"hello"):
        part = sock.recv(1000)
        assert part, f"closed after {received!r}"
        received += part


@pytest.mark.slow
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_2000_keep_alive_connections_are_held_while_requests_flow(many_files: None, tls: bool, tmp_path: object) -> None:
    environment = {"XDG_DATA_HOME": str(tmp_path)}
    with ServerProcess("tests.system.counted_app", "--keep-alive=300", tls=tls, environment=environment) as server:
        held = []
        try:
            for _ in range(CONNECTIONS):
                sock = server.open()
                held.append(sock)
                exchange(sock)
            assert server.counts()["descriptors"] >= CONNECTIONS
            for _ in range(50):
                assert server.get("/") == (200, b"hello")
            for sock in held:
                exchange(sock)
        finally:
            for sock in held:
                sock.close()
        baseline = {"descriptors": 50, "greenlets": 50, "connections": 50}
        after = server.settled_counts(baseline)
        assert after["connections"] <= 50 and after["descriptors"] <= 50, after
        assert server.stop() == 0
        assert server.tracebacks() == [], server.log


@pytest.mark.slow
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_2000_idle_connections_go_through_a_reload(many_files: None, tls: bool, tmp_path: object) -> None:
    """Each request that follows is answered: by the new worker, or by the old one in its grace."""
    environment = {"XDG_DATA_HOME": str(tmp_path)}
    options = ("--keep-alive=300", "--graceful-timeout=120", "-w", "2")
    with ServerProcess("tests.system.counted_app", *options, tls=tls, environment=environment) as server, ExitStack() as held:
        sockets = []
        context = insecure_context()  # to make one takes longer than a handshake
        for _ in range(CONNECTIONS):
            plain = server.connect()
            sockets.append(held.enter_context(context.wrap_socket(plain) if tls else plain))
            exchange(sockets[-1])
        old = server.worker_pids
        server.send_signal(signal.SIGHUP)
        server.wait_for_log_times(" ready\n", 2, patience=60)
        for sock in sockets:
            exchange(sock)
        wait_for(lambda: not set(old) & set(server.worker_pids), lambda: server.log)
        assert server.stop() == 0 and "were cut" not in server.log and server.tracebacks() == [], server.log


@pytest.mark.slow
def test_2000_connects_at_once_are_all_served(many_files: None) -> None:
    with ServerProcess("tests.system.counted_app", "-w", "2") as server, ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(CONNECTIONS)]
        for sock in sockets:
            sock.setblocking(False)
            sock.connect_ex(("127.0.0.1", server.port))
        for sock in sockets:
            sock.settimeout(60)
            exchange(sock)
        assert server.stop() == 0 and server.tracebacks() == [], server.log
