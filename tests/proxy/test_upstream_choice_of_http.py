"""Which HTTP a request to an upstream is of: what its server chooses, whatever its client speaks."""

from collections.abc import Callable
from typing import Any

import gevent
import pytest
from gevent.event import Event

from muxwsgi.dial.upstream_choice import UpstreamChoice
from muxwsgi.dial.upstream_proxy import UpstreamProxy
from muxwsgi.http.websocket.frame import Frame as Message
from muxwsgi.http.websocket.frame import Opcode, encode_frame
from muxwsgi.proxy.settings import ProxySettings
from muxwsgi.proxy.upstream import sessions
from muxwsgi.settings import HTTP2Settings, HTTPSettings, ServerSettings, TLSSettings
from muxwsgi.wire.connection import Connection
from muxwsgi.wire.tls.server_context import ServerContext
from tests.http2 import frames as f
from tests.http2.frames import data, headers, reset
from tests.proxy.conftest import PATIENCE, Lab, read_head, read_response
from tests.proxy.test_http2 import Origin, ask, inside, intercepting
from tests.proxy.test_http2_upstreams import OK, Peer, alone

HTTP_1_1_REQUIRED = 13

WITHOUT_HTTP2 = ServerSettings(http2=HTTP2Settings(http2="off"), http=HTTPSettings(linger=0.1))


def get(path: str, port: int, *fields: str, method: str = "GET") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", f"Host: localhost:{port}", *fields, "", ""]).encode()


def tunnel(lab: Lab, port: int, upstream: int) -> Any:
    """A client of HTTP/1.1 in an intercepted tunnel."""
    return lab.wrap(lab.tunnel(port, f"localhost:{upstream}"))


class Either(Peer):
    """A `Peer` that chooses HTTP/2 on its first `in_http2` connections, and answers in HTTP/1.1 on others: `asked` has their heads."""

    def __init__(self, lab: Lab, serve: Callable[[Peer], Any], settings: bytes = f.settings(), in_http2: int = 1000) -> None:
        super().__init__(lab, serve, settings)
        self._in_http2 = in_http2
        self.asked: list[bytes] = []
        self._http1 = ServerContext(TLSSettings(certificates=(lab.certificate,)), alpn=("http/1.1",))
        self._both = ServerContext(TLSSettings(certificates=(lab.certificate,)), alpn=("h2", "http/1.1"))
        self.made = 0

    def _run(self, sock: Any) -> None:
        self.made += 1
        self._context = self._both if self.made <= self._in_http2 else self._http1
        connection = Connection.from_socket(sock).start_tls(self._context)
        if connection.tls is not None and connection.tls.alpn == "h2":
            self.over(connection)
            return
        with connection:
            head = b""
            while more := connection.recv():
                head += more
                if head.endswith((b"\r\n\r\n", b"\r\n\r\nab")):
                    self.asked.append(head)
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nold")
                    head = b""


def test_clients_of_http_1_share_a_connection_of_http_2(lab: Lab) -> None:
    origin = Origin()
    upstream = lab.serve(origin, tls=True)
    proxy, port = intercepting(lab)
    for number in range(3):
        client = tunnel(lab, port, upstream)
        client.sendall(get(f"/a{number}", upstream, "X-Field: b", "Connection: keep-alive"))
        head, body = read_response(client)
        assert head.startswith(b"HTTP/1.1 200 OK\r\n") and b"x-version: HTTP/2.0" in head and body == b"/a%d " % number
    direct = lab.connect(port)
    direct.sendall(get(f"https://localhost:{upstream}/direct", upstream))
    assert read_response(direct)[1] == b"/direct "
    assert len({each["REMOTE_PORT"] for each in origin.asked}) == 1
    assert (proxy.pool.opened, proxy.pool.reused) == (1, 3)
    assert origin.asked[0]["HTTP_X_FIELD"] == "b" and "HTTP_CONNECTION" not in origin.asked[0]
    client = inside(lab, port, upstream)
    client.say(headers(1, ask("/h2", upstream)))
    assert client.answer(1).field("x-version") == "HTTP/2.0"
    assert proxy.pool.opened == 1


