"""Ways that lead back here, by way of other proxies: they are noticed, or bounded, and nobody else is told of the proxy for it."""

import os
import re
from collections.abc import Callable
from typing import Any

import gevent
import pytest

from muxwsgi import Server
from muxwsgi.dial import attempt, dialer
from muxwsgi.dial.upstream_choice import UpstreamChoice
from muxwsgi.dial.upstream_proxy import UpstreamProxy
from muxwsgi.errors import OperatorError
from muxwsgi.proxy.proxy import Proxy
from muxwsgi.proxy.settings import ProxySettings
from tests.ports import free_port
from tests.proxy.accounts import clean_process, frozen_heap  # noqa: F401
from tests.proxy.conftest import Lab, read_head
from tests.proxy.dialogue import OK, Upstream, read_answer

pytestmark = pytest.mark.usefixtures("clean_process")


def ring(lab: Lab, scheme: Any, size: int, **settings: Any) -> list[int]:
    """The ports of `size` proxies, each of which has the next one as its upstream, and the last one the first."""
    ports = [0] * size

    class Next(UpstreamChoice):
        """The next proxy, whose port is known once it is served."""

        def __init__(self, at: int) -> None:
            super().__init__()
            self._at = at

        def choose(self, kind: str, host: str, port: int) -> UpstreamProxy:
            return UpstreamProxy(scheme, "127.0.0.1", ports[self._at])

    for at in range(size):
        ports[at] = lab.serve_proxy(lab.proxy(settings=ProxySettings(**settings), upstreams=Next((at + 1) % size)))
    return ports


