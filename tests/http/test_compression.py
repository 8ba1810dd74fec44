"""Compressed responses: for whom, of what, and what is on the wire before the body is complete."""

import os
import random
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import brotli
import gevent
import pytest
from hypothesis import given
from hypothesis import strategies as st

import muxwsgi
from muxwsgi.errors import OperatorError
from muxwsgi.http.compression import WHOLE_AT_MOST, Compression
from muxwsgi.http.content_coding import decoded
from muxwsgi.http.static.folder import StaticFiles
from muxwsgi.proxy import Proxy
from muxwsgi.settings import HTTPSettings, ResponseSettings, ServerSettings
from tests.http.conftest import Talk, client_of, read_all, statuses
from tests.http2.conftest import Dialogue
from tests.http2.conftest import talk as talk2  # noqa: F401  # a fixture
from tests.http2.frames import headers

ALL = ResponseSettings(compress="br,zstd,gzip")
TEXT = b"All work and no play makes Jack a dull boy. " * 100
HTML = [("Content-Type", "text/html; charset=utf-8")]


def fixed(body: Any, *fields: tuple[str, str], status: str = "200 OK", length: bool = True) -> Any:
    """An application with one response. `body` is bytes, for a list, or makes an iterable."""

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        own = [("Content-Length", str(len(body)))] if length and isinstance(body, bytes) else []
        start_response(status, [*(fields or HTML), *own])
        return [body] if isinstance(body, bytes) else body()

    return app


class Answer:
    """A response: `fields` by lower-case name, `body` without chunks, `text` decoded. `whole`: the framing has ended well."""

    def __init__(self, data: bytes) -> None:
        head, _, rest = data.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        self.status = lines[0].split()[1]
        self.fields: dict[str, str] = {}
        for line in lines[1:]:
            name, _, value = line.partition(": ")
            name = name.lower()
            assert name in ("vary", "cache-control") or name not in self.fields, f"{name} is repeated"
            self.fields[name] = f"{self.fields[name]}, {value}" if name in self.fields else value
        self.whole = True
        if self.fields.get("transfer-encoding") == "chunked":
            self.body = b""
            while True:
                size, _, rest = rest.partition(b"\r\n")
                if not size or size == b"0":
                    self.whole = size == b"0"
                    break
                self.body += rest[: int(size, 16)]
                rest = rest[int(size, 16) + 2 :]
        else:
            self.body = rest
            if "content-length" in self.fields and rest:
                self.whole = len(rest) == int(self.fields["content-length"])

    @property
    def coding(self) -> str | None:
        return self.fields.get("content-encoding")

    @property
    def text(self) -> bytes:
        if self.coding is None:
            return self.body
        pieces = decoded([self.body], self.coding)
        assert pieces is not None
        return b"".join(pieces)


@pytest.fixture
def get(talk: Talk) -> Callable[..., Answer]:
    def run(app: Any, *fields: str, method: str = "GET", settings: ResponseSettings = ALL, accept: str | None = "gzip", version: str = "1.1") -> Answer:
        lines = [f"{method} / HTTP/{version}", "Host: a", *fields]
        if accept is not None:
            lines.append(f"Accept-Encoding: {accept}")
        return Answer(talk(Compression(app, settings), "\r\n".join([*lines, "", ""]).encode()))

    return run


Get = Callable[..., Answer]


@pytest.mark.parametrize("coding", ["gzip", "br", "zstd"])
@pytest.mark.parametrize("length", [True, False])
def test_a_body_in_memory_is_compressed_and_has_its_new_length(get: Get, coding: str, length: bool) -> None:
    answer = get(fixed(TEXT, length=length), accept=coding)
    assert (answer.coding, answer.text) == (coding, TEXT)
    assert answer.fields["content-length"] == str(len(answer.body)) and len(answer.body) < len(TEXT) / 10
    assert answer.fields["vary"] == "Accept-Encoding"


def test_a_body_of_one_block_that_is_whole_has_its_new_length_too(get: Get) -> None:
    answer = get(fixed(lambda: iter([TEXT]), *HTML, ("Content-Length", str(len(TEXT)))))
    assert answer.text == TEXT and answer.fields["content-length"] == str(len(answer.body))


