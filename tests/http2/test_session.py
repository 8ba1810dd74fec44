"""Applications over HTTP/2: what they see, what their clients see, and who waits for whom."""

import gc
import re
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import gevent
import pytest
from gevent.event import Event

from muxwsgi.errors import Cut, PeerError
from muxwsgi.events import Events
from muxwsgi.http.exchange import Exchange
from muxwsgi.http.exchange_counts import METHODS, STATUSES, ExchangeCounts
from muxwsgi.http.h2.body import StreamBody
from muxwsgi.settings import HTTPSettings
from muxwsgi.websocket import accept
from muxwsgi.wire.lifeline import sweep
from tests.http2.conftest import Dialogue
from tests.http2.frames import (
    ACK,
    CANCEL,
    ENHANCE_YOUR_CALM,
    GET,
    GOAWAY,
    INTERNAL_ERROR,
    NO_ERROR,
    OPENING,
    PING,
    POST,
    PRIORITY_UPDATE,
    PROTOCOL_ERROR,
    SETTINGS,
    WINDOW_UPDATE,
    Fields,
    data,
    frame,
    headers,
    reset,
    settings,
    window_update,
)

Talk = Callable[..., Dialogue]


def path(of: str, *more: tuple[str, str], method: str = "GET") -> Fields:
    return [(":method", method), (":scheme", "http"), (":path", of), (":authority", "a.example"), *more]


def hello(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"hello"]


# Responses


def test_a_response_has_its_length_a_date_and_the_server(talk: Talk) -> None:
    dialogue = talk(hello).open(headers(1))
    response = dialogue.response()
    assert response.heads[0][:3] == [(":status", "200"), ("content-type", "text/plain"), ("content-length", "5")]
    assert re.fullmatch(r"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT", response.field("date") or "")
    assert (response.field("server"), response.body) == ("muxwsgi", b"hello")
    assert dialogue.leave() is None


def test_many_requests_at_once_are_answered_in_one_write(talk: Talk) -> None:
    dialogue = talk(hello).open(*(headers(number) for number in range(1, 201, 2)))
    assert [dialogue.response(number).body for number in range(1, 201, 2)] == [b"hello"] * 100
    before = dialogue.server.bytes_sent
    dialogue.say(headers(201))
    dialogue.response(201)
    assert dialogue.server.bytes_sent - before < 40  # HEADERS of a few bytes, since all of it is in the table: only the length is spelled


@pytest.mark.parametrize(("method", "status", "length"), [("HEAD", "200 OK", "5"), ("GET", "304 Not Modified", None), ("GET", "204 No Content", None)])
def test_heads_without_a_body(talk: Talk, method: str, status: str, length: str | None) -> None:
    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response(status, [])
        return [b"hello"]

    response = talk(application).open(headers(1, path("/", method=method))).response()
    assert (response.heads[0][0][1], response.body, response.field("content-length")) == (status[:3], b"", length)


def test_fields_of_the_connection_are_dropped_and_names_are_in_lower_case(talk: Talk) -> None:
    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [("Connection", "close"), ("Keep-Alive", "1"), ("X-Name", " a\tb "), ("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")])
        return [b""]

    dialogue = talk(application).open(headers(1), headers(3))
    for number in (1, 3):
        fields = dialogue.response(number).heads[0]
        assert fields[1:5] == [("x-name", "a\tb"), ("set-cookie", "a=1"), ("set-cookie", "b=2"), ("content-length", "0")]


