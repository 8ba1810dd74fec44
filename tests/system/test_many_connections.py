"""Thousands of idle keep-alive connections are held while requests flow."""

import resource
import socket
from collections.abc import Iterator

import pytest

from tests.system.server_process import ServerProcess

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