@pytest.fixture
def most_open(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """The most descriptors of this process at any dial so far, above those of the beginning."""
    before = len(os.listdir("/proc/self/fd"))
    most = 0
    connect_first = attempt.connect_first

    def counted(*arguments: Any) -> Any:
        nonlocal most
        most = max(most, len(os.listdir("/proc/self/fd")) - before)
        return connect_first(*arguments)

    monkeypatch.setattr(attempt, "connect_first", counted)
    return lambda: most


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("action", ["accept", "mitm"])
def test_a_connect_that_goes_in_a_circle_of_proxies_is_refused(lab: Lab, size: int, action: str, most_open: Callable[[], int]) -> None:
    first = ring(lab, "http", size)[0]
    for proxy in lab.proxies[:1]:
        getattr(proxy.on_connect(), action)()
    client = lab.connect(first)
    client.sendall(b"CONNECT somewhere.example:443 HTTP/1.1\r\nHost: somewhere.example:443\r\n\r\n")
    if action == "mitm":  # what is behind the tunnel shows with the first request
        assert read_head(client).startswith(b"HTTP/1.1 200 ")
        client.sendall(b"GET / HTTP/1.1\r\nHost: somewhere.example\r\n\r\n")
    assert read_answer(client).status == 508
    assert most_open() < 20


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("rules", [False, True])
def test_a_request_that_goes_in_a_circle_of_proxies_is_refused(lab: Lab, size: int, rules: bool, most_open: Callable[[], int]) -> None:
    first = ring(lab, "http", size)[0]
    if rules:  # which take out again what tells of the circle
        for proxy in lab.proxies[:1]:
            proxy.on_request().do(lambda request, ctx: request.headers.pop("Via", None) and None)
    client = lab.connect(first)
    client.sendall(b"GET http://somewhere.example/ HTTP/1.1\r\nHost: somewhere.example\r\n\r\n")
    assert read_answer(client).status == 508
    assert most_open() < 20


@pytest.mark.parametrize("scheme", ["socks5h", "socks4a", "http"])
def test_a_circle_that_no_field_shows_is_bounded(lab: Lab, scheme: str, monkeypatch: pytest.MonkeyPatch, most_open: Callable[[], int]) -> None:
    monkeypatch.setattr(dialer, "REQUESTS_AT_ONCE", 10)
    first = ring(lab, scheme, 2, via="", connect_timeout=2.0)[0]
    client = lab.connect(first)
    client.sendall(b"CONNECT somewhere.example:443 HTTP/1.1\r\nHost: somewhere.example:443\r\n\r\n")
    with gevent.Timeout(30):
        assert read_answer(client).status in (502, 504)
    assert most_open() < 100


def test_our_entry_is_added_to_those_that_came_and_is_another_in_each_process(lab: Lab) -> None:
    def other(asked: Any, sock: Any) -> bytes:
        return b"HTTP/1.1 200 OK\r\n\r\n" if asked.line.startswith(b"CONNECT") else OK

    further = Upstream(lab, other)
    names = set()
    for _ in range(2):
        choice = UpstreamChoice(http=(way := UpstreamProxy("http", "127.0.0.1", further.port)), tunnel=way)
        port = lab.serve_proxy(lab.proxy(upstreams=choice))
        for request in (
            b"CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\nVia: 1.0 one (x, y)\r\nVia: HTTP/1.1 two\r\n\r\n",
            b"CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n",
            b"GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\nVia: 1.0 one\r\n\r\n",
            b"GET http://a.example/ HTTP/1.0\r\nHost: a.example\r\n\r\n",
        ):
            client = lab.connect(port)
            client.sendall(request)
            assert read_head(client).startswith(b"HTTP/1.1 200 ")
        said = [asked.field("Via") for asked in further.asked]
        further.asked.clear()
        name = said[1][0].split()[1]
        assert re.fullmatch(r"[0-9a-f]{16}", name)
        assert said == [[f"1.0 one (x, y), HTTP/1.1 two, 1.1 {name}"], [f"1.1 {name}"], ["1.0 one", f"1.1 {name}"], [f"1.0 {name}"]]
        names.add(name)
    assert len(names) == 2


@pytest.mark.parametrize(("name", "sent"), [(None, []), ("us", ["1.1 us"]), ("", [])])
def test_servers_are_told_of_us_only_where_the_operator_has_named_us(lab: Lab, name: str | None, sent: list[str]) -> None:
    upstream = Upstream(lab)
    proxy = lab.proxy(settings=ProxySettings(via=name))
    proxy.on_connect().mitm()
    port = lab.serve_proxy(proxy)
    for client, target in ((lab.connect(port), f"http://127.0.0.1:{upstream.port}/"), (lab.tunnel(port, f"127.0.0.1:{upstream.port}"), "/")):
        client.sendall(f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1:{upstream.port}\r\n\r\n".encode())
        assert read_answer(client).body == b"ok"
    assert [asked.field("Via") for asked in upstream.asked] == [sent, sent]


@pytest.mark.parametrize("field", ["1.1 us", "1.0 them, HTTP/1.1 us (muxwsgi, a proxy)", "1.1\tus , 1.0 them"])
def test_a_connect_that_was_here_before_is_a_loop(lab: Lab, field: str) -> None:
    upstream = Upstream(lab)
    for name, status in (("us", 508), ("u", 200), (None, 200), ("", 200)):
        client = lab.connect(lab.serve_proxy(lab.proxy(settings=ProxySettings(via=name))))
        client.sendall(f"CONNECT 127.0.0.1:{upstream.port} HTTP/1.1\r\nHost: x\r\nVia: {field}\r\n\r\n".encode())
        assert int(read_head(client).split()[1]) == status


@pytest.mark.parametrize("scheme", ["http", "socks5", "socks5h", "socks4a"])
def test_a_further_proxy_that_is_one_of_our_listeners_is_refused(lab: Lab, scheme: Any) -> None:
    port = free_port()
    proxy = lab.proxy(upstreams=UpstreamChoice(tunnel=UpstreamProxy(scheme, "localhost", port)))
    server = Server(proxy, [f"127.0.0.1:{port}"])
    server.start()
    try:
        client = lab.connect(port)
        client.sendall(b"CONNECT 198.51.100.1:443 HTTP/1.1\r\nHost: x\r\n\r\n")
        assert read_answer(client).status == 508
    finally:
        server.stop(0.1)


@pytest.mark.parametrize("name", ["a b", "a,b", "a;b", "(a)", '"a"', "é", "a\n"])
def test_a_name_that_cannot_stand_in_the_field_is_the_operators_error(name: str) -> None:
    with pytest.raises(OperatorError, match="via: "):
        Proxy(ProxySettings(via=name))
