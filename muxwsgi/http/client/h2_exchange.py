"""`StreamExchange`: one exchange on an upstream connection of HTTP/2. It has the methods that an exchange on a `ClientConnection` has."""

import errno
from collections import deque
from collections.abc import Iterable

from muxwsgi.http.body import Body
from muxwsgi.http.client.connection import BODIES, ClientSettings
from muxwsgi.http.client.h2_session import ClientSession
from muxwsgi.http.client.head_wait import HeadWait, OnInterim
from muxwsgi.http.client.response_head import BrokenResponse, ResponseHead
from muxwsgi.http.h2.body import NoBody
from muxwsgi.http.h2.encoder import Pair
from muxwsgi.http.h2.errors import CANCEL, HTTP_1_1_REQUIRED
from muxwsgi.http.h2.field import OF_CONNECTIONS
from muxwsgi.http.h2.stream import Stream
from muxwsgi.http.h2.takeover import StreamTransport
from muxwsgi.http.websocket.handshake import accept_of
from muxwsgi.wire.connection import Connection

__all__ = ["StreamExchange"]

#: Fields of a request of HTTP/1.1 that are pseudo-fields here, or that only a connection has.
_NOT_SENT = OF_CONNECTIONS | {"host", "http2-settings"}


#: Bytes of trailers on a connection with the requests of others. Servers end connections for field blocks that are too large.
TRAILERS_AT_MOST = 8192


