"""Connections are spread evenly over the workers of the same sockets, and no worker waits for one that does not accept."""

import collections
import contextlib
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import gevent
import pytest
from gevent.event import Event

from muxwsgi.server.gate import AHEAD, PAUSES, Gate
from muxwsgi.server.page import Entry, SharedPage
from muxwsgi.wire.acceptor import Serve
from muxwsgi.wire.connection import Connection
from muxwsgi.wire.listener import Listener
from muxwsgi.wire.plain_socket import PlainSocket
from muxwsgi.wire.room import NO_LIMIT, Room
from tests.server.test_workers import workers_of
from tests.system.server_process import ServerProcess
from tests.waiting import until

REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture
def page() -> Iterator[SharedPage]:
    page = SharedPage(entries=8)
    yield page


def test_a_worker_stands_back_if_it_has_two_more_than_another_one(page: SharedPage) -> None:
    own, other = page.take(0, 1), page.take(1, 1)
    gate = Gate(page, own)
    gate.open()
    gate.note(100, False)
    assert own.accepts and gate.allowed() == NO_LIMIT, "the other one is not ready"
    other.accepts = True
    other.connections = 100 - AHEAD + 1
    assert gate.allowed() == 1
    other.connections = 100 - AHEAD
    assert gate.allowed() == 0
    other.accepts = False  # it drains, or has no room
    assert gate.allowed() == NO_LIMIT
    other.accepts = True
    third = page.take(2, 1)
    third.accepts, third.connections = True, 98
    other.connections = 99
    assert gate.allowed() == 0
    page.retire(third)
    assert gate.allowed() == 1
    page.retire(other)
    assert gate.allowed() == NO_LIMIT


def test_a_worker_tells_others_how_many_it_has_and_whether_it_accepts(page: SharedPage) -> None:
    own = page.take(0, 1)
    gate = Gate(page, own)

    def told() -> tuple[int, int, bool]:
        return own.connections, own.accepted, own.accepts

    assert told() == (0, 0, False)
    gate.open()
    gate.note(1, False)
    gate.note(2, True)
    assert told() == (2, 2, False)
    gate.note(1, False)
    assert told() == (1, 2, True)
    gate.note(2, True)
    gate.close()
    gate.note(1, False)
    assert told() == (1, 3, False)
    gate.open()
    gate.forsake()
    gate.note(0, False)
    assert told() == (1, 3, True), "a forked child writes nothing"


def test_a_worker_that_accepts_nothing_does_not_count_until_it_accepts_again(page: SharedPage) -> None:
    own, other, third = (page.take(number, 1) for number in range(3))
    gate = Gate(page, own)
    gate.note(10, False)
    other.accepts, other.connections = True, 3
    third.accepts, third.connections = True, 4
    assert [gate.allowed() for _ in range(PAUSES)] == [0] * PAUSES
    assert gate.allowed() == 1
    assert gate.allowed() == 0, "it waits for the third one"
    other.accepted += 1
    assert [gate.allowed() for _ in range(PAUSES)] == [0] * PAUSES
    assert gate.allowed() == 1
    assert [gate.allowed() for _ in range(PAUSES + 1)] == [0] * PAUSES + [1]
    assert gate.allowed() == NO_LIMIT, "nobody else accepts"


class Asked(Gate):
    """Notes that it was asked."""

    asked = False

    def allowed(self) -> int:
        Asked.asked = True
        return super().allowed()


class Worker:
    """A listener with a gate, on a socket that others have too. All of them are in one event loop, so no scheduler decides who is first."""

    def __init__(self, page: SharedPage, listening: socket.socket, limit: int | None = None) -> None:
        self.entry: Entry = page.take(0, 1)
        self.gate = Asked(page, self.entry)
        self.served = 0
        self._leave = Event()
        self._listener = Listener(listening.dup(), self._serving(), room=Room(limit, self.gate))
        self._listener.start()
        self.gate.open()

    def _serving(self) -> Serve:
        def serve(connection: Connection) -> None:
            self.served += 1
            if connection.recv():
                connection.sendall(b"served")
                self._leave.wait()

        return serve

    def block(self) -> None:
        """Accept nothing, and say nothing about it."""
        self._listener.stop_accepting()

    def drain(self) -> None:
        self.gate.close()
        until(self._listener.drain)

    def close(self) -> None:
        self._leave.set()
        self._listener.close()


@contextlib.contextmanager
def working(page: SharedPage, number: int, *, limit: int | None = None, reuse: bool = False) -> Iterator[tuple[list[Worker], socket.socket]]:
    with PlainSocket(socket.AF_INET, socket.SOCK_STREAM) as listening:
        if reuse:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listening.bind(("127.0.0.1", 0))
        listening.listen(256)
        workers = [Worker(page, listening, limit) for _ in range(number)]
        try:
            yield workers, listening
        finally:
            for worker in workers:
                worker.close()


@contextlib.contextmanager
def clients(listening: socket.socket, number: int) -> Iterator[list[socket.socket]]:
    """Clients that are connected and have sent something, before the event loop turns."""
    with contextlib.ExitStack() as stack:
        connected = []
        for _ in range(number):
            client = stack.enter_context(PlainSocket(socket.AF_INET, socket.SOCK_STREAM))
            client.connect(listening.getsockname())
            client.sendall(b"x")
            connected.append(client)
        yield connected


