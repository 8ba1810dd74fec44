"""Fields that come again byte for byte are not parsed again: nobody can tell from what the application sees."""

import re
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from muxwsgi.errors import PeerError
from muxwsgi.http.head import REMEMBERED_AT_MOST, Head
from muxwsgi.settings import HTTPSettings

from .conftest import Talk, statuses

LIMITS = HTTPSettings()
SHARED = {"SCRIPT_NAME": "", "PATH_INFO": "", "RAW_URI": ""}

LINES = [
    *(b"GET / HTTP/1.1", b"GET /a?b=c HTTP/1.1", b"GET /%41 HTTP/1.1", b"GET / HTTP/1.0", b"HEAD / HTTP/1.1", b"POST /p HTTP/1.1"),
    *(b"GET http://other.example/ HTTP/1.1", b"CONNECT a:443 HTTP/1.1", b"OPTIONS * HTTP/1.1", b"BREW /pot HTTP/1.1", b"SETUP / HTTP/1.1"),
    *(b"GET /#x HTTP/1.1", b"GET  / HTTP/1.1", b"GET /\x80 HTTP/1.1", b"GET /\"{|}\\^` HTTP/1.1", b"PATCH / HTTP/1.1", b"get / HTTP/1.1"),
]
BLOCKS = [
    *(b"Host: a\r\n\r\n", b"Host: b\r\nAccept: */*\r\n\r\n", b"\r\n", b"Host: a\r\nHost: a\r\n\r\n", b"Host: a\r\nX_Y: 1\r\n\r\n"),
    *(b"Host: a\r\nConnection: close\r\n\r\n", b"Host: a\r\nConnection: keep-alive\r\n\r\n", b"Host: a\r\nContent-Length: 3\r\n\r\n"),
    *(b"Host: a\r\nTransfer-Encoding: chunked\r\n\r\n", b"Host: a\r\nTransfer-Encoding: gzip\r\n\r\n", b"Host: a\r\nCookie: a\r\nCookie: b\r\n\r\n"),
    *(b"Host: a\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n", b"Host: a\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"),
    b"Host: a\r\nX: " + b"x" * REMEMBERED_AT_MOST + b"\r\n\r\n",
]


def said(head: Head, raw: bytes) -> Any:
    """Everything that `head` makes of `raw`, or the refusal."""
    try:
        environ = head.parse(raw)
    except PeerError as refusal:
        return refusal.status, refusal.reason
    return environ, head.method, head.minor, head.length, head.chunked, head.keep_alive, head.expects_continue


@given(st.lists(st.tuples(st.sampled_from(LINES), st.sampled_from(BLOCKS)), min_size=1, max_size=12))
@settings(max_examples=400, deadline=None)
def test_a_head_says_the_same_after_others_and_as_the_first(heads: list[tuple[bytes, bytes]]) -> None:
    one_after_the_other = Head(LIMITS, dict(SHARED))
    for line, block in heads:
        raw = line + b"\r\n" + block
        assert said(one_after_the_other, raw) == said(Head(LIMITS, dict(SHARED)), raw)


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


def test_a_client_that_asked_for_the_close_reads_the_whole_answer_and_the_end(talk: Talk) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        return [b"x" * 100000]

    answer = talk(app, b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", end=False)
    assert re.search(rb"\r\n\r\nx{100000}\Z", answer)
