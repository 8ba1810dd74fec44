"""`muxwsgi.Server` as a library, in this process."""

import logging
import socket
from collections.abc import Iterator
from typing import Any

import gevent
import pytest

import muxwsgi
from muxwsgi.errors import OperatorError
from muxwsgi.mux.matchers import prefix
from muxwsgi.settings import BindSettings, ServerSettings
from muxwsgi.wire.connection import Connection
from tests.http.conftest import hello


@muxwsgi.hijack(match=prefix(b"UPPER "))
def upper(connection: Connection) -> None:
    while data := connection.recv():
        connection.sendall(data.upper())


@muxwsgi.hijack(match=prefix(b"\x01FAIL"))
def failing(connection: Connection) -> None:
    raise FileNotFoundError("a file of its own")


@muxwsgi.hijack(match=prefix(b"\x01ONE"), limit=1)
def one_at_a_time(connection: Connection) -> None:
    connection.sendall(connection.recv())
    connection.recv()


@pytest.fixture
def server() -> Iterator[muxwsgi.Server]:
    server = muxwsgi.Server(hello, binds=["127.0.0.1:0"], hijackers=[upper, failing, one_at_a_time])
    server.start()
    yield server
    server.stop(graceful_timeout=0)


def connect(server: muxwsgi.Server) -> Connection:
    host, _, port = server.addresses[0].rpartition(":")
    sock = gevent.socket.create_connection((host, int(port)), timeout=10)
    return Connection.from_socket(sock)


def is_closed(connection: Connection) -> bool:
    """Whether the server ends it: with a reset, where bytes were left unread."""
    try:
        return connection.recv() == b""
    except ConnectionResetError:
        return True


def test_http_and_hijackers_share_a_port(server: muxwsgi.Server) -> None:
    http, other = connect(server), connect(server)
    http.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    other.sendall(b"UPPER case")
    assert http.recv().endswith(b"hello")
    assert other.recv() == b"UPPER CASE"
    assert server.connections == 2
    http.close()
    other.close()


def test_an_exception_in_a_hijacker_closes_that_connection_alone_and_is_logged_with_its_way(
    server: muxwsgi.Server, caplog: pytest.LogCaptureFixture
) -> None:
    logging.getLogger("muxwsgi").propagate = True
    other, failed = connect(server), connect(server)
    other.sendall(b"UPPER a")
    assert other.recv() == b"UPPER A"
    failed.sendall(b"\x01FAIL")
    assert is_closed(failed)
    assert "FileNotFoundError: a file of its own" in caplog.text
    assert "route 'failing' said YES to 5 bytes" in caplog.text
    other.sendall(b"b")
    assert other.recv() == b"B"
    other.close()
    failed.close()


def test_a_limit_keeps_one_protocol_from_starving_the_others(server: muxwsgi.Server) -> None:
    first, second, other = connect(server), connect(server), connect(server)
    first.sendall(b"\x01ONE")
    assert first.recv() == b"\x01ONE"
    second.sendall(b"\x01ONE")
    assert is_closed(second)
    other.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert other.recv().endswith(b"hello")
    for connection in (first, second, other):
        connection.close()


def test_what_a_peer_does_wrong_is_counted_and_not_logged_as_an_error(server: muxwsgi.Server, caplog: pytest.LogCaptureFixture) -> None:
    import struct

    connection = connect(server)
    connection.sendall(b"UPPER a")
    connection.recv()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
    gevent.sleep(0.05)
    assert server.peer_errors == 1
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_stop_closes_everything_and_frees_the_address(server: muxwsgi.Server) -> None:
    address = server.addresses[0]
    connection = connect(server)
    connection.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert connection.recv().endswith(b"hello")
    server.stop(graceful_timeout=5)
    assert connection.recv() == b""
    assert server.connections == 0
    again = muxwsgi.Server(hello, binds=[address])
    assert again.addresses == [address]
    again.close()
    connection.close()


def test_nothing_stays_open_when_a_later_bind_fails() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        host, port = taken.getsockname()
        free = BindSettings(host="127.0.0.1", port=0)
        with pytest.raises(OperatorError, match="in use"):
            muxwsgi.Server(hello, settings=ServerSettings(binds=(free, BindSettings(host=host, port=port))))


def test_a_callable_that_is_no_hijacker_is_an_error() -> None:
    def plain(connection: Any) -> None: ...

    with pytest.raises(OperatorError, match="not decorated"):
        muxwsgi.Server(hello, binds=["127.0.0.1:0"], hijackers=[plain])
    with pytest.raises(OperatorError, match="two are named 'upper'"):
        muxwsgi.Server(hello, binds=["127.0.0.1:0"], hijackers=[upper, upper])


def test_the_public_names_are_there() -> None:
    for name in muxwsgi.__all__:
        assert getattr(muxwsgi, name) is not None
    with pytest.raises(AttributeError):
        muxwsgi.nothing  # noqa: B018