def test_bodies_trailers_and_interim_responses_are_translated_both_ways(lab: Lab) -> None:
    origin = Origin()
    upstream = lab.serve(origin, tls=True)
    _, port = intercepting(lab)
    client = tunnel(lab, port, upstream)
    client.sendall(get("/hints", upstream, "TE: trailers", "Connection: TE", "Transfer-Encoding: chunked", method="POST"))
    client.sendall(b"5\r\nhello\r\n0\r\nX-Sum: 7\r\n\r\n")
    assert read_head(client).startswith(b"HTTP/1.1 103 ")
    head = read_head(client)
    received = b""
    while not received.endswith(b"grpc-status: 0\r\n\r\n"):
        received += client.recv(1000)
    assert b"transfer-encoding: chunked" in head.lower() and b"one " in received and b"two" in received
    (asked,) = origin.asked
    assert (asked["SERVER_PROTOCOL"], asked["HTTP_TE"], asked["muxwsgi.trailers"]) == ("HTTP/2.0", "trailers", {"x-sum": "7"})
    for method, path in (("HEAD", "/head"), ("GET", "/next")):
        client.sendall(get(path, upstream, method=method))
        head = read_head(client)
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert client.recv(1000) == b"/next "


@pytest.mark.parametrize("status", [204, 304])
def test_a_response_without_a_body_ends_with_its_head(lab: Lab, status: int) -> None:
    def serve(peer: Peer) -> None:
        peer.until(lambda: peer.has(1))
        peer.say(headers(1, [(":status", str(status)), ("etag", '"a"')]))
        peer.until(lambda: peer.has(3))
        peer.say(headers(3, [*OK, ("content-length", "0")]))
        peer.until(lambda: False)

    peer = Peer(lab, serve)
    _, port = intercepting(lab)
    client = tunnel(lab, port, peer.port)
    for expected in (status, 200):
        client.sendall(get("/", peer.port))
        assert read_head(client).startswith(b"HTTP/1.1 %d " % expected)


def test_a_large_upload_waits_for_100_and_passes(lab: Lab) -> None:
    upstream = lab.serve(Origin(), tls=True)
    _, port = intercepting(lab)
    client = tunnel(lab, port, upstream)
    client.sendall(get("/up", upstream, "Content-Length: 300000", "Expect: 100-continue", method="PUT"))
    assert read_head(client).startswith(b"HTTP/1.1 100 ")
    client.sendall(b"x" * 300_000)
    assert read_response(client)[1] == b"/up " + b"x" * 300_000


def test_a_server_that_chooses_http_1_gets_http_1_and_its_connections_are_kept(lab: Lab) -> None:
    origin = Origin()
    upstream = lab.serve(origin, tls=True, settings=WITHOUT_HTTP2)
    proxy, port = intercepting(lab)
    for _ in range(3):
        client = alone(lab, port, upstream)  # one that offers HTTP/2 alone
        client.say(headers(1, ask("/a", upstream)))
        assert (client.answer(1).status, client.answer(1).field("x-version")) == ("200", "HTTP/1.1")
    client = tunnel(lab, port, upstream)
    client.sendall(get("/b", upstream))
    assert b"X-Version: HTTP/1.1" in read_response(client)[0]
    assert (proxy.pool.opened, proxy.pool.reused, len(origin.asked)) == (1, 3, 4)


def test_requests_that_come_together_wait_for_one_handshake(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "WAIT_FOR_OTHERS", PATIENCE)
    origin = Origin()
    upstream = lab.serve(origin, tls=True)
    proxy, port = intercepting(lab)

    def asks() -> bytes:  # at once, because a connection that is made for a client that is silent offers no HTTP/2
        client = tunnel(lab, port, upstream)
        client.sendall(get("/a", upstream))
        return read_response(client)[1]

    asking = [gevent.spawn(asks) for _ in range(6)]
    assert {each.get(timeout=PATIENCE) for each in asking} == {b"/a "}
    assert proxy.pool.opened == 1


