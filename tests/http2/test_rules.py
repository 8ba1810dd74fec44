"""The MUSTs of RFC 9113 about what a client sends: which error, and of which scope. Frames go to the engine, without I/O."""

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from muxwsgi.http.h2.body import StreamBody
from muxwsgi.http.h2.engine import Engine
from muxwsgi.http.h2.field import Field
from muxwsgi.http.h2.sender import OwnFields, Sender
from muxwsgi.settings import HTTP2Settings, HTTPSettings
from tests.http2.frames import (
    ACK,
    CANCEL,
    COMPRESSION_ERROR,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    ENHANCE_YOUR_CALM,
    FLOW_CONTROL_ERROR,
    FRAME_SIZE_ERROR,
    GET,
    GOAWAY,
    HEADERS,
    OPENING,
    PADDED,
    PING,
    POST,
    PREFACE,
    PRIORITIZED,
    PRIORITY,
    PRIORITY_UPDATE,
    PROTOCOL_ERROR,
    PUSH_PROMISE,
    REFUSED_STREAM,
    RST_STREAM,
    SETTINGS,
    STREAM_CLOSED,
    WINDOW_UPDATE,
    Fields,
    Frame,
    block,
    cut,
    data,
    frame,
    headers,
    parse,
    reset,
    settings,
    window_update,
)


class Peer:
    """An engine, and what it has sent."""

    def __init__(self, http: HTTPSettings | None = None, **limits: int) -> None:
        self.sender = Sender(OwnFields("muxwsgi"))
        self.engine = Engine(self.sender, self, {"wsgi.url_scheme": "https"}, http or HTTPSettings(), HTTP2Settings(**limits))
        self.begun: list[Any] = []
        self.sent: list[Frame] = []
        self.take()
        self.sent.clear()  # SETTINGS and WINDOW_UPDATE: see the first test

    def taken(self, body: StreamBody, count: int) -> None:
        self.engine.taken(body, count)

    def continue_(self, body: StreamBody) -> None:
        raise AssertionError

    def wait_for(self, body: StreamBody) -> None:
        raise AssertionError

    def malformed(self, fields: list[Field], reason: str) -> None:
        assert fields and reason

    def take(self) -> list[Frame]:
        frames, rest = parse(self.sender.take())
        assert not rest
        self.sent += frames
        return frames

    def hear(self, *frames: bytes) -> list[Frame]:
        """What the engine answers to `frames`, besides the acknowledgement of SETTINGS."""
        self.begun += self.engine.receive(b"".join(frames))
        return [each for each in self.take() if (each.kind, each.flags) != (SETTINGS, ACK)]

    def errors(self) -> list[tuple[str, int, int]]:
        """("connection", 0, code) and ("stream", number, code), as they were sent."""
        return [
            ("connection", 0, each.code) if each.kind == GOAWAY else ("stream", each.stream, each.code)
            for each in self.sent
            if each.kind in (GOAWAY, RST_STREAM)
        ]


def connection(code: int) -> list[tuple[str, int, int]]:
    return [("connection", 0, code)]


def stream(code: int, number: int = 1) -> list[tuple[str, int, int]]:
    return [("stream", number, code)]


def with_field(*fields: tuple[str, str], of: Fields = GET) -> bytes:
    return headers(1, [*of, *fields])


LONG = 16385
OPEN = headers(1, POST, end=False)
CLOSED = headers(1) + reset(1)
SELF = struct.pack(">LB", 1, 15)

