"""New certificates behind an open port."""

import shutil
from pathlib import Path

import pytest

from muxwsgi.errors import OperatorError
from muxwsgi.settings import CertificateFiles
from muxwsgi.wire.tls.server_context import ServerContext
from tests.tls.authority import Authority
from tests.tls.handshakes import Talk, client_context, handshake, settings, shown


def put(new: CertificateFiles, old: CertificateFiles) -> None:
    shutil.copy(new.certfile, old.certfile)
    shutil.copy(new.keyfile, old.keyfile)


@pytest.mark.parametrize("name", ["a.example", "b.example", "unknown.example", None])
def test_a_reload_changes_what_is_shown(authority: Authority, name: str | None) -> None:
    first, second = authority.leaf("a.example"), authority.leaf("b.example")
    server = ServerContext(settings(first, second))
    front = server.openssl
    put(authority.leaf("new.example", "a.example"), first)
    put(authority.leaf("newer.example", "b.example"), second)
    assert shown(handshake(server, client_context(), name)[0]) == ("b.example" if name == "b.example" else "a.example")
    server.reload()
    assert shown(handshake(server, client_context(), name)[0]) == ("newer.example" if name == "b.example" else "new.example")
    assert server.openssl is front


def test_names_come_and_go_with_a_reload(authority: Authority) -> None:
    first, second = authority.leaf("a.example"), authority.leaf("b.example")
    server = ServerContext(settings(first, second))
    put(authority.leaf("c.example"), second)
    server.reload()
    assert [shown(handshake(server, client_context(), name)[0]) for name in ("b.example", "c.example")] == ["a.example", "c.example"]


def test_a_broken_reload_changes_nothing(authority: Authority, tmp_path: Path) -> None:
    first, second = authority.leaf("a.example"), authority.leaf("b.example")
    trusted = tmp_path / "clients.pem"
    shutil.copy(authority.root, trusted)
    server = ServerContext(settings(first, second, client_certificates="optional", client_ca=str(trusted)))
    client = client_context(authority, None, authority.leaf("client.example"))
    session = handshake(server, client)[0].session
    new = authority.leaf("new.example", "a.example")

    def still_serves() -> None:
        assert shown(handshake(server, client)[0]) == "a.example"
        assert shown(handshake(server, client, "b.example")[0]) == "b.example"
        _, info = handshake(server, client, session=session)
        assert info.resumed and info.peer_verified

    shutil.copy(new.certfile, first.certfile)
    with pytest.raises(OperatorError, match="not the key"):
        server.reload()
    still_serves()
    put(new, first)
    good = Path(second.certfile).read_bytes()
    Path(second.certfile).write_text("nonsense")  # the first one is fine by now, and must not be taken alone
    with pytest.raises(OperatorError, match="does not hold a certificate"):
        server.reload()
    still_serves()
    Path(second.certfile).write_bytes(good)
    trusted.write_text("nonsense")
    with pytest.raises(OperatorError, match="ca_certs"):
        server.reload()
    still_serves()
    trusted.unlink()
    with pytest.raises(OperatorError, match=r"ca_certs.*No such file"):
        server.reload()
    still_serves()
    shutil.copy(authority.root, trusted)
    server.reload()
    assert shown(handshake(server, client)[0]) == "new.example"


def test_open_connections_go_on_and_one_in_its_handshake_gets_the_new(authority: Authority) -> None:
    files = authority.leaf("a.example")
    server = ServerContext(settings(files))
    established, begun = Talk(server, client_context()), Talk(server, client_context())
    established.handshake()
    begun.begin()
    put(authority.leaf("new.example"), files)
    for _ in range(3):  # nothing holds the contexts that are gone but the connections
        server.reload()
    for _ in range(3):
        established.ask(b"question" * 100)
        established.answer(b"answer" * 1000)
    begun.handshake()
    assert [shown(talk.client) for talk in (established, begun)] == ["a.example", "new.example"]
    begun.ask(b"hello")
