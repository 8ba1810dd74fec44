"""Going through another proxy: Squid, a SOCKS server, and some that misbehave."""

import itertools
import math
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
import gevent.server
import gevent.subprocess
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from muxwsgi.dial.chain import HEAD_LIMIT, INTERIM_LIMIT, request_stream
from muxwsgi.dial.dialer import Dialer
from muxwsgi.dial.errors import ConnectError, DialError, DialTimeout, Forbidden, Loop, ProxyRefused, ProxyTLSError, ResolveError
from muxwsgi.dial.guard import Guard
from muxwsgi.dial.upstream_choice import UpstreamChoice
from muxwsgi.dial.upstream_proxy import UpstreamProxy
from muxwsgi.testing import connection_pair
from muxwsgi.wire import sweeper as sweeper_module
from tests.dial.conftest import BlackHole, DialerMaker, Greeter, greeting, zone
from tests.dial.socks_server import SocksServer
from tests.dial.squid import Squid
from tests.tls.authority import Authority

# A socket that is left to the collector to close is a warning of its own.
pytestmark = [pytest.mark.usefixtures("nothing_left"), pytest.mark.filterwarnings("error::ResourceWarning")]

CREDENTIALS = "user:secret%20word%3a%20100%25@"
ELSEWHERE = ("203.0.113.9", 50000)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def squid(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[Squid]:
    squid = Squid(tmp_path_factory.mktemp("squid"), authority.leaf("localhost"))
    yield squid
    squid.stop()


@pytest.fixture
def dialer(make_dialer: DialerMaker, authority: Authority) -> Dialer:
    return make_dialer(proxy_ca_file=authority.root)


@pytest.fixture(params=["http", "https"])
def through_squid(request: pytest.FixtureRequest, squid: Squid) -> Callable[[str], UpstreamProxy]:
    scheme, port = request.param, {"http": squid.plain, "https": squid.secure}[request.param]
    return lambda credentials: UpstreamProxy.parse(f"{scheme}://{credentials}localhost:{port}")


@pytest.fixture
def origin() -> Iterator[int]:
    """The port of a server that answers every request in the same way."""

    def answer(sock: Any, _: object) -> None:
        with sock:
            sock.recv(65536)
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 15\r\nConnection: close\r\n\r\nfrom the origin")

    server = gevent.server.StreamServer(("127.0.0.1", 0), answer)
    server.start()
    yield server.address[1]
    server.stop()


def test_squid_gives_a_tunnel(dialer: Dialer, greeter: Greeter, through_squid: Callable[[str], UpstreamProxy]) -> None:
    via = through_squid(CREDENTIALS)
    dialled = dialer.connect("127.0.0.1", greeter.port, None, via=via)
    assert dialled.via == via
    assert dialled.address == f"127.0.0.1:{via.port}"
    assert dialled.connection.deadline == math.inf
    assert (dialled.connection.tls is not None) == (via.scheme == "https")
    assert greeting(dialled) == "hello from 127.0.0.1"


def test_squid_resolves_names(dialer: Dialer, greeter: Greeter, through_squid: Callable[[str], UpstreamProxy]) -> None:
    assert greeting(dialer.connect("localhost", greeter.port, None, via=through_squid(CREDENTIALS))).startswith("hello")


@pytest.mark.parametrize("credentials", ["", "user:wrong@"])
def test_squid_wants_to_know_who_asks(credentials: str, dialer: Dialer, greeter: Greeter, through_squid: Callable[[str], UpstreamProxy]) -> None:
    via = through_squid(credentials)
    with pytest.raises(DialError) as caught:
        dialer.connect("127.0.0.1", greeter.port, None, via=via)
    assert isinstance(caught.value, ProxyRefused)
    assert caught.value.reason == f"the proxy {via} answered 407 Proxy Authentication Required"
    assert greeter.accepted == []


def test_squid_forbids(dialer: Dialer, through_squid: Callable[[str], UpstreamProxy]) -> None:
    with pytest.raises(DialError, match=r"answered 403 Forbidden$"):
        dialer.connect("127.0.0.99", 80, None, via=through_squid(CREDENTIALS))


def test_squid_cannot_get_there(dialer: Dialer, through_squid: Callable[[str], UpstreamProxy]) -> None:
    with pytest.raises(DialError, match=r"answered 503 Service Unavailable$") as caught:
        dialer.connect("127.0.0.98", 1, None, via=through_squid(CREDENTIALS))
    assert isinstance(caught.value, ProxyRefused)


def test_squid_takes_requests_in_absolute_form(dialer: Dialer, origin: int, through_squid: Callable[[str], UpstreamProxy]) -> None:
    via = through_squid(CREDENTIALS)
    dialled = dialer.to_proxy(via, None)
    assert dialled.via == via
    with dialled.connection as connection:
        connection.settimeout(20)
        authority = f"127.0.0.1:{origin}"
        connection.sendall(
            f"GET http://{authority}/ HTTP/1.1\r\nHost: {authority}\r\nProxy-Authorization: {via.authorization}\r\nConnection: close\r\n\r\n".encode()
        )
        with connection.makefile("rb") as file:
            assert file.read().endswith(b"\r\n\r\nfrom the origin")


def test_the_proxys_certificate_is_verified(make_dialer: DialerMaker, dialer: Dialer, squid: Squid, tmp_path: Path) -> None:
    stranger = make_dialer(proxy_ca_file=Authority(tmp_path, "stranger").root)
    for each, host in ((stranger, "localhost"), (make_dialer(), "localhost"), (dialer, "127.0.0.1")):
        with pytest.raises(DialError, match=rf"^the proxy https://{host}:\d+: TLS handshake: ") as caught:
            each.connect("127.0.0.1", 1, None, via=UpstreamProxy.parse(f"https://{CREDENTIALS}{host}:{squid.secure}"))
        assert isinstance(caught.value, ProxyTLSError)
        assert "secret" not in caught.value.reason


def test_only_http_proxies_are_asked_for_requests(dialer: Dialer) -> None:
    with pytest.raises(ValueError, match="takes no requests"):
        dialer.to_proxy(UpstreamProxy.parse("socks5://127.0.0.1"), None)


# SOCKS


@pytest.fixture
def socks() -> Iterator[SocksServer]:
    server = SocksServer({"far.example": "127.0.0.1"}, (b"user", "pässwort".encode()))
    yield server
    server.stop()


@pytest.fixture
def open_socks() -> Iterator[SocksServer]:
    server = SocksServer({"far.example": "127.0.0.1"})
    yield server
    server.stop()


def test_curl_gets_through_the_socks_server_that_these_tests_have(socks: SocksServer, origin: int) -> None:
    for option in ("--socks5-hostname", "--socks4a"):
        command = ["curl", "--silent", "--max-time", "20", option, f"127.0.0.1:{socks.port}", "--proxy-user", "user:pässwort"]
        done = gevent.subprocess.run([*command, f"http://far.example:{origin}/"], stdout=subprocess.PIPE)
        assert done.stdout == b"from the origin"
    assert socks.asked == [(5, "far.example", origin), (4, "far.example", origin)]


@pytest.mark.parametrize("scheme", ["socks5h", "socks4a"])
def test_names_are_the_socks_servers_to_resolve(scheme: str, make_dialer: DialerMaker, greeter: Greeter, socks: SocksServer) -> None:
    user = "user" if scheme == "socks4a" else "user:p%C3%A4sswort"
    via = UpstreamProxy.parse(f"{scheme}://{user}@127.0.0.1:{socks.port}")
    dialled = make_dialer(zone({})).connect("far.example", greeter.port, None, via=via)
    assert greeting(dialled) == "hello from 127.0.0.1"
    assert socks.asked == [(5 if scheme == "socks5h" else 4, "far.example", greeter.port)]


def test_with_socks5_names_are_resolved_here(make_dialer: DialerMaker, greeter: Greeter, open_socks: SocksServer) -> None:
    via = UpstreamProxy.parse(f"socks5://127.0.0.1:{open_socks.port}")
    dialled = make_dialer(zone({"near.example": ["127.0.0.1"]})).connect("near.example", greeter.port, None, via=via)
    assert greeting(dialled) == "hello from 127.0.0.1"
    assert open_socks.asked == [(5, "127.0.0.1", greeter.port)]


def test_a_pooled_connection_through_a_proxy_is_not_for_who_could_not_have_made_it(
    make_dialer: DialerMaker, greeter: Greeter, open_socks: SocksServer
) -> None:
    dialer = make_dialer(zone({"near.example": ["127.0.0.1"]}))
    url = f"127.0.0.1:{open_socks.port}"
    for host, via in (
        ("near.example", UpstreamProxy.parse(f"socks5://{url}")),  # it leads to a private place
        ("far.example", UpstreamProxy.parse(f"socks5h://{url}", trusted=False)),  # it stands in one
    ):
        with dialer.connect(host, greeter.port, None, via=via).connection as connection:
            dialer.check_reuse(connection, ("127.0.0.1", 2), via)
            with pytest.raises(DialError) as caught:
                dialer.check_reuse(connection, ELSEWHERE, via)
        assert isinstance(caught.value, Forbidden)
    via = UpstreamProxy.parse(f"socks5h://{url}")
    with dialer.connect("far.example", greeter.port, None, via=via).connection as connection:
        dialer.check_reuse(connection, ELSEWHERE, via)


def test_with_socks5_each_address_of_a_name_is_tried(make_dialer: DialerMaker, greeter: Greeter, open_socks: SocksServer) -> None:
    via = UpstreamProxy.parse(f"socks5://127.0.0.1:{open_socks.port}")
    dialer = make_dialer(zone({"near.example": ["::1", "127.0.0.2", "127.0.0.1"], "gone.example": ["127.0.0.2", "127.0.0.3"]}))
    assert greeting(dialer.connect("near.example", greeter.port, None, via=via)) == "hello from 127.0.0.1"
    assert [host for _, host, _ in open_socks.asked] == ["::1", "127.0.0.2", "127.0.0.1"]
    with pytest.raises(DialError, match=r"answered: connection refused$") as caught:
        dialer.connect("gone.example", greeter.port, None, via=via)
    assert isinstance(caught.value, ProxyRefused)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("scheme", ["socks5", "socks5h", "socks4a"])
def test_addresses_go_as_addresses(scheme: str, host: str, make_dialer: DialerMaker, open_socks: SocksServer) -> None:
    greeter = Greeter(host)
    dialer, via = make_dialer(), UpstreamProxy.parse(f"{scheme}://127.0.0.1:{open_socks.port}")
    if scheme == "socks4a" and host == "::1":
        with pytest.raises(DialError, match="SOCKS4a knows no IPv6") as caught:
            dialer.connect(host, greeter.port, None, via=via)
        assert isinstance(caught.value, ProxyRefused)
    else:
        assert greeting(dialer.connect(host, greeter.port, None, via=via)) == f"hello from {host}"
        assert open_socks.asked[0][1] == host
    greeter.stop()


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("socks5h://127.0.0.1", "wants authentication"),
        ("socks5h://user:wrong@127.0.0.1", "does not take our user name and password"),
        ("socks5h://other:p%C3%A4sswort@127.0.0.1", "does not take our user name and password"),
        ("socks4a://other@127.0.0.1", "the identd of this host reports another user"),
    ],
)
def test_a_socks_server_wants_to_know_who_asks(url: str, why: str, make_dialer: DialerMaker, socks: SocksServer) -> None:
    with pytest.raises(DialError, match=rf"^the proxy socks..?://127\.0\.0\.1:{socks.port} .*{why}$") as caught:
        make_dialer().connect("far.example", 80, None, via=UpstreamProxy.parse(f"{url}:{socks.port}"))
    assert isinstance(caught.value, ProxyRefused)


