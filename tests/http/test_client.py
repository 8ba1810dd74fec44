"""The client's side of HTTP: what is a response, where it ends, and whether its connection may serve another request."""

import math
import socket
import tracemalloc
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Any

import gevent
import pytest
from httptools import HttpResponseParser
from hypothesis import given, settings
from hypothesis import strategies as st

from muxwsgi.errors import Expired, OperatorError
from muxwsgi.http.body import BrokenBody
from muxwsgi.http.client.connection import BrokenResponse, ClientConnection, ClientSettings, NoResponse, ResponseHead
from muxwsgi.http.client.response_head import parse_response_head
from muxwsgi.http.client.response_repair import normalised, repaired
from muxwsgi.http.h1.body import CloseBody
from muxwsgi.settings import CertificateFiles, TLSSettings
from muxwsgi.testing import connection_pair
from muxwsgi.wire.connection import Connection
from muxwsgi.wire.lifeline import sweep
from muxwsgi.wire.tls.client_context import ClientContext
from muxwsgi.wire.tls.server_context import ServerContext

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


def upstream(kind: str = "memory", **more: Any) -> tuple[ClientConnection, Connection]:
    """A client and the server's end of its connection."""
    if kind == "memory":
        server, near = connection_pair()
    else:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            near = Connection.from_socket(socket.create_connection(listener.getsockname()))
            server = Connection.from_socket(listener.accept()[0])
    return ClientConnection(near, ClientSettings(**more)), server


@pytest.fixture(autouse=True)
def patience() -> Iterator[None]:
    """No test may hang."""
    with gevent.Timeout(20):
        yield


@pytest.fixture
def ask() -> Iterator[Callable[..., tuple[ClientConnection, Connection, ResponseHead]]]:
    """Ask for something of an upstream that says `answer` in these parts, and then ends its side if `end`."""
    made: list[ClientConnection | Connection] = []

    def run(*answer: bytes, method: str = "GET", end: bool = False, **more: Any) -> tuple[ClientConnection, Connection, ResponseHead]:
        client, server = upstream(**more)
        made.extend((client, server))
        client.send(method.encode() + GET[3:])

        def say() -> None:
            for part in answer:
                server.sendall(part)
                gevent.sleep(0)
            if end:
                server.shutdown(socket.SHUT_WR)

        saying = gevent.spawn(say)
        head = client.receive(method)
        saying.get()
        return client, server, head

    yield run
    for one in made:
        if isinstance(one, ClientConnection):
            one.close()
        else:
            one.finish()


def whole(client: ClientConnection, most: int = 65536) -> bytes:
    parts = []
    while data := client.body.read_some(most):
        parts.append(data)
    return b"".join(parts)


# What is a response


def test_a_head_is_kept_as_it_was_sent(ask: Any) -> None:
    client, _, head = ask(b"HTTP/1.1 207 Many Things\r\nset-cookie: a=1\r\nX-B:2  \r\nSet-Cookie: \tb=\xe9\r\nEmpty:\r\nContent-Length: 0\r\n\r\n")
    assert (head.status, head.reason, head.minor) == (207, "Many Things", 1)
    assert head.fields == [("set-cookie", "a=1"), ("X-B", "2"), ("Set-Cookie", "b=é"), ("Empty", ""), ("Content-Length", "0")]
    assert client.reusable and not client.fresh


def test_a_response_may_have_no_reason_and_no_fields(ask: Any) -> None:
    for answer in (b"HTTP/1.1 204\r\n\r\n", b"HTTP/1.1 204 \r\n\r\n"):
        client, _, head = ask(answer)
        assert (head.status, head.reason, head.fields) == (204, "", [])
        assert client.reusable


