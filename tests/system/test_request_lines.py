"""Request lines of every sort, as the first and as a later request of a connection, over plain TCP, TLS and a proxy's tunnel.

What ends its first line in ` HTTP/<digit>` is HTTP: the HTTP engine answers it, if only with an error, whoever else is served on the port.
"""

import contextlib
import itertools
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import gevent
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from muxwsgi_resp import resp

import muxwsgi
from muxwsgi.mux.matchers import prefix
from muxwsgi.proxy.rules.message import Response
from muxwsgi.settings import CertificateFiles, HTTPSettings, MuxSettings, ServerSettings
from muxwsgi.wire.connection import Connection
from muxwsgi.wire.tls.client_context import ClientContext
from tests.http.conftest import statuses
from tests.mux.first_bytes import client_hello
from tests.proxy.accounts import until
from tests.proxy.conftest import Lab, authority  # noqa: F401

FIELDS = b"Host: a\r\nConnection: close\r\n\r\n"

#: Request lines, and what each deserves: an error, or what the application says of the method.
LINES = {
    "a relative target": (b"GET foo/bar HTTP/1.1\r\n", 400),
    "two blanks": (b"GET  / HTTP/1.1\r\n", 400),
    "a tab": (b"GET\t/ HTTP/1.1\r\n", 400),
    "a blank in front": (b" GET / HTTP/1.1\r\n", 400),
    "no target": (b"GET HTTP/1.1\r\n", 400),
    "no method": (b"/ HTTP/1.1\r\n", 400),
    "five empty lines": (b"\r\n" * 5 + b"GET / HTTP/1.1\r\n", 400),
    "a line feed in front": (b"\nGET / HTTP/1.1\r\n", 400),
    "HTTP/2.0": (b"FOO / HTTP/2.0\r\n", 505),
    "HTTP/2.0, registered": (b"GET / HTTP/2.0\r\n", 505),
    "nearly HTTP/2's preface": (b"PRI * HTTP/2.0\r\n\r\nsm\r\n\r\n", 505),
    "junk in front": (b"junk GET / HTTP/1.1\r\n", 400),
    "ftp": (b"GET ftp://h/x HTTP/1.1\r\n", 400),
    "ws": (b"GET ws://h/x HTTP/1.1\r\n", 400),
    "urn": (b"GET urn:x HTTP/1.1\r\n", 400),
    "CONNECT without a port": (b"CONNECT a HTTP/1.1\r\n", 400),
    "* for GET": (b"GET * HTTP/1.1\r\n", 400),
    "Redis' SET": (b"SET key HTTP/1.1\r\n", 400),
    "a line too long": (b"FOO /" + b"a" * 9000 + b" HTTP/1.1\r\n", 414),
    "HTTP/1.2": (b"GET / HTTP/1.2\r\n", 200),
    "HTTP/1.9, an unregistered method": (b"BREW / HTTP/1.9\r\n", 200),
    "LIST": (b"LIST /x HTTP/1.1\r\n", 200),
    "BAN": (b"BAN / HTTP/1.1\r\n", 200),
    "RPC_IN_DATA": (b"RPC_IN_DATA /rpc/rpcproxy.dll?a:1 HTTP/1.1\r\n", 200),
    "M-SEARCH": (b"M-SEARCH / HTTP/1.1\r\n", 200),
    "PING": (b"PING / HTTP/1.1\r\n", 200),
    "small letters": (b"get / HTTP/1.1\r\n", 200),
    "an RTSP method": (b"DESCRIBE / HTTP/1.1\r\n", 200),
    "33 letters": (b"A" * 33 + b" / HTTP/1.1\r\n", 200),
    "four empty lines": (b"\r\n" * 4 + b"BREW / HTTP/1.1\r\n", 200),
}

FIRST = b"GET /first HTTP/1.1\r\nHost: a\r\n\r\n"


