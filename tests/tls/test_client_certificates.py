"""Clients that show a certificate, may, or must."""

import ssl
from pathlib import Path

import pytest

from muxwsgi.settings import CertificateFiles
from muxwsgi.wire.tls.server_context import ServerContext
from tests.tls.authority import Authority
from tests.tls.handshakes import VERSIONS, Refused, client_context, handshake, settings


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("none", ["anonymous", "anonymous", "anonymous", "anonymous"]),
        ("optional", ["anonymous", "CN=alice", "refused", "refused"]),
        ("required", ["refused", "CN=alice", "refused", "refused"]),
    ],
)
def test_none_a_good_a_strangers_and_an_expired_certificate(
    authority: Authority, stranger: Authority, wanted: str, expected: list[str], version: ssl.TLSVersion
) -> None:
    server = ServerContext(
        settings(authority.leaf("other.example"), authority.leaf("a.example"), client_certificates=wanted, client_ca=authority.root)
    )

    def outcome(files: CertificateFiles | None) -> str:
        try:
            _, info = handshake(server, client_context(authority, version, files))
        except Refused as refused:
            assert "certificate" in str(refused.server)
            return "refused"
        if info.peer_certificate is None:
            assert not info.peer_verified and info.peer_chain == ()
            return "anonymous"
        assert info.peer_verified
        names = [certificate.subject.rfc4514_string() for certificate in info.peer_chain]
        assert names == ["CN=alice", "CN=test intermediate"] and info.peer_chain[0] == info.peer_certificate
        return info.peer_certificate.subject.rfc4514_string()

    shown = [
        None,
        authority.leaf("client.example", common_name="alice"),
        stranger.leaf("client.example", common_name="mallory"),
        authority.leaf("client.example", common_name="too late", days=-1),
    ]
    assert [outcome(files) for files in shown] == expected


def test_the_cas_that_are_asked_for_are_named_to_the_client(authority: Authority) -> None:
    from OpenSSL import SSL

    server = ServerContext(settings(authority.leaf("a.example"), client_certificates="optional", client_ca=authority.root))
    from tests.tls.handshakes import raw_client

    client, tls = raw_client(server, b"a.example")
    assert isinstance(tls, SSL.Connection)
    assert [name.CN for name in client.get_client_ca_list()] == ["test root"]


def test_other_cas_count_from_a_reload_on_for_every_name(authority: Authority, stranger: Authority, tmp_path: Path) -> None:
    trusted = tmp_path / "clients.pem"
    trusted.write_bytes(Path(authority.root).read_bytes())
    server = ServerContext(
        settings(authority.leaf("a.example"), authority.leaf("b.example"), client_certificates="required", client_ca=str(trusted))
    )
    ours, theirs = (client_context(authority, None, issuer.leaf("client.example")) for issuer in (authority, stranger))
    names = ("a.example", "b.example")
    for name in names:
        assert handshake(server, ours, name)[1].peer_verified
        with pytest.raises(Refused):
            handshake(server, theirs, name)
    trusted.write_bytes(Path(stranger.root).read_bytes())
    server.reload()
    for name in names:
        assert handshake(server, theirs, name)[1].peer_verified
        with pytest.raises(Refused):
            handshake(server, ours, name)
