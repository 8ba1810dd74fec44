"""What is turned away at the door: one line each in the error log, not too many, and counts."""

import logging
import socket
import struct
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest
from OpenSSL import SSL

import muxwsgi
from muxwsgi.errors import HandshakeError, OperatorError
from muxwsgi.events import Events, Refusal, tell
from muxwsgi.mux.matchers import never, prefix
from muxwsgi.protocols import looks_like
from muxwsgi.server import turned_away
from muxwsgi.server.turned_away import Throttle, TurnedAway
from muxwsgi.settings import CertificateFiles, HTTPSettings, MuxSettings, ServerSettings
from muxwsgi.testing import connection_pair
from muxwsgi.wire.connection import Connection
from muxwsgi.wire.tls.client_context import ClientContext
from tests.http.conftest import hello, statuses
from tests.mux.first_bytes import client_hello
from tests.waiting import until

Start = Callable[..., muxwsgi.Server]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a server on a free port, plain or with more options of its bind."""
    servers: list[muxwsgi.Server] = []

    def run(*hijackers: Any, bind: str = "", **more: Any) -> muxwsgi.Server:
        wanted = {"http": HTTPSettings(request_head_timeout=0.5, linger=0.2), "mux": MuxSettings(sniff_timeout=0.2), **more}
        server = muxwsgi.Server(hello, ["127.0.0.1:0" + bind], hijackers=list(hijackers), settings=ServerSettings(**wanted))
        server.start()
        servers.append(server)
        return server

    with gevent.Timeout(30):
        yield run
        for server in servers:
            server.stop(0)


def connect(server: muxwsgi.Server) -> socket.socket:
    host, _, port = server.addresses[0].rpartition(":")
    return gevent.socket.create_connection((host, int(port)), timeout=20)


def said_to(server: muxwsgi.Server, data: bytes) -> bytes:
    """All that the server answers to `data`."""
    answer = b""
    with connect(server) as client:
        client.sendall(data)
        try:
            while more := client.recv(65536):
                answer += more
        except ConnectionResetError:
            pass
    return answer


@pytest.mark.parametrize(
    ("sent", "kind", "line"),
    [
        (client_hello(), "unmatched", "closed: no route for what it sends: TLS on a port without TLS: use --certfile here, or http:// there"),
        (b"\x00garbage", "unmatched", "closed: no route for what it sends: no known protocol, b'\\x00garbage'"),
        (b"\r\n\r\n\0\r\nQUIT\n!!!!", "unmatched", "closed: no route for what it sends: a PROXY protocol header: switch it off in the load balancer, or on here (--proxy-protocol)"),
        (b"SSH-2.0-x\r\n", "unmatched", "closed: no route for what it sends: SSH"),
        (b"OPTIONS * RTSP/1.0\r\n\r\n", "unmatched", "closed: no route for what it sends: RTSP"),
        (b"GET foo HTTP/1.1\r\n\r\n", "refused", "its request was refused: 400: the Host field is missing"),
        (b"", "silent", "closed: it has not sent a byte in time"),
        (b"GE", "refused", "its request was refused: 408: the request head came too late"),
    ],
)
def test_what_is_turned_away_is_a_line_and_a_count(
    start: Start, caplog: pytest.LogCaptureFixture, sent: bytes, kind: str, line: str
) -> None:
    caplog.set_level(logging.INFO, "muxwsgi.error")
    server = start()
    told: list[str] = []
    server.events.subscribe(refused=lambda connection, refusal: told.append(refusal.kind))
    said_to(server, sent)
    until(lambda: server.turned_away.counts[kind] == 1)
    assert told == [kind]
    lines = [record.getMessage() for record in caplog.records]
    assert [text.split(" ", 4)[4] for text in lines] == [line]
    assert lines[0].startswith("connection ") and " from 127.0.0.1:" in lines[0]
    assert {record.levelname for record in caplog.records} == {"INFO"}


def test_a_route_at_its_limit_is_a_line_and_a_count(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "muxwsgi.error")
    release = gevent.event.Event()

    def busy(connection: Connection) -> None:
        connection.sendall(connection.recv())
        release.wait(20)

    server = start(muxwsgi.hijack(match=prefix(b"x"), limit=1)(busy))
    with connect(server) as first:
        first.sendall(b"x")
        assert first.recv(1) == b"x"
        assert said_to(server, b"x") == b""
        assert server.turned_away.counts == {"limit": 1}
        assert [record.getMessage().split(" ", 4)[4] for record in caplog.records] == [
            "closed: busy serves 1 connections already, which is its limit"
        ]
        release.set()


def test_a_connection_that_ends_without_a_byte_is_counted_and_no_line(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "muxwsgi.error")
    server = start()
    connect(server).close()  # as load balancers check
    until(lambda: server.turned_away.counts["ended"] == 1)
    assert caplog.records == []


def test_a_flood_of_one_kind_is_a_few_lines_and_hides_no_other(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "muxwsgi.error")
    now = [1000.0]
    events = Events()
    away = TurnedAway(events, Throttle(most=3, seconds=60, clock=lambda: now[0]))
    server, client = connection_pair()
    for _ in range(1000):
        tell(events.refused, server, Refusal("refused", "no", status=400))
    tell(events.refused, server, Refusal("refused", "late", status=408))
    tell(events.handshake, server, HandshakeError(0, "TLS handshake: no"))
    texts = [record.getMessage() for record in caplog.records]
    assert [text.rpartition("refused: ")[2] for text in texts[:4]] == ["400: no", "400: no", "400: no", "408: late"]
    assert texts[4].endswith("closed: TLS handshake: no")
    assert len(texts) == 5
    now[0] += 60
    tell(events.refused, server, Refusal("refused", "no", status=400))
    assert caplog.records[-1].getMessage().endswith("400: no (997 more like it since the last line)")
    now[0] += 59
    tell(events.refused, server, Refusal("refused", "no", status=400))
    assert caplog.records[-1].getMessage().endswith("400: no")
    assert away.counts == {"refused": 1003, "handshake": 1}
    server.close()
    client.close()


def test_first_bytes_are_looked_at_for_lines_alone(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that sends junk on many connections must not have twenty matchers asked each time."""
    looked: list[bytes] = []

    def look(data: bytes) -> str:
        looked.append(data)
        return "junk"

    monkeypatch.setattr(turned_away, "looks_like", look)
    caplog.set_level(logging.INFO, "muxwsgi.error")
    events = Events()
    away = TurnedAway(events, Throttle(most=3))
    server, client = connection_pair()
    client.sendall(b"junk")
    for _ in range(100):
        tell(events.refused, server, Refusal("unmatched", "no route"))
    assert away.counts == {"unmatched": 100}
    assert looked == [b"junk"] * 3
    server.close()
    client.close()


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (client_hello(), "TLS"),
        (b"\x80\x2e\x01\x03\x01", "TLS"),
        (b"PROXY TCP4 1.2.3.4 ", "a PROXY protocol header"),
        (b"\x05\x01\x00", "SOCKS"),
        (b"\x03\0\0\x13\x0e\xe0\0\0", "RDP"),
        (b"\0\0\0\x08\x04\xd2\x16\x2f", "PostgreSQL"),
        (b"\x10\x0c\0\4MQTT\4\2", "MQTT"),
        (b"*1\r\n$4\r\nPING\r\n", "Redis"),
        (b"OPTIONS sip:a@b SIP/2.0\r\n", "SIP"),
        (b"HTTP/1.1 200 OK\r\n", "an HTTP response"),
        (b'{"a": 1}', "JSON"),
        (b"hello there\r\n" * 9, "no known protocol, b'hello there\\r\\nhello there'..."),
    ],
)
def test_what_first_bytes_look_like(data: bytes, name: str) -> None:
    assert looks_like(data) == name