def test_a_handshake_that_hangs_holds_others_up_for_a_bounded_time(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "WAIT_FOR_OTHERS", 0.05)
    context = ServerContext(TLSSettings(certificates=(lab.certificate,)), alpn=("http/1.1",))
    hanging, over = Event(), Event()

    def serve(sock: Any) -> None:
        if not hanging.is_set():
            hanging.set()
            over.wait(PATIENCE)
            return
        with Connection.from_socket(sock).start_tls(context) as connection:
            connection.recv()
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    upstream = lab.serve_raw(serve)
    _, port = intercepting(lab)
    first, second = tunnel(lab, port, upstream), tunnel(lab, port, upstream)
    first.sendall(get("/", upstream))
    hanging.wait(PATIENCE)
    second.sendall(get("/", upstream))
    assert read_response(second)[1] == b"ok"
    over.set()


def test_what_is_known_of_servers_is_bounded_and_expires() -> None:
    now = 0.0
    known = sessions.HTTP1Only(clock=lambda: now)
    for number in range(sessions.REMEMBERED_AT_MOST + 1):
        known.note(number, asked=number == 7)
    assert [known.covers(number) for number in (0, 1, 7, sessions.REMEMBERED_AT_MOST)] == [False, True, True, True]
    assert known.covers(7, asked=True) and not known.covers(8, asked=True)
    known.forget(8)
    assert not known.covers(8)
    now = sessions.REMEMBERED_FOR
    assert not known.covers(7)


@pytest.mark.parametrize("tls", [True, False])
def test_a_connection_of_http_2_goes_through_a_tunnel_of_the_next_proxy(lab: Lab, tls: bool) -> None:
    origin = Origin()
    upstream = lab.serve(origin, tls=tls)
    relaying = lab.proxy()
    relaying.on_connect().accept()
    further = UpstreamProxy("http", "127.0.0.1", lab.serve_proxy(relaying))
    proxy = lab.proxy(
        settings=ProxySettings(default_action="mitm", upstream_h2c=("localhost",)), upstreams=UpstreamChoice(http=further, tunnel=further)
    )
    port = lab.serve_proxy(proxy)
    for number in range(2):
        client: Any = lab.tunnel(port, f"localhost:{upstream}")
        if tls:
            client = lab.wrap(client)
        client.sendall(get(f"/{number}", upstream))
        head, body = read_response(client)
        assert body == b"/%d " % number and b"x-version: HTTP/2.0" in head
    assert (proxy.pool.opened, proxy.pool.reused, len({each["REMOTE_PORT"] for each in origin.asked})) == (1, 1, 1)


# What HTTP/2 does not carry


def upgrade(path: str, port: int, *fields: str) -> bytes:
    key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
    return get(path, port, "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", key, *fields)


def test_a_websocket_of_http_1_goes_on_a_connection_of_http_2_whose_server_takes_it(lab: Lab) -> None:
    origin = Origin()
    upstream = lab.serve(origin, tls=True)
    _, port = intercepting(lab)
    for before, version in ((False, "HTTP/1.1"), (True, "HTTP/2.0")):
        if before:
            client = tunnel(lab, port, upstream)
            client.sendall(get("/a", upstream))
            assert read_response(client)[1] == b"/a "
        client = tunnel(lab, port, upstream)
        client.sendall(upgrade("/socket", upstream))
        head = read_head(client)
        assert head.startswith(b"HTTP/1.1 101 ") and b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in head and b"content-length" not in head.lower()
        client.sendall(encode_frame(Message(Opcode.TEXT, b"hello", from_client=True), masked=True))
        assert client.recv(100) == encode_frame(Message(Opcode.TEXT, b"hello", from_client=False), masked=False)
        client.close()
        assert origin.asked[-1]["SERVER_PROTOCOL"] == version


def answering(peer: Peer) -> None:
    """A server that answers each request in HTTP/2."""
    answered: set[int] = set()
    while True:
        peer.until(lambda: {number for number, each in peer.requests.streams.items() if each.heads} - answered)
        for number in sorted(set(peer.requests.streams) - answered):
            answered.add(number)
            peer.say(headers(number, OK, end=False), data(number, b"new", end=True))


