"""Clients that want to get past the rules, servers and name servers that mean ill: what each of them tried has got it nothing."""

import gzip
import socket
import threading
import time
from contextlib import suppress
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import gevent
import gevent.socket
import pytest
from gevent.event import Event
from hypothesis import given
from hypothesis import strategies as st

from muxwsgi.dial.concurrency_limit import ConcurrencyLimit
from muxwsgi.dial.dialer import LOOKUPS_AT_ONCE
from muxwsgi.dial.errors import Forbidden
from muxwsgi.dial.guard import Guard
from muxwsgi.dial.resolve import system_resolver
from muxwsgi.http.content_coding import Undecodable, decoded
from muxwsgi.http.websocket.frame import Frame, Opcode, encode_frame
from muxwsgi.mux.match import Match
from muxwsgi.protocols.http1 import FirstLine, nearly_http
from muxwsgi.protocols.tls import nearly_tls
from muxwsgi.proxy.proxy import Proxy
from muxwsgi.proxy.rules.blocklist import BlockList
from muxwsgi.proxy.rules.conditions import protocol_is, req_host_is, req_host_matches, url_has_prefix, url_is, url_matches
from muxwsgi.proxy.rules.message import Response
from muxwsgi.proxy.settings import ProxySettings
from muxwsgi.proxy.streams.websocket import relay_frames
from muxwsgi.proxy.upstream import tls as upstream_tls
from muxwsgi.testing import connection_pair
from muxwsgi.wire.ready import give_turn
from muxwsgi.wire.tls.client_context import ClientContext
from tests.proxy.accounts import clean_process, frozen_heap, nothing_left, until  # noqa: F401
from tests.proxy.conftest import Lab
from tests.proxy.dialogue import Road, Upstream, read_answer
from tests.proxy.doors.netns import Lab as Machines

both_kinds = pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
pytestmark = pytest.mark.usefixtures("nothing_left")

REQUEST = b"GET /secret HTTP/1.1\r\nHost: localhost\r\n\r\n"


def strict(lab: Lab, **more: Any) -> tuple[Proxy, int]:
    """A proxy that looks into all tunnels, refuses all requests, and soon takes clients for silent."""
    settings = {"sniff_timeout": 0.05, **{name: more.pop(name) for name in list(more) if name in ProxySettings.__slots__}}
    proxy = lab.proxy(settings=ProxySettings(**settings), record=True, **more)
    proxy.on_connect().mitm()
    proxy.on_request().do(lambda request, ctx: Response("refused\n", 403))
    return proxy, lab.serve_proxy(proxy)


def ended(sock: Any) -> bool:
    """Whether the next thing that comes is the end, with or without a reset."""
    try:
        return bool(sock.recv(100) == b"")
    except ConnectionResetError:
        return True


# Around the question what a tunnel carries


@both_kinds
def test_a_client_that_is_silent_at_first_is_asked_again_when_it_speaks(lab: Lab, tls: bool) -> None:
    upstream = Upstream(lab, tls=tls)
    _, port = strict(lab)
    client = lab.tunnel(port, f"localhost:{upstream.port}")
    if tls:
        client = lab.wrap(client)
    until(lambda: upstream.connections == 1, "the client is taken for silent")
    client.sendall(REQUEST)
    assert read_answer(client).status == 403
    assert upstream.asked == []


def test_a_server_that_speaks_first_is_relayed_from_then_on(lab: Lab) -> None:
    def banner(sock: Any) -> None:
        sock.sendall(b"220 at your service\r\n")
        while data := sock.recv(1000):
            sock.sendall(data.upper())

    _, port = strict(lab)
    client = lab.tunnel(port, f"127.0.0.1:{lab.serve_raw(banner)}")
    assert client.recv(100) == b"220 at your service\r\n"
    client.sendall(b"get /\r\n")
    assert client.recv(100) == b"GET /\r\n"