#: What the client sends behind its preface and SETTINGS, and the error.
RULES: dict[str, tuple[bytes, list[tuple[str, int, int]]]] = {
    # 4.1, 4.2: frames
    "4.1: unknown types are ignored": (frame(200, 255, 0, b"x") + frame(200, 0, 7, b""), []),
    "4.1: unknown flags are ignored": (frame(PING, 254, 0, b"12345678") + headers(1, flags=0x40), []),
    "4.1: the reserved bit is ignored": (frame(PING, 0, 1 << 31, b"12345678"), []),
    "4.2: DATA that is too large": (OPEN + frame(DATA, 0, 1, bytes(LONG)), connection(FRAME_SIZE_ERROR)),
    "4.2: HEADERS that are too large": (frame(HEADERS, END_HEADERS, 1, bytes(LONG)), connection(FRAME_SIZE_ERROR)),
    "4.2: SETTINGS that are too large": (frame(SETTINGS, 0, 0, bytes(LONG)), connection(FRAME_SIZE_ERROR)),
    # 4.3: field blocks
    "4.3: a block that cannot be decoded": (frame(HEADERS, END_HEADERS | END_STREAM, 1, b"\xff\xff\xff\xff\xff"), connection(COMPRESSION_ERROR)),
    "4.3: PRIORITY inside of a block": (frame(HEADERS, END_STREAM, 1, block(GET)) + frame(PRIORITY, 0, 1, SELF), connection(PROTOCOL_ERROR)),
    "4.3: HEADERS inside of a block": (frame(HEADERS, END_STREAM, 1, block(GET)) + headers(3), connection(PROTOCOL_ERROR)),
    "4.3: CONTINUATION of another stream": (
        frame(HEADERS, END_STREAM, 1, b"") + frame(CONTINUATION, END_HEADERS, 3, block(GET)),
        connection(PROTOCOL_ERROR),
    ),
    "4.3: an unknown type inside of a block": (frame(HEADERS, END_STREAM, 1, b"") + frame(99), connection(PROTOCOL_ERROR)),
    # 5.1: states of streams
    "5.1: DATA on an idle stream": (data(1, b"x"), connection(PROTOCOL_ERROR)),
    "5.1: RST_STREAM on an idle stream": (reset(1), connection(PROTOCOL_ERROR)),
    "5.1: WINDOW_UPDATE on an idle stream": (window_update(1, 1), connection(PROTOCOL_ERROR)),
    "5.1: CONTINUATION on an idle stream": (frame(CONTINUATION, END_HEADERS, 1, block(GET)), connection(PROTOCOL_ERROR)),
    "5.1: DATA on a half-closed stream": (headers(1) + data(1, b"x"), connection(STREAM_CLOSED)),
    "5.1: HEADERS on a half-closed stream": (headers(1) + headers(1), connection(STREAM_CLOSED)),
    "5.1: CONTINUATION on a half-closed stream": (headers(1) + frame(CONTINUATION, END_HEADERS, 1, b""), connection(PROTOCOL_ERROR)),
    "5.1: WINDOW_UPDATE on a half-closed stream": (headers(1) + window_update(1, 1), []),
    "5.1: PRIORITY on a half-closed stream": (headers(1) + frame(PRIORITY, 0, 1, struct.pack(">LB", 0, 9)), []),
    "5.1: DATA on a stream that the client has reset": (CLOSED + data(1, b"x"), connection(STREAM_CLOSED)),
    "5.1: HEADERS on a stream that the client has reset": (CLOSED + headers(1), connection(STREAM_CLOSED)),
    "5.1: WINDOW_UPDATE on a closed stream": (CLOSED + window_update(1, 1), []),
    "5.1: RST_STREAM on a closed stream": (CLOSED + reset(1), []),
    "5.1: DATA on a stream that we have reset": (headers(1, [*POST, ("te", "x")], end=False) + data(1, b"x", end=True), stream(PROTOCOL_ERROR)),
    "5.1: trailers on a stream that we have reset": (headers(1, [*POST, ("te", "x")], end=False) + headers(1, []), stream(PROTOCOL_ERROR)),
    "5.1.1: an even number": (headers(2), connection(PROTOCOL_ERROR)),
    "5.1.1: a lower number": (headers(5) + headers(3), connection(PROTOCOL_ERROR)),
    "5.3: a stream that depends on itself": (
        frame(HEADERS, END_HEADERS | END_STREAM | PRIORITIZED, 1, SELF + block(GET)),
        stream(PROTOCOL_ERROR),
    ),
    "5.3: PRIORITY that depends on itself": (OPEN + frame(PRIORITY, 0, 1, SELF), stream(PROTOCOL_ERROR)),
    # 6.1: DATA
    "6.1: on stream 0": (data(0, b"x"), connection(PROTOCOL_ERROR)),
    "6.1: padding that is too long": (OPEN + frame(DATA, PADDED, 1, b"\x05abcd"), connection(PROTOCOL_ERROR)),
    "6.1: padding that is the rest": (OPEN + frame(DATA, PADDED | END_STREAM, 1, b"\x04abcd"), []),
    "6.1: no length of the padding": (OPEN + frame(DATA, PADDED, 1, b""), connection(FRAME_SIZE_ERROR)),
    # 6.2: HEADERS
    "6.2: on stream 0": (headers(0), connection(PROTOCOL_ERROR)),
    "6.2: padding that is too long": (frame(HEADERS, PADDED | END_HEADERS, 1, b"\xff" + block(GET)), connection(PROTOCOL_ERROR)),
    "6.2: padding and priority": (
        frame(HEADERS, PADDED | PRIORITIZED | END_HEADERS | END_STREAM, 1, b"\x02" + struct.pack(">LB", 0, 9) + block(GET) + b"\0\0"),
        [],
    ),
    "6.2: no room for the priority": (frame(HEADERS, PRIORITIZED | END_HEADERS, 1, b"\0\0\0"), connection(FRAME_SIZE_ERROR)),
    # 6.3: PRIORITY
    "6.3: on stream 0": (frame(PRIORITY, 0, 0, bytes(5)), connection(PROTOCOL_ERROR)),
    "6.3: not 5 bytes": (OPEN + frame(PRIORITY, 0, 1, bytes(4)), stream(FRAME_SIZE_ERROR)),
    # 6.4: RST_STREAM
    "6.4: on stream 0": (reset(0), connection(PROTOCOL_ERROR)),
    "6.4: not 4 bytes": (OPEN + frame(RST_STREAM, 0, 1, bytes(3)), connection(FRAME_SIZE_ERROR)),
    # 6.5: SETTINGS
    "6.5: an acknowledgement with a payload": (frame(SETTINGS, ACK, 0, bytes(6)), connection(FRAME_SIZE_ERROR)),
    "6.5: on a stream": (frame(SETTINGS, 0, 1), connection(PROTOCOL_ERROR)),
    "6.5: not a multiple of 6": (frame(SETTINGS, 0, 0, bytes(5)), connection(FRAME_SIZE_ERROR)),
    "6.5.2: ENABLE_PUSH of 2": (settings((2, 2)), connection(PROTOCOL_ERROR)),
    "6.5.2: INITIAL_WINDOW_SIZE that is too large": (settings((4, 1 << 31)), connection(FLOW_CONTROL_ERROR)),
    "6.5.2: MAX_FRAME_SIZE that is too small": (settings((5, 16383)), connection(PROTOCOL_ERROR)),
    "6.5.2: MAX_FRAME_SIZE that is too large": (settings((5, 1 << 24)), connection(PROTOCOL_ERROR)),
    "6.5.2: unknown settings are ignored": (settings((99, 1), (1, 0), (2, 0), (3, 0), (5, 1 << 20), (6, 1)), []),
    # 6.6, 6.7, 6.8
    "6.6: PUSH_PROMISE": (OPEN + frame(PUSH_PROMISE, END_HEADERS, 1, bytes(4) + block(GET)), connection(PROTOCOL_ERROR)),
    "6.7: PING on a stream": (frame(PING, 0, 1, bytes(8)), connection(PROTOCOL_ERROR)),
    "6.7: PING of 7 bytes": (frame(PING, 0, 0, bytes(7)), connection(FRAME_SIZE_ERROR)),
    "6.7: an answer that nobody asked for": (frame(PING, ACK, 0, bytes(8)), []),
    "6.8: GOAWAY on a stream": (frame(GOAWAY, 0, 1, bytes(8)), connection(PROTOCOL_ERROR)),
    "6.8: GOAWAY of 7 bytes": (frame(GOAWAY, 0, 0, bytes(7)), connection(FRAME_SIZE_ERROR)),
    "6.8: GOAWAY": (frame(GOAWAY, 0, 0, bytes(8)), []),
    # 6.9: WINDOW_UPDATE
    "6.9: 0 bytes, of the connection": (window_update(0, 0), connection(PROTOCOL_ERROR)),
    "6.9: 0 bytes, of a stream": (OPEN + window_update(1, 0), stream(PROTOCOL_ERROR)),
    "6.9: not 4 bytes": (frame(WINDOW_UPDATE, 0, 0, bytes(3)), connection(FRAME_SIZE_ERROR)),
    "6.9.1: too large a window, of the connection": (window_update(0, (1 << 31) - 1), connection(FLOW_CONTROL_ERROR)),
    "6.9.1: too large a window, of a stream": (OPEN + window_update(1, (1 << 31) - 1), stream(FLOW_CONTROL_ERROR)),
    "6.9.2: SETTINGS that make a window too large": (
        OPEN + window_update(1, (1 << 31) - 1 - 65535) + settings((4, 65536)),
        connection(FLOW_CONTROL_ERROR),
    ),
    # 6.10: CONTINUATION
    "6.10: on stream 0": (frame(HEADERS, END_STREAM, 1, b"") + frame(CONTINUATION, END_HEADERS, 0, block(GET)), connection(PROTOCOL_ERROR)),
    "6.10: behind END_HEADERS": (headers(1, end=False) + frame(CONTINUATION, END_HEADERS, 1, b""), connection(PROTOCOL_ERROR)),
    "6.10: two of them": (
        frame(HEADERS, END_STREAM, 1, block(GET)[:3]) + frame(CONTINUATION, 0, 1, b"") + frame(CONTINUATION, END_HEADERS, 1, block(GET)[3:]),
        [],
    ),
    # 8.1: messages
    "8.1: a second HEADERS without an end": (OPEN + headers(1, [("x-a", "b")], end=False), stream(PROTOCOL_ERROR)),
    "8.1: trailers": (OPEN + headers(1, [("x-a", "b")]), []),
    "8.1: trailers that are too large": (OPEN + headers(1, [("x-a", "b")] * 2000), stream(ENHANCE_YOUR_CALM)),
    "8.1: a pseudo-field in trailers": (OPEN + headers(1, [(":method", "GET")]), stream(PROTOCOL_ERROR)),
    "8.1: a capital letter in trailers": (OPEN + headers(1, [("X-A", "b")]), stream(PROTOCOL_ERROR)),
    "8.1.1: a body that is shorter than its length": (
        headers(1, [*POST, ("content-length", "2")], end=False) + data(1, b"x", end=True),
        stream(PROTOCOL_ERROR),
    ),
    "8.1.1: a body that is longer": (headers(1, [*POST, ("content-length", "1")], end=False) + data(1, b"xy"), stream(PROTOCOL_ERROR)),
    "8.1.1: no body, and a length": (with_field(("content-length", "1")), stream(PROTOCOL_ERROR)),
    "8.1.1: no body, and a length of 0": (with_field(("content-length", "0")), []),
    "8.1.1: a length and trailers": (
        headers(1, [*POST, ("content-length", "2")], end=False) + data(1, b"x") + headers(1, [("x-a", "b")]),
        stream(PROTOCOL_ERROR),
    ),
    # 8.2: fields
    "8.2: a capital letter": (with_field(("X-a", "b")), stream(PROTOCOL_ERROR)),
    "8.2.1: a blank in a name": (with_field(("x a", "b")), stream(PROTOCOL_ERROR)),
    "8.2.1: a colon in a name": (with_field(("x:a", "b")), stream(PROTOCOL_ERROR)),
    "8.2.1: an empty name": (with_field(("", "b")), stream(PROTOCOL_ERROR)),
    "8.2.1: a NUL in a value": (with_field(("x-a", "b\0")), stream(PROTOCOL_ERROR)),
    "8.2.1: a line break in a value": (with_field(("x-a", "b\r\nc: d")), stream(PROTOCOL_ERROR)),
    "8.2.1: a blank around a value": (with_field(("x-a", " b")), stream(PROTOCOL_ERROR)),
    "8.2.1: a tab around a value": (with_field(("x-a", "b\t")), stream(PROTOCOL_ERROR)),
    "8.2.1: a tab in a value": (with_field(("x-a", "b\tc")), []),
    "8.2.2: connection": (with_field(("connection", "close")), stream(PROTOCOL_ERROR)),
    "8.2.2: transfer-encoding": (with_field(("transfer-encoding", "chunked")), stream(PROTOCOL_ERROR)),
    "8.2.2: upgrade": (with_field(("upgrade", "h2c")), stream(PROTOCOL_ERROR)),
    "8.2.2: keep-alive": (with_field(("keep-alive", "1")), stream(PROTOCOL_ERROR)),
    "8.2.2: proxy-connection": (with_field(("proxy-connection", "close")), stream(PROTOCOL_ERROR)),
    "8.2.2: te of gzip": (with_field(("te", "trailers, deflate")), stream(PROTOCOL_ERROR)),
    "8.2.2: te of trailers": (with_field(("te", "trailers")), []),
    # 8.3: pseudo-fields
    "8.3: behind a field": (headers(1, [("x-a", "b"), *GET]), stream(PROTOCOL_ERROR)),
    "8.3: one that is not known": (headers(1, [(":x", "b"), *GET]), stream(PROTOCOL_ERROR)),
    "8.3: one of responses": (headers(1, [*GET, (":status", "200")]), stream(PROTOCOL_ERROR)),
    "8.3.1: twice": (headers(1, [*GET, (":path", "/")]), stream(PROTOCOL_ERROR)),
    "8.3.1: no method": (headers(1, GET[1:]), stream(PROTOCOL_ERROR)),
    "8.3.1: no scheme": (headers(1, [GET[0], *GET[2:]]), stream(PROTOCOL_ERROR)),
    "8.3.1: no path": (headers(1, [*GET[:2], *GET[3:]]), stream(PROTOCOL_ERROR)),
    "8.3.1: an empty path": (headers(1, [*GET[:2], (":path", ""), GET[3]]), stream(PROTOCOL_ERROR)),
    "8.3.1: a path that is none": (headers(1, [*GET[:2], (":path", "a"), GET[3]]), stream(PROTOCOL_ERROR)),
    "8.3.1: * for GET": (headers(1, [*GET[:2], (":path", "*"), GET[3]]), stream(PROTOCOL_ERROR)),
    "8.3.1: * for OPTIONS": (headers(1, [(":method", "OPTIONS"), GET[1], (":path", "*"), GET[3]]), []),
    "8.3.1: a scheme that is none": (
        headers(1, [(":method", "GET"), (":scheme", "http://b.example/?"), (":path", "/"), (":authority", "a.example")]),
        stream(PROTOCOL_ERROR),
    ),
    "8.3.1: another scheme": (headers(1, [(":method", "GET"), (":scheme", "coap+tcp"), (":path", "/"), (":authority", "a.example")]), []),
    "8.3.1: a Host that differs": (with_field(("host", "b.example")), stream(PROTOCOL_ERROR)),
    "8.3.1: a Host that is the same": (with_field(("host", "A.example")), []),
    "8.3.1: a method that is no token": (headers(1, [(":method", "G T"), *GET[1:]]), stream(PROTOCOL_ERROR)),
    "8.5: CONNECT": (headers(1, [(":method", "CONNECT"), (":authority", "a:1")], end=False), []),
    "8.5: CONNECT with a path": (headers(1, [(":method", "CONNECT"), (":authority", "a:1"), (":path", "/")]), stream(PROTOCOL_ERROR)),
    "8.5: CONNECT without an authority": (headers(1, [(":method", "CONNECT")]), stream(PROTOCOL_ERROR)),
    "8.5: HEADERS in a tunnel": (
        headers(1, [(":method", "CONNECT"), (":authority", "a:1")], end=False) + headers(1, [("a", "b")]),
        stream(PROTOCOL_ERROR),
    ),
    "RFC 8441 4: an extended CONNECT": (headers(1, [(":method", "CONNECT"), *GET[1:], (":protocol", "websocket")], end=False), []),
    "RFC 8441 4: without a path": (
        headers(1, [(":method", "CONNECT"), (":protocol", "websocket"), (":scheme", "http"), (":authority", "a")]),
        stream(PROTOCOL_ERROR),
    ),
    "RFC 8441 4: without an authority": (headers(1, [(":method", "CONNECT"), *GET[1:3], (":protocol", "x")]), stream(PROTOCOL_ERROR)),
    "RFC 8441 4: with another method": (headers(1, [*GET, (":protocol", "websocket")]), stream(PROTOCOL_ERROR)),
    "RFC 8441 4: a protocol that is no token": (
        headers(1, [(":method", "CONNECT"), *GET[1:], (":protocol", "a b")]),
        stream(PROTOCOL_ERROR),
    ),
    # RFC 9218
    "RFC 9218 7.1: PRIORITY_UPDATE": (headers(1) + frame(PRIORITY_UPDATE, 0, 0, struct.pack(">L", 1) + b"u=1, i"), []),
    "RFC 9218 7.1: on a stream": (headers(1) + frame(PRIORITY_UPDATE, 0, 1, struct.pack(">L", 1) + b"u=1"), connection(PROTOCOL_ERROR)),
    "RFC 9218 7.1: of stream 0": (frame(PRIORITY_UPDATE, 0, 0, bytes(4)), connection(PROTOCOL_ERROR)),
    "RFC 9218 7.1: of 3 bytes": (frame(PRIORITY_UPDATE, 0, 0, bytes(3)), connection(FRAME_SIZE_ERROR)),
}


