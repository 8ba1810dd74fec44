"""Request bodies: where a message ends, and `wsgi.input` over it.

A body is read only when the application reads: that is the back-pressure. What one `Body` gives is exactly its message; bytes behind it
stay in the buffer of the `Incoming` for the next head. One file: each framing is a page, and all share how they read and count.
"""

import re
from io import BytesIO
from time import monotonic
from typing import TYPE_CHECKING

from httptools import HttpParserError, HttpRequestParser

from muxwsgi.errors import Expired, PeerError
from muxwsgi.http.h1 import chunk_line
from muxwsgi.http.unreadable import raise_unreadable
from muxwsgi.settings import HTTPSettings
from muxwsgi.wire.ready import Pace, give_turn

if TYPE_CHECKING:
    from muxwsgi.wire.connection import Connection

__all__ = ["Body", "BrokenBody", "ChunkedBody", "CloseBody", "EmptyBody", "Incoming", "Input", "LengthBody"]

#: Bytes read from the connection at once.
BLOCK = 65536

#: Reads of less than this go through a buffer of their own: taking little from the connection's each time would copy the rest each time.
DIRECT_AT_LEAST = 8192

#: What chunk lines may take beyond the data: a client with a reason to use extensions stays far below.
CHUNK_OVERHEAD = 65536
OVERHEAD_PER_CHUNK = 64

#: A read that brings more chunks than this is followed by a turn for others.
CHUNKS_PER_TURN = 1000

#: Further trailers are left out.
TRAILERS_AT_MOST = 100

#: A parser that has read this, and a last chunk, waits for trailers, and for nothing else: body and head are never in one parser.
_CHUNKED_HEAD = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"

#: LF without a CR before it, CR without an LF behind it.
_BARE_BREAK = re.compile(rb"(?<!\r)\n|\r(?=[^\n])")

#: What comes next in a chunked body, beside data.
_FIRST_LINE, _LATER_LINE, _TRAILERS = 0, 1, 2

#: Fields that would change framing, routing or authentication after the fact (RFC 9110 section 6.5.1).
_NO_TRAILERS = frozenset(
    {b"transfer-encoding", b"content-length", b"host", b"authorization", b"cookie", b"content-type", b"content-encoding", b"trailer"}
    | {b"te", b"connection", b"expect", b"upgrade", b"content-range", b"cache-control", b"max-forwards", b"range", b"set-cookie"}
)


class BrokenBody(PeerError, OSError):
    """A body that breaks off, is malformed, late or too large.

    It is an `OSError`, because that is what Django (`UnreadablePostError`) and werkzeug (`ClientDisconnected`) take for the client's fault
    and not for the application's. What `wsgi.input` raises: see `unreadable`.
    """


class Incoming:
    """A connection's bytes as the engine reads them: `buffer` is what came and is not consumed yet."""

    __slots__ = ("buffer", "connection")

    def __init__(self, connection: "Connection") -> None:
        self.connection = connection
        self.buffer = b""

    def take(self) -> bytes:
        """What is there, else the next bytes; b"" at the end of the stream."""
        data, self.buffer = self.buffer, b""
        return data or self.connection.recv(BLOCK)

    def give_back(self) -> None:
        """Make the buffer the connection's read-ahead: somebody else reads on from here."""
        self.connection.unread(self.buffer)
        self.buffer = b""


class Body:
    """A request's body as it comes. `done` once its last byte was given out or there is none.

    The minimum rate of the settings holds while we wait for the peer, not while the application is busy.
    """

    __slots__ = ("_incoming", "_pace", "_settings", "done", "fault", "received", "trailers", "withheld")

    def __init__(self, incoming: Incoming, settings: HTTPSettings, expects_continue: bool) -> None:
        self._incoming = incoming
        self._settings = settings
        #: Whether the peer still waits for a 100 that nobody has asked us to send.
        self.withheld = expects_continue
        self._pace: Pace | None = None  # made by the first wait: most bodies are here already
        self.done = False
        #: What reading met that is the peer's fault: the request cannot be answered as the application means to.
        self.fault: PeerError | OSError | None = None
        self.received = 0
        #: name -> value, both as sent, of the fields behind a chunked body.
        self.trailers: dict[str, str] = {}

    def read_some(self, most: int) -> bytes:
        """The next bytes of the body, at most about `most`; b"" at its end.

        Raises `BrokenBody` (400 for broken framing and a body that stops short, 408 for one that comes too slowly, 413 for one over
        the limit) and the connection's errors, and again when called again.
        """
        if self.fault is not None:
            raise self.fault
        try:
            return self._read(most)
        except (PeerError, OSError) as error:
            self.fault = error
            raise

    def _read(self, most: int) -> bytes:
        raise NotImplementedError

    @property
    def ready(self) -> bool:
        """Whether `read_some` has something to give without waiting, the end included."""
        return self.done or bool(self._incoming.buffer)

    def forgo_continue(self) -> None:
        """A final response is sent: 100 may not follow it."""
        self.withheld = False

    def _more(self) -> bytes:
        """The connection's next bytes. Says 100 first where the peer waits for it."""
        incoming = self._incoming
        if incoming.buffer:
            self.withheld = False  # who sends a body does not wait for us to ask for it
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

    def _count(self, count: int) -> None:
        self.received += count
        limit = self._settings.limit_request_body
        if limit and self.received > limit:
            raise BrokenBody(413, f"the body is larger than {limit} bytes")


class EmptyBody(Body):
    """No body. Nothing of it ever changes, so one serves all requests of a connection."""

    __slots__ = ()

    def __init__(self, incoming: Incoming, settings: HTTPSettings) -> None:
        super().__init__(incoming, settings, expects_continue=False)
        self.done = True

    def _read(self, most: int) -> bytes:
        return b""