@pytest.mark.parametrize("scheme", ["socks5h", "socks4a"])
def test_a_socks_server_cannot_get_there(scheme: str, make_dialer: DialerMaker, open_socks: SocksServer) -> None:
    with pytest.raises(DialError, match=r"answered: (host unreachable|rejected or failed)$") as caught:
        make_dialer().connect("nowhere.example", 80, None, via=UpstreamProxy.parse(f"{scheme}://127.0.0.1:{open_socks.port}"))
    assert isinstance(caught.value, ProxyRefused)


# Whom the guard lets through


@pytest.mark.parametrize("scheme", ["http", "https", "socks4a", "socks5", "socks5h"])
@pytest.mark.parametrize("host", ["169.254.169.254", "::ffff:10.0.0.1", "0x7f.1", "localhost", "LOCALHOST.", "a.localhost"])
def test_the_guard_is_asked_before_any_proxy(scheme: str, host: str, make_dialer: DialerMaker) -> None:
    via = UpstreamProxy.parse(f"{scheme}://127.0.0.1:1")
    names = zone({name: ["127.0.0.1"] for name in ("localhost", "LOCALHOST", "a.localhost")})
    dialer = make_dialer(names, choice=UpstreamChoice(http=via, tunnel=via))
    with pytest.raises(DialError) as caught:
        dialer.connect(host, 80, ELSEWHERE)
    assert isinstance(caught.value, Forbidden)
    if scheme != "socks5":
        with pytest.raises(DialError) as caught:
            dialer.next_proxy("http", host, 80, ELSEWHERE)
        assert isinstance(caught.value, Forbidden)