@pytest.mark.parametrize("rule", RULES)
def test_an_error_has_its_code_and_its_scope(rule: str) -> None:
    sent, expected = RULES[rule]
    peer = Peer()
    peer.hear(OPENING, sent)
    assert peer.errors() == expected, peer.engine.fault


@hypothesis_settings(deadline=None)
@given(st.sampled_from(sorted(RULES)), st.lists(st.integers(1, 40), max_size=30))
def test_errors_do_not_depend_on_how_the_bytes_were_cut(rule: str, sizes: list[int]) -> None:
    sent, expected = RULES[rule]
    peer = Peer()
    for piece in cut(OPENING + sent, sizes):
        peer.hear(piece)
    assert peer.errors() == expected


def test_the_server_begins_with_settings_and_opens_the_window_of_the_connection() -> None:
    sender = Sender(OwnFields(""))
    Engine(sender, Peer(), {"wsgi.url_scheme": "https"}, HTTPSettings(), HTTP2Settings())
    (first, second), _ = parse(sender.take())
    assert (first.kind, first.flags, first.stream) == (SETTINGS, 0, 0)
    pairs = dict(struct.iter_unpack(">HL", first.payload))
    assert pairs == {3: 128, 4: 65535, 6: 65536, 8: 1, 9: 1}
    assert (second.kind, second.stream) == (WINDOW_UPDATE, 0)
    assert int.from_bytes(second.payload, "big") == 127 * 65535 + (1 << 20)  # room for the windows of all streams, and for one that grows


