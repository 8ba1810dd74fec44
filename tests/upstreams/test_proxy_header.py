"""PROXY headers for servers, as our own parser, HAProxy and nginx read them."""

import getpass
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest
from hypothesis import given
from hypothesis import strategies as st

from muxwsgi import Connection
from muxwsgi.settings import CertificateFiles, TLSSettings
from muxwsgi.settings.upstream import TLVS, UpstreamServerSettings
from muxwsgi.testing import connection_pair
from muxwsgi.upstreams.proxy_header import header_for, local_header, unique_id
from muxwsgi.wire.proxy_header import ALPN, AUTHORITY, CRC32C, SSL, UNIQUE_ID, header_length, parse_proxy_header
from muxwsgi.wire.tls.client_context import ClientContext
from muxwsgi.wire.tls.server_context import ServerContext
from tests.mux.conftest import bounded
from tests.pairs import tcp_pair, unix_pair
from tests.ports import free_port, free_ports
from tests.proxy.clients.services import listens, program, running
from tests.tls.authority import Authority
from tests.waiting import until

from .servers import said, session_of, upstream_of

__all__ = ["bounded"]

V2 = UpstreamServerSettings(address="a:1", send_proxy_v2=True)
V1 = UpstreamServerSettings(address="a:1", send_proxy=True)

Plain = Callable[..., Connection]


@pytest.fixture
def plain() -> Iterator[Plain]:
    """A client's connection with these addresses."""
    ours, theirs = tcp_pair()

    def make(client: Any = ("192.0.2.1", 5000), server: Any = ("198.51.100.2", 443)) -> Connection:
        ours.client, ours.server = client, server
        return ours

    yield make
    ours.finish()
    theirs.finish()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def secured(authority: Authority) -> Iterator[Callable[..., Connection]]:
    """A client's connection inside of TLS, with or without a certificate of the client."""
    opened: list[Connection] = []

    def make(certificate: CertificateFiles | None = None) -> Connection:
        ours, theirs = tcp_pair()
        opened.extend((ours, theirs))
        ours.client, ours.server = ("192.0.2.1", 5000), ("198.51.100.2", 443)
        leaf = authority.leaf("shop.example")
        wanted = TLSSettings(certificates=(leaf,), client_certificates="optional", client_ca=authority.root)
        files = {} if certificate is None else {"certfile": certificate.certfile, "keyfile": certificate.keyfile}
        client = ClientContext(ca_file=authority.root, alpn=("mqtt",), **files)
        shaking = gevent.spawn(theirs.start_tls, client, server_hostname="shop.example")
        inside = ours.start_tls(ServerContext(wanted, alpn=("mqtt",)))
        opened.append(shaking.get(timeout=10))
        return inside

    yield make
    for each in opened:
        each.finish()


def test_version_1_has_the_addresses(plain: Plain) -> None:
    assert header_for(V1, plain()) == b"PROXY TCP4 192.0.2.1 198.51.100.2 5000 443\r\n"
    v6 = plain(("2001:db8::1", 5000, 0, 0), ("fe80::1%eth0", 443, 0, 2))
    assert header_for(V1, v6) == b"PROXY TCP6 2001:db8::1 fe80::1 5000 443\r\n"


def test_addresses_of_two_families_are_both_ipv6(plain: Plain) -> None:
    mixed = plain(("192.0.2.1", 5000), ("2001:db8::2", 443, 0, 0))
    assert header_for(V1, mixed) == b"PROXY TCP6 ::ffff:192.0.2.1 2001:db8::2 5000 443\r\n"


def test_a_client_on_a_unix_socket_has_no_address() -> None:
    ours, theirs = unix_pair()
    assert header_for(V1, ours) == b"PROXY UNKNOWN\r\n"
    header = parse_proxy_header(header_for(V2, ours))
    assert header.client is None and header.unique_id == unique_id(ours)
    ours.finish()
    theirs.finish()


def test_a_server_without_the_option_gets_no_header(plain: Plain) -> None:
    none = UpstreamServerSettings(address="a:1")
    assert header_for(none, plain()) == local_header(none) == b""


