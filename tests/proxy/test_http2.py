"""Clients that speak HTTP/2 with the proxy: inside of intercepted tunnels, and to the proxy itself."""

from collections.abc import Callable, Iterator
from typing import Any

import gevent
import gevent.socket
import pytest
from gevent.event import Event

from muxwsgi.http.websocket.frame import Frame as Message
from muxwsgi.http.websocket.frame import Opcode, encode_frame
from muxwsgi.names import split_host_port
from muxwsgi.proxy import Response
from muxwsgi.proxy.doors.access import Access
from muxwsgi.proxy.exchange.client_watch import ClientWatch
from muxwsgi.proxy.proxy import Proxy
from muxwsgi.proxy.rules.actions import Accept, Mitm, Reject
from muxwsgi.proxy.settings import ProxySettings
from muxwsgi.settings import HTTP2Settings, HTTPSettings, ServerSettings
from muxwsgi.websocket import accept
from tests.http2.frames import CANCEL, NO_ERROR, OPENING, Fields, Responses, data, headers, reset
from tests.http2.frames import Response as Answer
from tests.proxy.conftest import PATIENCE, Lab, read_response

Asks = Callable[..., Fields]


class Client(Responses):
    """A client of HTTP/2 on a socket."""

    def __init__(self, sock: Any) -> None:
        super().__init__()
        self.sock = sock
        sock.sendall(OPENING)
        self._reading = gevent.spawn(self._read)

    def _read(self) -> None:
        try:
            while received := self.sock.recv(65536):
                self.add(received)
        except OSError:
            pass

    def say(self, *frames: bytes) -> None:
        self.sock.sendall(b"".join(frames))

    def wait(self, condition: Callable[[], Any]) -> None:
        with gevent.Timeout(PATIENCE):
            while not condition():
                gevent.sleep(0.001)

    def head(self, stream: int) -> Answer:
        self.wait(lambda: stream in self.streams and self.streams[stream].heads)
        return self.streams[stream]

    def answer(self, stream: int) -> Answer:
        self.wait(lambda: stream in self.streams and (self.streams[stream].ended or self.streams[stream].reset is not None))
        return self.streams[stream]


def ask(path: str, port: int, *more: tuple[str, str], method: str = "GET", scheme: str = "https", host: str = "localhost") -> Fields:
    return [(":method", method), (":scheme", scheme), (":path", path), (":authority", f"{host}:{port}"), *more]


def sock_address(client: Client) -> str:
    host, port = client.sock.getsockname()
    return f"{host}:{port}"


def connect(port: int, *more: tuple[str, str], host: str = "localhost") -> Fields:
    return [(":method", "CONNECT"), (":authority", f"{host}:{port}"), *more]


