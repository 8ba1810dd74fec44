"""`Response`: what an upstream sent, what a rule makes of it, and what the client gets."""

import gzip
from collections.abc import Iterable, Iterator

import flask
import pytest
import werkzeug.wrappers

from muxwsgi.proxy.fault import Fault, Phase
from muxwsgi.proxy.rules.message import Response, to_wsgi


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


def test_decoding_streams_and_takes_back_what_was_said_of_the_encoded_bytes() -> None:
    encoded = gzip.compress(b"hello")
    fields = [("Content-Encoding", "gzip"), ("Content-Length", str(len(encoded))), ("ETag", '"v"'), ("Repr-Digest", "sha-256=:x:"), ("X", "1")]
    body = Body(encoded[:9], encoded[9:])
    response = Response.of_upstream(200, "OK", fields, body)
    response.decode()
    assert len(body.left) == 2
    assert finish(response) == ("200 OK", [("ETag", 'W/"v"'), ("X", "1")], [b"hello"])
    assert body.closed


def test_what_is_not_encoded_is_left_alone_by_decoding() -> None:
    for fields in ([], [("Content-Encoding", "identity"), ("Content-Length", "1")], [("Content-Encoding", "utf-8")]):
        response = Response.of_upstream(200, "OK", fields, Body(b"x"))
        response.decode()
        assert finish(response) == ("200 OK", fields, [b"x"])


def test_a_part_of_an_encoded_body_is_a_fault_and_not_passed_as_if_it_had_been_seen() -> None:
    response = Response.of_upstream(206, "Partial Content", [("Content-Encoding", "gzip")], Body(b"x"))
    with pytest.raises(Fault, match="a part"):
        response.decode()


def test_an_answer_of_a_rule_has_a_type_and_may_be_anybodys_response() -> None:
    assert finish(Response("no", 403)) == ("403 FORBIDDEN", [("Content-Type", "text/plain; charset=utf-8")], [b"no"])
    assert finish(flask.Response("no", 403, mimetype="text/html"))[1] == [("Content-Type", "text/html; charset=utf-8")]
    plain = werkzeug.wrappers.Response((piece for piece in ("a", "ü")), headers={"Location": "relative"})
    assert finish(plain)[1:] == ([("Location", "relative"), ("Content-Type", "text/plain; charset=utf-8")], [b"a", "ü".encode()])


def test_an_answer_may_be_encoded_by_who_made_it() -> None:
    response = Response(gzip.compress(b"no"), 403, headers={"Content-Encoding": "gzip"})
    assert response.headers["Content-Encoding"] == "gzip"
    response.decode()
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
