"""What is accepted is what the RFCs' grammar says and nothing else, and no cut of the bytes changes that.

The grammar stands here a second time, as plain regular expressions without llhttp: two readings of one text that agree on any bytes are
the nearest thing to a proof that no proxy in front reads a request differently.
"""

import re
from itertools import pairwise
from typing import Any

import gevent
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from muxwsgi.http.h1.h1 import HTTP1
from muxwsgi.settings import HTTPSettings
from muxwsgi.testing import connection_pair
from tests.http.conftest import Talk, statuses
from tests.subscribed import subscribed

# RFC 9112 section 3: request-line, RFC 9110 section 5: field-line
TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
VALUE = rb"(?:[\t\x20-\x7e\x80-\xff]*)"
FIELD = rb"%b:%b\r\n" % (TOKEN, VALUE)
HEAD = re.compile(rb"%b [\x21\x22\x24-\x7e]+ HTTP/1\.[01]\r\n(?:%b)*\r\n" % (TOKEN, FIELD))

# RFC 9112 section 7.1: chunked-body. Quoted strings in extensions are held to visible characters, too.
EXTENSIONS = rb"(?:[ \t]*;[\t\x20-\x7e\x80-\xff]*)?"  # wider than the grammar's
SIZE_LINE = re.compile(rb"([0-9A-Fa-f]+)%b\r\n" % EXTENSIONS)
TRAILERS = re.compile(rb"(?:%b)*\r\n" % FIELD)


def decode_chunked(data: bytes) -> tuple[bytes, int] | None:
    """The body and the length of the message, None where it is malformed or incomplete."""
    body = b""
    at = 0
    while line := SIZE_LINE.match(data, at):
        at = line.end()
        size = int(line[1], 16)
        if size == 0:
            trailers = TRAILERS.match(data, at)
            return (body, trailers.end()) if trailers else None
        if data[at + size : at + size + 2] != b"\r\n":
            return None
        body += data[at : at + size]
        at += size + 2
    return None


def mutated(base: bytes, edits: list[tuple[int, int, bytes]]) -> bytes:
    data = bytearray(base)
    for at, drop, put in edits:
        at %= len(data) + 1
        data[at : at + drop] = put
    return bytes(data)


#: What attacks are made of, more often than chance would have it.
SPICE = st.sampled_from(
    [
        *(b"\r", b"\n", b"\r\n", b"\n\n", b"\r\r\n", b" ", b"\t", b"\x00", b"\x01", b"\x0b", b"\x0c", b"\x7f", b"\x80", b"\x85", b"\xff"),
        *(b":", b";", b",", b'"', b"#", b"/", b"-", b"+", b"_", b"0", b"1", b"x", b"0x", b"0\r\n\r\n", b"chunked", b" HTTP/1.1", b"\r\n "),
        *(b"\r\nContent-Length: 5", b"\r\nTransfer-Encoding: chunked", b"\r\nHost: b", b"\r\nX: y", b"\r\nTransfer_Encoding: chunked"),
    ]
)
EDITS = st.lists(st.tuples(st.integers(0, 400), st.integers(0, 3), SPICE | st.binary(max_size=3)), min_size=1, max_size=3)

CHUNKED_HEAD = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
CHUNKED_BODY = b"5\r\nhello\r\n1;a=b\r\n \r\n00a\r\n0\r\n\r\n0\r\n\r\n\r\n0;x\r\nX-Trailer: t\r\n\r\n"
BODIES = st.sampled_from([CHUNKED_BODY, b"5\r\nhello\r\n0\r\n\r\n", b"0\r\n\r\n", b'a;q="x"\r\n\r\n\r\n\r\n\r\n\r\n\r\n0\r\n\r\n'])

HEADS = st.sampled_from(
    [
        b"GET /path?query HTTP/1.1\r\nHost: example.org\r\nAccept: */*\r\nCookie: a=b\r\n\r\n",
        b"POST /form HTTP/1.1\r\nHost: example.org\r\nContent-Length: 5\r\nX-Name: \xe4\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a:80\r\nTransfer-Encoding: chunked\r\nTE: trailers\r\n\r\n",
        b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
        b"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org:443\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: a\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        b"GET http://[::1]:8080/x HTTP/1.1\r\nHost: [::1]:8080\r\n\r\n",
    ]
)

