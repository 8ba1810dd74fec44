"""Contexts: which certificate, which protocol, whom we believe, what survives a reload. Clients are Python's ssl and our own."""

import os
import socket
import ssl
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from OpenSSL import SSL

from muxwsgi.errors import HandshakeError, OperatorError
from muxwsgi.settings import CertificateFiles, TLSSettings
from muxwsgi.testing import connection_pair
from muxwsgi.wire.certificates import development_certificate
from muxwsgi.wire.context import ClientContext, ServerContext, TLSInfo
from tests.tls.authority import Authority


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


def settings(*certificates: CertificateFiles, **more: object) -> TLSSettings:
    return TLSSettings(certificates=certificates, **more)  # type: ignore[arg-type]


def client_context(authority: Authority | None = None, version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=authority.root if authority else None)
    if authority is None:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if version is not None:
        context.minimum_version = context.maximum_version = version
    return context


def handshake(
    server: ServerContext, client: ssl.SSLContext, name: str | None = "a.example", session: ssl.SSLSession | None = None
) -> tuple[ssl.SSLSocket, TLSInfo]:
    """Through a socketpair, the server in a thread; one byte goes back, so that tickets arrive. Raises what either side met."""
    left, right = socket.socketpair()
    left.settimeout(10)
    right.settimeout(10)
    result: list[TLSInfo | BaseException] = []

    def serve() -> None:
        try:
            tls = server.connection(left)
            tls.setblocking(True) if hasattr(tls, "setblocking") else None
            while True:
                try:
                    tls.do_handshake()
                    break
                except SSL.WantReadError:
                    left.settimeout(10)
            result.append(TLSInfo.of(tls))
            tls.send(b"x")
        except BaseException as error:
            result.append(error)
            left.close()

    left.setblocking(True)
    thread = threading.Thread(target=serve)
    thread.start()
    try:
        wrapped = client.wrap_socket(right, server_hostname=name, session=session)
        wrapped.recv(1)
    finally:
        thread.join(10)
    outcome = result[0]
    if isinstance(outcome, BaseException):
        raise outcome
    left.close()
    return wrapped, outcome


def names_of(wrapped: ssl.SSLSocket) -> set[str]:
    der = wrapped.getpeercert(True)
    assert der is not None
    from cryptography import x509

    certificate = x509.load_der_x509_certificate(der)
    return set(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(x509.DNSName))


@pytest.mark.parametrize(
    ("asked", "shown"),
    [
        ("a.example", "a.example"),
        ("A.EXAMPLE", "a.example"),
        ("b.example", "b.example"),
        ("x.wild.example", "*.wild.example"),
        ("y.x.wild.example", "a.example"),
        ("exact.wild.example", "exact.wild.example"),
        ("unknown.example", "a.example"),
        (None, "a.example"),
    ],
)
def test_the_certificate_is_chosen_by_server_name(authority: Authority, asked: str | None, shown: str) -> None:
    server = ServerContext(
        settings(*(authority.leaf(name) for name in ("a.example", "b.example", "*.wild.example", "exact.wild.example")))
    )
    wrapped, info = handshake(server, client_context(), asked)
    assert names_of(wrapped) == {shown}
    assert info.sni == (asked.lower() if asked else None)


@pytest.mark.parametrize("name", ["a.example", "b.example"])
def test_the_whole_chain_is_sent_for_every_name(authority: Authority, name: str) -> None:
    server = ServerContext(settings(authority.leaf("a.example"), authority.leaf("b.example")))
    wrapped, info = handshake(server, client_context(authority), name)  # the client has the root alone
    assert wrapped.version() == info.version == "TLSv1.3"
    assert info.cipher_bits >= 128 and info.peer_certificate is None and not info.peer_verified


def test_alpn_follows_the_servers_order_and_is_not_forced(authority: Authority) -> None:
    server = ServerContext(settings(authority.leaf("a.example"), authority.leaf("b.example")), alpn=["redis", "http/1.1"])
    for name in ("a.example", "b.example"):
        for offered, agreed in ((["http/1.1", "redis"], "redis"), (["h2", "http/1.1"], "http/1.1"), (["h2"], None), ([], None)):
            client = client_context(authority)
            if offered:
                client.set_alpn_protocols(offered)
            wrapped, info = handshake(server, client, name)
            assert wrapped.selected_alpn_protocol() == info.alpn == agreed


