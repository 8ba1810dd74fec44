"""Where a message of HTTP/1.1 ends (RFC 9112 section 6): the four kinds of bodies, for requests and for responses.

Each reads exactly its message. Bytes behind it stay in the buffer of the `Incoming`, for the next head.
"""

from time import monotonic
from typing import TYPE_CHECKING

from httptools import HttpParserError, HttpRequestParser

from muxwsgi.errors import Expired, PeerError
from muxwsgi.grammar import BARE_LINE_END
from muxwsgi.http.body import Body, BrokenBody
from muxwsgi.http.h1 import chunk_line
from muxwsgi.http.h1.incoming import BLOCK, Incoming
from muxwsgi.settings import HTTPSettings
from muxwsgi.wire.pace import Pace
from muxwsgi.wire.ready import give_turn

if TYPE_CHECKING:
    from muxwsgi.wire.connection import Connection

__all__ = ["ChunkedBody", "CloseBody", "EmptyBody", "LengthBody", "MessageBody"]

#: What chunk lines may take beyond the data: a client with a reason to use extensions stays far below.
CHUNK_OVERHEAD = 65536
OVERHEAD_PER_CHUNK = 64

#: A read that brings more chunks than this is followed by a turn for others.
CHUNKS_PER_TURN = 1000

#: A parser that has read this, and a last chunk, waits for trailers, and for nothing else: body and head are never in one parser.
_CHUNKED_HEAD = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"

#: What comes next in a chunked body, beside data.
_FIRST_LINE, _LATER_LINE, _TRAILERS = 0, 1, 2


class MessageBody(Body):
    """A body of HTTP/1.1, read from the bytes of a connection.

    The minimum rate of the settings holds while the body is waited for. It does not count the time that the application takes.
    """

    __slots__ = ("_incoming", "_pace")

    def _begin(self, incoming: Incoming, settings: HTTPSettings, expects_continue: bool) -> None:
        self._set_up(settings, expects_continue)
        self._incoming = incoming
        self._pace: Pace | None = None  # made by the first wait: most bodies are here already

    @property
    def ready(self) -> bool:
        return self.done or bool(self._incoming.buffer)

    def hand_over(self) -> "Connection":
        self._incoming.give_back()
        return self._incoming.connection

    def _more(self) -> bytes:
        """The connection's next bytes. Sends 100 (Continue) first where the peer waits for it."""
        incoming = self._incoming
        if incoming.buffer:
            self.withheld = False  # the peer sends its body without waiting
            return incoming.take()
        connection = incoming.connection
        if self.withheld:
            self.withheld = False
            connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        data = self._recv_in_time(connection)
        if not data:
            raise BrokenBody(400, "the body ended before its time")
        return data

    def _recv_in_time(self, connection: "Connection") -> bytes:
        pace = self._pace
        settings = self._settings
        if pace is None and settings.body_min_rate:
            pace = self._pace = Pace(settings.body_min_rate, settings.body_rate_grace)
        line = connection.lifeline
        outer = line.deadline  # of a drain after the response; none while the application reads
        before = connection.bytes_received
        began = monotonic()
        if pace is not None:
            line.deadline = min(outer, began + pace.patience)
        try:
            return connection.recv(BLOCK)
        except Expired:
            raise BrokenBody(408, "the body comes too slowly") from None
        finally:
            line.deadline = outer
            if pace is not None:
                pace.moved(connection.bytes_received - before, monotonic() - began)


class EmptyBody(MessageBody):
    """No body. It never changes, so one object serves all requests of a connection."""

    __slots__ = ()

    def __init__(self, incoming: Incoming, settings: HTTPSettings) -> None:
        self._begin(incoming, settings, False)
        self.done = True
        self.direct = True

    def _read(self, most: int) -> bytes:
        return b""


class LengthBody(MessageBody):
    """A body with Content-Length: bytes are counted, no parser sees them."""

    __slots__ = ("left",)

    def __init__(self, incoming: Incoming, settings: HTTPSettings, expects_continue: bool, length: int) -> None:
        if settings.limit_request_body and length > settings.limit_request_body:
            raise PeerError(413, f"the body is larger than {settings.limit_request_body} bytes")
        self._begin(incoming, settings, expects_continue)
        self.direct = True
        self.left = length
        self.done = length == 0

    def _read(self, most: int) -> bytes:
        if self.done or most <= 0:
            return b""
        data = self._more()
        take = min(self.left, most)
        if len(data) > take:
            self._incoming.buffer = data[take:]
            data = data[:take]
        self.received += len(data)
        self.left -= len(data)
        self.done = self.left == 0
        return data


class CloseBody(MessageBody):
    """A response's body that ends with the connection (RFC 9112 section 6.3, the last item). Over plain TCP it cannot be known to be
    complete. Over TLS it is complete after a close_notify (RFC 9112 section 9.8)."""

    __slots__ = ()

    def __init__(self, incoming: Incoming, settings: HTTPSettings) -> None:
        self._begin(incoming, settings, False)
        self.direct = True

    def _read(self, most: int) -> bytes:
        if self.done or most <= 0:
            return b""
        incoming = self._incoming
        if incoming.buffer:
            data = incoming.take()
        else:
            data = self._recv_in_time(incoming.connection)
            if not data and incoming.connection.truncated:
                raise BrokenBody(400, "the peer ended TLS without close_notify")
        if len(data) > most:
            incoming.buffer = data[most:]
            data = data[:most]
        self._count(len(data))
        self.done = not data
        return data