def test_two_hijackers_that_take_silence_stop_the_start_unless_one_is_named(start: Start) -> None:
    def greet(connection: Connection) -> None:
        connection.sendall(b"220 one\r\n")

    one = muxwsgi.hijack(name="one", match=never, takes_silence=True)(greet)
    two = muxwsgi.hijack(name="two", match=never, takes_silence=True)(lambda connection: None)
    with pytest.raises(OperatorError, match="one and two take connections of silent clients: name one"):
        start(one, two)
    with connect(start(one, two, silence="one")) as client:
        assert client.recv(100) == b"220 one\r\n"


# TLS


@pytest.fixture
def tls_bind(make_certificate: Callable[[], CertificateFiles]) -> tuple[str, CertificateFiles]:
    files = make_certificate()
    return f",certfile={files.certfile},keyfile={files.keyfile}", files


ALERT = 21


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x00\x00" + client_hello()[5:],  # an empty record
        b"\x16\x03\x01\x7f\xff" + client_hello()[5:],  # a record too long
        b"\x16\x03\x01\x00\x04\x02\x00\x00\x00",  # a ServerHello
        client_hello()[:9] + b"\x02\x00" + client_hello()[11:],  # SSL 2.0 inside
        b"\x17\x03\x03\x00\x05hello",  # data
    ],
    ids=["empty record", "long record", "ServerHello", "version", "data"],
)
def test_what_begins_like_tls_gets_an_alert_where_tls_is_required(start: Start, tls_bind: tuple[str, CertificateFiles], sent: bytes) -> None:
    server = start(bind=tls_bind[0])
    answer = said_to(server, sent)
    assert answer[0] == ALERT
    assert struct.unpack(">H", answer[3:5])[0] == 2
    until(lambda: server.turned_away.counts["handshake"] == 1)


