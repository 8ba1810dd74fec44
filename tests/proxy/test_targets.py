"""Hosts and ports that are none: the client is told while it can be."""

from typing import Any

import pytest

from muxwsgi.proxy.rules.message import Response
from tests.proxy.accounts import clean_process, frozen_heap, nothing_left  # noqa: F401
from tests.proxy.conftest import Lab, read_head
from tests.proxy.dialogue import Upstream, field, read_answer, read_exactly

pytestmark = pytest.mark.usefixtures("nothing_left")

NO_HOSTS = {
    "300 bytes": b"a" * 300,
    "300 bytes in labels": b"abcdefghi." * 30 + b"example",
    "a label of 64 bytes": b"a" * 64 + b".example",
    "raw UTF-8": "bücher.example".encode(),
    "percent-encoded": b"b%C3%BCcher.example",
    "an empty label": b"a..example",
    "a hyphen first": b"-a.example",
    "a tilde": b"a~b.example",
    "a number too large": b"256.256.256.256",
}


@pytest.mark.parametrize("action", ["accept", "mitm"])
@pytest.mark.parametrize("host", NO_HOSTS)
def test_connect_to_what_is_not_a_host_is_refused_before_it_is_agreed_to(lab: Lab, action: str, host: str) -> None:
    proxy = lab.proxy(record=True)
    getattr(proxy.on_connect(), action)()
    client = lab.connect(lab.serve_proxy(proxy))
    client.sendall(b"CONNECT %b:443 HTTP/1.1\r\nHost: x\r\n\r\n" % NO_HOSTS[host])
    assert read_answer(client).status == 400


@pytest.mark.parametrize("port", [0, 65536, 99999])
@pytest.mark.parametrize("action", ["accept", "mitm"])
def test_connect_to_what_is_not_a_port_is_refused_too(lab: Lab, action: str, port: int) -> None:
    proxy = lab.proxy()
    getattr(proxy.on_connect(), action)()
    client = lab.connect(lab.serve_proxy(proxy))
    client.sendall(b"CONNECT 127.0.0.1:%d HTTP/1.1\r\nHost: x\r\n\r\n" % port)
    assert read_answer(client).status == 400


@pytest.mark.parametrize("host", NO_HOSTS)
def test_a_request_to_what_is_not_a_host_is_refused(lab: Lab, host: str) -> None:
    client = lab.connect(lab.serve_proxy(lab.proxy()))
    client.sendall(b"GET http://%b/ HTTP/1.1\r\nHost: x\r\n\r\n" % NO_HOSTS[host])
    assert read_answer(client).status == 400


@pytest.mark.parametrize("action", ["accept", "mitm"])
def test_a_socks_client_is_told_so_too(lab: Lab, action: str) -> None:
    proxy = lab.proxy()
    getattr(proxy.on_connect(), action)()
    client = lab.connect(lab.serve_proxy(proxy))
    client.sendall(b"\x05\x01\x00\x05\x01\x00\x03\x0aa..example\x01\xbb")
    assert read_exactly(client, 4) == b"\x05\x00\x05\x04"  # RFC 1928 section 6: host unreachable


def test_rules_may_give_a_meaning_to_what_is_not_a_host(lab: Lab) -> None:
    upstream = Upstream(lab)
    proxy = lab.proxy()
    goes_to = f"127.0.0.1:{upstream.port}"

    @proxy.on_connect()
    def elsewhere(host: str, ctx: Any) -> Any:
        from muxwsgi.proxy import Accept, Hijack

        if host.startswith("a~b"):
            return Accept(), goes_to
        return Hijack(lambda connection, ctx: connection.sendall(b"taken"))

    port = lab.serve_proxy(proxy)
    client = lab.connect(port)
    client.sendall(b"CONNECT a~b.example:80 HTTP/1.1\r\nHost: x\r\n\r\n")
    assert read_head(client).startswith(b"HTTP/1.1 200 ")
    client = lab.connect(port)
    client.sendall(b"CONNECT c~d.example:80 HTTP/1.1\r\nHost: x\r\n\r\n")
    assert read_head(client).startswith(b"HTTP/1.1 200 ") and read_exactly(client, 5) == b"taken"


def test_a_rule_on_errors_has_the_last_word(lab: Lab) -> None:
    proxy = lab.proxy()
    proxy.on_error().do(lambda fault, ctx: Response("no such place", 404))
    client = lab.connect(lab.serve_proxy(proxy))
    client.sendall(b"CONNECT a~b.example:443 HTTP/1.1\r\nHost: x\r\n\r\n")
    answer = read_answer(client)
    assert answer.status == 404 and answer.body == b"no such place" and field(answer.head, "Proxy-Status") == []
