"""The WSGI side: PEP 3333 from the application's point of view, and what its mistakes cost."""

import io
import logging
import os
import re
import socket
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from wsgiref.validate import validator

import gevent
import gevent.event
import pytest

from muxwsgi.errors import PeerError
from muxwsgi.http.h1.h1 import HTTP1
from muxwsgi.settings import HTTPSettings
from muxwsgi.testing import connection_pair
from tests.http.conftest import Talk, hello, statuses
from tests.subscribed import subscribed

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
HEAD = b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n"
GET10 = b"GET / HTTP/1.0\r\n\r\n"


def post(body: bytes, *fields: bytes) -> bytes:
    extra = b"".join(field + b"\r\n" for field in fields)
    return b"POST /form?q=1 HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n%b\r\n%b" % (len(body), extra, body)


class Result:
    """An iterable that counts how often it is closed."""

    def __init__(self, *chunks: bytes, error: Exception | None = None) -> None:
        self.chunks = chunks
        self.error = error
        self.closed = 0

    def __iter__(self) -> Iterator[bytes]:
        yield from self.chunks
        if self.error is not None:
            raise self.error

    def close(self) -> None:
        self.closed += 1


def app_of(result: Any, status: str = "200 OK", headers: list[tuple[str, str]] | None = None) -> Callable[..., Any]:
    def app(environ: dict[str, Any], start_response: Any) -> Any:
        start_response(status, headers or [])
        return result

    return app


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
def test_the_standard_validator_finds_nothing(talk: Talk, errors: Any, method: str) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        assert type(environ) is dict
        body = environ["wsgi.input"].read(4) + environ["wsgi.input"].readline() + b"".join(environ["wsgi.input"])
        text = b"" if method == "HEAD" else b"%d bytes" % len(body)
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(text)))])
        return [text]

    request = method.encode() + b" /a%20b?c=d HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\nContent-Type: text/plain\r\n\r\nhello\nworld"
    star = b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n"
    assert statuses(talk(validator(app), request + request + star)) == [200, 200, 200]
    assert errors() == []


def test_the_environ_says_what_the_request_says(talk: Talk) -> None:
    seen: dict[str, Any] = {}

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        seen.update(environ)
        return hello(environ, start_response)

    talk(
        app,
        b"GET /caf%C3%A9%2F?q=%20x HTTP/1.1\r\nHost: example.org:8080\r\nX-Twice: 1\r\nx-twice: 2\r\nCookie: a=1\r\nCookie: b=2\r\n"
        b"Content-Type: text/plain\r\nX_Forged: no\r\nX-Space:   padded \t\r\n\r\n",
    )
    assert seen["REQUEST_METHOD"] == "GET"
    assert seen["PATH_INFO"] == "/caf\xc3\xa9/"
    assert seen["QUERY_STRING"] == "q=%20x"
    assert seen["REQUEST_URI"] == seen["RAW_URI"] == "/caf%C3%A9%2F?q=%20x"
    assert seen["SCRIPT_NAME"] == ""
    assert seen["SERVER_PROTOCOL"] == "HTTP/1.1"
    assert seen["HTTP_HOST"] == "example.org:8080"
    assert seen["HTTP_X_TWICE"] == "1, 2"
    assert seen["HTTP_COOKIE"] == "a=1; b=2"
    assert seen["CONTENT_TYPE"] == "text/plain" and "HTTP_CONTENT_TYPE" not in seen
    assert seen["HTTP_X_SPACE"] == "padded"
    assert "HTTP_X_FORGED" not in seen
    assert seen["wsgi.url_scheme"] == "http" and "HTTPS" not in seen
    assert seen["REMOTE_ADDR"] == "memory" and seen["REMOTE_PORT"] == "1"
    assert "wsgi.input_terminated" not in seen
    assert all(isinstance(value, str) for key, value in seen.items() if "." not in key)


def test_an_absolute_target_overrules_the_host_field(talk: Talk) -> None:
    seen: dict[str, Any] = {}

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        seen.update(environ)
        return hello(environ, start_response)

    talk(app, b"GET http://real.example:81/path?x HTTP/1.1\r\nHost: fake.example\r\n\r\n")
    assert (seen["HTTP_HOST"], seen["PATH_INFO"], seen["QUERY_STRING"]) == ("real.example:81", "/path", "x")
    assert seen["REQUEST_URI"] == "http://real.example:81/path?x"
    talk(app, b"GET http://real.example/ HTTP/1.0\r\n\r\n")
    assert seen["HTTP_HOST"] == "real.example"
    talk(app, b"GET https://real.example HTTP/1.1\r\nHost: fake.example\r\n\r\n")
    assert seen["PATH_INFO"] == "/"