class ChunkedBody(MessageBody):
    """A chunked body (RFC 9112 section 7.1). The lines between the data are read here, since llhttp knows no blanks in chunk extensions,
    by patterns that are the grammar; llhttp reads the trailers."""

    __slots__ = ("_at", "_block", "_chunks", "_fed", "_held", "_in_trailers", "_left", "_pieces", "_state")

    def __init__(self, incoming: Incoming, settings: HTTPSettings, expects_continue: bool) -> None:
        self._begin(incoming, settings, expects_continue)
        self._pieces: list[bytes] = []  # data of the chunks that came in one read
        self._block = b""  # the same in one piece, given out up to `_at`
        self._at = 0
        self._chunks = 0
        self._fed = 0
        self._state = _FIRST_LINE  # what comes next
        self._left = 0  # bytes of the chunk that is being read
        self._held = b""  # a line, or trailers, that have not come to their end yet
        self._in_trailers = False

    @property
    def ready(self) -> bool:
        # A part of a chunk's line in the buffer may turn out to be nothing to give: then the read waits after all.
        return self._at < len(self._block) or self.done or bool(self._incoming.buffer)

    # Called by the parser of the trailers

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_trailers:
            self._add_trailer(name, value)

    def on_message_complete(self) -> None:
        self.done = True

    # Called by the application, through `Input`

    def _read(self, most: int) -> bytes:
        while self._at == len(self._block):
            if self.done:
                return b""
            self._step(self._more())
        if self._at == 0 and len(self._block) <= most:
            data, self._block = self._block, b""
            return data
        data = self._block[self._at : self._at + most]
        self._at += len(data)
        return data

    def _step(self, data: bytes) -> None:
        """Read `data` as far as the message goes, and put the rest back."""
        before = self._chunks
        used = self._take(data)
        self._incoming.buffer = data[used:]
        self._fed += used
        self._block = b"".join(self._pieces)
        self._at = 0
        self._pieces.clear()
        self._count(len(self._block))
        if self._fed - self.received > CHUNK_OVERHEAD + OVERHEAD_PER_CHUNK * self._chunks:
            raise BrokenBody(400, "more chunk extensions or trailers than data")
        # What earlier chunks did not use is not saved up: a million of them would pay for one trailer of 60 MB.
        self._fed = max(self._fed, self.received + OVERHEAD_PER_CHUNK * self._chunks)
        if self._chunks - before > CHUNKS_PER_TURN:
            give_turn()

    def _take(self, data: bytes) -> int:
        """Read `data`, which comes behind what is held; how many bytes of it belong to the message."""
        at = 0
        held = len(self._held)
        if held:
            data = self._held + data
            self._held = b""
        end = len(data)
        pieces = self._pieces
        left = self._left
        later = chunk_line.LATER.match
        while at < end and not self.done:
            if left:
                stop = at + left
                if stop > end:
                    stop = end
                pieces.append(data if stop - at == end else data[at:stop])
                left -= stop - at
                at = stop
                continue
            if self._state == _TRAILERS:
                at = self._take_trailers(data, at, held)
                continue
            if at < held and data.find(b"\n", held) < 0:  # what is held was tried before, and its end has not come
                line = None
            else:
                line = later(data, at) if self._state == _LATER_LINE else chunk_line.FIRST.match(data, at)
            stop = end if line is None else line.end()
            if stop - at > chunk_line.AT_MOST or (line is None and not chunk_line.PART.fullmatch(data, at)):
                raise BrokenBody(400, "malformed chunk: its size line, or the end of the one before, is not in order")
            if line is None:
                self._held = data[at:]
                at = end
                break
            left = int(line[1], 16)
            self._state = _LATER_LINE if left else _TRAILERS
            self._chunks += 1
            at = stop
        self._left = left
        return at - held

    def _take_trailers(self, data: bytes, at: int, searched: int) -> int:
        """Read what stands behind the last chunk: trailers, if any, and an empty line. Where that ends, or the end of `data`."""
        if data.startswith(b"\r\n", at):
            self.done = True
            return at + 2
        end = data.find(b"\r\n\r\n", at)
        if end < 0:
            if BARE_LINE_END.search(data, max(searched - 1, at)):
                raise BrokenBody(400, "malformed trailers: a line ends with a bare CR or LF")
            self._held = data[at:]
            return len(data)
        try:
            parser = HttpRequestParser(self)
            parser.feed_data(_CHUNKED_HEAD)
            self._in_trailers = True
            parser.feed_data(b"0\r\n" + data[at : end + 4])
        except HttpParserError as error:
            raise BrokenBody(400, f"malformed trailers: {error}") from None
        if not self.done:
            raise BrokenBody(400, "malformed trailers")
        return end + 4
