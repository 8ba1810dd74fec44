"""Rules where they live: a client, a proxy with rules, and an upstream, over real sockets."""

import gzip
import os
import zlib
from collections.abc import Iterator
from typing import Any

import pytest

from muxwsgi.proxy.context import Context
from muxwsgi.proxy.proxy import Proxy
from muxwsgi.proxy.rules.conditions import content_type_is, url_is
from muxwsgi.proxy.rules.message import Request, Response
from muxwsgi.proxy.settings import ProxySettings
from tests.proxy.conftest import Lab, read_head, read_response

NOISE = os.urandom(200_000)


def dechunk(body: bytes) -> bytes:
    data = b""
    while body:
        size, _, body = body.partition(b"\r\n")
        data += body[: int(size, 16)]
        body = body[int(size, 16) + 2 :]
    return data


class Upstream:
    """Remembers what it was sent, and answers with exactly the bytes that the test says."""

    def __init__(self, lab: Lab) -> None:
        self.answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
        self.ends = False
        self.head = self.body = b""
        self.port = lab.serve_raw(self._handle)

    def _handle(self, sock: Any) -> None:
        while head := read_head(sock):
            self.head = head
            self.body = self._read_body(sock, head.lower())
            sock.sendall(self.answer)
            if self.ends:
                return

    def _read_body(self, sock: Any, head: bytes) -> bytes:
        body = b""
        if b"transfer-encoding: chunked" in head:
            while not body.endswith(b"0\r\n\r\n"):
                body += sock.recv(65536)
        elif b"content-length: " in head:
            length = int(head.split(b"content-length: ")[1].split(b"\r\n")[0])
            while len(body) < length:
                body += sock.recv(65536)
        return body


@pytest.fixture
def upstream(lab: Lab) -> Upstream:
    return Upstream(lab)


@pytest.fixture
def proxy(lab: Lab) -> Proxy:
    return lab.proxy(settings=ProxySettings(limit_body=100_000), record=True)


@pytest.fixture
def ask(lab: Lab, proxy: Proxy, upstream: Upstream) -> Any:
    port = lab.serve_proxy(proxy)

    def ask(line: str = "GET /", fields: str = "", body: bytes = b"") -> tuple[bytes, bytes]:
        method, path = line.split()
        sock = lab.connect(port)
        lines = [f"{method} http://127.0.0.1:{upstream.port}{path} HTTP/1.1", f"Host: 127.0.0.1:{upstream.port}", *fields.split("\n")]
        sock.sendall("\r\n".join([each for each in lines if each] + ["", ""]).encode() + body)
        return (read_head(sock), b"") if method == "HEAD" else read_response(sock)

    return ask


def test_a_rule_that_looks_changes_nothing(proxy: Proxy, ask: Any, upstream: Upstream) -> None:
    seen = []
    proxy.on_request().do(lambda request, ctx: seen.append((request.url, dict(request.headers))))
    proxy.on_response().do(lambda response, ctx: seen.append(response.status_code))
    upstream.answer = b"HTTP/1.1 299 Quite Fine\r\nx-B: 1\r\nDate: now\r\nX-a: 2\r\nset-cookie: a\r\nSet-Cookie: b\r\nContent-Length: 5\r\n\r\nhello"
    head, body = ask("GET /a%20b?c", "x-B: 1\nX-a: 2\nx-b: 3\nAccept-Encoding: gzip;q=0.5")
    authority = f"127.0.0.1:{upstream.port}"
    assert upstream.head.decode().splitlines()[:6] == [
        "GET /a%20b?c HTTP/1.1",
        f"Host: {authority}",
        "x-B: 1",
        "X-a: 2",
        "x-b: 3",
        "Accept-Encoding: gzip;q=0.5",
    ]
    assert head.startswith(b"HTTP/1.1 299 Quite Fine\r\nx-B: 1\r\nDate: now\r\nX-a: 2\r\nset-cookie: a\r\nSet-Cookie: b\r\n") and body == b"hello"
    assert seen[0][0] == f"http://{authority}/a%20b?c" and seen[1] == 299


@pytest.mark.parametrize("chunked", [False, True])
def test_a_request_body_that_a_rule_read_or_replaced_arrives(proxy: Proxy, ask: Any, upstream: Upstream, chunked: bool) -> None:
    @proxy.on_request(url_is("/replaced"))
    def replace(request: Request, ctx: Context) -> None:
        request.data = request.get_data().upper()

    @proxy.on_request(url_is("/streamed"))
    def stream(request: Request, ctx: Context) -> None:
        stream = request.stream
        request.set_stream(piece.upper() for piece in iter(lambda: stream.read(2), b""))

    proxy.on_request(url_is("/read")).do(lambda request, ctx: request.get_data() and None)
    fields = "Transfer-Encoding: chunked" if chunked else "Content-Length: 5"
    sent = b"5\r\nhello\r\n0\r\n\r\n" if chunked else b"hello"
    ask("POST /read", fields, sent)
    assert upstream.body == sent
    ask("POST /replaced", fields, sent)
    assert upstream.body == b"HELLO"
    ask("POST /streamed", fields, sent)
    assert dechunk(upstream.body) == b"HELLO"


@pytest.mark.parametrize("chunked", [False, True])
def test_a_request_body_that_is_too_large_for_a_rule_is_413(proxy: Proxy, ask: Any, upstream: Upstream, chunked: bool) -> None:
    proxy.on_request().do(lambda request, ctx: request.get_data() and None)
    fields = "Transfer-Encoding: chunked" if chunked else "Content-Length: 100001"
    data = b"x" * 100_001
    head, _ = ask("POST /", fields, b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data) if chunked else data)
    assert head.startswith(b"HTTP/1.1 413 ") and upstream.head == b""


