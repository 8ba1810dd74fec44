"""The stream log: what a line says of a stream, and of a connection that is turned away; and why an exchange is incomplete."""

import json
import re
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import gevent
import gevent.socket
import gevent.ssl
import pytest

import muxwsgi
from muxwsgi.mux.matchers import prefix
from muxwsgi.observe.access_log import AccessLog
from muxwsgi.observe.stream_log import StreamLog
from muxwsgi.proxy.proxy import Proxy
from muxwsgi.settings import CertificateFiles, HTTPSettings, MuxSettings, ServerSettings
from muxwsgi.wire.connection import Connection
from tests.http.conftest import hello
from tests.waiting import until


@muxwsgi.hijack(match=prefix(b"ECHO "), limit=1)
def echo(connection: Connection) -> None:
    while data := connection.recv():
        if data == b"fail":
            raise LookupError("of the hijacker")
        connection.sendall(data)


class Started:
    """A server with both logs."""

    def __init__(self, folder: Path, app: Any, *, as_json: bool, bind: str, settings: ServerSettings) -> None:
        self.server = muxwsgi.Server(app, ["127.0.0.1:0" + bind], hijackers=[echo], settings=settings)
        self.streams = StreamLog(str(folder / "streams"), as_json=as_json)
        self.access = AccessLog(str(folder / "access"), "json")
        self._folder = folder
        for each in (self.streams, self.access):
            each.subscribe(self.server.events)
        self.server.start()

    def connect(self) -> Any:
        host, _, port = self.server.addresses[0].rpartition(":")
        return gevent.socket.create_connection((host, int(port)), timeout=20)

    def lines(self, name: str = "streams", count: int = 1) -> list[Any]:
        """Once `count` of them are there."""

        def read() -> list[str]:
            (self.streams if name == "streams" else self.access).flush()
            return (self._folder / name).read_text().splitlines()

        until(lambda: len(read()) >= count)
        return [json.loads(line) if line.startswith("{") else line for line in read()]


Start = Callable[..., Started]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    with ExitStack() as stack, gevent.Timeout(30):

        def run(app: Any = hello, *, as_json: bool = True, bind: str = "") -> Started:
            http = HTTPSettings(request_head_timeout=0.5, linger=0.2, body_rate_grace=0.5)
            settings = ServerSettings(http=http, mux=MuxSettings(sniff_timeout=0.2))
            started = Started(tmp_path, app, as_json=as_json, bind=bind, settings=settings)
            stack.callback(started.server.stop, 0)
            return started

        yield run