def test_names_are_the_proxys_to_judge(make_dialer: DialerMaker, greeter: Greeter, open_socks: SocksServer) -> None:
    via = UpstreamProxy.parse(f"socks5h://127.0.0.1:{open_socks.port}")
    dialled = make_dialer(zone({})).connect("far.example", greeter.port, ELSEWHERE, via=via)
    assert greeting(dialled) == "hello from 127.0.0.1"


def test_the_operator_may_have_a_proxy_on_loopback_and_a_client_may_not(make_dialer: DialerMaker, greeter: Greeter, open_socks: SocksServer) -> None:
    url = f"socks5h://127.0.0.1:{open_socks.port}"
    with pytest.raises(DialError, match=rf"^the proxy {url}: 127\.0\.0\.1 is a loopback address") as caught:
        make_dialer().connect("far.example", greeter.port, ELSEWHERE, via=UpstreamProxy.parse(url, trusted=False))
    assert isinstance(caught.value, Forbidden)
    assert open_socks.asked == []


@pytest.mark.parametrize("trusted", [True, False])
def test_a_proxy_that_is_ourselves_is_a_loop(trusted: bool, make_dialer: DialerMaker, open_socks: SocksServer) -> None:
    dialer = make_dialer(guard=Guard(lambda: [("0.0.0.0", open_socks.port)]))
    for scheme in ("http", "socks5h"):
        via = UpstreamProxy.parse(f"{scheme}://localhost:{open_socks.port}", trusted=trusted)
        with pytest.raises(DialError, match="this proxy itself") as caught:
            dialer.connect("far.example", 80, None, via=via)
        assert isinstance(caught.value, Loop)
    with pytest.raises(DialError, match="this proxy itself"):
        dialer.to_proxy(UpstreamProxy.parse(f"http://localhost:{open_socks.port}"), None)


