"""A bind with the PROXY protocol: who may send a header, in any cut, before TLS and before the question, and what becomes of it."""

import logging
import socket
import ssl
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import gevent
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import muxwsgi
from muxwsgi.errors import OperatorError
from muxwsgi.events import Events
from muxwsgi.hijackers.proxy_protocol import ProxyProtocol
from muxwsgi.http.exchange import Exchange
from muxwsgi.mux.matchers import prefix
from muxwsgi.networks import parse_networks
from muxwsgi.proxy import Proxy
from muxwsgi.server.bind_text import parse_bind
from muxwsgi.settings import CertificateFiles, HTTPSettings, MuxSettings, ServerSettings, TrustSettings
from muxwsgi.testing import connection_pair
from muxwsgi.wire.connection import Connection
from muxwsgi.wire.peer import TrustedPeers
from muxwsgi.wire.proxy_header import SIGNATURE
from tests import warm
from tests.system.server_process import insecure_context
from tests.waiting import until
from tests.wire.test_proxy_header import TCP4, TCP6, tls, tlv, v2, with_checksum

V1 = b"PROXY TCP4 192.0.2.1 198.51.100.2 5000 443\r\n"
V2 = v2(TCP4)
LOCAL = v2(b"", family=0, command=0x20)
ASKS = b"GET / HTTP/1.0\r\n\r\n"

Start = Callable[..., muxwsgi.Server]


