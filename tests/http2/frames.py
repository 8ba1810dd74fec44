"""Frames as tests write and read them, with the `hpack` package for field blocks: none of the code under test."""

import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import hpack

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
PRIORITY_UPDATE = 16
END_STREAM, ACK, END_HEADERS, PADDED, PRIORITIZED = 1, 1, 4, 8, 32
NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, FLOW_CONTROL_ERROR, SETTINGS_TIMEOUT, STREAM_CLOSED, FRAME_SIZE_ERROR, REFUSED_STREAM = range(8)
CANCEL, COMPRESSION_ERROR, CONNECT_ERROR, ENHANCE_YOUR_CALM = range(8, 12)
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

Fields = list[tuple[str, str]]

GET: Fields = [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "a.example")]
CONNECT: Fields = [(":method", "CONNECT"), (":authority", "a.example:7")]
#: An extended CONNECT (RFC 8441) for a WebSocket.
WEBSOCKET: Fields = [(":method", "CONNECT"), (":protocol", "websocket"), *GET[1:], ("sec-websocket-version", "13")]
POST: Fields = [(":method", "POST"), (":scheme", "http"), (":path", "/"), (":authority", "a.example")]


class Frame(NamedTuple):
    kind: int
    flags: int
    stream: int
    payload: bytes

    @property
    def code(self) -> int:
        """The error code of RST_STREAM or GOAWAY."""
        return int(struct.unpack_from(">L", self.payload, 4 if self.kind == GOAWAY else 0)[0])

    @property
    def ends(self) -> bool:
        return self.kind in (DATA, HEADERS) and bool(self.flags & END_STREAM)


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    return struct.pack(">L", len(payload))[1:] + struct.pack(">BBL", kind, flags, stream) + payload


def settings(*pairs: tuple[int, int]) -> bytes:
    return frame(SETTINGS, 0, 0, b"".join(struct.pack(">HL", *pair) for pair in pairs))


def window_update(stream: int, count: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, stream, struct.pack(">L", count))


def reset(stream: int, code: int = CANCEL) -> bytes:
    return frame(RST_STREAM, 0, stream, struct.pack(">L", code))


def data(stream: int, payload: bytes = b"", end: bool = False) -> bytes:
    return frame(DATA, END_STREAM if end else 0, stream, payload)


OPENING = PREFACE + settings()


def block(fields: Fields) -> bytes:
    """A field block that changes no table."""
    return hpack.Encoder().encode([hpack.NeverIndexedHeaderTuple(*field) for field in fields])


def headers(stream: int, fields: Fields = GET, end: bool = True, flags: int = 0) -> bytes:
    return frame(HEADERS, END_HEADERS | (END_STREAM if end else 0) | flags, stream, block(fields))


def parse(received: bytes) -> tuple[list[Frame], bytes]:
    """The whole frames of `received`, and the rest."""
    frames = []
    while len(received) >= 9:
        size = int.from_bytes(received[:3], "big")
        if len(received) < 9 + size:
            break
        kind, flags, stream = struct.unpack_from(">BBL", received, 3)
        frames.append(Frame(kind, flags, stream, received[9 : 9 + size]))
        received = received[9 + size :]
    return frames, received


class Response:
    """What came on one stream."""

    def __init__(self) -> None:
        self.heads: list[Fields] = []
        self.body = b""
        self.ended = False
        self.reset: int | None = None

    @property
    def status(self) -> str:
        return self.heads[-1][0][1] if len(self.heads) == 1 or self.heads[-1][0][0] == ":status" else self.heads[-2][0][1]

    def field(self, name: str) -> str | None:
        return next((value for head in self.heads for key, value in head if key == name), None)


class Responses:
    """Puts the frames of a server together."""

    def __init__(self) -> None:
        self.decoder = hpack.Decoder(max_header_list_size=1 << 20)
        self.streams: dict[int, Response] = {}
        self.control: list[Frame] = []
        self._rest = b""
        self._block = b""

    def add(self, received: bytes) -> list[Frame]:
        frames, self._rest = parse(self._rest + received)
        for each in frames:
            self._add(each)
        return frames

    def _add(self, each: Frame) -> None:
        if each.kind in (HEADERS, CONTINUATION, DATA, RST_STREAM):
            response = self.streams.setdefault(each.stream, Response())
            assert not response.ended or each.kind == RST_STREAM, f"{each} behind the end"
        else:
            self.control.append(each)
            return
        if each.kind in (HEADERS, CONTINUATION):
            self._block += each.payload
            if each.flags & END_HEADERS:
                response.heads.append([(name.decode("latin-1"), value.decode("latin-1")) for name, value in self.decoder.decode(self._block, raw=True)])
                self._block = b""
        elif each.kind == DATA:
            response.body += each.payload
        else:
            response.reset = each.code
        response.ended |= each.ends

    def of(self, kind: int) -> list[Frame]:
        """The control frames of one type that have come."""
        return [each for each in self.control if each.kind == kind]


def cut(data: bytes, sizes: Iterable[int]) -> Iterator[bytes]:
    """`data` in pieces of these sizes, and the rest."""
    for size in sizes:
        if data:
            yield data[:size]
            data = data[size:]
    if data:
        yield data