class LengthBody(Body):
    """A body with Content-Length: bytes are counted, no parser sees them."""

    __slots__ = ("left",)

    def __init__(self, incoming: Incoming, settings: HTTPSettings, expects_continue: bool, length: int) -> None:
        if settings.limit_request_body and length > settings.limit_request_body:
            raise PeerError(413, f"the body is larger than {settings.limit_request_body} bytes")
        super().__init__(incoming, settings, expects_continue)
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


class CloseBody(Body):
    """A response's body that ends with the connection (RFC 9112 section 6.3, the last item). Over plain TCP nobody can tell whether it is
    whole. Over TLS it is where the peer says that it ends (RFC 9112 section 9.8)."""

    __slots__ = ()

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


class ChunkedBody(Body):
    """A chunked body (RFC 9112 section 7.1). The lines between the data are read here, since llhttp knows no blanks in chunk extensions,
    by patterns that are the grammar; llhttp reads the trailers."""

    __slots__ = ("_at", "_block", "_chunks", "_fed", "_held", "_in_trailers", "_left", "_pieces", "_state")

    def __init__(self, incoming: Incoming, settings: HTTPSettings, expects_continue: bool) -> None:
        super().__init__(incoming, settings, expects_continue)
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
        return self._at < len(self._block) or super().ready

    # Called by the parser of the trailers

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_trailers or b"_" in name or name.lower() in _NO_TRAILERS or len(self.trailers) >= TRAILERS_AT_MOST:
            return
        key = name.decode("latin-1")
        text = value.decode("latin-1").strip(" \t")
        self.trailers[key] = f"{self.trailers[key]}, {text}" if key in self.trailers else text

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
            if _BARE_BREAK.search(data, max(searched - 1, at)):
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


class Input:
    """`wsgi.input` (PEP 3333): a file that ends where the body ends, whatever the framing.

    Where the body cannot be read to its end, each method raises the `OSError` that `Body.read_some` does, as `raise_unreadable` has it.
    """

    __slots__ = ("_body", "_buffer", "closed")

    def __init__(self, body: Body) -> None:
        self._body = body
        self._buffer = bytearray()
        self.closed = False

    def read(self, size: int | None = -1) -> bytes:
        """`size` bytes, fewer at the end of the body only; all for -1 or None."""
        try:
            buffer = self._buffer
            everything = size is None or size < 0
            if not buffer and isinstance(self._body, LengthBody):
                # Without a copy: one read from the socket is one block for the application, and a small body is here whole.
                data = self._body.read_some(BLOCK if everything else max(size or 0, DIRECT_AT_LEAST))
                if self._body.done and (everything or len(data) <= (size or 0)):
                    return data
                if len(data) == size:
                    return data
                buffer += data
            if not everything and len(buffer) >= (size or 0):
                return self._cut(size or 0)
            return self._gather(-1 if everything else (size or 0))
        except (PeerError, OSError) as error:
            raise_unreadable(error)

    def _gather(self, size: int) -> bytes:
        """`size` bytes, more than there are in the buffer; -1 for all.

        `BytesIO.getvalue` gives its memory away and copies nothing, so a large body is in memory once.
        """
        gathered = BytesIO()
        count = gathered.write(self._buffer)
        self._buffer.clear()
        try:
            while size < 0 or count < size:
                data = self._body.read_some(BLOCK if size < 0 else max(size - count, DIRECT_AT_LEAST))
                if not data:
                    break
                count += gathered.write(data)
        except BaseException:  # a Timeout of the application's, which may read on
            self._buffer += gathered.getvalue()
            raise
        if 0 <= size < count:
            gathered.seek(size)
            self._buffer += gathered.read()
            gathered.truncate(size)
        return gathered.getvalue()

    def read1(self, size: int | None = -1) -> bytes:
        """At most `size` bytes, as soon as there are any; b"" at the end of the body. For who passes a body on as it comes."""
        try:
            most = BLOCK if size is None or size < 0 else size
            if self._buffer:
                return self._cut(most)
            return self._body.read_some(most)
        except (PeerError, OSError) as error:
            raise_unreadable(error)

    def readline(self, size: int | None = -1) -> bytes:
        """A line with its newline; at most `size` bytes of it; the rest at the end of the body."""
        try:
            most = -1 if size is None else size
            buffer = self._buffer
            searched = 0
            while True:
                end = buffer.find(b"\n", searched) + 1
                if end or 0 <= most <= len(buffer):
                    break
                searched = len(buffer)
                data = self._body.read_some(BLOCK)
                if not data:
                    end = len(buffer)
                    break
                buffer += data
            end = end or len(buffer)
            return self._cut(end if most < 0 else min(end, most))
        except (PeerError, OSError) as error:
            raise_unreadable(error)

    def readlines(self, hint: int | None = None) -> list[bytes]:
        """All lines; no more once they have `hint` bytes."""
        lines = []
        total = 0
        for line in self:
            lines.append(line)
            total += len(line)
            if hint and total >= hint:
                break
        return lines

    def __iter__(self) -> "Input":
        return self

    def __next__(self) -> bytes:
        line = self.readline()
        if not line:
            raise StopIteration
        return line

    def readable(self) -> bool:
        """Always: for `io` wrappers."""
        return True

    def close(self) -> None:
        """PEP 3333 gives the server the say; an application's `close()` changes nothing."""

    def _cut(self, count: int) -> bytes:
        buffer = self._buffer
        if count >= len(buffer):
            data = bytes(buffer)
            buffer.clear()
            return data
        with memoryview(buffer) as view:
            data = bytes(view[:count])
        del buffer[:count]
        return data