QUICK = settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@QUICK
@given(base=BODIES, edits=EDITS)
@example(base=b"0\r\n\r\n", edits=[(0, 0, b"\r\n")])
@example(base=b"5\r\nhello\r\n0\r\n\r\n", edits=[(1, 0, b"\r")])
@example(base=b"5\r\nhello\r\n0\r\n\r\n", edits=[(8, 1, b"")])
@example(base=b"5\r\nhello\r\n0\r\n\r\n", edits=[(11, 1, b"")])
@example(base=b"5\r\nhello\r\n0\r\n\r\n", edits=[(1, 0, b";a\rb")])
@example(base=b"5\r\nhello\r\n0\r\n\r\n", edits=[(13, 0, b"X: y\r\n z\r\n")])
def test_a_chunked_body_that_is_accepted_is_what_the_grammar_says(talk: Talk, base: bytes, edits: Any) -> None:
    following = b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n"
    sent = mutated(base, edits) + following
    got: list[bytes] = []

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        if environ["REQUEST_METHOD"] == "POST":
            got.append(environ["wsgi.input"].read())
        else:
            got.append(b"next")
        start_response("200 OK", [])
        return []

    talk(app, CHUNKED_HEAD + sent)
    if got:
        expected = decode_chunked(sent)
        assert expected is not None, f"accepted as {got!r}"
        body, length = expected
        assert got[0] == body
        if sent[length:] == following:
            assert got == [body, b"next"]


@QUICK
@given(base=HEADS, edits=EDITS)
@example(base=b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", edits=[(14, 1, b"")])
@example(base=b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", edits=[(23, 0, b"\r\nX: a\r")])
@example(base=b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", edits=[(23, 0, b"\r\nX\t: a")])
@example(base=b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", edits=[(23, 0, b"\r\nX: \x00")])
def test_a_head_that_is_accepted_is_what_the_grammar_says(talk: Talk, base: bytes, edits: Any) -> None:
    sent = mutated(base, edits)
    seen: list[dict[str, Any]] = []

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        seen.append(environ)
        start_response("200 OK", [("Connection", "close")])
        return []

    talk(app, sent)
    if not seen:
        return
    environ = seen[0]
    head = HEAD.match(sent.lstrip(b"\r\n"))
    assert head is not None
    lines = head[0].split(b"\r\n")[1:-2]
    fields = [(name.lower(), value.strip(b" \t")) for name, _, value in (line.partition(b":") for line in lines)]
    lengths = [value for name, value in fields if name == b"content-length"]
    codings = [value for name, value in fields if name == b"transfer-encoding"]
    hosts = [value for name, value in fields if name == b"host"]
    assert len(lengths) + len(codings) <= 1
    assert all(re.fullmatch(rb"[0-9]+", length) for length in lengths)
    assert all(coding.lower() == b"chunked" for coding in codings)
    assert len(hosts) == 1 or (not hosts and environ["SERVER_PROTOCOL"] == "HTTP/1.0")
    assert environ.get("CONTENT_LENGTH", "").encode() == b"".join(lengths)
    keys = {"HTTP_" + name.decode().upper().replace("-", "_") for name, _ in fields if b"_" not in name}
    keys -= {"HTTP_CONTENT_LENGTH", "HTTP_CONTENT_TYPE"}
    if environ["RAW_URI"].lower().startswith("http"):
        keys.add("HTTP_HOST")
    assert {key for key in environ if key.startswith("HTTP_")} == keys


def answer_to(sent: list[bytes]) -> list[tuple[str, Any]]:
    """What the application and the client see when `sent` arrives in these pieces, without the Date."""
    seen: list[tuple[str, Any]] = []

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        body = environ["wsgi.input"].read()
        seen.append(("app", (environ["REQUEST_METHOD"], environ["RAW_URI"], environ["PATH_INFO"], environ.get("HTTP_HOST"), body)))
        start_response("200 OK", [])
        return []

    server, client = connection_pair()
    events = subscribed(refused=lambda connection, refusal: seen.append(("refused", refusal.status)))
    engine = HTTP1(app, HTTPSettings(linger=0.05), events=events)

    def serve() -> None:
        try:
            engine(server)
        except OSError:
            pass
        server.finish()

    def send() -> None:
        try:
            for part in sent:
                client.sendall(part)
                gevent.sleep(0)
            client.shutdown(1)
        except OSError:
            pass

    serving, sending = gevent.spawn(serve), gevent.spawn(send)
    received = b""
    with gevent.Timeout(10):
        try:
            while data := client.recv():
                received += data
        except OSError:
            pass
        gevent.joinall([serving, sending])
    client.finish()
    seen.append(("client", list(statuses(received))))
    return seen


@QUICK
@given(base=HEADS, edits=EDITS, cuts=st.lists(st.integers(0, 400), max_size=6), bytewise=st.booleans())
@example(base=b"GET / HTTP/1.1\r\nTransfer-Encoding: gzip\r\nHost: a\r\n\r\n", edits=[(49, 0, b"\nX")], cuts=[], bytewise=True)
@example(base=b"BREW / HTTP/1.1\r\nHost: a\r\n\r\n", edits=[(24, 0, b"\nX")], cuts=[], bytewise=True)
def test_no_cut_changes_what_is_seen_or_refused(base: bytes, edits: Any, cuts: list[int], bytewise: bool) -> None:
    sent = mutated(base, edits) + b"hello" + b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n"
    points = range(len(sent) + 1) if bytewise else [0, *sorted(cut % len(sent) for cut in cuts), len(sent)]
    pieces = [sent[start:end] for start, end in pairwise(points)]
    assert answer_to(pieces) == answer_to([sent])
