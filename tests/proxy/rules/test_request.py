"""`Request`: what the client sent, what a rule makes of it, and what goes on."""

import gzip
import io
import json
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge
from werkzeug.test import EnvironBuilder

from muxwsgi.http.body import BrokenBody
from muxwsgi.http.h1.head import Head
from muxwsgi.proxy.rules.message import Outgoing, Request
from muxwsgi.settings import HTTPSettings

from .conftest import MakeEnviron, MakeRequest


def sent(outgoing: Outgoing) -> bytes:
    return b"".join(outgoing.pieces)


# Where it goes


def test_the_url_is_as_it_was_sent(make_request: MakeRequest) -> None:
    request = make_request("https://example.com:8443/a%20b/%2e/%c3%bc?x=%20&y")
    assert request.url == "https://example.com:8443/a%20b/%2e/%c3%bc?x=%20&y"
    assert request.target == "/a%20b/%2e/%c3%bc?x=%20&y"
    assert request.path == "/a b/./ü"
    assert request.query_string == b"x=%20&y"
    assert request.args.to_dict() == {"x": " ", "y": ""}
    assert request.destination == ("example.com", 8443)
    assert request.base_url == "https://example.com:8443/a%20b/%2e/%c3%bc"
    assert request.host_url == request.root_url == request.url_root == "https://example.com:8443/"
    assert request.full_path == "/a b/./ü?x=%20&y"


@pytest.mark.parametrize(
    ("line", "scheme", "host", "target"),
    [
        ("GET http://example.com/a?b HTTP/1.1", "http", "example.com", "/a?b"),
        ("GET HTTPS://example.com HTTP/1.1", "https", "example.com", "/"),
        ("GET http://example.com?q HTTP/1.1", "http", "example.com", "/?q"),
        ("OPTIONS http://example.com HTTP/1.1", "http", "example.com", "*"),
        ("OPTIONS * HTTP/1.1", "http", "other.example", "*"),
        ("GET //a/b HTTP/1.1", "http", "other.example", "//a/b"),
        ("CONNECT example.com:443 HTTP/1.1", "http", "other.example", ""),
    ],
)
def test_every_form_of_target_is_understood(make_environ: MakeEnviron, line: str, scheme: str, host: str, target: str) -> None:
    request = Request(make_environ(f"{line}\nHost: other.example"))
    assert (request.scheme, request.host, request.target) == (scheme, host, target)


def test_the_host_of_an_absolute_target_replaces_the_field(make_environ: MakeEnviron) -> None:
    request = Request(make_environ("GET http://example.com/ HTTP/1.1\nhOST: other.example\nX: 1"))
    assert request.fields == [("hOST", "example.com"), ("X", "1")]


def test_a_request_of_http_1_0_gets_a_host_field(make_environ: MakeEnviron) -> None:
    assert Request.of(make_environ("GET / HTTP/1.0\nX: 1"), "http", "example.com").fields == [("Host", "example.com"), ("X", "1")]


def test_a_rule_sends_it_elsewhere_and_the_host_field_follows(make_request: MakeRequest) -> None:
    request = make_request("http://example.com/a?b", fields="X: 1")
    assert not request.redirected
    request.url = "https://other.example:8443/c?d"
    assert request.redirected
    assert (request.scheme, request.destination, request.target) == ("https", ("other.example", 8443), "/c?d")
    assert request.fields == [("Host", "other.example:8443"), ("X", "1")]
    assert request.args.to_dict() == {"d": ""}
    request.headers["Host"] = "example.com"
    assert request.destination == ("other.example", 8443)


def test_another_path_on_the_same_host_is_no_other_way(make_request: MakeRequest) -> None:
    request = make_request("http://example.com/a")
    request.url = "http://example.com/b c?d"
    assert not request.redirected
    assert request.url == "http://example.com/b%20c?d"
    request.path = "/50% ü?"
    assert request.target == "/50%25%20%C3%BC%3F?d"
    request.query_string = b""
    assert request.url == "http://example.com/50%25%20%C3%BC%3F"
    assert request.path == "/50% ü?"


def test_a_host_in_unicode_is_sent_in_ascii(make_request: MakeRequest) -> None:
    request = make_request()
    request.host = "bücher.example"
    assert request.headers["Host"] == "xn--bcher-kva.example"