@pytest.mark.parametrize(
    ("begin", "at"),
    [(REQUEST, 1), (REQUEST, 3), (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 1), (b"\r\n\n" + REQUEST, 3)],
    ids=["HTTP, one byte", "HTTP, the method", "TLS", "nearly HTTP"],
)
def test_a_beginning_that_is_held_back_for_a_while_is_not_relayed_when_the_rest_of_it_comes(lab: Lab, begin: bytes, at: int) -> None:
    got = bytearray()

    def listen(sock: Any) -> None:
        while data := sock.recv(1000):
            got.extend(data)

    _, port = strict(lab)
    client = lab.tunnel(port, f"127.0.0.1:{lab.serve_raw(listen)}")
    client.sendall(begin[:at])
    until(lambda: bytes(got) == begin[:at], "what has come is relayed")
    client.sendall(begin[at:])
    assert ended(client)
    assert bytes(got) == begin[:at]


def test_a_protocol_that_begins_with_a_word_is_relayed_however_slowly(lab: Lab) -> None:
    def shout(sock: Any) -> None:
        while data := sock.recv(1000):
            sock.sendall(data.upper())

    _, port = strict(lab)
    client = lab.tunnel(port, f"127.0.0.1:{lab.serve_raw(shout)}")
    client.sendall(b"hello")
    assert client.recv(100) == b"HELLO"
    client.sendall(b", get / too")
    assert client.recv(100) == b", GET / TOO"


@pytest.mark.parametrize(
    "request_",
    [
        b"\n" + REQUEST,
        b"\r\n" * 6 + REQUEST,
        REQUEST.replace(b"GET ", b"GET  "),
        REQUEST.replace(b"GET ", b"GET\t"),
        b" " + REQUEST,
        b"ANY /" + b"x" * 9000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        REQUEST.replace(b"/secret", b"ftp://localhost/secret"),
        b"A" * 33 + b" x HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"A" * 9000 + b" x HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\r\n" * 8192 + REQUEST,
        b"\r\n" * 100_000 + REQUEST,
        b"GET x\r\n",
        b"\x00" + REQUEST,
        b"\x01" + REQUEST,
        b"\x1c" + REQUEST,
        b"\xa0\x85GET /secret\r\n",
        REQUEST.replace(b"GET ", b"GET\x0b"),
        REQUEST.replace(b"GET ", b"GET\x00 "),
        REQUEST.replace(b" HTTP/1.1\r\n", b"\x0cHTTP/1.1\r\n"),
        REQUEST.replace(b"GET /secret HTTP", b"POST secret http"),
        REQUEST.replace(b"GET ", b"\xff "),
        REQUEST.replace(b"1.1\r\n", b"1.1 \x01x\r\n"),
    ],
    ids=["LF in front", "six empty lines", "two blanks", "a tab", "a blank in front", "a long line", "ftp", "33 letters", "9000 letters",
         "16 KiB of line breaks", "200 KB of line breaks", "HTTP/0.9", "NUL in front", "a control byte in front",
         "a separator in front", "blanks of ISO 8859", "a vertical tab", "NUL behind the method", "a form feed", "small letters",
         "no method", "more behind the version"],
)
def test_what_only_some_servers_take_for_http_is_not_relayed_to_them(lab: Lab, request_: bytes) -> None:
    upstream = Upstream(lab)
    _, port = strict(lab)
    client = lab.tunnel(port, f"127.0.0.1:{upstream.port}")
    with suppress(ConnectionResetError, BrokenPipeError):  # refused before all of it was sent
        client.sendall(request_)
    assert read_answer(client).status in (400, 414, 505)
    assert upstream.connections == 0


@pytest.mark.parametrize(
    "begin",
    [REQUEST.replace(b"GET ", b"GET\x0b"), REQUEST.replace(b"GET ", b"GET  ")],
    ids=["a vertical tab", "two blanks"],
)
def test_nor_is_it_where_there_are_rules_for_websockets_alone(lab: Lab, begin: bytes) -> None:
    upstream = Upstream(lab)
    proxy = lab.proxy(settings=ProxySettings(sniff_timeout=0.05))
    proxy.on_connect().mitm()
    proxy.on_frame().do(lambda frame, ctx: None)
    client = lab.tunnel(lab.serve_proxy(proxy), f"127.0.0.1:{upstream.port}")
    client.sendall(begin)
    assert read_answer(client).status in (400, 505)
    assert upstream.asked == []