def test_each_yield_is_sent_before_the_next_is_asked_for(talk: Talk) -> None:
    go_on = Event()

    def application(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield b"first"
        seen.append(dialogue.server.bytes_sent)
        go_on.wait()
        yield b"second"

    seen: list[int] = []
    dialogue = talk(application).open(headers(1))
    dialogue.wait(lambda: 1 in dialogue.streams and dialogue.streams[1].body == b"first")
    assert seen and seen[0] > 0
    go_on.set()
    assert dialogue.response().body == b"firstsecond"


def test_interim_responses_and_trailers(talk: Talk) -> None:
    def application(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        extra = environ["muxwsgi.response"]
        extra.informational(103, "Early Hints", [("Link", "</a>")])
        environ["wsgi.early_hints"]([("Link", "</b>")])
        start_response("200 OK", [])
        yield b"body"
        environ["wsgi.early_hints"]([("Link", "</late>")])
        extra.trailers = [("X-Sum", "42")]

    response = talk(application).open(headers(1)).response()
    assert [head[0] for head in response.heads] == [(":status", "103"), (":status", "103"), (":status", "200"), ("x-sum", "42")]
    assert response.body == b"body"


def test_trailers_of_a_list(talk: Talk) -> None:
    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        environ["muxwsgi.response"].trailers = [("grpc-status", "0")]
        start_response("200 OK", [("Content-Type", "application/grpc")])
        return [b"message"]

    response = talk(application).open(headers(1)).response()
    assert (response.heads[1], response.body) == ([("grpc-status", "0")], b"message")


def test_a_head_that_is_larger_than_a_frame(talk: Talk) -> None:
    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [(f"X-{number}", chr(200) * 5000) for number in range(9)])
        return [b"body"]

    response = talk(application).open(headers(1)).response()
    assert response.body == b"body" and len(response.heads[0]) == 13


def test_an_error_before_the_head_is_a_500_and_the_connection_goes_on(talk: Talk, errors: Callable[[], list[str]]) -> None:
    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        if environ["PATH_INFO"] == "/fail":
            raise LookupError("oops")
        return hello(environ, start_response)

    dialogue = talk(application).open(headers(1, path("/fail")))
    assert dialogue.response().status == "500"
    assert dialogue.say(headers(3)).response(3).status == "200"
    assert errors() == ["application error in GET /fail: answered with 500"]


def test_an_error_behind_the_head_resets_the_stream_alone(talk: Talk, errors: Callable[[], list[str]]) -> None:
    def application(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield b"some"
        if environ["PATH_INFO"] == "/fail":
            raise LookupError("oops")

    dialogue = talk(application).open(headers(1, path("/fail")), headers(3))
    response = dialogue.response()
    assert (response.reset, response.body, response.ended) == (INTERNAL_ERROR, b"some", False)
    assert dialogue.response(3).body == b"some" and dialogue.streams[3].ended
    assert errors() == ["application error in GET /fail: the stream is reset"]


def test_a_body_that_is_too_short_resets_the_stream_and_one_that_is_too_long_is_cut(talk: Talk, errors: Callable[[], list[str]]) -> None:
    def application(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", [("Content-Length", "10")])
        body = [b"x" * int(environ["QUERY_STRING"])]
        return body if environ["PATH_INFO"] == "/list" else iter(body)

    dialogue = talk(application).open(*(headers(1 + 2 * n, path(each)) for n, each in enumerate(["/list?9", "/list?11", "/iter?9", "/iter?11"])))
    short, long, short_too, long_too = (dialogue.response(number) for number in (1, 3, 5, 7))
    assert (short.reset, short_too.reset) == (INTERNAL_ERROR, INTERNAL_ERROR) and not short.ended and not short_too.ended
    assert (len(long.body), len(long_too.body), long.ended, long_too.ended) == (10, 10, True, True)
    assert sorted(line.partition(":")[0] for line in errors()) == sorted(
        ["the application's body is longer than its Content-Length of 10"] * 2 + ["the application's body is 1 bytes shorter than its Content-Length"] * 2
    )


# Requests


def test_a_body_is_streamed_and_its_trailers_are_there_at_its_end(talk: Talk) -> None:
    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        source = environ["wsgi.input"]
        assert "CONTENT_LENGTH" not in environ and environ["wsgi.input_terminated"]
        parts.append(source.read1())
        parts.append(source.read())
        start_response("200 OK", [])
        return [repr(environ["muxwsgi.trailers"]).encode()]

    parts: list[bytes] = []
    dialogue = talk(application).open(headers(1, POST, end=False), data(1, b"one"))
    dialogue.wait(lambda: parts)
    dialogue.say(data(1, b"two"), data(1, b"three"), headers(1, [("x-sum", "1"), ("x-sum", "2"), ("content-length", "3"), ("host", "x")]))
    assert dialogue.response().body == b"{'x-sum': '1, 2'}"
    assert parts == [b"one", b"twothree"]


def test_an_upload_that_is_larger_than_all_windows_goes_on_while_it_is_read(talk: Talk) -> None:
    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        return [b"%d" % len(environ["wsgi.input"].read())]

    dialogue = talk(application, http2_max_concurrent_streams=1).open(headers(1, POST, end=False))
    room = {0: 65535, 1: 65535}
    seen = 0
    left = 3_000_000
    while left:
        updates = dialogue.of(WINDOW_UPDATE)
        for each in updates[seen:]:
            room[each.stream] += int.from_bytes(each.payload, "big")
        seen = len(updates)
        count = min(left, 16384, *room.values())
        if count <= 0:
            gevent.sleep(0.001)
            continue
        left -= count
        room[0] -= count
        room[1] -= count
        dialogue.say(data(1, bytes(count), end=not left))
    assert dialogue.response().body == b"3000000"


def test_100_is_sent_when_the_application_reads(talk: Talk) -> None:
    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        body = environ["wsgi.input"].read() if environ["PATH_INFO"] == "/read" else b"not read"
        start_response("200 OK", [])
        return [body]

    expecting = [("expect", "100-continue"), ("content-length", "4")]
    dialogue = talk(application).open(headers(1, path("/read", *expecting, method="POST"), end=False))
    dialogue.wait(lambda: 1 in dialogue.streams)
    assert dialogue.streams[1].heads == [[(":status", "100")]]
    dialogue.say(data(1, b"body", end=True))
    assert dialogue.response().body == b"body"
    dialogue.say(headers(3, path("/", *expecting, method="POST"), end=False))
    assert [head[0] for head in dialogue.response(3).heads] == [(":status", "200")]


def test_a_response_before_the_end_of_the_body_resets_the_stream_without_an_error(talk: Talk) -> None:
    dialogue = talk(hello).open(headers(1, POST, end=False), data(1, b"some"))
    assert dialogue.response().body == b"hello"
    dialogue.wait(lambda: dialogue.streams[1].reset is not None)
    assert dialogue.streams[1].reset == NO_ERROR
    dialogue.say(data(1, b"more"), headers(3))  # which was under way
    assert dialogue.response(3).status == "200"


def test_a_body_above_the_limit_is_a_413_and_the_stream_is_reset(talk: Talk) -> None:
    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        environ["wsgi.input"].read()
        return hello(environ, start_response)

    exchanges: list[Exchange] = []
    events = Events()
    events.subscribe(exchange=exchanges.append)
    dialogue = talk(application, HTTPSettings(limit_request_body=10, linger=0.1), events=events)
    dialogue.open(headers(1, [*POST, ("content-length", "11")], end=False), headers(3, POST, end=False), data(3, bytes(11)))
    for number in (1, 3):
        assert dialogue.response(number).status == "413"
        stream = dialogue.streams[number]
        dialogue.wait(lambda stream=stream: stream.reset is not None)
        assert stream.reset == NO_ERROR and stream.ended
    assert [(each.status, each.refused is not None, each.request_line) for each in exchanges] == [
        ("413 Content Too Large" if "Content" in exchanges[0].status else "413 Request Entity Too Large", True, "POST / HTTP/2.0")
    ] * 2


def test_requests_that_are_reset_and_connections_that_end_are_noted_as_in_http_1(talk: Talk) -> None:
    exchanges: list[Exchange] = []
    refusals: list[Any] = []
    events = Events()
    events.subscribe(exchange=exchanges.append, refused=lambda connection, refusal: refusals.append(refusal))
    events.counts = ExchangeCounts()
    upper = headers(1, path("/%61?b=c", ("X-Upper", "1"), ("user-agent", "tester"), method="PUT"))
    dialogue = talk(hello, events=events).open(upper, headers(3, [(":method", "GET")]), headers(5))
    assert dialogue.response(5).status == "200"
    assert dialogue.streams[1].reset == dialogue.streams[3].reset == PROTOCOL_ERROR
    dialogue.say(frame(PING, 0, 1, bytes(8)))
    dialogue.heard(GOAWAY)
    assert isinstance(dialogue.leave(), PeerError)
    late = talk(hello, HTTPSettings(request_head_timeout=0.01, linger=0.1), events=events).open(frame(1, 1, 1, b""))
    late.heard(SETTINGS, 2)
    gevent.sleep(0.02)
    sweep([late.server.lifeline], late.server.lifeline.deadline + 1)
    late.heard(GOAWAY)
    assert isinstance(late.leave(), PeerError)
    assert [(each.request_line, each.status[:3], each.refused is not None, each.body_bytes) for each in exchanges] == [
        ("PUT /%61?b=c HTTP/2.0", "400", True, 0),
        ("GET  HTTP/2.0", "400", True, 0),
        ("GET / HTTP/2.0", "200", False, 5),
        ("PRI * HTTP/2.0", "400", True, 0),
        ("PRI * HTTP/2.0", "408", True, 0),
    ]
    assert (exchanges[0].request["PATH_INFO"], exchanges[0].request["HTTP_USER_AGENT"]) == ("/a", "tester")
    assert exchanges[0].request["muxwsgi.fields"] == [("user-agent", "tester")]
    assert [(each.kind, each.status) for each in refusals] == [("refused", status) for status in (400, 400, 400, 408)]
    assert "head" in refusals[3].reason, "a deadline of a head, for the metrics"
    other = METHODS.index("other") * len(STATUSES)
    assert {STATUSES[at - other]: count for at, count in enumerate(events.counts.requests) if count and at >= other} == {"400": 3, "408": 1}


def test_the_connection_cannot_be_taken_over(talk: Talk, errors: Callable[[], list[str]]) -> None:
    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        with pytest.raises(RuntimeError, match="HTTP/2"):
            environ["muxwsgi.hijack"]()
        return hello(environ, start_response)

    dialogue = talk(application).open(headers(1), headers(3, POST, end=False))
    assert (dialogue.response(1).status, dialogue.response(3).status) == ("200", "200")
    assert errors() == []


@pytest.mark.parametrize("kind", ["websocket", "application"])
def test_no_response_has_a_field_of_the_connection(talk: Talk, kind: str) -> None:
    """curl and browsers take a response with one for malformed."""

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        if kind == "websocket":
            accept(environ)
        start_response("426 Upgrade Required", [("Upgrade", "x"), ("Content-Type", "text/plain")])
        return [b""]

    response = talk(application).open(headers(1)).response()
    assert response.status == "426"
    assert not {name for head in response.heads for name, _ in head} & {"upgrade", "connection"}


# Who waits for whom


def test_a_request_that_is_refused_for_a_takeover_costs_no_other_request(talk: Talk, errors: Callable[[], list[str]]) -> None:
    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        if environ["PATH_INFO"] == "/ws":
            with suppress(PeerError):
                accept(environ)
        return hello(environ, start_response)

    dialogue = talk(application).open(headers(1, path("/ws")), headers(3))
    assert (dialogue.response(1).status, dialogue.response(3).status) == ("426", "200")
    dialogue.say(headers(5), headers(7, path("/ws")))
    assert (dialogue.response(5).status, dialogue.response(7).status) == ("200", "426")
    assert errors() == []


def test_an_application_that_waits_holds_up_nobody(talk: Talk) -> None:
    go_on = Event()

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        if environ["PATH_INFO"] == "/wait":
            go_on.wait()
        return hello(environ, start_response)

    dialogue = talk(application).open(headers(1, path("/wait")), headers(3, path("/wait")), headers(5), frame(PING, 0, 0, b"12345678"))
    assert dialogue.response(5).body == b"hello"
    dialogue.heard(PING)
    dialogue.say(headers(7))
    assert dialogue.response(7).body == b"hello"
    assert 1 not in dialogue.streams and 3 not in dialogue.streams
    go_on.set()
    assert (dialogue.response(1).body, dialogue.response(3).body) == (b"hello", b"hello")
    assert dialogue.say(headers(9)).response(9).body == b"hello"
    assert dialogue.leave() is None


def test_responses_take_what_the_windows_allow_and_go_on_when_they_open(talk: Talk) -> None:
    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        return [bytes(100_000)]

    dialogue = talk(application).open(settings((4, 10)), headers(1), headers(3))
    dialogue.wait(lambda: len(dialogue.streams) == 2 and all(len(each.body) == 10 for each in dialogue.streams.values()))
    dialogue.say(window_update(3, 1 << 20))
    dialogue.wait(lambda: len(dialogue.streams[3].body) == 65535 - 10)  # the window of the connection
    assert len(dialogue.streams[1].body) == 10
    dialogue.say(window_update(0, 1 << 20))
    assert len(dialogue.response(3).body) == 100_000
    dialogue.say(settings((4, 60_000)))
    dialogue.wait(lambda: len(dialogue.streams[1].body) == 60_000)
    dialogue.say(settings((4, 20)), window_update(1, 39_980), settings((4, 100_000)))
    assert len(dialogue.response(1).body) == 100_000


def test_large_responses_take_turns(talk: Talk) -> None:
    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        return [bytes(400_000)]

    dialogue = talk(application).open(settings((4, 1 << 20)), headers(1), headers(3), headers(5))
    def sizes() -> list[int]:
        return [len(dialogue.streams[number].body) if number in dialogue.streams else 0 for number in (1, 3, 5)]

    for total in range(65535, 1_000_000, 100_000):
        dialogue.wait(lambda total=total: sum(sizes()) == total)
        assert max(sizes()) - min(sizes()) <= 2 * 65536
        dialogue.say(window_update(0, 100_000))
    dialogue.say(window_update(0, 200_000))
    assert all(len(dialogue.response(number).body) == 400_000 for number in (1, 3, 5))


def test_the_most_urgent_response_comes_first_and_priorities_may_change(talk: Talk) -> None:
    order: list[str] = []

    def application(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield bytes(65535 if environ["PATH_INFO"] == "/first" else 50_000)
        order.append(environ["PATH_INFO"])

    dialogue = talk(application).open(settings((4, 1 << 20)), headers(1, path("/first")))
    assert dialogue.response().ended
    names = {"/late": "u=7", "/a": "u=3", "/b": "u=3, i", "/soon": "u=0", "/changed": "u=7"}
    dialogue.say(*(headers(3 + 2 * at, path(name, ("priority", text))) for at, (name, text) in enumerate(names.items())))
    dialogue.wait(lambda: len(dialogue.streams) == 6)
    dialogue.say(frame(PRIORITY_UPDATE, 0, 0, struct.pack(">L", 11) + b"u=1"))
    for _ in range(30):
        dialogue.say(window_update(0, 16384))
        gevent.sleep(0.005)
    dialogue.wait(lambda: len(order) == 6)
    assert order == ["/first", "/soon", "/changed", "/a", "/b", "/late"]


def test_requests_that_came_together_are_served_in_the_order_of_their_urgency(talk: Talk) -> None:
    served: list[str] = []

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        served.append(environ["PATH_INFO"])
        return hello(environ, start_response)

    update = frame(PRIORITY_UPDATE, 0, 0, struct.pack(">L", 7) + b"u=0")  # of a request that has not come yet
    dialogue = talk(application).open(
        update, headers(1, path("/a", ("priority", "u=5"))), headers(3, path("/b")), headers(5, path("/c", ("priority", "u=1"))), headers(7, path("/d"))
    )
    for number in (1, 3, 5, 7):
        dialogue.response(number)
    assert served == ["/d", "/c", "/b", "/a"]


# Streams that end early


def test_a_cancelled_request_fails_reads_and_writes_and_is_closed_once(talk: Talk, errors: Callable[[], list[str]]) -> None:
    seen: list[str] = []

    class Result:
        def __iter__(self) -> Iterator[bytes]:
            try:
                while True:
                    yield b"more"
                    gevent.sleep(0.001)
            except GeneratorExit:
                seen.append("generator")
                raise

        def close(self) -> None:
            seen.append("close")

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        if environ["PATH_INFO"] == "/read":
            try:
                environ["wsgi.input"].read()
            except OSError as error:
                seen.append(type(error).__name__)
                raise
        start_response("200 OK", [])
        return Result()

    dialogue = talk(application).open(headers(1), headers(3, path("/read", method="POST"), end=False))
    dialogue.head(1)
    dialogue.say(reset(1), reset(3, NO_ERROR))
    dialogue.wait(lambda: len(seen) >= 3)
    assert sorted(seen) == ["ConnectionResetError", "close", "generator"]
    assert dialogue.say(frame(PING, 0, 0, bytes(8))).heard(PING)
    assert dialogue.streams[1].reset is None and errors() == []


def test_a_request_that_is_reset_in_the_same_packet_is_not_served(talk: Talk) -> None:
    served: list[str] = []

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        served.append(environ["PATH_INFO"])
        return hello(environ, start_response)

    dialogue = talk(application).open(headers(1, path("/a")), headers(3, path("/b")), reset(1))
    assert dialogue.response(3).status == "200"
    assert served == ["/b"]


def test_a_client_that_closes_ends_the_applications(talk: Talk, errors: Callable[[], list[str]]) -> None:
    ended: list[str] = []

    def application(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        try:
            while True:
                yield bytes(1000)
                gevent.sleep(0.001)
        finally:
            ended.append(environ["PATH_INFO"])

    dialogue = talk(application).open(headers(1), headers(3))
    dialogue.head(1)
    dialogue.head(3)
    dialogue.leave()
    assert ended == ["/", "/"] and errors() == []


def test_a_timeout_of_the_application_in_a_write_costs_its_stream_alone(talk: Talk, errors: Callable[[], list[str]]) -> None:
    def application(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", [])
        if environ["PATH_INFO"] == "/slow":
            with gevent.Timeout(0.05):
                environ["muxwsgi.response"].write(bytes(200_000))
        return [b"done"]

    dialogue = talk(application).open(settings((4, 100)), headers(1, path("/slow")), headers(3))
    assert dialogue.response(3).body == b"done"
    assert dialogue.response(1).reset == INTERNAL_ERROR
    assert dialogue.say(window_update(0, 1 << 20), headers(5)).response(5).body == b"done"


# The end


def test_a_connection_error_is_said_and_ends_the_connection(talk: Talk) -> None:
    dialogue = talk(hello).open(headers(1), data(0))
    dialogue.heard(GOAWAY)
    error = dialogue.leave()
    assert str(error).endswith("DATA on stream 0")
    assert [each.code for each in dialogue.of(GOAWAY)] == [PROTOCOL_ERROR]


def test_a_drain_says_goodbye_in_two_steps_and_lets_streams_end(talk: Talk) -> None:
    go_on = Event()

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        if environ["PATH_INFO"] == "/wait":
            go_on.wait()
        return hello(environ, start_response)

    dialogue = talk(application, HTTPSettings(linger=5)).open(headers(1, path("/wait")), headers(3))
    dialogue.response(3)
    dialogue.handler.draining = True
    dialogue.server.lifeline.drain()
    (first,) = dialogue.heard(GOAWAY)
    assert (int.from_bytes(first.payload[:4], "big"), first.code) == ((1 << 31) - 1, NO_ERROR)
    (ping,) = dialogue.heard(PING)
    dialogue.say(headers(5))  # which was under way
    assert dialogue.response(5).status == "200"
    dialogue.say(frame(PING, ACK, 0, ping.payload))
    _, second = dialogue.heard(GOAWAY, 2)
    assert (int.from_bytes(second.payload[:4], "big"), second.code) == (5, NO_ERROR)
    dialogue.say(headers(7))
    assert not dialogue.closed
    go_on.set()
    assert dialogue.response(1).status == "200"
    dialogue.wait(lambda: dialogue.closed)
    dialogue.client.finish()
    assert dialogue.end() is None
    assert 7 not in dialogue.streams


def test_an_idle_connection_is_drained_even_if_the_client_does_not_answer(talk: Talk) -> None:
    dialogue = talk(hello, HTTPSettings(linger=0.05)).open(headers(1))
    dialogue.response()
    dialogue.handler.draining = True
    dialogue.server.lifeline.drain()
    dialogue.heard(GOAWAY)
    gevent.sleep(0.1)
    sweep([dialogue.server.lifeline], dialogue.server.lifeline.deadline + 1)
    dialogue.heard(GOAWAY, 2)
    dialogue.client.finish()
    assert dialogue.end() is None


def test_a_connection_that_rests_ends_with_goaway(talk: Talk) -> None:
    dialogue = talk(hello, HTTPSettings(keep_alive=0.01, linger=0.1)).open(headers(1))
    dialogue.response()
    gevent.sleep(0.05)
    sweep([dialogue.server.lifeline], dialogue.server.lifeline.deadline + 1)
    assert dialogue.heard(GOAWAY)[0].code == NO_ERROR
    dialogue.client.finish()
    assert dialogue.end() is None


def test_keep_alive_0_ends_the_connection_behind_the_first_requests(talk: Talk) -> None:
    dialogue = talk(hello, HTTPSettings(keep_alive=0, linger=0.1)).open(headers(1))
    assert dialogue.response().status == "200"
    assert dialogue.heard(GOAWAY)[0].code == NO_ERROR


def test_pings_and_parts_of_frames_do_not_keep_a_connection_open(talk: Talk) -> None:
    """A client that sends a byte a minute would otherwise have its connection for ever."""
    dialogue = talk(hello)
    line = dialogue.server.lifeline

    def deadline_after(*said: bytes) -> float:
        dialogue.say(*said)
        expected = sum(map(len, said)) + before
        dialogue.wait(lambda: dialogue.server.bytes_received == expected and line.resting)
        return line.deadline

    dialogue.wait(lambda: line.resting)
    first = line.deadline
    for part in (OPENING[:5], OPENING[5:], frame(PING, 0, 0, bytes(8)), headers(1)[:-1]):
        before = dialogue.server.bytes_received
        gevent.sleep(0.01)
        assert deadline_after(part) == first
    before = dialogue.server.bytes_received
    behind_a_request = deadline_after(headers(1)[-1:])
    for part in (frame(PING, 0, 0, bytes(8)), headers(3)[:9]):
        before = dialogue.server.bytes_received
        gevent.sleep(0.01)
        assert deadline_after(part) == behind_a_request
    before = dialogue.server.bytes_received
    assert deadline_after(headers(3)[9:]) > behind_a_request


def test_a_long_upload_is_noted_once(talk: Talk) -> None:
    """The sweeper looks at each body for which an application waits. A body waits again for each frame."""

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        while part := environ["wsgi.input"].read1():
            parts.append(part)
        start_response("200 OK", [])
        return []

    parts: list[bytes] = []
    dialogue = talk(application).open(headers(1, POST, end=False))
    for count in range(1, 50):
        dialogue.say(data(1, bytes(1024)))
        dialogue.wait(lambda count=count: len(parts) == count)
        gevent.sleep(0)
    gc.collect()
    (body,) = (each for each in gc.get_objects() if isinstance(each, StreamBody) and each.waits)
    holders = [each for each in gc.get_referrers(body) if isinstance(each, list | set)]
    assert [len(each) for each in holders] == [1]


def test_a_head_that_comes_too_slowly_ends_the_connection(talk: Talk) -> None:
    dialogue = talk(hello, HTTPSettings(request_head_timeout=0.01, linger=0.1)).open(frame(1, 1, 1, b""))
    dialogue.heard(SETTINGS, 2)
    gevent.sleep(0.05)
    sweep([dialogue.server.lifeline], dialogue.server.lifeline.deadline + 1)
    assert dialogue.heard(GOAWAY)[0].code == ENHANCE_YOUR_CALM


def test_a_body_that_comes_too_slowly_is_a_408(talk: Talk) -> None:
    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        return [environ["wsgi.input"].read()]

    dialogue = talk(application, HTTPSettings(body_rate_grace=5, linger=0.1)).open(headers(1, POST, end=False), headers(3))
    dialogue.wait(lambda: 3 in dialogue.streams)
    sweep([dialogue.server.lifeline], time.monotonic() + 4)
    gevent.sleep(0.01)
    assert 1 not in dialogue.streams
    sweep([dialogue.server.lifeline], time.monotonic() + 6)
    assert dialogue.response(1).status == "408"


def test_a_response_that_is_taken_too_slowly_is_reset(talk: Talk) -> None:
    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        return [bytes(100_000)]

    dialogue = talk(application, HTTPSettings(body_rate_grace=5, linger=0.1)).open(settings((4, 10)), headers(1))
    dialogue.wait(lambda: 1 in dialogue.streams and dialogue.streams[1].body)
    now = time.monotonic()
    sweep([dialogue.server.lifeline], now + 3)
    dialogue.say(window_update(1, 2000))  # which buys four seconds
    dialogue.wait(lambda: len(dialogue.streams[1].body) == 2010)
    sweep([dialogue.server.lifeline], now + 4)
    gevent.sleep(0.01)
    assert dialogue.streams[1].reset is None
    sweep([dialogue.server.lifeline], now + 20)
    assert dialogue.response(1).reset in (CANCEL, INTERNAL_ERROR)


def test_a_client_that_does_not_answer_pings_is_given_up(talk: Talk) -> None:
    go_on = Event()

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        go_on.wait()
        return hello(environ, start_response)

    dialogue = talk(application, HTTPSettings(linger=0.1)).open(headers(1))
    dialogue.heard(SETTINGS, 2)
    line = dialogue.server.lifeline
    now = time.monotonic()
    sweep([line], now)
    sweep([line], now + 61)
    (ping,) = dialogue.heard(PING)
    dialogue.say(frame(PING, ACK, 0, ping.payload))
    gevent.sleep(0.01)
    sweep([line], now + 62)
    sweep([line], now + 124)
    dialogue.heard(PING, 2)
    sweep([line], now + 145)
    dialogue.wait(lambda: dialogue.closed)
    go_on.set()
    assert isinstance(dialogue.end(), TimeoutError)


def test_a_cut_ends_all_applications(talk: Talk) -> None:
    ended: list[str] = []

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        try:
            Event().wait()
        except BaseException as error:
            ended.append(type(error).__name__)
            raise
        return []

    dialogue = talk(application).open(headers(1), headers(3), headers(5))
    dialogue.heard(SETTINGS, 2)
    gevent.sleep(0.01)
    gevent.kill(dialogue.serving, Cut)
    assert isinstance(dialogue.end(), Cut)
    assert ended == ["Cut"] * 3


def test_a_client_that_reads_nothing_cannot_make_the_server_keep_more_and_more(talk: Talk) -> None:
    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("204 No Content", [("X-Large", "x" * 1000), ("X-Number", environ["PATH_INFO"])])
        return []

    dialogue = talk(application)
    dialogue.reading.kill()
    sent = 0

    def flood() -> None:
        nonlocal sent
        dialogue.open()
        while True:
            dialogue.say(headers(1 + 2 * sent, path(f"/{sent}" + "y" * 1000)))
            sent += 1

    flooding = gevent.spawn(flood)
    gevent.sleep(0.3)
    before = sent
    gevent.sleep(0.2)
    assert sent == before  # it is not read any more
    flooding.kill()


def test_exchanges_are_reported_as_those_of_http_1(talk: Talk) -> None:
    exchanges: list[Exchange] = []
    events = Events()
    events.subscribe(exchange=exchanges.append)
    dialogue = talk(hello, events=events).open(headers(1, path("/a?b", ("user-agent", "x"))))
    dialogue.response()
    (each,) = exchanges
    assert (each.request_line, each.status, each.body_bytes, each.refused) == ("GET /a?b HTTP/2.0", "200 OK", 5, None)
    assert each.request["HTTP_USER_AGENT"] == "x"


def test_the_application_gets_the_keys_of_wsgi(talk: Talk) -> None:
    seen: dict[str, Any] = {}

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        seen.update(environ)
        assert environ["wsgi.input"].read() == b""
        return hello(environ, start_response)

    talk(application).open(headers(1, GET)).response()
    assert (seen["wsgi.url_scheme"], seen["SERVER_NAME"], seen["REMOTE_ADDR"], seen["SCRIPT_NAME"]) == ("http", "memory", "memory", "")
    assert all(isinstance(value, str) for key, value in seen.items() if "." not in key)