@pytest.mark.parametrize(
    "url", ["ftp://example.com/", "/a", "http:///a", "http://user@example.com/", "http://exa mple/", "http://example.com:99999/", "http://a\\b/"]
)
def test_what_is_no_url_is_refused(make_request: MakeRequest, url: str) -> None:
    request = make_request()
    with pytest.raises(ValueError, match="is no"):
        request.url = url
    assert request.url == "http://example.com/"


@pytest.mark.parametrize("target", ["a", "*x", "/a#b", "/a\r\nX: 1", "/a\0"])
def test_what_is_no_target_never_reaches_a_request_line(make_request: MakeRequest, target: str) -> None:
    request = make_request()
    try:
        request.target = target
    except ValueError:
        assert request.target == "/"
    else:
        assert "\r" not in request.target and "\n" not in request.target and "\0" not in request.target


# Fields


def test_fields_keep_their_order_case_and_repetitions(make_environ: MakeEnviron) -> None:
    request = Request(make_environ("GET / HTTP/1.1\nHost: example.com\nx-B: 1\nX-a:\t2 \nx-b: 3\nEmpty:\nConnection: x-b\nX_Y: 4\nU: \xfc"))
    expected = [("Host", "example.com"), ("x-B", "1"), ("X-a", "2"), ("x-b", "3"), ("Empty", ""), ("Connection", "x-b"), ("X_Y", "4"), ("U", "\xfc")]
    assert request.fields == expected
    assert list(request.headers) == expected
    request.headers["X-A"] = "5"
    request.headers.add("New", "6")
    del request.headers["x-b"]
    assert request.fields == [("Host", "example.com"), ("X-A", "5"), ("Empty", ""), ("Connection", "x-b"), ("X_Y", "4"), ("U", "\xfc"), ("New", "6")]


names = st.text("ABCdef-12", min_size=1, max_size=8).filter(lambda name: name.lower() not in ("host", "te") and name[0] != "-")
values = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=12)


@given(st.lists(st.tuples(names, values), max_size=10))
def test_whatever_fields_there_are_all_of_them_go_on(fields: list[tuple[str, str]]) -> None:
    raw = "".join(f"{name}: {value}\r\n" for name, value in [("Host", "example.com"), *fields])
    head = f"GET / HTTP/1.1\r\n{raw}\r\n".encode()
    request = Request(Head(HTTPSettings(), {}).parse(head))
    assert request.fields == [("Host", "example.com"), *fields]
    assert list(request.headers) == request.fields


def test_a_value_cannot_break_out_of_its_field(make_request: MakeRequest) -> None:
    with pytest.raises(ValueError, match="newline"):
        make_request().headers["X"] = "1\r\nY: 2"


def test_a_request_without_the_raw_head_is_made_of_its_environ() -> None:
    environ = EnvironBuilder("/a b", base_url="http://example.com/", query_string="c=d", headers={"X-Y": "1"}).get_environ()
    request = Request(environ)
    assert request.url == "http://example.com/a%20b?c=d"
    assert dict(request.headers) == {"Host": "example.com", "X-Y": "1"}


# Bodies


@pytest.mark.parametrize("chunked", [False, True])
def test_an_untouched_body_goes_on_as_it_came(make_request: MakeRequest, chunked: bool) -> None:
    outgoing = make_request(method="POST", body=b"hello", chunked=chunked).outgoing()
    assert (outgoing.length, outgoing.chunked) == (None if chunked else 5, chunked)
    assert sent(outgoing) == b"hello"


def test_no_body_is_no_body(make_request: MakeRequest) -> None:
    request = make_request()
    assert request.outgoing() == Outgoing(None, False, ())
    assert request.get_data() == b""
    assert request.outgoing() == Outgoing(None, False, ())


