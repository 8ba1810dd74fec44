"""`ClientEngine`: one connection of HTTP/2 as its client sees it, without I/O (RFC 9113). Frames, windows, tables and limits are those of
`Engine`: an upstream can attack a client by the same means.

We open the streams, the peer answers on them. A stream that the peer opens (server push, which our SETTINGS forbid) is an error of the
connection. Streams that the peer has not begun to process, by REFUSED_STREAM or above the last id of its GOAWAY, are noted as `refused`,
since their requests can be sent again (section 8.7).

The requests on one connection are those of several clients, so what one of them causes must not use up the `Budget` of all. A stream costs
no points when the peer resets it or makes an error on it: that happens once for each request. Nor do frames that were under way when we
have reset a stream, as long as the peer was allowed to send them.
"""

from typing import Protocol

from muxwsgi.http.client.response_head import ResponseHead
from muxwsgi.http.h2.body import Reader, StreamBody
from muxwsgi.http.h2.encoder import Pair
from muxwsgi.http.h2.engine import RESET_BY_PEER, Engine
from muxwsgi.http.h2.errors import ENHANCE_YOUR_CALM, PROTOCOL_ERROR, REFUSED_STREAM, ConnectionFault, StreamFault
from muxwsgi.http.h2.field import CONNECTION_SPECIFIC, LENGTH, MALFORMED, STATUS, UNKNOWN_PSEUDO, Field
from muxwsgi.http.h2.frames import END_STREAM, WINDOW_AT_MOST
from muxwsgi.http.h2.sender import Sender
from muxwsgi.http.h2.stream import Stream
from muxwsgi.settings import HTTP2Settings, HTTPSettings

__all__ = ["ClientEngine", "Responses"]

_LENGTH_DIGITS = 18

#: Frames without data that a response has: its head, its trailers, or an END_STREAM instead.
_BLOCKS = 2


class Responses(Reader, Protocol):
    """What the engine tells of."""

    def answered(self, stream: Stream, head: ResponseHead) -> None:
        """A response head has come, interim ones included."""


