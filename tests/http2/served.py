"""The application of `test_clients`, which it runs by `muxwsgi run`."""

from collections.abc import Iterable, Iterator
from typing import Any

import gevent
from simple_websocket import ConnectionClosed, Server


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
    if path == "/socket":
        return socket(environ)
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


def socket(environ: dict[str, Any]) -> Iterable[bytes]:
    """An echo by `werkzeug.socket`, which is what flask-sock is."""
    ws = Server.accept(environ)
    try:
        while True:
            ws.send(ws.receive())
    except ConnectionClosed:
        return []
