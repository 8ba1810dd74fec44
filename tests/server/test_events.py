"""Events: what subscribers hear of a connection, and in which order. A subscriber that raises changes nothing."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import gevent
import gevent.server
import gevent.socket
import gevent.ssl
import pytest

import muxwsgi
from muxwsgi.errors import HandshakeError
from muxwsgi.events import Refusal
from muxwsgi.http import gateway
from muxwsgi.http.h1 import h1
from muxwsgi.mux import mux
from muxwsgi.mux.matchers import prefix
from muxwsgi.proxy.certificates.authority import Authority
from muxwsgi.proxy.proxy import Proxy
from muxwsgi.proxy.settings import ProxySettings
from muxwsgi.server import serving
from muxwsgi.settings import CertificateFiles, HTTPSettings, MuxSettings, ServerSettings
from muxwsgi.wire.connection import Connection
from tests.http.conftest import hello
from tests.waiting import until

EVENTS = ("accepted", "decided", "refused", "handshake", "exchange", "stream", "closed")
GET = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


class Heard:
    """Subscribes to all events of a server. `names` are the events that came, `calls` what they were called with."""

    def __init__(self, server: muxwsgi.Server) -> None:
        self.server = server
        self.names: list[str] = []
        self.calls: list[tuple[Any, ...]] = []
        server.events.subscribe(**{name: self._noting(name) for name in EVENTS})

    def _noting(self, name: str) -> Callable[..., None]:
        def note(*arguments: Any) -> None:
            self.names.append(name)
            self.calls.append(arguments)

        return note

    def called(self, name: str) -> list[tuple[Any, ...]]:
        """What each event of that name was called with."""
        return [arguments for each, arguments in zip(self.names, self.calls, strict=True) if each == name]

    def connect(self) -> gevent.socket.socket:
        host, _, port = self.server.addresses[0].rpartition(":")
        return gevent.socket.create_connection((host, int(port)), timeout=20)

    def of(self, sent: bytes) -> list[str]:
        """The events of a connection on which a client sends `sent`, and reads to the end."""
        with self.connect() as client:
            client.sendall(sent)
            read_to_end(client)
        return self.all()

    def all(self) -> list[str]:
        until(lambda: "closed" in self.names)
        return self.names


def read_to_end(client: Any) -> bytes:
    data = b""
    try:
        while more := client.recv(65536):
            data += more
    except ConnectionResetError:
        pass
    return data


Start = Callable[..., Heard]


@pytest.fixture
def start() -> Iterator[Start]:
    with ExitStack() as stack, gevent.Timeout(30):

        def run(app: Any = hello, *hijackers: Any, bind: str = "") -> Heard:
            settings = ServerSettings(http=HTTPSettings(request_head_timeout=0.5, linger=0.2), mux=MuxSettings(sniff_timeout=0.2))
            server = muxwsgi.Server(app, ["127.0.0.1:0" + bind], hijackers=list(hijackers), settings=settings)
            heard = Heard(server)
            server.start()
            stack.callback(server.stop, 0)
            return heard

        yield run


@pytest.fixture
def certificate(make_certificate: Callable[[], CertificateFiles]) -> CertificateFiles:
    return make_certificate()


@muxwsgi.hijack(match=prefix(b"ECHO "))
def echo(connection: Connection) -> None:
    connection.sendall(connection.recv())


# The order


def test_a_request(start: Start) -> None:
    heard = start()
    assert heard.of(GET) == ["accepted", "decided", "exchange", "closed"]
    connection, decision = heard.called("decided")[0]
    assert heard.called("accepted") == [(connection,)] and decision.route.name == "http"
    assert heard.called("exchange")[0][0].status == "200 OK"
    assert heard.called("closed") == [(connection, None)]


def test_requests_of_one_connection_are_an_exchange_each(start: Start) -> None:
    assert start().of(GET.replace(b"close", b"keep-alive") + GET) == ["accepted", "decided", "exchange", "exchange", "closed"]


def test_a_request_in_tls(start: Start, certificate: CertificateFiles) -> None:
    heard = start(bind=f",certfile={certificate.certfile},keyfile={certificate.keyfile}")
    context = gevent.ssl.SSLContext(gevent.ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(certificate.certfile)
    with context.wrap_socket(heard.connect(), server_hostname="localhost") as client:
        client.sendall(GET)
        assert read_to_end(client).startswith(b"HTTP/1.1 200 ")
    assert heard.all() == ["accepted", "decided", "handshake", "decided", "exchange", "closed"]
    ((inside, error),) = heard.called("handshake")
    assert error is None and inside.tls.version.startswith("TLS")
    outside = heard.called("accepted")[0][0]
    assert [each.tls is not None for each, _ in heard.called("decided")] == [False, True]
    assert outside is not inside and outside.id == inside.id


def test_a_handshake_that_fails(start: Start, certificate: CertificateFiles) -> None:
    heard = start(bind=f",certfile={certificate.certfile},keyfile={certificate.keyfile}")
    with heard.connect() as client:
        client.sendall(b"\x16\x03\x01\x00\x04\x02\x00\x00\x00")  # a ServerHello
        read_to_end(client)
    assert heard.all() == ["accepted", "decided", "handshake", "closed"]
    ((connection, error),) = heard.called("handshake")
    assert isinstance(error, HandshakeError) and connection is heard.called("accepted")[0][0]
    assert heard.called("closed") == [(connection, error)]


def test_a_hijackers_stream(start: Start) -> None:
    heard = start(hello, echo)
    assert heard.of(b"ECHO hello") == ["accepted", "decided", "stream", "closed"]
    ((connection, seconds),) = heard.called("stream")
    assert connection.route == "echo" and 0 <= seconds < 20
    assert (connection.bytes_received, connection.bytes_sent) == (10, 10)


def test_a_hijacker_that_raises(start: Start) -> None:
    @muxwsgi.hijack(match=prefix(b"x"))
    def broken(connection: Connection) -> None:
        raise LookupError("lost")

    heard = start(hello, broken)
    assert heard.of(b"x") == ["accepted", "decided", "stream", "closed"]
    assert isinstance(heard.called("closed")[0][1], LookupError)


def test_a_connection_that_an_application_takes_over(start: Start) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        environ["muxwsgi.hijack"]().sendall(b"taken")
        return []

    heard = start(app)
    assert heard.of(GET) == ["accepted", "decided", "stream", "exchange", "closed"]
    assert heard.called("exchange")[0][0].status == ""


def test_first_bytes_that_no_route_wants(start: Start) -> None:
    heard = start()
    assert heard.of(b"\x00garbage") == ["accepted", "decided", "refused", "closed"]
    ((_, refusal),) = heard.called("refused")
    assert (refusal.kind, refusal.route, refusal.status) == ("unmatched", None, None)
    assert heard.called("decided")[0][1].route is None


def test_a_request_that_is_refused(start: Start) -> None:
    heard = start()
    assert heard.of(b"GET bad HTTP/1.1\r\n\r\n") == ["accepted", "decided", "refused", "exchange", "closed"]
    ((_, refusal),) = heard.called("refused")
    assert refusal == Refusal("refused", "the Host field is missing", status=400)
    assert heard.called("exchange")[0][0].refused == refusal.reason


def test_a_route_at_its_limit(start: Start) -> None:
    release = gevent.event.Event()

    @muxwsgi.hijack(match=prefix(b"x"), limit=1)
    def busy(connection: Connection) -> None:
        release.wait(20)

    heard = start(hello, busy)
    with heard.connect() as first:
        first.sendall(b"x")
        until(lambda: "decided" in heard.names)
        assert heard.of(b"x") == ["accepted", "decided", "accepted", "decided", "refused", "closed"]
        release.set()
    assert heard.called("refused")[0][1].route == "busy"


@pytest.mark.parametrize(
    ("action", "sent", "between"),
    [
        ("accept", b"\x00bytes", []),
        ("mitm", b"\x00bytes", ["decided", "stream"]),  # the relay inside of the tunnel
        ("mitm", GET, ["decided", "exchange"]),
    ],
)
def test_a_tunnel_of_the_proxy(start: Start, tmp_path: Any, action: str, sent: bytes, between: list[str]) -> None:
    def answer(sock: Any, address: Any) -> None:
        sock.recv(65536)
        sock.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")
        sock.close()

    origin = gevent.server.StreamServer(("127.0.0.1", 0), answer)
    origin.start()
    proxy = Proxy(ProxySettings(), authority=Authority.create(tmp_path / "ca"))
    getattr(proxy.on_connect(), action)()
    heard = start(proxy)
    with heard.connect() as client:
        destination = f"127.0.0.1:{origin.server_port}"
        client.sendall(f"CONNECT {destination} HTTP/1.1\r\nHost: {destination}\r\n\r\n".encode() + sent)
        assert b"204 No Content" in read_to_end(client)
    origin.stop()
    assert heard.all() == ["accepted", "decided", *between, "stream", "exchange", "closed"]


# Subscribers


@pytest.mark.parametrize("error", [LookupError, SystemExit, gevent.GreenletExit])
def test_a_subscriber_that_raises_is_logged_and_changes_nothing(
    start: Start, caplog: pytest.LogCaptureFixture, certificate: CertificateFiles, error: type[BaseException]
) -> None:
    def fail(*arguments: Any) -> None:
        raise error("lost")

    heard = start(hello, echo, bind=f",certfile={certificate.certfile},keyfile={certificate.keyfile},tls=optional")
    heard.server.events.subscribe(**dict.fromkeys(EVENTS, fail))
    after = Heard(heard.server)
    context = gevent.ssl.SSLContext(gevent.ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(certificate.certfile)
    with context.wrap_socket(heard.connect(), server_hostname="localhost") as client:
        client.sendall(GET)
        assert read_to_end(client).endswith(b"hello")
    with heard.connect() as client:
        client.sendall(b"ECHO hello")
        assert read_to_end(client) == b"ECHO hello"
    with heard.connect() as client:
        client.sendall(b"GET bad HTTP/1.1\r\n\r\n")
        assert read_to_end(client).startswith(b"HTTP/1.1 400 ")
    until(lambda: after.names.count("closed") == 3)
    assert after.names == heard.names and set(heard.names) == set(EVENTS)
    failed = [record.exc_info[0] for record in caplog.records if record.exc_info and "a subscriber of events failed" in record.getMessage()]
    assert failed == [error] * len(heard.names)


def test_a_subscriber_may_come_late(start: Start) -> None:
    heard = start()
    heard.of(GET)
    late = Heard(heard.server)
    assert late.of(GET) == ["accepted", "decided", "exchange", "closed"]


def test_without_subscribers_nothing_is_made_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """The instructions are held by tests/gate."""
    server = muxwsgi.Server(hello, ["127.0.0.1:0"], [echo])
    subscribed = {name: getattr(server.events, name) for name in EVENTS}
    assert [name for name, subscribers in subscribed.items() if subscribers] == ["refused", "handshake"]  # they are counted
    made: list[object] = []
    for module in (gateway, h1):
        monkeypatch.setattr(module, "Exchange", lambda *arguments: made.append(arguments))
    for module in (gateway, h1, mux, serving):
        monkeypatch.setattr(module, "tell", lambda *arguments: made.append(arguments))
    server.start()
    try:
        for sent in (GET, b"ECHO hello"):
            host, _, port = server.addresses[0].rpartition(":")
            with gevent.Timeout(20), gevent.socket.create_connection((host, int(port))) as client:
                client.sendall(sent)
                assert read_to_end(client)
        server.events.subscribe(exchange=lambda exchange: None)
        with gevent.Timeout(20), gevent.socket.create_connection((host, int(port))) as client:
            client.sendall(GET)
            assert made == [] and read_to_end(client)
        until(lambda: len(made) == 2)  # the record, and the call
    finally:
        server.stop(0)