def test_another_protocol_and_heads_that_are_large_go_over_http_1(lab: Lab) -> None:
    peer = Either(lab, answering, in_http2=1)
    _, port = intercepting(lab)
    client = tunnel(lab, port, peer.port)
    client.sendall(get("/", peer.port))
    assert read_response(client)[1] == b"new"
    client.sendall(get("/", peer.port, "Connection: Upgrade", "Upgrade: foo"))
    assert read_response(client)[1] == b"old"
    client.sendall(get("/", peer.port, f"Cookie: {'c' * 5000}", f"X-Large: {'c' * 5000}"))
    assert read_response(client)[1] == b"old"
    client.sendall(upgrade("/", peer.port))  # the server does not take extended CONNECTs
    assert read_response(client)[1] == b"old"
    client.sendall(get("/", peer.port))
    assert read_response(client)[1] == b"new"
    assert (peer.connections, len(peer.asked)) == (1, 3)


def test_a_large_head_of_grpc_has_a_connection_for_itself(lab: Lab) -> None:
    peer = Either(lab, answering)
    _, port = intercepting(lab)
    client = alone(lab, port, peer.port)
    client.say(headers(1, ask("/", peer.port)))
    assert client.answer(1).body == b"new"
    client.say(headers(3, ask("/", peer.port, ("te", "trailers"), ("x-a", "c" * 5000), ("x-b", "c" * 5000))))
    assert (client.answer(3).body, peer.connections) == (b"new", 2)


def test_ntlm_and_negotiate_bind_the_client_to_connections_of_http_1(lab: Lab) -> None:
    peer = Either(lab, answering, in_http2=1)
    _, port = intercepting(lab)
    client = tunnel(lab, port, peer.port)
    for field, body in (("", b"new"), ("Authorization: NTLM TlRM", b"old"), ("", b"old")):
        client.sendall(get("/", peer.port, *([field] if field else [])))
        assert read_response(client)[1] == body
    assert (peer.made, len(peer.asked)) == (2, 2)
    other = tunnel(lab, port, peer.port)
    other.sendall(get("/", peer.port))
    assert read_response(other)[1] == b"new"


def test_hop_by_hop_fields_that_are_kept_need_http_1(lab: Lab) -> None:
    peer = Either(lab, answering, in_http2=0)
    _, port = intercepting(lab, keep_header=True)
    client = tunnel(lab, port, peer.port)
    client.sendall(get("/", peer.port, "Proxy-Connection: keep-alive"))
    assert read_response(client)[1] == b"old" and b"Proxy-Connection" in peer.asked[0]


# What servers ask for


@pytest.mark.parametrize("how", ["RST_STREAM", "GOAWAY"])
def test_a_server_that_requires_http_1_gets_the_request_in_http_1(lab: Lab, how: str) -> None:
    def serve(peer: Peer) -> None:
        peer.until(lambda: peer.has(1))
        if how == "GOAWAY":
            peer.say(f.frame(f.GOAWAY, 0, 0, bytes(4) + HTTP_1_1_REQUIRED.to_bytes(4, "big")))
        else:
            peer.say(reset(1, HTTP_1_1_REQUIRED))
        peer.until(lambda: False)

    peer = Either(lab, serve, in_http2=1)
    proxy, port = intercepting(lab)
    client = tunnel(lab, port, peer.port)
    for _ in range(2):
        client.sendall(get("/", peer.port, "Content-Length: 2", method="POST") + b"ab")
        assert read_response(client)[1] == b"old"
    assert len(peer.asked) == 2
    assert (peer.connections, peer.made, proxy.pool.opened) == (1, 2, 2)


@pytest.mark.parametrize("again", [200, 421])
def test_a_misdirected_request_is_sent_once_more_on_a_connection_for_itself(lab: Lab, again: int) -> None:
    statuses: list[int] = []

    def serve(peer: Peer) -> None:
        peer.until(lambda: peer.has(1))
        statuses.append(again if statuses else 421)
        peer.say(headers(1, [(":status", str(statuses[-1]))], end=False), data(1, b"%d" % len(statuses), end=True))
        peer.until(lambda: False)

    peer = Either(lab, serve)
    proxy, port = intercepting(lab)
    client = tunnel(lab, port, peer.port)
    client.sendall(get("/", peer.port, "Content-Length: 2", method="POST") + b"ab")
    head, body = read_response(client)
    assert head.startswith(b"HTTP/1.1 %d " % again) and (body, statuses) == (b"2", [421, again])
    assert [len(kept) for kept in proxy._upstreams._sessions.by_key.values()] == [1]


