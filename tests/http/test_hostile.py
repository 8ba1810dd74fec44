"""Clients that mean harm, over real sockets: what they do costs them their own connection, and nobody else anything."""

import socket
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import gevent.socket
import pytest

from muxwsgi.http.h1 import PIPELINED_PER_TURN
from muxwsgi.server import Server
from tests.http.conftest import Talk, hello, statuses

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.fixture
def serve() -> Iterator[Callable[[Any], Any]]:
    """Starts a server with an application; the address to connect to."""
    servers: list[Server] = []

    def start(app: Any) -> Any:
        server = Server(app, ["127.0.0.1:0"])
        server.start()
        servers.append(server)
        host, port = server.addresses[0].split(":")
        return host, int(port)

    yield start
    for server in servers:
        server.stop(graceful_timeout=0)


@pytest.fixture
def turns() -> Iterator[Callable[[], int]]:
    """How often the event loop went round so far: each time everybody who is ready has a turn."""
    count = 0

    def note() -> None:
        nonlocal count
        count += 1

    watcher = gevent.get_hub().loop.check()
    watcher.start(note)
    yield lambda: count
    watcher.stop()
    watcher.close()


def test_a_flood_of_pipelined_requests_leaves_others_their_turn(serve: Callable[[Any], Any], turns: Callable[[], int]) -> None:
    served: list[int] = []

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        served.append(turns())
        return hello(environ, start_response)

    requests = 20 * PIPELINED_PER_TURN
    with gevent.socket.create_connection(serve(app)) as client:
        client.sendall(GET * requests)
        client.shutdown(socket.SHUT_WR)
        while client.recv(1 << 16):
            pass
    assert len(served) == requests
    assert served[-1] - served[0] >= 18


def test_many_small_chunks_do_not_pay_for_a_large_trailer(talk: Talk) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        environ["wsgi.input"].read()
        return hello(environ, start_response)

    head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunks = [b"1\r\nx\r\n" * 5000] * 2
    assert statuses(talk(app, head, *chunks, b"0\r\n", b"X: " + b"y" * 8000 + b"\r\n\r\n")) == [200]
    assert statuses(talk(app, head, *chunks, b"0\r\n", b"X: " + b"y" * 300_000 + b"\r\n\r\n")) == [400]
