"""The server's side of a handshake: which certificate, which protocol, which version; and what is said of files that cannot be used."""

import logging
import ssl
import sys
from pathlib import Path
from types import TracebackType

import pytest
from OpenSSL import SSL

from muxwsgi.errors import OperatorError
from muxwsgi.settings import CertificateFiles
from muxwsgi.wire.tls import server_context as context_module
from muxwsgi.wire.tls.info import TLSInfo
from muxwsgi.wire.tls.server_context import ServerContext
from tests.tls.authority import Authority
from tests.tls.handshakes import VERSIONS, Refused, client_context, handshake, raw_client, settings, shown


@pytest.fixture(scope="module")
def many(authority: Authority) -> ServerContext:
    leaves = [authority.leaf(*names) for names in (["a.example"], ["b.example", "192.0.2.1"], ["*.wild.example"], ["exact.wild.example"])]
    return ServerContext(settings(*leaves, authority.leaf(common_name="cn.example")))


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("a.example", "a.example"),
        ("A.EXAMPLE", "a.example"),
        ("b.example", "b.example"),
        ("x.wild.example", "*.wild.example"),
        ("exact.wild.example", "exact.wild.example"),
        ("y.x.wild.example", "a.example"),
        ("wild.example", "a.example"),
        ("cn.example", "cn.example"),
        ("unknown.example", "a.example"),
        (None, "a.example"),
    ],
)
def test_the_certificate_is_chosen_by_server_name(many: ServerContext, asked: str | None, expected: str, version: ssl.TLSVersion) -> None:
    client, info = handshake(many, client_context(version=version), asked)
    assert shown(client) == expected
    assert info.sni == (asked.lower() if asked else None)


def test_a_client_that_sends_an_address_as_server_name_gets_its_certificate(many: ServerContext) -> None:
    client, _ = raw_client(many, b"192.0.2.1")
    certificate = client.get_peer_certificate(as_cryptography=True)
    assert certificate is not None and certificate.subject.rfc4514_string() == "CN=b.example"


def test_a_common_name_does_not_count_beside_a_san(authority: Authority) -> None:
    server = ServerContext(settings(authority.leaf("a.example"), authority.leaf("b.example", common_name="cn.example")))
    assert shown(handshake(server, client_context(), "cn.example")[0]) == "a.example"


def test_what_a_client_sends_as_server_name_cannot_forge_a_line_of_a_log(many: ServerContext) -> None:
    _, tls = raw_client(many, b"a.example\r\n[error] forged\x1b[2J \xff")
    assert TLSInfo.of(tls).sni == r"a.example\x0d\x0a[error] forged\x1b[2j \xff"


@pytest.mark.parametrize("version", VERSIONS)
def test_the_whole_chain_is_sent_for_every_name(authority: Authority, stranger: Authority, version: ssl.TLSVersion) -> None:
    server = ServerContext(settings(authority.leaf("a.example"), authority.leaf("b.example"), stranger.leaf("c.example")))
    for name, issuer in (("a.example", authority), ("b.example", authority), ("c.example", stranger)):
        client, info = handshake(server, client_context(issuer, version), name)  # which has the root alone, and verifies
        assert client.version() == info.version and info.cipher_bits >= 128 and info.cipher
        assert info.peer_certificate is None and info.peer_chain == () and not info.peer_verified and not info.resumed


def test_alpn_follows_the_servers_order_and_is_not_forced(authority: Authority) -> None:
    server = ServerContext(settings(authority.leaf("a.example"), authority.leaf("b.example"), unknown_alpn="ignore"), alpn=["redis", "http/1.1"])
    for name in ("a.example", "b.example"):
        for offered, agreed in ((["http/1.1", "redis"], "redis"), (["h2", "http/1.1"], "http/1.1"), (["h2"], None), ([], None)):
            client = client_context(authority)
            if offered:
                client.set_alpn_protocols(offered)
            side, info = handshake(server, client, name)
            assert side.selected_alpn_protocol() == info.alpn == agreed


def test_versions_before_1_2_are_refused(authority: Authority) -> None:
    server = ServerContext(settings(authority.leaf("a.example"), ciphers="ALL:@SECLEVEL=0"))  # not even then
    client = client_context()
    client.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning):
        client.minimum_version = client.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(Refused, match="unsupported protocol"):
        handshake(server, client)


@pytest.mark.parametrize("cipher", ["AES128-GCM-SHA256", "ECDHE-ECDSA-AES128-SHA256", "ECDHE-ECDSA-AES256-SHA"])
def test_ciphers_without_forward_secrecy_or_aead_are_refused_unless_asked_for(authority: Authority, cipher: str) -> None:
    client = client_context(version=ssl.TLSVersion.TLSv1_2)
    client.set_ciphers(cipher)
    files = authority.leaf("a.example")
    with pytest.raises(Refused, match="no shared cipher"):
        handshake(ServerContext(settings(files)), client)
    if cipher.startswith("ECDHE"):  # the other is for RSA keys
        assert handshake(ServerContext(settings(files, ciphers=cipher)), client)[1].cipher == cipher


def test_a_client_cannot_renegotiate(authority: Authority) -> None:
    tls = ServerContext(settings(authority.leaf("a.example"))).connection(None)
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_max_proto_version(SSL.TLS1_2_VERSION)
    client = SSL.Connection(context)
    client.set_connect_state()
    outcome = ""
    for step in range(8):
        if step == 4:
            assert tls.get_finished() is not None
            client.renegotiate()
        try:
            client.do_handshake()
        except SSL.WantReadError:
            tls.bio_write(client.bio_read(1 << 20))
        except SSL.Error as error:
            outcome = error.args[0][0][-1]
            break
        try:
            tls.do_handshake() if step < 4 else tls.recv(1)
        except SSL.WantReadError:
            pass
        try:
            client.bio_write(tls.bio_read(1 << 20))
        except SSL.WantReadError:
            pass
    assert outcome == "no renegotiation" and tls.total_renegotiations() == 0


