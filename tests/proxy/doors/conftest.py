"""Servers that the doors lead to, and doors with real sockets in front of them."""

from collections.abc import Callable, Iterator
from typing import Any

import gevent
import gevent.server
import gevent.socket
import pytest

from muxwsgi import Server
from muxwsgi.proxy.context import Door
from muxwsgi.proxy.doors.access import Access
from muxwsgi.proxy.doors.door import Reply
from muxwsgi.proxy.doors.socks import SocksDoor
from muxwsgi.proxy.fault import Fault, Phase
from muxwsgi.wire.connection import Connection
from muxwsgi.wire.relay import relay
from tests.proxy.doors.netns import Lab


def page(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"the page of " + environ["HTTP_HOST"].encode() + b"\n"]


class Clock:
    """Seconds that the test counts."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Tunnels:
    """What a proxy does behind a door, as plainly as can be: connect and relay. It remembers who came."""

    def __init__(self) -> None:
        self.seen: list[tuple[Door, tuple[str, int], str | None]] = []

    def open(self, connection: Connection, door: Door, destination: tuple[str, int], reply: Reply) -> None:
        self.seen.append((door, destination, connection.identity))
        host, port = destination
        try:
            upstream = Connection.from_socket(gevent.socket.create_connection(("127.0.0.1" if host == "name.test" else host, port), 5))
        except OSError as error:
            reply(Fault(Phase.CONNECT, str(error)))
            return
        try:
            reply(None)
            relay(connection, upstream)
        finally:
            upstream.finish()


@pytest.fixture
def tunnels() -> Tunnels:
    return Tunnels()


@pytest.fixture
def web() -> Iterator[int]:
    """The port on loopback of a server that answers with a page."""
    server = Server(page, ["127.0.0.1:0"])
    server.start()
    yield int(server.addresses[0].rpartition(":")[2])
    server.stop(0)


@pytest.fixture
def door(tunnels: Tunnels) -> Iterator[Callable[..., tuple[str, int]]]:
    """Opens a SOCKS door, beside HTTP, on a port of its own; its address."""
    servers = []

    def make(access: Access | None = None, *, open: Any = None, **more: Any) -> tuple[str, int]:
        entrance = SocksDoor(access or Access(), open or tunnels.open, **more)
        server = Server(page, ["127.0.0.1:0"], entrance.routes())
        servers.append(server)
        server.start()
        return "127.0.0.1", int(server.addresses[0].rpartition(":")[2])

    yield make
    for server in servers:
        server.stop(0)


@pytest.fixture(autouse=True)
def patience() -> Iterator[None]:
    """No test waits for ever."""
    with gevent.Timeout(60):
        yield


@pytest.fixture
def lab() -> Iterator[Lab]:
    """A client, a router and a server on a network of their own."""
    with Lab() as lab:
        yield lab
