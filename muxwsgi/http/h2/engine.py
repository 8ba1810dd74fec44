"""`Engine`: one connection of HTTP/2 as its server sees it, without I/O (RFC 9113).

Bytes go into `receive`, which returns the streams whose request has come, in order. What they cause is put into the `Sender`. Greenlets
that wait for a stream are woken. Nothing here waits, reads or writes.

Theory of operation
-------------------

The connection:

    preface     24 octets, then SETTINGS. Anything else is no HTTP/2.
    open        frames of any stream, in any order, but nothing between HEADERS and the last CONTINUATION of a block.
    draining    `go_away()` has told the peer to open no more streams. Those that it has opened meanwhile are still served.
    refusing    `refuse_new()` has told it the last stream that is served. Later ones are ignored, except for their field blocks, which
                change the table, and their DATA, which counts in the window.
    closed      `fault` is set, GOAWAY is the last frame, and what comes is dropped.

A stream: see `Stream`. `streams` has those that are open. Of closed ones the last few are remembered, with the side that closed them.
Frames of a stream that we have reset may be under way, and are ignored; frames of a stream that the peer has ended are its error.

Errors of the peer have one of two scopes (section 5.4). Inside a field block, and wherever windows or tables would differ afterwards, it is
the connection. Elsewhere it is the stream. Both cost points of the `Budget`.

Memory is bounded by `Windows`, by the limit of streams, and by the limits below. The file is long because a compiled class is in one file.
"""

import errno
from typing import Any

from muxwsgi.errors import PeerError
from muxwsgi.http.h2.body import Reader, StreamBody
from muxwsgi.http.h2.budget import RESET, SMALL, Budget
from muxwsgi.http.h2.decoder import Decoder
from muxwsgi.http.h2.errors import (
    CANCEL,
    ENHANCE_YOUR_CALM,
    FLOW_CONTROL_ERROR,
    FRAME_SIZE_ERROR,
    INTERNAL_ERROR,
    NO_ERROR,
    PROTOCOL_ERROR,
    REFUSED_STREAM,
    STREAM_CLOSED,
    ConnectionFault,
    StreamFault,
)
from muxwsgi.http.h2.field import LENGTH
from muxwsgi.http.h2.frames import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    FRAME_AT_MOST,
    GOAWAY,
    HEADERS,
    PADDED,
    PING,
    PREFACE,
    PRIORITIZED,
    PRIORITY_FRAME,
    PRIORITY_UPDATE,
    PUSH_PROMISE,
    RST_STREAM,
    SENT_AT_MOST,
    SETTINGS,
    WINDOW_AT_MOST,
    WINDOW_UPDATE,
    setting,
)
from muxwsgi.http.h2.priority import parse_priority
from muxwsgi.http.h2.request import Requests, check_trailers
from muxwsgi.http.h2.sender import Sender
from muxwsgi.http.h2.stream import Stream
from muxwsgi.http.h2.windows import GROWTH, UPSTREAM_GROWTH, Windows
from muxwsgi.settings import HTTP2Settings, HTTPSettings

__all__ = ["RESET_BY_PEER", "Engine"]

#: Bytes of one field block as it is sent. Larger ones end the connection; smaller ones that are above `limit_request_head` get a 431.
BLOCK_AT_MOST = 1 << 18
CONTINUATIONS_AT_MOST = 16

#: Closed streams that are remembered, and priorities of streams that have not begun.
CLOSED_AT_MOST = 256
PRIORITIES_AT_MOST = 32

#: Streams that a client opens before it knows the server's limit. Servers should not have a lower one (RFC 9113 section 6.5.2).
STREAMS_BEFORE_SETTINGS = 100

#: A WINDOW_UPDATE or a DATA frame of fewer bytes than this brings little forward.
SMALL_AT_MOST = 1024

#: How a stream was closed.
_BOTH_ENDED, _RESET_BY_US, RESET_BY_PEER = 0, 1, 2

#: The payloads of our PINGs: one asks whether the peer is alive, the other whether it has read GOAWAY.
PING_ALIVE = b"muxwsgi?"
PING_GONE = b"muxwsgi!"