# What goes out


def test_head_and_first_chunk_leave_in_one_write(monkeypatch: pytest.MonkeyPatch, talk: Talk) -> None:
    from muxwsgi.wire.memory import MemoryTransport

    writes: list[bytes] = []
    original = MemoryTransport.sendall

    def spy(self: MemoryTransport, data: bytes, timeout: float | None) -> None:
        if bytes(data[:4]) == b"HTTP" or writes:
            writes.append(bytes(data))
        original(self, data, timeout)

    monkeypatch.setattr(MemoryTransport, "sendall", spy)
    talk(app_of([b"one", b"two"]), GET)
    assert len(writes) == 1 and writes[0].endswith(b"\r\n\r\nonetwo")
    writes.clear()
    talk(app_of(Result(b"one", b"two")), GET)
    assert len(writes) == 3 and writes[0].endswith(b"\r\n\r\n3\r\none\r\n")


@pytest.mark.parametrize("result", [[b"hello"], (b"hello",), [b"he", b"llo"], [b"", b"hello", b""]])
def test_a_known_length_is_stated_and_never_chunked(talk: Talk, result: Any) -> None:
    answer = talk(app_of(result), GET + GET)
    assert statuses(answer) == [200, 200]
    assert answer.count(b"\r\nContent-Length: 5\r\n") == 2
    assert b"chunked" not in answer
    assert answer.count(b"\r\n\r\nhello") == 2


def test_a_list_of_many_large_chunks_has_its_length(talk: Talk) -> None:
    chunks = [b"%d" % number * 50_000 for number in range(9)]
    answer = talk(app_of(chunks), GET + HEAD + GET)
    assert statuses(answer) == [200, 200, 200]
    assert answer.count(b"\r\nContent-Length: 450000\r\n") == 3 and b"chunked" not in answer
    assert answer.count(b"\r\n\r\n" + b"".join(chunks)) == 2


def test_a_chunk_of_a_subclass_of_bytes_is_bytes(talk: Talk) -> None:
    class Marked(bytes):
        pass

    for result in ([Marked(b"hello")], [Marked(b"he"), b"llo"], iter([Marked(b"hello")])):
        assert b"hello" in talk(app_of(result), GET)


@pytest.mark.parametrize("result", [[], [b""], iter(())])
def test_an_empty_body_has_length_0(talk: Talk, result: Any) -> None:
    answer = talk(app_of(result), GET)
    assert b"\r\nContent-Length: 0\r\n" in answer and answer.endswith(b"\r\n\r\n")


