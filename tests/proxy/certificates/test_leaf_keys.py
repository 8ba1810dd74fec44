"""Which kind of key leaves have, and that a client that knows no ECDSA is served where the CA is an RSA one."""

import ssl
from pathlib import Path
from typing import Any

import gevent.socket
import gevent.ssl
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from muxwsgi import Server
from muxwsgi.dial.upstream_choice import UpstreamChoice
from muxwsgi.errors import OperatorError
from muxwsgi.proxy.certificates.authority import Authority, KeyType
from muxwsgi.proxy.certificates.leaves import Leaves
from muxwsgi.proxy.proxy import Proxy
from muxwsgi.proxy.rules.message import Response
from muxwsgi.proxy.settings import ProxySettings
from tests.proxy.conftest import read_head
from tests.proxy.dialogue import read_answer

KINDS = {"ec": ec.EllipticCurvePrivateKey, "rsa": rsa.RSAPrivateKey}


@pytest.mark.parametrize("of_ca", ["ec", "rsa"])
def test_leaves_have_keys_of_the_cas_kind_unless_told_otherwise(tmp_path: Path, of_ca: KeyType) -> None:
    authority = Authority.create(tmp_path / "ca", key_type=of_ca)
    assert authority.key_type == Authority.load(tmp_path / "ca").key_type == of_ca
    assert isinstance(Leaves(authority).key, KINDS[of_ca])
    for key_type, kind in KINDS.items():
        assert isinstance(Leaves(authority, key_type=key_type).key, kind)  # type: ignore[arg-type]


def connect_without_ecdsa(port: int, ca: Path, version: ssl.TLSVersion) -> Any:
    """TLS in a tunnel, of a client that cannot verify ECDSA."""
    sock = gevent.socket.create_connection(("127.0.0.1", port), 20)
    sock.sendall(b"CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n")
    assert read_head(sock).startswith(b"HTTP/1.1 200 ")
    context = gevent.ssl.SSLContext(gevent.ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(str(ca))
    context.minimum_version = context.maximum_version = version
    context.set_ciphers("ECDHE+aRSA")
    return context.wrap_socket(sock, server_hostname="a.example")


@pytest.mark.parametrize(
    ("of_ca", "of_leaves", "served"), [("rsa", None, True), ("rsa", "rsa", True), ("rsa", "ec", False), ("ec", None, False)]
)
def test_a_client_that_knows_no_ecdsa_is_served_with_rsa(tmp_path: Path, of_ca: KeyType, of_leaves: KeyType | None, served: bool) -> None:
    Authority.create(tmp_path / "ca", key_type=of_ca)
    proxy = Proxy(ProxySettings(default_action="mitm", ca_folder=str(tmp_path / "ca"), leaf_key_type=of_leaves), upstreams=UpstreamChoice())
    proxy.on_request().do(lambda request, ctx: Response("here", 200))
    server = Server(proxy, ["127.0.0.1:0"])
    server.start()
    try:
        port = int(server.addresses[0].rpartition(":")[2])
        if not served:
            with pytest.raises(OSError):
                connect_without_ecdsa(port, tmp_path / "ca" / "ca.pem", ssl.TLSVersion.TLSv1_2)
            return
        with connect_without_ecdsa(port, tmp_path / "ca" / "ca.pem", ssl.TLSVersion.TLSv1_2) as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n")
            assert read_answer(client).body == b"here"
    finally:
        server.stop(0.1)


def test_another_kind_of_key_is_the_operators_error() -> None:
    with pytest.raises(OperatorError, match="leaf_key_type: 'dsa'"):
        ProxySettings(leaf_key_type="dsa")  # type: ignore[arg-type]
