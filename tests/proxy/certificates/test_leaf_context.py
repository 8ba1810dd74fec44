"""Leaves as clients see them: curl and Python's ssl, chains, ALPN, resumption, the operator's own certificates."""

import http.client
import socket
import ssl
import subprocess
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from OpenSSL import SSL

from muxwsgi.errors import HandshakeError, OperatorError
from muxwsgi.names import InvalidName
from muxwsgi.proxy.certificates import leaf_context
from muxwsgi.proxy.certificates.authority import Authority
from muxwsgi.proxy.certificates.leaf_context import LeafContext
from muxwsgi.proxy.certificates.leaves import Leaves
from muxwsgi.proxy.certificates.passthrough import PassThrough
from muxwsgi.settings import CertificateFiles
from muxwsgi.testing import connection_pair
from muxwsgi.wire.connection import Connection
from muxwsgi.wire.tls.client_context import ClientContext
from muxwsgi.wire.tls.info import TLSInfo
from tests.proxy.certificates.company import Company
from tests.proxy.certificates.serving import serving
from tests.tls.authority import Authority as OtherAuthority
from tests.tls.handshakes import VERSIONS, Refused, handshake, shown


@pytest.fixture(params=["pyOpenSSL's own functions", "OpenSSL directly"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The private names, and what serves where they should go."""
    if request.param == "pyOpenSSL's own functions":
        for name in ("_prepare", "_begin", "_show", "_begin_shown"):
            monkeypatch.setattr(leaf_context, name, getattr(leaf_context, f"{name}_public"))
    return str(request.param)


@pytest.fixture
def context(leaves: Leaves) -> LeafContext:
    return LeafContext(leaves)


def client(folder: Path, version: ssl.TLSVersion | None = None, alpn: list[str] | None = None) -> ssl.SSLContext:
    made = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    made.verify_flags |= ssl.VERIFY_X509_STRICT
    if version is not None:
        made.minimum_version = made.maximum_version = version
    if alpn:
        made.set_alpn_protocols(alpn)
    return made


def test_the_fast_way_is_the_one_in_use() -> None:
    assert leaf_context._show is leaf_context._show_direct and leaf_context._begin is leaf_context._begin_direct, "pyOpenSSL has changed"


# Real clients


def test_curl_takes_a_leaf_for_a_name_and_one_for_an_address(context: LeafContext, folder: Path) -> None:
    with serving(lambda: context.for_host("site.example", ("127.0.0.1",))) as (port, seen):
        for url, more in ((f"https://site.example:{port}/", ["--resolve", f"site.example:{port}:127.0.0.1"]), (f"https://127.0.0.1:{port}/", [])):
            command = ["curl", "-sS", "--noproxy", "*", "--max-time", "20", "--cacert", str(folder / "ca.pem"), *more, url]
            done = subprocess.run(command, capture_output=True, timeout=30, check=False)
            assert (done.returncode, done.stdout) == (0, b"hello"), done.stderr
    assert [info.sni for info in seen if isinstance(info, TLSInfo)] == ["site.example", None]


def test_curl_refuses_a_leaf_for_another_host_and_one_of_a_ca_that_it_was_not_told_of(context: LeafContext, folder: Path) -> None:
    with serving(lambda: context.for_host("other.example")) as (port, seen):
        base = ["curl", "-sS", "--noproxy", "*", "--max-time", "20", f"https://127.0.0.1:{port}/"]
        assert subprocess.run([*base, "--cacert", str(folder / "ca.pem")], capture_output=True, timeout=30, check=False).returncode == 60
        assert subprocess.run(base, capture_output=True, timeout=30, check=False).returncode == 60
    assert isinstance(seen[-1], HandshakeError)
    learning = PassThrough(learn_after=1)
    assert learning.rejected("other.example", str(seen[-1])) and learning.covers("other.example")


def test_http_client_resumes_its_session_over_real_sockets(context: LeafContext, folder: Path) -> None:
    trusting = client(folder)
    with serving(lambda: context.for_host("localhost")) as (port, seen):
        session = None
        for _ in range(3):
            with socket.create_connection(("127.0.0.1", port), timeout=20) as sock:
                with trusting.wrap_socket(sock, server_hostname="localhost", session=session) as tls:
                    tls.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
                    answer = http.client.HTTPResponse(tls)
                    answer.begin()
                    assert answer.read() == b"hello"
                    session = tls.session
    assert [info.resumed for info in seen if isinstance(info, TLSInfo)] == [False, True, True]


@pytest.mark.parametrize("layered", [False, True])
def test_our_own_client_takes_a_leaf_on_a_descriptor_and_in_another_stream(context: LeafContext, folder: Path, layered: bool) -> None:
    import gevent

    if layered:
        ours, theirs = connection_pair()
    else:
        near, far = socket.socketpair()
        ours, theirs = Connection.from_socket(near), Connection.from_socket(far)
    trusting = ClientContext(ca_file=str(folder / "ca.pem"))
    connecting = gevent.spawn(theirs.start_tls, trusting, server_hostname="a.example")
    inside = ours.start_tls(context.for_host("a.example"))
    outside = connecting.get(timeout=10)
    outside.sendall(b"hello")
    assert inside.recv(10) == b"hello" and inside.tls is not None and inside.tls.sni == "a.example"
    outside.finish()
    inside.finish()


@pytest.mark.parametrize("version", VERSIONS)
def test_an_rsa_leaf_serves_a_client_that_knows_no_ecdsa(authority: Authority, folder: Path, version: ssl.TLSVersion) -> None:
    context = LeafContext(Leaves(authority, key_type="rsa"))
    trusting = client(folder, version)
    trusting.set_ciphers("ECDHE-RSA-AES128-GCM-SHA256")
    handshake(context.for_host("a.example"), trusting)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_intermediates_are_sent_and_the_root_is_not(tmp_path: Path, version: ssl.TLSVersion) -> None:
    company = Company(tmp_path / "company")
    context = LeafContext(Leaves(Authority.load(company.folder)))
    trusting = SSL.Context(SSL.TLS_CLIENT_METHOD)
    trusting.load_verify_locations(str(company.root))
    trusting.set_verify(SSL.VERIFY_PEER)
    server, other = context.for_host("a.example").connection(None), SSL.Connection(trusting)
    other.set_connect_state()
    for _ in range(3):
        for side, peer in ((other, server), (server, other)):
            try:
                side.do_handshake()
            except SSL.WantReadError:
                pass
            try:
                peer.bio_write(side.bio_read(1 << 20))
            except SSL.WantReadError:
                pass
    chain = other.get_peer_cert_chain(as_cryptography=True) or []
    assert len(chain) == 2 and chain[1] == company.certificate
    handshake(context.for_host("a.example"), client(company.folder, version))


# What is agreed on


@pytest.mark.parametrize("version", VERSIONS)
def test_each_connection_has_its_own_leaf(context: LeafContext, folder: Path, version: ssl.TLSVersion, way: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for host in ("a.example", "b.example", "192.0.2.7", "a.example"):
            got, info = handshake(context.for_host(host), client(folder, version), host)
            assert shown(got) == host
            assert info.sni == (None if host[0].isdigit() else host)


@pytest.mark.parametrize(
    ("offered", "asked", "agreed"),
    [
        (("http/1.1",), ["h2", "http/1.1"], "http/1.1"),
        (("h2", "http/1.1"), ["http/1.1", "h2"], "h2"),
        (("http/1.1",), ["h2"], None),
        (("http/1.1",), None, None),
        ((), ["http/1.1"], None),
    ],
)
def test_the_first_of_our_protocols_that_the_client_knows_is_agreed_on(
    leaves: Leaves, folder: Path, offered: tuple[str, ...], asked: list[str] | None, agreed: str | None
) -> None:
    context = LeafContext(leaves, alpn=offered)
    got, info = handshake(context.for_host("a.example"), client(folder, alpn=asked))
    assert got.selected_alpn_protocol() == info.alpn == agreed


def test_versions_before_1_2_are_refused(context: LeafContext) -> None:
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    old.set_ciphers("DEFAULT@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    with pytest.raises(Refused):
        handshake(context.for_host("a.example"), old)


def test_a_name_that_is_none_is_refused_before_the_handshake(leaves: Leaves, own: CertificateFiles) -> None:
    for context in (LeafContext(leaves), LeafContext(leaves, own={"own.example": own})):
        with pytest.raises(InvalidName):
            context.for_host("../../etc/passwd")


# Resumption


@pytest.mark.parametrize("version", VERSIONS)
def test_a_returning_client_resumes_its_session(context: LeafContext, folder: Path, version: ssl.TLSVersion) -> None:
    trusting = client(folder, version)
    first, info = handshake(context.for_host("a.example"), trusting)
    assert not info.resumed
    handshake(context.for_host("b.example"), trusting, "b.example")
    second, info = handshake(context.for_host("a.example"), trusting, session=first.session)
    assert info.resumed and second.session_reused and info.sni == "a.example"


@pytest.mark.parametrize("version", VERSIONS)
def test_a_session_is_not_resumed_for_another_host(
    leaves: Leaves, folder: Path, own: CertificateFiles, version: ssl.TLSVersion, way: str
) -> None:
    """Not for another leaf, nor for another name under the same certificate of the operator's."""
    context = LeafContext(leaves, own={"*.own.example": own})
    trusting = client(folder, version)
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    hosts = ["a.example", "b.example", "1.own.example", "2.own.example"]
    for one in hosts:
        session = handshake(context.for_host(one), trusting, one)[0].session
        for other in hosts:
            got, info = handshake(context.for_host(other), trusting, other, session)
            assert info.resumed == got.session_reused == (one == other and way == "OpenSSL directly")
            assert info.sni == other


def test_a_session_of_another_context_is_not_resumed(leaves: Leaves, folder: Path) -> None:
    trusting = client(folder)
    session = handshake(LeafContext(leaves).for_host("a.example"), trusting)[0].session
    assert not handshake(LeafContext(leaves).for_host("a.example"), trusting, session=session)[1].resumed


# The operator's own certificates


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> OtherAuthority:
    return OtherAuthority(tmp_path_factory.mktemp("own"))


@pytest.fixture(scope="module")
def own(others: OtherAuthority) -> CertificateFiles:
    return others.leaf("own.example", "*.own.example", "192.0.2.1")


@pytest.fixture
def with_own(leaves: Leaves, own: CertificateFiles, others: OtherAuthority) -> Iterator[LeafContext]:
    exact = others.leaf("exact.own.example")
    yield LeafContext(leaves, own={"own.example": own, "*.OWN.example.": own, "exact.own.example": exact, "192.0.2.1": own})


@pytest.mark.parametrize("host", ["own.example", "any.own.example", "ANY.own.example.", "192.0.2.1"])
def test_an_own_certificate_wins_over_minting(with_own: LeafContext, others: OtherAuthority, host: str) -> None:
    trusting = ssl.create_default_context(cafile=others.root)
    got, _ = handshake(with_own.for_host(host), trusting, host.rstrip("."))
    assert shown(got) == "own.example" and with_own.leaves.minted == 0


def test_an_exact_name_wins_over_a_wildcard_which_is_for_one_label(with_own: LeafContext, others: OtherAuthority, folder: Path) -> None:
    trusting = ssl.create_default_context(cafile=others.root)
    assert shown(handshake(with_own.for_host("exact.own.example"), trusting, "exact.own.example")[0]) == "exact.own.example"
    assert with_own.leaves.minted == 0
    assert shown(handshake(with_own.for_host("a.b.own.example"), client(folder), "a.b.own.example")[0]) == "a.b.own.example"


def test_own_certificates_agree_on_protocols_as_leaves_do(leaves: Leaves, own: CertificateFiles, others: OtherAuthority) -> None:
    context = LeafContext(leaves, alpn=["http/1.1"], own={"own.example": own})
    trusting = ssl.create_default_context(cafile=others.root)
    trusting.set_alpn_protocols(["http/1.1"])
    assert handshake(context.for_host("own.example"), trusting, "own.example")[1].alpn == "http/1.1"


def test_own_certificates_that_cannot_be_served_are_the_operators_fault(
    leaves: Leaves, own: CertificateFiles, others: OtherAuthority, tmp_path: Path
) -> None:
    missing = CertificateFiles(certfile=str(tmp_path / "none.pem"), keyfile=own.keyfile)
    other_key = CertificateFiles(certfile=own.certfile, keyfile=others.leaf("b").keyfile)
    for pattern, files, said in (
        ("own.example", missing, "No such file"),
        ("own.example", other_key, "is not the key of"),
        ("elsewhere.example", own, r"is not for elsewhere\.example but for own\.example, \*\.own\.example"),
        ("*.a.own.example", own, "is not for"),
        ("a b", own, "'a b' is neither a host"),
        ("*", own, "is neither a host"),
    ):
        with pytest.raises(OperatorError, match=said):
            LeafContext(leaves, own={pattern: files})
