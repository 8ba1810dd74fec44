"""Each phase has its deadline. The sweeper is played by the test, which says what time it is, so nothing here takes long."""

import socket
from collections.abc import Iterator
from time import monotonic
from typing import Any

import gevent
import pytest

from muxwsgi.http.h1.h1 import HTTP1
from muxwsgi.settings import HTTPSettings
from muxwsgi.testing import connection_pair
from muxwsgi.wire.connection import Connection
from muxwsgi.wire.lifeline import sweep
from tests.http.conftest import hello, statuses

SETTINGS = HTTPSettings(keep_alive=50, request_head_timeout=10, body_min_rate=1000, body_rate_grace=5, linger=1)
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


class Dialogue:
    """An engine in a greenlet, the client's end, and a clock that jumps."""

    def __init__(self, app: Any, settings: HTTPSettings = SETTINGS) -> None:
        self.server, self.client = connection_pair()
        self.engine = HTTP1(app, settings)
        self.serving = gevent.spawn(self._serve)
        self.settle()

    def _serve(self) -> None:
        try:
            self.engine(self.server)
        except OSError:
            pass
        finally:
            self.server.finish()

    def settle(self) -> None:
        for _ in range(10):
            gevent.sleep(0)

    def say(self, data: bytes) -> None:
        self.client.sendall(data)
        self.settle()

    def after(self, seconds: float) -> None:
        """Let the sweeper look at the connection as if `seconds` had gone by."""
        sweep([self.server.lifeline], monotonic() + seconds)
        self.settle()

    def heard(self) -> bytes:
        """What the server has sent and the client has not read yet."""
        data = b""
        self.client.settimeout(0.01)
        try:
            while part := self.client.recv():
                data += part
        except TimeoutError:
            pass
        return data

    @property
    def over(self) -> bool:
        return self.serving.ready()


@pytest.fixture
def end() -> Iterator[list[Dialogue]]:
    dialogues: list[Dialogue] = []
    yield dialogues
    for dialogue in dialogues:
        dialogue.client.finish()
        dialogue.serving.join(timeout=5)
        assert dialogue.over