class Origin:
    """An upstream. `asked` has the environs of its requests."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.hold = Event()
        self.went = 0

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        self.asked.append(environ)
        path = environ["PATH_INFO"]
        if path == "/socket":
            ws = accept(environ)
            for message in ws:
                ws.send(message)
            return []
        if path == "/slow":
            return self.slow(start_response)
        body = environ["wsgi.input"].read()
        extra = environ["muxwsgi.response"]
        if path == "/hints":
            extra.informational(103, "Early Hints", [("Link", "</a>")])
            start_response("200 OK", [("Content-Type", "text/plain")])
            extra.trailers = [("Grpc-Status", "0")]
            return iter([b"one ", b"two"])
        start_response("200 OK", [("Content-Type", "text/plain"), ("Keep-Alive", "timeout=5"), ("X-Version", environ["SERVER_PROTOCOL"])])
        return [path.encode(), b" ", body]

    def slow(self, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        try:
            yield b"begun"
            self.hold.wait(PATIENCE)
            while True:
                yield bytes(1000)
                gevent.sleep(0.001)
        finally:
            self.went += 1


def intercepting(lab: Lab, **more: Any) -> tuple[Proxy, int]:
    proxy = lab.proxy(record=True, settings=ProxySettings(default_action="mitm", **more))
    return proxy, lab.serve_proxy(proxy)


def inside(lab: Lab, port: int, upstream: int, alpn: tuple[str, ...] = ("h2", "http/1.1")) -> Client:
    """A client in an intercepted tunnel."""
    sock = lab.wrap(lab.tunnel(port, f"localhost:{upstream}"), alpn=alpn)
    assert sock.selected_alpn_protocol() == "h2"
    return Client(sock)


@pytest.mark.parametrize("upstream_http2", ["off", "on"])
def test_rules_and_flows_see_requests_of_http_2(lab: Lab, upstream_http2: str) -> None:
    origin = Origin()
    upstream = lab.serve(origin, tls=True)
    proxy, port = intercepting(lab, upstream_http2=upstream_http2)
    seen: list[str] = []

    @proxy.on_request().do
    def note(request: Any, ctx: Any) -> Any:
        seen.append(f"{request.method} {request.url}")
        if request.path == "/never":
            return Response("no", 418)
        request.headers["X-Rule"] = "was here"
        return None

    client = inside(lab, port, upstream)
    client.say(
        headers(1, ask("/a?b=c", upstream, ("te", "trailers"), ("cookie", "a=1"), ("cookie", "b=2"))),
        headers(3, ask("/never", upstream)),
        headers(5, ask("/p", upstream, method="POST"), end=False),
        data(5, b"half "),
    )
    assert client.answer(1).status == "200" and client.streams[1].body == b"/a "
    version = "HTTP/1.1" if upstream_http2 == "off" else "HTTP/2.0"
    assert (client.streams[1].field("x-version"), client.streams[1].field("keep-alive")) == (version, None)
    assert (client.answer(3).status, client.streams[3].body) == ("418", b"no")
    client.say(data(5, b"whole", end=True))
    assert client.answer(5).body == b"/p half whole"
    base = f"https://localhost:{upstream}"
    assert sorted(seen) == [f"GET {base}/a?b=c", f"GET {base}/never", f"POST {base}/p"]
    first = next(each for each in origin.asked if each["PATH_INFO"] == "/a")
    assert (first["HTTP_X_RULE"], first["HTTP_HOST"], first["HTTP_TE"]) == ("was here", f"localhost:{upstream}", "trailers")
    assert [field for field in first["muxwsgi.fields"] if field[0] == "cookie"] == [("cookie", "a=1; b=2")]  # RFC 9113 section 8.2.3
    posted = next(each for each in origin.asked if each["PATH_INFO"] == "/p")
    assert posted.get("HTTP_TRANSFER_ENCODING") == ("chunked" if upstream_http2 == "off" else None)
    client.wait(lambda: len([flow for flow in lab.flows if flow.kind == "http"]) == 3)
    flow = next(flow for flow in lab.flows if flow.kind == "http" and flow.request is not None and flow.request.line[1].endswith("/a?b=c"))
    assert flow.client == sock_address(client) and flow.tunnel is not None and flow.response is not None


@pytest.mark.parametrize("upstream_http2", ["off", "on"])
def test_interim_responses_trailers_and_a_content_length_pass(lab: Lab, upstream_http2: str) -> None:
    origin = Origin()
    upstream = lab.serve(origin, tls=True)
    _, port = intercepting(lab, upstream_http2=upstream_http2)
    client = inside(lab, port, upstream)
    client.say(
        headers(1, ask("/hints", upstream)),
        headers(3, ask("/p", upstream, ("content-length", "4"), ("expect", "100-continue"), method="PUT"), end=False),
    )
    answer = client.answer(1)
    assert [head[0][1] for head in answer.heads if head[0][0] == ":status"] == ["103", "200"]
    assert (answer.body, answer.heads[-1]) == (b"one two", [("grpc-status", "0")])
    assert client.head(3).status == "100"
    client.say(data(3, b"body", end=True))
    assert client.answer(3).body == b"/p body"
    assert next(each for each in origin.asked if each["PATH_INFO"] == "/p")["CONTENT_LENGTH"] == "4"


@pytest.mark.parametrize("upstream_http2", ["off", "on"])
def test_a_stream_that_the_client_resets_ends_its_exchange_and_no_other(lab: Lab, upstream_http2: str) -> None:
    origin = Origin()
    upstream = lab.serve(origin, tls=True)
    proxy, port = intercepting(lab, upstream_http2=upstream_http2)
    client = inside(lab, port, upstream)
    client.say(headers(1, ask("/slow", upstream)), headers(3, ask("/slow", upstream)))
    for number in (1, 3):
        client.wait(lambda number=number: number in client.streams and client.streams[number].body == b"begun")
    watch: ClientWatch = proxy._client_watch
    assert len(watch.waiting) == 2  # on one connection
    client.say(reset(1, CANCEL))
    client.wait(lambda: len(watch.waiting) == 1)
    assert origin.went == 0 and client.streams[3].reset is None
    origin.hold.set()
    client.wait(lambda: origin.went == 1)
    client.wait(lambda: len(client.streams[3].body) > 2000)
    client.sock.close()
    client.wait(lambda: origin.went == 2 and not watch.waiting)


@pytest.mark.parametrize("upstream_http2", ["off", "on"])
def test_a_websocket_of_http_2_passes(lab: Lab, upstream_http2: str) -> None:
    origin = Origin()
    upstream = lab.serve(origin, tls=True)
    proxy, port = intercepting(lab, upstream_http2=upstream_http2)

    @proxy.on_frame().do
    def shout(frame: Message, ctx: Any) -> Message | None:
        shouted = frame.from_client and frame.opcode == Opcode.TEXT
        return Message(frame.opcode, frame.data.upper(), from_client=True) if shouted else None

    client = inside(lab, port, upstream)
    fields = [*ask("/socket", upstream, method="CONNECT"), ("sec-websocket-version", "13")]
    client.say(headers(1, [*fields[:1], (":protocol", "websocket"), *fields[1:]], end=False), headers(3, ask("/a", upstream)))
    assert client.head(1).status == "200"
    client.say(data(1, encode_frame(Message(Opcode.TEXT, b"hello", from_client=True), masked=True)))
    client.wait(lambda: client.streams[1].body == encode_frame(Message(Opcode.TEXT, b"HELLO", from_client=False), masked=False))
    client.say(data(1, encode_frame(Message(Opcode.CLOSE, b"\x03\xe8", from_client=True), masked=True)))
    assert client.answer(1).ended and client.answer(3).status == "200"
    client.wait(lambda: any(flow.kind == "websocket" and flow.ended for flow in lab.flows))


def test_http_2_can_be_turned_off(lab: Lab) -> None:
    upstream = lab.serve(Origin(), tls=True)
    proxy = lab.proxy(settings=ProxySettings(default_action="mitm"))
    port = lab.serve(proxy, settings=ServerSettings(http2=HTTP2Settings(http2="off"), http=HTTPSettings(linger=0.1)))
    assert lab.wrap(lab.tunnel(port, f"localhost:{upstream}"), alpn=("h2", "http/1.1")).selected_alpn_protocol() == "http/1.1"


@pytest.mark.parametrize("tls", [True, False])
@pytest.mark.parametrize("ruled", [True, False])
def test_without_it_clients_of_http_2_alone_are_relayed_or_refused_if_there_are_rules(lab: Lab, tls: bool, ruled: bool) -> None:
    upstream = lab.serve(Origin(), tls=tls)
    proxy = lab.proxy(settings=ProxySettings(default_action="mitm"))
    if ruled:
        proxy.on_request().do(lambda request, ctx: Response("seen", 418))
    port = lab.serve(proxy, settings=ServerSettings(http2=HTTP2Settings(http2="off"), http=HTTPSettings(linger=0.1)))
    sock: Any = lab.tunnel(port, f"localhost:{upstream}")
    if tls:
        sock = lab.wrap(sock, alpn=("h2",))
        assert sock.selected_alpn_protocol() == "h2"
    if ruled:
        sock.sendall(OPENING)
        assert read_response(sock)[0].startswith(b"HTTP/1.1 505")
    else:
        client = Client(sock)
        client.say(headers(1, ask("/a", upstream, scheme="https" if tls else "http")))
        assert client.answer(1).body == b"/a "


# To the proxy itself


def speaks_to(lab: Lab, proxy: Proxy) -> Client:
    """A client of HTTP/2 in TLS with the proxy."""
    port = lab.serve(proxy, tls=True)
    sock = lab.wrap(lab.connect(port), trust=lab.certificate.certfile, alpn=("h2",))  # type: ignore[arg-type]
    assert sock.selected_alpn_protocol() == "h2"
    return Client(sock)


class InStream:
    """The socket of a client in a tunnel over one stream, as far as `ssl` and these tests need one."""

    def __init__(self, client: Client, stream: int) -> None:
        self.near, self.far = gevent.socket.socketpair()
        self._client, self._stream = client, stream
        gevent.spawn(self._up)
        gevent.spawn(self._down)

    def _up(self) -> None:
        while sent := self.far.recv(16000):
            self._client.say(data(self._stream, sent))

    def _down(self) -> None:
        answer = self._client.streams[self._stream]
        given = [0]
        while not answer.ended:
            self._client.wait(lambda: len(answer.body) > given[-1] or answer.ended)
            self.far.sendall(answer.body[given[-1] :])
            given.append(len(answer.body))


def test_connect_over_http_2_is_a_tunnel_and_all_that_is_done_inside_of_one(lab: Lab) -> None:
    origin = Origin()
    upstream = lab.serve(origin, tls=True)
    echo = lab.serve_raw(lambda sock: sock.sendall(sock.recv(100).upper()))
    proxy = lab.proxy(record=True)

    @proxy.on_connect().do
    def decide(host: str, ctx: Any) -> Any:
        port = split_host_port(host)[1]
        if port == 9:
            return Reject(None)
        return Mitm() if port == upstream else Accept()

    seen: list[Any] = []
    proxy.on_request().do(lambda request, ctx: seen.append((request.url, ctx.tunnel.door, ctx.client[0])))
    client = speaks_to(lab, proxy)
    client.say(headers(1, connect(upstream), end=False), headers(3, connect(echo, host="127.0.0.1"), end=False), headers(5, connect(9), end=False))

    # 1. Intercepted, with HTTP/2 inside of HTTP/2.
    assert client.head(1).status == "200"
    within = Client(lab.wrap(InStream(client, 1).near, alpn=("h2", "http/1.1")))
    within.say(headers(1, ask("/a", upstream)))
    assert within.answer(1).body == b"/a "
    assert seen == [(f"https://localhost:{upstream}/a", "connect", "127.0.0.1")]

    # 2. Relayed, and ended by the server.
    assert client.head(3).status == "200"
    client.say(data(3, b"hello"))
    assert client.answer(3).body == b"HELLO" and client.streams[3].ended

    # 3. Refused.
    assert client.answer(5).status == "403" and client.streams[5].ended
    client.say(data(1, b"", end=True), data(3, b"", end=True))
    client.wait(lambda: {flow.kind for flow in lab.flows if flow.ended} >= {"http", "raw", "connect"})


def test_a_tunnel_that_the_upstream_resets_is_reset(lab: Lab) -> None:
    def serve(sock: Any) -> None:
        import socket
        import struct

        sock.recv(1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()

    client = speaks_to(lab, lab.proxy())
    client.say(headers(1, connect(lab.serve_raw(serve)), end=False))
    assert client.head(1).status == "200"
    client.say(data(1, b"x"))
    assert client.answer(1).reset == 10 and not client.streams[1].ended  # CONNECT_ERROR


def test_users_of_one_connection_are_told_apart(lab: Lab) -> None:
    """The field authenticates its request alone, and another one may have come meanwhile."""
    origin = lab.serve(Origin())
    proxy = lab.proxy(record=True, access=Access(lambda user, password: password == "right"))
    seen: list[Any] = []
    proxy.on_request().do(lambda request, ctx: seen.append((ctx.identity, request.path)))
    proxy.on_connect().do(lambda host, ctx: Mitm())
    client = speaks_to(lab, proxy)

    def as_user(name: str) -> tuple[str, str]:
        import base64

        return "proxy-authorization", "Basic " + base64.b64encode(f"{name}:right".encode()).decode()

    client.say(headers(1, connect(origin, as_user("ann")), end=False), headers(3, connect(origin, as_user("bob")), end=False))
    client.say(headers(5, connect(origin), end=False))
    for number, name in ((1, "ann"), (3, "bob")):
        assert client.head(number).status == "200"
        client.say(data(number, f"GET /{name} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()))
    assert client.answer(1).ended and client.answer(3).ended
    assert sorted(seen) == [("ann", "/ann"), ("bob", "/bob")]
    assert (client.answer(5).status, client.streams[5].field("proxy-authenticate") is not None) == ("407", True)


def test_requests_for_other_servers_have_another_scheme_or_port_than_the_proxy(lab: Lab) -> None:
    origin = Origin()
    upstream = lab.serve(origin)
    proxy = lab.proxy()
    client = speaks_to(lab, proxy)
    own = int(lab.servers[-1].addresses[0].rpartition(":")[2])
    client.say(
        headers(1, ask("/a?b", upstream, scheme="http", host="127.0.0.1")),
        headers(3, ask("/proxy.pac", own)),
        headers(5, ask("/proxy.pac", own, host="127.0.0.1")),
        headers(7, ask("*", upstream, scheme="http", method="OPTIONS")),
        headers(9, ask("/", upstream, scheme="ftp")),
    )
    assert client.answer(9).status == "400"
    assert client.answer(1).body == b"/a "
    assert b"FindProxyForURL" in client.answer(3).body and b"FindProxyForURL" in client.answer(5).body
    assert client.answer(7).status == "200"
    assert {each["RAW_URI"] for each in origin.asked} == {"/a?b", "*"}


def test_a_drain_lets_requests_and_tunnels_end(lab: Lab) -> None:
    origin = Origin()
    upstream = lab.serve(origin)
    client = speaks_to(lab, lab.proxy())
    server = lab.servers[-1]
    client.say(headers(1, ask("/slow", upstream, scheme="http", host="127.0.0.1")), headers(3, connect(upstream), end=False))
    client.wait(lambda: 1 in client.streams and client.streams[1].body == b"begun")
    client.head(3)
    stopping = gevent.spawn(server.stop, 5)
    client.wait(lambda: client.of(7))  # GOAWAY
    client.say(data(3, b"GET /b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"))
    assert client.answer(3).body.endswith(b"/b ") and client.streams[3].reset in (None, NO_ERROR)
    client.say(reset(1, CANCEL))
    stopping.join(PATIENCE)
    assert stopping.ready()