def test_a_client_that_does_not_ask_gets_the_body_as_it_is_with_vary(get: Get) -> None:
    for accept in (None, "", "identity", "gzip;q=0", "snappy", "gzip;q=0.1, identity;q=0.2"):
        answer = get(fixed(TEXT, *HTML, ("ETag", '"a"')), accept=accept)
        assert (answer.coding, answer.body, answer.fields["vary"], answer.fields["etag"]) == (None, TEXT, "Accept-Encoding", '"a"')


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ([("Content-Type", "image/png")], "200 OK"),
        ([("Content-Type", "application/zip")], "200 OK"),
        ([("Content-Type", "text/event-stream")], "200 OK"),
        ([("X-None", "no type")], "200 OK"),
        ([*HTML, ("Content-Encoding", "gzip")], "200 OK"),
        ([*HTML, ("Content-Encoding", "identity")], "200 OK"),
        ([*HTML, ("Cache-Control", "public, No-Transform")], "200 OK"),
        ([*HTML, ("Cache-Control", "public"), ("cache-control", "no-transform")], "200 OK"),
        ([*HTML, ("Content-Range", f"bytes 0-{len(TEXT) - 1}/9999")], "206 Partial Content"),
        ([*HTML, ("Repr-Digest", "sha-256=:x:")], "200 OK"),
        ([*HTML, ("Content-MD5", "x")], "200 OK"),
    ],
)
def test_what_is_never_compressed(get: Get, fields: Any, status: str) -> None:
    answer = get(fixed(TEXT, *fields, status=status))
    assert answer.body == TEXT and answer.fields["content-length"] == str(len(TEXT)) and "vary" not in answer.fields


@pytest.mark.parametrize("content_type", ["text/plain", "Application/JSON", "application/problem+json; a=b", "image/svg+xml", "text/x-anything"])
def test_types_that_are_compressed(get: Get, content_type: str) -> None:
    assert get(fixed(TEXT, ("Content-Type", content_type))).coding == "gzip"


def test_small_bodies_and_errors(get: Get) -> None:
    for length in (True, False):
        small = get(fixed(TEXT[:511], length=length))
        assert small.body == TEXT[:511] and small.coding is None
        assert get(fixed(TEXT[:512], length=length)).coding == "gzip"
    assert get(fixed(TEXT[:10]), settings=ResponseSettings(compress="gzip", compress_min_size=1)).text == TEXT[:10]
    assert get(fixed(TEXT, status="404 Not Found")).text == TEXT
    assert get(fixed(b"", length=False)).fields["content-length"] == "0"


def test_etag_vary_and_ranges_of_the_compressed_body(get: Get) -> None:
    fields = [*HTML, ("ETag", '"abc"'), ("Vary", "Cookie"), ("Accept-Ranges", "bytes")]
    answer = get(lambda environ, start: (start("200 OK", fields), [TEXT])[1])
    assert answer.fields["etag"] == 'W/"abc"' and "accept-ranges" not in answer.fields
    assert answer.fields["vary"] == "Cookie, Accept-Encoding"


@pytest.mark.parametrize(("vary", "expected"), [("Cookie", ["Cookie", "Accept-Encoding"]), ("*", ["*"]), ("cookie, accept-encoding", ["cookie, accept-encoding"])])
def test_vary_is_said_once(talk: Talk, vary: str, expected: list[str]) -> None:
    data = talk(Compression(fixed(TEXT, *HTML, ("Vary", vary)), ALL), b"GET / HTTP/1.1\r\nHost: a\r\nAccept-Encoding: br\r\n\r\n")
    assert [line[6:].decode() for line in data.partition(b"\r\n\r\n")[0].split(b"\r\n") if line.startswith(b"Vary: ")] == expected


def test_a_304_has_the_fields_that_the_200_would_have(get: Get) -> None:
    unchanged = fixed(b"", ("ETag", '"abc"'), status="304 Not Modified", length=False)
    assert get(unchanged).fields["etag"] == 'W/"abc"' and get(unchanged).fields["vary"] == "Accept-Encoding"
    assert get(unchanged, accept=None).fields["etag"] == '"abc"'
    assert get(fixed(b"", ("ETag", 'W/"abc"'), status="304 Not Modified", length=False)).fields["etag"] == 'W/"abc"'


