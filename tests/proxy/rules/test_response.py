"""`Response`: what an upstream sent, what a rule makes of it, and what the client gets."""

import gzip
from collections.abc import Iterable, Iterator
from typing import Any

import flask
import pytest
import werkzeug.wrappers

from muxwsgi.errors import ResponseAborted
from muxwsgi.proxy.fault import Fault, Phase
from muxwsgi.proxy.rules.message import Response, to_wsgi
from muxwsgi.proxy.rules.pieces import BLOCK, BUFFER_LIMIT


class Body:
    """An upstream's body: it streams, and knows whether it was closed."""

    def __init__(self, *pieces: bytes) -> None:
        self.left = list(pieces)
        self.closed = False

    def __iter__(self) -> Iterator[bytes]:
        while self.left:
            yield self.left.pop(0)

    def close(self) -> None:
        self.closed = True


def finish(response: werkzeug.wrappers.Response, method: str = "GET") -> tuple[str, list[tuple[str, str]], list[bytes]]:
    """As a server does with what `to_wsgi` gives."""
    status, fields, pieces = to_wsgi(response, method)
    sent = list(pieces)
    close = getattr(pieces, "close", None)
    if close is not None:
        close()
    return status, fields, sent


FIELDS = [("x-B", "1"), ("Set-Cookie", "a"), ("X-a", "\xfc"), ("set-cookie", "b"), ("location", "/there"), ("Content-Length", "6")]


def test_what_no_rule_touched_passes_as_it_came() -> None:
    body = Body(b"abc", b"def")
    status, fields, pieces = to_wsgi(Response.of_upstream(299, "Quite Fine", FIELDS, body), "GET")
    assert (status, fields) == ("299 Quite Fine", FIELDS)
    iterator = iter(pieces)
    assert next(iterator) == b"abc"
    assert body.left == [b"def"]
    assert list(iterator) == [b"def"] and not body.closed
    pieces.close()
    assert body.closed


def test_nothing_is_added_to_what_an_upstream_says() -> None:
    assert finish(Response.of_upstream(200, "", [], Body())) == ("200 OK", [], [])


def test_a_body_that_a_rule_has_read_whole_is_sent_in_one_piece() -> None:
    body = Body(b"abc", b"def")
    response = Response.of_upstream(200, "OK", FIELDS, body)
    assert response.get_data() == response.data == b"abcdef"
    assert response.get_data(as_text=True) == "abcdef"
    _, fields, pieces = to_wsgi(response, "GET")
    assert pieces == [b"abcdef"] and type(pieces) is list  # the engine has a faster way for lists
    assert fields == FIELDS[:-1]  # and states the length itself
    assert body.closed


def test_a_body_that_a_rule_replaces_is_closed_and_what_was_said_of_it_goes() -> None:
    body = Body(b"abc")
    response = Response.of_upstream(200, "OK", [*FIELDS, ("Content-Encoding", "gzip"), ("Transfer-Encoding", "chunked")], body)
    response.data = "grüße"
    assert response.headers["Content-Length"] == "7"
    _, fields, sent = finish(response)
    assert sent == ["grüße".encode()] and fields == FIELDS[:-1]
    assert body.closed


def test_a_body_that_a_rule_replaces_through_werkzeugs_attribute_is_closed_too() -> None:
    body = Body(b"abc")
    response = Response.of_upstream(200, "OK", FIELDS, body)
    response.response = [b"x"]
    assert finish(response) == ("200 OK", FIELDS[:-1], [b"x"])
    assert body.closed


def test_a_stream_may_be_made_of_the_upstreams_stream() -> None:
    body = Body(b"abc", b"def")
    response = Response.of_upstream(200, "OK", FIELDS, body)
    upstreams = response.response
    response.set_stream(piece.upper() for piece in upstreams)
    assert body.left == [b"abc", b"def"]
    assert finish(response) == ("200 OK", FIELDS[:-1], [b"ABC", b"DEF"])
    assert body.closed


def test_a_body_that_is_watched_stays_as_it_is() -> None:
    seen: list[bytes] = []

    def watch(pieces: Iterable[bytes]) -> Iterator[bytes]:
        for piece in pieces:
            seen.append(piece)
            yield piece

    body = Body(b"abc", b"def")
    response = Response.of_upstream(200, "OK", FIELDS, body)
    response.watch_body(watch)
    assert seen == []
    assert finish(response) == ("200 OK", FIELDS, [b"abc", b"def"])
    assert seen == [b"abc", b"def"] and body.closed
    response = Response("in memory")
    response.watch_body(watch)
    assert finish(response)[2] == [b"in memory"] and seen[-1] == b"in memory"