@pytest.mark.parametrize("preface", [b"GET / HTTP/1.1\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\r", b"P" + bytes(30)])
def test_a_malformed_preface_is_a_connection_error(preface: bytes) -> None:
    peer = Peer()
    peer.hear(preface)
    assert peer.errors() == connection(PROTOCOL_ERROR)


@pytest.mark.parametrize("first", [headers(1), frame(PING, 0, 0, bytes(8)), frame(SETTINGS, ACK), data(1, b"x")])
def test_the_first_frame_has_to_be_settings(first: bytes) -> None:
    peer = Peer()
    peer.hear(PREFACE, first)
    assert peer.errors() == connection(PROTOCOL_ERROR)


def test_settings_and_pings_are_answered_in_order() -> None:
    peer = Peer()
    peer.hear(OPENING, frame(PING, 0, 0, b"12345678"), settings())
    kinds = [(each.kind, each.flags, each.payload) for each in peer.sent]
    assert kinds == [(SETTINGS, ACK, b""), (PING, ACK, b"12345678"), (SETTINGS, ACK, b"")]


def test_after_a_connection_error_nothing_is_read() -> None:
    peer = Peer()
    peer.hear(OPENING, data(0), headers(1))
    peer.hear(headers(3))
    assert peer.begun == [] and len(peer.errors()) == 1
    goaway = peer.sent[-1]
    assert goaway.payload[:4] == bytes(4) and goaway.payload[8:] == b"DATA on stream 0"