def test_a_check_is_made_for_nobody() -> None:
    assert local_header(V1) == b"PROXY UNKNOWN\r\n"
    header = parse_proxy_header(local_header(V2))
    assert header.client is None and header.tlvs == ()


def test_version_2_of_a_plain_connection(plain: Plain) -> None:
    connection = plain()
    data = header_for(V2, connection)
    assert header_length(data) == len(data)
    header = parse_proxy_header(data)  # it checks the checksum
    assert (header.client, header.server) == (("192.0.2.1", 5000), ("198.51.100.2", 443))
    assert [kind for kind, _ in header.tlvs] == [UNIQUE_ID, CRC32C]
    assert header.unique_id == unique_id(connection)


def test_version_2_says_what_tls_agreed_on(secured: Callable[..., Connection], authority: Authority) -> None:
    header = parse_proxy_header(header_for(V2, secured(authority.leaf("ann.example", common_name="ann"))))
    assert (header.alpn, header.authority) == ("mqtt", "shop.example")
    tls = header.tls
    assert tls is not None
    assert (tls.version, tls.has_certificate, tls.verified, tls.common_name) == ("TLSv1.3", True, True, "ann")
    assert tls.cipher.startswith("TLS_")


def test_a_client_without_a_certificate_is_not_verified(secured: Callable[..., Connection]) -> None:
    data = header_for(V2, secured())
    tls = parse_proxy_header(data).tls
    assert tls is not None and not tls.has_certificate and not tls.verified and tls.common_name is None
    value = parse_proxy_header(data).tlv(SSL)
    assert value is not None and value[1:5] != b"\0\0\0\0"


@pytest.mark.parametrize("off", TLVS)
def test_each_tlv_can_be_left_out(off: str, secured: Callable[..., Connection], authority: Authority) -> None:
    settings = UpstreamServerSettings(address="a:1", send_proxy_v2=True, proxy_v2_options=tuple(each for each in TLVS if each != off))
    header = parse_proxy_header(header_for(settings, secured(authority.leaf("ann.example", common_name="ann"))))
    tls = header.tls
    said = {
        "alpn": header.alpn,
        "authority": header.authority,
        "ssl": tls,
        "cert-cn": tls.common_name if tls is not None else "-",
        "ssl-cipher": tls.cipher if tls is not None else "-",
        "unique-id": header.unique_id,
        "crc32c": header.tlv(CRC32C),
    }
    assert [name for name, value in said.items() if not value] == [off]
    assert header.tlv(ALPN if off != "alpn" else AUTHORITY) is not None


addresses = st.one_of(
    st.tuples(st.ip_addresses(v=4).map(str), st.integers(0, 65535)),
    st.tuples(st.ip_addresses(v=6).filter(lambda each: each.ipv4_mapped is None).map(str), st.integers(0, 65535), st.just(0), st.just(0)),
)


def as_parsed(address: Any, other: Any) -> Any:
    """How the parser gives an address back."""
    return (address[0], address[1], 0, 0) if ":" in address[0] else (address[0], address[1])


@given(client=addresses, server=addresses, version=st.sampled_from([V1, V2]))
def test_what_is_written_is_what_is_read(client: Any, server: Any, version: UpstreamServerSettings) -> None:
    near, far = connection_pair()
    near.client, near.server = client, server
    data = header_for(version, near)
    for end in range(len(data)):
        assert header_length(data[:end], 1 if version is V1 else 2) in (None, len(data))
    header = parse_proxy_header(data)
    assert (header.client, header.server) == (as_parsed(client, server), as_parsed(server, client))
    for each in (near, far):
        each.close()


# Real receivers


def answer(connection: Connection | None) -> str:
    assert connection is not None
    connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
    received = b""
    while data := connection.recv():
        received += data
    return received.decode().rpartition("\r\n\r\n")[2]