def test_a_body_is_not_waited_for(make_environ: MakeEnviron) -> None:
    class Drip:
        def read1(self, size: int) -> bytes:
            return pieces.pop(0)

    pieces = [b"a", b"b", b""]
    environ = make_environ("POST / HTTP/1.1\nHost: example.com\nTransfer-Encoding: chunked")
    environ["wsgi.input"] = Drip()
    assert list(Request(environ).outgoing().pieces) == [b"a", b"b"]


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_a_rule_has_read_whole_goes_on_whole(make_request: MakeRequest, chunked: bool) -> None:
    request = make_request(method="POST", body=b"hello", chunked=chunked)
    assert not request.body_buffered
    assert request.get_data() == request.data == b"hello"
    assert request.get_data(as_text=True) == "hello"
    assert request.stream.read() == request.stream.read() == b"hello"
    assert request.body_buffered and not request.body_replaced
    outgoing = request.outgoing()
    assert (outgoing.length, outgoing.chunked, sent(outgoing)) == (None if chunked else 5, chunked, b"hello")


def test_a_form_that_a_rule_has_read_goes_on_whole(make_request: MakeRequest) -> None:
    request = make_request(method="POST", body=b"a=1&b=2", fields="Content-Type: application/x-www-form-urlencoded")
    assert request.form.to_dict() == {"a": "1", "b": "2"}
    assert request.values.to_dict() == {"a": "1", "b": "2"}
    assert sent(request.outgoing()) == b"a=1&b=2"


def test_json_that_a_rule_has_read_goes_on_whole(make_request: MakeRequest) -> None:
    request = make_request(method="POST", body=b'{"a": 1}', fields="Content-Type: application/json")
    assert request.json == {"a": 1}
    assert sent(request.outgoing()) == b'{"a": 1}'
    request.data = b'{"a": 2}'
    assert request.json == {"a": 2}


def test_a_form_is_read_anew_when_the_body_is_replaced(make_request: MakeRequest) -> None:
    request = make_request(method="POST", body=b"a=1", fields="Content-Type: application/x-www-form-urlencoded")
    assert request.form["a"] == "1"
    request.data = b"a=2"
    assert request.form["a"] == "2"


def test_a_replaced_body_has_the_length_that_it_has(make_request: MakeRequest) -> None:
    request = make_request(method="POST", body=b"hello", chunked=True, fields="Content-Encoding: gzip\nX: 1")
    request.set_data("grüße")
    assert request.body_replaced
    assert request.fields == [("Host", "example.com"), ("X", "1"), ("Content-Length", "7")]
    assert request.outgoing() == Outgoing(7, False, ("grüße".encode(),))
    assert request.get_data(as_text=True) == "grüße"


def test_a_body_can_be_given_to_a_request_that_had_none(make_request: MakeRequest) -> None:
    request = make_request()
    request.data = b"x"
    assert request.outgoing() == Outgoing(1, False, (b"x",))
    request.data = b""
    assert request.outgoing() == Outgoing(0, False, (b"",))


def test_a_stream_may_be_made_of_the_clients_stream(make_request: MakeRequest) -> None:
    request = make_request(method="POST", body=b"hello")
    stream = request.stream
    request.set_stream(piece.upper() for piece in iter(lambda: stream.read(2), b""))
    outgoing = request.outgoing()
    assert (outgoing.length, outgoing.chunked, list(outgoing.pieces)) == (None, True, [b"HE", b"LL", b"O"])
    assert request.headers["Transfer-Encoding"] == "chunked" and "Content-Length" not in request.headers


def test_a_stream_may_say_its_length_and_be_read_by_the_next_rule(make_request: MakeRequest) -> None:
    request = make_request()
    request.set_stream([b"ab", b"c"], 3)
    assert request.headers["Content-Length"] == "3"
    assert request.get_data() == b"abc"
    assert request.outgoing() == Outgoing(3, False, (b"abc",))


def test_streams_of_several_rules_are_put_through_each_other(make_request: MakeRequest) -> None:
    request = make_request(method="POST", body=b"hello")
    for change in (bytes.upper, lambda piece: piece + b"."):
        stream = request.stream
        request.set_stream(map(change, iter(lambda stream=stream: stream.read(2), b"")))
    assert sent(request.outgoing()) == b"HE.LL.O."