def test_a_decoded_body_streams_to_the_client(proxy: Proxy, ask: Any, upstream: Upstream) -> None:
    proxy.on_response(content_type_is("text/plain")).do(lambda response, ctx: response.set_stream(response.response))
    data = gzip.compress(NOISE)
    upstream.answer = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%b" % (len(data), data)
    head, body = ask(fields="Accept-Encoding: dcb, gzip;q=0.5")
    assert b"\r\nAccept-Encoding: gzip;q=0.5\r\n" in upstream.head
    assert b"content-encoding" not in head.lower() and dechunk(body) == NOISE


def test_a_decoded_body_that_breaks_off_while_it_streams_is_cut(
    proxy: Proxy, ask: Any, upstream: Upstream, caplog: pytest.LogCaptureFixture
) -> None:
    proxy.on_response().do(lambda response, ctx: response.set_stream(response.response))
    data = gzip.compress(NOISE)[:-9]
    upstream.answer = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%b" % (len(data), data)
    head, body = ask()
    assert head.startswith(b"HTTP/1.1 200 ") and b"chunked" in head and not body.endswith(b"0\r\n\r\n")
    assert "application error" not in caplog.text


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: compress\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100001\r\n\r\n" + b"x" * 100_001,
    ],
)
def test_a_body_that_a_rule_cannot_have_whole_is_502(
    proxy: Proxy, ask: Any, upstream: Upstream, answer: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    proxy.on_response().do(lambda response, ctx: response.get_data() and None)
    upstream.answer, upstream.ends = answer, True
    head, body = ask()
    assert head.startswith(b"HTTP/1.1 502 ") and body
    assert "application error" not in caplog.text


def test_the_record_of_a_response_that_a_rule_replaced_ends(proxy: Proxy, ask: Any, upstream: Upstream, lab: Lab) -> None:
    @proxy.on_response(url_is("/set"))
    def replace(response: Response, ctx: Context) -> None:
        response.data = "other"

    proxy.on_response(url_is("/new")).do(lambda response, ctx: Response("other"))
    upstream.answer = b"HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n" + NOISE
    for path in ("/set", "/new"):
        head, body = ask(f"GET {path}")
        assert head.startswith(b"HTTP/1.1 200 ") and body == b"other"
    assert len(lab.flows) == 2 and all(flow.ended is not None for flow in lab.flows)


@pytest.mark.parametrize("way", ["set_stream", "a new response"])
def test_a_body_may_be_made_of_the_upstreams(way: str, proxy: Proxy, ask: Any, upstream: Upstream) -> None:
    @proxy.on_response()
    def louder(response: Response, ctx: Context) -> Response | None:
        pieces = response.response

        def loud() -> Iterator[bytes]:
            for piece in pieces:
                yield bytes(piece).upper()

        if way == "set_stream":
            response.set_stream(loud())
            return None
        return Response(loud())

    upstream.answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n5\r\nworld\r\n0\r\n\r\n"
    head, body = ask()
    assert head.startswith(b"HTTP/1.1 200 ") and dechunk(body) == b"HELLOWORLD"


def test_a_rule_that_fails_is_500_and_in_the_log(proxy: Proxy, ask: Any, upstream: Upstream, caplog: pytest.LogCaptureFixture) -> None:
    proxy.on_request(url_is("/request")).do(lambda request, ctx: 1 / 0)
    proxy.on_response(url_is("/response")).do(lambda response, ctx: 1 / 0)
    for path in ("/request", "/response"):
        caplog.clear()
        assert ask(f"GET {path}")[0].startswith(b"HTTP/1.1 500 ")
        assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_the_first_example_of_the_page_works_on_a_page_that_comes_encoded(proxy: Proxy, ask: Any, upstream: Upstream, coding: str) -> None:
    @proxy.on_response(content_type_is("text/html"))
    def banner(response: Response, ctx: Context) -> None:
        response.data = response.data.replace(b"</body>", b"<p>Seen.</p></body>")

    data = (gzip if coding == "gzip" else zlib).compress(b"<body></body>")
    upstream.answer = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Encoding: %b\r\nContent-Length: %d\r\n\r\n%b" % (
        coding.encode(),
        len(data),
        data,
    )
    head, body = ask(fields="Accept-Encoding: gzip, deflate")
    assert body == b"<body><p>Seen.</p></body>"
    assert b"content-encoding" not in head.lower() and b"\r\nContent-Length: 25\r\n" in head


def test_an_encoded_request_is_read_and_written_plain(proxy: Proxy, ask: Any, upstream: Upstream) -> None:
    @proxy.on_request()
    def louder(request: Request, ctx: Context) -> None:
        request.data = request.data.upper()

    data = gzip.compress(b"hello")
    ask("POST /", f"Content-Encoding: gzip\nContent-Length: {len(data)}", data)
    assert upstream.body == b"HELLO" and b"content-encoding" not in upstream.head.lower()
    head, _ = ask("POST /", "Content-Encoding: gzip\nContent-Length: 5", b"hello")
    assert head.startswith(b"HTTP/1.1 400 ")


def test_a_body_rule_leaves_the_length_of_a_head_response_alone(proxy: Proxy, ask: Any, upstream: Upstream) -> None:
    upstream.answer = b"HTTP/1.1 200 OK\r\nContent-Length: 123\r\n\r\n"
    seen: list[bytes] = []
    proxy.on_response(url_is("/read")).do(lambda response, ctx: seen.append(response.get_data()))
    proxy.on_response(url_is("/set")).do(lambda response, ctx: response.set_data(response.data.replace(b"a", b"b")))
    assert b"\r\nContent-Length: 123\r\n" in ask("HEAD /read")[0]
    assert b"content-length" not in ask("HEAD /set")[0].lower()
