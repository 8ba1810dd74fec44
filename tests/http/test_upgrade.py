"""Leaving HTTP: the application takes the connection, with every byte that came behind the request."""

import socket
from collections.abc import Callable
from typing import Any

import gevent
import pytest

from muxwsgi.http.h1.h1 import HTTP1
from muxwsgi.settings import HTTPSettings
from muxwsgi.testing import connection_pair
from muxwsgi.wire.connection import Connection
from tests.http.conftest import Talk, hello, statuses

UPGRADE = b"GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: chat\r\n\r\n"
CONNECT = b"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org:443\r\n\r\n"


def shouting(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    connection: Connection = environ["muxwsgi.hijack"]()
    connection.sendall(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: chat\r\nConnection: upgrade\r\n\r\n")
    while data := connection.recv():
        connection.sendall(data.upper())
    return [b"never sent"]


def test_the_taken_connection_has_the_bytes_that_came_with_the_request(talk: Talk) -> None:
    answer = talk(shouting, UPGRADE + b"early", b" late")
    assert answer.endswith(b"\r\n\r\nEARLY LATE")
    assert b"never sent" not in answer


def test_connect_has_an_empty_path_and_its_authority_as_target(talk: Talk) -> None:
    seen: dict[str, Any] = {}

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        seen.update(environ)
        connection = environ["muxwsgi.hijack"]()
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n" + connection.recv())
        return []

    assert talk(app, CONNECT + b"\x16\x03").endswith(b"\r\n\r\n\x16\x03")
    assert (seen["PATH_INFO"], seen["REQUEST_URI"]) == ("", "example.org:443")


def test_a_request_without_takeover_is_answered_as_any_other(talk: Talk) -> None:
    assert statuses(talk(hello, UPGRADE + UPGRADE)) == [200, 200]
    assert statuses(talk(hello, CONNECT)) == [200]


def test_the_connection_cannot_be_taken_after_the_head(talk: Talk, errors: Any) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [])(b"begun")
        environ["muxwsgi.hijack"]()
        return []

    assert statuses(talk(app, UPGRADE)) == [200]
    assert len(errors()) == 1


def test_the_connection_cannot_be_taken_before_the_body_is_read(talk: Talk, errors: Any) -> None:
    request = b"POST / HTTP/1.1\r\nHost: a\r\nUpgrade: x\r\nConnection: upgrade\r\nContent-Length: 4\r\n\r\nbodyrest"

    def reads_first(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        assert environ["wsgi.input"].read() == b"body"
        connection = environ["muxwsgi.hijack"]()
        connection.sendall(b"got " + connection.recv())
        return []

    assert statuses(talk(shouting, request)) == [400], "and what follows the body is no request"
    assert errors() == [], "the client has sent the body, so it is not the application's error"
    assert talk(reads_first, request) == b"got rest"


def test_an_exchange_that_is_over_has_nothing_to_take(talk: Talk, errors: Any) -> None:
    kept: list[Any] = []

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        for earlier in kept:
            with pytest.raises(RuntimeError, match="over"):
                earlier()
        kept.append(environ["muxwsgi.hijack"])
        return hello(environ, start_response)

    assert statuses(talk(app, UPGRADE + UPGRADE)) == [200, 200]
    assert errors() == []


def test_an_exception_after_the_takeover_is_logged_and_closes(talk: Talk, errors: Any) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        environ["muxwsgi.hijack"]().sendall(b"taken")
        raise LookupError("in the new protocol")

    assert talk(app, UPGRADE) == b"taken"
    assert len(errors()) == 1


def test_an_oserror_that_is_not_the_peers_is_logged_after_the_takeover_too(talk: Talk, errors: Any) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        connection = environ["muxwsgi.hijack"]()
        if environ["PATH_INFO"] == "/chat":
            raise FileNotFoundError("the application's own")
        while True:
            connection.sendall(b"x" * 10_000)

    talk(app, UPGRADE)
    assert len(errors()) == 1


def test_nothing_of_http_is_sent_after_the_takeover(talk: Talk) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        write = start_response("200 OK", [])
        environ["muxwsgi.hijack"]().sendall(b"taken")
        write(b"lost")
        start_response("200 OK", [], (None, None, None))
        return [b"lost"]

    def starts_late(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        environ["muxwsgi.hijack"]().sendall(b"taken")
        start_response("200 OK", [])(b"lost")  # as flask-sock does when the WebSocket is closed
        return [b"lost"]

    assert talk(app, UPGRADE) == b"taken"
    assert talk(starts_late, UPGRADE) == b"taken"


def test_who_polls_the_descriptor_of_a_taken_socket_is_told_of_bytes_that_were_read_ahead(talk: Talk) -> None:
    import gevent.select

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        sock = environ["werkzeug.socket"]
        sock.sendall(b"taken ")
        readable, _, _ = gevent.select.select([sock], [], [], 5)
        assert readable
        sock.sendall(sock.recv(100))
        return []

    assert talk(app, UPGRADE + b"early") == b"taken early"


def test_the_result_of_a_taken_exchange_is_closed_and_not_iterated(talk: Talk) -> None:
    class Result:
        closed = 0

        def __iter__(self) -> Any:
            raise AssertionError("nobody may iterate this")

        def close(self) -> None:
            self.closed += 1

    result = Result()

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        environ["muxwsgi.hijack"]().sendall(b"taken")
        return result

    assert talk(app, UPGRADE) == b"taken"
    assert result.closed == 1


def test_werkzeug_socket_takes_the_connection_on_its_first_use(talk: Talk) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        sock = environ["werkzeug.socket"]
        sock.getpeername()
        if environ["PATH_INFO"] == "/chat":
            sock.sendall(b"raw " + sock.recv(100))
            return []
        return hello(environ, start_response)

    get = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
    answer = talk(app, get + UPGRADE + b"bytes")
    assert statuses(answer) == [200] and answer.endswith(b"raw bytes")


def test_start_tls_after_connect(make_certificate: Callable[[], Any]) -> None:
    from muxwsgi.settings import TLSSettings
    from muxwsgi.wire.tls.client_context import ClientContext
    from muxwsgi.wire.tls.server_context import ServerContext

    files = make_certificate()
    inside = HTTP1(hello, HTTPSettings())

    def proxy(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        connection = environ["muxwsgi.hijack"]()
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        inside(connection.start_tls(ServerContext(TLSSettings(certificates=(files,)))))
        return []

    left, right = socket.socketpair()
    for server, client in (connection_pair(), (Connection.from_socket(left), Connection.from_socket(right))):
        serving = gevent.spawn(HTTP1(proxy, HTTPSettings()), server)
        with gevent.Timeout(10):
            client.sendall(CONNECT)
            assert client.recv().startswith(b"HTTP/1.1 200")
            tunnel = client.start_tls(ClientContext(ca_file=files.certfile), server_hostname="localhost")
            tunnel.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            assert tunnel.recv().endswith(b"hello")
            tunnel.close()
            serving.get()
        server.finish()
