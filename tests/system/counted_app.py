"""An application for fault tests: it can be slow, large and greedy, and it counts what the server's process holds."""

import gc
import json
import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import gevent

from muxwsgi.wire.connection import Connection

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

BLOCK = b"x" * 65536


def application(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
    handler = {
        "/": hello,
        "/counts": counts,
        "/slow": slow,
        "/stream": stream,
        "/large": large,
        "/upload": upload,
    }[environ["PATH_INFO"]]
    return handler(environ, start_response)


def hello(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "5")])
    return [b"hello"]


def counts(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
    """Descriptors, greenlets, connections and resident bytes of this process, after a collection."""
    gc.collect()
    objects = gc.get_objects()
    with open("/proc/self/statm") as statm:
        resident = int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    body = json.dumps(
        {
            "descriptors": len(os.listdir("/proc/self/fd")),
            "greenlets": sum(isinstance(o, gevent.Greenlet) and not o.dead for o in objects),
            "connections": sum(isinstance(o, Connection) for o in objects),
            "resident": resident,
        }
    ).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]


def slow(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
    gevent.sleep(0.3)
    return hello(environ, start_response)


def stream(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterator[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    for number in range(30):
        yield b"line %d\n" % number
        gevent.sleep(0.02)


def large(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterator[bytes]:
    """64 MiB, more than any socket buffer takes."""
    start_response("200 OK", [("Content-Type", "application/octet-stream"), ("Content-Length", str(1024 * len(BLOCK)))])
    for _ in range(1024):
        yield BLOCK


def upload(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
    size = 0
    while block := environ["wsgi.input"].read(65536):
        size += len(block)
    body = str(size).encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