def test_a_client_hello_in_a_record_of_any_minor_version_is_tls(start: Start, tls_bind: tuple[str, CertificateFiles]) -> None:
    for mode in ("required", "optional"):
        server = start(bind=f"{tls_bind[0]},tls={mode}")
        for minor in (0, 4, 5, 0x7F, 0xFF):
            hello_ = client_hello(alpn=(b"http/1.1",))
            with connect(server) as client:
                client.sendall(hello_[:2] + bytes([minor]) + hello_[3:])
                answer = client.recv(65536)
            # OpenSSL takes some and refuses others: either way it is OpenSSL that answers.
            assert answer[0] in (0x16, ALERT), minor


@pytest.mark.parametrize("mode", ["required", "optional"])
def test_a_client_that_offers_only_ids_that_nobody_owns_gets_no_application_protocol(
    start: Start, tls_bind: tuple[str, CertificateFiles], caplog: pytest.LogCaptureFixture, mode: str
) -> None:
    caplog.set_level(logging.INFO, "muxwsgi.error")
    server = start(bind=f"{tls_bind[0]},tls={mode}")
    for _ in range(2):  # nothing of the first is left for the second
        answer = said_to(server, client_hello(alpn=(b"ftp", b"x\nY")))
        assert answer == bytes([ALERT, 3, 3, 0, 2, 2, 120])
    until(lambda: server.turned_away.counts["handshake"] == 2)
    assert "of the ALPN ids that the client offers none is served here: 'ftp', 'x\\\\x0aY'" in caplog.records[-1].getMessage()
    for offered in ((), ("http/1.1",), ("h3", "http/1.1"), ("http/1.0",)):
        host, _, port = server.addresses[0].rpartition(":")
        plain = Connection.from_socket(gevent.socket.create_connection((host, int(port))))
        client = plain.start_tls(ClientContext(ca_file=tls_bind[1].certfile, alpn=offered), server_hostname="localhost")
        assert client.tls is not None
        assert client.tls.alpn == (offered[-1] if offered else None)
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert statuses(client.recv()) == [200]
        client.close()


def test_the_option_lets_a_device_with_ids_of_its_own_in(start: Start, tls_bind: tuple[str, CertificateFiles]) -> None:
    server = start(bind=tls_bind[0], unknown_alpn="ignore")
    host, _, port = server.addresses[0].rpartition(":")
    plain = Connection.from_socket(gevent.socket.create_connection((host, int(port))))
    client = plain.start_tls(ClientContext(ca_file=tls_bind[1].certfile, alpn=("x-device/1",)), server_hostname="localhost")
    client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    assert statuses(client.recv()) == [200]
    client.close()


def test_the_alert_leaves_through_memory_too(make_certificate: Callable[[], CertificateFiles]) -> None:
    from muxwsgi.settings import TLSSettings
    from muxwsgi.wire.tls.server_context import ServerContext

    server, client = connection_pair()
    context = ServerContext(TLSSettings(certificates=(make_certificate(),)), alpn=("http/1.1",))
    client.sendall(client_hello(alpn=(b"ftp",)))
    with pytest.raises(HandshakeError, match="none is served here: 'ftp'"):
        server.start_tls(context)
    assert client.recv() == bytes([ALERT, 3, 3, 0, 2, 2, 120])
    client.close()
    assert SSL.Context(SSL.TLS_METHOD) is not None  # OpenSSL's queue of errors is empty: this would raise what is left there
