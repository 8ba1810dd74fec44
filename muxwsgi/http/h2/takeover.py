"""A stream of HTTP/2 as a transport: what an application has that takes the stream of a CONNECT over (RFC 9113 section 8.5, RFC 8441).

`muxwsgi.hijack` gives it a `Connection` over a `StreamTransport`, on which it reads and writes as on a connection of HTTP/1.1. So a
hijacker, a mux, TLS or a WebSocket runs on a stream as on a socket. A FIN is END_STREAM, a reset is RST_STREAM, and the peer's windows are
what a full socket buffer is.

What the application writes first is the head of its response, as HTTP/1.1 spells it: it cannot know on what it writes. That head is
translated: 101 to an extended CONNECT becomes 200.
"""

import errno
import math
import socket as socket_module
from typing import TYPE_CHECKING, Any

from muxwsgi.errors import Cut
from muxwsgi.http.body import Body
from muxwsgi.http.client.response_head import BrokenResponse, ResponseHead, parse_response_head
from muxwsgi.http.h2.body import StreamBody
from muxwsgi.http.h2.engine import Engine
from muxwsgi.http.h2.errors import CANCEL, CONNECT_ERROR
from muxwsgi.http.h2.field import OF_CONNECTIONS
from muxwsgi.http.h2.stream import Stream
from muxwsgi.http.h2.writing import OUT_AT_MOST, Writing
from muxwsgi.settings import HTTPSettings
from muxwsgi.wire.connection import Connection
from muxwsgi.wire.lifeline import Lifeline
from muxwsgi.wire.ready import Ready
from muxwsgi.wire.syscalls import clock
from muxwsgi.wire.transport import Buffer, WriteTurn, note_sent

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["StreamTransport", "Takeover"]

#: Bytes of a response head that an application writes, and fields in it.
HEAD_AT_MOST = 65536
FIELDS_AT_MOST = 256

#: Fields of a response that are left out when it begins a tunnel: a body's framing, and the answer to the key that we have made ourselves.
_NOT_SENT = OF_CONNECTIONS | {"content-length", "sec-websocket-accept"}


class Takeover(Body):
    """The body of a CONNECT as its application sees it: there is none, since all DATA are the tunnel's.

    connection      of the application, once it has taken the stream over; None before
    """

    def __init__(
        self,
        below: Connection,
        writing: Writing,
        engine: Engine,
        stream: Stream,
        settings: HTTPSettings,
        begun: "Callable[[Lifeline], None]",
    ) -> None:
        """`below` is the connection with all streams. `begun` is told of the lifeline that has to be swept from then on."""
        self._set_up(settings, False)
        self.done = True
        self.direct = True
        self.connection: Connection | None = None
        self._below = below
        self._writing = writing
        self._engine = engine
        self._stream = stream
        self._begun = begun

    def _read(self, most: int) -> bytes:
        return b""

    @property
    def ready(self) -> bool:
        return True

    def hand_over(self) -> Connection:
        below = self._below
        transport = StreamTransport(self._writing, self._engine, self._stream)
        transport.lifeline.service = below.lifeline.service
        connection = self.connection = Connection(transport, client=below.client, server=below.server, tls=below.tls)
        connection.id = below.id
        connection.trace = list(below.trace)
        connection.destination = below.destination
        connection.identity = below.identity
        connection.tunnel = below.tunnel
        connection.route = below.route
        connection.depth = below.depth
        if below.proxy_header is not None:
            connection.proxy_header = below.proxy_header
        self._begun(transport.lifeline)
        return connection

    def finish(self, error: BaseException | None) -> None:
        """The application has returned, or `error` has ended it."""
        if self.connection is not None:
            self.connection.finish(isinstance(error, Cut))


class StreamLifeline(Lifeline):
    """The lifeline of one stream."""

    __slots__ = ("_stream",)

    def __init__(self, reader: Ready, writer: Ready, stream: Stream) -> None:
        Lifeline.__init__(self, reader, writer)
        self._stream = stream

    @property
    def broken(self) -> bool:
        return self._stream.code >= 0