def says_the_method(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [environ["REQUEST_METHOD"].encode(), b" ", environ["SERVER_PROTOCOL"].encode()]


@muxwsgi.hijack(match=prefix(b"\x10"), name="mqtt")
def mqtt(connection: Connection) -> None:
    """Another protocol on the port."""
    connection.recv()


@pytest.fixture(scope="module", params=["plain", "tls", "tunnel"])
def door(request: pytest.FixtureRequest, authority: Any, make_certificate: Callable[[], CertificateFiles]) -> Iterator[Callable[..., Any]]:  # noqa: F811
    """Opens connections to a server: door(redis) serves the Redis hijacker too, or not."""
    with ExitStack() as stack:
        files = make_certificate()
        doors: dict[bool, Callable[[], Any]] = {}
        for redis in (False, True):
            hijackers = [mqtt, resp] if redis else [mqtt]
            if request.param == "tunnel":
                lab = Lab(stack, authority, files)
                proxy = lab.proxy()
                proxy.on_connect().mitm()
                proxy.on_request().do(lambda request, ctx: Response(f"{request.method} HTTP/1.1", 200))
                server = muxwsgi.Server(proxy, ["127.0.0.1:0"], hijackers=hijackers, settings=ServerSettings(http=HTTPSettings(linger=0.2)))
                server.start()
                stack.callback(server.stop, 0)
                port = int(server.addresses[0].rpartition(":")[2])
                doors[redis] = lambda lab=lab, port=port: lab.tunnel(port, "127.0.0.1:1")  # type: ignore[misc]
                continue
            bind = "127.0.0.1:0" if request.param == "plain" else f"127.0.0.1:0,certfile={files.certfile}"
            server = muxwsgi.Server(says_the_method, [bind], hijackers=hijackers, settings=ServerSettings(http=HTTPSettings(linger=0.2)))
            server.start()
            stack.callback(server.stop, 0)
            host, _, port_text = server.addresses[0].rpartition(":")
            context = ClientContext(ca_file=files.certfile) if request.param == "tls" else None

            def connect(host: str = host, port: int = int(port_text), context: ClientContext | None = context) -> Any:
                connection = Connection.from_socket(gevent.socket.create_connection((host, port)))
                return connection if context is None else connection.start_tls(context, server_hostname="localhost")

            doors[redis] = connect
        yield lambda redis: doors[redis]()


def ask(client: Any, *pieces: bytes) -> bytes:
    """Everything that the server answers."""
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    answer = b""
    with gevent.Timeout(20):
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # refused before all was sent
            for piece in pieces:
                client.sendall(piece)
                gevent.sleep(0)
        with contextlib.suppress(ConnectionResetError):
            while data := client.recv(65536):
                answer += data
        client.close()
    return answer


@pytest.mark.parametrize("redis", [False, True], ids=["", "beside Redis"])
@pytest.mark.parametrize("name", LINES)
def test_a_request_line_gets_what_it_deserves_first_or_later_whole_or_cut_anywhere(door: Callable[..., Any], name: str, redis: bool) -> None:
    line, status = LINES[name]
    sent = line + FIELDS
    assert statuses(ask(door(redis), FIRST, sent)) == [200, status]
    whole = ask(door(redis), sent)
    assert statuses(whole) == [status]
    if status == 200:
        assert whole.endswith(line.split()[0] + b" HTTP/1.1")
    for at in range(1, min(len(line), 60)):
        assert statuses(ask(door(redis), sent[:at], sent[at:])) == [status], f"cut at byte {at}"


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    begin=st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_categories=["Cc"]), min_size=0, max_size=30),
    digit=st.integers(0, 9),
    cuts=st.lists(st.integers(1, 40), max_size=5),
)
def test_whatever_text_stands_before_the_version_the_http_engine_answers(
    door: Callable[..., Any], begin: str, digit: int, cuts: list[int]
) -> None:
    sent = begin.encode("latin-1") + b" HTTP/%d\r\n" % digit + FIELDS
    edges = sorted({0, len(sent), *(cut for cut in cuts if cut < len(sent))})
    found = statuses(ask(door(False), *(sent[a:b] for a, b in itertools.pairwise(edges))))
    assert len(found) == 1
    assert found[0] in (400, 414, 505)


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        (b"GET key\r\nQUIT\r\n", b"$-1\r\n+OK\r\n"),
        (b"SET HTTP HTTP/1.1 is fun\r\nQUIT\r\n", b"-ERR syntax error\r\n+OK\r\n"),
        (b"*1\r\n$4\r\nQUIT\r\n", b"+OK\r\n"),
        (b"ECHO HTTP/1\r\nQUIT\r\n", None),
    ],
)
def test_redis_keeps_what_is_redis(door: Callable[..., Any], sent: bytes, answer: bytes | None) -> None:
    for at in range(1, len(sent)):
        got = ask(door(True), sent[:at], sent[at:])
        if answer is None:
            assert statuses(got) == [400]
        else:
            assert got == answer


