"""What comes again is not parsed again, and fields whose names are known are read without llhttp: nobody can tell from what the application
sees."""

import re
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from muxwsgi.errors import PeerError
from muxwsgi.http.h1 import fields as fields_module
from muxwsgi.http.h1.fields import REMEMBERED_AT_MOST
from muxwsgi.http.h1.head import Head
from muxwsgi.settings import HTTPSettings

from .conftest import Talk, statuses
from .test_grammar import EDITS, HEADS, mutated

LIMITS = HTTPSettings()
SHARED = {"SCRIPT_NAME": "", "PATH_INFO": "", "RAW_URI": ""}

LINES = [
    *(b"GET / HTTP/1.1", b"GET /a?b=c HTTP/1.1", b"GET /%41 HTTP/1.1", b"GET / HTTP/1.0", b"HEAD / HTTP/1.1", b"POST /p HTTP/1.1"),
    *(b"GET http://other.example/ HTTP/1.1", b"CONNECT a:443 HTTP/1.1", b"OPTIONS * HTTP/1.1", b"BREW /pot HTTP/1.1", b"SETUP / HTTP/1.1"),
    *(b" /x HTTP/1.1", b"GET  HTTP/1.1", b"GET HTTP/1.1", b"GET / HTTP/1.2", b"GET /\x7f HTTP/1.1", b"GET /?a=?b HTTP/1.1", b"HTTP/1.1", b""),
    *(b"GET /#x HTTP/1.1", b"GET  / HTTP/1.1", b"GET /\x80 HTTP/1.1", b"GET /\"{|}\\^` HTTP/1.1", b"PATCH / HTTP/1.1", b"get / HTTP/1.1"),
]
BLOCKS = [
    *(b"Host: a\r\n\r\n", b"Host: b\r\nAccept: */*\r\n\r\n", b"\r\n", b"Host: a\r\nHost: a\r\n\r\n", b"Host: a\r\nX_Y: 1\r\n\r\n"),
    *(b"Host: a\r\nConnection: close\r\n\r\n", b"Host: a\r\nConnection: keep-alive\r\n\r\n", b"Host: a\r\nContent-Length: 3\r\n\r\n"),
    *(b"Host: a\r\nTransfer-Encoding: chunked\r\n\r\n", b"Host: a\r\nTransfer-Encoding: gzip\r\n\r\n", b"Host: a\r\nCookie: a\r\nCookie: b\r\n\r\n"),
    *(b"Host: a\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n", b"Host: a\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"),
    *(b"Host: a\r\nCookie: 1\r\n\r\n", b"Host: a\r\nCookie: 2\r\n\r\n", b"Cookie: 3\r\nHost: b\r\n\r\n", b"Host: a\r\nConnection: Close\r\n\r\n"),
    *(b"Host: a\r\nContent-Length: %b\r\n\r\n" % length for length in (b"0", b"+1", b"1" * 18, b"1" * 19, b"\xb2", b"")),
    b"Host: a\r\nX: " + b"x" * REMEMBERED_AT_MOST + b"\r\n\r\n",
]


def said(head: Head, raw: bytes) -> Any:
    """Everything that `head` makes of `raw`, or the refusal."""
    try:
        environ = head.parse(raw)
    except PeerError as refusal:
        return refusal.status, refusal.reason
    environ["muxwsgi.fields"] = list(environ["muxwsgi.fields"])  # two of these sequences are equal only where they are the same object
    return environ, head.method, head.minor, head.length, head.chunked, head.keep_alive, head.expects_continue