def test_half_a_stream_that_a_rule_set_is_not_sent_on_either(make_request: MakeRequest) -> None:
    request = make_request(method="POST")
    request.set_stream([b"ab", b"c"])
    request.stream.read(1)
    with pytest.raises(RuntimeError, match="has read"):
        request.outgoing()


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_is_watched_stays_as_it_is(make_request: MakeRequest, chunked: bool) -> None:
    seen: list[bytes] = []

    def watch(pieces: Iterable[bytes]) -> Iterator[bytes]:
        for piece in pieces:
            seen.append(piece)
            yield piece

    request = make_request(method="POST", body=b"hello", chunked=chunked)
    before = request.fields
    request.watch_body(watch)
    assert seen == [] and request.fields == before and not request.body_replaced
    outgoing = request.outgoing()
    assert (outgoing.length, outgoing.chunked, sent(outgoing)) == (None if chunked else 5, chunked, b"hello")
    assert b"".join(seen) == b"hello"
    request = make_request(method="POST", body=b"hello", chunked=chunked)
    request.watch_body(watch)
    assert request.get_data() == sent(request.outgoing()) == b"hello"
    nothing = make_request()
    nothing.watch_body(watch)
    assert nothing.outgoing() == Outgoing(None, False, ())


@pytest.mark.parametrize("read", [lambda stream: stream.read(2), lambda stream: stream.readline(), lambda stream: next(iter(stream))])
def test_half_a_body_is_never_sent_on_as_if_it_were_all(make_request: MakeRequest, read: Any) -> None:
    request = make_request(method="POST", body=b"hel\nlo")
    read(request.stream)
    with pytest.raises(RuntimeError, match="has read"):
        request.outgoing()
    with pytest.raises(RuntimeError, match="has read"):
        request.get_data()
    request.data = b"other"
    assert sent(request.outgoing()) == b"other"


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_above_the_limit_is_413_and_never_half_sent(make_request: MakeRequest, chunked: bool) -> None:
    request = make_request(method="POST", body=b"x" * 11, chunked=chunked, buffer_limit=10)
    with pytest.raises(RequestEntityTooLarge):
        request.get_data()
    if chunked:
        with pytest.raises(RuntimeError, match="has read"):
            request.outgoing()
    else:
        assert sent(request.outgoing()) == b"x" * 11  # its length said it all: nothing was read
    assert make_request(method="POST", body=b"x" * 10, chunked=chunked, buffer_limit=10).get_data() == b"x" * 10


# An application in the upstream's place


def test_an_application_sees_what_rules_made_of_the_request(make_request: MakeRequest) -> None:
    request = make_request("https://example.com:8443/a%20b?c", "POST", "X-Y: 1\nCookie: a=1\nProxy-Authorization: Basic eA==", b"old")
    request.method = "PUT"
    request.path = "/ü"
    request.headers["X-Y"] = "2"
    request.headers.add("X-Y", "3")
    request.headers["X_Z"] = "4"
    request.data = b"new body"
    environ = request.to_environ()
    assert environ["REQUEST_METHOD"] == "PUT"
    assert environ["wsgi.url_scheme"] == "https"
    assert (environ["SERVER_NAME"], environ["SERVER_PORT"], environ["HTTP_HOST"]) == ("example.com", "8443", "example.com:8443")
    assert (environ["SCRIPT_NAME"], environ["PATH_INFO"], environ["QUERY_STRING"]) == ("", "/\xc3\xbc", "c")
    assert environ["RAW_URI"] == "/%C3%BC?c"
    assert environ["HTTP_X_Y"] == "2, 3"
    assert environ["HTTP_COOKIE"] == "a=1"
    assert environ["CONTENT_LENGTH"] == "8"
    assert environ["wsgi.input"].read() == b"new body"
    assert "HTTP_PROXY_AUTHORIZATION" not in environ and "HTTP_X_Z" not in environ
    assert request.environ["REQUEST_METHOD"] == "POST"


def test_an_application_reads_the_clients_body_where_no_rule_did(make_request: MakeRequest) -> None:
    request = make_request(method="POST", body=b"hello")
    assert request.to_environ()["wsgi.input"].read() == b"hello"


def test_an_application_reads_a_stream_that_a_rule_made(make_request: MakeRequest) -> None:
    request = make_request(method="POST")
    request.set_stream([b"", b"ab\nc", b"d"])
    environ = request.to_environ()
    assert environ["wsgi.input"].readline() == b"ab\n"
    assert environ["wsgi.input"].read() == b"cd"
    assert environ["HTTP_TRANSFER_ENCODING"] == "chunked"