@pytest.mark.parametrize(("status", "method"), [(200, "HEAD"), (204, "GET"), (304, "GET")])
def test_where_no_body_may_be_none_is_read(status: int, method: str) -> None:
    body = Body(b"never")
    _, fields, sent = finish(Response.of_upstream(status, "Reason", FIELDS, body), method)
    assert (fields, sent) == (FIELDS, [])
    assert body.closed and body.left == [b"never"]


def test_a_body_above_the_limit_is_a_fault() -> None:
    response = Response.of_upstream(200, "OK", [], Body(b"x" * 6, b"x" * 5), buffer_limit=10)
    with pytest.raises(Fault, match="larger than the 10 bytes") as caught:
        response.get_data()
    assert caught.value.phase is Phase.BODY and caught.value.status == 502
    assert Response.of_upstream(200, "OK", [], Body(b"x" * 6, b"x" * 4), buffer_limit=10).get_data() == b"x" * 10


CODED = gzip.compress(b"hello")
OF_CODED = [("Content-Encoding", "gzip"), ("Content-Length", str(len(CODED))), ("ETag", '"v"'), ("Repr-Digest", "sha-256=:x:"), ("X", "1")]


def coded(fields: list[tuple[str, str]] = OF_CODED, status: int = 200) -> Response:
    return Response.of_upstream(status, "OK", fields, Body(CODED[:9], CODED[9:]))


READ: dict[str, Any] = {
    "data": lambda message: message.data,
    "get_data": lambda message: message.get_data(),
    "text": lambda message: message.text.encode(),
    "iteration": lambda message: b"".join(message.response),
    "iter_encoded": lambda message: b"".join(message.iter_encoded()),
}

WRITE: dict[str, Any] = {
    "data": lambda message, data: setattr(message, "data", data),
    "set_data": lambda message, data: message.set_data(data),
    "text": lambda message, data: setattr(message, "text", data.decode()),
    "response": lambda message, data: setattr(message, "response", [data]),
    "set_stream": lambda message, data: message.set_stream(iter([data])),
}


@pytest.mark.parametrize("write", WRITE)
@pytest.mark.parametrize("read", READ)
def test_what_is_read_and_what_is_written_are_both_without_the_coding(read: str, write: str) -> None:
    response = coded()
    data = READ[read](response)
    assert data == b"hello"
    WRITE[write](response, data.replace(b"l", b"L"))
    status, fields, pieces = finish(response)
    assert (status, [field for field in fields if field[0] != "Content-Length"]) == ("200 OK", [("ETag", 'W/"v"'), ("X", "1")])
    assert b"".join(pieces) == b"heLLo"


@pytest.mark.parametrize("read", ["data", "get_data", "text"])
def test_a_body_that_is_only_read_goes_on_in_its_coding(read: str) -> None:
    response = coded()
    assert READ[read](response) == READ[read](response) == b"hello"
    fields = [field for field in OF_CODED if field[0] != "Content-Length"]
    assert finish(response) == ("200 OK", fields, [CODED])


def test_a_body_is_decoded_as_it_streams() -> None:
    response = coded()
    body = response._body
    response.set_stream(piece.upper() for piece in response.response)
    assert len(body.left) == 2
    assert finish(response) == ("200 OK", [("ETag", 'W/"v"'), ("X", "1")], [b"HELLO"])
    assert body.closed


def test_who_watches_a_body_sees_it_decoded_and_it_passes_in_its_coding() -> None:
    seen: list[bytes] = []

    def watch(pieces: Any) -> Any:
        for piece in pieces:
            seen.append(piece)
            yield piece

    for buffered in (False, True):
        seen.clear()
        response = coded()
        if buffered:
            response.make_sequence()
        response.watch_body(watch)
        _, fields, pieces = finish(response)
        assert b"".join(seen) == b"hello" and b"".join(pieces) == CODED and ("Content-Encoding", "gzip") in fields


def test_what_is_not_encoded_is_read_as_it_is() -> None:
    for fields in ([], [("Content-Encoding", "identity"), ("X", "1")], [("Content-Encoding", "utf-8")]):
        response = Response.of_upstream(200, "OK", fields, Body(b"x"))
        assert response.get_data() == b"x"
        assert finish(response) == ("200 OK", fields, [b"x"])