BROKEN = {
    "garbage": b"SSH-2.0-OpenSSH_9.2\r\n",
    "HTTP/0.9": b"<html>hello</html>",
    "HTTP/2": b"HTTP/2.0 200 OK\r\n\r\n",
    "HTTP/2 frames": b"\x00\x00\x12\x04\x00\x00\x00\x00\x00",
    "an empty line in front": b"\r\nHTTP/1.1 200 OK\r\n\r\n",
    "no status": b"HTTP/1.1 OK\r\n\r\n",
    "status 42": b"HTTP/1.1 42 OK\r\n\r\n",
    "status 012": b"HTTP/1.1 012 OK\r\n\r\n",
    "two spaces": b"HTTP/1.1  200 OK\r\n\r\n",
    "control character in the reason": b"HTTP/1.1 200 O\x00K\r\n\r\n",
    "bare LF": b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
    "bare LF later": b"HTTP/1.1 200 OK\r\nA: b\nContent-Length: 0\r\n\r\n",
    "bare CR": b"HTTP/1.1 200 OK\r\nA: b\rContent-Length: 0\r\n\r\n",
    "NUL": b"HTTP/1.1 200 OK\r\nA: \x00\r\n\r\n",
    "folded line": b"HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n",
    "fold in front": b"HTTP/1.1 200 OK\r\n A: b\r\n\r\n",
    "no colon": b"HTTP/1.1 200 OK\r\nA b\r\n\r\n",
    "space in a name": b"HTTP/1.1 200 OK\r\nContent Length: 0\r\n\r\n",
    "space before the colon of a coding with a length": b"HTTP/1.1 200 OK\r\nTransfer-Encoding : chunked\r\nContent-Length: 5\r\n\r\n",
    "space before the colon of another length": b"HTTP/1.1 200 OK\r\nContent-Length : 6\r\nContent-Length: 5\r\n\r\n",
    "vertical tab before the colon": b"HTTP/1.1 200 OK\r\nContent-Length\x0b: 0\r\n\r\n",
    "no name": b"HTTP/1.1 200 OK\r\n: b\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
    "the same length in two spellings": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\ncontent-length: 05\r\n\r\n",
    "a list of lengths that differ": b"HTTP/1.1 200 OK\r\nContent-Length: 5, 6\r\n\r\n",
    "a list with nothing in it": b"HTTP/1.1 200 OK\r\nContent-Length: 5,\r\n\r\n",
    "the same length twice and chunks": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
    "negative length": b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
    "signed length": b"HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\n",
    "empty length": b"HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\n",
    "hexadecimal length": b"HTTP/1.1 200 OK\r\nContent-Length: 0x5\r\n\r\n",
    "huge length": b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999999999\r\n\r\n",
    "both framings": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
    "both framings, turned": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n",
    "gzip, chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
    "chunked twice": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, chunked\r\n\r\n",
    "two codings": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
    "identity": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\n",
    "chunked in quotes": b'HTTP/1.1 200 OK\r\nTransfer-Encoding: "chunked"\r\n\r\n',
    "vertical tab": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: \x0bchunked\r\n\r\n",
    "chunked in HTTP/1.0": b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
    "too many fields": b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 257 + b"\r\n",
    "too long": b"HTTP/1.1 200 OK\r\nA: " + b"b" * 131072,
    "too long, and whole": b"HTTP/1.1 200 OK\r\nA: " + b"b" * 131072 + b"\r\n\r\n",
    "cut": b"HTTP/1.1 200 OK\r\nContent-Le",
}


