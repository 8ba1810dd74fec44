"""A minimum rate counts what the peer takes, and not what the kernel accepts. Real sockets, and a clock that the test moves: a reader of
1000 bytes a second takes as many, and then a second is over."""

import socket
from pathlib import Path

import gevent
import pytest

from muxwsgi.errors import Expired
from muxwsgi.wire import ending, transport
from muxwsgi.wire.connection import Connection
from muxwsgi.wire.lifeline import sweep
from tests.waiting import until
from tests.wire.conftest import Pair, PairMaker

SOCKETS = ["tcp", "unix", "tls", "tls-in-tls"]
RATE, GRACE = 500.0, 60.0

#: More than the kernel holds of a connection, on both sides.
BODY = bytes(13_000_000)

#: Bytes that are read slowly: by then the kernel has made room for more more than once.
SLOWLY = 2_000_000


class Clock:
    """The seconds that the server's end knows."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, server: Connection) -> None:
        self.now = 1000.0
        self._line = server.lifeline
        self._size, self._changed = 0, self.now
        monkeypatch.setattr(transport, "monotonic", lambda: self.now)

    def second(self) -> None:
        """A second goes by, and the sweeper comes. The kernels' own timers are given real time where they have been silent for long."""
        self.now += 1
        queue = self._line.queue
        if queue is not None:
            if queue.size() != self._size:
                self._size, self._changed = queue.size(), self.now
            elif (self.now - self._changed) % 100 == 99:
                for _ in range(40):
                    if queue.size() != self._size:
                        break
                    gevent.sleep(0.01)
        sweep([self._line], self.now)
        gevent.sleep(0)


@pytest.fixture(params=SOCKETS)
def pair(request: pytest.FixtureRequest, make_pair: PairMaker) -> Pair:
    pair = make_pair(request.param)
    pair[0].lifeline.min_rate, pair[0].lifeline.rate_grace = RATE, GRACE
    return pair


def blocked(server: Connection) -> "gevent.Greenlet[[], None]":
    """A write that the kernel has accepted as much of as it will."""
    writing = gevent.spawn(server.sendall, BODY)
    size = -1
    while server.lifeline.queue is None or server.lifeline.queue.size() != size:
        size = server.lifeline.queue.size() if server.lifeline.queue is not None else -1
        gevent.sleep(0.05)
    return writing


@pytest.mark.parametrize("rate", [1000, 5000, 20_000, 60_000, 150_000])
def test_a_reader_above_the_minimum_rate_is_never_cut(pair: Pair, monkeypatch: pytest.MonkeyPatch, rate: int) -> None:
    server, client = pair
    clock = Clock(monkeypatch, server)
    with gevent.Timeout(60):
        writing = blocked(server)
        received = 0
        while received < SLOWLY:
            want = rate
            while want:
                data = client.recv(want)
                want -= len(data)
                received += len(data)
            clock.second()
            assert not writing.ready(), f"cut after {received} bytes and {clock.now - 1000:g} s"
        while received < len(BODY):
            received += len(client.recv(1 << 16))
        writing.get()


@pytest.mark.parametrize("before", [0, 200_000])
def test_a_reader_that_stops_is_given_up_in_a_bounded_time(pair: Pair, monkeypatch: pytest.MonkeyPatch, before: int) -> None:
    server, client = pair
    clock = Clock(monkeypatch, server)
    with gevent.Timeout(60):
        writing = blocked(server)
        received = 0
        while received < before:
            received += len(client.recv(10_000))
            clock.second()
        # The client's kernel may still take something: the seconds of this test are short.
        queue = server.lifeline.queue
        assert queue is not None
        last, size = clock.now, queue.size()
        while not writing.ready():
            clock.second()
            if queue.size() != size:
                last, size = clock.now, queue.size()
        with pytest.raises(Expired):
            writing.get()
    assert GRACE <= clock.now - last <= GRACE + queue.step / RATE + 2
    server.finish()
    with pytest.raises((ConnectionResetError, BrokenPipeError)):
        client.sendall(b"there is nobody any more" * 10_000)
        while client.recv(1 << 16):
            pass


def test_what_a_blocked_write_moves_is_not_idleness(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    server, client = pair
    server.lifeline.min_rate = 0.0
    server.idle_timeout = 400.0
    clock = Clock(monkeypatch, server)
    with gevent.Timeout(60):
        writing = blocked(server)
        for _ in range(2000):
            received = 0
            while received < 1000:
                received += len(client.recv(1000 - received))
            clock.second()
            assert not writing.ready(), f"cut after {clock.now - 1000:g} s"
        while not writing.ready():
            clock.second()
        with pytest.raises(Expired):
            writing.get()


@pytest.mark.parametrize("way", ["tcp", "tls"])
def test_the_kernel_gives_up_what_is_left_behind_a_close_where_the_peer_reads_nothing(
    make_pair: PairMaker, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    monkeypatch.setattr(ending, "UNREAD_AT_MOST", 500)
    server, client = make_pair(way)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    with gevent.Timeout(30):
        server.sendall(bytes(800_000))
        assert server.bytes_unacknowledged > 100_000
        ours = f":{server.getsockname()[1]:04X} 0100007F:{client.getsockname()[1]:04X} "
        assert ours in Path("/proc/net/tcp").read_text()
        server.close()
        until(lambda: ours not in Path("/proc/net/tcp").read_text())
        with pytest.raises(ConnectionResetError):
            while client.recv(50_000):
                gevent.sleep(0.001)


def test_a_reader_gets_all_that_was_sent_before_a_close(make_pair: PairMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ending, "UNREAD_AT_MOST", 20_000)
    server, client = make_pair("tcp")
    server.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    with gevent.Timeout(60):
        server.sendall(bytes(800_000))
        server.close()
        gevent.sleep(1)
        received = 0
        while data := client.recv(50_000):
            received += len(data)
            gevent.sleep(0.01)
        assert received == 800_000