class StreamTransport:
    """One stream, from the head of its response on."""

    __slots__ = ("_body", "_closed", "_ended", "_engine", "_head", "_stream", "_turn", "_unread", "_writing", "lifeline")

    def __init__(self, writing: Writing, engine: Engine, stream: Stream, closed: "Callable[[], None] | None" = None) -> None:
        """`closed` is for the client's side, which has sent the head: it is called at the end."""
        body = stream.body
        assert body is not None  # each CONNECT has one
        self._body: StreamBody = body
        self._engine = engine
        self._stream = stream
        self._writing = writing
        stream.patient = True
        stream.writer = Ready()
        self.lifeline: Lifeline = StreamLifeline(body.readiness(), stream.writer, stream)
        self._turn = WriteTurn(self.lifeline)
        self._closed = closed
        self._head: bytes | None = b"" if closed is None else None  # the beginning of the response's head; None behind the head
        self._ended = False  # our direction
        self._unread = False  # what still comes is not read: see `shutdown`

    # Reading

    def recv(self, n: int, timeout: float | None) -> bytes:
        return b"" if self._unread else self._body.take(n, timeout)

    def recv_into(self, view: memoryview, timeout: float | None) -> int:
        data = self.recv(len(view), timeout)
        view[: len(data)] = data
        return len(data)

    # Writing

    def sendall(self, data: Buffer, timeout: float | None) -> None:
        stream = self._stream
        data = bytes(data)
        with self._turn.take():
            if self._ended:
                raise BrokenPipeError(errno.EPIPE, "the sending direction is ended")
            if timeout == 0 and self._room() < len(data):
                raise BlockingIOError(errno.EAGAIN, "would block")
            before = stream.sent
            stream.give_up = math.inf if timeout is None else clock() + (timeout or 1.0)
            try:
                if self._head is not None:
                    data = self._after_head(data)
                if stream.code >= 0:
                    raise ConnectionResetError(errno.ECONNRESET, f"the stream was reset (error code {stream.code})")
                if data:
                    self._writing.send(stream, data, False)
                else:
                    self._writing.flush_within()
            except BaseException as error:
                self.lifeline.reset_at_close = True  # the stream lacks something
                note_sent(error, stream.sent - before)
                raise

    def _room(self) -> int:
        """Bytes that can be sent without waiting."""
        sender = self._writing.sender
        return max(min(self._stream.window, sender.window, OUT_AT_MOST - sender.size), 0)

    def _after_head(self, data: bytes) -> bytes:
        """Send the head that the application writes, and return what it has written behind it."""
        assert self._head is not None
        data = self._head + data
        while True:
            end = data.find(b"\r\n\r\n") + 4
            if end < 4:
                if len(data) > HEAD_AT_MOST:
                    raise ValueError("the head of the response to a CONNECT is too long")
                self._head = data
                return b""
            try:
                head = parse_response_head(data[:end], FIELDS_AT_MOST)
            except BrokenResponse as error:
                raise ValueError(f"an application that takes a stream over begins with the head of its response: {error}") from error
            data = data[end:]
            self._send_head(head)
            if head.status >= 200 or head.status == 101:
                self._head = None
                return data

    def _send_head(self, head: ResponseHead) -> None:
        stream = self._stream
        status = head.status
        not_sent: frozenset[str] | set[str] = OF_CONNECTIONS
        if status == 101 or 200 <= status < 300:
            if (status == 101) != bool(stream.protocol):
                raise ValueError(f"{status} is no response that begins " + ("another protocol" if stream.protocol else "a tunnel"))
            status = 200 if status == 101 else status
            not_sent = _NOT_SENT
        elif head.chunked:
            raise ValueError("a response to a CONNECT cannot be in chunks")
        pairs = [(b":status", b"%d" % status)]
        for name, value in head.fields:
            lower = name.lower()
            if lower not in not_sent:
                pairs.append((lower.encode("latin-1"), value.encode("latin-1")))
        if stream.code < 0:
            self._writing.sender.fields(stream, pairs, False)

    # Ending

    def shutdown(self, how: int, timeout: float | None) -> None:
        if how != socket_module.SHUT_RD and not self._ended:
            with self._turn.take():
                self._end()
        if how != socket_module.SHUT_WR:
            self._unread = True

    def _end(self) -> None:
        """END_STREAM, behind all that was written."""
        stream = self._stream
        self._ended = True
        if stream.code >= 0 or stream.finished:
            return
        if self._head is not None:
            self._reset("no response")
            return
        self._writing.sender.data(stream, b"", True)
        self._engine.finish(stream)
        self._writing.note_output()

    def _reset(self, reason: str) -> None:
        # A TCP connection that fails is CONNECT_ERROR to a CONNECT, and CANCEL to an extended one (RFC 8441 section 4).
        self._engine.reset(self._stream, CONNECT_ERROR if self._stream.protocol == "" else CANCEL, reason)
        self._writing.note_output()

    def close(self) -> None:
        line = self.lifeline
        line.close()
        if line.reset_at_close or self._turn.taken:
            self._ended = True
            self._reset("the application has ended the stream before it was complete")
        elif not self._ended:
            self._end()
        if self._closed is not None:
            self._closed()

    def socket(self) -> Any:
        return None
