"""Crowds: 20,000 clients that connect at once, and 10,000 connections at rest through a reload."""

import collections
import contextlib
import resource
import select
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.test_handover_processes import GET, read_answer, serving
from tests.server.test_workers import wait_until, workers_of
from tests.system.server_process import ServerProcess, insecure_context

pytestmark = pytest.mark.slow

#: Descriptors beside those of connections.
SPARE = 500


@pytest.fixture
def descriptors() -> Iterator[int]:
    """As many as this process, and each worker that it starts, may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield hard if hard != resource.RLIM_INFINITY else 1 << 20
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def connect_at_once(server: ServerProcess, number: int) -> list[bytes]:
    """Connect so many clients without waiting for any of them, and ask on each. The bodies of the answers; all connections stay open until
    the last one has come."""
    poll = select.epoll()
    clients: dict[int, socket.socket] = {}
    answers: dict[int, bytes] = {}
    with contextlib.ExitStack() as stack:
        stack.callback(poll.close)
        for _ in range(number):
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                client.connect(("127.0.0.1", server.port))
            clients[client.fileno()] = client
            poll.register(client, select.EPOLLOUT)
        give_up = time.monotonic() + 240
        while len(answers) < number:
            assert time.monotonic() < give_up, f"{len(answers)} of {number} were answered"
            for fd, event in poll.poll(1):
                client = clients[fd]
                if event & select.EPOLLOUT:
                    client.send(GET)  # raises what has become of the connect
                    poll.modify(fd, select.EPOLLIN)
                else:
                    head, _, body = client.recv(4096).partition(b"\r\n\r\n")
                    assert head.startswith(b"HTTP/1.1 200 "), head
                    answers[fd] = body
                    poll.unregister(fd)
    return list(answers.values())


def test_20000_clients_that_connect_at_once_are_all_answered(tmp_path: Path, descriptors: int) -> None:
    """All at once is more than the backlog. The kernel drops what does not fit (net.core.somaxconn), and clients send their SYN again after 1,
    3 and 7 s. The limit of this machine is that of descriptors (ulimit -Hn); the next one would be that of ports (28,232)."""
    number = min(20000, descriptors - SPARE)
    with serving(tmp_path) as server:
        answers = connect_at_once(server, number)
        assert len(answers) == number
        by_worker = collections.Counter(answers)
        assert len(by_worker) == 2 and max(by_worker.values()) <= 0.6 * number, by_worker
        assert server.stop(timeout=60) == 0


def retired(server: ServerProcess, old: set[int]) -> None:
    wait_until(lambda: not old & set(workers_of(server)), lambda: server.log, patience=60)


def test_10000_connections_at_rest_are_handed_over(tmp_path: Path, descriptors: int) -> None:
    with serving(tmp_path, "--keep-alive", "600", "--graceful-timeout", "120") as server, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(server.connect()) for _ in range(min(10000, descriptors - SPARE))]
        for client in clients:
            client.sendall(GET)
            read_answer(client)
        old = set(workers_of(server))
        server.send_signal(signal.SIGHUP)
        retired(server, old)
        for client in clients:
            client.sendall(GET)
            head, body = read_answer(client)
            assert b"Connection: close" not in head and int(body.split()[0]) not in old
        assert server.stop(timeout=60) == 0


def test_10000_tls_connections_at_rest_lose_no_request_in_a_reload(tmp_path: Path, descriptors: int) -> None:
    with serving(tmp_path, "--keep-alive", "600", "--graceful-timeout", "240", tls=True) as server, contextlib.ExitStack() as stack:
        context = insecure_context()  # one for all: each has a copy of the machine's certificates
        clients = []
        for _ in range(min(10000, descriptors - SPARE)):
            sock = context.wrap_socket(server.connect(), server_hostname="localhost")
            clients.append(stack.enter_context(sock))
            sock.sendall(GET)
            read_answer(sock)
        old = set(workers_of(server))
        server.send_signal(signal.SIGHUP)
        server.wait_for_log_times("workers are ready", 2, 60)
        time.sleep(2)  # the old workers retire
        for client in clients:
            client.sendall(GET)
            head, body = read_answer(client)
            assert b"Connection: close" in head and int(body.split()[0]) in old
        retired(server, old)
        assert server.stop(timeout=60) == 0