def test_haproxy_reads_it(tmp_path: Path, secured: Callable[..., Connection], plain: Plain) -> None:
    port = free_port()
    (tmp_path / "haproxy.cfg").write_text(
        f"""
        defaults
            mode http
            timeout client 10s
            timeout server 10s
            timeout connect 10s
        frontend f
            bind 127.0.0.1:{port} accept-proxy
            http-request return status 200 content-type text/plain lf-string "%[src] %[src_port] %[dst] %[dst_port] %[fc_pp_authority] %[fc_pp_unique_id]"
\n"""
    )
    command = (program("haproxy", "haproxy"), "-db", "-f", tmp_path / "haproxy.cfg")
    with running(*command, log=tmp_path / "log", ready=lambda: listens(port)):
        inside = secured()
        with upstream_of(f"127.0.0.1:{port}", send_proxy_v2=True) as upstream, session_of(upstream, inside) as session:
            assert answer(session.connection) == f"192.0.2.1 5000 198.51.100.2 443 shop.example {unique_id(inside)}"
            assert inside.trace[-1] == f"PROXY header for 127.0.0.1:{port}: unique id {unique_id(inside)}"
        with upstream_of(f"127.0.0.1:{port}", send_proxy=True) as upstream, session_of(upstream, plain()) as session:
            assert answer(session.connection).startswith("192.0.2.1 5000 198.51.100.2 443 ")
        # LOCAL: the addresses are those of the connection itself.
        check = {"check": True, "check_send_proxy": True, "check_send": "GET / HTTP/1.0\r\n\r\n", "check_expect": "127.0.0.1", "inter": 0.02}
        with upstream_of(f"127.0.0.1:{port}", send_proxy_v2=True, **check) as upstream:
            counts = upstream.servers[0].state.counts
            until(lambda: counts.checks >= 3)
            assert counts.check_failures == 0


def test_nginx_stream_reads_it_before_tls(tmp_path: Path, authority: Authority, plain: Plain) -> None:
    port, tls_port = free_ports(2)
    leaf = authority.leaf("inside.example")
    (tmp_path / "nginx.conf").write_text(
        f"""
        load_module /usr/lib/nginx/modules/ngx_stream_module.so;
        daemon off; worker_processes 1; pid {tmp_path}/nginx.pid; error_log {tmp_path}/error.log; user {getpass.getuser()};
        events {{}}
        stream {{
            server {{ listen 127.0.0.1:{port} proxy_protocol; return "$proxy_protocol_addr $proxy_protocol_port"; }}
            server {{
                listen 127.0.0.1:{tls_port} ssl proxy_protocol;
                ssl_certificate {leaf.certfile}; ssl_certificate_key {leaf.keyfile};
                return "$proxy_protocol_addr $ssl_server_name";
            }}
        }}
        """
    )
    nginx = program("nginx", "nginx-light")
    ready = lambda: listens(port) and listens(tls_port)  # noqa: E731
    with running(nginx, "-c", tmp_path / "nginx.conf", "-e", "stderr", log=tmp_path / "log", ready=ready):
        with upstream_of(f"127.0.0.1:{port}", send_proxy_v2=True) as upstream, session_of(upstream, plain()) as session:
            assert session.connection is not None
            assert session.connection.recv() == b"192.0.2.1 5000"
        tls = {"ssl": True, "ca_file": authority.root, "sni": "inside.example"}
        with upstream_of(f"127.0.0.1:{tls_port}", send_proxy=True, **tls) as upstream, session_of(upstream, plain()) as session:
            assert session.connection is not None
            assert session.connection.recv() == b"192.0.2.1 inside.example"


def test_a_server_that_ends_before_the_header_is_taken_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    listening = socket.create_server(("127.0.0.1", 0))
    try:
        with upstream_of(f"127.0.0.1:{listening.getsockname()[1]}", send_proxy=True, retries=0) as upstream:

            def closed(self: Connection, data: bytes, flags: int = 0) -> None:
                raise ConnectionResetError(104, "Connection reset by peer")

            monkeypatch.setattr(Connection, "sendall", closed)
            assert said(upstream) == "PROXY header: Connection reset by peer"
            assert upstream.servers[0].state.failures == 0
    finally:
        listening.close()
