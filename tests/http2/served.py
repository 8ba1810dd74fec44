"""The application of `test_clients`, which it runs by `muxwsgi run`."""

from collections.abc import Iterable, Iterator
from typing import Any

import gevent


def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    path = environ["PATH_INFO"]
    if path == "/sleep":
        gevent.sleep(0.002)
    if path == "/big":
        start_response("200 OK", [("Content-Type", "application/octet-stream")])
        return [bytes(1 << 16)] * 32
    if path == "/stream":
        return stream(environ, start_response)
    if path == "/file":
        start_response("200 OK", [("Content-Type", "application/octet-stream")])
        file: Iterable[bytes] = environ["wsgi.file_wrapper"](open(environ["QUERY_STRING"], "rb"))
        return file
    body = environ["wsgi.input"].read()
    start_response("200 OK", [("Content-Type", "text/plain"), ("X-Protocol", environ["SERVER_PROTOCOL"])])
    return [body or b"hello"]


def stream(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
    extra = environ["muxwsgi.response"]
    extra.informational(103, "Early Hints", [("Link", "</style.css>; rel=preload")])
    start_response("200 OK", [("Content-Type", "text/plain")])
    for number in range(3):
        yield b"line %d\n" % number
        gevent.sleep(0.001)
    extra.trailers = [("X-Lines", "3")]
