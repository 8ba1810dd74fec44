"""Accepting: what an accepted connection knows, how many there are at once, and what closing does."""

import errno
import fcntl
import gc
import itertools
import logging
import os
import socket
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from time import monotonic
from typing import Any

import gevent
import gevent.local
import pytest
from gevent.event import Event
from gevent.lock import Semaphore

from muxwsgi.wire import acceptor as acceptor_module
from muxwsgi.wire import connection as connection_module
from muxwsgi.wire import listener as listener_module
from muxwsgi.wire.acceptor import Acceptor, Serve
from muxwsgi.wire.connection import Connection
from muxwsgi.wire.listener import Listener
from muxwsgi.wire.plain_socket import PlainSocket
from muxwsgi.wire.ready import give_turn
from muxwsgi.wire.room import Room
from muxwsgi.wire.syscalls import accept_by_python, accept_one
from tests.gate.test_build import EXPECTED
from tests.waiting import until

Listen = Callable[..., Any]


def listening_at(family: int, address: Any) -> socket.socket:
    sock = PlainSocket(family, socket.SOCK_STREAM)
    sock.bind(address)
    sock.listen(128)
    sock.setblocking(False)
    return sock


@pytest.fixture
def listen(monkeypatch: pytest.MonkeyPatch) -> Iterator[Listen]:
    """Starts a listener on a port of its own, which accepts by `kind`; the address."""
    listeners: list[Listener] = []

    def start(serve: Serve, room: Room | None = None, kind: type[Acceptor] = Acceptor) -> Any:
        listening = listening_at(socket.AF_INET, ("127.0.0.1", 0))
        monkeypatch.setattr(listener_module, "Acceptor", kind)
        listeners.append(Listener(listening, serve, room=room))
        listeners[-1].start()
        return listening.getsockname()

    yield start
    for listener in listeners:
        listener.close()


def noting(served: list[Connection], leave: Event | None = None) -> Serve:
    """Takes connections down in `served`, waits for `leave`, and closes them."""

    def serve(connection: Connection) -> None:
        served.append(connection)
        if leave is not None:
            leave.wait()
        connection.close()

    return serve


@pytest.mark.parametrize("accept", [lambda sock: accept_one(sock, int(sock.family)), accept_by_python], ids=["accept_one", "by Python"])
@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6, socket.AF_UNIX])
def test_accepting_gives_a_descriptor_that_does_not_block_and_the_address_of_the_peer(accept: Any, family: int, tmp_path: Path) -> None:
    address: Any = {socket.AF_INET: ("127.0.0.1", 0), socket.AF_INET6: ("::1", 0), socket.AF_UNIX: str(tmp_path / "s")}[family]  # type: ignore[index]
    with listening_at(family, address) as listening, PlainSocket(family, socket.SOCK_STREAM) as client:
        assert accept(listening) is None
        client.connect(listening.getsockname())
        fd, peer = accept(listening)
        try:
            assert peer == client.getsockname()
            assert not os.get_blocking(fd)
            assert fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
        finally:
            os.close(fd)


def test_accepting_on_a_closed_socket_is_an_error() -> None:
    listening = listening_at(socket.AF_INET, ("127.0.0.1", 0))
    listening.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        accept_one(listening, int(socket.AF_INET))


def test_a_connection_knows_both_ends_and_sends_without_delay(listen: Listen) -> None:
    seen: list[Any] = []

    def serve(connection: Connection) -> None:
        with connection:
            delay_off = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            seen.append((connection.client, connection.server, connection.getpeername(), bool(delay_off)))

    address = listen(serve)
    with gevent.socket.create_connection(address) as client:
        assert client.recv(1) == b""
        assert seen == [(client.getsockname(), address, client.getsockname(), True)]


def test_listeners_that_share_a_room_serve_no_more_than_its_limit(listen: Listen) -> None:
    served: list[Connection] = []
    leave = Event()

    def serve(connection: Connection) -> None:
        served.append(connection)
        connection.recv()
        connection.close()
        leave.wait()

    room = Room(2)
    first, second = listen(serve, room), listen(serve, room)
    clients = [gevent.socket.create_connection(address) for address in (first, second, first, second)]
    until(lambda: len(served) == 2)
    gevent.sleep(0.1)
    assert (len(served), room.taken, room.is_full()) == (2, 2, True)
    for client in clients:
        client.close()
    gevent.sleep(0.05)
    assert len(served) == 2, "a place is free when the handler returns, not when the client has gone"
    leave.set()
    until(lambda: len(served) == 4 and room.taken == 0)


def test_a_crowd_does_not_wait_for_a_turn_each(listen: Listen) -> None:
    served: list[Connection] = []
    address = listen(noting(served))
    clients = []
    for _ in range(50):
        client = PlainSocket(socket.AF_INET, socket.SOCK_STREAM)
        client.connect(address)
        clients.append(client)
    turns = 0
    while len(served) < len(clients):
        give_turn()
        turns += 1
        assert turns <= 20
    for client in clients:
        client.close()