def says_who(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    keys = ("REMOTE_ADDR", "REMOTE_PORT", "SERVER_NAME", "SERVER_PORT", "wsgi.url_scheme", "SSL_CLIENT_S_DN_CN", "SSL_CLIENT_VERIFY", "SSL_TLS_SNI")
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [" ".join(str(environ.get(key)) for key in keys).encode()]


@muxwsgi.hijack(match=prefix(b"who?"))
def who(connection: Connection) -> None:
    connection.recv()
    header = connection.proxy_header
    connection.sendall(f"{connection.client} {connection.server} {None if header is None else header.unique_id}".encode())


@pytest.fixture
def start(make_certificate: Callable[[], CertificateFiles]) -> Iterator[Start]:
    """Starts a server with one bind, whose peers are trusted."""
    servers: list[muxwsgi.Server] = []

    def run(bind: str = "127.0.0.1:0,proxy-protocol", app: Any = says_who, **more: Any) -> muxwsgi.Server:
        trust = more.pop("trust", TrustSettings(proxy_protocol_timeout=more.pop("timeout", 10.0)))
        files = make_certificate()
        bind = bind.replace("TLS", f"certfile={files.certfile},keyfile={files.keyfile}")
        wanted = ServerSettings(trust=trust, mux=MuxSettings(sniff_timeout=0.2), http=HTTPSettings(linger=0.05))
        server = muxwsgi.Server(app, [bind], hijackers=[who], settings=wanted, **more)
        server.start()
        servers.append(server)
        return server

    with gevent.Timeout(60):
        yield run
        for server in servers:
            server.stop(0)


def connect(server: muxwsgi.Server) -> socket.socket:
    address = server.addresses[0]
    if address.startswith("unix:"):
        sock = gevent.socket.socket(socket.AF_UNIX)
        sock.settimeout(20)
        sock.connect(address.removeprefix("unix:"))
        return sock
    host, _, port = address.rpartition(":")
    sock = gevent.socket.create_connection((host, int(port)), timeout=20)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def said_to(server: muxwsgi.Server, *parts: bytes) -> bytes:
    """All that the server answers to `parts`, each in a segment."""
    answer = b""
    with connect(server) as client:
        try:
            for part in parts:
                client.sendall(part)
                gevent.sleep(0.002)
            while more := client.recv(65536):
                answer += more
        except ConnectionError:
            pass
    return answer


def body(answer: bytes) -> str:
    return answer.partition(b"\r\n\r\n")[2].decode()


# What a header changes


@pytest.mark.parametrize("address", [("127.0.0.1", 5000), ("::1", 5000, 0, 0), "a path"])
def test_a_client_on_the_machine_of_a_load_balancer_elsewhere_is_not_on_this_machine(address: Any) -> None:
    """Clients on this machine may say who others are, and use the proxy without a rule."""
    peers = TrustedPeers(parse_networks("10.0.0.0/8,127.0.0.1", "proxy_allow_ips"))
    seen: list[Any] = []
    handler = ProxyProtocol(lambda connection: seen.append(connection.client), "v2", peers, 10.0, Events())
    for through, expected in ((("10.0.0.1", 9), ("10.0.0.1", 9)), (("127.0.0.1", 9), address)):
        connection, far = connection_pair()
        connection.client = through
        if isinstance(address, str):
            far.sendall(v2(b"a path".ljust(108, b"\0") * 2, family=0x31))
        else:
            family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
            host = socket.inet_pton(family, address[0])
            far.sendall(v2(host * 2 + (5000).to_bytes(2, "big") * 2, family=0x21 if ":" in address[0] else 0x11))
        handler(connection)
        assert seen.pop() == expected


@pytest.mark.parametrize("header", [V1, V2, with_checksum(TCP4 + tlv(4, bytes(3000)))], ids=["v1", "v2", "large"])
@pytest.mark.parametrize("bind", ["127.0.0.1:0,proxy-protocol", "unix:PATH,proxy-protocol"])
def test_the_client_is_the_one_that_the_header_names(start: Start, header: bytes, bind: str, tmp_path: Path) -> None:
    exchanges: list[Exchange] = []
    server = start(bind.replace("PATH", str(tmp_path / "socket")), on_exchange=exchanges.append)
    assert body(said_to(server, header + ASKS)) == "192.0.2.1 5000 198.51.100.2 443 http None None None"
    assert said_to(server, header + b"who?") == b"('192.0.2.1', 5000) ('198.51.100.2', 443) None"
    assert exchanges[0].request["REMOTE_ADDR"] == "192.0.2.1"


def test_ipv6_unix_and_unknown_clients(start: Start) -> None:
    server = start()
    assert said_to(server, v2(TCP6 + tlv(5, b"id-7"), family=0x21) + b"who?") == b"('2001:db8::1', 5000, 0, 0) ('2001:db8::2', 443, 0, 0) id-7"
    assert said_to(server, v2(bytes(216), family=0x31) + b"who?") == b"  None"
    for header in (LOCAL, v2(b"", family=0), b"PROXY UNKNOWN\r\n"):
        assert body(said_to(server, header + ASKS)).startswith("127.0.0.1 ")


def test_tls_at_the_load_balancer_is_https_to_the_application(start: Start) -> None:
    shown = tls(0x07, 0, tlv(0x21, b"TLSv1.3"), tlv(0x22, b"Jane"), tlv(0x23, b"AES"))
    server = start()
    assert body(said_to(server, v2(TCP4 + tlv(2, b"shop.example") + shown) + ASKS)) == "192.0.2.1 5000 198.51.100.2 443 https Jane SUCCESS shop.example"
    unverified = tls(0x03, 18, tlv(0x22, b"Jane"))
    assert "https Jane GENEROUS" in body(said_to(server, v2(TCP4 + unverified) + ASKS))


# In any cut, with anything behind it


@pytest.mark.parametrize("header", [V1, V2, with_checksum(TCP4 + tlv(5, b"x" * 100))], ids=["v1", "v2", "tlvs"])
def test_a_header_may_be_cut_at_any_byte(start: Start, header: bytes) -> None:
    server = start()
    whole = header + b"who?"

    def ask(at: int) -> None:
        assert said_to(server, whole[:at], whole[at:]).startswith(b"('192.0.2.1', 5000)"), at

    for serving in [gevent.spawn(ask, at) for at in range(1, len(whole))]:
        serving.get()
    assert said_to(server, *(whole[at : at + 1] for at in range(len(whole)))).startswith(b"('192.0.2.1', 5000)")


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(1, 400), max_size=6), st.sampled_from([V1, V2, with_checksum(TCP4 + tlv(5, b"x" * 100))]))
def test_tls_behind_a_header_in_any_cut(tls_server: muxwsgi.Server, cuts: list[int], header: bytes) -> None:
    """The ClientHello comes in the same segments as the header, and OpenSSL reads it from the descriptor."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = insecure_context().wrap_bio(incoming, outgoing, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    data = header + outgoing.read()
    ends = sorted({min(end, len(data)) for end in cuts} | {0, len(data)})
    with gevent.Timeout(20), connect(tls_server) as sock:
        for begin, end in pairwise(ends):
            sock.sendall(data[begin:end])
            gevent.sleep(0.001)
        while True:
            try:
                client.do_handshake()
                break
            except ssl.SSLWantReadError:
                incoming.write(sock.recv(65536))
        client.write(b"who?")
        sock.sendall(outgoing.read())
        while True:
            try:
                assert client.read().startswith(b"('192.0.2.1', 5000)")
                break
            except ssl.SSLWantReadError:
                incoming.write(sock.recv(65536))


@pytest.fixture(params=["tcp", "unix"])
def tls_server(start: Start, request: pytest.FixtureRequest, tmp_path: Path) -> muxwsgi.Server:
    address = "127.0.0.1:0" if request.param == "tcp" else f"unix:{tmp_path}/tls"
    return start(f"{address},tls=required,TLS,proxy-protocol=auto")


# Who may send one


@pytest.mark.parametrize("sent", [V1 + ASKS, V2 + ASKS, ASKS, b"who?"])
def test_a_peer_that_is_not_allowed_is_refused_with_and_without_a_header(start: Start, sent: bytes, caplog: pytest.LogCaptureFixture) -> None:
    server = start(trust=TrustSettings(proxy_allow_ips="10.0.0.0/8"))
    refused: list[Any] = []
    server.events.subscribe(refused=lambda connection, refusal: refused.append((refusal.kind, connection.client[0])))
    logging.getLogger("muxwsgi").propagate = True
    with caplog.at_level(logging.INFO, "muxwsgi.error"):
        assert said_to(server, sent) == b""
    assert refused == [("untrusted", "127.0.0.1")] and server.turned_away.counts == {"untrusted": 1}
    lines = [record.getMessage() for record in caplog.records if record.name == "muxwsgi.error"]
    assert len(lines) == 1 and "closed: it may not connect to a port with the PROXY protocol" in lines[0]


def test_a_header_gives_no_right_to_send_another_one(start: Start) -> None:
    """The address in a header is not that of a load balancer, also if the list names it."""
    server = start()
    assert b"400" in said_to(server, V1.replace(b"192.0.2.1", b"127.0.0.1") + V1 + ASKS) or said_to(server, V1 + V1 + ASKS) == b""
    assert b"192.0.2.9" not in said_to(server, V1 + V1.replace(b"192.0.2.1", b"192.0.2.9") + ASKS)


def test_trust_in_fields_hangs_on_the_address_in_the_header(start: Start) -> None:
    proxied = b"GET / HTTP/1.0\r\nX-Forwarded-Proto: https\r\nX-Forwarded-For: 203.0.113.9\r\n\r\n"
    server = start()
    assert body(said_to(server, V1 + proxied)).split()[::4] == ["192.0.2.1", "http"]  # the load balancer is on loopback, its client is not
    inner = start(trust=TrustSettings(forwarded_allow_ips="192.0.2.0/24"))
    assert body(said_to(inner, V1 + proxied)).split()[0] == "203.0.113.9"


@pytest.mark.parametrize("sent", [ASKS, b"PROXY TCP4 1.2.3.4\r\n" + ASKS, b"\x16\x03\x01", SIGNATURE + b"\x21\x11\xff\xff", b"PROXY " + b"x" * 200, v2(TCP4 + tlv(3, b"abcd"))])
def test_what_is_no_header_ends_the_connection_with_one_line_at_debug(start: Start, sent: bytes, caplog: pytest.LogCaptureFixture) -> None:
    server = start()
    logging.getLogger("muxwsgi").propagate = True
    with caplog.at_level(logging.DEBUG, "muxwsgi.error"):
        assert said_to(server, sent) == b""
        until(lambda: server.connections == 0)
    lines = [record for record in caplog.records if record.name == "muxwsgi.error"]
    assert len(lines) == 1 and lines[0].levelno == logging.DEBUG and "no PROXY header: " in lines[0].getMessage()


@pytest.mark.parametrize("mode", ["v1", "v2"])
def test_the_other_version_is_refused(start: Start, mode: str) -> None:
    server = start(f"127.0.0.1:0,proxy-protocol={mode}")
    answers = [said_to(server, header + ASKS) for header in (V1, V2)]
    assert [bool(answer) for answer in answers] == [mode == "v1", mode == "v2"]


def test_the_access_list_of_a_forward_proxy_is_about_the_client_in_the_header(start: Start) -> None:
    """Without a list, loopback alone may use it. The load balancer is on loopback, and its client is not."""
    asked = b"GET http://127.0.0.1:1/ HTTP/1.1\r\nHost: 127.0.0.1:1\r\nConnection: close\r\n\r\n"
    server = start(app=Proxy())
    assert said_to(server, V1 + asked).startswith(b"HTTP/1.1 403 ")
    assert said_to(server, LOCAL + asked).startswith(b"HTTP/1.1 502 ")  # nobody listens on port 1
    fields = asked.replace(b"\r\n\r\n", b"\r\nX-Forwarded-For: 127.0.0.1\r\nForwarded: for=127.0.0.1\r\n\r\n")
    assert said_to(server, V1 + fields).startswith(b"HTTP/1.1 403 ")


def test_check_says_which_binds_have_it() -> None:
    arguments = ["check", "tests.server.fronted_app:application", "-b", "127.0.0.1:0,proxy-protocol=v2", "-b", "127.0.0.1:0"]
    done = warm.run([sys.executable, "-m", "muxwsgi", *arguments], capture_output=True, text=True, timeout=60)
    assert "127.0.0.1:0 (TLS off, PROXY protocol v2): " in done.stdout and "127.0.0.1:0 (TLS off): " in done.stdout, done


# Deadlines, and the end


@pytest.mark.parametrize("sent", [b"", V1[:20], V2[:15], V2[:20]], ids=["nothing", "v1", "v2", "v2 body"])
def test_a_header_that_does_not_come_ends_at_its_deadline(start: Start, sent: bytes) -> None:
    server = start(timeout=0.2)
    assert said_to(server, sent) == b""
    until(lambda: server.connections == 0)
    assert server.turned_away.counts["silent"] == (not sent)


def test_drops_of_a_header_buy_no_time(start: Start) -> None:
    server = start(timeout=0.5)
    with connect(server) as client, gevent.Timeout(10):
        with pytest.raises(ConnectionError):
            for at in range(1000):
                client.sendall(V1[at % len(V1) : at % len(V1) + 1] if at < 30 else b"9")
                gevent.sleep(0.1)


def test_a_client_that_leaves_before_its_header_is_no_error(start: Start) -> None:
    server = start()
    connect(server).close()
    until(lambda: server.turned_away.counts["ended"] == 1)
    assert server.peer_errors == 0


def test_a_connection_that_has_sent_a_header_only_is_closed_by_a_drain_as_one_that_has_sent_nothing(start: Start) -> None:
    server = start()
    with connect(server) as client, connect(server) as silent:
        client.sendall(V1)
        until(lambda: server.connections == 2)
        gevent.sleep(0.05)
        server.stop(5)
        assert client.recv(1) == silent.recv(1) == b""
    assert server.turned_away.counts["drained"] == 2


# Options


@pytest.mark.parametrize(("text", "mode"), [("", "off"), (",proxy-protocol", "auto"), (",proxy-protocol=v2", "v2"), (",proxy-protocol=off", "off")])
def test_a_bind_says_it(text: str, mode: str) -> None:
    assert parse_bind(f":80{text}").proxy_protocol == mode


@pytest.mark.parametrize("text", [":80,proxy-protocol=3", ":80,transparent=redirect,proxy-protocol"])
def test_a_bind_that_cannot_be(text: str) -> None:
    with pytest.raises(OperatorError, match=r"bind "):
        parse_bind(text)


def test_the_list_of_load_balancers_is_checked() -> None:
    with pytest.raises(OperatorError, match="proxy_allow_ips: 'balancer' is not an address"):
        TrustSettings(proxy_allow_ips="balancer")