def test_old_versions_are_refused(authority: Authority) -> None:
    server = ServerContext(settings(authority.leaf("a.example")))
    client = client_context()
    client.set_ciphers("DEFAULT:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning):
        client.minimum_version = client.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises((ssl.SSLError, SSL.Error, ConnectionResetError)):
        handshake(server, client)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("certificates", ["none", "required"])
def test_sessions_are_resumed_also_after_a_reload(authority: Authority, version: ssl.TLSVersion, certificates: str) -> None:
    server = ServerContext(
        settings(
            authority.leaf("other.example"), authority.leaf("a.example"), client_certificates=certificates, client_ca=authority.root
        )
    )
    client = client_context(authority, version)
    if certificates == "required":
        mine = authority.leaf("client.example")
        client.load_cert_chain(mine.certfile, mine.keyfile)
    first, info = handshake(server, client)
    assert not info.resumed
    server.reload()
    second, info = handshake(server, client, session=first.session)
    assert second.session_reused and info.resumed
    assert (info.peer_certificate is not None) == (certificates == "required")


def test_sessions_are_resumed_across_processes_that_share_the_context(authority: Authority) -> None:
    server = ServerContext(settings(authority.leaf("a.example")))
    client = client_context(authority)
    first, _ = handshake(server, client)
    left, right = socket.socketpair()
    pid = os.fork()
    if pid == 0:  # the other worker
        status = 1
        try:
            right.close()
            left.setblocking(True)
            tls = server.connection(left)
            tls.do_handshake()
            tls.send(b"y" if TLSInfo.of(tls).resumed else b"n")
            status = 0
        finally:
            os._exit(status)
    left.close()
    right.settimeout(10)
    second = client.wrap_socket(right, server_hostname="a.example", session=first.session)
    assert second.recv(1) == b"y" and second.session_reused
    assert os.waitpid(pid, 0)[1] == 0
    second.close()


@pytest.mark.parametrize("wanted", ["none", "optional", "required"])
def test_client_certificates(authority: Authority, tmp_path: Path, wanted: str) -> None:
    server = ServerContext(settings(authority.leaf("a.example"), client_certificates=wanted, client_ca=authority.root))
    stranger = Authority(tmp_path, "stranger")

    def outcome(files: CertificateFiles | None) -> str:
        client = client_context(authority)
        if files is not None:
            client.load_cert_chain(files.certfile, files.keyfile)
        try:
            _, info = handshake(server, client)
        except (ssl.SSLError, SSL.Error, ConnectionResetError):
            return "refused"
        if info.peer_certificate is None:
            return "anonymous"
        assert info.peer_verified and len(info.peer_chain) >= 1
        return info.peer_certificate.subject.rfc4514_string()

    ours, theirs = authority.leaf("client.example", common_name="alice"), stranger.leaf("client.example", common_name="mallory")
    expected = {
        "none": ["anonymous", "anonymous", "anonymous"],
        "optional": ["anonymous", "CN=alice", "refused"],
        "required": ["refused", "CN=alice", "refused"],
    }
    assert [outcome(None), outcome(ours), outcome(theirs)] == expected[wanted]


def test_a_reload_changes_the_certificate_and_a_broken_one_changes_nothing(authority: Authority) -> None:
    files = authority.leaf("a.example")
    server = ServerContext(settings(files))
    new = authority.leaf("new.example")
    good_cert, good_key = Path(new.certfile).read_bytes(), Path(new.keyfile).read_bytes()
    Path(files.certfile).write_bytes(good_cert)
    with pytest.raises(OperatorError, match="not the key"):
        server.reload()
    assert names_of(handshake(server, client_context())[0]) == {"a.example"}
    Path(files.keyfile).write_bytes(good_key)
    server.reload()
    assert names_of(handshake(server, client_context())[0]) == {"new.example"}
    Path(files.certfile).write_text("nonsense")
    with pytest.raises(OperatorError, match="does not hold a certificate"):
        server.reload()
    assert names_of(handshake(server, client_context())[0]) == {"new.example"}


def test_what_is_wrong_with_the_files_is_said_in_one_line(authority: Authority, tmp_path: Path) -> None:
    good, other = authority.leaf("a.example"), authority.leaf("b.example")
    locked = authority.leaf("c.example", passphrase=b"secret")
    nonsense = str(tmp_path / "nonsense.pem")
    Path(nonsense).write_text("nonsense")
    missing = str(tmp_path / "missing.pem")
    for certfile, keyfile, words in (
        (missing, good.keyfile, [missing, "No such file"]),
        (nonsense, good.keyfile, [nonsense, "does not hold a certificate"]),
        (good.certfile, missing, [missing, "No such file"]),
        (good.certfile, nonsense, [nonsense, "does not hold a private key"]),
        (good.certfile, other.keyfile, [other.keyfile, "not the key of"]),
        (locked.certfile, locked.keyfile, [locked.keyfile, "encrypted"]),
    ):
        with pytest.raises(OperatorError) as caught:
            ServerContext(settings(CertificateFiles(certfile=certfile, keyfile=keyfile)))
        assert all(word in str(caught.value) for word in words) and "\n" not in str(caught.value)
    with pytest.raises(OperatorError, match="ca_certs"):
        ServerContext(settings(good, client_certificates="required", client_ca=nonsense))
    with pytest.raises(OperatorError, match="ciphers"):
        ServerContext(settings(good, ciphers="NO-SUCH-CIPHER"))


def test_an_expired_certificate_is_served_with_a_warning(authority: Authority, caplog: pytest.LogCaptureFixture) -> None:
    import logging

    logging.getLogger("muxwsgi").propagate = True
    ServerContext(settings(authority.leaf("a.example", days=-1)))
    assert "expired" in caplog.text


# As client


def connect(client: ClientContext, server: ServerContext, name: str) -> TLSInfo:
    import gevent

    left, right = connection_pair()
    serving = gevent.spawn(left.start_tls, server)
    try:
        inside = right.start_tls(client, server_hostname=name)
        assert inside.tls is not None
        return inside.tls
    finally:
        right.finish()
        serving.join(5)
        left.finish()


def test_our_client_verifies_chain_and_name(authority: Authority, tmp_path: Path) -> None:
    server = ServerContext(settings(authority.leaf("a.example", "127.0.0.1", "*.wild.example")))
    trusting = ClientContext(ca_file=authority.root)
    for name in ("a.example", "127.0.0.1", "x.wild.example"):
        assert connect(trusting, server, name).peer_verified
    for name in ("b.example", "127.0.0.2", "x.y.wild.example"):
        with pytest.raises(HandshakeError, match="not one for"):
            connect(trusting, server, name)
    with pytest.raises(HandshakeError, match="verify failed"):
        connect(ClientContext(), server, "a.example")
    with pytest.raises(HandshakeError, match="verify failed"):
        connect(ClientContext(ca_file=Authority(tmp_path, "other").root), server, "a.example")
    assert not connect(ClientContext(verify=False), server, "b.example").peer_verified


# The development certificate


def test_the_development_certificate_is_private_kept_and_remade(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setattr(os, "umask", os.umask)
    previous = os.umask(0)
    try:
        files = development_certificate()
    finally:
        os.umask(previous)
    assert stat.S_IMODE(os.stat(files.keyfile).st_mode) == 0o600
    assert stat.S_IMODE(os.stat(tmp_path / "muxwsgi").st_mode) == 0o700
    first = Path(files.certfile).read_bytes()
    assert Path(development_certificate().certfile).read_bytes() == first
    assert Path(development_certificate(["extra.example"]).certfile).read_bytes() != first
    os.chmod(files.keyfile, 0o644)
    assert Path(development_certificate(["extra.example"]).certfile).exists()
    assert stat.S_IMODE(os.stat(files.keyfile).st_mode) == 0o600, "a key that others could read is not used again"
    wrapped, _ = handshake(ServerContext(settings(files)), ssl.create_default_context(cafile=files.certfile), "localhost")
    assert wrapped.version() == "TLSv1.3"
    assert sorted(path.name for path in (tmp_path / "muxwsgi").iterdir()) == ["development.lock", "development.pem"]


def test_a_folder_that_cannot_be_written_is_the_operators_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "file"))
    with pytest.raises(OperatorError, match="development certificate"):
        development_certificate()


def test_the_fixture_of_other_tests_is_the_same_each_time(make_certificate: Callable[[], CertificateFiles]) -> None:
    assert make_certificate() == make_certificate()