def test_a_stream_above_the_limit_is_refused_until_an_application_has_returned() -> None:
    peer = Peer(http2_max_concurrent_streams=2)
    peer.hear(OPENING, headers(1), headers(3), headers(5))
    assert peer.errors() == stream(REFUSED_STREAM, 5)
    peer.hear(reset(1), headers(7))  # the stream is closed, its application still runs
    assert peer.errors() == [*stream(REFUSED_STREAM, 5), *stream(REFUSED_STREAM, 7)]
    peer.engine.release(peer.begun[0])
    peer.hear(headers(9))
    assert [each.id for each in peer.begun] == [1, 3, 9]


def test_more_data_than_a_window_has_room_for_is_an_error_of_that_window() -> None:
    peer = Peer(http2_initial_window_size=65535, http2_max_concurrent_streams=1)
    peer.hear(OPENING, OPEN, *[data(1, bytes(16384))] * 3, data(1, bytes(16383)))
    assert peer.errors() == []
    peer.hear(data(1, b"x"))
    assert peer.errors() == stream(FLOW_CONTROL_ERROR)
    peer.hear(*[data(1, bytes(16384))] * 100)
    assert peer.errors()[1:] == []  # it was reset: what was under way is dropped, and given back to the window of the connection


def test_windows_are_given_back_as_the_application_reads() -> None:
    peer = Peer()
    peer.hear(OPENING, OPEN, *[data(1, bytes(16384))] * 3)
    body = peer.begun[0].body
    assert [each for each in peer.sent if each.kind == WINDOW_UPDATE] == []
    assert len(body.read_some(20_000)) == 16384
    assert len(body.read_some(1 << 20)) == 32768
    updates = [int.from_bytes(each.payload, "big") for each in peer.take() if each.kind == WINDOW_UPDATE and each.stream == 1]
    assert sum(updates) >= 49152
    peer.hear(data(1, b"end", end=True))
    assert body.read_some(100) == b"end" and body.done
    assert [each for each in peer.take() if each.kind == WINDOW_UPDATE and each.stream == 1] == []  # nothing more comes on it