def test_a_streamed_request_on_a_connection_that_takes_no_more_is_sent_on_another(lab: Lab) -> None:
    """Nothing of its body has been read then."""

    def serve(peer: Peer) -> None:
        if peer.connections == 1:
            peer.until(lambda: peer.has(1))
            peer.say(reset(1, f.REFUSED_STREAM))
            peer.until(lambda: False)
        peer.until(lambda: peer.has(1) and peer.requests.streams[1].ended)
        peer.say(headers(1, OK, end=False), data(1, b"got it", end=True))
        peer.until(lambda: False)

    peer = Peer(lab, serve)
    _, port = intercepting(lab)
    client = tunnel(lab, port, peer.port)
    client.sendall(get("/", peer.port, "Expect: 100-continue", "Content-Length: 2", method="POST"))
    head = read_head(client)
    assert head.startswith(b"HTTP/1.1 100 ")
    client.sendall(b"ab")
    assert read_response(client)[1] == b"got it"


# Configuration


def test_it_can_be_turned_off(lab: Lab) -> None:
    origin = Origin()
    upstream = lab.serve(origin, tls=True)
    _, port = intercepting(lab, upstream_http2="off")
    client = alone(lab, port, upstream)
    client.say(headers(1, ask("/a", upstream)))
    assert client.answer(1).field("x-version") == "HTTP/1.1"
    plain = lab.serve(origin)
    client = inside(lab, port, upstream)
    client.say(headers(1, ask("/a", plain)))
    assert client.answer(1).field("x-version") == "HTTP/1.1"


@pytest.mark.parametrize("configured", ["", "localhost", "LOCALHOST:PORT", "localhost:1", "127.0.0.1"])
def test_http_2_without_tls_is_for_hosts_that_are_named(lab: Lab, configured: str) -> None:
    origin = Origin()
    upstream = lab.serve(origin)
    named = (configured.replace("PORT", str(upstream)),) if configured else ()
    proxy, port = intercepting(lab, upstream_h2c=named)
    version = "HTTP/2.0" if configured in ("localhost", "LOCALHOST:PORT") else "HTTP/1.1"
    client = lab.connect(port)
    for _ in range(2):
        client.sendall(get(f"http://localhost:{upstream}/a", upstream))
        assert f"x-version: {version}" in read_response(client)[0].decode().replace("X-V", "x-v")
    assert proxy.pool.opened == 1
    inner = lab.tunnel(port, f"localhost:{upstream}")
    inner.sendall(upgrade("/socket", upstream))
    assert read_head(inner).startswith(b"HTTP/1.1 101 ")
    assert origin.asked[-1]["SERVER_PROTOCOL"] == version


def test_a_host_that_is_none_is_refused_at_the_start(lab: Lab) -> None:
    with pytest.raises(Exception, match="upstream_h2c: 'a b'"):
        intercepting(lab, upstream_h2c=("a b",))


def test_the_connection_that_tells_what_a_server_speaks_is_the_one_that_is_used(lab: Lab) -> None:
    """A client that offers only a protocol that the proxy relays."""
    context = ServerContext(TLSSettings(certificates=(lab.certificate,)), alpn=("foo",))
    made: list[Any] = []

    def serve(sock: Any) -> None:
        made.append(sock)
        with Connection.from_socket(sock).start_tls(context) as connection:
            connection.sendall(connection.recv().upper())

    upstream = lab.serve_raw(serve)
    _, port = intercepting(lab)
    sock = lab.wrap(lab.tunnel(port, f"localhost:{upstream}"), alpn=("foo", "bar"))
    assert sock.selected_alpn_protocol() == "foo"
    sock.sendall(b"\x01\x02foo")
    assert (sock.recv(100), len(made)) == (b"\x01\x02FOO", 1)
