"""Our side as client: whom we believe, and what we say of ourselves."""

import ipaddress
import socket
import ssl
import threading
from pathlib import Path

import gevent
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL

from muxwsgi.errors import HandshakeError, OperatorError
from muxwsgi.testing import connection_pair
from muxwsgi.wire.tls.certificate_match import is_certificate_for
from muxwsgi.wire.tls.client_context import ClientContext
from muxwsgi.wire.tls.info import TLSInfo
from muxwsgi.wire.tls.server_context import ServerContext
from tests.tls.authority import Authority
from tests.tls.handshakes import settings


def connect(client: ClientContext, server: ServerContext, name: str | None) -> tuple[TLSInfo, TLSInfo]:
    """What the client and what the server knows of the other. Raises what the client met."""
    left, right = connection_pair()
    serving = gevent.spawn(left.start_tls, server)
    try:
        inside = right.start_tls(client, server_hostname=name)
        accepted = serving.get(timeout=10)
        assert inside.tls is not None and accepted.tls is not None
        return inside.tls, accepted.tls
    except OSError:
        serving.join(10)
        raise
    finally:
        right.finish()
        left.finish()


@pytest.fixture(autouse=True)
def quiet_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server's side of a handshake that the client breaks off fails as well, as it should."""
    monkeypatch.setattr(gevent.get_hub(), "NOT_ERROR", (*gevent.get_hub().NOT_ERROR, OSError))


def test_chain_and_name_are_verified(authority: Authority, stranger: Authority) -> None:
    server = ServerContext(settings(authority.leaf("a.example", "127.0.0.1", "::1", "*.wild.example", "xn--bcher-kva.example")))
    trusting = ClientContext(ca_file=authority.root)
    for name in ("a.example", "A.Example", "a.example.", "127.0.0.1", "::1", "0:0::1", "x.wild.example", "bücher.example"):
        ours, theirs = connect(trusting, server, name)
        assert ours.peer_verified and ours.peer_certificate == ours.peer_chain[0] and len(ours.peer_chain) == 2
        assert theirs.peer_certificate is None and not theirs.peer_verified
    for name in ("b.example", "127.0.0.2", "::2", "x.y.wild.example", "wild.example", "1.127.0.0.1"):
        with pytest.raises(HandshakeError, match="not one for"):
            connect(trusting, server, name)
    for client in (ClientContext(), ClientContext(ca_file=stranger.root)):
        with pytest.raises(HandshakeError, match="verify failed"):
            connect(client, server, "a.example")


def test_a_common_name_is_not_a_name(authority: Authority) -> None:
    """RFC 9525 section 2: a CN is not looked at, whether or not there is a SAN."""
    for leaf in (authority.leaf(common_name="a.example"), authority.leaf("b.example", common_name="a.example")):
        with pytest.raises(HandshakeError, match="not one for"):
            connect(ClientContext(ca_file=authority.root), ServerContext(settings(leaf)), "a.example")


@pytest.mark.parametrize("pattern", ["*.example", "a*.b.example", "x.*.example", "*"])
def test_wildcards_stand_for_one_whole_first_label(authority: Authority, pattern: str) -> None:
    name = {"*.example": "a.b.example", "a*.b.example": "ax.b.example", "x.*.example": "x.y.example", "*": "example"}[pattern]
    with pytest.raises(HandshakeError, match="not one for"):
        connect(ClientContext(ca_file=authority.root), ServerContext(settings(authority.leaf(pattern))), name)