def test_the_window_of_an_upload_grows_while_its_application_keeps_up_and_no_further_than_the_limit() -> None:
    peer = Peer()
    peer.hear(OPENING, OPEN)
    body = peer.begun[0].body
    for _ in range(200):
        if body.left >= 16384:
            peer.hear(data(1, bytes(16384)))
        else:
            while body.untaken:
                body.read_some(1 << 20)
    assert body.window == 1 << 20
    peer.hear(headers(3, POST, end=False))
    other = peer.begun[1].body
    for _ in range(200):
        if other.left >= 16384:
            peer.hear(data(3, bytes(16384)))
        else:
            while other.untaken:
                other.read_some(1 << 20)
    assert 65535 < other.window < 200_000  # what the first one has left of the growth
    assert peer.errors() == []


def test_a_larger_initial_window_counts_once_the_client_has_acknowledged_it() -> None:
    peer = Peer(http2_initial_window_size=100_000)
    peer.hear(OPENING, OPEN)
    assert peer.begun[0].body.left == 65535
    peer.hear(frame(SETTINGS, ACK), headers(3, POST, end=False))
    assert [each.body.left for each in peer.begun] == [100_000, 100_000]


@pytest.mark.parametrize(
    ("name", "flood"),
    [
        ("PING", frame(PING, 0, 0, bytes(8))),
        ("SETTINGS", settings()),
        ("PRIORITY", frame(PRIORITY, 0, 1, struct.pack(">LB", 0, 9))),
        ("PRIORITY_UPDATE", frame(PRIORITY_UPDATE, 0, 0, struct.pack(">L", 1) + b"u=1")),
        ("empty DATA", data(1)),
        ("WINDOW_UPDATE by the byte", window_update(0, 1)),
        ("unknown frames", frame(77)),
        ("RST_STREAM on a closed stream", reset(1)),
        ("DATA on a stream that was reset", data(3, b"x")),
        ("answers to nothing", frame(PING, ACK, 0, bytes(8))),
        ("GOAWAY", frame(GOAWAY, 0, 0, bytes(8))),
    ],
)
def test_a_flood_ends_the_connection(name: str, flood: bytes) -> None:
    peer = Peer()
    peer.hear(OPENING, headers(1, POST, end=False), headers(3, [*POST, ("te", "x")], end=False))
    for _ in range(20):
        peer.hear(flood * 50)
    assert ("connection", 0, ENHANCE_YOUR_CALM) in peer.errors(), name