def test_idle_connections_keep_no_record_buffers(authority: Authority) -> None:
    assert ServerContext(settings(authority.leaf("a.example"))).openssl.set_mode(0) & SSL.MODE_RELEASE_BUFFERS


@pytest.mark.parametrize("fault", [LookupError("a bug"), KeyboardInterrupt()])
def test_a_fault_while_the_certificate_is_chosen_refuses_the_connection(
    authority: Authority, fault: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = ServerContext(settings(authority.leaf("a.example")))
    told: list[BaseException | None] = []

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        told.append(error.__cause__)

    def fail(self: object, name: str | None) -> SSL.Context:
        raise fault

    monkeypatch.setattr(sys, "excepthook", hook)
    monkeypatch.setattr(context_module._Certificates, "context_for", fail)
    with pytest.raises(Refused):
        handshake(server, client_context())
    assert told == [fault]


# Files


def test_what_is_wrong_with_the_files_is_said_in_one_line(authority: Authority, tmp_path: Path) -> None:
    good, other = authority.leaf("a.example"), authority.leaf("b.example")
    locked = authority.leaf("c.example", passphrase=b"secret")

    def file(name: str, text: str) -> str:
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    pem = Path(good.certfile).read_text()
    nonsense, missing, folder = file("nonsense.pem", "nonsense"), str(tmp_path / "missing.pem"), str(tmp_path)
    cut = file("cut.pem", pem[:300] + "\n-----END CERTIFICATE-----\n")
    openssl_only = file("trusted.pem", pem.replace("BEGIN CERT", "BEGIN TRUSTED CERT").replace("END CERT", "END TRUSTED CERT"))
    old_locked = file(
        "old.key",
        "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00112233445566778899AABBCCDDEEFF\n\n"
        + "AAAA" * 16
        + "\n-----END RSA PRIVATE KEY-----\n",
    )
    no_signatures = file("x25519.key", X25519_KEY)
    for certfile, keyfile, words in (
        (missing, good.keyfile, ["certfile", missing, "No such file"]),
        (folder, good.keyfile, ["certfile", folder, "Is a directory"]),
        (nonsense, good.keyfile, ["certfile", nonsense, "does not hold a certificate"]),
        (good.keyfile, good.keyfile, ["certfile", good.keyfile, "does not hold a certificate"]),
        (cut, good.keyfile, ["certfile", cut, "does not hold a certificate"]),
        (openssl_only, good.keyfile, ["certfile", openssl_only, "cert"]),
        (good.certfile, missing, ["keyfile", missing, "No such file"]),
        (good.certfile, folder, ["keyfile", folder, "Is a directory"]),
        (good.certfile, nonsense, ["keyfile", nonsense, "does not hold a private key"]),
        (good.certfile, good.certfile, ["keyfile", good.certfile, "does not hold a private key"]),
        (good.certfile, other.keyfile, ["keyfile", other.keyfile, "not the key of", good.certfile]),
        (good.certfile, no_signatures, ["keyfile", no_signatures, "not the key of"]),
        (locked.certfile, locked.keyfile, ["keyfile", locked.keyfile, "encrypted"]),
        (good.certfile, old_locked, ["keyfile", old_locked, "encrypted"]),
    ):
        for files in ((CertificateFiles(certfile=certfile, keyfile=keyfile),), (good, CertificateFiles(certfile=certfile, keyfile=keyfile))):
            with pytest.raises(OperatorError) as caught:
                ServerContext(settings(*files))
            assert all(word in str(caught.value) for word in words), str(caught.value)
            assert "\n" not in str(caught.value)
    for client_ca, words in ((nonsense, [nonsense, "CA certificates"]), (missing, [missing, "No such file"])):
        with pytest.raises(OperatorError) as caught:
            ServerContext(settings(good, client_certificates="required", client_ca=client_ca))
        assert all(word in str(caught.value) for word in ["ca_certs", *words])
    with pytest.raises(OperatorError, match="ciphers"):
        ServerContext(settings(good, ciphers="NO-SUCH-CIPHER"))


X25519_KEY = """-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VuBCIEIHB2vZTcXvEKGjcdY1FByAIEPdAHyF+gsOQbCFMnzWpT
-----END PRIVATE KEY-----
"""


def test_a_certificate_and_its_key_may_be_in_one_file(authority: Authority, tmp_path: Path) -> None:
    files = authority.leaf("a.example")
    both = tmp_path / "both.pem"
    both.write_bytes(Path(files.keyfile).read_bytes() + Path(files.certfile).read_bytes())
    server = ServerContext(settings(CertificateFiles(certfile=str(both), keyfile=str(both))))
    assert shown(handshake(server, client_context(authority))[0]) == "a.example"


@pytest.mark.parametrize(("since", "days", "words"), [(-20, -1, "expired on"), (1, 2, "not valid before")])
def test_a_certificate_out_of_its_time_is_served_with_a_warning(
    authority: Authority, caplog: pytest.LogCaptureFixture, since: int, days: int, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("muxwsgi"), "propagate", True)
    files = authority.leaf("a.example", since=since, days=days)
    server = ServerContext(settings(files))
    assert [(files.certfile in record.getMessage(), words in record.getMessage()) for record in caplog.records] == [(True, True)]
    assert shown(handshake(server, client_context())[0]) == "a.example"