@pytest.mark.parametrize("first", ["identity", "", "utf-8", "br-not"])
def test_a_coding_that_a_second_field_names_is_taken_off_too(first: str) -> None:
    fields = [("Content-Encoding", first), ("content-encoding", "gzip")]
    response = Response.of_upstream(200, "OK", fields, Body(CODED))
    assert b"".join(response.response) == b"hello"
    response = Response.of_upstream(200, "OK", fields, Body(CODED))
    assert response.get_data() == b"hello"
    assert finish(response) == ("200 OK", fields, [CODED])


@pytest.mark.parametrize(
    "endless",
    [
        pytest.param(b"\x1f\x8b\x08\x08" + bytes(6) + b"n" * 1000, id="a name in gzip's header"),
        pytest.param(gzip.compress(b"x") + bytes(1000), id="padding behind the end"),
    ],
)
def test_bytes_that_decode_to_nothing_are_not_kept_without_end_while_somebody_watches(endless: bytes) -> None:
    came = 0

    def body() -> Iterator[bytes]:
        nonlocal came
        yield endless
        for _ in range(10 * BUFFER_LIMIT // BLOCK):
            came += BLOCK
            yield endless[-1:] * BLOCK

    response = Response.of_upstream(200, "OK", [("Content-Encoding", "gzip")], body())
    response.watch_body(lambda pieces: pieces)
    with pytest.raises(ResponseAborted, match="decode to nothing"):
        finish(response)
    assert came <= BUFFER_LIMIT + BLOCK


def test_json_is_read_without_its_coding() -> None:
    encoded = gzip.compress(b'{"a": 1}')
    response = Response.of_upstream(200, "OK", [("Content-Type", "application/json"), ("Content-Encoding", "gzip")], Body(encoded))
    assert response.json == {"a": 1}


def test_what_decodes_to_more_than_a_rule_may_have_is_a_fault() -> None:
    encoded = gzip.compress(bytes(100_000))
    response = Response.of_upstream(200, "OK", [("Content-Encoding", "gzip")], Body(encoded), buffer_limit=10_000)
    with pytest.raises(Fault, match="larger than the 10000 bytes"):
        response.get_data()


def test_a_part_of_an_encoded_body_is_a_fault_and_not_passed_as_if_it_had_been_seen() -> None:
    with pytest.raises(Fault, match="a part"):
        coded(status=206).get_data()


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 304)])
def test_the_length_of_a_body_that_is_not_there_is_the_origins_or_none(method: str, status: int) -> None:
    def through(rule: Any) -> Any:
        response = Response.of_upstream(status, "OK", [("Content-Length", "123"), ("X", "1")], Body())
        rule(response)
        return to_wsgi(response, method)[1]

    assert through(lambda response: response.get_data()) == [("Content-Length", "123"), ("X", "1")]
    assert through(lambda response: response.set_data(response.get_data().replace(b"a", b"b"))) == [("X", "1")]
    assert through(lambda response: response.set_stream(response.response)) == [("X", "1")]
    assert to_wsgi(Response("no", 403), "HEAD")[1][-1] == ("Content-Length", "2")


def test_an_answer_of_a_rule_has_a_type_and_may_be_anybodys_response() -> None:
    assert finish(Response("no", 403)) == ("403 FORBIDDEN", [("Content-Type", "text/plain; charset=utf-8")], [b"no"])
    assert finish(flask.Response("no", 403, mimetype="text/html"))[1] == [("Content-Type", "text/html; charset=utf-8")]
    plain = werkzeug.wrappers.Response((piece for piece in ("a", "ü")), headers={"Location": "relative"})
    assert finish(plain)[1:] == ([("Location", "relative"), ("Content-Type", "text/plain; charset=utf-8")], [b"a", "ü".encode()])


def test_an_answer_may_be_encoded_by_who_made_it() -> None:
    response = Response(gzip.compress(b"no"), 403, headers={"Content-Encoding": "gzip"})
    assert response.headers["Content-Encoding"] == "gzip"
    assert response.get_data() == b"no"


def test_functions_to_call_on_close_are_called_once_whatever_the_body_is() -> None:
    for response in (Response("in memory"), Response(piece for piece in ["streamed"]), Response.of_upstream(200, "OK", [], Body(b"x"))):
        calls: list[int] = []
        response.call_on_close(lambda calls=calls: calls.append(1))
        finish(response)
        assert calls == [1]


def test_an_answer_in_memory_can_be_sent_many_times() -> None:
    response = Response("no", 403)
    assert finish(response) == finish(response)


def test_a_file_is_passed_as_it_is() -> None:
    body = Body(b"a", b"b")
    response = werkzeug.wrappers.Response(body, direct_passthrough=True)
    assert finish(response)[2] == [b"a", b"b"]
    assert body.closed