@pytest.mark.parametrize(
    "begin",
    [b"\x01GET /secret HTT", b"\r\n" * 20 + b"\x00", b"{} /secret HTTP/", b"\xffPOST", b"\x85GE"],
)
def test_what_some_servers_take_for_http_is_not_relayed_either_where_it_begins_slowly(lab: Lab, begin: bytes) -> None:
    rest = {b"\x85GE": b"T /secret\r\n", b"{} /secret HTTP/": b"1.1\r\n\r\n", b"\x01GET /secret HTT": b"P/1.1\r\n\r\n"}.get(begin, REQUEST)
    got = bytearray()

    def listen(sock: Any) -> None:
        while data := sock.recv(1000):
            got.extend(data)

    _, port = strict(lab)
    client = lab.tunnel(port, f"127.0.0.1:{lab.serve_raw(listen)}")
    client.sendall(begin)
    until(lambda: bytes(got) == begin, "what has come is relayed")
    client.sendall(rest)
    assert ended(client)
    assert bytes(got) == begin


def test_without_rules_for_requests_all_of_it_is_relayed(lab: Lab) -> None:
    def shout(sock: Any) -> None:
        while data := sock.recv(1000):
            sock.sendall(data.upper())

    proxy = lab.proxy(settings=ProxySettings(sniff_timeout=0.05))
    proxy.on_connect().mitm()
    port = lab.serve_proxy(proxy)
    for sent in (b"GET key\r\n", b"\x01GET / HTTP/1.1\r\n"):
        client = lab.tunnel(port, f"127.0.0.1:{lab.serve_raw(shout)}")
        client.sendall(sent)
        assert client.recv(100) == sent.upper()


@given(st.lists(st.sampled_from([b"GET", b"GE", b"T", b" ", b"\x00", b"\r\n", b"/", b" HTT", b"P/", b"1", b"HTTP/1.1", b"x" * 9])), st.lists(st.integers(0, 60)))
def test_the_first_line_is_the_same_however_it_is_cut(parts: list[bytes], cuts: list[int]) -> None:
    data = b"".join(parts)
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    line = FirstLine()
    assert any(line.is_request(data[a:b]) for a, b in pairwise(edges)) is FirstLine().is_request(data)


@pytest.mark.parametrize(
    "front", [b"\x16\x03\x01\x00\x00", b"\x16\x03\x09\x02\x00\x01", b"\x80\x2e\x01\x03\x03"], ids=["empty record", "TLS 1.8", "SSL 2"]
)
def test_what_only_some_servers_take_for_tls_is_not_relayed_to_them(lab: Lab, front: bytes) -> None:
    upstream = Upstream(lab)
    _, port = strict(lab)
    client = lab.tunnel(port, f"127.0.0.1:{upstream.port}")
    client.sendall(front)
    assert ended(client)
    assert upstream.connections == 0


@given(st.lists(st.sampled_from([b"GET", b"ANY", b" ", b"\t", b"\r\n", b"/", b"http://", b"HTTP/1.1", b"\x16\x03", b"\x80", b"\x01", b"x"])))
@pytest.mark.parametrize("matcher", [nearly_http, nearly_tls])
def test_more_bytes_never_change_what_a_lookalike_is(matcher: Any, parts: list[bytes]) -> None:
    verdicts = [matcher(data) for data in accumulate(parts, initial=b"")]
    decided = [verdict for verdict in verdicts if verdict is not Match.MORE]
    assert verdicts == [Match.MORE] * (len(verdicts) - len(decided)) + decided
    assert len(set(decided)) <= 1


# Names that are only said