def test_the_environ_of_a_request_that_no_rule_touched_reads_a_buffered_body_again(make_request: MakeRequest) -> None:
    request = make_request(method="POST", body=b"hello")
    assert request.get_data() == b"hello"
    assert isinstance(request.to_environ()["wsgi.input"], io.BytesIO)
    assert Request(request.to_environ()).get_data() == b"hello"


# Content-Encoding

PLAIN = b'{"name": "hello"}'
CODED = gzip.compress(PLAIN)
OF_CODED = ("Content-Type: application/json", "Content-Encoding: gzip", "Repr-Digest: sha-256=:x:")


@pytest.mark.parametrize(
    "read",
    [
        lambda request: request.data,
        lambda request: request.get_data(),
        lambda request: request.text.encode(),
        lambda request: json.dumps(request.get_json()).encode(),
        lambda request: request.stream.read(),
        lambda request: b"".join(request.stream),
    ],
    ids=["data", "get_data", "text", "json", "stream", "lines of the stream"],
)
def test_what_is_read_and_what_is_written_are_both_without_the_coding(coded_request: Any, read: Any) -> None:
    request = coded_request(CODED)
    data = read(request)
    assert data == PLAIN
    request.data = data.replace(b"hello", b"HELLO!")
    assert request.get_json() == {"name": "HELLO!"}
    outgoing = request.outgoing()
    assert b"".join(outgoing.pieces) == b'{"name": "HELLO!"}' and outgoing.length == 18
    assert not {"Content-Encoding", "Repr-Digest"} & set(request.headers.keys())


def test_a_body_that_is_only_read_or_watched_goes_on_in_its_coding(coded_request: Any) -> None:
    request = coded_request(CODED)
    seen: list[bytes] = []
    request.watch_body(lambda pieces: (seen.append(piece) or piece for piece in pieces))
    assert request.get_json() == {"name": "hello"} and request.stream.read() == PLAIN
    outgoing = request.outgoing()
    assert b"".join(outgoing.pieces) == CODED and outgoing.length == len(CODED)
    assert b"".join(seen) == PLAIN and request.headers["Content-Encoding"] == "gzip"


def test_a_form_is_parsed_without_its_coding(coded_request: Any) -> None:
    request = coded_request(gzip.compress(b"a=1&b=2"), "Content-Type: application/x-www-form-urlencoded", "Content-Encoding: gzip")
    assert request.form["b"] == "2"


@pytest.mark.parametrize(
    ("body", "coding", "status"),
    [(b"no gzip", "gzip", 400), (CODED[:-5], "gzip", 400), (CODED, "compress", 415), (gzip.compress(bytes(1 << 20)), "gzip", 413)],
    ids=["broken", "cut", "unknown", "a bomb"],
)
def test_a_body_that_cannot_be_decoded_is_the_clients_fault(coded_request: Any, body: bytes, coding: str, status: int) -> None:
    request = coded_request(body, f"Content-Encoding: {coding}", buffer_limit=100_000)
    with pytest.raises((BrokenBody, HTTPException)) as caught:
        request.get_data()
    assert getattr(caught.value, "status", None) == status or getattr(caught.value, "code", None) == status


@pytest.fixture
def coded_request() -> Any:
    def make(body: bytes, *fields: str, **more: Any) -> Request:
        lines = ["POST / HTTP/1.1", "Host: example.com", f"Content-Length: {len(body)}", *(fields or OF_CODED), "", ""]
        head = "\r\n".join(lines).encode()
        environ = Head(HTTPSettings(), {}).parse(head)
        environ["wsgi.input"], environ["wsgi.input_terminated"] = io.BytesIO(body), True
        return Request.of(environ, "http", "example.com", **more)

    return make


def test_a_coding_that_a_second_field_names_is_taken_off_too(coded_request: Any) -> None:
    for first in ("identity", "utf-8"):
        request = coded_request(CODED, f"Content-Encoding: {first}", "Content-Encoding: gzip")
        assert request.get_data() == PLAIN