# Proxies that misbehave


class Script:
    """A server that says its lines, whatever it hears, and then closes."""

    def __init__(self, *lines: bytes, hold: bool = False) -> None:
        self.heard = b""
        self._lines = lines
        self._hold = hold
        self._server = gevent.server.StreamServer(("127.0.0.1", 0), self._serve)
        self._server.start()
        self.port: int = self._server.address[1]

    def _serve(self, sock: Any, _: object) -> None:
        with sock:
            for line in self._lines:
                self.heard += sock.recv(65536)
                sock.sendall(line)
            if self._hold:
                sock.recv(65536)
                sock.recv(65536)

    def stop(self) -> None:
        self._server.stop()


@pytest.mark.parametrize(
    ("scheme", "lines", "why"),
    [
        ("http", [b""], "closed the connection without an answer"),
        ("http", [b"HTTP/1.1 200 OK\r\n"], "closed the connection without an answer"),
        ("http", [b"SSH-2.0-OpenSSH\r\n\r\n"], "did not answer in HTTP/1.1"),
        ("http", [b"HTTP/2.0 200 OK\r\n\r\n"], "did not answer in HTTP/1.1"),
        ("http", [b"HTTP/1.1 2000 OK\r\n\r\n"], "did not answer in HTTP/1.1"),
        ("http", [b" HTTP/1.1 200 OK\r\n\r\n"], "did not answer in HTTP/1.1"),
        ("http", [b"HTTP/1.1 302 Found\r\nLocation: /\r\n\r\n"], "answered 302 Found"),
        ("http", [b"HTTP/1.1 101 Switching Protocols\r\n\r\n"], "answered 101 Switching Protocols"),
        ("http", [b"HTTP/1.1 502 \x1b[31mno\xff\r\n\r\n"], r"answered 502 \?\[31mnoÿ"),
        ("http", [b"HTTP/1.1 403\r\n\r\n"], "answered 403"),
        ("http", [b"HTTP/1.1 100 Continue\r\n\r\n" * INTERIM_LIMIT], "sends interim responses and no answer"),
        ("http", [b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * HEAD_LIMIT], r"a head of more than \d+ bytes|Connection reset"),
        ("https", [b"HTTP/1.1 400 Bad Request\r\n\r\n"], "TLS handshake: "),
        ("socks5h", [b"HTTP/1.1 400 Bad Request\r\n\r\n"], "does not speak SOCKS5"),
        ("socks5h", [b"\x05\xff"], "wants authentication"),
        ("socks5h", [b"\x05\x02"], "wants authentication"),
        ("socks5h", [b"\x05"], "closed the connection without an answer"),
        ("socks5h", [b"\x05\x00", b"\x05\x02\x00\x01"], "answered: not allowed by its rules"),
        ("socks5h", [b"\x05\x00", b"\x05\x7f\x00\x01"], "answered: reply 127"),
        ("socks5h", [b"\x05\x00", b"\x05\x00\x00\x05"], "an address of type 5"),
        ("socks5h", [b"\x05\x00", b"\x04\x00\x00\x01"], "does not speak SOCKS5"),
        ("socks5h", [b"\x05\x00", b"\x05\x00\x00\x01\x7f"], "closed the connection without an answer"),
        ("socks4a", [b"\x04\x5a" + bytes(6)], "does not speak SOCKS4"),
        ("socks4a", [b"\x00\x5c" + bytes(6)], "it cannot reach the identd of this host"),
        ("socks4a", [b"\x00\x5a"], "closed the connection without an answer"),
    ],
)
def test_what_is_no_answer_is_a_fault(scheme: str, lines: list[bytes], why: str, dialer: Dialer) -> None:
    script = Script(*lines)
    with pytest.raises(DialError, match=rf"^the proxy {scheme}://127\.0\.0\.1:{script.port}:? .*({why})") as caught:
        dialer.connect("far.example", 80, None, via=UpstreamProxy.parse(f"{scheme}://127.0.0.1:{script.port}"))
    assert isinstance(caught.value, ProxyTLSError if scheme == "https" else ProxyRefused)
    assert caught.value.reason.isprintable()
    script.stop()


