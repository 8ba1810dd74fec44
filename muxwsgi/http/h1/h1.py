"""HTTP/1.0 and 1.1: one connection, one exchange after the other. The path of an exchange reads from `__call__` down.

Theory of operation
-------------------

A connection is in one of these states. The greenlet that serves it is in the function that is named.

    resting     `_read_head`: no byte of a request has come. `lifeline.resting` is set, so a drain ends the wait, and the keep-alive timeout
                (for the first request that of a head) ends it without an answer. A request that comes at that moment is still answered.
    head        `_read_rest_of_head`: a part of a head has come. The head has one deadline, however slowly its bytes come; then 408.
    exchange    `_exchange`: the application runs. There is no deadline. Reading the body and writing the response have a minimum rate.
    drain       `_drained`: the response is out, and a little of the body that the application has not read is dropped. Then: resting.
    lingering   `linger`: nothing more is served. Our side is ended, and the peer may read what was sent before the connection is closed.
    taken       the application has called `muxwsgi.hijack`. The connection is not HTTP any more, and closes when the application returns.

An exchange goes forward only. Its request is read, then its response is begun, then it is complete:

- `start_response` may be called again (with `exc_info`), and an error may be answered with another response, until the head is sent.
- 100 (Continue) is sent by the first read of the body that has to wait, and only before the head of the response. If the response begins
  first, the client may send the body or not, so the connection closes behind it.
- The connection may be taken over after the body was read, and before the head is sent.
- What goes wrong after the head is sent cannot be answered any more. The client then sees an incomplete body: fewer bytes than
  Content-Length, no last chunk, or a reset where the body ends with the connection.

The next request is read only where it is certain at which byte it begins: the body was read to its end, the response is complete, and
neither side wants a close. Every doubt is 400 and a close. A proxy in front could have read the bytes behind a doubtful request as another
request than we do (RFC 9112 section 11.2).

Deadlines are set by phase on the connection's lifeline, and kept by the sweeper. There is no timer here.

What was rejected:

- One llhttp parser for a whole connection. Bytes of a body, or of the next request, would be inside the parser when the policy of `head`
  refuses the request, and an Upgrade field ends the parsing. A parser reads one head, or one set of trailers, and is dropped.
- llhttp for the lines between chunks. It takes no blanks in chunk extensions, which the grammar allows: see `chunk_line`.
- A writer beside the response, for what is HTTP/1.1's own. Each write would cost one more call; the methods of a subclass cost none.
"""

import math
from http import HTTPStatus
from typing import TYPE_CHECKING

from muxwsgi.errors import Draining, Expired, PeerError
from muxwsgi.events import Events, tell
from muxwsgi.http.authority import is_host
from muxwsgi.http.body import Body
from muxwsgi.http.environ import Environ, ErrorStream, WSGIApplication
from muxwsgi.http.exchange import Exchange
from muxwsgi.http.forwarding import Forwarding
from muxwsgi.http.gateway import Gateway
from muxwsgi.http.h1.body import ChunkedBody, EmptyBody, LengthBody
from muxwsgi.http.h1.head import Head, refuse_early
from muxwsgi.http.h1.incoming import Incoming
from muxwsgi.http.h1.refused import refused_request
from muxwsgi.http.h1.response import ResponseDefaults, put_refusal, response_to
from muxwsgi.http.input import Input
from muxwsgi.protocols.http1 import LEADING_CRLFS
from muxwsgi.settings import HTTPSettings, TrustSettings
from muxwsgi.wire.lingering_close import linger
from muxwsgi.wire.ready import give_turn
from muxwsgi.wire.syscalls import clock

if TYPE_CHECKING:
    from muxwsgi.wire.connection import Connection

__all__ = ["HTTP1"]

#: Unread bytes of a body that are dropped so that the connection can go on. With more, it closes.
DRAIN_AT_MOST = 65536

#: Bytes read at once where a head is expected: most are smaller, and what is larger goes on from there.
HEAD_BLOCK = 4096

#: Pipelined requests answered in a row, before other greenlets get a turn.
PIPELINED_PER_TURN = 32

_NEVER = math.inf