def reset(sock: Any) -> None:
    sock.setsockopt(gevent.socket.SOL_SOCKET, gevent.socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


# Streams


def test_a_hijacked_stream_is_one_line(start: Start) -> None:
    started = start()
    with started.connect() as client:
        client.sendall(b"ECHO 12345")
        assert client.recv(100) == b"ECHO 12345"
        name = client.getsockname()
    [line] = started.lines()
    assert (line["kind"], line["route"], line["ended"], line["tls"], line["destination"]) == ("stream", "echo", "closed", None, None)
    assert (line["client"], line["bind"]) == (f"127.0.0.1:{name[1]}", started.server.addresses[0])
    assert (line["bytes_received"], line["bytes_sent"]) == (10, 10) and 0 < line["seconds"] < 30
    assert "'echo'" in line["why"] and line["connection"] > 0


def test_a_stream_inside_of_tls_says_what_was_agreed_on(start: Start, make_certificate: Callable[[], CertificateFiles]) -> None:
    files = make_certificate()
    started = start(bind=f",certfile={files.certfile},keyfile={files.keyfile}")
    context = gevent.ssl.SSLContext(gevent.ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(files.certfile)
    context.check_hostname = False
    with context.wrap_socket(started.connect(), server_hostname="localhost") as client:
        client.sendall(b"ECHO")
        client.sendall(b" 1")
        assert client.recv(100)
    with context.wrap_socket(started.connect(), server_hostname="localhost") as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert client.recv(100)
    [exchange] = started.lines("access")
    assert exchange["tls"] == {"version": "TLSv1.3", "sni": "localhost", "alpn": None}
    [line] = started.lines()
    assert line["tls"] == {"version": "TLSv1.3", "sni": "localhost", "alpn": None}
    assert line["bytes_received"] == 6, "of the stream, not of TLS"


@pytest.mark.parametrize(
    ("how", "ended"),
    [("fails", "LookupError: of the hijacker"), ("reset by the client", "ConnectionResetError: Connection reset by peer"), ("cut", "cut by the server")],
)
def test_a_line_says_how_the_stream_has_ended(how: str, ended: str, start: Start) -> None:
    started = start()
    client = started.connect()
    client.sendall(b"ECHO ")
    assert client.recv(100)
    match how:
        case "fails":
            client.sendall(b"fail")
        case "reset by the client":
            reset(client)
        case "cut":
            started.server.stop(0)
    [line] = started.lines()
    assert line["ended"] == ended


def test_a_connection_that_an_application_takes_over_is_a_line_of_each_log(start: Start) -> None:
    def taking(environ: Any, start_response: Any) -> Any:
        connection = environ["muxwsgi.hijack"]()
        connection.sendall(b"mine")
        return []

    started = start(taking)
    with started.connect() as client:
        client.sendall(b"GET /taken HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.recv(100) == b"mine"
    [line] = started.lines()
    assert (line["kind"], line["route"], line["ended"], line["bytes_sent"]) == ("hijacked", "http", "closed", 4)
    [exchange] = started.lines("access")
    assert exchange["status"] is None and "error" not in exchange


def test_a_tunnel_of_the_proxy_is_a_line_with_its_destination(start: Start) -> None:
    upstream = gevent.server.StreamServer(("127.0.0.1", 0), lambda sock, _: sock.sendall(b"hello from upstream"))
    upstream.start()
    started = start(Proxy(allow_private=True))
    destination = f"127.0.0.1:{upstream.server_port}"
    with started.connect() as client:
        client.sendall(f"CONNECT {destination} HTTP/1.1\r\nHost: {destination}\r\n\r\n".encode())
        data = b""
        while b"upstream" not in data:
            data += client.recv(1000)
    [line] = started.lines()
    upstream.stop()
    assert (line["kind"], line["destination"], line["ended"]) == ("tunnel", destination, "closed")
    assert "relayed: 0 bytes there, 19 back" in line["why"]


# What is turned away


@pytest.mark.parametrize(
    ("sent", "kind"), [(b"\x00\x01\x02 nonsense\r\n\r\n", "unmatched"), (b"", "ended")]
)
def test_what_is_turned_away_is_a_line(sent: bytes, kind: str, start: Start) -> None:
    started = start()
    with started.connect() as client:
        client.sendall(sent)
        client.shutdown(gevent.socket.SHUT_WR)
        [line] = started.lines()
    assert (line["kind"], line["route"], line["seconds"]) == (kind, None, None) and line["ended"]


def test_a_route_at_its_limit_and_a_silent_client_are_lines(start: Start) -> None:
    started = start()
    with started.connect() as first, started.connect() as second, started.connect():
        first.sendall(b"ECHO 1")
        assert first.recv(100)
        second.sendall(b"ECHO 2")
        kinds = sorted(line["kind"] for line in started.lines(count=2))
    assert kinds == ["limit", "silent"]


def test_a_failed_handshake_is_a_line(start: Start, make_certificate: Callable[[], CertificateFiles]) -> None:
    files = make_certificate()
    started = start(bind=f",certfile={files.certfile},keyfile={files.keyfile}")
    with pytest.raises(gevent.ssl.SSLError):
        gevent.ssl.SSLContext(gevent.ssl.PROTOCOL_TLS_CLIENT).wrap_socket(started.connect(), server_hostname="localhost")
    [line] = started.lines()
    assert line["kind"] == "handshake" and "unknown ca" in line["ended"]


def test_a_refused_request_is_in_the_access_log_only(start: Start) -> None:
    started = start()
    with started.connect() as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n")
        assert client.recv(1000).startswith(b"HTTP/1.1 400")
    [line] = started.lines("access")
    assert line["status"] == 400 and line["refused"] and "error" not in line
    assert started.streams.waiting is False and started.lines(count=0) == []


def test_text_is_one_line_whatever_a_client_chooses(start: Start, make_certificate: Callable[[], CertificateFiles]) -> None:
    files = make_certificate()
    started = start(as_json=False, bind=f",certfile={files.certfile},keyfile={files.keyfile},tls=optional")
    with started.connect() as client:
        client.sendall(b'\n"quoted" \x00 \xff')
        client.shutdown(gevent.socket.SHUT_WR)
        [line] = started.lines()
    assert re.fullmatch(
        r'127\.0\.0\.1:\d+ \[\d\d/\w{3}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4}\] unmatched - 127\.0\.0\.1:\d+ \d+ \d+ - "[^"]+" - - - - "[ -~]+"', line
    )


# Incomplete exchanges


def test_an_exchange_whose_client_leaves_says_so(start: Start) -> None:
    left = gevent.event.Event()

    def endless(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [])
        yield b"x" * 100
        left.wait()
        while True:
            yield b"x" * 65536

    started = start(endless)
    client = started.connect()
    client.sendall(b"GET /endless HTTP/1.1\r\nHost: a\r\n\r\n")
    assert client.recv(100)
    reset(client)
    left.set()
    [line] = started.lines("access")
    assert line["status"] == 200 and line["error"] in ("Connection reset by peer", "Broken pipe")


def test_an_exchange_that_the_application_does_not_complete_says_so(start: Start) -> None:
    def failing(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [("Content-Length", "10")])
        yield b"x"
        raise LookupError

    started = start(failing)
    with started.connect() as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        with pytest.raises((ConnectionResetError, EOFError)):
            while client.recv(1000):
                pass
            raise EOFError
    [line] = started.lines("access")
    assert line["error"] == "the application did not complete the response" and line["bytes"] == 1


def test_a_complete_exchange_has_no_error(start: Start) -> None:
    started = start()
    with started.connect() as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        while client.recv(1000):
            pass
    [line] = started.lines("access")
    assert line["status"] == 200 and "error" not in line
    assert (line["kind"], line["bind"], line["tls"]) == ("exchange", started.server.addresses[0], None) and line["connection"] > 0