@pytest.mark.parametrize("scheme", ["http", "https", "socks5h", "socks4a"])
def test_a_proxy_that_says_nothing_is_given_up(scheme: str, make_dialer: DialerMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeper_module, "INTERVAL", 0.01)
    script = Script(hold=True)
    via = UpstreamProxy.parse(f"{scheme}://127.0.0.1:{script.port}")
    with pytest.raises(DialError, match=f"^the proxy {via} has not answered in time$") as caught:
        make_dialer(connect_timeout=0.1).connect("far.example", 80, None, via=via)
    assert isinstance(caught.value, DialTimeout)
    script.stop()


def test_a_proxy_that_cannot_be_reached_is_named(make_dialer: DialerMaker) -> None:
    hole = BlackHole("127.0.0.1")
    dialer = make_dialer(zone({"hole.example": ["127.0.0.1"]}), connect_timeout=0.05)
    for host, kind in (("hole.example", DialTimeout), ("127.0.0.2", ConnectError), ("nowhere.example", ResolveError)):
        with pytest.raises(DialError, match=f"^the proxy http://{host}:{hole.port}: ") as caught:
            dialer.connect("far.example", 80, None, via=UpstreamProxy.parse(f"http://user:secret@{host}:{hole.port}"))
        assert isinstance(caught.value, kind)
        assert "secret" not in caught.value.reason
    hole.close()