@pytest.mark.parametrize("what", BROKEN)
@pytest.mark.parametrize("cut", ["whole", "bytewise"])
def test_a_broken_response_is_refused_however_it_is_cut(what: str, cut: str) -> None:
    answer = BROKEN[what]
    client, server = upstream()
    client.send(GET)

    def say() -> None:
        step = len(answer) if cut == "whole" else max(1, len(answer) // 200)
        for at in range(0, len(answer), step):
            server.sendall(answer[at : at + step])
            gevent.sleep(0)
        if what == "cut":
            server.shutdown(socket.SHUT_WR)

    saying = gevent.spawn(say)
    with pytest.raises(BrokenResponse) as caught:
        client.receive("GET")
    assert not isinstance(caught.value, NoResponse)
    assert "\n" not in caught.value.reason
    assert not client.reusable and client.answered
    client.close()
    with pytest.raises(OSError):
        saying.get()
        server.sendall(b"x")  # nobody reads it any more
    server.finish()


REPAIRED = {
    "blanks before a colon": (b"Server : x\r\nContent-Length\t : 5\r\nX: a : b", [("Server", "x"), ("Content-Length", "5"), ("X", "a : b")]),
    "the same length twice": (b"content-length: 5\r\nX: y\r\nContent-Length: 5", [("content-length", "5"), ("X", "y")]),
    "a list of lengths": (b"Content-Length: 5, 5,5", [("Content-Length", "5")]),
    "all of them": (b"Content-Length : 5 , 5\r\nContent-Length: 5\r\nContent-Length:5", [("Content-Length", "5")]),
}


@pytest.mark.parametrize("what", REPAIRED)
def test_what_a_proxy_has_to_put_right_is_put_right(what: str) -> None:
    """RFC 9112 section 5.1, RFC 9110 section 8.6."""
    lines, fields = REPAIRED[what]
    client, server = upstream()
    client.send(GET)
    server.sendall(b"HTTP/1.1 200 OK\r\n" + lines + b"\r\n\r\nhello")
    head = client.receive("GET")
    assert (head.fields, head.length, head.chunked) == (fields, 5, False)
    assert client.body.read_some(100) == b"hello" and client.reusable
    client.close()
    server.finish()


def test_blanks_before_the_colon_hide_no_coding() -> None:
    assert parse_response_head(b"HTTP/1.1 200 OK\r\nTransfer-Encoding : chunked\r\n\r\n", 100).chunked


INVALID = {
    "bare LF": (b"HTTP/1.1 200 OK\nA: b\nContent-Length: 5\n\n", [("A", "b"), ("Content-Length", "5")]),
    "bare LF at last": (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\n", [("Content-Length", "5")]),
    "folded lines": (b"HTTP/1.1 200 OK\r\nA: b\r\n  c\r\n\td\r\nContent-Length: 5\r\n\r\n", [("A", "b c d"), ("Content-Length", "5")]),
    "lines that are no fields": (b"HTTP/1.1 200 OK\r\n x\r\nHTTP/1.1 200 OK\r\n: b\r\nA b\r\n c\r\nContent-Length: 5\r\n\r\n", [("Content-Length", "5")]),
    "control characters": (b"HTTP/1.1  200  O\x00K\x07\r\nA: b\x00c\rd\x7f\r\nContent-Length: 5\r\n\r\n", [("A", "b c d"), ("Content-Length", "5")]),
    "blanks before a colon": (b"HTTP/1.1 200 OK\nContent-Length : 5\n\n", [("Content-Length", "5")]),
    "nothing invalid": (b"HTTP/1.1 200 OK\r\nA:b\r\nContent-Length: 5\r\n\r\n", [("A", "b"), ("Content-Length", "5")]),
}


@pytest.mark.parametrize("what", INVALID)
@pytest.mark.parametrize("cut", ["whole", "bytewise"])
def test_heads_that_are_not_quite_http_are_taken_where_the_operator_says_so(what: str, cut: str) -> None:
    raw, fields = INVALID[what]
    client, server = upstream(accept_invalid=True)
    client.send(GET)

    def say() -> None:
        data = raw + b"hello"
        for at in range(0, len(data), len(data) if cut == "whole" else 1):
            server.sendall(data[at : at + (len(data) if cut == "whole" else 1)])
            gevent.sleep(0)

    saying = gevent.spawn(say)
    head = client.receive("GET")
    assert (head.status, head.length, head.chunked) == (200, 5, False)
    assert [(name, value.strip()) for name, value in head.fields] == fields
    body = b""
    while not client.body.done:
        body += client.body.read_some(100)
    assert body == b"hello" and client.reusable
    saying.get()
    client.close()
    server.finish()


#: Of `BROKEN`, what has nothing to do with framing, and is taken then.
HARMLESS = {
    *("two spaces", "control character in the reason", "bare LF", "bare LF later", "bare CR", "NUL", "folded line", "fold in front", "no colon"),
    "no name",
}


@pytest.mark.parametrize("what", sorted(BROKEN.keys() - HARMLESS - {"too long", "too long, and whole", "cut"}))
def test_framing_in_doubt_is_refused_even_then(what: str) -> None:
    with pytest.raises(BrokenResponse):
        parse_response_head(normalised(BROKEN[what]), 256)


@pytest.mark.parametrize(
    "field", [b"Transfer-Encoding: chunked\x01\nX: 1", b"Content-Length: 2\n 5", b"Content-Length\x0b: 2", b"X: 1\nConnection: close\x01"]
)
@pytest.mark.parametrize("version", [b"1.1", b"1.2"])
def test_no_field_is_lost_of_a_head_that_ends_in_bare_line_feeds_and_cannot_be_put_right(field: bytes, version: bytes) -> None:
    client, server = upstream(accept_invalid=True)
    client.send(GET)
    server.sendall(b"HTTP/" + version + b" 200 OK\r\n" + field + b"\n\nhello")
    with pytest.raises(BrokenResponse):
        client.receive("GET")
    client.close()
    server.finish()


@pytest.mark.parametrize("parts", [(b"HTTP/1.1 200 OK\r", b"A: b"), (b"HTTP/1.1 200 OK\r\nA: b", b"\nC"), (b"HTT", b"X"), (b"\x00",)])
def test_who_will_never_end_its_head_is_not_waited_for(ask: Any, parts: tuple[bytes, ...]) -> None:
    with pytest.raises(BrokenResponse):
        ask(*parts)


def test_limits_are_checked() -> None:
    for name in ("limit_response_head", "limit_response_fields", "limit_interim"):
        with pytest.raises(OperatorError, match=name):
            ClientSettings(**{name: 0})
    with pytest.raises(OperatorError, match="response_head_timeout"):
        ClientSettings(response_head_timeout=-1)


tokens = st.text("!#$%&'*+-.^_`|~0123456789abcXYZ", min_size=1, max_size=12).map(str.encode)
values = st.binary(max_size=20) | st.text(" \t,:;=abc\xe9", max_size=12).map(lambda text: text.encode("latin-1"))


class Fields:
    on_message_begin = on_status = on_headers_complete = on_body = on_message_complete = on_chunk_header = on_chunk_complete = None

    def __init__(self) -> None:
        self.found: list[tuple[str, str]] = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self.found.append((name.decode("latin-1"), value.decode("latin-1").rstrip(" \t")))


@settings(max_examples=400, deadline=None)
@given(st.lists(st.tuples(tokens, st.sampled_from([b":", b": ", b":\t ", b" :"]), values), max_size=5))
def test_fields_are_what_llhttp_takes_them_for(lines: list[tuple[bytes, bytes, bytes]]) -> None:
    raw = b"HTTP/1.1 200 OK\r\n" + b"".join(name + colon + value + b"\r\n" for name, colon, value in lines) + b"\r\n"
    raw = raw[: raw.index(b"\r\n\r\n") + 4]  # a value may have one in it
    try:
        head = parse_response_head(raw, 100)
    except BrokenResponse:
        return
    sink = Fields()
    HttpResponseParser(sink).feed_data(repaired(raw))
    assert head.fields == sink.found


# Where it ends


@pytest.mark.parametrize(
    ("method", "head", "why"),
    [
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", "a response to HEAD"),
        ("HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "a response to HEAD"),
        ("HEAD", b"HTTP/1.1 200 OK\r\n\r\n", "a response to HEAD"),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n", "204"),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", "304"),
        ("GET", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "length 0"),
    ],
)
def test_some_responses_have_no_body(ask: Any, method: str, head: bytes, why: str) -> None:
    client, server, _ = ask(head, method=method)
    assert client.body.done and whole(client) == b""
    assert client.reusable, why
    client.send(GET)
    server.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
    client.receive("GET")
    assert whole(client) == b"hi"


def test_a_head_keeps_the_length_of_a_body_that_it_does_not_have(ask: Any) -> None:
    assert ask(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", method="HEAD")[2].length == 5
    assert ask(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", method="HEAD")[2].chunked


def test_a_body_ends_with_its_length(ask: Any) -> None:
    client, _, _ = ask(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe", b"llo")
    assert not client.reusable  # not read yet
    assert whole(client, 2) == b"hello"
    assert client.reusable and client.body.received == 5


def test_a_body_may_be_chunked_and_have_trailers(ask: Any) -> None:
    client, _, head = ask(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n5\r\nhel", b"lo\r\n0\r\nDigest: x\r\n", b"\r\n")
    assert head.chunked
    assert whole(client) == b"hello"
    assert client.body.trailers == {"Digest": "x"}
    assert client.reusable


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
def test_a_body_without_a_length_ends_with_the_connection(ask: Any, version: bytes) -> None:
    client, _, head = ask(b"HTTP/" + version + b" 200 OK\r\nConnection: keep-alive\r\n\r\nhe", b"llo", end=True)
    assert isinstance(client.body, CloseBody) and not head.keep_alive
    assert whole(client, 3) == b"hello"
    assert client.body.done and client.body.received == 5
    assert not client.reusable


def test_a_body_that_breaks_off_is_an_error_each_time(ask: Any) -> None:
    for start in (b"Content-Length: 5\r\n\r\nhe", b"Transfer-Encoding: chunked\r\n\r\n5\r\nhe", b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"):
        client, _, _ = ask(b"HTTP/1.1 200 OK\r\n" + start, end=True)
        for _ in range(2):
            with pytest.raises(BrokenBody):
                whole(client)
        assert not client.reusable


def test_broken_chunks_are_an_error(ask: Any) -> None:
    for chunks in (b"5\nhello\n0\n\n", b"x\r\nhello", b"-1\r\n\r\n", b"5\r\nhelloo\r\n0\r\n\r\n"):
        client, _, _ = ask(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks)
        with pytest.raises(BrokenBody):
            whole(client)
        assert not client.reusable


def test_more_trailers_than_anybody_has_end_the_connection_though_the_body_is_whole(ask: Any) -> None:
    client, _, _ = ask(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nA: " + b"a" * 60000, b"a" * 6000 + b"\r\n\r\n")
    with pytest.raises(BrokenBody):
        whole(client)
    assert client.body.done and not client.reusable


def test_a_reset_is_the_connections_own_error() -> None:
    client, server = upstream("tcp")
    client.send(GET)
    server.recv()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    server.finish()
    with pytest.raises(ConnectionResetError):
        client.receive("GET")
    assert not client.answered and not client.reusable
    client.close()


# Interim responses, and the end of HTTP


def test_interim_responses_are_handed_over_before_the_final_one(ask: Any) -> None:
    client, server = upstream()
    client.send(GET)
    server.sendall(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\nContent-Length: 7\r\n\r\n")
    server.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
    interim: list[ResponseHead] = []
    head = client.receive("GET", interim.append)
    assert [(one.status, one.fields[:1]) for one in interim] == [(100, []), (103, [("Link", "</a>")])]
    assert head.status == 200 and whole(client) == b"hi" and client.reusable
    client.close()
    server.finish()


def test_interim_responses_have_an_end(ask: Any) -> None:
    with pytest.raises(BrokenResponse, match="interim"):
        ask(*[b"HTTP/1.1 102 Processing\r\n\r\n"] * 4, limit_interim=3)
    assert ask(*[b"HTTP/1.1 102 Processing\r\n\r\n"] * 3, b"HTTP/1.1 204 No\r\n\r\n", limit_interim=3)[2].status == 204


@pytest.mark.parametrize(
    ("method", "answer"),
    [
        ("GET", b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"),
        ("CONNECT", b"HTTP/1.1 200 Connection established\r\nContent-Length: 5\r\n\r\n"),
    ],
)
def test_a_stream_that_is_taken_over_has_every_byte_behind_the_head(ask: Any, method: str, answer: bytes) -> None:
    client, server, head = ask(answer + b"first ", method=method)
    assert not head.keep_alive and not client.reusable
    stream = client.take_over()
    server.sendall(b"then")
    assert stream.peek(10) == b"first then"
    stream.sendall(b"back")
    assert server.peek(len(GET) + 4 + len(method) - 3).endswith(b"back")


def test_a_stream_is_not_taken_over_in_a_response(ask: Any) -> None:
    client, _, _ = ask(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n")
    with pytest.raises(RuntimeError):
        client.take_over()


# Whether the connection may serve another request


@pytest.mark.parametrize(
    ("head", "goes_on"),
    [
        (b"HTTP/1.1 200 OK\r\n", True),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\n", False),
        (b"HTTP/1.1 200 OK\r\nConnection: foo, CLOSE\r\n", False),
        (b"HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nConnection: close\r\n", False),
        (b"HTTP/1.1 200 OK\r\nConnection: closed\r\n", True),
        (b"HTTP/1.0 200 OK\r\n", False),
        (b"HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\n", True),
        (b"HTTP/1.0 200 OK\r\nConnection: keep-alive, close\r\n", False),
    ],
)
def test_a_connection_goes_on_if_the_server_lets_it(ask: Any, head: bytes, goes_on: bool) -> None:
    client, _, parsed = ask(head + b"Content-Length: 0\r\n\r\n")
    assert parsed.keep_alive == client.reusable == goes_on


def test_a_connection_ends_if_the_client_said_so(ask: Any) -> None:
    client, _, _ = ask(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    client.closing = True
    assert not client.reusable


def test_bytes_behind_a_response_end_the_connection(ask: Any) -> None:
    client, _, _ = ask(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhiHTTP/1.1 200 OK\r\n\r\n")
    assert whole(client) == b"hi"
    assert not client.reusable


def test_a_request_that_is_not_sent_whole_ends_the_connection() -> None:
    client, server = upstream()
    client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n", more=True)
    client.send(b"12345", more=True)
    server.sendall(b"HTTP/1.1 413 Too much\r\nContent-Length: 0\r\n\r\n")
    assert client.receive("POST").status == 413
    assert not client.reusable
    client.send(memoryview(b"67890"))
    assert client.reusable
    client.close()
    server.finish()


def test_a_connection_is_not_reusable_between_request_and_response() -> None:
    client, server = upstream()
    assert client.reusable and client.fresh
    client.send(GET)
    assert not client.reusable
    client.close()
    server.finish()


def test_a_used_connection_that_ends_without_a_byte_is_told_from_one_that_breaks_off(ask: Any) -> None:
    client, server, _ = ask(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    assert client.answered
    client.send(GET)
    assert not client.answered
    server.shutdown(socket.SHUT_WR)
    with pytest.raises(NoResponse):
        client.receive("GET")
    assert not client.answered and not client.fresh


@pytest.mark.parametrize("kind", ["memory", "tcp"])
def test_an_idle_connection_is_alive_until_something_comes(kind: str) -> None:
    for what in ("end", "bytes", "reset"):
        client, server = upstream(kind)
        assert client.alive() and client.alive()
        if what == "end":
            server.shutdown(socket.SHUT_WR)
        elif what == "bytes":
            server.sendall(b"HTTP/1.1 408 Too late\r\n\r\n")
        else:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
            server.finish()
        assert not client.alive() and not client.alive()
        client.close()
        assert not client.alive()
        client.close()
        server.finish()


def test_tls_tickets_are_no_bytes_that_nobody_asked_for(make_certificate: Callable[[], CertificateFiles]) -> None:
    certificate = make_certificate()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = Connection.from_socket(socket.create_connection(listener.getsockname()))
        far = Connection.from_socket(listener.accept()[0])
    serving = gevent.spawn(far.start_tls, ServerContext(TLSSettings(certificates=(certificate,))))
    client = ClientConnection(near.start_tls(ClientContext(ca_file=certificate.certfile), server_hostname="localhost"), ClientSettings())
    server = serving.get()
    assert client.alive() and client.alive()
    client.send(GET)
    server.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
    client.receive("GET")
    assert whole(client) == b"hi" and client.reusable and client.alive()
    server.finish()
    assert not client.alive()
    client.close()


# Any number of exchanges, cut anywhere

bodies = st.binary(max_size=60)


@st.composite
def responses(draw: Any) -> tuple[str, bytes, int, bytes]:
    """(method, bytes of the response with what comes before it, status, body)"""
    before = b"HTTP/1.1 103 Early\r\nA: b\r\n\r\n" * draw(st.integers(0, 2))
    body = draw(bodies)
    match draw(st.sampled_from(["length", "chunked", "head", "204", "304"])):
        case "length":
            return "GET", before + b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body), 200, body
        case "chunked":
            at = draw(st.integers(0, len(body)))
            chunks = b"".join(b"%x;e=1\r\n%b\r\n" % (len(part), part) for part in (body[:at], body[at:]) if part)
            return "POST", before + b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\nT: x\r\n\r\n", 200, body
        case "head":
            return "HEAD", before + b"HTTP/1.1 404 Not\r\nContent-Length: 99\r\n\r\n", 404, b""
        case "204":
            return "DELETE", before + b"HTTP/1.1 204 No\r\n\r\n", 204, b""
        case _:
            return "GET", before + b"HTTP/1.1 304 No\r\nContent-Length: 7\r\n\r\n", 304, b""


@settings(max_examples=150, deadline=None)
@given(st.lists(responses(), min_size=1, max_size=6), st.integers(1, 40), st.integers(1, 70))
def test_each_request_gets_its_response_whatever_the_cuts(exchanges: list[tuple[str, bytes, int, bytes]], step: int, most: int) -> None:
    client, server = upstream()

    def serve() -> None:
        for _, answer, _, _ in exchanges:
            server.recv()
            for at in range(0, len(answer), step):
                server.sendall(answer[at : at + step])
                gevent.sleep(0)

    serving = gevent.spawn(serve)
    for method, _, status, body in exchanges:
        assert client.reusable and client.alive()
        client.send(method.encode() + GET[3:])
        assert client.receive(method).status == status
        assert whole(client, most) == body
    serving.get()
    client.close()
    server.finish()


# Deadlines


def test_a_response_head_has_a_deadline() -> None:
    client, server = upstream(response_head_timeout=7)
    client.send(GET)
    server.sendall(b"HTTP/1.1 200 OK\r\n")
    receiving = gevent.spawn(client.receive, "GET")
    for _ in range(3):
        gevent.sleep(0)
    sweep([client.connection.lifeline], monotonic() + 6)
    gevent.sleep(0)
    assert not receiving.dead
    sweep([client.connection.lifeline], monotonic() + 8)
    with pytest.raises(Expired):
        receiving.get()
    assert client.connection.deadline == math.inf and not client.reusable
    client.close()
    server.finish()


def test_a_response_is_awaited_until_the_deadline_where_the_request_could_not_be_sent() -> None:
    client, server = upstream(response_head_timeout=7)
    server.shutdown(socket.SHUT_RD)
    with pytest.raises(BrokenPipeError):
        client.send(b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n", more=True)
    receiving = gevent.spawn(client.receive, "PUT")
    gevent.sleep(0)
    assert 0 < client.connection.deadline - monotonic() <= 7
    server.sendall(b"HTTP/1.1 413 Too much\r\nContent-Length: 0\r\n\r\n")
    assert receiving.get().status == 413
    assert not client.reusable
    client.close()
    server.finish()


def test_the_deadline_counts_from_the_end_of_the_request() -> None:
    client, server = upstream(response_head_timeout=5)
    client.send(b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n", more=True)
    receiving = gevent.spawn(client.receive, "PUT")
    gevent.sleep(0)
    assert client.connection.deadline == math.inf  # an upload may take an hour
    client.send(b"a", more=True)
    assert client.connection.deadline == math.inf
    client.send(b"b")
    assert 0 < client.connection.deadline - monotonic() <= 5
    server.sendall(b"HTTP/1.1 204 No\r\n\r\n")
    assert receiving.get().status == 204
    assert client.connection.deadline == math.inf and client.reusable
    client.close()
    server.finish()


def test_a_callers_own_deadline_stays() -> None:
    client, server = upstream(response_head_timeout=60)
    mine = client.connection.deadline = monotonic() + 5
    client.send(GET)
    receiving = gevent.spawn(client.receive, "GET")
    gevent.sleep(0)
    assert client.connection.deadline == mine
    server.sendall(b"HTTP/1.1 204 No\r\n\r\n")
    receiving.get()
    assert client.connection.deadline == mine
    client.close()
    server.finish()


def test_a_large_body_needs_no_memory() -> None:
    client, server = upstream("tcp")
    size = 1 << 27
    block = bytes(1 << 20)

    def serve() -> None:
        server.recv()
        server.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        for _ in range(size // len(block)):
            server.sendall(block)

    serving = gevent.spawn(serve)
    client.send(GET)
    client.receive("GET")
    tracemalloc.start()
    while client.body.read_some(65536):
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    serving.get()
    assert client.body.received == size and client.reusable
    assert peak < 1 << 20
    client.close()
    server.finish()


# Requests that are cut


@pytest.mark.parametrize("kind", ["memory", "tcp"])
def test_a_request_that_is_cut_ends_in_a_reset(kind: str) -> None:
    client, server = upstream(kind)
    client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n", more=True)
    client.send(b"half", more=True)
    client.close()
    with pytest.raises(ConnectionResetError):
        while server.recv():
            pass
    server.finish()


@pytest.mark.parametrize("kind", ["memory", "tcp"])
def test_a_request_that_is_whole_ends_as_it_should(kind: str) -> None:
    client, server = upstream(kind)
    client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 8\r\n\r\n", more=True)
    client.send(b"half", more=True)
    client.send(b"half")
    client.close()
    received = b""
    while data := server.recv():
        received += data
    assert received.endswith(b"halfhalf")
    server.finish()