class ClientEngine(Engine):
    """The client's side."""

    def __init__(self, sender: Sender, reader: Responses, http: HTTPSettings, settings: HTTP2Settings) -> None:
        Engine.__init__(self, sender, reader, {}, http, settings, opens=True)
        # Methods of base classes are called by name, since super() knows no C methods.
        self._responses = reader
        self._next = 1
        self._fields_at_most = http.limit_request_fields
        #: Numbers of streams whose final head has come.
        self._begun: set[int] = set()
        #: Streams that the peer has not processed.
        self.refused: set[int] = set()
        # What may still come on streams that we have reset.
        self._late_bytes = 0
        self._late_blocks = 0

    @property
    def room(self) -> int:
        """How many streams can be opened now."""
        if self.peer_leaves or self.fault is not None or self._next >= WINDOW_AT_MOST:
            return 0
        return max(min(self.peer_streams, self._limit) - self.running, 0)  # the windows have room for `_limit`

    def open(self, method: str, pairs: list[Pair], ends: bool, protocol: str | None) -> Stream:
        """A new stream with the request `pairs`. `ends`: it has no body. `protocol`: as `Stream.protocol`."""
        stream = Stream.__new__(Stream)
        stream.begin(self._next, self.sender.initial)
        stream.method = method
        stream.protocol = protocol
        stream.patient = True
        windows = self._windows
        stream.body = StreamBody(self._reader, self._http, stream.id, False, -1, windows.window, windows.initial)
        self.last = stream.id
        self._next += 2
        self.streams[stream.id] = stream
        self.running += 1
        self.sender.fields(stream, pairs, ends)
        if ends:
            self.finish(stream)
        return stream

    def _trailers(self, number: int, fields: list[Field], flags: int) -> None:
        """A field block of the peer: a response head, or trailers."""
        stream = self.streams.get(number)
        if stream is None or number in self._begun:
            Engine._trailers(self, number, fields, flags)
            return
        body = stream.body
        assert body is not None
        try:
            head = self._head(fields)
            ends = bool(flags & END_STREAM)
            if head.status < 200:
                if ends or head.status == 101:
                    raise StreamFault(PROTOCOL_ERROR, "an interim response that ends the stream, or a 101")
            else:
                self._begun.add(number)
                bodiless = stream.method == "HEAD" or head.status in (204, 304)
                if stream.protocol is not None and head.status < 300:
                    pass  # a tunnel, and a length in its head is ignored (RFC 9110 section 9.3.6)
                elif head.length is not None and not bodiless:
                    if ends and head.length:
                        raise StreamFault(PROTOCOL_ERROR, "Content-Length of a response without a body")
                    body.length = head.length
                elif bodiless:
                    body.length = 0
        except StreamFault as fault:
            self._fault(stream, fault.code, str(fault))
            return
        self._responses.answered(stream, head)
        if ends:
            self._peer_ended(stream)

    def _data(self, whole: bytes, flags: int, number: int, start: int, end: int) -> None:
        stream = self.streams.get(number)
        if stream is not None and number not in self._begun:
            self._windows.came(end - start)
            self._windows.give_back(end - start)
            self._fault(stream, PROTOCOL_ERROR, "DATA before the head of the response")
            return
        Engine._data(self, whole, flags, number, start, end)

    def _head(self, fields: list[Field]) -> ResponseHead:
        """Section 8.3.2."""
        if self._decoder.too_large or len(fields) > self._fields_at_most:
            raise StreamFault(ENHANCE_YOUR_CALM, "the head of the response is too large")
        status = -1
        length: int | None = None
        regular: list[tuple[str, str]] = []
        for each in fields:
            kind = each.kind
            if kind == STATUS and status < 0 and not regular:
                if len(each.value) != 3 or not each.value.isdigit() or not each.value.isascii() or each.value[0] == "0":
                    raise StreamFault(PROTOCOL_ERROR, "the status is malformed")
                status = int(each.value)
            elif kind <= UNKNOWN_PSEUDO or kind in (MALFORMED, CONNECTION_SPECIFIC):
                raise StreamFault(PROTOCOL_ERROR, f"the field {each.name!r} cannot be in a response of HTTP/2")
            else:
                if kind == LENGTH:
                    if length is not None or not each.value.isascii() or not each.value.isdigit() or len(each.value) > _LENGTH_DIGITS:
                        raise StreamFault(PROTOCOL_ERROR, "Content-Length is repeated, or is not a number")
                    length = int(each.value)
                regular.append((each.name, each.value))
        if status < 0:
            raise StreamFault(PROTOCOL_ERROR, "the status is missing")
        return ResponseHead(status, "", 1, regular, length, False, True, version="HTTP/2")

    def reset(self, stream: Stream, code: int, reason: str) -> None:
        body = stream.body
        if stream.code < 0 and body is not None and stream.id in self.streams:
            self._late_bytes = min(self._late_bytes + max(body.left, 0), WINDOW_AT_MOST)
            self._late_blocks += _BLOCKS
        Engine.reset(self, stream, code, reason)

    def _came_late(self, size: int, what: str) -> None:
        if size and self._late_bytes >= size:
            self._late_bytes -= size
        elif not size and self._late_blocks:
            self._late_blocks -= 1
        else:
            Engine._came_late(self, size, what)

    def _reset_by_peer(self, number: int, code: int) -> None:
        stream = self.streams.get(number)
        if stream is not None and stream.ended:  # the response is complete without the rest of the request (section 8.1)
            stream.code = code
            stream.wake()
            self._close(stream, RESET_BY_PEER)
            return
        if code == REFUSED_STREAM and stream is not None:
            self.refused.add(number)
        Engine._reset_by_peer(self, number, code)

    def _priority_update(self, number: int, payload: bytes) -> None:
        raise ConnectionFault(PROTOCOL_ERROR, "PRIORITY_UPDATE from a server")  # RFC 9218 section 7.1

    def _fail(self, stream: Stream, reason: str) -> None:
        if stream.ended:  # the response is complete. What fails is the rest of the request
            stream.wake()
        else:
            Engine._fail(self, stream, reason)

    def leave_above(self) -> None:
        """The peer has sent GOAWAY: it does not process the streams above the one that it has named."""
        for stream in list(self.streams.values()):
            if stream.id <= self.peer_last:
                continue
            self.refused.add(stream.id)
            stream.code = REFUSED_STREAM
            self._fail(stream, "the server serves no more requests on this connection")
            self.streams.pop(stream.id, None)

    def release(self, stream: Stream) -> None:
        Engine.release(self, stream)
        self._begun.discard(stream.id)
        self.refused.discard(stream.id)