def test_who_comes_one_by_one_and_crowds_in_turns_are_all_served(listen: Listen) -> None:
    def serve(connection: Connection) -> None:
        with connection:
            while data := connection.recv():
                connection.sendall(data)

    room = Room(None)
    address = listen(serve, room)
    for crowd in (1, 1, 1, 40, 1, 3, 40, 1):
        clients = [gevent.socket.create_connection(address, 5) for _ in range(crowd)]
        for number, client in enumerate(clients):
            client.sendall(b"%d" % number)
        assert [client.recv(10) for client in clients] == [b"%d" % number for number in range(crowd)]
        assert room.taken == crowd
        for client in clients:
            client.shutdown(socket.SHUT_WR)
            assert client.recv(1) == b""
            client.close()
        until(lambda: room.taken == 0)


def test_a_room_that_empties_after_its_listener_was_closed_wakes_nobody() -> None:
    served: list[Connection] = []
    leave = Event()
    listening = listening_at(socket.AF_INET, ("127.0.0.1", 0))
    address = listening.getsockname()
    room = Room(1)
    listener = Listener(listening, noting(served, leave), room=room)
    listener.start()
    with gevent.socket.create_connection(address), gevent.socket.create_connection(address):
        until(lambda: len(served) == 1)
        gevent.sleep(0.05)
        listener.close()
        leave.set()
        until(lambda: room.taken == 0)
        gevent.sleep(0.05)
    assert len(served) == 1


def test_one_port_does_not_lock_out_another_where_there_is_little_room(listen: Listen) -> None:
    order: list[str] = []

    def serve(name: str) -> Serve:
        def serve_one(connection: Connection) -> None:
            order.append(name)
            gevent.sleep(0.001)
            connection.close()

        return serve_one

    room = Room(1)
    clients = []
    for address in (listen(serve("A"), room), listen(serve("B"), room)):
        for _ in range(20):
            client = PlainSocket(socket.AF_INET, socket.SOCK_STREAM)
            client.connect(address)
            clients.append(client)
    until(lambda: len(order) == 40)
    assert order[3:37].count("A") == 17, "they take turns"
    for client in clients:
        client.close()


def test_a_place_is_given_back_by_a_greenlet_that_is_killed(listen: Listen) -> None:
    greenlets: list[Any] = []

    def serve(connection: Connection) -> None:
        greenlets.append(gevent.getcurrent())
        with connection:
            connection.recv()

    room = Room(1)
    address = listen(serve, room)
    with gevent.socket.create_connection(address, 5) as first, gevent.socket.create_connection(address, 5) as second:
        until(lambda: len(greenlets) == 1)
        gevent.kill(greenlets[0])
        assert first.recv(1) == b""
        until(lambda: len(greenlets) == 2 and room.taken == 1)
        gevent.killall(greenlets)
        assert second.recv(1) == b""
    until(lambda: room.taken == 0)
    assert all(greenlet.dead for greenlet in greenlets)


def test_what_a_handler_raises_ends_its_connection_and_nothing_else(listen: Listen, capsys: pytest.CaptureFixture[str]) -> None:
    def serve(connection: Connection) -> None:
        with connection:
            raise LookupError(f"number {connection.recv(1)!r}")

    room = Room(None)
    address = listen(serve, room)
    for number in (b"1", b"2"):
        with gevent.socket.create_connection(address, 5) as client:
            client.sendall(number)
            assert client.recv(1) == b""
    until(lambda: room.taken == 0)
    said = capsys.readouterr().err
    assert [said.count(f"LookupError: number b'{number}'") for number in (1, 2)] == [1, 1]


def test_each_connection_is_served_in_a_greenlet_and_with_locals_of_its_own(listen: Listen) -> None:
    ours, seen = gevent.local.local(), []
    variable: ContextVar[int] = ContextVar("variable")
    leave = Event()

    def serve(connection: Connection) -> None:
        seen.append((gevent.getcurrent(), hasattr(ours, "number"), variable.get(None)))
        ours.number = variable.set(len(seen))
        leave.wait()
        connection.close()

    address = listen(serve)
    with gevent.socket.create_connection(address, 5), gevent.socket.create_connection(address, 5):
        until(lambda: len(seen) == 2)
        leave.set()
        until(lambda: all(greenlet.dead for greenlet, _, _ in seen))
    assert seen[0][0] is not seen[1][0]
    assert [each[1:] for each in seen] == [(False, None)] * 2


def failing_once(error: Exception) -> type[Acceptor]:
    """An `Acceptor` whose first accept fails."""
    failures = [error]

    class FailsOnce(Acceptor):
        def accept(self) -> Any:
            if failures:
                raise failures.pop()
            return super().accept()

    return FailsOnce


