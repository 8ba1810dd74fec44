"""Bytes that are no valid request get a 4xx or 5xx and a close, and never reach the application."""

from typing import Any

import gevent
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from muxwsgi.http.h1.h1 import HTTP1
from muxwsgi.settings import HTTPSettings
from muxwsgi.testing import connection_pair
from tests.http.conftest import Talk, hello, statuses
from tests.subscribed import subscribed

GET = b"GET / HTTP/1.1\r\nHost: a\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"

REFUSED: dict[str, tuple[int, bytes]] = {
    "length and coding": (400, POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"),
    "coding and length": (400, POST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n"),
    "repeated length": (400, POST + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello"),
    "differing lengths": (400, POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello"),
    "list of lengths": (400, POST + b"Content-Length: 5, 5\r\n\r\nhello"),
    "signed length": (400, POST + b"Content-Length: +5\r\n\r\nhello"),
    "negative length": (400, POST + b"Content-Length: -5\r\n\r\nhello"),
    "underscored length": (400, POST + b"Content-Length: 1_0\r\n\r\nhellohello"),
    "hexadecimal length": (400, POST + b"Content-Length: 0x5\r\n\r\nhello"),
    "empty length": (400, POST + b"Content-Length: \r\n\r\n"),
    "endless length": (400, POST + b"Content-Length: " + b"9" * 40 + b"\r\n\r\n"),
    "xchunked": (400, POST + b"Transfer-Encoding: xchunked\r\n\r\n"),
    "gzip, chunked": (501, POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n"),
    "chunked, gzip": (400, POST + b"Transfer-Encoding: chunked, gzip\r\n\r\n"),
    "chunked twice": (400, POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n"),
    "quoted chunked": (400, POST + b'Transfer-Encoding: "chunked"\r\n\r\n'),
    "coding with vertical tab": (400, POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n"),
    "coding in 1.0": (400, b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    "bare LF after request line": (400, b"GET / HTTP/1.1\nHost: a\r\n\r\n"),
    "bare LF in a field": (400, GET + b"X: a\nY: b\r\n\r\n"),
    "bare CR in a field": (400, GET + b"X: a\rb\r\n\r\n"),
    "folded field": (400, GET + b"X: a\r\n b\r\n\r\n"),
    "folded first field": (400, b"GET / HTTP/1.1\r\n Host: a\r\n\r\n"),
    "NUL in a value": (400, GET + b"X: a\x00b\r\n\r\n"),
    "NUL in a name": (400, GET + b"X\x00: a\r\n\r\n"),
    "NUL in the target": (400, b"GET /\x00 HTTP/1.1\r\nHost: a\r\n\r\n"),
    "control in a value": (400, GET + b"X: a\x01b\r\n\r\n"),
    "DEL in a value": (400, GET + b"X: a\x7fb\r\n\r\n"),
    "tab in the target": (400, b"GET /a\tb HTTP/1.1\r\nHost: a\r\n\r\n"),
    "raw bytes in the target": (400, b"GET /\xc3\xa4 HTTP/1.1\r\nHost: a\r\n\r\n"),
    "fragment": (400, b"GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n"),
    "space before the colon": (400, GET + b"X : a\r\n\r\n"),
    "no colon": (400, GET + b"X\r\n\r\n"),
    "no name": (400, GET + b": a\r\n\r\n"),
    "bad name": (400, GET + b"X(y): a\r\n\r\n"),
    "missing Host": (400, b"GET / HTTP/1.1\r\n\r\n"),
    "repeated Host": (400, GET + b"Host: a\r\n\r\n"),
    "repeated host in another case": (400, GET + b"hOST: b\r\n\r\n"),
    "bad Host": (400, b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n"),
    "Host with user": (400, b"GET / HTTP/1.1\r\nHost: u@a\r\n\r\n"),
    "Host with path": (400, b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n"),
    "Host of a port alone": (400, b"GET / HTTP/1.1\r\nHost: :80\r\n\r\n"),
    "Host with a port too large": (400, b"GET / HTTP/1.1\r\nHost: a:65536\r\n\r\n"),
    "Host with a signed port": (400, b"GET / HTTP/1.1\r\nHost: a:+80\r\n\r\n"),
    "Host with a broken escape": (400, b"GET / HTTP/1.1\r\nHost: a%zz\r\n\r\n"),
    "Host with a broken IPv6 address": (400, b"GET / HTTP/1.1\r\nHost: [::1::]\r\n\r\n"),
    "Host with an open bracket": (400, b"GET / HTTP/1.1\r\nHost: [::1\r\n\r\n"),
    "bad Host under an absolute target": (400, b"GET http://a/ HTTP/1.1\r\nHost: b c\r\n\r\n"),
    "repeated Host in 1.0": (400, b"GET / HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n"),
    "two Hosts in one field": (400, b"GET / HTTP/1.1\r\nHost: a, b\r\n\r\n"),
    "repeated Content-Type": (400, POST + b"Content-Type: a/b\r\nContent-Type: c/d\r\n\r\n"),
    "HTTP/0.9": (400, b"GET /\r\n\r\n"),
    "HTTP/2.0": (505, b"GET / HTTP/2.0\r\nHost: a\r\n\r\n"),
    "HTTP/1.10": (400, b"GET / HTTP/1.10\r\nHost: a\r\n\r\n"),
    "HTTP/3": (505, b"GET / HTTP/3\r\nHost: a\r\n\r\n"),
    "RTSP/1.0": (400, b"OPTIONS / RTSP/1.0\r\nHost: a\r\n\r\n"),
    "ICE/1.0": (400, b"SOURCE / ICE/1.0\r\nHost: a\r\n\r\n"),
    "lower-case version": (400, b"GET / http/1.1\r\nHost: a\r\n\r\n"),
    "two spaces": (400, b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n"),
    "two spaces behind": (400, b"GET /  HTTP/1.1\r\nHost: a\r\n\r\n"),
    "space at the end": (400, b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n"),
    "space in front": (400, b" GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
    "relative target": (400, b"GET foo HTTP/1.1\r\nHost: a\r\n\r\n"),
    "authority for GET": (400, b"GET a:80 HTTP/1.1\r\nHost: a\r\n\r\n"),
    "path for CONNECT": (400, b"CONNECT / HTTP/1.1\r\nHost: a\r\n\r\n"),
    "CONNECT without port": (400, b"CONNECT a HTTP/1.1\r\nHost: a\r\n\r\n"),
    "CONNECT to port 0": (400, b"CONNECT a:0 HTTP/1.1\r\nHost: a\r\n\r\n"),
    "CONNECT to a port too large": (400, b"CONNECT a:65536 HTTP/1.1\r\nHost: a\r\n\r\n"),
    "CONNECT with user": (400, b"CONNECT u@a:80 HTTP/1.1\r\nHost: a\r\n\r\n"),
    "CONNECT to an http URI": (400, b"CONNECT http://a:80/ HTTP/1.1\r\nHost: a\r\n\r\n"),
    "absolute target without host": (400, b"GET http:///x HTTP/1.1\r\nHost: a\r\n\r\n"),
    "absolute target of a port alone": (400, b"GET http://:80/x HTTP/1.1\r\nHost: a\r\n\r\n"),
    "* for GET": (400, b"GET * HTTP/1.1\r\nHost: a\r\n\r\n"),
    "user in an absolute target": (400, b"GET http://u@a/ HTTP/1.1\r\nHost: a\r\n\r\n"),
    "absolute target without Host": (400, b"GET http://a/ HTTP/1.1\r\n\r\n"),
    "ftp target": (400, b"GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n"),
    "bare LF at every end": (400, b"GET / HTTP/1.1\nHost: a\n\n"),
    "bare CR at every end": (400, b"GET / HTTP/1.1\rHost: a\r\r"),
    "bare LF in front": (400, b"\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"),
    "CR CR LF": (400, b"GET / HTTP/1.1\r\nHost: a\r\r\n\r\n"),
    "unknown coding behind a bare LF": (400, POST + b"Transfer-Encoding: gzip\r\nX: a\nY: b\r\n\r\n"),
    "unknown method before a bare LF": (400, b"BREW / HTTP/1.1\r\nHost: a\r\nX: a\nY: b\r\n\r\n"),
    "empty coding": (400, POST + b"Transfer-Encoding:\r\n\r\n"),
    "chunked with a comma": (400, POST + b"Transfer-Encoding: chunked,\r\n\r\n"),
    "chunked with a parameter": (400, POST + b"Transfer-Encoding: chunked;q=1\r\n\r\n"),
    "chunked behind a comma": (400, POST + b"Transfer-Encoding: , chunked\r\n\r\n"),
    "length with a space in it": (400, POST + b"Content-Length: 1 0\r\n\r\nhellohello"),
    "length of other digits": (400, POST + b"Content-Length: \xb2\r\n\r\nhe"),
    "a method that is no token": (400, b"GE:T / HTTP/1.1\r\nHost: a\r\n\r\n"),
    "no method": (400, b" / HTTP/1.1\r\nHost: a\r\n\r\n"),
    "gzip, deflate, chunked": (501, POST + b"Transfer-Encoding: gzip,deflate , Chunked\r\n\r\n"),
    "gzip, xchunked": (400, POST + b"Transfer-Encoding: gzip, xchunked\r\n\r\n"),
    "chunked, chunked": (400, POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n"),
    "gzip, chunked, in 1.0": (400, b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n"),
    "chunked, gzip, chunked": (400, POST + b"Transfer-Encoding: chunked, gzip, chunked\r\n\r\n"),
    "unknown coding": (501, POST + b"Transfer-Encoding: gzip\r\n\r\n"),
    "another expectation": (417, POST + b"Expect: tea\r\nContent-Length: 1\r\n\r\nx"),
    "endless empty lines": (400, b"\r\n" * 50 + GET + b"\r\n"),
    "long request line": (414, b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: a\r\n\r\n"),
    "request line without end": (414, b"GET /" + b"a" * 9000),
    "long field": (431, GET + b"X: " + b"a" * 9000 + b"\r\n\r\n"),
    "many fields": (431, GET + b"X: a\r\n" * 200 + b"\r\n"),
    "long head": (431, GET + b"X: " + b"a" * 8000 + b"\r\n" + (b"Y: " + b"a" * 8000 + b"\r\n") * 9 + b"\r\n"),
    "head without end": (431, GET + b"X: a\r\n" * 20_000),
    "large body": (413, POST + b"Content-Length: 2000\r\n\r\n"),
}

BAD_CHUNKS: dict[str, bytes] = {
    "no size": b"\r\nhello\r\n0\r\n\r\n",
    "prefixed size": b"0x5\r\nhello\r\n0\r\n\r\n",
    "negative size": b"-5\r\nhello\r\n0\r\n\r\n",
    "signed size": b"+5\r\nhello\r\n0\r\n\r\n",
    "underscored size": b"1_0\r\nhello\r\n0\r\n\r\n",
    "huge size": b"fffffffffffffffff\r\nhello",
    "space behind the size": b"5 \r\nhello\r\n0\r\n\r\n",
    "bare LF behind the size": b"5\nhello\r\n0\r\n\r\n",
    "no line break behind the data": b"5\r\nhelloX\r\n0\r\n\r\n",
    "bare LF behind the data": b"5\r\nhello\n0\r\n\r\n",
    "bare LF in an extension": b"5;a=b\nc\r\nhello\r\n0\r\n\r\n",
    "NUL in an extension": b"5;a\x00\r\nhello\r\n0\r\n\r\n",
    "endless extension": b"5;" + b"a" * 100_000 + b"\r\nhello\r\n0\r\n\r\n",
    "folded trailer": b"5\r\nhello\r\n0\r\nX: a\r\n b\r\n\r\n",
    "bare LF in a trailer": b"5\r\nhello\r\n0\r\nX: a\n\r\n\r\n",
    "endless trailers": b"5\r\nhello\r\n0\r\n" + b"X: a\r\n" * 30_000 + b"\r\n",
    "no name of an extension": b"5;\r\nhello\r\n0\r\n\r\n",
    "no name before a value": b"5;=b\r\nhello\r\n0\r\n\r\n",
    "an open quotation": b'5;a="b\r\nhello\r\n0\r\n\r\n',
    "a blank behind an extension": b"5;a \r\nhello\r\n0\r\n\r\n",
    "two words in an extension": b"5;a b\r\nhello\r\n0\r\n\r\n",
    "a fold in an extension": b"5;a\r\n =b\r\nhello\r\n0\r\n\r\n",
    "a long line": b"5;" + b"a" * 9000 + b"\r\nhello\r\n0\r\n\r\n",
    "a long line behind data": b"5\r\nhello\r\n5;" + b"a" * 9000 + b"\r\nhello\r\n0\r\n\r\n",
    "no line break behind the last data": b"5\r\nhello0\r\n\r\n",
    "bare CR behind the size": b"5\rhello\r\n0\r\n\r\n",
    "bare CR in an extension": b"5;a\rb\r\nhello\r\n0\r\n\r\n",
    "control in an extension": b"5;a=\x01\r\nhello\r\n0\r\n\r\n",
    "bare CR behind the data": b"5\r\nhello\r0\r\n\r\n",
    "empty line before the size": b"\r\n5\r\nhello\r\n0\r\n\r\n",
    "space before the size": b" 5\r\nhello\r\n0\r\n\r\n",
    "data longer than the size": b"4\r\nhello\r\n0\r\n\r\n",
    "no colon in a trailer": b"5\r\nhello\r\n0\r\nX\r\n\r\n",
    "space before the colon of a trailer": b"5\r\nhello\r\n0\r\nX : a\r\n\r\n",
    "NUL in a trailer": b"5\r\nhello\r\n0\r\nX: \x00\r\n\r\n",
    "ends too early": b"5\r\nhel",
}


def never_called(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    raise AssertionError(f"the application got {environ['REQUEST_METHOD']} {environ['RAW_URI']}")


def read_the_body(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    body = environ["wsgi.input"].read()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [body]


def catches_everything(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    """As frameworks do: any exception becomes their own 500 page."""
    try:
        return read_the_body(environ, start_response)
    except Exception:
        start_response("500 Framework Error", [])
        return [b"framework"]


SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.mark.parametrize("cut", ["whole", "bytewise"])
@pytest.mark.parametrize("name", REFUSED)
def test_a_malformed_head_is_refused_and_ends_the_connection(talk: Talk, errors: Any, name: str, cut: str) -> None:
    status, sent = REFUSED[name]
    sent += SMUGGLED  # whatever it is, what follows is never taken for a request
    if cut == "bytewise" and len(sent) > 30_000:
        sent = sent[:80_000]
        pieces = [sent[i : i + 997] for i in range(0, len(sent), 997)]
    else:
        pieces = [sent] if cut == "whole" else [sent[i : i + 1] for i in range(len(sent))]
    rejected: list[int] = []
    answer = talk(
        never_called,
        *pieces,
        settings=HTTPSettings(limit_request_body=1000, linger=0.05),
        events=subscribed(refused=lambda connection, refusal: rejected.append(refusal.status)),
    )
    assert statuses(answer) == [status], answer
    assert b"\r\nConnection: close\r\n" in answer
    assert rejected == [status]
    assert errors() == []


def begins_first(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    """Has a head ready before it reads."""
    start_response("200 OK", [])
    try:
        environ["wsgi.input"].read()
    except OSError:  # as Django and werkzeug have it
        pass
    return [b"never mind"]


def reads_lines_and_returns_nothing(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    try:
        list(environ["wsgi.input"])
    except OSError:
        pass
    return []


@pytest.mark.parametrize("app", [read_the_body, catches_everything, begins_first, reads_lines_and_returns_nothing])
@pytest.mark.parametrize("name", BAD_CHUNKS)
def test_a_malformed_chunked_body_is_refused_whatever_the_application_makes_of_it(talk: Talk, errors: Any, name: str, app: Any) -> None:
    answer = talk(app, CHUNKED + BAD_CHUNKS[name] + (b"" if name == "ends too early" else SMUGGLED))
    assert statuses(answer) == [400], answer
    assert errors() == []


def test_a_body_over_the_limit_is_refused_when_it_gets_there(talk: Talk) -> None:
    small = HTTPSettings(limit_request_body=10, linger=0.05)
    assert statuses(talk(read_the_body, CHUNKED + b"8\r\n12345678\r\n0\r\n\r\n", settings=small)) == [200]
    assert statuses(talk(read_the_body, CHUNKED + b"8\r\n12345678\r\n8\r\n12345678\r\n0\r\n\r\n", settings=small)) == [413]
    assert statuses(talk(catches_everything, CHUNKED + b"b\r\n12345678901\r\n0\r\n\r\n", settings=small)) == [413]


def test_a_body_that_ends_early_is_no_request(talk: Talk, errors: Any) -> None:
    assert statuses(talk(read_the_body, POST + b"Content-Length: 10\r\n\r\nhello")) == [400]
    assert errors() == []


def test_an_upgrade_request_keeps_its_body(talk: Talk) -> None:
    upgrade = POST + b"Upgrade: x\r\nConnection: upgrade\r\n"
    body = SMUGGLED[: SMUGGLED.index(b"HTTP")]  # up to the version, which the answers are counted by
    with_length = b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
    chunked = b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    for framed in (with_length, chunked):
        answer = talk(read_the_body, upgrade + framed + GET + b"\r\n")
        assert statuses(answer) == [200, 200]
        assert body in answer


TOLD_AT_ONCE = {
    "bare LF": b"GET / HTTP/1.1\nHost: a\n\n",
    "bare LF in the fields": GET + b"X: a\n\n",
    "bare CR": b"GET / HTTP/1.1\rH",
    "HTTP/0.9": b"GET /\r\n",
    "HTTP/2.0": b"GET / HTTP/2.0\r\n",
    "no request line": b"hello there\r\n",
}


@pytest.mark.parametrize("cut", ["whole", "bytewise"])
@pytest.mark.parametrize("name", TOLD_AT_ONCE)
def test_a_head_that_never_ends_as_ours_do_is_refused_without_waiting_for_more(name: str, cut: str) -> None:
    sent = TOLD_AT_ONCE[name]
    server, client = connection_pair()
    serving = gevent.spawn(HTTP1(never_called, HTTPSettings()), server)
    with gevent.Timeout(5):
        for piece in [sent] if cut == "whole" else [sent[i : i + 1] for i in range(len(sent))]:
            client.sendall(piece)
            gevent.sleep(0)
        assert client.recv().startswith(b"HTTP/1.1 505 " if name == "HTTP/2.0" else b"HTTP/1.1 400 ")
        client.close()
        serving.get()
    server.finish()


@pytest.mark.parametrize("cut", ["whole", "bytewise"])
def test_what_is_exactly_at_the_limit_is_accepted(talk: Talk, cut: str) -> None:
    limits = HTTPSettings(limit_request_line=40, limit_request_field_size=60, limit_request_fields=3, limit_request_head=200, linger=0.05)

    def status(sent: bytes) -> list[int]:
        return list(statuses(talk(hello, *([sent] if cut == "whole" else [sent[i : i + 1] for i in range(len(sent))]), settings=limits)))

    def line(length: int) -> bytes:
        return b"GET /%b HTTP/1.1\r\nHost: a\r\n\r\n" % (b"a" * (length - 14))

    def field(length: int) -> bytes:
        return GET + b"X: %b\r\n\r\n" % (b"a" * (length - 3))

    assert (status(line(40)), status(line(41))) == ([200], [414])
    assert (status(field(60)), status(field(61))) == ([200], [431])
    assert (status(GET + b"X: a\r\nY: b\r\n\r\n"), status(GET + b"X: a\r\nY: b\r\nZ: c\r\n\r\n")) == ([200], [431])
    short = HTTPSettings(limit_request_head=100, linger=0.05)
    exact = GET + b"X: " + b"a" * (100 - len(GET) - 7) + b"\r\n\r\n"
    assert len(exact) == 100
    for sent, expected in ((exact, 200), (exact[:-4] + b"a" + exact[-4:], 431)):
        pieces = [sent] if cut == "whole" else [sent[i : i + 1] for i in range(len(sent))]
        assert statuses(talk(hello, *pieces, settings=short)) == [expected]


@pytest.mark.parametrize("host", ["example.org", "example.org:", "EXAMPLE.org:8080", "127.0.0.1:1", "[::1]", "[2001:db8::1]:65535", "a%2Db", ""])
def test_a_host_that_is_one_is_accepted(talk: Talk, host: str) -> None:
    assert statuses(talk(hello, f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())) == [200]


def test_a_client_that_invents_names_does_not_fill_the_memory(talk: Talk) -> None:
    from muxwsgi.http.h1 import fields as module

    many = HTTPSettings(limit_request_fields=1000, limit_request_head=1 << 20, linger=0.05)
    for batch in range(5):
        fields = b"".join(b"X-%d-%d: a\r\n" % (batch, number) for number in range(900))
        assert statuses(talk(hello, GET + fields + b"\r\n", settings=many)) == [200]
    assert len(module._KEYS) <= module._KEYS_AT_MOST


def test_a_few_empty_lines_in_front_are_passed_over(talk: Talk) -> None:
    assert statuses(talk(hello, b"\r\n\r\n" + GET + b"\r\n\r\n" + GET + b"\r\n")) == [200, 200]


def test_a_connection_that_ends_without_a_request_gets_no_answer(talk: Talk) -> None:
    assert talk(never_called, b"") == b""
    assert talk(never_called, b"\r\n") == b""
    assert statuses(talk(never_called, b"GET / HT")) == [400]


# A request as bytes, and what the application should have seen of it.
Exchange = tuple[bytes, tuple[str, str, bytes]]


@st.composite
def exchanges(draw: st.DrawFn) -> Exchange:
    path = "/" + draw(st.text("abcdefgh%20", max_size=0) | st.from_regex(r"[a-z0-9]{1,12}(\?[a-z=&]{0,10})?", fullmatch=True))
    body = draw(st.binary(max_size=60) | st.sampled_from([b"\r\n\r\n", b"0\r\n\r\n", SMUGGLED, b"a\r\n\r\n0\r\n\r\nb"]))
    framing = draw(st.sampled_from(["none", "length", "chunked"]))
    head = f"{'GET' if framing == 'none' else 'POST'} {path} HTTP/1.1\r\nHost: a\r\n".encode()
    if framing == "none":
        return head + b"\r\n", ("GET", path, b"")
    if framing == "length":
        return head + b"Content-Length: %d\r\n\r\n" % len(body) + body, ("POST", path, body)
    cuts = sorted(draw(st.lists(st.integers(0, len(body)), max_size=4)))
    parts = [body[start:end] for start, end in zip([0, *cuts], [*cuts, len(body)], strict=True) if start < end]
    chunks = b"".join(b"%x%b\r\n%b\r\n" % (len(part), draw(st.sampled_from([b"", b";a=b"])), part) for part in parts)
    trailer = draw(st.sampled_from([b"", b"X-Trailer: t\r\n"]))
    return head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n" + trailer + b"\r\n", ("POST", path, body)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pipeline=st.lists(exchanges(), min_size=1, max_size=6), data=st.data())
def test_any_pipeline_under_any_cuts_is_answered_exactly(talk: Talk, pipeline: list[Exchange], data: st.DataObject) -> None:
    seen: list[tuple[str, str, bytes]] = []
    read = data.draw(st.sampled_from(["all", "lines", "little", "nothing"]))

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        source = environ["wsgi.input"]
        if read == "all":
            body = source.read()
        elif read == "lines":
            body = b"".join(source)
        elif read == "little":
            body = b""
            while part := source.read(3):
                body += part
        else:
            body = b""
        seen.append((environ["REQUEST_METHOD"], environ["REQUEST_URI"], body))
        start_response("200 OK", [("Content-Length", str(len(body)))])
        return [body]

    sent = b"".join(request for request, _ in pipeline)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(sent)), max_size=12)))
    answer = talk(app, *(sent[start:end] for start, end in zip([0, *cuts], [*cuts, len(sent)], strict=True)))
    expected = [(method, path, b"" if read == "nothing" else body) for _, (method, path, body) in pipeline]
    assert seen == expected
    assert answer.count(b"HTTP/1.1 200 OK\r\n") == len(pipeline)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(garbage=st.binary(max_size=200), where=st.integers(0, 60))
def test_garbage_never_becomes_a_traceback(talk: Talk, errors: Any, garbage: bytes, where: int) -> None:
    request = POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
    answer = talk(read_the_body, request[:where] + garbage + request[where:])
    assert answer == b"" or answer.startswith(b"HTTP/1.1 ")
    assert errors() == []


@pytest.mark.parametrize("cut", ["whole", "bytewise"])
@pytest.mark.parametrize(
    "body",
    [
        b"5 ;a=c\r\nhello\r\n0\r\n\r\n",
        b"5; a; b=c\r\nhello\r\n0 ; last\r\n\r\n",
        b"5\t;\ta \t=\t c ; b\r\nhello\r\n0\r\n\r\n",
        b'5;a="x; \\" y";b\r\nhello\r\n0;q=""\r\nTrailer: t\r\n\r\n',
        b"2 ; a\r\nhe\r\n3 ;b = c\r\nllo\r\n000\r\n\r\n",
    ],
)
def test_chunk_extensions_may_have_blanks_where_the_grammar_has_bws(talk: Talk, body: bytes, cut: str) -> None:
    sent = POST + b"Transfer-Encoding: chunked\r\n\r\n" + body + GET + b"Connection: close\r\n\r\n"
    answer = talk(read_the_body, *([sent] if cut == "whole" else [sent[i : i + 1] for i in range(len(sent))]))
    assert statuses(answer) == [200, 200]
    assert answer.count(b"\r\n\r\nhello") == 1


@pytest.mark.parametrize("method", ["LIST", "BAN", "RPC_IN_DATA", "M-SEARCH", "get", "DESCRIBE", "PRI", "A" * 300, "!#$%&'*+-.^_`|~"])
def test_any_token_is_a_method_and_its_body_is_framed_as_others(talk: Talk, method: str) -> None:
    seen: list[tuple[str, bytes]] = []

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        seen.append((environ["REQUEST_METHOD"], environ["wsgi.input"].read()))
        start_response("405 Method Not Allowed", [("Allow", "GET")])
        return []

    name = method.encode()
    sent = name + b" / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nX-New: 1\r\n\r\nhello"
    sent += name + b" /2 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
    sent += name + b" /3 HTTP/1.2\r\nHost: a\r\nConnection: close\r\n\r\n"
    assert statuses(talk(app, sent)) == [405, 405, 405]
    assert seen == [(method, b"hello"), (method, b"hello"), (method, b"")]


def test_a_later_minor_version_is_served_as_the_one_we_know(talk: Talk) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        return [environ["SERVER_PROTOCOL"].encode()]

    for minor in (2, 9):
        sent = b"GET / HTTP/1.%d\r\nHost: a\r\n\r\n" % minor
        answer = talk(app, sent + sent.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        assert statuses(answer) == [200, 200]
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert answer.count(b"HTTP/1.1") == 4