@pytest.mark.parametrize("line", [b"OPTIONS * RTSP/1.0\r\n", b"OPTIONS rtsp://a/b RTSP/1.0\r\n", b"OPTIONS sip:a@b SIP/2.0\r\n", b"SOURCE /a ICE/1.0\r\n"])
def test_rtsp_sip_and_icecast_are_not_http(line: bytes, make_certificate: Any) -> None:
    got: list[bytes] = []

    def other(connection: Connection) -> None:
        got.append(connection.recv())
        connection.sendall(b"RTSP/1.0 200 OK\r\n\r\n")

    hijacker = muxwsgi.hijack(match=prefix(*(b"OPTIONS", b"SOURCE")), name="other")(other)
    server = muxwsgi.Server(says_the_method, ["127.0.0.1:0"], hijackers=[hijacker])
    server.start()
    try:
        host, _, port = server.addresses[0].rpartition(":")
        sent = line + b"CSeq: 1\r\n\r\n"
        assert ask(gevent.socket.create_connection((host, int(port))), sent) == b"RTSP/1.0 200 OK\r\n\r\n"
        assert got == [sent]
    finally:
        server.stop(0)


# How long first bytes may take


def serving(stack: ExitStack, *hijackers: Any, sniff: float = 0.2, head: float = 4.0, **more: Any) -> tuple[muxwsgi.Server, Callable[[], Any]]:
    wanted = ServerSettings(http=HTTPSettings(request_head_timeout=head, linger=0.2), mux=MuxSettings(sniff_timeout=sniff), **more)
    server = muxwsgi.Server(says_the_method, ["127.0.0.1:0"], hijackers=list(hijackers), settings=wanted)
    server.start()
    stack.callback(server.stop, 0)
    host, _, port = server.addresses[0].rpartition(":")
    return server, lambda: gevent.socket.create_connection((host, int(port)), timeout=20)


@pytest.mark.parametrize("begin", [b"", b"GE", b"BREW /", b"\r\n", b"GET foo HTT"])
def test_a_client_that_pauses_in_its_first_bytes_is_served(begin: bytes) -> None:
    line = begin + {b"": b"GET / HTTP/1.1", b"GE": b"T / HTTP/1.1", b"BREW /": b" HTTP/1.1", b"\r\n": b"GET / HTTP/1.1"}.get(begin, b"P/1.1")
    with ExitStack() as stack:
        _, connect = serving(stack, head=30.0)
        client = connect()
        client.sendall(begin)
        gevent.sleep(2.5)  # the sweeper has come since sniff_timeout
        assert statuses(ask(client, line[len(begin) :] + b"\r\n" + FIELDS)) == [400 if b"foo" in begin else 200]


def test_a_request_that_never_ends_is_told_so_at_its_deadline_and_silence_is_closed() -> None:
    with ExitStack() as stack:
        _, connect = serving(stack, head=1.0)
        slow, silent = connect(), connect()
        slow.sendall(b"GE")
        assert statuses(ask(slow)) == [408]
        assert silent.recv(10) == b""


def test_a_first_head_that_began_late_has_what_is_left_of_its_time() -> None:
    with ExitStack() as stack:
        _, connect = serving(stack, head=4.0)
        client = connect()
        client.sendall(b"GE")
        gevent.sleep(2.5)
        client.sendall(b"T / HTTP/1.1\r\nHost: a")
        began = gevent.get_hub().loop.now()
        assert statuses(ask(client)) == [408]
        gevent.get_hub().loop.update_now()
        assert gevent.get_hub().loop.now() - began < 3.9  # and not 4 seconds anew, and up to one until that is noticed


def test_a_hijacker_does_not_wait_for_what_http_could_make_nothing_of() -> None:
    def ab(connection: Connection) -> None:
        connection.sendall(b"here I am")

    hijacker = muxwsgi.hijack(match=prefix(b"AB", b"GET *x", b"GET k"), name="ab")(ab)
    with ExitStack() as stack:
        _, connect = serving(stack, hijacker, sniff=60.0, head=60.0)
        for begin in (b"AB", b"GET *x", b"GET k"):
            client = connect()
            client.sendall(begin)
            assert client.recv(20) == b"here I am"


def test_a_fallback_still_gets_what_is_undecided_after_the_sniff_timeout() -> None:
    def other(connection: Connection) -> None:
        connection.sendall(b"other:" + connection.recv())

    hijacker = muxwsgi.hijack(name="other")(other)
    with ExitStack() as stack:
        _, connect = serving(stack, hijacker, head=60.0, fallback="other")
        for begin in (b"GE", b"<stream>", b"{}", b"\x00\x01"):
            client = connect()
            client.sendall(begin)
            assert client.recv(20) == b"other:" + begin