@pytest.mark.parametrize("scheme", ["http", "https", "socks5h"])
def test_who_is_killed_while_a_proxy_thinks_leaves_nothing(scheme: str, make_dialer: DialerMaker) -> None:
    script = Script(hold=True)
    via = UpstreamProxy.parse(f"{scheme}://127.0.0.1:{script.port}")
    greenlets = [gevent.spawn(make_dialer(connect_timeout=3600).connect, "far.example", 80, None, via=via) for _ in range(10)]
    gevent.sleep(0.1)
    gevent.killall(greenlets, timeout=10)
    assert all(greenlet.dead for greenlet in greenlets)
    script.stop()


def test_what_is_asked_of_a_proxy_is_exactly_this(make_dialer: DialerMaker) -> None:
    script = Script(b"HTTP/1.1 200 OK\r\n\r\n", hold=True)
    for host, shown in (("far.example", "far.example:443"), ("2001:DB8::1", "[2001:db8::1]:443"), ("Bücher.example", "xn--bcher-kva.example:443")):
        script.heard = b""
        make_dialer().connect(host, 443, None, via=UpstreamProxy.parse(f"http://a:b@127.0.0.1:{script.port}")).connection.close()
        assert script.heard == f"CONNECT {shown} HTTP/1.1\r\nHost: {shown}\r\nProxy-Authorization: Basic YTpi\r\n\r\n".encode()
    script.stop()


ANSWERS = {
    "http": b"HTTP/1.1 103 Early Hints\r\nLink: <a>\r\n\r\nHTTP/1.0 200 Connection established\r\nContent-Length: 5\r\nX: y\r\n\r\n",
    "socks5h": b"\x05\x02" + b"\x01\x00" + b"\x05\x00\x00\x04" + bytes(18),
    "socks5": b"\x05\x00" + b"\x05\x00\x00\x03\x04name\x00\x50",
    "socks4a": b"\x00\x5a" + b"\x01\x02\x03\x04\x05\x06",
}


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(sorted(ANSWERS)), st.binary(max_size=40), st.sets(st.integers(0, 160)))
@example("http", b"SSH-2.0-server speaks first\r\n", set())
@example("http", b"\r\n\r\nHTTP/1.1 403 Forbidden\r\n\r\n", {1})
def test_what_comes_behind_the_answer_belongs_to_the_stream_however_it_was_cut(scheme: str, behind: bytes, cuts: set[int]) -> None:
    whole = ANSWERS[scheme] + behind
    edges = [0, *sorted(cut for cut in cuts if 0 < cut < len(whole)), len(whole)]
    near, far = connection_pair()

    def say() -> None:
        for begin, end in itertools.pairwise(edges):
            far.sendall(whole[begin:end])
            gevent.sleep(0)
        far.close()

    saying = gevent.spawn(say)
    user = "" if scheme == "socks4a" else "user:password@"
    request_stream(near, UpstreamProxy.parse(f"{scheme}://{user}127.0.0.1"), "far.example", 80)
    got = b""
    while data := near.recv():
        got += data
    assert got == behind
    near.close()
    saying.get(timeout=10)