@pytest.mark.parametrize("number", [2, 8])
def test_a_crowd_is_spread_evenly(page: SharedPage, number: int) -> None:
    with working(page, number) as (workers, listening), clients(listening, 64):
        until(lambda: sum(worker.served for worker in workers) == 64)
        assert max(worker.served for worker in workers) <= 64 // number + AHEAD - 1
        assert [worker.entry.connections for worker in workers] == [worker.served for worker in workers]


@pytest.mark.parametrize("why", ["blocked", "full", "drained"])
def test_a_worker_that_accepts_nothing_holds_up_nobody(page: SharedPage, why: str) -> None:
    with working(page, 2) as (workers, listening):
        blocked, other = workers
        if why == "blocked":
            blocked.block()
        elif why == "drained":
            blocked.drain()
        else:
            blocked.block()
            blocked.gate.note(0, True)
        with clients(listening, 64):
            until(lambda: other.served == 64)
        assert blocked.served == 0


def test_a_worker_at_its_limit_leaves_the_rest_to_the_others(page: SharedPage) -> None:
    with working(page, 2, limit=16) as (workers, listening), clients(listening, 40):
        until(lambda: sum(worker.served for worker in workers) == 32)
        gevent.sleep(0.05)
        assert [worker.served for worker in workers] == [16, 16] and not any(worker.entry.accepts for worker in workers)
        workers[0]._leave.set()
        until(lambda: sum(worker.served for worker in workers) == 40)
        until(lambda: workers[0].entry.accepts)


def test_a_drain_takes_the_backlog_also_from_a_worker_that_stands_back(page: SharedPage) -> None:
    with working(page, 2) as (workers, listening):
        first, blocked = workers
        blocked.block()
        first.gate.note(1000, False)
        with clients(listening, 64):
            gevent.sleep(0)
            assert first.served < 64
            first.drain()
            until(lambda: first.served == 64)


def test_a_socket_of_ones_own_has_no_gate(page: SharedPage) -> None:
    """With SO_REUSEPORT the kernel gives each connection to one process, and no other one can accept it."""
    with working(page, 2, reuse=True) as (workers, listening):
        workers[1].block()
        workers[0].gate.note(1000, False)
        Asked.asked = False
        with clients(listening, 8):
            until(lambda: workers[0].served == 8)
        assert not Asked.asked and workers[0].entry.connections == 8


# Real processes

APPLICATION = """
import os

def app(environ, start_response):
    body = str(os.getpid()).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""


@contextlib.contextmanager
def serving(folder: Path, workers: int, *options: str) -> Iterator[ServerProcess]:
    (folder / "gate_app.py").write_text(APPLICATION)
    with ServerProcess("gate_app:app", "-w", str(workers), "--pythonpath", str(folder), *options) as server:
        server.wait_for_log(" ready", patience=60)
        yield server
        assert server.stop() == 0 and server.tracebacks() == []


def spread(server: ServerProcess, number: int, *, at_once: bool) -> list[int]:
    """How many connections each worker has, of `number` that are all open."""
    with contextlib.ExitStack() as stack:
        connected = []
        for _ in range(number):
            client = stack.enter_context(socket.socket())
            client.settimeout(20)
            if at_once:
                client.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                client.connect(("127.0.0.1", server.port))
            if not at_once:
                client.sendall(REQUEST)
                time.sleep(0.002)
            connected.append(client)
        for client in connected:
            client.settimeout(20)
            if at_once:
                client.sendall(REQUEST)
        pids = [client.recv(4096).rpartition(b"\n")[2] for client in connected]
        return sorted(collections.Counter(pids).values())


@pytest.mark.parametrize("at_once", [True, False], ids=["at once", "one by one"])
@pytest.mark.parametrize(("workers", "tolerance"), [(2, 0.1), (8, 0.4)])
def test_connections_are_spread_evenly_over_processes(tmp_path: Path, workers: int, tolerance: float, at_once: bool) -> None:
    """A worker that gets no processor for some milliseconds takes fewer, so one of several distributions has to be even. Of 8 workers, many
    wait for a processor on a busy machine."""
    number = 64 * workers // 2
    even = number / workers
    with serving(tmp_path, workers) as server:
        seen = []
        for _ in range(20):
            seen.append(spread(server, number, at_once=at_once))
            if len(seen[-1]) == workers and all(abs(each - even) <= tolerance * even for each in seen[-1]):
                return
        raise AssertionError(f"{even:g} each would be even: {seen}")


def test_a_stopped_process_stops_nobody_from_accepting(tmp_path: Path) -> None:
    with serving(tmp_path, 2) as server:
        stopped = workers_of(server)[0]
        os.kill(stopped, signal.SIGSTOP)
        try:
            assert spread(server, 64, at_once=True) == [64]
            assert spread(server, 64, at_once=False) == [64]
        finally:
            os.kill(stopped, signal.SIGCONT)


def test_a_killed_process_stops_nobody_from_accepting(tmp_path: Path) -> None:
    with serving(tmp_path, 2) as server:
        os.kill(workers_of(server)[0], signal.SIGKILL)
        assert sum(spread(server, 64, at_once=True)) == 64