def test_a_handler_may_close_the_listener_that_is_in_the_middle_of_a_crowd(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    served: list[Connection] = []

    def serve(connection: Connection) -> None:
        listener.close()
        served.append(connection)
        connection.close()

    listening = listening_at(socket.AF_INET, ("127.0.0.1", 0))
    # A failure first, so that more than one is accepted in the next turn.
    monkeypatch.setattr(listener_module, "Acceptor", failing_once(OSError(errno.EMFILE, "Too many open files")))
    listener = Listener(listening, serve)
    listener.start()
    address = listening.getsockname()
    clients = []
    for _ in range(3):
        client = PlainSocket(socket.AF_INET, socket.SOCK_STREAM)
        client.connect(address)
        clients.append(client)
    until(lambda: len(served) == 1)
    gevent.sleep(0.05)
    for client in clients:
        client.close()
    assert len(served) == 1
    assert not capsys.readouterr().err


class NoLock:
    """In the place of a handler's lock: Python before 3.13 acquires and releases it, later ones use `with`."""

    def acquire(self) -> None: ...
    def release(self) -> None: ...
    def __enter__(self) -> None: ...
    def __exit__(self, *error: object) -> None: ...


@pytest.mark.parametrize("error", [OSError(errno.EMFILE, "Too many open files"), MemoryError()])
def test_accepting_goes_on_after_a_failure_that_can_be_logged_only_later(
    listen: Listen, error: Exception
) -> None:
    busy = Semaphore(1)

    class WaitingHandler(logging.Handler):
        """As one that writes to a socket: another greenlet is in the middle of it."""

        def createLock(self) -> None:
            self.lock: Any = NoLock()

        def emit(self, record: logging.LogRecord) -> None:
            with busy:
                logged.append(record.getMessage())

    logged: list[str] = []
    handler = WaitingHandler()
    logger = logging.getLogger("muxwsgi.error")
    logger.addHandler(handler)
    try:
        busy.acquire()
        gevent.spawn_later(0.3, busy.release)
        address = listen(lambda connection: connection.close(), kind=failing_once(error))
        with gevent.socket.create_connection(address, 5) as client:
            assert client.recv(1) == b""
        until(lambda: len(logged) == 2)
        assert logged[0].startswith("cannot accept connections for now: ")
        assert logged[1] == "accepting again"
    finally:
        logger.removeHandler(handler)


def once_without_memory(call: Callable[..., Any]) -> Callable[..., Any]:
    """As `call`, but there is no memory the first time."""
    failures: list[Exception] = [MemoryError()]

    def fail_once(*args: Any, **kwargs: Any) -> Any:
        if failures:
            raise failures.pop()
        return call(*args, **kwargs)

    return fail_once


class ConnectionFailingOnce(Connection):
    """There is no memory for the first one."""

    failures: list[Exception]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if self.failures:
            raise self.failures.pop()
        super().__init__(*args, **kwargs)


#: In the compiled build a connection makes its transport without a name that a test could replace.
TRANSPORT = pytest.param("transport", marks=pytest.mark.skipif(EXPECTED == "compiled", reason="SocketTransport is a C name there"))


@pytest.mark.parametrize("step", [TRANSPORT, "connection", "greenlet"])
def test_a_connection_that_there_is_no_memory_to_serve_is_closed_at_once(monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    if step == "transport":
        monkeypatch.setattr(connection_module, "SocketTransport", once_without_memory(connection_module.SocketTransport))
    elif step == "connection":
        ConnectionFailingOnce.failures = [MemoryError()]
        monkeypatch.setattr(acceptor_module, "Connection", ConnectionFailingOnce)
    else:
        monkeypatch.setattr(acceptor_module, "ConnectionGreenlet", once_without_memory(acceptor_module.ConnectionGreenlet))
    room = Room(1)
    listening = listening_at(socket.AF_INET, ("127.0.0.1", 0))
    address = listening.getsockname()
    listener = Listener(listening, lambda connection: connection.close(), room=room, server=address)
    listener.start()
    gc.disable()  # which would close it some time
    try:
        for _ in range(2):
            with gevent.socket.create_connection(address, 5) as client:
                assert client.recv(1) == b""
        until(lambda: room.taken == 0)
    finally:
        gc.enable()
        listener.close()


def test_a_pause_ends_although_there_was_no_memory_to_begin_it(listen: Listen, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gevent, "spawn", once_without_memory(gevent.spawn))
    address = listen(lambda connection: connection.close(), kind=failing_once(MemoryError()))
    with gevent.socket.create_connection(address, 5) as client:
        assert client.recv(1) == b""


def test_each_pause_lasts(listen: Listen) -> None:
    tried: list[float] = []

    class Failing(Acceptor):
        def accept(self) -> Any:
            tried.append(monotonic())
            raise OSError(errno.EMFILE, "Too many open files")

    with gevent.socket.create_connection(listen(lambda connection: connection.close(), kind=Failing), 5):
        until(lambda: len(tried) == 4)
    assert min(after - before for before, after in itertools.pairwise(tried)) > Listener.min_delay * 0.8