#: What else may stand in a certificate. None of it is a name that a host could have.
BESIDE = {
    "an address as a name": x509.DNSName("192.168.1.1"),
    "an IPv6 address as a name": x509.DNSName("2001:db8::1"),
    "an address with a wildcard": x509.DNSName("192.168.1.*"),
    "a number": x509.DNSName("12345"),
    "a wildcard below one label": x509.DNSName("*.lan"),
    "a wildcard for everything": x509.DNSName("*"),
    "a wildcard in the middle": x509.DNSName("www.*.com"),
    "two wildcards": x509.DNSName("*.*.example"),
    "an empty label": x509.DNSName("*..example"),
    "nothing": x509.DNSName(""),
    "a blank": x509.DNSName(" "),
    "a null byte": x509.DNSName("a.example\0.evil"),
    "a URN": x509.UniformResourceIdentifier("urn:x:y"),
    "a URI": x509.UniformResourceIdentifier("https://user@[::1]:8443/path"),
    "no URI": x509.UniformResourceIdentifier("*"),
    "an SRV name": x509.OtherName(x509.ObjectIdentifier("1.3.6.1.5.5.7.8.7"), b"\x16\x0b_xmpp.a.tes"),
    "an SRV name without a service": x509.OtherName(x509.ObjectIdentifier("1.3.6.1.5.5.7.8.7"), b"\x16\x04host"),
    "an SRV name that is broken": x509.OtherName(x509.ObjectIdentifier("1.3.6.1.5.5.7.8.7"), b"\x04\x02no"),
    "a Kerberos name": x509.OtherName(x509.ObjectIdentifier("1.3.6.1.5.2.2"), b"\x30\x00"),
    "a mail address": x509.RFC822Name("root@a.example"),
    "a directory name": x509.DirectoryName(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "b.example")])),
    "an object identifier": x509.RegisteredID(x509.ObjectIdentifier("1.2.3")),
}


@pytest.mark.parametrize("beside", BESIDE)
def test_a_name_that_cannot_be_used_hides_no_other_name(authority: Authority, beside: str) -> None:
    trusting = ClientContext(ca_file=authority.root)
    for names in (("localhost", BESIDE[beside], "127.0.0.1"), (BESIDE[beside], "127.0.0.1", "localhost")):
        server = ServerContext(settings(authority.leaf(*names, common_name="c")))
        for host in ("localhost", "127.0.0.1"):
            assert connect(trusting, server, host)[0].peer_verified
        for host in ("a.example", "b.example", "host", "nas.lan", "192.168.1.1", "12345", "www.a.com", "www.a.example"):
            with pytest.raises(HandshakeError, match="not one for"):
                connect(trusting, server, host)


@pytest.mark.parametrize("host", ["bücher.x.test", "xn--bcher-kva.x.test", "XN--BCHER-KVA.x.test", "x.x.test"])
def test_a_wildcard_stands_for_international_labels_too(authority: Authority, host: str) -> None:
    trusting = ClientContext(ca_file=authority.root)
    assert connect(trusting, ServerContext(settings(authority.leaf("*.x.test"))), host)[0].peer_verified
    for other in ("any.x.test", "*.y.test", "*.b.x.test", "xn--*.x.test", "xn--b*.x.test", "x*.x.test", "x.test", "*.test"):
        with pytest.raises(HandshakeError, match="not one for"):
            connect(trusting, ServerContext(settings(authority.leaf(other))), "bücher.x.test")


def test_a_list_of_names_that_cannot_be_read_is_for_no_host(authority: Authority) -> None:
    certificate = x509.load_pem_x509_certificate(Path(authority.leaf("a.example", "bxcher.example").certfile).read_bytes())
    assert is_certificate_for(certificate, "a.example")
    der = certificate.public_bytes(Encoding.DER)
    for written, broken in ((b"bxcher.", b"b\xfccher."), (b"\x82\x0ebxcher.", b"\x85\x0ebxcher."), (b"\x82\x0ebxcher.", b"\x87\x0ebxcher.")):
        assert written in der
        assert not is_certificate_for(x509.load_der_x509_certificate(der.replace(written, broken)), "a.example")


def test_an_expired_certificate_is_refused(authority: Authority) -> None:
    server = ServerContext(settings(authority.leaf("a.example", days=-1)))
    with pytest.raises(HandshakeError, match="verify failed"):
        connect(ClientContext(ca_file=authority.root), server, "a.example")