@pytest.mark.parametrize("gives_body", [True, False])
@pytest.mark.parametrize("size", [100, 5000])
def test_head_has_the_fields_of_get(get: Get, gives_body: bool, size: int) -> None:
    body = bytes(size)

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", [*HTML, ("ETag", '"a"'), ("Content-Length", str(size))])
        return [body] if gives_body or environ["REQUEST_METHOD"] == "GET" else []

    of_get, of_head = get(app), get(app, method="HEAD")
    assert of_head.body == b"" and of_get.text == body
    for each in (of_get, of_head):
        each.fields.pop("date")
    length = of_get.fields.pop("content-length") if size == 5000 else None
    assert of_head.fields == of_get.fields and (length is None or "content-length" not in of_head.fields)


def test_head_of_a_stream_asks_for_no_more_than_the_first_block(get: Get) -> None:
    asked: list[int] = []

    def stream() -> Iterator[bytes]:
        while True:
            asked.append(1)
            yield TEXT

    answer = get(fixed(stream), method="HEAD")
    assert (answer.coding, answer.body, len(asked)) == ("gzip", b"", 1)


@pytest.mark.parametrize("coding", ["gzip", "br", "zstd"])
def test_each_block_of_a_stream_arrives_before_the_next_is_asked_for(coding: str) -> None:
    received = b""
    events = [b"data: %d\n\n" % number for number in range(4)]
    decoder: Any = {"gzip": lambda: zlib.decompressobj(31).decompress, "br": lambda: brotli.Decompressor().process}.get(coding, zstd_decoder)()

    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Type", "text/event-stream")])
        for number, event in enumerate(events):
            with gevent.Timeout(10):
                while received.count(b"\n\n") < number:
                    gevent.sleep(0)
            yield event

    types = ResponseSettings(compress=coding, compress_types="text/event-stream")
    with gevent.Timeout(20), client_of(Compression(app, types)) as client:
        client.sendall(f"GET / HTTP/1.0\r\nAccept-Encoding: {coding}\r\n\r\n".encode())
        data = b""
        while b"\r\n\r\n" not in data:
            data += client.recv()
        head, _, rest = data.partition(b"\r\n\r\n")
        assert f"Content-Encoding: {coding}".encode() in head
        while True:
            received += decoder(rest)
            if received == b"".join(events):
                break
            rest = client.recv()


def zstd_decoder() -> Any:
    from muxwsgi.http.content_coding import zstd_module

    module = zstd_module()
    assert module is not None
    return module.ZstdDecompressor().decompress