class HTTP1:
    """A handler that serves HTTP/1.0 and 1.1 with a WSGI application.

    `draining` is set by the server at shutdown: connections close after the exchange they are in. `errors` is the `wsgi.errors` of
    connections that begin.
    """

    def __init__(
        self,
        app: WSGIApplication,
        settings: HTTPSettings,
        *,
        events: Events | None = None,
        multiprocess: bool = False,
        trust: TrustSettings | None = None,
    ) -> None:
        """`trust` says which peers may say who their client is; None for no peer.

        `events` hears of exchanges, of requests that are refused, and of connections that the application had taken over. `multiprocess`
        goes into the environ."""
        self._settings = settings
        self._gateway = Gateway(
            app,
            software=settings.server_header or "muxwsgi",
            events=Events() if events is None else events,
            multiprocess=multiprocess,
            forwarding=None if trust is None else Forwarding(trust, is_host),
        )
        self._defaults = ResponseDefaults(settings.server_header, closing=settings.keep_alive == 0, linger=settings.linger)
        self._draining = False
        self._head_at_most = settings.limit_request_head

    @property
    def errors(self) -> ErrorStream:
        """The `wsgi.errors` of connections that begin."""
        return self._gateway.errors

    @errors.setter
    def errors(self, value: ErrorStream) -> None:
        self._gateway.errors = value

    @property
    def draining(self) -> bool:
        """Whether connections close after the exchange they are in."""
        return self._draining

    @draining.setter
    def draining(self, value: bool) -> None:
        self._draining = value
        self._defaults.closing = value or self._settings.keep_alive == 0

    def __call__(self, connection: "Connection") -> None:
        """Serve `connection` until either side ends it. Raises its errors, which are the peer's faults, and nothing else."""
        self._serve(connection, self._settings.request_head_timeout, connection.lifeline.deadline)

    def resume(self, connection: "Connection", until: float) -> None:
        """Serve `connection`, which rests after requests that another process has answered. It is closed at `until` (`monotonic`) if no
        further one comes."""
        self._serve(connection, max(0.0, until - clock()), _NEVER)

    def _serve(self, connection: "Connection", patience: float, due: float) -> None:
        """`patience` is for the first byte, and `due` the deadline of the first head, if it has begun so late that the mux had set one."""
        settings = self._settings
        line = connection.lifeline
        line.engine = self
        line.min_rate = settings.body_min_rate
        line.rate_grace = settings.body_rate_grace
        incoming = Incoming(connection)
        no_body = EmptyBody(incoming, settings)
        gateway = self._gateway
        shared = gateway.environ_of(connection)
        shared["wsgi.input"] = Input(no_body)
        head = Head(settings, shared)
        forwarding = gateway.forwarding(connection)
        pipelined = 0
        raw: bytes | None = None
        try:
            while (raw := self._read_head(incoming, patience, due)) is not None:
                due = _NEVER
                environ = head.parse(raw)
                if forwarding is not None:
                    forwarding.read(environ)
                body: Body = no_body
                if head.chunked or head.length:
                    body = self._body(incoming, head, environ)
                if not self._exchange(incoming, head, body, environ):
                    return
                raw = None  # what is refused from here on is another request
                patience = settings.keep_alive
                if incoming.buffer:
                    # The next request is here already, so the next read does not wait. A client that sends thousands at once must not keep
                    # the worker from others.
                    pipelined += 1
                    if pipelined % PIPELINED_PER_TURN == 0:
                        give_turn()
        except PeerError as error:
            began = clock()
            size = 0
            try:
                gateway.note_refusal(connection, error)
                size = put_refusal(connection, error, self._defaults)
            finally:
                if gateway.events.counts is not None:
                    gateway.events.counts.note_refusal(error.status, clock() - began)
                if gateway.events.exchange:
                    request, line_text = refused_request(shared, incoming.buffer if raw is None else raw, settings.limit_request_line)
                    status = f"{error.status} {HTTPStatus(error.status).phrase}"
                    seconds = clock() - began
                    tell(gateway.events.exchange, Exchange(request, request, status, [], size, seconds, error.reason, line_text))
            linger(connection, settings.linger)

    # Reading a head

    def _read_head(self, incoming: Incoming, patience: float, due: float) -> bytes | None:
        """The next head with its CRLFCRLF; None where there is none. Raises `PeerError` for one that is too large or too late: after
        its timeout, or at `due` if that is sooner."""
        line = incoming.connection.lifeline
        buffer = incoming.buffer
        if not buffer:
            # Nothing would be lost if the connection closed here, where nothing has come yet.
            line.deadline = clock() + patience
            line.resting = True
            line.promised = True
            try:
                buffer = incoming.connection.recv(HEAD_BLOCK)
            except (Expired, Draining):
                buffer = self._read_late_head(incoming)
            finally:
                line.resting = False
                line.promised = False
            if not buffer:
                return None
        end = buffer.find(b"\r\n\r\n")
        if end <= 0 or buffer[:2] == b"\r\n":
            line.deadline = min(clock() + self._settings.request_head_timeout, due)
            buffer = self._read_rest_of_head(incoming, buffer)
            if not buffer:
                return None
            end = buffer.find(b"\r\n\r\n")
        line.deadline = _NEVER
        end += 4
        if end > self._head_at_most:
            refuse_early(buffer[:end], self._settings)
        if end == len(buffer):
            incoming.buffer = b""
            return buffer
        incoming.buffer = buffer[end:]
        return buffer[:end]

    def _read_late_head(self, incoming: Incoming) -> bytes:
        """What came when the wait for it was already ended; b"" where nothing has. Closing would answer it with a reset."""
        line = incoming.connection.lifeline
        if not line.reader.is_ready():
            return b""
        line.deadline = clock() + self._settings.linger
        try:
            return incoming.connection.recv(HEAD_BLOCK)
        except Expired:  # TLS: it was no request
            return b""

    def _read_rest_of_head(self, incoming: Incoming, buffer: bytes) -> bytes:
        """`buffer` without empty lines in front, and with a whole head in it; b"" where the peer left instead."""
        skipped = 0
        searched = 0
        while True:
            while buffer.startswith(b"\r\n"):
                skipped += 1
                if skipped > LEADING_CRLFS:
                    raise PeerError(400, f"more than {LEADING_CRLFS} empty lines in front of a request")
                buffer = buffer[2:]
            if b"\r\n\r\n" in buffer:
                return buffer
            incoming.buffer = buffer  # for the log, where it is refused
            refuse_early(buffer, self._settings, searched)
            searched = len(buffer)
            try:
                more = incoming.connection.recv()
            except Expired:
                raise PeerError(408, "the request head came too late") from None
            if not more:
                if buffer:
                    raise PeerError(400, "the request head is incomplete")
                return b""
            buffer += more

    # One exchange

    def _exchange(self, incoming: Incoming, head: Head, body: Body, environ: Environ) -> bool:
        """Answer one request. Whether another may follow on the connection."""
        connection = incoming.connection
        response = response_to(connection, self._defaults, body, head.method, head.minor, head.keep_alive)
        if not self._gateway.serve(connection, environ, body, response, head.target):
            if isinstance(response.peer_error or body.fault, PeerError) and not response.head_sent:  # refused before its body was read
                linger(connection, self._settings.linger)
            return False
        if response.peer_error is not None:  # which the application has caught: the response is not complete
            connection.abort()
            return False
        if not response.keep_alive or not self._drained(incoming, body):
            # A client that asked for the close, and sent no body, sends nothing more: what it has read cannot be lost to a reset.
            if head.keep_alive or head.length is not None or head.chunked or incoming.buffer:
                linger(connection, self._settings.linger)
            return False
        return True

    def _body(self, incoming: Incoming, head: Head, environ: Environ) -> Body:
        body: Body
        if head.chunked:
            body = ChunkedBody(incoming, self._settings, head.expects_continue)
            environ["muxwsgi.trailers"] = body.trailers
            # Only without a Content-Length, whose meaning is never in doubt.
            environ["wsgi.input_terminated"] = True
        else:
            body = LengthBody(incoming, self._settings, head.expects_continue, head.length or 0)
        environ["wsgi.input"] = Input(body)
        return body

    def _drained(self, incoming: Incoming, body: Body) -> bool:
        """Whether the connection stands at the end of the request. A little of its body is read and dropped to get there."""
        if body.done:
            return True
        if isinstance(body, LengthBody) and body.left > DRAIN_AT_MOST:
            return False
        incoming.connection.deadline = clock() + self._settings.linger
        start = body.received
        try:
            while not body.done and body.received - start <= DRAIN_AT_MOST:
                body.read_some(DRAIN_AT_MOST)
        except (PeerError, OSError):
            return False
        finally:
            incoming.connection.deadline = math.inf
        return body.done