def test_what_begins_like_no_word_goes_to_the_fallback_at_once() -> None:
    def other(connection: Connection) -> None:
        connection.sendall(b"other:" + connection.recv())

    hijacker = muxwsgi.hijack(name="other")(other)
    with ExitStack() as stack:
        _, connect = serving(stack, hijacker, sniff=60.0, head=60.0, fallback="other")
        for begin in (b"<stream>", b"{}", b"\x00\x01", b"AUTH=x"):
            client = connect()
            client.sendall(begin)
            assert client.recv(20) == b"other:" + begin


def test_a_connection_that_is_silent_does_not_hold_up_a_stop() -> None:
    with ExitStack() as stack:
        server, connect = serving(stack, head=300.0)
        silent, begun = connect(), connect()
        begun.sendall(b"GE")
        until(lambda: server.connections == 2, "both are accepted")
        gevent.sleep(1.5)
        stopping = gevent.spawn(server.stop, 30)
        assert silent.recv(10) == b""
        begun.sendall(b"T / HTTP/1.1\r\n" + FIELDS)
        assert statuses(begun.recv(65536)) == [200]
        stopping.get(timeout=10)


def test_a_client_that_ends_in_the_middle_of_a_request_line_is_told() -> None:
    with ExitStack() as stack:
        _, connect = serving(stack)
        for begin in (b"GE", b"GET foo HTTP/1.1", b"BREW /x"):
            client = connect()
            client.sendall(begin)
            client.shutdown(socket.SHUT_WR)
            assert statuses(ask(client)) == [400]


def test_a_client_that_pauses_in_its_client_hello_is_served(make_certificate: Callable[[], CertificateFiles]) -> None:
    files = make_certificate()
    wanted = ServerSettings(mux=MuxSettings(sniff_timeout=0.2))
    server = muxwsgi.Server(says_the_method, [f"127.0.0.1:0,certfile={files.certfile},tls=optional"], settings=wanted)
    server.start()
    try:
        host, _, port = server.addresses[0].rpartition(":")
        client = gevent.socket.create_connection((host, int(port)), timeout=20)
        hello_ = client_hello(None, ())
        client.sendall(hello_[:4])
        gevent.sleep(2.5)
        client.sendall(hello_[4:])
        assert client.recv(1) == b"\x16"
        client.close()
    finally:
        server.stop(0)


@pytest.mark.parametrize("inside", [False, True], ids=["forward", "tunnel"])
def test_any_method_goes_through_the_proxy(inside: bool, authority: Any, make_certificate: Any) -> None:  # noqa: F811
    with ExitStack() as stack:
        lab = Lab(stack, authority, make_certificate())
        origin = muxwsgi.Server(says_the_method, ["127.0.0.1:0"])
        origin.start()
        stack.callback(origin.stop, 0)
        proxy = lab.proxy()
        proxy.on_connect().mitm()
        proxy.on_request().do(lambda request, ctx: None)
        port = lab.serve_proxy(proxy)
        for method in (b"LIST", b"BAN", b"RPC_IN_DATA", b"M-SEARCH", b"get", b"A" * 40):
            client = lab.tunnel(port, origin.addresses[0]) if inside else lab.connect(port)
            target = b"/x" if inside else b"http://%b/x" % origin.addresses[0].encode()
            sent = method + b" " + target + b" HTTP/1.1\r\nHost: %b\r\nConnection: close\r\n\r\n" % origin.addresses[0].encode()
            answer = ask(client, sent)
            assert statuses(answer) == [200]
            assert method + b" HTTP/1.1" in answer


def test_what_is_refused_in_a_tunnel_is_counted_too(authority: Any, make_certificate: Any) -> None:  # noqa: F811
    def busy(connection: Connection) -> None:
        connection.sendall(connection.recv())
        connection.recv()

    with ExitStack() as stack:
        lab = Lab(stack, authority, make_certificate())
        proxy = lab.proxy()
        proxy.on_connect().mitm()
        server = muxwsgi.Server(proxy, ["127.0.0.1:0"], hijackers=[muxwsgi.hijack(match=prefix(b"\x10"), name="busy", limit=1)(busy)])
        server.start()
        stack.callback(server.stop, 0)
        port = int(server.addresses[0].rpartition(":")[2])
        first, second, third = (lab.tunnel(port, "127.0.0.1:1") for _ in range(3))
        first.sendall(b"\x10")
        assert first.recv(1) == b"\x10"
        assert ask(second, b"\x10") == b""
        assert statuses(ask(third, b"GET urn:x HTTP/1.1\r\n" + FIELDS)) == [400]
        assert server.turned_away.counts == {"limit": 1, "refused": 1}