def test_an_unknown_length_is_chunked_in_1_1_and_ends_with_the_connection_in_1_0(talk: Talk) -> None:
    result = Result(b"one", b"", b"two")
    answer = talk(app_of(result), GET)
    assert b"\r\nTransfer-Encoding: chunked\r\n" in answer
    assert answer.endswith(b"\r\n\r\n3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n")
    assert result.closed == 1
    answer = talk(app_of(Result(b"one", b"two")), b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n" + GET10)
    assert b"chunked" not in answer and b"\r\nConnection: close\r\n" in answer and answer.endswith(b"onetwo")


def test_http_1_0_keeps_alive_only_when_asked(talk: Talk) -> None:
    assert statuses(talk(hello, GET10 + GET10)) == [200]
    kept = b"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n"
    answer = talk(hello, kept + kept + GET10)
    assert statuses(answer) == [200, 200, 200]
    assert answer.count(b"\r\nConnection: keep-alive\r\n") == 2


def test_connection_close_is_honoured_from_both_sides(talk: Talk) -> None:
    assert statuses(talk(hello, b"GET / HTTP/1.1\r\nHost: a\r\nConnection: foo, Close\r\n\r\n" + GET)) == [200]
    answer = talk(app_of([b"x"], headers=[("Connection", "close")]), GET + GET)
    assert statuses(answer) == [200] and answer.count(b"\r\nConnection: close\r\n") == 1


def test_keep_alive_0_closes_after_each_response(talk: Talk) -> None:
    answer = talk(hello, GET + GET, settings=HTTPSettings(keep_alive=0, linger=0.05))
    assert statuses(answer) == [200] and b"\r\nConnection: close\r\n" in answer


def test_a_2xx_to_connect_without_takeover_ends_the_connection(talk: Talk) -> None:
    connect = b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n"
    assert statuses(talk(hello, connect + GET)) == [200], "what the client sends into its tunnel is no request"
    assert statuses(talk(app_of([b"no"], "405 Method Not Allowed"), connect + GET)) == [405, 405]


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
def test_statuses_without_a_body_have_none(talk: Talk, status: str) -> None:
    for result in ([b"never sent"], Result(b"never", b"sent"), []):
        answer = talk(app_of(result, status), GET + GET)
        assert statuses(answer) == [int(status[:3])] * 2
        assert b"never" not in answer and b"chunked" not in answer
        assert not status.startswith("204") or b"Content-Length" not in answer


def test_head_has_the_head_of_get_and_no_body(talk: Talk) -> None:
    for result in ([b"hello"], Result(b"hello")):
        answer = talk(app_of(result, headers=[("Content-Length", "5")]), HEAD + HEAD)
        assert statuses(answer) == [200, 200]
        assert answer.count(b"\r\nContent-Length: 5\r\n") == 2 and b"hello" not in answer
    assert b"hello" not in talk(app_of(Result(b"hello")), HEAD)


def test_head_does_not_run_an_endless_body(talk: Talk) -> None:
    class Endless(Result):
        def __iter__(self) -> Iterator[bytes]:
            while True:
                yield b"x"

    result = Endless()
    assert statuses(talk(app_of(result), HEAD)) == [200]
    assert result.closed == 1


def test_a_generator_is_streamed_as_it_yields(talk: Talk) -> None:
    from muxwsgi.http.h1.h1 import HTTP1
    from muxwsgi.testing import connection_pair

    gate = gevent.event.Event()

    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield b"first"
        gate.wait()
        yield b"second"

    server, client = connection_pair()
    serving = gevent.spawn(HTTP1(app, HTTPSettings()), server)
    client.sendall(GET)
    with gevent.Timeout(5):
        received = b""
        while b"first" not in received:
            received += client.recv()
        assert b"second" not in received
        gate.set()
        while not received.endswith(b"0\r\n\r\n"):
            received += client.recv()
    client.close()
    serving.get(timeout=5)
    server.finish()


def test_write_sends_at_once_and_the_result_follows(talk: Talk) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        write = start_response("200 OK", [("Content-Length", "9")])
        write(b"one")
        write(b"two")
        return [b"end"]

    answer = talk(app, GET + GET)
    assert statuses(answer) == [200, 200] and answer.count(b"\r\n\r\nonetwoend") == 2


def test_server_and_date_are_added_unless_the_application_has_them(talk: Talk) -> None:
    answer = talk(hello, GET)
    assert b"\r\nServer: muxwsgi\r\n" in answer and b"\r\nDate: " in answer
    answer = talk(app_of([], headers=[("server", "mine"), ("DATE", "today")]), GET)
    assert answer.count(b"erver: ") == 1 and answer.lower().count(b"\r\ndate: ") == 1
    assert b"\r\nServer" not in talk(hello, GET, settings=HTTPSettings(server_header=""))


def test_hop_by_hop_fields_of_the_application_are_dropped(talk: Talk) -> None:
    headers = [("Transfer-Encoding", "chunked"), ("Keep-Alive", "timeout=9"), ("Upgrade", "x"), ("TE", "trailers"), ("X-Kept", "1")]
    answer = talk(app_of([b"hello"], headers=headers), GET)
    assert b"chunked" not in answer and b"Keep-Alive" not in answer and b"Upgrade" not in answer
    assert b"\r\nX-Kept: 1\r\n" in answer


# What goes in


def test_input_reads_as_a_file(talk: Talk) -> None:
    body = b"line one\nline two\nand the rest"
    results: list[Any] = []

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        source = environ["wsgi.input"]
        results.append([source.readline(), source.readline(4), source.read(5), source.readlines(), source.read(), source.read(5)])
        return hello(environ, start_response)

    chunked = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + b"".join(
        b"%x\r\n%b\r\n" % (len(body[i : i + 7]), body[i : i + 7]) for i in range(0, len(body), 7)
    )
    assert statuses(talk(app, post(body) + chunked + b"0\r\n\r\n" + post(body))) == [200, 200, 200]
    expected = [b"line one\n", b"line", b" two\n", [b"and the rest"], b"", b""]
    assert results == [expected] * 3


@pytest.mark.parametrize("size", [-1, None, 0, 5], ids=["all", "None", "its size", "and five more"])
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_a_large_body_that_is_read_whole_is_in_memory_once(chunked: bool, size: int | None) -> None:
    length = 30_000_000
    block = bytes(50_000)
    peaks: list[int] = []

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        source = environ["wsgi.input"]
        first = source.read(7)
        body = source.read(size if size is None or size < 0 else length - 7 + size)
        peaks.append(tracemalloc.get_traced_memory()[1])
        assert len(first) + len(body) == length and source.read() == b""
        return hello(environ, start_response)

    server, client = connection_pair()
    serving = gevent.spawn(HTTP1(app, HTTPSettings(linger=0.05)), server)
    tracemalloc.start()
    try:
        with gevent.Timeout(60):
            if chunked:
                client.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
            else:
                client.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % length)
            for _ in range(length // len(block)):
                client.sendall(b"%x\r\n%b\r\n" % (len(block), block) if chunked else block)
            client.sendall(b"0\r\n\r\n" if chunked else b"")
            client.shutdown(socket.SHUT_WR)
            assert statuses(client.recv()) == [200]
            serving.get()
    finally:
        tracemalloc.stop()
        client.finish()
        server.finish()
    assert length <= peaks[0] < 1.3 * length


def test_a_read_that_the_application_gives_up_loses_nothing() -> None:
    seen: list[bytes] = []

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        source = environ["wsgi.input"]
        with pytest.raises(gevent.Timeout), gevent.Timeout(0.05):
            source.read()
        sent.set()
        seen.append(source.readline() + source.read())
        return hello(environ, start_response)

    sent = gevent.event.Event()
    server, client = connection_pair()
    serving = gevent.spawn(HTTP1(app, HTTPSettings(linger=0.05)), server)
    with gevent.Timeout(20):
        client.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\none\n")
        sent.wait()
        client.sendall(b"three")
        client.shutdown(socket.SHUT_WR)
        assert statuses(client.recv()) == [200]
        serving.get()
    client.finish()
    server.finish()
    assert seen == [b"one\nthree"]


@pytest.mark.parametrize("framing", [b"Content-Length: 6\r\n\r\nabcdef", b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n"])
def test_an_input_is_said_to_be_terminated_where_no_length_says_it(talk: Talk, framing: bytes) -> None:
    said: list[Any] = []

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        said.append((environ.get("wsgi.input_terminated"), environ["wsgi.input"].read()))
        return hello(environ, start_response)

    assert statuses(talk(app, b"POST / HTTP/1.1\r\nHost: a\r\n" + framing)) == [200]
    assert said == [(True, b"a") if b"chunked" in framing else (None, b"abcdef")]


def test_a_304_has_no_length_but_the_one_that_the_application_states(talk: Talk) -> None:
    made = talk(app_of([b"not modified"], "304 Not Modified"), GET + GET)
    assert statuses(made) == [304, 304] and b"Content-Length" not in made and b"not modified" not in made
    stated = talk(app_of([b"not modified"], "304 Not Modified", [("Content-Length", "5000")]), GET + GET)
    assert statuses(stated) == [304, 304] and stated.count(b"Content-Length: 5000\r\n") == 2


def test_a_304_of_a_file_has_no_length(talk: Talk, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 5000)

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("304 Not Modified", [])
        return environ["wsgi.file_wrapper"]((tmp_path / "file").open("rb"))

    answer = talk(app, GET + GET)
    assert statuses(answer) == [304, 304] and b"Content-Length" not in answer


def test_a_426_says_what_to_upgrade_to(talk: Talk) -> None:
    headers = [("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Keep-Alive", "timeout=9")]
    answer = talk(app_of([b"upgrade first"], "426 Upgrade Required", headers), GET + GET)
    assert statuses(answer) == [426, 426]
    assert answer.count(b"\r\nUpgrade: websocket\r\nConnection: upgrade\r\n") == 2 and b"Keep-Alive" not in answer


@pytest.mark.parametrize(
    ("header", "names"),
    [
        (("X-City", "Łódź"), "'X-City'.*latin-1.*'Ł'"),
        (("X-Word", "caf\u00e9 \u20ac"), "'X-Word'.*latin-1.*'€'"),
        (("Content-Length", 5), "'Content-Length' is a string, not int: 5"),
        (("Content-Length", None), "'Content-Length' is a string, not NoneType"),
        (("Content-Length", "5 bytes"), "Content-Length is '5 bytes'"),
        (("Connection", b"close"), "'Connection' is a string, not bytes"),
        (("X-Raw", b"bytes"), "'X-Raw' is a string, not bytes: b'bytes'"),
        ((b"X-Raw", "text"), "not bytes: b'X-Raw'"),
        (("Upgrade", 1), "'Upgrade' is a string, not int"),
        (("X-One",), r"not \('X-One',\)"),
        ("Content-Type", "not 'Content-Type'"),
        (7, "not 7"),
    ],
)
def test_what_is_wrong_with_a_header_is_said_with_its_name(talk: Talk, header: Any, names: str) -> None:
    said: list[str] = []

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        with pytest.raises((TypeError, ValueError)) as raised:
            start_response("200 OK", [("Content-Type", "text/plain"), header])
        said.append(str(raised.value))
        return hello(environ, start_response)

    assert statuses(talk(app, GET)) == [200]
    assert re.search(names, said[0]), said[0]


@pytest.mark.parametrize("where", ["interim", "trailer"])
def test_a_value_beyond_latin_1_is_said_with_its_name_elsewhere_too(talk: Talk, where: str) -> None:
    said: list[str] = []

    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        response = environ["muxwsgi.response"]
        if where == "interim":
            with pytest.raises(ValueError) as raised:
                response.informational(103, "Early Hints", [("X-City", "Łódź")])
            said.append(str(raised.value))
        start_response("200 OK", [])
        yield b"body"
        if where == "trailer":
            response.trailers = [("X-City", "Łódź")]

    log: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: log.append(str(record.exc_info[1]) if record.exc_info else "")  # type: ignore[method-assign]
    logging.getLogger("muxwsgi.error").addHandler(handler)
    try:
        talk(app, GET)
    finally:
        logging.getLogger("muxwsgi.error").removeHandler(handler)
    assert "'X-City'" in (said or log)[0] and "latin-1" in (said or log)[0]


def test_trailers_stand_apart_from_the_fields(talk: Talk) -> None:
    seen: list[Any] = []

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        assert environ["muxwsgi.trailers"] == {}
        environ["wsgi.input"].read()
        seen.append((dict(environ["muxwsgi.trailers"]), environ.get("HTTP_X_SUM"), environ.get("HTTP_AUTHORIZATION")))
        return hello(environ, start_response)

    request = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nX-Sum: 42\r\nAuthorization: no\r\n\r\n"
    assert statuses(talk(app, request)) == [200]
    assert seen[0] == ({"X-Sum": "42"}, None, None)


def test_100_is_sent_when_the_application_reads_and_not_before(talk: Talk) -> None:
    def reads(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        assert environ["wsgi.input"].read() == b"hello"
        return hello(environ, start_response)

    asked = post(b"hello", b"Expect: 100-continue")
    head, body = asked[:-5], asked[-5:]
    answer = talk(reads, head, body)
    assert statuses(answer) == [100, 200] or statuses(answer) == [200]  # not sent where the body is there already
    answer = talk(hello, head, end=True)
    assert statuses(answer) == [200]
    assert b"\r\nConnection: close\r\n" in answer, "whether a body follows is not known: no next request can be told from it"


def test_100_goes_out_before_the_body_comes() -> None:
    from muxwsgi.http.h1.h1 import HTTP1
    from muxwsgi.testing import connection_pair

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        environ["wsgi.input"].read()
        return hello(environ, start_response)

    server, client = connection_pair()
    serving = gevent.spawn(HTTP1(app, HTTPSettings()), server)
    with gevent.Timeout(5):
        client.sendall(post(b"", b"Expect: 100-continue").replace(b"Content-Length: 0", b"Content-Length: 5"))
        assert client.recv() == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(b"hello" + GET)
        received = b""
        while received.count(b"hello") < 2:
            received += client.recv()
    assert statuses(received) == [200, 200]
    client.close()
    serving.get(timeout=5)
    server.finish()


def test_a_body_that_comes_unasked_keeps_the_connection_alive(talk: Talk) -> None:
    def reads(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        assert environ["wsgi.input"].read() == b"hello"
        return hello(environ, start_response)

    both = post(b"hello", b"Expect: 100-continue") * 2
    assert statuses(talk(reads, both)) == [200, 200]


def test_repeated_trailers_are_joined(talk: Talk) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        environ["wsgi.input"].read()
        start_response("200 OK", [])
        return [repr(environ["muxwsgi.trailers"]).encode()]

    request = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: 1\r\nX: 2\r\nX_Y: no\r\n\r\n"
    assert b"{'X': '1, 2'}" in talk(app, request)


@pytest.mark.parametrize("size", [1, 3, 1000, 8191, 8192, 65536, 100_000, -1])
def test_reads_of_any_size_give_the_same_body(talk: Talk, size: int) -> None:
    body = os.urandom(150_000).replace(b"\n", b"\r\n\r\n")

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        parts = []
        while part := environ["wsgi.input"].read(size):
            parts.append(part)
        assert all(len(part) == size for part in parts[:-1])
        assert b"".join(parts) == body
        return hello(environ, start_response)

    chunked = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + b"".join(
        b"%x\r\n%b\r\n" % (len(body[i : i + 7001]), body[i : i + 7001]) for i in range(0, len(body), 7001)
    )
    assert statuses(talk(app, post(body) + chunked + b"0\r\n\r\n" + post(body))) == [200, 200, 200]


def test_a_body_that_breaks_off_is_the_oserror_that_frameworks_expect(talk: Talk, errors: Any) -> None:
    from werkzeug.exceptions import ClientDisconnected
    from werkzeug.wrappers import Request

    seen: list[type[BaseException]] = []

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        try:
            return [Request(environ).get_data()]
        except Exception as error:
            seen.append(type(error))
            raise

    assert statuses(talk(app, post(b"hello").replace(b"Length: 5", b"Length: 9"))) == [400]
    assert issubclass(seen[0], (OSError, ClientDisconnected))
    assert errors() == []


def test_a_body_that_nobody_read_does_not_disturb_the_next_request(talk: Talk) -> None:
    assert statuses(talk(hello, post(b"x" * 1000) + GET)) == [200, 200]
    assert statuses(talk(hello, post(b"x" * 1_000_000) + GET)) == [200], "too much to read for nothing: closed"


# Mistakes


def fails_before(environ: dict[str, Any], start_response: Any) -> Any:
    raise LookupError("before the head")


def fails_between(environ: dict[str, Any], start_response: Any) -> Any:
    start_response("200 OK", [("Content-Length", "5")])
    raise LookupError("after start_response")


def never_starts(environ: dict[str, Any], start_response: Any) -> Any:
    return [b"hello"]


def returns_nothing(environ: dict[str, Any], start_response: Any) -> Any:
    start_response("200 OK", [])


def exits(environ: dict[str, Any], start_response: Any) -> Any:
    raise SystemExit(3)


def times_out(environ: dict[str, Any], start_response: Any) -> Any:
    raise gevent.Timeout(1)


def injects(environ: dict[str, Any], start_response: Any) -> Any:
    start_response("200 OK", [("X", "a\r\nSet-Cookie: b")])
    return []


def injects_into_the_status(environ: dict[str, Any], start_response: Any) -> Any:
    start_response("200 OK\r\nX: y", [])
    return []


def controls(environ: dict[str, Any], start_response: Any) -> Any:
    start_response("200 OK", [("X", "a\x01b")])
    return []


def number_as_value(environ: dict[str, Any], start_response: Any) -> Any:
    start_response("200 OK", [("Content-Length", 5)])
    return [b"hello"]


def bytes_as_value(environ: dict[str, Any], start_response: Any) -> Any:
    start_response("200 OK", [("X", b"a")])
    return []


def text_among_bytes(environ: dict[str, Any], start_response: Any) -> Any:
    start_response("200 OK", [])
    return [b"bytes", "text"]


def bad_name(environ: dict[str, Any], start_response: Any) -> Any:
    start_response("200 OK", [("X Y", "a")])
    return []


def bad_length(environ: dict[str, Any], start_response: Any) -> Any:
    start_response("200 OK", [("Content-Length", "-1")])
    return []


def two_lengths(environ: dict[str, Any], start_response: Any) -> Any:
    start_response("200 OK", [("Content-Length", "1"), ("content-length", "2")])
    return []


def informational(environ: dict[str, Any], start_response: Any) -> Any:
    start_response("101 Switching Protocols", [])
    return []


def starts_twice(environ: dict[str, Any], start_response: Any) -> Any:
    start_response("200 OK", [])
    start_response("201 Created", [])
    return []


def text_body(environ: dict[str, Any], start_response: Any) -> Any:
    start_response("200 OK", [])
    return ["text"]


def wide_header(environ: dict[str, Any], start_response: Any) -> Any:
    start_response("200 OK", [("X", "\u20ac")])
    return []


MISTAKES = [
    *(fails_before, fails_between, never_starts, returns_nothing, exits, times_out, injects, injects_into_the_status, bad_name),
    *(bad_length, two_lengths, informational, starts_twice, text_body, wide_header, controls, number_as_value, bytes_as_value),
    text_among_bytes,
]


@pytest.mark.parametrize("app", MISTAKES)
def test_a_mistake_before_the_head_is_a_logged_500_and_the_connection_goes_on(talk: Talk, errors: Any, app: Any) -> None:
    turns = iter([app, hello])
    answer = talk(lambda environ, start_response: next(turns)(environ, start_response), GET + GET)
    assert statuses(answer) == [500, 200], answer
    assert b"before the head" not in answer and b"Set-Cookie" not in answer
    assert len(errors()) == 1 and "application error in GET /" in errors()[0]


def test_an_exception_after_the_head_cuts_the_connection(talk: Talk, errors: Any) -> None:
    result = Result(b"part", error=LookupError("in the body"))
    answer = talk(app_of(result), GET + GET)
    assert statuses(answer) == [200] and b"part" in answer
    assert not answer.endswith(b"0\r\n\r\n"), "a client could take it for whole"
    assert result.closed == 1
    assert len(errors()) == 1


def test_a_response_of_1_0_that_broke_off_is_reset_so_that_nobody_takes_it_for_whole(errors: Any) -> None:
    from muxwsgi.http.h1.h1 import HTTP1
    from muxwsgi.wire.connection import Connection

    def serve(server: Connection) -> None:
        HTTP1(app_of(Result(b"part", error=LookupError("in the body"))), HTTPSettings())(server)
        server.finish()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        serving = gevent.spawn(serve, Connection.from_socket(listener.accept()[0]))
    client.sendall(GET10)
    serving.get(timeout=5)
    client.settimeout(5)
    with pytest.raises(ConnectionResetError), client:
        while client.recv(1000):
            pass
    assert len(errors()) == 1


def test_an_exception_in_close_does_not_spoil_a_complete_response(talk: Talk, errors: Any) -> None:
    class Bad(Result):
        def close(self) -> None:
            super().close()
            raise LookupError("in close")

    result = Bad(b"whole")
    assert statuses(talk(app_of(result), GET + GET)) == [200, 200]
    assert result.closed == 2 and len(errors()) == 2


def test_exc_info_replaces_a_head_that_is_not_sent_and_raises_after_it(talk: Talk, errors: Any) -> None:
    import sys

    def replaces(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [("X-First", "1")])
        try:
            raise LookupError
        except LookupError:
            start_response("503 Busy", [("X-Second", "2")], sys.exc_info())
        return [b"sorry"]

    def too_late(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield b"part"
        try:
            raise LookupError("too late")
        except LookupError:
            start_response("503 Busy", [], sys.exc_info())

    answer = talk(replaces, GET)
    assert statuses(answer) == [503] and b"X-First" not in answer and b"X-Second" in answer
    assert errors() == []
    assert statuses(talk(too_late, GET)) == [200]
    assert len(errors()) == 1


def test_a_body_longer_than_its_length_never_leaks_into_the_next_response(talk: Talk, errors: Any) -> None:
    for result in ([b"hello world"], Result(b"hello", b" world")):
        answer = talk(app_of(result, headers=[("Content-Length", "5")]), GET + GET)
        assert statuses(answer) == [200, 200]
        assert b"world" not in answer
    assert len(errors()) == 4


def test_an_endless_body_with_a_length_is_not_run_to_its_end(talk: Talk, errors: Any) -> None:
    class Endless(Result):
        def __iter__(self) -> Iterator[bytes]:
            while True:
                yield b"xx"

    result = Endless()
    answer = talk(app_of(result, headers=[("Content-Length", "3")]), GET + GET)
    assert statuses(answer) == [200, 200] and answer.count(b"\r\n\r\nxxx") == 2
    assert result.closed == 2 and len(errors()) == 2


def test_a_body_shorter_than_its_length_ends_the_connection(talk: Talk, errors: Any) -> None:
    for result in ([b"hell"], Result(b"he", b"ll"), []):
        assert statuses(talk(app_of(result, headers=[("Content-Length", "5")]), GET + GET)) == [200]
    assert len(errors()) == 3


@pytest.mark.parametrize("error", [None, LookupError("x"), BrokenPipeError("the application's own")])
def test_close_is_called_exactly_once(talk: Talk, error: Exception | None) -> None:
    result = Result(b"a", b"b", error=error)
    talk(app_of(result), GET)
    assert result.closed == 1


def test_an_oserror_of_the_application_is_the_applications(talk: Talk, errors: Any) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> Any:
        raise ConnectionRefusedError("its database")

    assert statuses(talk(app, GET)) == [500]
    assert len(errors()) == 1


def test_a_client_that_goes_away_is_no_error_of_the_application(errors: Any) -> None:
    from muxwsgi.http.h1.h1 import HTTP1
    from muxwsgi.testing import connection_pair

    class Endless(Result):
        def __iter__(self) -> Iterator[bytes]:
            while True:
                yield b"x" * 10_000

    result = Endless()
    server, client = connection_pair()
    serving = gevent.spawn(HTTP1(app_of(result), HTTPSettings(linger=0.05)), server)
    client.sendall(GET)
    client.recv()
    client.close()
    serving.join(timeout=5)
    assert serving.ready()
    assert result.closed == 1
    assert errors() == []
    server.finish()


# Files


def test_a_file_has_its_length_and_is_sent_by_the_kernel_on_a_plain_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from muxwsgi.wire.connection import Connection

    content = os.urandom(300_000)
    (tmp_path / "file").write_bytes(content)
    used: list[Any] = []

    by_kernel = os.sendfile

    def spy(*args: Any) -> int:
        used.append("sendfile")
        return by_kernel(*args)

    monkeypatch.setattr(os, "sendfile", spy)

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        file = (tmp_path / "file").open("rb")
        file.read(50)  # it stands elsewhere than its descriptor
        file.seek(100)
        start_response("200 OK", [])
        return environ["wsgi.file_wrapper"](file)

    left, right = socket.socketpair()
    def serve(server: Connection) -> None:
        HTTP1(app, HTTPSettings())(server)
        server.finish()

    for server, client in ((Connection.from_socket(left), Connection.from_socket(right)), connection_pair()):
        used.clear()
        plain = server.can_sendfile
        serving = gevent.spawn(serve, server)
        client.sendall(GET)
        client.shutdown(socket.SHUT_WR)
        with gevent.Timeout(5):
            received = b""
            while data := client.recv():
                received += data
        head, _, body = received.partition(b"\r\n\r\n")
        assert body == content[100:] and bool(used) == plain
        assert b"Content-Length: 299900" in head
        client.close()
        serving.get(timeout=5)
        server.finish()


def test_head_of_a_file_has_its_length(talk: Talk, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 5000)

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", [])
        return environ["wsgi.file_wrapper"]((tmp_path / "file").open("rb"))

    answer = talk(app, HEAD + HEAD)
    assert statuses(answer) == [200, 200] and answer.count(b"\r\nContent-Length: 5000\r\n") == 2 and b"xx" not in answer


def test_what_is_no_file_of_a_size_is_read(talk: Talk) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", [])
        return environ["wsgi.file_wrapper"](io.BytesIO(b"in memory"), 4)

    answer = talk(app, GET)
    assert b"chunked" in answer and answer.endswith(b"4\r\nin m\r\n4\r\nemor\r\n1\r\ny\r\n0\r\n\r\n")


# What is told to the log


def test_every_exchange_is_told_with_its_status_also_when_its_body_was_refused(talk: Talk, errors: Any) -> None:
    told: list[tuple[str, int]] = []

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        if environ["PATH_INFO"] == "/fails":
            raise LookupError
        environ["wsgi.input"].read()
        return hello(environ, start_response)

    broken = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"
    events = subscribed(exchange=lambda exchange: told.append((exchange.status, exchange.body_bytes)))
    talk(app, GET + GET.replace(b"/ ", b"/fails ") + HEAD + broken, events=events)
    assert told[:3] == [("200 OK", 5), ("500 Internal Server Error", 22), ("200 OK", 0)]
    assert told[3][0] == "400 Bad Request" and told[3][1] > 0


def test_a_peer_error_carries_its_status() -> None:
    assert PeerError(408, "late").status == 408


def test_a_long_pipeline_lets_others_have_their_turn() -> None:
    from muxwsgi.http.h1.h1 import HTTP1
    from muxwsgi.wire.connection import Connection

    left, right = socket.socketpair()
    server, client = Connection.from_socket(left), Connection.from_socket(right)
    turns = 0

    def other() -> None:
        nonlocal turns
        while True:
            gevent.sleep(0)
            turns += 1

    count = 200
    client.sendall(GET * count)
    client.shutdown(socket.SHUT_WR)
    counting = gevent.spawn(other)
    seen: list[int] = []

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        seen.append(turns)
        return hello(environ, start_response)

    serving = gevent.spawn(HTTP1(app, HTTPSettings(linger=0.05)), server)
    serving.get(timeout=10)
    counting.kill()
    assert len(seen) == count
    assert seen[-1] - seen[0] >= 4, "all of them were answered in one go"
    server.finish()
    client.finish()


def test_small_reads_of_a_large_body_are_exact(talk: Talk) -> None:
    body = os.urandom(100_000)
    received = bytearray()

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        sizes = [1, 7, 100, 8191, 8192, 20_000]
        while part := environ["wsgi.input"].read(sizes[len(received) % len(sizes)]):
            received.extend(part)
        return hello(environ, start_response)

    assert statuses(talk(app, post(body) + GET.replace(b"GET", b"HEAD"))) == [200, 200]
    assert received == body
