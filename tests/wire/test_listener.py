"""Accepting: what an accepted connection knows, how many there are at once, and what closing does."""

import fcntl
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest
from gevent.event import Event

from muxwsgi.wire.connection import Connection
from muxwsgi.wire.listener import ACCEPTED_PER_TURN, Listener, Room, Serve
from muxwsgi.wire.syscalls import accept_by_python, accept_one
from muxwsgi.wire.transport import PlainSocket

Listen = Callable[..., Any]


def listening_at(family: int, address: Any) -> socket.socket:
    sock = PlainSocket(family, socket.SOCK_STREAM)
    sock.bind(address)
    sock.listen(128)
    sock.setblocking(False)
    return sock


@pytest.fixture
def listen() -> Iterator[Listen]:
    """Starts a listener on a port of its own; the address."""
    listeners: list[Listener] = []

    def start(serve: Serve, room: Room | None = None) -> Any:
        listening = listening_at(socket.AF_INET, ("127.0.0.1", 0))
        listeners.append(Listener(listening, serve, room))
        listeners[-1].start()
        return listening.getsockname()

    yield start
    for listener in listeners:
        listener.close()


def wait_for(condition: Callable[[], bool]) -> None:
    with gevent.Timeout(10):
        while not condition():
            gevent.sleep(0.01)


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
    wait_for(lambda: len(served) == 2)
    gevent.sleep(0.1)
    assert (len(served), room.taken, room.full) == (2, 2, True)
    for client in clients:
        client.close()
    gevent.sleep(0.05)
    assert len(served) == 2, "a place is free when the handler returns, not when the client has gone"
    leave.set()
    wait_for(lambda: len(served) == 4 and room.taken == 0)


def test_a_crowd_is_accepted_although_a_turn_takes_only_so_many(listen: Listen) -> None:
    served: list[Connection] = []

    def serve(connection: Connection) -> None:
        served.append(connection)
        connection.close()

    address = listen(serve)
    clients = []
    for _ in range(3 * ACCEPTED_PER_TURN):
        client = PlainSocket(socket.AF_INET, socket.SOCK_STREAM)
        client.connect(address)
        clients.append(client)
    wait_for(lambda: len(served) == len(clients))
    for client in clients:
        client.close()


def test_a_room_that_empties_after_its_listener_was_closed_wakes_nobody() -> None:
    served: list[Connection] = []
    leave = Event()

    def serve(connection: Connection) -> None:
        served.append(connection)
        leave.wait()
        connection.close()

    listening = listening_at(socket.AF_INET, ("127.0.0.1", 0))
    address = listening.getsockname()
    room = Room(1)
    listener = Listener(listening, serve, room)
    listener.start()
    with gevent.socket.create_connection(address), gevent.socket.create_connection(address):
        wait_for(lambda: len(served) == 1)
        gevent.sleep(0.05)
        listener.close()
        leave.set()
        wait_for(lambda: room.taken == 0)
        gevent.sleep(0.05)
    assert len(served) == 1