@given(st.lists(st.binary(max_size=3000), max_size=8), st.sampled_from(["gzip", "br", "zstd"]), st.sampled_from(["list", "iterator", "write", "lazy"]), st.booleans())
def test_any_body_in_any_blocks_comes_out_as_it_went_in(blocks: list[bytes], coding: str, how: str, length: bool) -> None:
    total = b"".join(blocks)
    fields = [*HTML, *([("Content-Length", str(len(total)))] if length else [])]

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        if how == "lazy":
            return lazy(start_response)
        write = start_response("200 OK", fields)
        if how == "write":
            for block in blocks:
                write(block)
            return []
        return blocks if how == "list" else iter(blocks)

    def lazy(start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", fields)
        yield from blocks

    answer = Answer(raw(Compression(app, ALL), f"GET / HTTP/1.1\r\nHost: a\r\nAccept-Encoding: {coding}\r\n\r\n".encode()))
    assert answer.text == total and answer.whole


def raw(app: Any, request: bytes) -> bytes:
    with gevent.Timeout(20), client_of(app, HTTPSettings(keep_alive=0, linger=0.05)) as client:
        client.sendall(request)
        return read_all(client)


@pytest.mark.parametrize("how", ["list", "iterator", "file"])
def test_a_large_body_is_streamed(get: Get, how: str, tmp_path: Path) -> None:
    body = random.Random(5).randbytes(WHOLE_AT_MOST) + bytes(WHOLE_AT_MOST)
    (tmp_path / "large").write_bytes(body)

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", [*HTML, ("Content-Length", str(len(body)))])
        if how == "file":
            return environ["wsgi.file_wrapper"](open(tmp_path / "large", "rb"))
        blocks = [body[: 1 << 20], body[1 << 20 :]]
        return blocks if how == "list" else iter(blocks)

    answer = get(app)
    assert answer.text == body and answer.fields["transfer-encoding"] == "chunked"


def test_others_have_turns_while_a_body_that_becomes_small_is_compressed(get: Get) -> None:
    """What is written fits into the socket, so nothing else waits."""
    turns = 0
    counted: list[int] = []

    def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            gevent.sleep(0)

    def blocks() -> Iterator[bytes]:
        for _ in range(100):
            counted.append(turns)
            yield bytes(65536)

    ticking = gevent.spawn(others)
    try:
        assert len(get(fixed(blocks), accept="zstd").text) == 6553600
    finally:
        ticking.kill()
    assert len(set(counted)) > 15


@pytest.mark.parametrize("how", ["short", "long", "fails", "text"])
def test_a_body_that_is_wrong_does_not_look_whole(get: Get, errors: Any, how: str) -> None:
    def blocks() -> Iterator[Any]:
        yield TEXT
        if how == "long":
            yield b"x" * 1000
        elif how == "fails":
            raise LookupError("in the middle")
        elif how == "text":
            yield "text"

    length = [("Content-Length", str(len(TEXT) + 10))] if how in ("short", "long") else []
    answer = get(fixed(blocks, *HTML, *length))
    assert not answer.whole and answer.coding == "gzip"
    (line,) = errors()
    assert "application error in GET /" in line


@pytest.mark.parametrize("difference", [-1, 1])
def test_a_list_that_is_not_as_long_as_its_length_is_sent_as_without_compression(get: Get, errors: Any, difference: int) -> None:
    answer = get(lambda environ, start: (start("200 OK", [*HTML, ("Content-Length", str(len(TEXT) + difference))]), [TEXT])[1])
    assert answer.coding is None and answer.body == TEXT[: len(TEXT) + difference] and len(errors()) == 1


def test_errors_are_raised_in_the_applications_call_and_another_head_replaces_the_first(get: Get) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> Any:
        with pytest.raises(ValueError):
            start_response("200 OK", [*HTML, ("A", "b\r\nc")])
        with pytest.raises(ValueError):
            start_response("200 OK", [*HTML, ("Content-Length", "many")])
        with pytest.raises(TypeError, match="status"):
            start_response(200, HTML)
        with pytest.raises(TypeError, match="a header is a tuple of name and value, not 'ab:'"):
            start_response("200 OK", ["ab:"])
        with pytest.raises(TypeError, match="a header is a tuple of name and value, not None"):
            start_response("200 OK", [None])
        with pytest.raises((TypeError, ValueError)):
            start_response("200 OK", [(1, "a")])
        start_response("200 OK", HTML)
        with pytest.raises(RuntimeError):
            start_response("200 OK", HTML)
        try:
            raise LookupError("too late")
        except LookupError:
            import sys

            start_response("500 Oh", [("Content-Type", "text/plain"), ("Content-Length", str(len(TEXT)))], sys.exc_info())
        return iter([TEXT])

    answer = get(app)
    assert (answer.status, answer.coding, answer.text, answer.fields["content-type"]) == ("500", "gzip", TEXT, "text/plain")


def test_an_error_after_the_head_cuts_the_response(get: Get, errors: Any) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> Any:
        write = start_response("200 OK", HTML)
        write(TEXT)
        try:
            raise LookupError("too late")
        except LookupError:
            import sys

            start_response("500 Oh", HTML, sys.exc_info())
        return []

    answer = get(app)
    assert answer.status == "200" and not answer.whole and len(errors()) == 1


def test_an_application_that_starts_nothing_or_takes_over_is_left_alone(talk: Talk, errors: Any) -> None:
    def takes(environ: dict[str, Any], start_response: Any) -> Any:
        environ["muxwsgi.hijack"]().sendall(b"taken")
        return []

    request = b"GET / HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\n\r\n"
    assert talk(Compression(takes, ALL), request) == b"taken"
    assert statuses(talk(Compression(lambda environ, start: [b"x"], ALL), request)) == [500]
    assert statuses(talk(Compression(lambda environ, start: iter([b"x"]), ALL), request)) == [500]


def test_close_is_called_once_also_when_the_client_leaves() -> None:
    closed: list[int] = []

    class Body:
        def __iter__(self) -> Iterator[bytes]:
            while True:
                yield os.urandom(1 << 16)

        def close(self) -> None:
            closed.append(1)

    with gevent.Timeout(20), client_of(Compression(fixed(Body), ALL)) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\n\r\n")
        client.recv()
        client.abort()
    assert closed == [1]


def test_trailers_follow_a_compressed_body(talk: Talk) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", HTML)
        yield TEXT
        environ["muxwsgi.response"].trailers = [("X-Sum", "1")]

    data = talk(Compression(app, ALL), b"GET / HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\n\r\n")
    assert data.endswith(b"\r\n0\r\nX-Sum: 1\r\n\r\n")


def test_in_http_2(talk2: Callable[..., Dialogue]) -> None:  # noqa: F811
    request = [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "a"), ("accept-encoding", "br, gzip")]
    dialogue = talk2(Compression(fixed(lambda: iter([TEXT, TEXT])), ALL)).open(headers(1, request))
    response = dialogue.response()
    assert response.field("content-encoding") == "br" and brotli.decompress(response.body) == TEXT * 2
    dialogue.say(headers(3, [(":method", "HEAD"), *request[1:]]))
    assert dialogue.response(3).field("content-encoding") == "br" and dialogue.response(3).body == b""


