"""What an exchange made is gone when it is over: counted, after requests of every kind and after every kind of fault."""

import gc
import logging
from collections import Counter
from collections.abc import Iterator
from typing import Any

import gevent
import httptools
import pytest

from muxwsgi.http.body import Body
from muxwsgi.http.hijack import Hijack
from muxwsgi.http.input import Input
from muxwsgi.http.response import Response
from muxwsgi.wire.connection import Connection
from tests.http.conftest import client_of, hello, read_all

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"


def reads(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    environ["wsgi.input"].read()
    return hello(environ, start_response)


def streams(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
    start_response("200 OK", [])
    yield b"a"
    yield b"b"


def fails(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    raise LookupError


def fails_late(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
    start_response("200 OK", [])
    yield b"a"
    raise LookupError


def takes(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    environ["muxwsgi.hijack"]().sendall(b"taken")
    return []


DIALOGUES: dict[str, tuple[Any, bytes]] = {
    "simple": (hello, GET * 3),
    "body": (reads, (POST + b"Content-Length: 5\r\n\r\nhello") * 3),
    "chunked body": (reads, (CHUNKED + b"5\r\nhello\r\n0\r\n\r\n") * 3),
    "body that nobody reads": (hello, (CHUNKED + b"5\r\nhello\r\n0\r\n\r\n") * 3),
    "stream": (streams, GET * 3),
    "exception": (fails, GET * 3),
    "exception after the head": (fails_late, GET),
    "takeover": (takes, GET),
    "refused": (hello, b"nonsense\r\n\r\n"),
    "client gone in the head": (hello, b"GET / HT"),
    "client gone in the body": (reads, POST + b"Content-Length: 50\r\n\r\nhello"),
    "client gone in a chunk": (reads, CHUNKED + b"50\r\nhello"),
    "malformed chunk": (reads, CHUNKED + b"zz\r\nhello"),
}


@pytest.fixture(autouse=True)
def no_log_keeps_tracebacks(monkeypatch: pytest.MonkeyPatch) -> None:
    """pytest keeps log records, those keep tracebacks, and those keep frames."""
    monkeypatch.setattr(logging.getLogger("muxwsgi.error"), "disabled", True)


def census() -> Counter[str]:
    kinds = (Response, Hijack, Body, Input, Connection, httptools.HttpRequestParser, gevent.Greenlet)
    return Counter(type(thing).__name__ for thing in gc.get_objects() if isinstance(thing, kinds))


def talk_once(app: Any, sent: bytes) -> None:
    with client_of(app) as client:
        client.sendall(sent)
        client.shutdown(1)
        read_all(client)


@pytest.mark.parametrize("name", DIALOGUES)
def test_nothing_is_left_of_an_exchange(name: str) -> None:
    talk_once(*DIALOGUES[name])
    gc.collect()
    before = census()
    for _ in range(10):
        talk_once(*DIALOGUES[name])
    gevent.sleep(0)
    gc.collect()
    assert census() - before == Counter()


@pytest.mark.parametrize("name", ["simple", "body", "chunked body", "stream", "takeover", "exception"])
def test_nothing_waits_for_the_garbage_collector(name: str) -> None:
    talk_once(*DIALOGUES[name])
    gc.collect()
    gc.disable()
    try:
        before = census()
        for _ in range(10):
            talk_once(*DIALOGUES[name])
        gevent.sleep(0)
        assert census() - before == Counter()
    finally:
        gc.enable()