def test_a_rapid_reset_ends_the_connection() -> None:
    """CVE-2023-44487."""
    peer = Peer()
    peer.hear(OPENING)
    for number in range(1, 1000, 2):
        for each in peer.engine.receive(headers(number) + reset(number)):
            peer.engine.release(each)
    peer.take()
    assert peer.errors()[-1:] == connection(ENHANCE_YOUR_CALM)
    assert peer.engine.last < 500


def test_errors_that_make_the_server_reset_streams_end_the_connection() -> None:
    """CVE-2025-8671."""
    peer = Peer()
    peer.hear(OPENING)
    for number in range(1, 1000, 2):
        for each in peer.engine.receive(headers(number, POST, end=False) + window_update(number, 0)):
            peer.engine.release(each)
    peer.take()
    assert peer.errors()[-1:] == connection(ENHANCE_YOUR_CALM)
    assert len(peer.errors()) < 250


def test_a_block_in_many_frames_or_without_an_end_ends_the_connection() -> None:
    peer = Peer()
    peer.hear(OPENING, frame(HEADERS, END_STREAM, 1, b""), frame(CONTINUATION, 0, 1, b"") * 20)
    assert peer.errors() == connection(ENHANCE_YOUR_CALM)
    peer = Peer()
    peer.hear(OPENING, frame(HEADERS, END_STREAM, 1, b""), *[frame(CONTINUATION, 0, 1, bytes(16384))] * 17)
    assert peer.errors() == connection(ENHANCE_YOUR_CALM)


