"""Which proxy a destination is reached through; curl is asked what it would do."""

import subprocess
from collections.abc import Iterator
from typing import Any

import gevent.server
import gevent.subprocess
import pytest

from muxwsgi.dial.upstream_choice import NoProxy, UpstreamChoice
from muxwsgi.dial.upstream_proxy import UpstreamProxy
from muxwsgi.errors import OperatorError

A, B, C = (UpstreamProxy.parse(f"http://{name}:1") for name in "abc")


def chosen(environ: dict[str, str], scheme: str = "http", host: str = "example.com", port: int = 80) -> str | None:
    proxy = UpstreamChoice.of_environment(environ).choose(scheme, host, port)
    return None if proxy is None else proxy.host


def test_nothing_set_means_no_proxy() -> None:
    assert chosen({}) is None
    assert UpstreamChoice().choose("tunnel", "example.com", 443) is None


@pytest.mark.parametrize("scheme", ["http", "ws"])
def test_plain_http_goes_by_http_proxy(scheme: str) -> None:
    assert chosen({"http_proxy": "a:1", "https_proxy": "b:1", "all_proxy": "c:1"}, scheme) == "a"
    assert chosen({"https_proxy": "b:1", "all_proxy": "c:1"}, scheme) == "c"
    assert chosen({"https_proxy": "b:1"}, scheme) is None


@pytest.mark.parametrize("scheme", ["https", "wss", "tunnel", "tcp"])
def test_everything_else_goes_by_https_proxy(scheme: str) -> None:
    assert chosen({"http_proxy": "a:1", "HTTPS_PROXY": "b:1", "ALL_PROXY": "c:1"}, scheme) == "b"
    assert chosen({"http_proxy": "a:1", "ALL_PROXY": "c:1"}, scheme) == "c"
    assert chosen({"http_proxy": "a:1"}, scheme) is None


def test_http_proxy_in_upper_case_does_not_count() -> None:
    assert chosen({"HTTP_PROXY": "a:1"}) is None
    assert chosen({"HTTP_PROXY": "a:1", "ALL_PROXY": "c:1"}) == "c"


def test_lower_case_goes_before_upper_case_and_empty_is_not_set() -> None:
    assert chosen({"https_proxy": "a:1", "HTTPS_PROXY": "b:1"}, "https") == "a"
    assert chosen({"https_proxy": "", "HTTPS_PROXY": "b:1"}, "https") == "b"
    assert chosen({"https_proxy": "a:1", "no_proxy": "", "NO_PROXY": "*"}, "https") is None


def test_the_variable_is_named_where_it_is_wrong() -> None:
    with pytest.raises(OperatorError, match=r"^HTTPS_PROXY: upstream proxy http://h:0: 0 is not a port$"):
        UpstreamChoice.of_environment({"HTTPS_PROXY": "http://user:secret@h:0"})


def test_what_is_set_by_hand_knows_exceptions_too() -> None:
    choice = UpstreamChoice(http=A, tunnel=B, no_proxy=NoProxy("inside.example"))
    assert choice.choose("http", "outside.example", 80) == A
    assert choice.choose("https", "outside.example", 443) == B
    assert choice.choose("http", "www.inside.example", 80) is None
    assert choice.choose("https", "inside.example", 443) is None


@pytest.mark.parametrize(
    ("entries", "inside", "outside"),
    [
        ("example.com", ["example.com", "www.example.com", "EXAMPLE.com", "example.com."], ["badexample.com", "example.com.au", "com"]),
        (".example.com", ["example.com", "a.b.example.com"], ["badexample.com"]),
        ("*.example.com", ["example.com", "www.example.com"], ["badexample.com"]),
        ("EXAMPLE.com.", ["example.com"], ["example.org"]),
        ("bücher.example", ["xn--bcher-kva.example", "bücher.example", "www.bücher.example"], ["bucher.example"]),
        ("*", ["anything", "192.0.2.1", "::1"], []),
        ("a.example, *", ["b.example"], []),
        ("a.example,b.example c.example,\td.example,,", ["a.example", "b.example", "c.example", "d.example"], ["e.example"]),
        ("192.0.2.1", ["192.0.2.1", "::ffff:192.0.2.1", "3221225985"], ["192.0.2.10", "192.0.2.1.example", "2.1"]),
        ("192.0.2.0/24", ["192.0.2.1", "192.0.2.255", "::ffff:192.0.2.7"], ["192.0.3.1", "2001:db8::1"]),
        ("192.0.2.9/24", ["192.0.2.1"], ["192.0.3.1"]),
        ("2001:db8::/32", ["2001:db8::1", "2001:0DB8:0::1"], ["2001:db9::1", "192.0.2.1"]),
        ("2001:db8::1", ["2001:db8::1"], ["2001:db8::2"]),
        ("[2001:db8::1]", ["2001:db8::1"], ["2001:db8::2"]),
        ("localhost,127.0.0.0/8,::1", ["localhost", "127.9.9.9", "::1", "a.localhost"], ["127.example"]),
        ("", [], ["example.com", "127.0.0.1"]),
    ],
)
def test_no_proxy_lists_names_and_networks(entries: str, inside: list[str], outside: list[str]) -> None:
    listed = NoProxy(entries)
    assert [host for host in inside if (host, 80) not in listed] == []
    assert [host for host in outside if (host, 80) in listed] == []


