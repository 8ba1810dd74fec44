"""Whatever rules do to a body, one after the other: exactly what they left goes on, with a framing that says so."""

import gzip
import io
from collections.abc import Callable, Iterator
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from muxwsgi.http.h1.head import Head
from muxwsgi.proxy.rules.message import Request, Response, to_wsgi
from muxwsgi.settings import HTTPSettings

bodies = st.binary(max_size=40)


def doubled(pieces: Any) -> Iterator[bytes]:
    for piece in pieces:
        yield piece + piece


def stream_of(request: Request) -> Iterator[bytes]:
    stream = request.stream
    return iter(lambda: stream.read(3), b"")


def upper(request: Request) -> None:
    request.set_stream(map(bytes.upper, stream_of(request)))


#: (what a rule does, what that makes of the body)
Step = tuple[Callable[[Any], object], Callable[[bytes], bytes]]


def same(body: bytes) -> bytes:
    return body


request_steps: st.SearchStrategy[Step] = st.one_of(
    st.just((lambda request: request.get_data(), same)),
    st.just((lambda request: request.get_data(as_text=True), same)),
    st.just((lambda request: request.form, same)),
    st.just((lambda request: request.get_json(force=True, silent=True), same)),
    st.just((lambda request: request.headers.set("X", "1"), same)),
    st.just((lambda request: request.stream, same)),
    st.just((lambda request: request.watch_body(lambda pieces: iter(pieces)), same)),
    st.just((upper, bytes.upper)),
    bodies.map(lambda data: (lambda request: request.set_data(data), lambda body: data)),
    bodies.map(lambda data: (lambda request: request.set_stream([data[:3], b"", data[3:]], len(data)), lambda body: data)),
    bodies.map(lambda data: (lambda request: request.set_stream(iter([data])), lambda body: data)),
)


@given(body=bodies, chunked=st.booleans(), steps=st.lists(request_steps, max_size=6))
def test_a_request_goes_on_exactly_as_rules_left_it(body: bytes, chunked: bool, steps: list[Step]) -> None:
    framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(body)}"
    kind = "Content-Type: application/x-www-form-urlencoded"
    head = f"POST / HTTP/1.1\r\nHost: example.com\r\n{kind}\r\n{framing}\r\n\r\n".encode()
    environ = Head(HTTPSettings(), {}).parse(head)
    environ["wsgi.input"], environ["wsgi.input_terminated"] = io.BytesIO(body), True
    request = Request.of(environ, "http", "example.com")
    for do, makes in steps:
        do(request)
        body = makes(body)
    if request.body_buffered:
        assert request.get_data() == body
    outgoing = request.outgoing()
    assert outgoing.chunked == (request.headers.get("Transfer-Encoding") == "chunked") == (outgoing.length is None)
    if outgoing.length is not None:
        assert outgoing.length == len(body) == int(request.headers["Content-Length"])
    assert b"".join(outgoing.pieces) == body


response_steps: st.SearchStrategy[Step] = st.one_of(
    st.just((lambda response: response.get_data(), same)),
    st.just((lambda response: response.text, same)),
    st.just((lambda response: response.watch_body(lambda pieces: iter(pieces)), same)),
    st.just((lambda response: response.make_sequence(), same)),
    st.just((lambda response: response.set_stream(map(bytes.upper, response.response)), bytes.upper)),
    bodies.map(lambda data: (lambda response: response.set_data(data), lambda body: data)),
    bodies.map(lambda data: (lambda response: response.set_stream(iter([data])), lambda body: data)),
)


@given(body=bodies, encoded=st.booleans(), steps=st.lists(response_steps, max_size=6))
def test_a_response_goes_on_exactly_as_rules_left_it(body: bytes, encoded: bool, steps: list[Step]) -> None:
    closed = []

    class Body:
        def __init__(self) -> None:
            self.pieces = iter([sent[:5], sent[5:]])

        def __iter__(self) -> Iterator[bytes]:
            return self.pieces

        def close(self) -> None:
            closed.append(True)

    sent = gzip.compress(body) if encoded else body
    fields = [("Content-Length", str(len(sent))), ("Content-Encoding", "gzip" if encoded else "identity")]
    response = Response.of_upstream(200, "OK", fields, Body())
    for do, makes in steps:
        do(response)
        body = makes(body)
    _, left, pieces = to_wsgi(response, "GET")
    said = dict(left)
    whole = b"".join(pieces)
    if hasattr(pieces, "close"):
        pieces.close()
    assert closed
    assert int(said.get("Content-Length", len(whole))) == len(whole)
    assert (gzip.decompress(whole) if said.get("Content-Encoding") == "gzip" else whole) == body
