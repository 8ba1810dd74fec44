"""Dialogues with the HTTP engine: bytes in, bytes out, in memory or over a real socket."""

import logging
import re
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import gevent
import pytest

from muxwsgi.http.h1.h1 import HTTP1
from muxwsgi.settings import HTTPSettings
from muxwsgi.testing import connection_pair
from muxwsgi.wire.connection import Connection

Talk = Callable[..., bytes]


def hello(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"hello"]


def read_all(connection: Connection) -> bytes:
    parts = []
    try:
        while data := connection.recv():
            parts.append(data)
    except ConnectionResetError:
        pass
    return b"".join(parts)


@contextmanager
def client_of(
    app: Any, settings: HTTPSettings | None = None, pair: tuple[Connection, Connection] | None = None, **more: Any
) -> Iterator[Connection]:
    """The client's end of a connection that HTTP/1.1 serves, and closes when the engine returns. At the end of the block the client closes
    its end, and the engine is waited for. `pair` are the server's end and the client's, in memory by default."""
    server, client = pair or connection_pair()
    engine = HTTP1(app, settings or HTTPSettings(linger=0.05), **more)

    def serve() -> None:
        try:
            engine(server)
        except OSError:
            pass
        finally:
            server.finish()

    serving = gevent.spawn(serve)
    try:
        yield client
    finally:
        client.finish()
        serving.get(timeout=20)


@pytest.fixture
def talk() -> Talk:
    """Send byte strings to an application and return all that comes back until the engine closes, or the client's end is reached."""

    def run(app: Any, *sent: bytes, settings: HTTPSettings | None = None, end: bool = True, **more: Any) -> bytes:
        def send(client: Connection) -> None:
            try:
                for data in sent:
                    client.sendall(data)
                    gevent.sleep(0)
                if end:
                    client.shutdown(socket.SHUT_WR)
            except OSError:
                pass

        with gevent.Timeout(10), client_of(app, settings, **more) as client:
            sending = gevent.spawn(send, client)
            received = read_all(client)
            sending.join()
        return received

    return run


@pytest.fixture
def errors(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[], list[str]]]:
    """What the error log says, from warnings on."""
    logger = logging.getLogger("muxwsgi")
    propagate, logger.propagate = logger.propagate, True
    yield lambda: [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    logger.propagate = propagate


def statuses(answer: bytes) -> Sequence[int]:
    """The status codes of the responses in `answer`, when no body looks like a status line."""
    return [int(status) for status in re.findall(rb"HTTP/1\.1 ([0-9]{3}) ", answer)]