@given(st.text(st.characters(max_codepoint=255), max_size=12).map(lambda text: text.encode("latin-1")))
@settings(max_examples=400, deadline=None)
def test_a_line_of_the_usual_form_is_read_as_the_grammar_has_it(target: bytes) -> None:
    raw = b"GET " + target + b" HTTP/1.1\r\nHost: a\r\n\r\n"
    others = Head(LIMITS, dict(SHARED))
    others.parse(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n")  # so that it is not read by the short way
    assert said(Head(LIMITS, dict(SHARED)), raw) == said(others, raw)


@given(st.lists(st.tuples(st.sampled_from(LINES), st.sampled_from(BLOCKS)), min_size=1, max_size=12))
@settings(max_examples=400, deadline=None)
def test_a_head_says_the_same_after_others_and_as_the_first(heads: list[tuple[bytes, bytes]]) -> None:
    one_after_the_other = Head(LIMITS, dict(SHARED))
    for line, block in heads:
        raw = line + b"\r\n" + block
        assert said(one_after_the_other, raw) == said(Head(LIMITS, dict(SHARED)), raw)


def one_head(data: bytes) -> bytes:
    """The first head in `data`, as the engine hands it on."""
    data = data.lstrip(b"\r\n")
    return data[: data.find(b"\r\n\r\n") + 4] if b"\r\n\r\n" in data else data + b"\r\n\r\n"


def by_llhttp(raw: bytes) -> Any:
    fields_module._KEYS.clear()  # a name that is not known is llhttp's business
    return said(Head(LIMITS, dict(SHARED)), raw)


@given(base=HEADS, edits=st.lists(EDITS, min_size=1, max_size=4))
@example(base=b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", edits=[[], [(20, 1, b"")], [(21, 1, b" \t")], [(23, 0, b" ")]])
@example(base=b"GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n\r\n", edits=[[], [], [(23, 2, b"\n")], [(26, 0, b" ")], [(29, 2, b"\r")]])
@example(base=b"GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n\r\n", edits=[[], [], [(28, 1, b"\x7f")], [(28, 1, b"\xff\t\x80")], [(28, 1, b"\0")]])
@example(base=b"GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n\r\n", edits=[[], [], [(25, 4, b"")], [(29, 2, b"\r\n z\r\n")], [(25, 0, b"X: 1\r\n")]])
@example(base=b"GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n\r\n", edits=[[], [], [(23, 2, b"\rZ")]])
@settings(max_examples=1000, deadline=None)
def test_fields_with_known_names_say_what_they_say_to_llhttp(base: bytes, edits: Any) -> None:
    heads = [base, base, *(one_head(mutated(base, some)) for some in edits), base]
    expected = [by_llhttp(raw) for raw in heads]
    by_llhttp(base)  # now its names are known
    one_after_the_other = Head(LIMITS, dict(SHARED))
    for raw, said_to_llhttp in zip(heads, expected, strict=True):
        assert said(one_after_the_other, raw) == said_to_llhttp
        assert said(Head(LIMITS, dict(SHARED)), raw) == said_to_llhttp


def test_llhttp_is_not_asked_for_fields_whose_names_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = b"GET /%d HTTP/1.1\r\nHost: a\r\nCookie: \t number=%d \r\nX_Dropped: %d\r\nContent-Length: %d\r\n\r\n"
    by_llhttp(raw % (1, 1, 1, 1))
    monkeypatch.setattr(fields_module, "HttpRequestParser", None)
    for head in (Head(LIMITS, dict(SHARED)), Head(LIMITS, dict(SHARED))):
        for number in range(5):
            environ = head.parse(raw % (number, number, number, number))
            assert (environ["HTTP_COOKIE"], environ["CONTENT_LENGTH"], head.length) == (f"number={number}", str(number), number)
            assert [key for key in environ if key.startswith("HTTP_")] == ["HTTP_HOST", "HTTP_COOKIE"]


def test_fields_that_are_many_or_long_are_refused_though_their_names_are_known() -> None:
    limits = HTTPSettings(limit_request_fields=3, limit_request_field_size=40)
    head = Head(limits, dict(SHARED))
    for _ in range(3):
        head.parse(b"GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\nY: 2\r\n\r\n")
    assert said(head, b"GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\nY: 2\r\nZ: 3\r\n\r\n")[0] == 431
    by_llhttp(b"GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\nY: 2\r\nZ: 3\r\n\r\n")
    assert said(head, b"GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\nY: 2\r\nZ: 3\r\n\r\n")[0] == 431
    for _ in range(3):
        head.parse(b"GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\n\r\n")
    assert said(head, b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"1" * 40 + b"\r\n\r\n")[0] == 431


def test_names_that_clients_invent_do_not_fill_the_memory() -> None:
    fields_module._KEYS.clear()
    head = Head(LIMITS, dict(SHARED))
    for number in range(20):
        name = b"%d" % number + b"n" * 4000
        for _ in range(3):
            environ = head.parse(b"GET / HTTP/1.1\r\nHost: a\r\nX-%d: 1\r\n" % number + name + b": 2\r\n\r\n")
            assert environ["HTTP_" + name.decode().upper()] == "2"
    assert sum(map(len, fields_module._KEYS)) < 200, "all that is remembered of names, over all connections"
    for number in range(5000):
        head.parse(b"GET / HTTP/1.1\r\nHost: a\r\nX-%d: 1\r\n\r\n" % number)
    assert len(fields_module._KEYS) <= 2048


def test_what_an_application_does_to_its_environ_is_not_there_next_time(talk: Talk) -> None:
    seen = []

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        seen.append((environ.get("HTTP_X"), environ.get("mine"), environ.get("HTTP_ACCEPT")))
        environ["HTTP_X"] = environ["mine"] = "changed"
        del environ["HTTP_ACCEPT"]
        start_response("200 OK", [])
        return [b""]

    answer = talk(app, b"GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\nAccept: b\r\n\r\n" * 4)
    assert statuses(answer) == [200] * 4
    assert seen == [("1", None, "b")] * 4


def test_what_an_application_does_to_its_headers_is_not_there_next_time(talk: Talk) -> None:
    headers = [("X", "1"), ("Content-Length", "0")]
    numbers = iter("2345")

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", headers)
        headers[0] = ("X", next(numbers))
        return []

    answer = talk(app, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 4)
    assert re.findall(rb"X: (.)", answer) == [b"1", b"2", b"3", b"4"]


class Loud(str):
    """Equal to a string, and says something else."""

    def __format__(self, spec: str) -> str:
        return self.upper()


@pytest.mark.parametrize("first", [0, 1])
def test_headers_that_are_only_equal_to_those_before_are_read_anew(talk: Talk, first: int) -> None:
    kinds = [str, Loud]

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [("X", kinds[int(environ["QUERY_STRING"])]("said")), ("Content-Length", "0")])
        return []

    answer = talk(app, b"".join(b"GET /?%d HTTP/1.1\r\nHost: a\r\n\r\n" % ((number + first) % 2) for number in range(4)))
    assert re.findall(rb"X: (\w+)", answer) == [[b"said", b"SAID"][(number + first) % 2] for number in range(4)]


def test_equal_headers_mean_the_same_for_each_request(talk: Talk) -> None:
    fields = [("Connection", "close"), ("Date", "today"), ("Server", "mine"), ("Content-Length", "2")]

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("204 No Content" if "204" in environ["PATH_INFO"] else "200 OK", fields[1:] if environ["QUERY_STRING"] else fields)
        return [b"ok"]

    asked = [b"GET /204?1", b"HEAD /?1", b"GET /?1", b"GET /204?1", b"HEAD /?1", b"GET /?1", b"GET /"]
    answer = talk(app, b"".join(b"%b HTTP/1.1\r\nHost: a\r\n\r\n" % line for line in asked))
    assert statuses(answer) == [204, 200, 200, 204, 200, 200, 200]
    assert answer.count(b"Content-Length: 2\r\n") == 5
    assert answer.count(b"Date: today\r\nServer: mine\r\n") == answer.count(b"Date:") == answer.count(b"Server:") == 7
    assert len(re.findall(rb"\r\n\r\nok", answer)) == 3
    assert answer.endswith(b"Connection: close\r\n\r\nok") and answer.count(b"Connection: close") == 1
    assert talk(app, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 2).count(b"Connection: close") == 1


def test_the_length_of_headers_that_were_refused_counts_for_nothing(talk: Talk) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        with pytest.raises(ValueError):
            start_response("200 OK", [("Content-Length", "1"), ("no name", "")])
        start_response("200 OK", [("X", "refused before")])
        return [b"three"]

    answer = talk(app, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 3)
    assert answer.count(b"Content-Length: 5\r\n") == answer.count(b"\r\n\r\nthree") == 3


def test_a_client_that_asked_for_the_close_reads_the_whole_answer_and_the_end(talk: Talk) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        return [b"x" * 100000]

    answer = talk(app, b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", end=False)
    assert re.search(rb"\r\n\r\nx{100000}\Z", answer)
