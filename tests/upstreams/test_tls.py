"""TLS with servers: what is verified, what is offered, and what openssl s_server sees."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from muxwsgi.settings import CertificateFiles
from muxwsgi.settings.upstream import parse_upstream
from muxwsgi.upstreams.upstreams import Upstreams
from tests.dial.conftest import zone
from tests.mux.conftest import bounded
from tests.pairs import tcp_pair
from tests.ports import free_port
from tests.proxy.clients.services import listens, program, running
from tests.tls.authority import Authority

from .servers import Named, made, said, session_of, upstream_of

__all__ = ["bounded"]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@contextmanager
def s_server(folder: Path, root: str, leaf: CertificateFiles, *options: str) -> Iterator[int]:
    """`openssl s_server`, which says in its answer to a request what the handshake agreed on."""
    port = free_port()
    chain = folder / "chain.pem"  # -cert2, which -servername needs, has no option for its chain
    chain.write_text(Path(leaf.certfile).read_text() + Path(root).read_text())
    command = (
        *(program("openssl", "openssl"), "s_server", "-accept", f"127.0.0.1:{port}", "-cert", leaf.certfile, "-key", leaf.keyfile),
        *("-CAfile", chain, "-www", *options),
    )
    with running(*command, log=folder / "s_server.log", ready=lambda: listens(port)):
        yield port


def page(port: int, **table: Any) -> str:
    """What s_server says, and the ALPN id."""
    with upstream_of(f"127.0.0.1:{port}", retries=0, ssl=True, **table) as upstream:
        ours, theirs = tcp_pair()
        try:
            with session_of(upstream, ours) as session:
                assert session.connection is not None
                session.connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
                received = b""
                while data := session.connection.recv():
                    received += data
                agreed = session.connection.tls
                assert agreed is not None
                return f"{received.decode()}agreed on {agreed.alpn}"
        finally:
            ours.finish()
            theirs.finish()


def test_sni_alpn_and_the_client_certificate_arrive(tmp_path: Path, authority: Authority) -> None:
    # The server shows the certificate of db.example only for that server name.
    leaf, ann = authority.leaf("db.example"), authority.leaf("ann.example", common_name="ann")
    options = ("-Verify", "3", "-verify_return_error", "-servername", "db.example", "-cert2", leaf.certfile)
    with s_server(tmp_path, authority.root, authority.leaf("default.example"), *options, "-key2", leaf.keyfile) as port:
        text = page(port, ca_file=authority.root, sni="db.example", crt=ann.certfile, key=ann.keyfile)
        assert "CN = ann" in text or "CN=ann" in text
    with s_server(tmp_path, authority.root, leaf, "-alpn", "mqtt") as port:
        assert page(port, ca_file=authority.root, verifyhost="db.example", alpn=["xmpp", "mqtt"]).endswith("agreed on mqtt")


@pytest.mark.parametrize(
    ("names", "table", "failure"),
    [
        (("db.example",), {"sni": "db.example"}, None),
        (("127.0.0.1",), {}, None),
        (("db.example",), {"verifyhost": "db.example"}, None),
        (("db.example",), {"verifyhost": "db.example", "sni": "other.example"}, None),
        (("db.example",), {}, "the certificate is not one for '127.0.0.1'"),
        (("db.example",), {"sni": "other.example"}, "the certificate is not one for 'other.example'"),
    ],
)
def test_the_certificate_has_to_be_for_the_name(
    names: tuple[str, ...], table: dict[str, str], failure: str | None, tmp_path: Path, authority: Authority
) -> None:
    with s_server(tmp_path, authority.root, authority.leaf(*names)) as port, upstream_of(
        f"127.0.0.1:{port}", retries=0, fall=1, inter=60, ssl=True, ca_file=authority.root, **table
    ) as upstream:
        ours, theirs = tcp_pair()
        if failure is None:
            with session_of(upstream, ours) as session:
                assert session.connection is not None and session.connection.tls is not None
        else:
            assert failure in said(upstream)
            assert not upstream.servers[0].state.up
        ours.finish()
        theirs.finish()


def test_a_certificate_of_a_strange_authority_is_refused(tmp_path: Path, authority: Authority) -> None:
    (tmp_path / "strange").mkdir()
    strange = Authority(tmp_path / "strange", "strange")
    with s_server(tmp_path, strange.root, strange.leaf("127.0.0.1")) as port:
        with upstream_of(f"127.0.0.1:{port}", retries=0, ssl=True, ca_file=authority.root) as upstream:
            assert "certificate verify failed" in said(upstream)
        with upstream_of(f"127.0.0.1:{port}", retries=0, ssl=True) as upstream:  # nor do the system's CAs know it
            assert "certificate verify failed" in said(upstream)


def test_verification_is_off_only_if_it_is_said_and_each_start_says_so(
    tmp_path: Path, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    with s_server(tmp_path, authority.root, authority.leaf("other.example")) as port:
        assert "Cipher" in page(port, verify="none")
        assert f'upstream shop: the certificate of server 127.0.0.1:{port} is not verified (verify = "none")' in caplog.text


def test_the_name_of_the_address_is_verified_and_sent(tmp_path: Path, authority: Authority) -> None:
    leaf = authority.leaf("db.example")
    named = ("-servername", "db.example", "-cert2", leaf.certfile, "-key2", leaf.keyfile)
    with s_server(tmp_path, authority.root, authority.leaf("default.example"), *named) as port:
        settings = parse_upstream("shop", {"server": [f"db.example:{port}"], "ssl": True, "ca_file": authority.root}, "shop")
        with made(Upstreams([settings], resolver=zone({"db.example": ["127.0.0.1"]}))) as upstreams:
            ours, theirs = tcp_pair()
            with session_of(upstreams.named("shop"), ours) as session:
                assert session.connection is not None and session.connection.tls is not None
            ours.finish()
            theirs.finish()


def test_a_server_that_does_not_answer_the_handshake_costs_the_connect_timeout(authority: Authority) -> None:
    tls = {"ssl": True, "ca_file": authority.root}
    with Named("", greets=False) as silent, upstream_of(silent, retries=0, connect_timeout=0.2, **tls) as upstream:
        assert said(upstream) == "TLS: no answer to the TLS handshake"
        assert upstream.servers[0].taken == 0


def test_servers_with_the_same_settings_share_a_context(authority: Authority) -> None:
    table = {"server": ["a:1", "b:1", {"address": "c:1", "sni": "c.example"}], "ssl": True, "ca_file": authority.root}
    upstreams = Upstreams([parse_upstream("shop", table, "shop")])
    contexts = [server._tls for server in upstreams.named("shop").servers]
    assert contexts[0] is contexts[1] is not contexts[2]