class Engine:
    """The state of one connection.

    sender      what is to be sent
    streams     the open ones, by number
    running     streams that count: those whose application has not returned
    last        the highest number of a stream that was begun
    fault       the error that has ended the connection, None before
    draining    GOAWAY was sent; `refusing`: and it has named the last stream
    peer_leaves the peer has sent GOAWAY
    earns       points of the budget for each DATA frame that we send. A server gives windows back with up to two frames for each, however
                small it is, and a client of the proxy decides how small they are
    settled     the SETTINGS of the peer have come
    in_block    a field block is incomplete
    opened      a window of the peer has opened since the greenlets that wait for one were last looked at
    peer_last   the last stream that its GOAWAY names, and `peer_code`, its error code, -1 before
    peer_streams, peer_connects     its limit of streams, and whether it takes extended CONNECTs, as its SETTINGS say
    pings       PINGs of ours that are not answered; `gone_heard`: the one behind GOAWAY is
    """

    __slots__ = (
        "_block",
        "_block_flags",
        "_block_size",
        "_block_stream",
        "_buffer",
        "_closed",
        "_decoder",
        "_greeted",
        "_http",
        "_limit",
        "_opens",
        "_priorities",
        "_reader",
        "_ready",
        "_requests",
        "_windows",
        "budget",
        "draining",
        "earns",
        "fault",
        "gone_heard",
        "in_block",
        "last",
        "opened",
        "peer_code",
        "peer_connects",
        "peer_last",
        "peer_leaves",
        "peer_streams",
        "pings",
        "refusing",
        "running",
        "sender",
        "settled",
        "streams",
    )

    def __init__(
        self, sender: Sender, reader: Reader, shared: dict[str, Any], http: HTTPSettings, settings: HTTP2Settings, opens: bool = False
    ) -> None:
        """`reader` is given to the bodies. `shared` is the part of the environ that all requests have. `opens`: this is the client, which
        opens the streams."""
        self.sender = sender
        self._reader: Any = reader
        self._http = http
        self._limit = settings.http2_max_concurrent_streams
        self._requests = Requests(http, shared)
        self._decoder = Decoder(http.limit_request_head)
        self.budget = Budget()
        self.earns = 3 if opens else 1
        self.streams: dict[int, Stream] = {}
        self.running = 0
        self.last = 0
        self.fault: ConnectionFault | None = None
        self.draining = False
        self.refusing = False
        self.peer_leaves = False
        self.in_block = False
        self.opened = False
        self.pings = 0
        self.gone_heard = False
        self._buffer = b""
        self._ready: list[Stream] = []
        self._greeted = opens
        self._opens = opens
        self.peer_last = WINDOW_AT_MOST
        self.peer_code = -1
        self.peer_streams = STREAMS_BEFORE_SETTINGS
        self.peer_connects = False
        self.settled = False
        self._block: list[bytes] = []
        self._block_stream = 0
        self._block_flags = 0
        self._block_size = 0
        self._closed: dict[int, int] = {}
        self._priorities: dict[int, str] = {}
        ours = [(4, settings.http2_initial_window_size), (6, http.limit_request_head)]
        if opens:
            sender.preface()
            ours = [(2, 0), *ours]  # no server push
        else:
            ours = [(3, self._limit), *ours, (8, 1), (9, 1)]
        sender.control(SETTINGS, 0, 0, b"".join([setting(identifier, value) for identifier, value in ours]))
        growth = UPSTREAM_GROWTH if opens else GROWTH
        self._windows = Windows(sender, self._limit, settings.http2_initial_window_size, growth)

    # What comes

    def receive(self, data: bytes) -> list[Stream]:
        """The streams whose requests `data` has completed the heads of, in order."""
        if self.fault is not None:
            return []
        if self._buffer:
            data = self._buffer + data
        try:
            at = self._frames(data)
            self._buffer = data[at:] if at < len(data) else b""
        except ConnectionFault as fault:
            self.end(fault)
        ready = self._ready
        if ready:
            self._ready = []
        return ready

    def _frames(self, whole: bytes) -> int:
        """Read all complete frames of `whole`, and return where the rest begins."""
        end = len(whole)
        at = 0
        if not self._greeted:
            if whole[:24] != PREFACE[:end]:
                raise ConnectionFault(PROTOCOL_ERROR, "the connection preface is malformed")
            if end < 24:
                return 0
            self._greeted = True
            at = 24
        data = whole  # a pointer in the compiled build
        while end - at >= 9:
            size = data[at] << 16 | data[at + 1] << 8 | data[at + 2]
            if size > FRAME_AT_MOST:
                raise ConnectionFault(FRAME_SIZE_ERROR, "a frame is larger than allowed")
            start = at + 9
            if end - start < size:
                break
            kind = data[at + 3]
            flags = data[at + 4]
            number = (data[at + 5] & 127) << 24 | data[at + 6] << 16 | data[at + 7] << 8 | data[at + 8]
            at = start + size
            if self.in_block and (kind != CONTINUATION or number != self._block_stream):
                raise ConnectionFault(PROTOCOL_ERROR, "a frame inside of a field block")
            if kind == HEADERS and self.settled:
                self._headers(whole, flags, number, start, at)
            elif kind == DATA and self.settled:
                self._data(whole, flags, number, start, at)
            else:
                self._other(whole, kind, flags, number, start, at)
        return at

    def _other(self, whole: bytes, kind: int, flags: int, number: int, start: int, end: int) -> None:
        size = end - start
        if not self.settled:
            if kind != SETTINGS or flags & ACK:
                raise ConnectionFault(PROTOCOL_ERROR, "the first frame is not SETTINGS")
            self.settled = True
        if kind == WINDOW_UPDATE:
            if size != 4:
                raise ConnectionFault(FRAME_SIZE_ERROR, "WINDOW_UPDATE has not 4 bytes")
            self._window_update(number, int.from_bytes(whole[start:end], "big") & WINDOW_AT_MOST)
        elif kind == SETTINGS:
            self._settings(whole, flags, number, start, end)
        elif kind == PING:
            if number:
                raise ConnectionFault(PROTOCOL_ERROR, "PING on a stream")
            if size != 8:
                raise ConnectionFault(FRAME_SIZE_ERROR, "PING has not 8 bytes")
            self._ping(flags, whole[start:end])
        elif kind == RST_STREAM:
            if size != 4:
                raise ConnectionFault(FRAME_SIZE_ERROR, "RST_STREAM has not 4 bytes")
            self._reset_by_peer(number, int.from_bytes(whole[start:end], "big"))
        elif kind == PRIORITY_FRAME:
            if not number:
                raise ConnectionFault(PROTOCOL_ERROR, "PRIORITY on stream 0")
            self.budget.spend(SMALL, "PRIORITY")
            if size != 5:
                self._stream_fault(number, FRAME_SIZE_ERROR)
            elif int.from_bytes(whole[start : start + 4], "big") & WINDOW_AT_MOST == number:
                self._stream_fault(number, PROTOCOL_ERROR)
        elif kind == CONTINUATION:
            self._continuation(whole, flags, number, start, end)
        elif kind == PRIORITY_UPDATE:
            self._priority_update(number, whole[start:end])
        elif kind == GOAWAY:
            if number:
                raise ConnectionFault(PROTOCOL_ERROR, "GOAWAY on a stream")
            if size < 8:
                raise ConnectionFault(FRAME_SIZE_ERROR, "GOAWAY has fewer than 8 bytes")
            self.budget.spend(SMALL, "GOAWAY")
            self.peer_leaves = True
            self.peer_last = min(self.peer_last, int.from_bytes(whole[start : start + 4], "big") & WINDOW_AT_MOST)
            self.peer_code = int.from_bytes(whole[start + 4 : start + 8], "big")
        elif kind == PUSH_PROMISE:
            raise ConnectionFault(PROTOCOL_ERROR, "PUSH_PROMISE, which nobody may send here")
        else:  # frames of unknown types are ignored (section 4.1)
            self.budget.spend(SMALL, "frames of unknown types")

    # Field blocks

    def _headers(self, whole: bytes, flags: int, number: int, start: int, end: int) -> None:
        if not number:
            raise ConnectionFault(PROTOCOL_ERROR, "HEADERS on stream 0")
        depends_on_itself = False
        if flags & (PADDED | PRIORITIZED):
            padding = 0
            if flags & PADDED:
                if start == end:
                    raise ConnectionFault(FRAME_SIZE_ERROR, "the length of the padding is missing")
                padding = whole[start]
                start += 1
            if flags & PRIORITIZED:
                if end - start < 5:
                    raise ConnectionFault(FRAME_SIZE_ERROR, "the priority is missing")
                depends_on_itself = int.from_bytes(whole[start : start + 4], "big") & WINDOW_AT_MOST == number
                start += 5
            end -= padding
            if start > end:
                raise ConnectionFault(PROTOCOL_ERROR, "more padding than payload")
        if number <= self.last:
            stream = self.streams.get(number)
            if stream is None:
                # Of ours, one that is forgotten may have been reset by us: a server under load answers late.
                how = self._closed.get(number, _RESET_BY_US if self._opens and number & 1 else -1)
                if how < 0:
                    raise ConnectionFault(PROTOCOL_ERROR, "the number of a stream is lower than that of an earlier one")
                if how != _RESET_BY_US:
                    raise ConnectionFault(STREAM_CLOSED, "HEADERS on a closed stream")
            elif stream.ended:
                raise ConnectionFault(STREAM_CLOSED, "HEADERS on a stream that the peer has ended")
        elif not number & 1 or self._opens:
            raise ConnectionFault(PROTOCOL_ERROR, "a stream that the peer cannot open")
        self._block_flags = flags | (PRIORITIZED << 8 if depends_on_itself else 0)
        if flags & END_HEADERS:
            self._end_block(number, whole[start:end])
        else:
            self.in_block = True
            self._block = [whole[start:end]]
            self._block_stream = number
            self._block_size = end - start

    def _continuation(self, whole: bytes, flags: int, number: int, start: int, end: int) -> None:
        if not self.in_block:
            raise ConnectionFault(PROTOCOL_ERROR, "CONTINUATION without HEADERS")
        self._block.append(whole[start:end])
        self._block_size += end - start
        if self._block_size > BLOCK_AT_MOST or len(self._block) > CONTINUATIONS_AT_MOST + 1:
            raise ConnectionFault(ENHANCE_YOUR_CALM, "a field block is too large, or in too many frames")
        if flags & END_HEADERS:
            block = b"".join(self._block)
            self._block = []
            self.in_block = False
            self._end_block(number, block)

    def _end_block(self, number: int, block: bytes) -> None:
        decoder = self._decoder
        fields = decoder.decode(block)
        flags = self._block_flags
        if number <= self.last:
            self._trailers(number, fields, flags)
            return

        # 1. May it begin?
        self.last = number
        if self.refusing:
            self._remember(number, _RESET_BY_US)
            return
        if self.running >= self._limit:
            self.budget.spend(RESET, "streams above the limit")
            self._put_reset(number, REFUSED_STREAM)
            return

        # 2. What does it ask?
        requests = self._requests
        stream = Stream.__new__(Stream)
        stream.begin(number, self.sender.initial)
        stream.ended = flags & END_STREAM != 0
        refusal: PeerError | None = None
        try:
            if flags > 255:
                raise StreamFault(PROTOCOL_ERROR, "a stream depends on itself")
            stream.environ = requests.read(fields, decoder.too_large, decoder.remembers)
            if stream.ended and requests.length > 0:
                raise StreamFault(PROTOCOL_ERROR, "Content-Length of a request without a body")
        except StreamFault as fault:
            self._reader.malformed(fields, fault.reason)
            self.budget.spend(RESET, str(fault))
            self._put_reset(number, fault.code)
            return
        except PeerError as error:
            self.budget.spend(SMALL, "requests that are refused")
            refusal = error
            stream.environ = requests.environ

        # 3. It is open.
        stream.refusal = refusal
        stream.method = requests.method
        stream.target = requests.target
        stream.urgency = requests.urgency
        stream.sequential = requests.sequential
        stream.protocol = requests.protocol
        if self._priorities:
            self._prioritize(stream, self._priorities.pop(number, ""))
        if not stream.ended or stream.protocol is not None:
            windows = self._windows
            stream.body = StreamBody(
                self._reader, self._http, number, requests.expects_continue, requests.length, windows.window, windows.initial
            )
            if stream.ended:
                stream.body.end()
        self.streams[number] = stream
        self.running += 1
        self._ready.append(stream)

    def _trailers(self, number: int, fields: list[Any], flags: int) -> None:
        stream = self.streams.get(number)
        if stream is None:
            self._came_late(0, "HEADERS on streams that were reset")
            return
        body = stream.body
        assert body is not None
        try:
            if stream.protocol is not None:
                raise StreamFault(PROTOCOL_ERROR, "HEADERS in a tunnel")  # RFC 9113 section 8.5
            if not flags & END_STREAM:
                raise StreamFault(PROTOCOL_ERROR, "HEADERS in the middle of a body")
            if flags > 255:
                raise StreamFault(PROTOCOL_ERROR, "a stream depends on itself")
            check_trailers(fields)
            if self._decoder.too_large:  # the rest of them was left out
                raise StreamFault(ENHANCE_YOUR_CALM, "the trailers are too large")
        except StreamFault as fault:
            self._fault(stream, fault.code, str(fault))
            return
        for field in fields:
            if field.kind != LENGTH:
                body.trailer(field.name, field.value)
        self._peer_ended(stream)

    def _came_late(self, size: int, what: str) -> None:
        """A frame on a stream that we have reset, with `size` bytes of DATA."""
        self.budget.spend(SMALL, what)

    # Bodies

    def _data(self, whole: bytes, flags: int, number: int, start: int, end: int) -> None:
        if not number:
            raise ConnectionFault(PROTOCOL_ERROR, "DATA on stream 0")
        size = end - start
        windows = self._windows
        windows.came(size)
        if flags & PADDED:
            if start == end:
                raise ConnectionFault(FRAME_SIZE_ERROR, "the length of the padding is missing")
            end -= whole[start]
            start += 1
            if start > end:
                raise ConnectionFault(PROTOCOL_ERROR, "more padding than payload")
        stream = self.streams.get(number)
        if stream is None:
            if number > self.last:
                raise ConnectionFault(PROTOCOL_ERROR, "DATA on an idle stream")
            if self._closed.get(number, _RESET_BY_US) != _RESET_BY_US:
                raise ConnectionFault(STREAM_CLOSED, "DATA on a closed stream")
            self._came_late(size, "DATA on streams that were reset")
            windows.give_back(size)
            return
        if stream.ended:
            raise ConnectionFault(STREAM_CLOSED, "DATA on a stream that the peer has ended")
        body = stream.body
        assert body is not None
        body.left -= size
        if body.left < 0:
            windows.give_back(size)
            self._fault(stream, FLOW_CONTROL_ERROR, "more DATA than the window of the stream has room for")
            return
        count = end - start
        if size > count:  # nobody reads the padding
            windows.give_back(size - count)
            self.sender.control(WINDOW_UPDATE, 0, number, (size - count).to_bytes(4, "big"))
            body.left += size - count
        ends = flags & END_STREAM
        if count < SMALL_AT_MOST and not ends:
            self.budget.spend(SMALL, "DATA in small frames")
            if count:
                self.budget.earn(SMALL)
        elif count >= SMALL_AT_MOST:
            self.budget.earn(SMALL)
        if body.length >= 0 and body.came + count > body.length:
            windows.give_back(count)
            self._fault(stream, PROTOCOL_ERROR, "the body is longer than its Content-Length")
            return
        if count:
            body.add(whole[start:end])
        if ends:
            self._peer_ended(stream)

    def _peer_ended(self, stream: Stream) -> None:
        body = stream.body
        assert body is not None
        if body.length >= 0 and body.came != body.length:
            self._fault(stream, PROTOCOL_ERROR, "the body is shorter than its Content-Length")
            return
        stream.ended = True
        body.end()
        if stream.finished:
            self._close(stream, _BOTH_ENDED)

    def taken(self, body: StreamBody, count: int) -> None:
        """The application has taken `count` bytes of `body`, or they are dropped: the peer may send as many more."""
        self._windows.give_back(count)
        stream = self.streams.get(body.stream)
        if stream is not None and not stream.ended:
            self._windows.taken(body)

    # Control frames

    def _window_update(self, number: int, more: int) -> None:
        if more < SMALL_AT_MOST:
            self.budget.spend(SMALL, "WINDOW_UPDATE of few bytes")
        sender = self.sender
        if not number:
            if not more:
                raise ConnectionFault(PROTOCOL_ERROR, "WINDOW_UPDATE of 0 bytes")
            sender.window += more
            if sender.window > WINDOW_AT_MOST:
                raise ConnectionFault(FLOW_CONTROL_ERROR, "the window of the connection is too large")
            self.opened = True
            return
        stream = self.streams.get(number)
        if stream is None:
            if number > self.last:
                raise ConnectionFault(PROTOCOL_ERROR, "WINDOW_UPDATE on an idle stream")
            return
        stream.window += more
        if not more or stream.window > WINDOW_AT_MOST:
            self._fault(stream, FLOW_CONTROL_ERROR if more else PROTOCOL_ERROR, "WINDOW_UPDATE of 0 bytes, or of too many")
            return
        self.opened = True

    def _settings(self, whole: bytes, flags: int, number: int, start: int, end: int) -> None:
        if number:
            raise ConnectionFault(PROTOCOL_ERROR, "SETTINGS on a stream")
        if flags & ACK:
            if start != end:
                raise ConnectionFault(FRAME_SIZE_ERROR, "an acknowledgement of SETTINGS with a payload")
            more = self._windows.acknowledged()
            if more:
                for stream in self.streams.values():
                    if stream.body is not None:
                        stream.body.left += more
            return
        if (end - start) % 6:
            raise ConnectionFault(FRAME_SIZE_ERROR, "the size of SETTINGS is not a multiple of 6")
        self.budget.spend(SMALL + (end - start) // 64, "SETTINGS")
        sender = self.sender
        for at in range(start, end, 6):
            identifier = int.from_bytes(whole[at : at + 2], "big")
            value = int.from_bytes(whole[at + 2 : at + 6], "big")
            if identifier == 1:  # HEADER_TABLE_SIZE
                sender.encoder.resize(value)
            elif identifier == 2:  # ENABLE_PUSH
                if value > 1:
                    raise ConnectionFault(PROTOCOL_ERROR, "ENABLE_PUSH is neither 0 nor 1")
            elif identifier == 3:  # MAX_CONCURRENT_STREAMS
                self.peer_streams = value
            elif identifier == 8:  # ENABLE_CONNECT_PROTOCOL (RFC 8441 section 3)
                self.peer_connects = value == 1
            elif identifier == 4:  # INITIAL_WINDOW_SIZE
                if value > WINDOW_AT_MOST:
                    raise ConnectionFault(FLOW_CONTROL_ERROR, "INITIAL_WINDOW_SIZE is too large")
                more = value - sender.initial
                sender.initial = value
                for stream in self.streams.values():
                    stream.window += more
                    if stream.window > WINDOW_AT_MOST:
                        raise ConnectionFault(FLOW_CONTROL_ERROR, "INITIAL_WINDOW_SIZE makes a window too large")
                self.opened = True
            elif identifier == 5:  # MAX_FRAME_SIZE
                if not FRAME_AT_MOST <= value < 1 << 24:
                    raise ConnectionFault(PROTOCOL_ERROR, "MAX_FRAME_SIZE is out of range")
                sender.frame_at_most = min(value, SENT_AT_MOST)
        sender.control(SETTINGS, ACK, 0, b"")

    def _ping(self, flags: int, payload: bytes) -> None:
        if not flags & ACK:
            self.budget.spend(SMALL, "PING")
            self.sender.control(PING, ACK, 0, payload)
        elif payload == PING_ALIVE:
            self.pings = 0
        elif payload == PING_GONE and self.draining:
            self.gone_heard = True
        else:
            self.budget.spend(SMALL, "answers to PINGs that were not sent")

    def _priority_update(self, number: int, payload: bytes) -> None:
        if number:
            raise ConnectionFault(PROTOCOL_ERROR, "PRIORITY_UPDATE on a stream")
        if len(payload) < 4:
            raise ConnectionFault(FRAME_SIZE_ERROR, "PRIORITY_UPDATE has fewer than 4 bytes")
        self.budget.spend(SMALL, "PRIORITY_UPDATE")
        about = int.from_bytes(payload[:4], "big") & WINDOW_AT_MOST
        if not about or not about & 1:
            raise ConnectionFault(PROTOCOL_ERROR, "PRIORITY_UPDATE of no stream of the client's")
        text = payload[4:].decode("latin-1")
        stream = self.streams.get(about)
        if stream is not None:
            self._prioritize(stream, text)
            self.opened = True
        elif about > self.last:
            if len(self._priorities) >= PRIORITIES_AT_MOST:
                self._priorities.pop(next(iter(self._priorities)))
            self._priorities[about] = text

    def _prioritize(self, stream: Stream, text: str) -> None:
        if text:
            stream.urgency, incremental = parse_priority(text)
            stream.sequential = not incremental

    # Ends of streams

    def _reset_by_peer(self, number: int, code: int) -> None:
        if not number:
            raise ConnectionFault(PROTOCOL_ERROR, "RST_STREAM on stream 0")
        if number > self.last:
            raise ConnectionFault(PROTOCOL_ERROR, "RST_STREAM on an idle stream")
        stream = self.streams.get(number)
        if stream is None:
            self.budget.spend(SMALL, "RST_STREAM on closed streams")
            return
        stream.code = code
        self._fail(stream, f"the peer has reset the stream (error code {code})")
        self._close(stream, RESET_BY_PEER)
        if not self._opens:
            self.budget.spend(RESET, "RST_STREAM")

    def _stream_fault(self, number: int, code: int) -> None:
        """An error in a frame on `number`, whose stream may be in any state."""
        stream = self.streams.get(number)
        if stream is not None:
            self._fault(stream, code, "a malformed frame")
        elif number > self.last:
            raise ConnectionFault(code, "a malformed frame on an idle stream")

    def _fault(self, stream: Stream, code: int, reason: str) -> None:
        """The peer has made an error on `stream`: it is reset."""
        self.reset(stream, code, reason)
        if not self._opens:  # a server can make one error on each stream that we have opened
            self.budget.spend(RESET, reason)

    def reset(self, stream: Stream, code: int, reason: str) -> None:
        """Reset `stream`. Its application gets an error, if it is not done."""
        if stream.code < 0 and stream.id in self.streams:
            stream.code = code
            self._fail(stream, reason)
            self._put_reset(stream.id, code)
            self._close(stream, _RESET_BY_US)

    def _put_reset(self, number: int, code: int) -> None:
        self.sender.control(RST_STREAM, 0, number, code.to_bytes(4, "big"))
        self._remember(number, _RESET_BY_US)

    def _fail(self, stream: Stream, reason: str) -> None:
        if stream.body is not None:
            stream.body.break_off(ConnectionResetError(errno.ECONNRESET, reason))
        stream.wake()
        if stream.gone is not None:
            stream.gone()

    def _close(self, stream: Stream, how: int) -> None:
        self.streams.pop(stream.id, None)
        self._remember(stream.id, how)
        if stream.body is not None:
            self._windows.ended(stream.body)

    def _remember(self, number: int, how: int) -> None:
        closed = self._closed
        closed[number] = how
        if len(closed) > CLOSED_AT_MOST:
            del closed[next(iter(closed))]

    def finish(self, stream: Stream) -> None:
        """Our side of `stream` is ended: END_STREAM was put into the sender."""
        stream.finished = True
        if stream.ended:
            self._close(stream, _BOTH_ENDED)

    def release(self, stream: Stream) -> None:
        """The application of `stream` has returned. What is incomplete is reset (section 8.1)."""
        self.running -= 1
        if stream.finished:
            if stream.code < 0:
                self.budget.earn(RESET)
                if not stream.ended:  # the response did not need the rest of the body
                    self.reset(stream, NO_ERROR, "the response is complete")
        elif stream.code < 0:
            self.reset(stream, INTERNAL_ERROR, "the response is incomplete")
        body = stream.body
        if body is not None and body.untaken:
            self._windows.give_back(body.untaken)

    # The end of the connection

    def go_away(self) -> None:
        """Tell the peer to open no more streams (section 6.8). Those that are under way are still served; `gone_heard` says when the peer
        knows."""
        if not self.draining:
            self.draining = True
            self._put_go_away(WINDOW_AT_MOST, NO_ERROR, b"")
            self.sender.control(PING, 0, 0, PING_GONE)

    def refuse_new(self) -> None:
        """Serve no stream that has not begun."""
        if not self.refusing:
            self.draining = True
            self.refusing = True
            self._put_go_away(self.last, NO_ERROR, b"")

    def ping(self) -> None:
        """Ask the peer whether it is alive: see `pings`."""
        self.pings += 1
        self.sender.control(PING, 0, 0, PING_ALIVE)

    def end(self, fault: ConnectionFault) -> None:
        """End the connection with GOAWAY. All streams fail."""
        if self.fault is None:
            self.fault = fault
            self._put_go_away(self.last, fault.code, fault.reason.encode())
            self.cancel(fault.reason)

    def cancel(self, reason: str) -> None:
        """Fail all streams: the connection is over."""
        for stream in list(self.streams.values()):
            stream.code = CANCEL
            self._fail(stream, reason)
        self.streams.clear()

    def close(self) -> None:
        """The connection is closed: nothing more is received."""
        self.cancel("the connection is closed")
        self._reader = None  # a reference cycle

    def _put_go_away(self, last: int, code: int, reason: bytes) -> None:
        self.sender.control(GOAWAY, 0, 0, last.to_bytes(4, "big") + code.to_bytes(4, "big") + reason)