@pytest.mark.parametrize("why", ["passed through", "accepted"])
def test_who_says_the_name_of_a_host_that_is_not_looked_into_gets_to_that_host(lab: Lab, why: str) -> None:
    wanted, bank = Upstream(lab, tls=True), Upstream(lab, tls=True)
    asked = []

    def resolver(host: str, port: int) -> list[tuple[int, str]]:
        asked.append(host)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    proxy, port = strict(lab, resolver=resolver, **({"passthrough": ("bank.example",)} if why == "passed through" else {}))
    if why == "accepted":
        proxy.rules._connect = ()
        proxy.on_connect(lambda host, ctx: host.startswith("bank.example:")).accept()
        proxy.on_connect().mitm()
    with pytest.raises(OSError):
        lab.wrap(lab.tunnel(port, f"127.0.0.1:{wanted.port}"), "bank.example", trust=Path(lab.certificate.certfile))
    assert asked == ["bank.example"]
    assert wanted.connections == bank.connections == 0


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_name_on_the_block_list_is_blocked_in_tunnels_to_other_hosts_that_nobody_looks_into(lab: Lab, host: str) -> None:
    upstream = Upstream(lab, tls=True)
    proxy = lab.proxy(record=True)
    proxy.block(BlockList(patterns=["*.bad.example"]).blocked)
    port = lab.serve_proxy(proxy)
    destination, trust = f"{host}:{upstream.port}", Path(lab.certificate.certfile)
    with pytest.raises(OSError):
        lab.wrap(lab.tunnel(port, destination), "www.bad.example", trust=trust)
    client = lab.tunnel(port, destination)
    client.sendall(b"\x16\x03\x01\x00\x00")
    assert ended(client)
    client = lab.wrap(lab.tunnel(port, destination), trust=trust)
    client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert read_answer(client).body == b"ok"
    assert len(upstream.asked) == 1


def test_a_tunnel_to_an_address_is_looked_into_when_a_rule_wants_that_of_its_server_name(lab: Lab) -> None:
    upstream = Upstream(lab, tls=True)
    proxy = lab.proxy(record=True)
    proxy.on_connect(lambda host, ctx: host.startswith("localhost:")).mitm()
    proxy.on_request().do(lambda request, ctx: Response("seen\n", 403))
    client = lab.wrap(lab.tunnel(lab.serve_proxy(proxy), f"127.0.0.1:{upstream.port}"))
    client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert read_answer(client).status == 403


def test_who_waits_for_the_server_hears_it_at_once_though_rules_might_ask_for_a_name(lab: Lab) -> None:
    def banner(sock: Any) -> None:
        sock.sendall(b"hello\n")
        sock.sendall(sock.recv(100).upper())

    proxy = lab.proxy(settings=ProxySettings(sniff_timeout=1000), record=True)
    proxy.block(BlockList(patterns=["bad.example"]).blocked)
    client = lab.tunnel(lab.serve_proxy(proxy), f"127.0.0.1:{lab.serve_raw(banner)}")
    assert client.recv(100) == b"hello\n"
    client.sendall(b"and back")
    assert client.recv(100) == b"AND BACK"


CONDITIONS = {
    "url_is": lambda port: url_is(f"https://localhost:{port}/secret"),
    "url_has_prefix": lambda port: url_has_prefix(f"localhost:{port}/sec"),
    "url_matches": lambda port: url_matches(rf"^https://localhost:{port}/secret"),
    "req_host_is": lambda port: req_host_is(f"localhost:{port}"),
    "req_host_matches": lambda port: req_host_matches(rf"^localhost:{port}$"),
    "protocol_is": lambda port: protocol_is("https"),
}


@pytest.mark.parametrize("name", CONDITIONS)
@pytest.mark.parametrize(
    ("target", "host"),
    [("/secret", "localhost:81"), ("/secret", "localhost:"), ("http://localhost/secret", "x"), ("HTTP://LOCALHOST.:80/secret", "x")],
)
def test_neither_port_nor_scheme_of_a_request_in_a_tunnel_take_it_past_a_rule(lab: Lab, name: str, target: str, host: str) -> None:
    upstream = Upstream(lab, tls=True)
    road = Road(lab, "tls", upstream.port)
    road.proxy.on_request(CONDITIONS[name](upstream.port)).do(lambda request, ctx: Response("refused\n", 403))
    assert road.ask(road.client(), target, host=host).status == 403
    assert upstream.asked == []


@pytest.mark.parametrize("asked", ["h2c", "h2c, HTTP/2.0", "TLS/1.3", "H2C"])
def test_nobody_switches_to_a_protocol_in_which_further_requests_would_pass_unseen(lab: Lab, asked: str) -> None:
    upstream = Upstream(lab)
    road = Road(lab, "tunnel", upstream.port)
    fields = f"Upgrade: {asked}", "Connection: Upgrade, HTTP2-Settings", "HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA"
    assert road.ask(road.client(), "/", *fields).status == 200
    assert [upstream.asked[0].field(name) for name in ("Upgrade", "Connection", "HTTP2-Settings")] == [[], [], []]