def test_work_pays_for_what_brings_nothing_forward() -> None:
    peer = Peer()
    peer.hear(OPENING)
    for number in range(1, 4000, 2):
        (each,) = peer.engine.receive(headers(number) + frame(PING, 0, 0, bytes(8)) * 2)
        peer.engine.finish(each)
        peer.engine.release(each)
    peer.take()
    assert peer.errors() == []


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ([*GET[:2], (":path", "/" + "x" * 8190), GET[3]], 414),
        ([*GET, ("x-a", "b" * 8190)], 431),
        ([*GET, *[("x-a", "b")] * 100], 431),
        ([*GET, *[(f"x-{n}", "b" * 4000) for n in range(17)]], 431),
        ([*GET[:2], (":path", "/a b"), GET[3]], 400),
        ([*GET[:2], (":path", "/a#b"), GET[3]], 400),
        ([*GET[:3], (":authority", "user@a")], 400),
        (GET[:3], 400),
        ([*GET, ("content-length", "+1")], 400),
        ([*GET, ("content-length", "0"), ("content-length", "0")], 400),
        ([*GET, ("expect", "more")], 417),
        ([*GET, ("content-length", "1001")], 413),
        ([(":method", "CONNECT"), (":authority", "a")], 400),
    ],
)
def test_what_http_1_refuses_is_refused_with_the_same_status(fields: Fields, status: int) -> None:
    peer = Peer(HTTPSettings(limit_request_body=1000))
    payload = block(fields)
    parts = [payload[at : at + 16384] for at in range(0, len(payload), 16384)]
    end = 0 if ("content-length", "1001") in fields else END_STREAM
    peer.hear(OPENING, frame(HEADERS, end | (END_HEADERS if len(parts) == 1 else 0), 1, parts[0]))
    for part in parts[1:]:
        peer.hear(frame(CONTINUATION, END_HEADERS if part is parts[-1] else 0, 1, part))
    assert peer.errors() == []
    assert [each.refusal.status for each in peer.begun] == [status]


def test_the_environ_of_a_request() -> None:
    peer = Peer()
    fields = [
        (":method", "GET"), (":scheme", "https"), (":path", "/a%20b/%C3%A9?x=1&y=%20"), (":authority", "a.example:8443"),
        ("cookie", "a=1"), ("cookie", "b=2"), ("accept", "text/html"), ("accept", "*/*"), ("x_y", "forged"), ("content-type", "text/plain"),
    ]  # fmt: skip
    peer.hear(OPENING, headers(1, fields))
    environ = peer.begun[0].environ
    assert environ == {
        "wsgi.url_scheme": "https",
        "REQUEST_METHOD": "GET",
        "REQUEST_URI": "/a%20b/%C3%A9?x=1&y=%20",
        "RAW_URI": "/a%20b/%C3%A9?x=1&y=%20",
        "PATH_INFO": "/a b/\xc3\xa9",
        "QUERY_STRING": "x=1&y=%20",
        "SERVER_PROTOCOL": "HTTP/2.0",
        "HTTP_HOST": "a.example:8443",
        "HTTP_COOKIE": "a=1; b=2",
        "HTTP_ACCEPT": "text/html, */*",
        "CONTENT_TYPE": "text/plain",
        "muxwsgi.fields": (("host", "a.example:8443"), *fields[4:]),
    }


def test_the_same_request_again_has_an_environ_of_its_own() -> None:
    peer = Peer()
    peer.hear(OPENING, headers(1), headers(3))
    first, second = (each.environ for each in peer.begun)
    assert first == second and first is not second
    first["HTTP_HOST"] = "changed"
    peer.hear(headers(5))
    assert peer.begun[2].environ == second


def test_a_request_behind_a_final_goaway_is_not_served_and_its_block_still_counts() -> None:
    peer = Peer()
    peer.hear(OPENING, headers(1))
    peer.engine.go_away()
    peer.hear(headers(3))
    assert [each.id for each in peer.begun] == [1, 3]
    peer.engine.refuse_new()
    inserting = frame(HEADERS, END_HEADERS | END_STREAM, 5, block(GET) + b"\x40\x01a\x01b")
    peer.hear(inserting, data(5, b"x"))
    assert [each.id for each in peer.begun] == [1, 3]
    lasts = [int.from_bytes(each.payload[:4], "big") for each in peer.sent if each.kind == GOAWAY]
    assert lasts == [(1 << 31) - 1, 3]


def test_a_cancelled_stream_fails_its_body_and_nothing_else() -> None:
    peer = Peer()
    peer.hear(OPENING, OPEN, headers(3, POST, end=False), data(1, b"x"), reset(1))
    first, second = peer.begun
    assert first.code == CANCEL
    with pytest.raises(ConnectionResetError):
        first.body.read_some(10)
    peer.hear(data(3, b"y", end=True))
    assert second.body.read_some(10) == b"y"
