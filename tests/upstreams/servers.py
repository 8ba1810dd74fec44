"""Servers that behave in stated ways, upstreams made of them, and clients."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gevent
from gevent.server import StreamServer

from muxwsgi import Connection
from muxwsgi.dial.errors import DialError
from muxwsgi.dial.resolve import Resolver
from muxwsgi.settings.upstream import parse_upstream
from muxwsgi.upstreams.upstream import Session, Upstream
from muxwsgi.upstreams.upstreams import Upstreams
from tests.pairs import tcp_pair

__all__ = ["Clock", "Named", "made", "refusing_port", "said", "session_of", "upstream_of"]


class Clock:
    """A clock that a test turns."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Named:
    """A server that says its name. `stop` refuses from then on; `start` listens on the same port again. `reply`: what it answers to each
    block that it receives; None: nothing. `accepted` counts its connections."""

    def __init__(self, name: str, reply: bytes | None = None, greets: bool = True) -> None:
        self.name = name
        self.reply = reply
        self.greets = greets
        self.accepted = 0
        self.received = b""
        self.port = 0
        self.start()

    def start(self) -> None:
        self._server = StreamServer(("127.0.0.1", self.port), self._serve)
        self._server.start()
        self.port = self._server.server_port

    def _serve(self, sock: Any, _: object) -> None:
        self.accepted += 1
        with sock:
            try:
                if self.greets:
                    sock.sendall(self.name.encode())
                while data := sock.recv(4096):
                    self.received += data
                    if self.reply is not None:
                        sock.sendall(self.reply)
            except OSError:
                pass  # the client has gone

    def stop(self) -> None:
        self._server.stop()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def __enter__(self) -> "Named":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


@contextmanager
def refusing_port() -> Iterator[int]:
    """A port that refuses: it is bound, and nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]


@contextmanager
def made(upstreams: Upstreams) -> Iterator[Upstreams]:
    """Watched meanwhile."""
    upstreams.start()
    try:
        yield upstreams
    finally:
        upstreams.stop()


@contextmanager
def upstream_of(
    *servers: Any, resolver: Resolver | None = None, clock: Any = None, before: Upstreams | None = None, **table: Any
) -> Iterator[Upstream]:
    """The upstream `shop` with these servers (addresses, tables or `Named`), watched meanwhile."""
    listed = [each.address if isinstance(each, Named) else each for each in servers]
    settings = parse_upstream("shop", {"server": listed, **table}, "upstream.shop")
    more = {} if clock is None else {"clock": clock}
    with made(Upstreams([settings], before, resolver, **more)) as upstreams:
        yield upstreams.named("shop")


@contextmanager
def session_of(upstream: Upstream, client: Connection) -> Iterator[Session]:
    """A session, which ends with the block."""
    session = upstream.open(client)
    try:
        yield session
    finally:
        session.end()
        assert session.connection is not None
        session.connection.finish()


def said(upstream: Upstream, client: str = "127.0.0.1") -> str:
    """The name that the server of a new session says; the error if there is none."""
    ours, theirs = tcp_pair()
    ours.client = (client, 4711)
    try:
        with gevent.Timeout(10), session_of(upstream, ours) as session:
            connection: Connection | None = session.connection
            assert connection is not None
            return connection.recv(4096).decode()
    except DialError as error:
        return f"{error.phase}: {error.reason}"
    finally:
        ours.finish()
        theirs.finish()