def test_without_verification_the_certificate_is_known_and_said_to_be_unverified(authority: Authority) -> None:
    server = ServerContext(settings(authority.leaf("a.example")))
    for name in ("b.example", None):
        ours, theirs = connect(ClientContext(verify=False), server, name)
        assert not ours.peer_verified and ours.peer_certificate is not None
        assert theirs.sni == name


def test_names_are_sent_as_sni_and_addresses_are_not(authority: Authority) -> None:
    server = ServerContext(settings(authority.leaf("a.example")))
    sent = {"A.Example.": "a.example", "bücher.example": "xn--bcher-kva.example", "a_b.example": "a_b.example", "127.0.0.1": None, "::1": None}
    for name, sni in sent.items():
        assert connect(ClientContext(verify=False), server, name)[1].sni == sni


@pytest.mark.parametrize("name", ["", ".", "a..example", "a b.example", "a.example\n", "a\0.example", "x" * 64 + ".example", "a." * 127 + "a"])
def test_what_cannot_be_a_name_is_a_value_error_and_nothing_is_sent(name: str) -> None:
    for verify in (True, False):
        with pytest.raises(ValueError, match="neither a host name nor an address"):
            ClientContext(verify=verify).connection(None, name)


def test_verification_needs_a_name() -> None:
    with pytest.raises(ValueError, match="server_hostname"):
        ClientContext().connection(None, None)


def test_the_zone_of_an_address_is_not_part_of_it(authority: Authority) -> None:
    server = ServerContext(settings(authority.leaf("fe80::1")))
    assert connect(ClientContext(ca_file=authority.root), server, "fe80::1%eth0")[0].peer_verified
    assert ipaddress.ip_address("fe80::1%eth0") != ipaddress.ip_address("fe80::1")


def test_alpn_and_our_own_certificate(authority: Authority) -> None:
    server = ServerContext(
        settings(authority.leaf("a.example"), client_certificates="required", client_ca=authority.root), alpn=["redis", "http/1.1"]
    )
    mine = authority.leaf("client.example", common_name="alice")
    client = ClientContext(ca_file=authority.root, certfile=mine.certfile, keyfile=mine.keyfile, alpn=["http/1.1", "redis"])
    ours, theirs = connect(client, server, "a.example")
    assert ours.alpn == theirs.alpn == "redis"
    assert theirs.peer_verified and theirs.peer_certificate is not None
    assert theirs.peer_certificate.subject.rfc4514_string() == "CN=alice"


def test_files_that_cannot_be_used_are_said_in_one_line(authority: Authority, tmp_path: Path) -> None:
    missing = str(tmp_path / "missing.pem")
    with pytest.raises(OperatorError, match=r"ca_file: .*missing\.pem: No such file"):
        ClientContext(ca_file=missing)
    with pytest.raises(OperatorError, match=r"certfile: .*missing\.pem: No such file"):
        ClientContext(certfile=missing)
    with pytest.raises(OperatorError, match="not the key of"):
        ClientContext(certfile=authority.leaf("a.example").certfile, keyfile=authority.leaf("b.example").keyfile)


def test_a_server_of_another_make_over_a_socket(authority: Authority) -> None:
    """Python's ssl as the server, which speaks 1.2 alone, and a descriptor."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    files = authority.leaf("a.example")
    context.load_cert_chain(files.certfile, files.keyfile)
    left, right = socket.socketpair()
    left.settimeout(10)

    def serve() -> None:
        with context.wrap_socket(left, server_side=True) as served:
            served.recv(1)

    thread = threading.Thread(target=serve)
    thread.start()
    client = ClientContext(ca_file=authority.root)
    tls = client.connection(right, "a.example")
    tls.do_handshake()
    client.verify_name(tls, "a.example")
    with pytest.raises(HandshakeError):
        client.verify_name(tls, "b.example")
    assert TLSInfo.of(tls).version == "TLSv1.2" and TLSInfo.of(tls).peer_verified
    tls.send(b"x")
    thread.join(10)
    with pytest.raises(SSL.Error):
        tls.recv(1)
    right.close()