def test_files_and_their_ranges(get: Get, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(TEXT)
    files = StaticFiles(str(tmp_path))

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        return files({**environ, "PATH_INFO": "/a.txt"}, start_response)

    whole = get(app)
    assert whole.text == TEXT and whole.fields["etag"].startswith('W/"')
    part = get(app, "Range: bytes=0-999")
    assert (part.status, part.body, part.coding) == ("206", TEXT[:1000], None)
    assert get(app, f"If-None-Match: {whole.fields['etag']}").status == "304"
    stale = get(app, "Range: bytes=0-999", f"If-Range: {whole.fields['etag']}")
    assert (stale.status, stale.text) == ("200", TEXT)


def test_the_server_compresses_and_a_proxy_does_not() -> None:
    server = muxwsgi.Server(fixed(TEXT), ["127.0.0.1:0"], settings=ServerSettings(responses=ALL))
    server.start()
    host, _, port = server.addresses[0].rpartition(":")
    try:
        with gevent.Timeout(20), gevent.socket.create_connection((host, int(port))) as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nAccept-Encoding: zstd\r\nConnection: close\r\n\r\n")
            data = b""
            while more := client.recv(65536):
                data += more
    finally:
        server.stop(0)
    assert Answer(data).coding == "zstd" and Answer(data).text == TEXT
    with pytest.raises(OperatorError, match="a proxy passes responses on"):
        muxwsgi.Server(Proxy(), ["127.0.0.1:0"], settings=ServerSettings(responses=ALL))


@pytest.mark.parametrize(
    ("values", "problem"),
    [({"compress": "deflate"}, "compress: 'deflate' is not gzip, br or zstd"), ({"compress_types": "text"}, "compress_types: 'text'"), ({"compress_min_size": -1}, "compress_min_size")],
)
def test_settings_that_are_wrong_are_one_line(values: Any, problem: str) -> None:
    with pytest.raises(OperatorError, match=problem):
        ResponseSettings(**values)


def test_a_coding_whose_package_is_missing_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("muxwsgi.http.compression.brotli_module", lambda: None)
    with pytest.raises(OperatorError, match=r"compress: br needs the package brotli \(pip install 'muxwsgi\[compress\]'\)"):
        Compression(fixed(TEXT), ALL)
    Compression(fixed(TEXT), ResponseSettings(compress="gzip"))