def test_of_a_choice_of_protocols_the_others_may_still_be_switched_to(lab: Lab) -> None:
    upstream = Upstream(lab, lambda asked, sock: b"HTTP/1.1 101 S\r\nUpgrade: own/1\r\nConnection: Upgrade\r\n\r\n")
    road = Road(lab, "tunnel", upstream.port)
    client = road.client()
    assert road.ask(client, "/", "Upgrade: h2c, own/1", "Connection: Upgrade").status == 101
    assert upstream.asked[0].field("Upgrade") == ["own/1"]


def test_a_connection_to_a_proxy_in_a_tunnel_on_which_somebody_authenticated_is_nobody_elses(lab: Lab) -> None:
    upstream = Upstream(lab)
    road = Road(lab, "tunnel", upstream.port)
    first = road.client()
    road.ask(first, "http://x.example/", "Proxy-Authorization: NTLM abc")
    road.ask(road.client(), "http://x.example/")
    road.ask(first, "http://x.example/")
    assert [asked.connection for asked in upstream.asked] == [1, 2, 1]


# Servers


def test_layers_of_encoding_that_come_to_nothing_take_no_time() -> None:
    body = gzip.compress(gzip.compress(gzip.compress(b"") * 100_000))
    with pytest.raises(Undecodable, match="more than 100 parts of it are empty"):
        list(decoded([body], "gzip, gzip, gzip") or ())


def test_what_one_layer_of_encoding_blows_up_is_limited_though_the_next_makes_nothing_of_it() -> None:
    inner = gzip.compress(b"")[:10] + b"\x00\x00\x00\xff\xff" * (6 << 20)  # empty blocks of deflate, and no end
    with pytest.raises(Undecodable, match="which is too much"):
        list(decoded([gzip.compress(inner)], "gzip, gzip") or ())


def test_while_a_body_is_decoded_others_have_their_turn() -> None:
    turns = []
    other = gevent.spawn(lambda: [turns.append(give_turn()) for _ in range(1000)])
    for _ in decoded([gzip.compress(b"x")] * 1000, "gzip") or ():
        pass
    other.kill()
    assert len(turns) > 5


def test_a_leaf_has_no_names_of_a_certificate_that_nobody_verified(lab: Lab) -> None:
    upstream = Upstream(lab, tls=True)
    _, port = strict(lab, mimic=True, insecure_upstream=True)
    client = lab.wrap(lab.tunnel(port, f"127.0.0.1:{upstream.port}"), "shop.example")
    names = {value for kind, value in client.getpeercert()["subjectAltName"]}
    assert names == {"shop.example", "127.0.0.1"}


