"""`idle_timeout` counts what moves: while it is sent, while it is read ahead, and what the peer takes out of the kernel's buffer."""

import os
import socket
from collections.abc import Callable
from pathlib import Path

import gevent
import pytest

from muxwsgi.errors import Expired
from muxwsgi.wire.connection import Connection
from tests.waiting import until

Pair = tuple[Connection, Connection]

BIG = os.urandom(6_000_000)

#: Seconds of silence that are allowed, and what a transfer takes at least: several times that.
IDLE, STEPS, PAUSE = 0.8, 40, 0.08


@pytest.fixture(params=["tcp", "unix", "memory", "tls", "tls-in-tls"])
def pair(request: pytest.FixtureRequest, make_pair: Callable[[str], Pair]) -> Pair:
    return make_pair(request.param)


def read_slowly(client: Connection, n: int) -> bytearray:
    """`n` bytes in `STEPS` steps."""
    received = bytearray()
    while len(received) < n:
        gevent.sleep(PAUSE)
        step = min(n - len(received), n // STEPS)
        while step:
            part = client.recv(step)
            assert part, f"the stream ended after {len(received)} of {n} bytes"
            received += part
            step -= len(part)
    return received


def test_a_send_that_moves_is_not_idle(pair: Pair, swept: Callable[..., None]) -> None:
    server, client = pair
    swept(server)
    server.idle_timeout = IDLE
    sending = gevent.spawn(server.sendall, BIG)
    assert read_slowly(client, len(BIG)) == BIG
    sending.get(timeout=5)
    assert server.bytes_sent == len(BIG)


def test_a_file_that_moves_is_not_idle(pair: Pair, swept: Callable[..., None], tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(BIG)
    server, client = pair
    swept(server)
    server.idle_timeout = IDLE
    with open(tmp_path / "file", "rb") as file:
        sending = gevent.spawn(server.sendfile, file)
        assert read_slowly(client, len(BIG)) == BIG
        assert sending.get(timeout=5) == len(BIG)


def test_bytes_that_are_read_ahead_are_not_idle(pair: Pair, swept: Callable[..., None]) -> None:
    server, client = pair
    swept(server)
    server.idle_timeout = IDLE
    peeking = gevent.spawn(server.peek, STEPS)
    for _ in range(STEPS):
        gevent.sleep(PAUSE)
        client.sendall(b"x")
    assert peeking.get(timeout=5) == b"x" * STEPS


@pytest.mark.parametrize("kind", ["tcp", "unix", "tls"])
def test_what_the_peer_takes_out_of_the_kernel_is_not_idle(make_pair: Callable[[str], Pair], kind: str) -> None:
    server, client = make_pair(kind)
    # What is to be taken is all with the kernel: this end has nothing more to send, and waits for the next message.
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    data = BIG[:300_000]
    server.settimeout(10)
    server.sendall(data)
    server.settimeout(None)
    server.idle_timeout = 10.0
    waiting = gevent.spawn(server.recv, 10)
    gevent.sleep(0)
    now = 0.0  # the clock is the test's, so that no machine is too slow for it
    server.lifeline.check_idle(now)
    received = 0
    while received < len(data):
        unsent = server.lifeline.reader.unsent()
        while received < len(data) and server.lifeline.reader.unsent() == unsent:
            received += len(client.recv(8192))
            gevent.sleep(0.001)
        now += 6
        server.lifeline.check_idle(now)
        gevent.sleep(0)
        assert not waiting.ready(), (received, now)
    assert now > 10
    until(lambda: server.lifeline.reader.unsent() == 0)
    server.lifeline.check_idle(now)
    server.lifeline.check_idle(now + 11)
    with gevent.Timeout(10), pytest.raises(Expired):
        waiting.get()


def test_a_peer_that_takes_nothing_is_idle(pair: Pair, swept: Callable[..., None]) -> None:
    server, _client = pair
    swept(server)
    server.idle_timeout = 0.1
    with gevent.Timeout(10), pytest.raises(Expired):
        server.sendall(BIG * 3)