class StreamExchange:
    """One request and its response. `request` sends the head, `receive` returns that of the response, `body` is read to its end.

    session     the connection that it is on
    connection  the stream as a connection: for its lifeline, and to be taken over
    stream      set by `request`
    heads       of responses that have come and were not received
    body, fresh, answered   as of `ClientConnection`
    taken_over  whether the stream carries another protocol
    refused     the server has not processed the request, so that it may be sent again whatever its method is
    http1_required  the server wants requests in HTTP/1.1. If it said so in a GOAWAY, it may have processed this one
    """

    __slots__ = (
        "_alone",
        "_over",
        "_sending",
        "_settings",
        "_wait",
        "_websocket",
        "answered",
        "body",
        "connection",
        "fresh",
        "heads",
        "http1_required",
        "refused",
        "session",
        "stream",
        "taken_over",
    )

    connection: Connection
    stream: Stream
    _wait: HeadWait
    body: Body

    def __init__(self, session: ClientSession, settings: ClientSettings, *, alone: bool = False) -> None:
        """`alone`: the session is for this exchange, and ends with it."""
        self._alone = alone
        self.session = session
        self._settings = settings
        self._over = False
        self._websocket = ""
        self._sending = False
        self.taken_over = False
        self.answered = False
        self.refused = False
        self.http1_required = False
        self.fresh = not session.used
        self.heads: deque[ResponseHead] = deque()

    def __repr__(self) -> str:
        return f"<StreamExchange on {self.session!r}>"

    @property
    def has_body(self) -> bool:
        """Whether the request goes on behind its head."""
        return self._sending and self.stream.protocol is None

    # The request

    def open(self, method: str, scheme: str, authority: str, target: str, fields: Iterable[tuple[str, str]], *, ends: bool) -> None:
        """Send the head. `fields` are those of HTTP/1.1. `ends`: there is no body. If it asks for another protocol, this waits for the
        server's SETTINGS, and raises `BrokenResponse` if the server does not offer that on streams."""
        session = self.session
        engine = session.engine
        protocol: str | None = None
        pairs: list[Pair] = []
        for name, value in fields:
            lower = name.lower()
            if lower == "upgrade":
                protocol = value
            elif lower == "sec-websocket-key":
                self._websocket = value
            elif lower == "host":
                authority = value
            elif lower == "te":
                pairs.append((b"te", b"trailers"))
            elif lower == "priority" and not self._alone:
                pass  # it would put the requests of one client before those of others (RFC 9218 section 13.1)
            elif lower not in _NOT_SENT:
                pairs.append((lower.encode("latin-1"), value.strip(" \t").encode("latin-1")))
        pseudo = [(b":method", method.encode("latin-1"))]
        if protocol is not None:  # RFC 8441
            if protocol.lower() != "websocket" or not session.takes_connects():
                raise BrokenResponse(f"the server does not offer {protocol} on a connection of HTTP/2")
            pseudo = [(b":method", b"CONNECT"), (b":protocol", b"websocket")]
            ends = False
        if not session.room:  # since it was chosen
            self.refused = True
            raise ConnectionResetError(errno.ECONNRESET, "the connection takes no more requests")
        pseudo += [(b":scheme", scheme.encode()), (b":path", target.encode("latin-1")), (b":authority", authority.encode("latin-1"))]
        self.stream = engine.open(method, [*pseudo, *pairs], ends, protocol)
        assert self.stream.body is not None
        self.body = self.stream.body
        transport = StreamTransport(session.writing, engine, self.stream, self._end)
        below = session.connection
        self.connection = Connection(transport, client=below.client, server=below.server, tls=below.tls)
        settings = self._settings
        self._wait = HeadWait(self.connection.lifeline, settings.limit_interim, settings.response_head_timeout)
        session.begun(self)
        self._sending = not ends
        session.writing.note_output()

    def send_piece(self, piece: bytes, *, chunked: bool) -> None:
        """More of the body, which waits for the windows of the server."""
        before = self.stream.sent
        try:
            self.session.writing.send(self.stream, piece, False)
        finally:
            self.connection.bytes_sent += self.stream.sent - before

    def send_end(self, trailers: Iterable[tuple[str, str]], *, chunked: bool) -> None:
        """The end of the body."""
        stream = self.stream
        session = self.session
        if stream.code >= 0:
            raise ConnectionResetError(errno.ECONNRESET, f"the stream was reset (error code {stream.code})")
        pairs = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in trailers]
        if not self._alone and sum(len(name) + len(value) for name, value in pairs) > TRAILERS_AT_MOST:
            reason = "the trailers of the request are too large for a connection that others use"
            session.engine.reset(stream, CANCEL, reason)
            session.writing.note_output()
            raise ConnectionResetError(errno.ECONNRESET, reason)
        if pairs:
            session.engine.sender.fields(stream, pairs, True)
        else:
            session.engine.sender.data(stream, b"", True)
        session.engine.finish(stream)
        self._sending = False
        if self._wait.waiting:
            self._wait.set_deadline()
        session.writing.note_output()

    # The response

    def receive(self, method: str, on_interim: OnInterim | None = None) -> ResponseHead:
        """As `ClientConnection.receive`."""
        body = self.stream.body
        assert body is not None
        wait = self._wait
        wait.begin()
        try:
            while True:
                if not self._sending or self._websocket:
                    wait.set_deadline()
                while not self.heads:
                    if body.fault is not None:
                        raise body.fault
                    body.readiness().wait()
                head = self.heads.popleft()
                self.answered = True
                if wait.is_final(head, on_interim):
                    break
        except BaseException:
            engine = self.session.engine
            self.refused = self.stream.id in engine.refused or self.stream.code == HTTP_1_1_REQUIRED
            self.http1_required = HTTP_1_1_REQUIRED in (self.stream.code, engine.peer_code)
            raise
        finally:
            wait.end()
        if self.stream.protocol is not None and 200 <= head.status < 300:
            head.status, head.reason = 101, "Switching Protocols"
            head.fields = [field for field in head.fields if field[0] != "content-length"]
            head.fields += [("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Accept", accept_of(self._websocket))]
            self.body = NoBody(BODIES)
        return head

    # The end

    def take_over(self) -> Connection:
        """The stream, for the protocol that the response has switched to. The caller closes it."""
        self.taken_over = True
        return self.connection

    def finish(self) -> None:
        """The exchange is over, and complete."""
        if not self.taken_over:
            self.connection.finish()

    def close(self) -> None:
        """End the exchange, complete or not. Idempotent."""
        if hasattr(self, "connection"):
            if not (self._over or self.stream.ended) and self.stream.code < 0:
                self.session.note_cancel()
            self.connection.lifeline.reset_at_close = True
            self.connection.finish()
        elif self._alone:
            self.session.close()
        else:
            self.session.note_rest()

    def _end(self) -> None:
        """The stream is closed on our side."""
        if not self._over:
            self._over = True
            self.session.release(self)
            if self._alone:
                self.session.close()