def test_a_name_server_that_does_not_answer_keeps_up_one_client_and_no_other(lab: Lab) -> None:
    upstream = Upstream(lab)
    asked, answer = [], Event()

    def resolver(host: str, port: int) -> list[tuple[int, str]]:
        if host != "good.example":
            asked.append(host)
            answer.wait()
        return [(socket.AF_INET, "127.0.0.1")]

    port = lab.serve_proxy(lab.proxy(resolver=resolver))
    for number in range(LOOKUPS_AT_ONCE + 5):
        lab.connect(port).sendall(f"GET http://{number}.example:{upstream.port}/ HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    until(lambda: len(asked) == LOOKUPS_AT_ONCE, "as many lookups as one client may have")
    other = gevent.socket.create_connection(("127.0.0.1", port), source_address=("127.0.0.2", 0))
    lab.clients.append(other)
    other.sendall(f"GET http://good.example:{upstream.port}/ HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    assert read_answer(other).status == 200
    assert len(asked) == LOOKUPS_AT_ONCE
    answer.set()
    until(lambda: len(asked) == LOOKUPS_AT_ONCE + 5, "the others' turn")
    for client in lab.clients[:-1]:
        assert read_answer(client).status == 200


def test_a_key_of_a_concurrency_limit_is_forgotten_with_its_last_operation() -> None:
    limit = ConcurrencyLimit(1)
    with limit.slot("a", 1) as first, limit.slot("a", 0) as second, limit.slot("b", 0) as others:
        assert (first, second, others, len(limit)) == (True, False, True, 2)
    with limit.slot("a", 0) as again:
        assert again
    assert len(limit) == 0


def test_names_are_looked_up_while_the_threads_of_the_hub_are_all_held_by_others() -> None:
    pool, go_on = gevent.get_hub().threadpool, threading.Event()
    held = [pool.spawn(go_on.wait, 10) for _ in range(pool.maxsize)]
    try:
        assert (socket.AF_INET, "127.0.0.1") in system_resolver("localhost", 80)
        assert not any(result.ready() for result in held)
    finally:
        go_on.set()
        gevent.joinall(held)


def test_what_protocols_clients_name_costs_one_context_for_all_of_them(lab: Lab) -> None:
    made = []

    class Counting(ClientContext):
        def __init__(self, **more: Any) -> None:
            made.append(self)
            super().__init__(**more)

    upstream = Upstream(lab, tls=True)
    _, port = strict(lab)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(upstream_tls, "ClientContext", Counting)
        for number in range(5):
            with suppress(OSError):
                lab.wrap(lab.tunnel(port, f"localhost:{upstream.port}"), alpn=[f"own/{number}"])
    assert upstream.connections > 2
    assert len(made) <= 1


@pytest.mark.parametrize("digits", [18, 19, 5000])
def test_a_number_that_is_too_long_is_passed_on_as_it_is(lab: Lab, digits: int) -> None:
    upstream = Upstream(lab)
    road = Road(lab, "plain", upstream.port)
    said = "9" * digits
    assert road.ask(road.client(), "/", f"Max-Forwards: {said}", method="OPTIONS").status == 200
    assert upstream.asked[0].field("Max-Forwards") == [said if digits > 18 else said[:-1] + "8"]


@pytest.mark.parametrize("from_client", [True, False], ids=["client", "server"])
def test_a_flood_of_empty_frames_leaves_others_their_turn(from_client: bool) -> None:
    (near, client), (far, server) = connection_pair(), connection_pair()
    seen, at_others_turn = [], []
    flood = encode_frame(Frame(Opcode.BINARY, b""), masked=from_client) * 5000
    relaying = gevent.spawn(relay_frames, near, far, lambda frame: seen.append(frame) or frame)
    (client if from_client else server).sendall(flood)
    while len(seen) < 5000:
        gevent.sleep(0.0001)
        at_others_turn.append(len(seen))
    assert len(set(at_others_turn) - {0, 5000}) > 5
    relaying.kill()
    for connection in (near, client, far, server):
        connection.close()


# Clients on other machines


@pytest.mark.parametrize("ip", ["168.63.129.16", "fd20:ce::254", "fd00:ec2::23", "169.254.170.23", "::ffff:168.63.129.16"])
def test_metadata_services_are_not_for_clients_elsewhere_even_where_private_addresses_are(ip: str) -> None:
    with pytest.raises(Forbidden, match="metadata"):
        Guard(private=True).check(ip, 80, ("192.0.2.1", 1))


def test_the_addresses_of_this_machine_are_not_for_clients_elsewhere_whatever_they_are() -> None:
    guard, client = Guard(private=True), ("192.0.2.1", 1)
    with Machines() as machines, machines.router.entered():
        for ip in ("10.77.2.1", "fd77:2::1", "::ffff:10.77.2.1"):
            with pytest.raises(Forbidden, match="this machine itself"):
                guard.check(ip, 22, client)
            guard.check(ip, 22, ("127.0.0.1", 1))
            Guard(allow=["10.77.2.0/24", "fd77:2::/64"]).check(ip, 22, client)
        for ip in ("10.77.2.2", "fd77:2::2", "203.0.113.1"):
            guard.check(ip, 22, client)


def test_a_connect_with_a_body_reads_why_it_is_refused(lab: Lab) -> None:
    """A close with unread bytes is a reset, which takes the answer with it."""
    port = lab.serve_proxy(lab.proxy())
    for _ in range(5):
        sock = lab.connect(port)
        sock.sendall(b"CONNECT 127.0.0.1:9 HTTP/1.1\r\nHost: 127.0.0.1:9\r\nContent-Length: 200000\r\n\r\n" + bytes(100000))
        time.sleep(0.1)
        answer = b""
        while block := sock.recv(65536):
            answer += block
        assert answer.startswith(b"HTTP/1.1 400 ") and answer.endswith(b"CONNECT has no body\n")