@pytest.mark.parametrize(("entry", "host"), [("example.com:8443", "www.example.com"), ("192.0.2.1:8443", "192.0.2.1"), ("[::1]:8443", "::1")])
def test_an_entry_may_be_for_one_port(entry: str, host: str) -> None:
    assert (host, 8443) in NoProxy(entry)
    assert (host, 443) not in NoProxy(entry)


@pytest.mark.parametrize("entry", ["10.0.0.0/33", "192.168.*", "http://example.com", "example.com:0", "example.com:port", "<local>", "a_b..c", "[::1"])
def test_an_entry_that_fits_nothing_is_an_error(entry: str) -> None:
    with pytest.raises(OperatorError, match=r"^no_proxy: .* is not a name, an address or a network") as caught:
        NoProxy(f"example.org,{entry}")
    assert repr(entry) in str(caught.value)


def test_what_is_no_destination_is_in_no_list() -> None:
    assert ("no host", 80) not in NoProxy("example.com")


class Recorders:
    """An origin and three proxies, each of which says who it is, whatever it is asked."""

    def __init__(self) -> None:
        self.servers: dict[str, Any] = {}
        for name in ("direct", "a", "b", "c"):
            self.servers[name] = gevent.server.StreamServer(("127.0.0.1", 0), self._answering(name))
            self.servers[name].start()

    @staticmethod
    def _answering(name: str) -> Any:
        def answer(sock: Any, _: object) -> None:
            with sock:
                sock.settimeout(10)
                request = b""
                while b"\r\n\r\n" not in request:
                    request += sock.recv(4096) or b"\r\n\r\n"
                sock.sendall(f"HTTP/1.1 200 OK\r\nContent-Length: {len(name)}\r\nConnection: close\r\n\r\n{name}".encode())

        return answer

    def port(self, name: str) -> int:
        port: int = self.servers[name].address[1]
        return port


@pytest.fixture(scope="module")
def recorders() -> Iterator[Recorders]:
    recorders = Recorders()
    yield recorders
    for server in recorders.servers.values():
        server.stop()


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"http_proxy": "a"},
        {"HTTP_PROXY": "a"},
        {"HTTP_PROXY": "a", "ALL_PROXY": "c"},
        {"http_proxy": "a", "all_proxy": "c"},
        {"all_proxy": "b", "ALL_PROXY": "c"},
        {"https_proxy": "a"},
        {"http_proxy": "", "all_proxy": "c"},
        {"http_proxy": "a", "no_proxy": "example.com"},
        {"http_proxy": "a", "NO_PROXY": "example.com"},
        {"http_proxy": "a", "no_proxy": ".example.com"},
        {"http_proxy": "a", "no_proxy": "ample.com"},
        {"http_proxy": "a", "no_proxy": "other.example, EXAMPLE.COM"},
        {"http_proxy": "a", "no_proxy": "example.com."},
        {"http_proxy": "a", "no_proxy": "*"},
        {"http_proxy": "a", "no_proxy": "", "NO_PROXY": "*"},
        {"http_proxy": "a", "no_proxy": "127.0.0.1"},
        {"http_proxy": "a", "no_proxy": "127.0.0.0/8"},
        {"http_proxy": "a", "no_proxy": "127.0.0.0/8,198.51.100.0/24"},
    ],
    ids=str,
)
def test_curl_would_choose_the_same(environ: dict[str, str], recorders: Recorders) -> None:
    proxies = {key: f"http://127.0.0.1:{recorders.port(value)}" if value in recorders.servers else value for key, value in environ.items()}
    names = {recorders.port(name): name for name in recorders.servers}
    port = recorders.port("direct")
    hosts = ("www.example.com", "example.com", "127.0.0.1", "notexample.com")
    command = ["curl", "--silent", "--show-error", "--max-time", "20", "--write-out", "\\n"]
    for host in hosts:
        command += ["--resolve", f"{host}:{port}:127.0.0.1", f"http://{host}:{port}/"]
    said = gevent.subprocess.run(command, env=proxies, stdout=subprocess.PIPE, check=True).stdout.decode().split()
    chosen = [UpstreamChoice.of_environment(proxies).choose("http", host, port) for host in hosts]
    assert said == ["direct" if proxy is None else names[proxy.port] for proxy in chosen]
