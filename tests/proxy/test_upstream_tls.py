"""TLS with upstreams: our certificate, where they ask for one, and the versions that are taken."""

import ssl
import warnings
from pathlib import Path
from typing import Any

import gevent.ssl
import pytest

from muxwsgi.errors import OperatorError
from muxwsgi.proxy.proxy import Proxy
from muxwsgi.proxy.settings import ProxySettings
from muxwsgi.settings import CertificateFiles
from tests.proxy.accounts import clean_process, frozen_heap, nothing_left  # noqa: F401
from tests.proxy.conftest import Lab, read_head
from tests.proxy.dialogue import Road, read_answer
from tests.tls.authority import Authority

pytestmark = pytest.mark.usefixtures("nothing_left")


def serve(lab: Lab, context: Any) -> int:
    """A server that answers with the common name of the client's certificate."""

    def handle(sock: Any) -> None:
        with context.wrap_socket(sock, server_side=True) as inside:
            while read_head(inside):
                certificate = inside.getpeercert()
                name = dict(pair for (pair,) in certificate["subject"])["commonName"] if certificate else "nobody"
                inside.sendall(f"HTTP/1.1 200 OK\r\nContent-Length: {len(name)}\r\n\r\n{name}".encode())

    return lab.serve_raw(handle)


def server_context(files: CertificateFiles, clients: Authority | None = None, *, required: bool = True) -> Any:
    context = gevent.ssl.SSLContext(gevent.ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certfile, files.keyfile)
    if clients is not None:
        context.verify_mode = ssl.CERT_REQUIRED if required else ssl.CERT_OPTIONAL
        context.load_verify_locations(clients.root)
    return context


@pytest.mark.parametrize("required", [True, False])
def test_upstreams_that_ask_for_a_certificate_are_shown_ours(lab: Lab, tmp_path: Path, required: bool) -> None:
    people = Authority(tmp_path, "people")
    ours = people.leaf("proxy.example", common_name="the proxy")
    port = serve(lab, server_context(lab.certificate, people, required=required))
    road = Road(lab, "tls", port, settings=ProxySettings(upstream_cert=ours.certfile, upstream_key=ours.keyfile))
    client = road.client()
    assert [road.ask(client).body for _ in range(2)] == [b"the proxy"] * 2
    without = Road(lab, "tls", port)
    answer = without.ask(without.client())
    assert answer.status == 502 if required else answer.body == b"nobody"


def test_certificates_may_be_chosen_by_the_servers_name(lab: Lab, tmp_path: Path) -> None:
    people = Authority(tmp_path, "people")
    by_host, general = people.leaf(common_name="for one"), people.leaf(common_name="for all")
    port = serve(lab, server_context(lab.certificate, people))
    settings = ProxySettings(upstream_cert=general.certfile, upstream_key=general.keyfile)
    for name, certificate in (("localhost", b"for one"), ("LOCALHOST.", b"for one"), ("*.localhost", b"for all"), ("other.example", b"for all")):
        road = Road(lab, "tls", port, settings=settings, upstream_certificates={name: by_host})
        assert road.ask(road.client()).body == certificate


def test_a_certificate_that_is_of_no_use_is_the_operators_error(lab: Lab, tmp_path: Path) -> None:
    leaf = Authority(tmp_path).leaf("a.example")
    for settings in ({"upstream_key": leaf.keyfile}, {"upstream_cert": str(tmp_path / "none.pem")}, {"upstream_cert": leaf.certfile}):
        with pytest.raises(OperatorError):
            Proxy(ProxySettings(**settings))  # type: ignore[arg-type]
    for certificates in ({"a b": leaf}, {"a.example": CertificateFiles(certfile=leaf.certfile, keyfile=leaf.certfile)}):
        with pytest.raises(OperatorError):
            Proxy(upstream_certificates=certificates)


def of_version(files: CertificateFiles, version: str) -> Any:
    """The context of a server that speaks one version alone, as an old one would."""
    context = server_context(files)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = context.maximum_version = getattr(ssl.TLSVersion, f"TLSv1_{version[2]}" if version != "1.0" else "TLSv1")
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    return context


@pytest.mark.parametrize("minimum", ["1.0", "1.1", "1.2", "1.3"])
def test_versions_from_the_lowest_that_is_said_are_taken(lab: Lab, minimum: str) -> None:
    for version in ("1.0", "1.1", "1.2", "1.3"):
        port = serve(lab, of_version(lab.certificate, version))
        road = Road(lab, "tls", port, settings=ProxySettings(upstream_tls_min=minimum))  # type: ignore[arg-type]
        answer = road.ask(road.client())
        assert answer.status == (200 if version >= minimum else 502), version


def test_another_version_is_the_operators_error() -> None:
    with pytest.raises(OperatorError, match="upstream_tls_min"):
        ProxySettings(upstream_tls_min="0.9")  # type: ignore[arg-type]


@pytest.mark.parametrize("accepted", [False, True])
def test_heads_that_are_not_quite_http_are_taken_where_the_operator_says_so(lab: Lab, accepted: bool) -> None:
    def old(sock: Any) -> None:
        while read_head(sock):
            sock.sendall(b"HTTP/1.0 200 OK\nServer: old\nContent-Type: text/html\n  ; charset=latin-1\nContent-length: 2\n\nok")
            return

    road = Road(lab, "plain", lab.serve_raw(old), settings=ProxySettings(accept_invalid_http_response=accepted))
    client = road.client()
    client.sendall(road.request())
    answer = read_answer(client)
    assert answer.status == (200 if accepted else 502)
    if accepted:
        assert answer.body == b"ok" and b"Content-Type: text/html ; charset=latin-1\r\n" in answer.head


def test_what_a_proxy_has_to_put_right_arrives_right(lab: Lab) -> None:
    def odd(sock: Any) -> None:
        while read_head(sock):
            sock.sendall(b"HTTP/1.1 200 OK\r\nX : y\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok")

    road = Road(lab, "plain", lab.serve_raw(odd))
    client = road.client()
    for _ in range(2):
        answer = road.ask(client)
        assert answer.body == b"ok" and b"\r\nX: y\r\n" in answer.head and answer.head.lower().count(b"content-length") == 1
