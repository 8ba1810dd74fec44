"""The server behind the proxy, plain and in TLS on one port: a WSGI application that tells what has reached it.

muxwsgi run tests.proxy.clients.origin:application --tls optional ...
"""

import hashlib
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import simple_websocket
from gevent.event import Event

from tests.proxy.clients.page import PAGE, PIXEL, SCRIPT, STYLE

__all__ = ["application", "block"]

Environ = dict[str, Any]
Answer = tuple[str, list[tuple[str, str]], Any]

#: Seconds that a client has to confirm what was sent to it.
PATIENCE = 20.0

BLOCK = 65536


def block(number: int) -> bytes:
    """The 65,536 bytes at that place of a download: no two blocks are alike."""
    return hashlib.sha256(b"%d" % number).digest() * (BLOCK // 32)


def seen(environ: Environ) -> Answer:
    """What has arrived: the request line and the fields as they came, how large the body was, and on which connection."""
    digest, size = hashlib.sha256(), 0
    while piece := environ["wsgi.input"].read(BLOCK):
        digest.update(piece)
        size += len(piece)
    told = {
        "head": [
            f"{environ['REQUEST_METHOD']} {environ['RAW_URI']} {environ['SERVER_PROTOCOL']}",
            *(f"{name}: {value}" for name, value in environ["muxwsgi.fields"]),
        ],
        "scheme": environ["wsgi.url_scheme"],
        "connection": environ["muxwsgi.connection"].id,
        "size": size,
        "sha256": digest.hexdigest(),
    }
    return "200 OK", [("Content-Type", "application/json")], [json.dumps(told).encode()]


def blocks(environ: Environ) -> Answer:
    """As many blocks as the query says, in chunks: nobody knows beforehand how much comes."""
    count = int(environ["QUERY_STRING"])
    return "200 OK", [("Content-Type", "application/octet-stream")], (block(number) for number in range(count))


# A stream of events that goes on only when the client says that it has seen the last one: who holds events back sees the second one never.

_confirmed: dict[str, Event] = {}


def events(environ: Environ) -> Answer:
    confirmed = _confirmed[environ["QUERY_STRING"]] = Event()

    def stream() -> Iterator[bytes]:
        yield b"data: first\n\n"
        yield b"data: second\n\n" if confirmed.wait(PATIENCE) else b"data: the first was not confirmed\n\n"

    return "200 OK", [("Content-Type", "text/event-stream"), ("Cache-Control", "no-store")], stream()


def confirm(environ: Environ) -> Answer:
    _confirmed[environ["QUERY_STRING"]].set()
    return "204 No Content", [], []


# What a page has found out is sent here by its script, and asked for by the test.

_outcomes: dict[str, bytes] = {}
_told: dict[str, Event] = {}


def outcome(environ: Environ) -> Answer:
    name = environ["QUERY_STRING"]
    told = _told.setdefault(name, Event())
    if environ["REQUEST_METHOD"] == "POST":
        _outcomes[name] = environ["wsgi.input"].read()
        told.set()
        return "204 No Content", [], []
    if not told.wait(2 * PATIENCE):
        return "504 Gateway Timeout", [], []
    return "200 OK", [("Content-Type", "application/json")], [_outcomes[name]]


def websocket(environ: Environ) -> list[bytes]:
    """Says each message back in capitals."""
    ws = simple_websocket.Server(environ)
    try:
        while True:
            ws.send(ws.receive().upper())
    except simple_websocket.ConnectionClosed:
        return []


def git(environ: Environ) -> Answer:
    """The repositories below GIT_PROJECT_ROOT, by git's own CGI program (RFC 3875)."""
    length = {"CONTENT_LENGTH": environ["CONTENT_LENGTH"]} if environ.get("CONTENT_LENGTH") else {}
    fields = {name: value for name, value in environ.items() if name.startswith("HTTP_")}
    variables = {
        "PATH": os.environ["PATH"],
        "GIT_PROJECT_ROOT": os.environ["GIT_PROJECT_ROOT"],
        "GIT_HTTP_EXPORT_ALL": "1",
        "REMOTE_USER": "ann",  # who says who she is may push
        "REMOTE_ADDR": environ["REMOTE_ADDR"],
        "REQUEST_METHOD": environ["REQUEST_METHOD"],
        "PATH_INFO": environ["PATH_INFO"].removeprefix("/git"),
        "QUERY_STRING": environ["QUERY_STRING"],
        "CONTENT_TYPE": environ.get("CONTENT_TYPE", ""),
    }
    body = environ["wsgi.input"].read()
    if not length and body:
        length = {"CONTENT_LENGTH": str(len(body))}
    done = subprocess.run(["git", "http-backend"], env=variables | fields | length, input=body, capture_output=True, timeout=PATIENCE, check=True)
    head, _, content = done.stdout.partition(b"\r\n\r\n")
    found = dict(line.split(": ", 1) for line in head.decode("latin-1").split("\r\n"))
    return found.pop("Status", "200 OK"), list(found.items()), [content]


def static(content: bytes, media_type: str) -> Callable[[Environ], Answer]:
    return lambda environ: ("200 OK", [("Content-Type", media_type)], [content])


def root(environ: Environ) -> Answer:
    return "200 OK", [("Content-Type", "text/plain")], [f"the page of {environ['HTTP_HOST']}\n".encode()]


PATHS: dict[str, Callable[[Environ], Answer]] = {
    "/": root,
    "/seen": seen,
    "/blocks": blocks,
    "/events": events,
    "/confirm": confirm,
    "/outcome": outcome,
    "/page": static(PAGE, "text/html; charset=utf-8"),
    "/style.css": static(STYLE, "text/css"),
    "/script.js": static(SCRIPT, "text/javascript"),
    "/pixel.png": static(PIXEL, "image/png"),
}


def application(environ: Environ, start_response: Any) -> Any:
    path = environ["PATH_INFO"]
    if path == "/socket":
        return websocket(environ)
    answer = git if path.startswith("/git/") else PATHS.get(path)
    status, fields, body = answer(environ) if answer else ("404 Not Found", [], [])
    start_response(status, fields)
    return body
