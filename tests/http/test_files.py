"""`wsgi.file_wrapper` sends the bytes that the application's file gives, by whatever way."""

import bz2
import gzip
import io
import lzma
import os
import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest
from flask import Flask, send_file

from muxwsgi.settings import HTTPSettings
from muxwsgi.testing import connection_pair
from muxwsgi.wire.connection import Connection
from tests.http.conftest import Talk, client_of, read_all, statuses

TEXT = b"".join(b"line %d of the file\n" % number for number in range(20_000))
GET = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


class Upper(io.FileIO):
    """A file that changes what it reads."""

    def read(self, *args: Any) -> bytes:
        return super().read(*args).upper()


class Delegating:
    """A file of nobody's class, with the descriptor of what is below it."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def read(self, size: int) -> bytes:
        return bytes(reversed(self._file.read(size)))

    def fileno(self) -> int:
        number: int = self._file.fileno()
        return number

    def tell(self) -> int:
        position: int = self._file.tell()
        return position


def path_of(folder: Path, content: bytes) -> Path:
    path = folder / "file"
    path.write_bytes(content)
    return path


def temporary(folder: Path) -> Any:
    file = (folder / "temporary").open("w+b")
    file.write(TEXT)  # a part of it is still Python's
    file.seek(0)
    return file


FILES: dict[str, tuple[Callable[[Path], Any], bytes]] = {
    "plain": (lambda folder: path_of(folder, TEXT).open("rb"), TEXT),
    "unbuffered": (lambda folder: path_of(folder, TEXT).open("rb", buffering=0), TEXT),
    "gzip": (lambda folder: gzip.open(path_of(folder, gzip.compress(TEXT))), TEXT),
    "bz2": (lambda folder: bz2.open(path_of(folder, bz2.compress(TEXT))), TEXT),
    "lzma": (lambda folder: lzma.open(path_of(folder, lzma.compress(TEXT))), TEXT),
    "buffered gzip": (lambda folder: io.BufferedReader(gzip.open(path_of(folder, gzip.compress(TEXT)))), TEXT),  # type: ignore[arg-type]
    "a class that changes it": (lambda folder: Upper(path_of(folder, TEXT)), TEXT.upper()),
    "the same, buffered": (lambda folder: io.BufferedReader(Upper(path_of(folder, b"abc"))), b"abc"),
    "a class that delegates": (lambda folder: Delegating(path_of(folder, b"abc").open("rb")), b"cba"),
    "written a moment ago": (temporary, TEXT),
    "empty": (lambda folder: path_of(folder, b"").open("rb"), b""),
    "/proc": (lambda folder: open("/proc/version", "rb"), Path("/proc/version").read_bytes()),
    "/sys": (lambda folder: open("/sys/devices/system/cpu/online", "rb"), Path("/sys/devices/system/cpu/online").read_bytes()),
}


@pytest.fixture(params=["plain", "layered"])
def fetch(request: pytest.FixtureRequest) -> Iterator[Callable[..., bytes]]:
    """The response of an application, on a socket that takes files by descriptor and on a stream that does not (as TLS)."""

    def run(app: Any, ask: bytes = GET) -> bytes:
        if request.param == "plain":
            left, right = socket.socketpair()
            pair = Connection.from_socket(left), Connection.from_socket(right)
        else:
            pair = connection_pair()
        with gevent.Timeout(20), client_of(app, HTTPSettings(linger=0.1), pair) as client:
            client.sendall(ask)
            return read_all(client)

    yield run


def body_of(answer: bytes) -> bytes:
    head, _, body = answer.partition(b"\r\n\r\n")
    if b"chunked" not in head:
        length = re.search(rb"Content-Length: (\d+)\r\n", head)
        assert length is not None and int(length[1]) == len(body), "the length is that of what was sent"
        return body
    whole = b""
    while True:
        size, _, body = body.partition(b"\r\n")
        if not int(size, 16):
            return whole
        whole, body = whole + body[: int(size, 16)], body[int(size, 16) + 2 :]


@pytest.mark.parametrize("name", FILES)
def test_a_file_arrives_as_the_application_reads_it(fetch: Callable[..., bytes], tmp_path: Path, name: str) -> None:
    make, expected = FILES[name]

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", [])
        return environ["wsgi.file_wrapper"](make(tmp_path))

    assert body_of(fetch(app)) == expected


def test_a_file_of_text_is_the_applications_error(fetch: Callable[..., bytes], errors: Any, tmp_path: Path) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", [])
        return environ["wsgi.file_wrapper"](path_of(tmp_path, TEXT).open())

    assert statuses(fetch(app)) == [500]
    assert "application error" in errors()[0]


def test_a_file_that_shrinks_is_not_taken_for_whole(talk: Talk, errors: Any, tmp_path: Path) -> None:
    path = path_of(tmp_path, TEXT)

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", [])
        file = path.open("rb")
        os.truncate(path, 1000)
        return environ["wsgi.file_wrapper"](file)

    assert body_of(talk(app, GET)) == TEXT[:1000]


def test_werkzeug_reads_no_more_than_the_range_that_was_asked_for(fetch: Callable[..., bytes], tmp_path: Path) -> None:
    read: list[int] = []
    app = Flask("files")
    path = path_of(tmp_path, TEXT)

    @app.get("/")
    def download() -> Any:
        return send_file(path, "text/plain", conditional=True)

    def counted(environ: dict[str, Any], start_response: Any) -> Any:
        class Counting(environ["wsgi.file_wrapper"]):  # type: ignore[misc]
            def __next__(self) -> bytes:
                block: bytes = super().__next__()
                read.append(len(block))
                return block

        environ["wsgi.file_wrapper"] = Counting
        return app.wsgi_app(environ, start_response)

    ask = GET[:-2] + b"Range: bytes=%d-%d\r\n\r\n" % (len(TEXT) - 100, len(TEXT) - 51)
    answer = fetch(counted, ask)
    assert statuses(answer) == [206] and answer.endswith(TEXT[-100:-50])
    assert 0 < sum(read) <= 100