def reads(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    environ["wsgi.input"].read()
    return hello(environ, start_response)


def test_a_late_head_is_answered_with_408_and_dripping_buys_no_time(end: list[Dialogue]) -> None:
    dialogue = Dialogue(hello)
    end.append(dialogue)
    dialogue.say(b"GET / HT")
    dialogue.after(9)
    assert dialogue.heard() == b""
    dialogue.say(b"TP/1.1\r\nX: ")
    dialogue.after(11)
    assert statuses(dialogue.heard()) == [408]
    dialogue.after(2)
    assert dialogue.over, "the time to read the answer is over, too"


def test_a_connection_at_rest_is_closed_without_a_word(end: list[Dialogue]) -> None:
    dialogue = Dialogue(hello)
    end.append(dialogue)
    dialogue.say(GET)
    assert statuses(dialogue.heard()) == [200]
    dialogue.after(49)
    assert not dialogue.over
    dialogue.after(51)
    assert dialogue.over and dialogue.heard() == b""


def test_an_application_may_take_its_time(end: list[Dialogue]) -> None:
    gate = gevent.event.Event()

    def slow(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        gate.wait()
        return hello(environ, start_response)

    dialogue = Dialogue(slow)
    end.append(dialogue)
    dialogue.say(GET)
    dialogue.after(10_000)
    gate.set()
    dialogue.settle()
    assert statuses(dialogue.heard()) == [200]


@pytest.mark.parametrize("framing", [b"Content-Length: 100000\r\n\r\nbeginning", b"Transfer-Encoding: chunked\r\n\r\nffff\r\nbeginning"])
def test_a_body_that_stalls_is_answered_with_408(end: list[Dialogue], framing: bytes) -> None:
    dialogue = Dialogue(reads)
    end.append(dialogue)
    dialogue.say(b"POST / HTTP/1.1\r\nHost: a\r\n" + framing)
    dialogue.after(4)
    assert dialogue.heard() == b"" and not dialogue.over
    dialogue.after(6)
    assert statuses(dialogue.heard()) == [408]
    dialogue.after(2)
    assert dialogue.over


def test_a_large_body_that_keeps_moving_may_last(end: list[Dialogue]) -> None:
    dialogue = Dialogue(reads)
    end.append(dialogue)
    dialogue.say(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 200000\r\n\r\n")
    for _ in range(20):
        dialogue.after(4)
        dialogue.say(b"x" * 10_000)
    assert statuses(dialogue.heard()) == [200]


def test_a_client_that_does_not_read_is_given_up(end: list[Dialogue]) -> None:
    closed: list[bool] = []

    def endless(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        try:
            while True:
                yield b"x" * 50_000
        finally:
            closed.append(True)

    dialogue = Dialogue(endless)
    end.append(dialogue)
    dialogue.say(GET)
    dialogue.after(4)
    assert not closed
    dialogue.after(6)
    assert closed and dialogue.over


def test_a_body_that_nobody_wants_is_waited_for_a_moment_only(end: list[Dialogue]) -> None:
    dialogue = Dialogue(hello)
    end.append(dialogue)
    dialogue.say(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n")
    assert statuses(dialogue.heard()) == [200]
    dialogue.after(2)
    dialogue.after(4)
    assert dialogue.over


def test_a_refused_client_has_a_moment_to_read_why(end: list[Dialogue]) -> None:
    dialogue = Dialogue(hello)
    end.append(dialogue)
    dialogue.say(b"nonsense\r\n\r\n")
    dialogue.say(b"and more of it")
    assert statuses(dialogue.heard()) == [400]
    assert not dialogue.over
    dialogue.after(2)
    assert dialogue.over


# Draining


def test_a_drain_ends_connections_at_rest_at_once(end: list[Dialogue]) -> None:
    fresh, used = Dialogue(hello), Dialogue(hello)
    end.extend((fresh, used))
    used.say(GET)
    assert statuses(used.heard()) == [200]
    for dialogue in (fresh, used):
        assert dialogue.server.resting
        dialogue.engine.draining = True
        dialogue.server.lifeline.drain()
        dialogue.settle()
        assert dialogue.over and dialogue.heard() == b""


def test_a_drain_lets_an_exchange_end_and_says_that_it_was_the_last(end: list[Dialogue]) -> None:
    gate = gevent.event.Event()

    def slow(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        gate.wait()
        return reads(environ, start_response)

    dialogue = Dialogue(slow)
    end.append(dialogue)
    dialogue.say(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhel")
    dialogue.engine.draining = True
    dialogue.server.lifeline.drain()
    dialogue.say(b"lo")
    assert not dialogue.over
    gate.set()
    dialogue.settle()
    answer = dialogue.heard()
    assert statuses(answer) == [200] and b"\r\nConnection: close\r\n" in answer
    dialogue.client.shutdown(socket.SHUT_WR)
    dialogue.settle()
    assert dialogue.over


def test_a_drain_waits_for_the_rest_of_a_head(end: list[Dialogue]) -> None:
    dialogue = Dialogue(hello)
    end.append(dialogue)
    dialogue.say(GET[:10])
    dialogue.engine.draining = True
    dialogue.server.lifeline.drain()
    dialogue.settle()
    dialogue.say(GET[10:])
    answer = dialogue.heard()
    assert statuses(answer) == [200] and b"\r\nConnection: close\r\n" in answer


def test_a_connection_taken_over_has_no_deadline_of_http(end: list[Dialogue]) -> None:
    def echo(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        connection: Connection = environ["muxwsgi.hijack"]()
        while data := connection.recv():
            connection.sendall(data)
        return []

    dialogue = Dialogue(echo)
    end.append(dialogue)
    dialogue.say(GET)
    dialogue.after(10_000)
    dialogue.say(b"still here")
    assert dialogue.heard() == b"still here"
