"""Clients that mean harm, over real sockets: what they do costs them their own connection, and nobody else anything."""

import contextlib
import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
import gevent.socket
import gevent.ssl
import pytest

from muxwsgi.http.h1 import chunk_line
from muxwsgi.http.h1.h1 import PIPELINED_PER_TURN
from muxwsgi.server.server import Server
from muxwsgi.settings import BindSettings, CertificateFiles
from muxwsgi.wire import sweeper
from muxwsgi.wire.acceptor import Acceptor
from tests.http.conftest import Talk, hello, statuses

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.fixture
def start() -> Iterator[Callable[..., Server]]:
    """Starts a server with an application."""
    servers: list[Server] = []

    def run(app: Any, **bind: Any) -> Server:
        server = Server(app, [BindSettings(host="127.0.0.1", **bind)])
        server.start()
        servers.append(server)
        return server

    yield run
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


def connect(server: Server) -> gevent.socket.socket:
    host, port = server.addresses[0].split(":")
    return gevent.socket.create_connection((host, int(port)), timeout=10)


def test_a_flood_of_pipelined_requests_leaves_others_their_turn(start: Callable[..., Server], turns: Callable[[], int]) -> None:
    served: list[int] = []

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        served.append(turns())
        return hello(environ, start_response)

    requests = 20 * PIPELINED_PER_TURN
    with connect(start(app)) as client:
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


def test_a_response_that_is_cut_under_tls_does_not_end_as_a_whole_one(
    start: Callable[..., Server], make_certificate: Callable[[], CertificateFiles]
) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield b"half"
        raise RuntimeError("the other half is not to be had")

    certificate = make_certificate()
    server = start(app, tls="required", certificates=(certificate,))
    trusting = gevent.ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting.load_verify_locations(certificate.certfile)
    with trusting.wrap_socket(connect(server), server_hostname="localhost", suppress_ragged_eofs=False) as client:
        client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        with pytest.raises((ssl.SSLEOFError, ConnectionResetError)):
            while client.recv(1 << 16):
                pass


def test_who_took_the_socket_out_is_known_until_it_returns(start: Callable[..., Server], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeper, "INTERVAL", 0.005)
    ended: list[str] = []

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        with environ["muxwsgi.hijack"]().as_socket() as sock:
            sock.sendall(b"here I am")
            try:
                while sock.recv(100):
                    pass
            finally:
                ended.append("by the server")
        return []

    server = start(app)
    with connect(server) as client:
        client.sendall(GET)
        assert client.recv(100) == b"here I am"
        gevent.sleep(0.05)
        assert server.connections == 1
        server.stop(graceful_timeout=0)
        assert ended == ["by the server"]


@pytest.mark.parametrize("way", ["write", "file"])
def test_a_response_whose_write_was_interrupted_is_the_last_one(start: Callable[..., Server], way: str, tmp_path: Path) -> None:
    size = 8_000_000
    (tmp_path / "big").write_bytes(bytes(size))

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        if environ["PATH_INFO"] == "/second":
            return hello(environ, start_response)
        write = start_response("200 OK", [("Content-Length", str(size))])
        with gevent.Timeout(0.05, False):
            if way == "write":
                write(bytes(size))
            else:
                environ["muxwsgi.response"].send(environ["wsgi.file_wrapper"](open(tmp_path / "big", "rb")))
        return []

    with connect(start(app)) as client:
        client.sendall(GET + b"GET /second HTTP/1.1\r\nHost: a\r\n\r\n")
        client.shutdown(socket.SHUT_WR)
        gevent.sleep(0.1)
        received = b""
        with contextlib.suppress(ConnectionResetError):
            while data := client.recv(1 << 20):
                received += data
    assert received.count(b"HTTP/1.1 200") == 1, "the second response must not be taken for the rest of the first one's body"


def test_a_chunk_line_that_comes_byte_by_byte_is_read_anew_only_where_it_may_end(talk: Talk, monkeypatch: pytest.MonkeyPatch) -> None:
    class Counting:
        tries = 0

        def __init__(self, pattern: Any) -> None:
            self.pattern = pattern

        def match(self, data: bytes, at: int) -> Any:
            Counting.tries += 1
            return self.pattern.match(data, at)

    monkeypatch.setattr(chunk_line, "FIRST", Counting(chunk_line.FIRST))
    monkeypatch.setattr(chunk_line, "LATER", Counting(chunk_line.LATER))

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        body = environ["wsgi.input"].read()
        start_response("200 OK", [])
        return [body]

    head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    chunks = b"5" + b';a="b"' * 300 + b"\r\nhello\r\n1" + b" ; c" * 300 + b"\r\n!\r\n0\r\n\r\n"
    answer = talk(app, head, *(chunks[at : at + 1] for at in range(len(chunks))))
    assert statuses(answer) == [200] and b"hello!" in answer
    assert Counting.tries < 20


def test_a_crowd_of_small_chunks_leaves_others_their_turn(talk: Talk, turns: Callable[[], int]) -> None:
    taken: list[int] = []

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        body = environ["wsgi.input"]
        while body.read1(1000):
            taken.append(turns())
        return hello(environ, start_response)

    # In memory nobody has to wait for bytes: all turns are given.
    crowd = b"1\r\nx\r\n" * 10_000
    head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert statuses(talk(app, head, crowd, crowd, crowd, b"0\r\n\r\n")) == [200]
    assert taken[-1] - taken[0] >= 2


def test_who_is_accepted_in_the_moment_of_a_stop_is_answered_before_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    served: list[str] = []
    stopping: list[gevent.Greenlet] = []

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        served.append(environ["PATH_INFO"])
        return hello(environ, start_response)

    def stop() -> list[str]:
        server.stop(graceful_timeout=5)
        return list(served)

    class StopsWhenItAccepts(Acceptor):
        def accept(self) -> Any:
            accepted = super().accept()
            if accepted is not None and not stopping:
                stopping.append(gevent.spawn(stop))  # runs as soon as the connection waits
            return accepted

    monkeypatch.setattr("muxwsgi.wire.listener.Acceptor", StopsWhenItAccepts)
    server = Server(app, ["127.0.0.1:0"])
    server.start()
    with connect(server) as client:
        client.sendall(GET)
        assert statuses(client.recv(1 << 16)) == [200]
    assert stopping[0].get(timeout=5) == ["/"], "the request was served, but after the server had said that it has stopped"
