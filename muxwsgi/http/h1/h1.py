"""HTTP/1.1: one connection, one exchange after the other. The path of an exchange reads from `_exchange` down.

Deadlines are set by phase on the connection's lifeline and kept by the sweeper; there is no timer here. The application's faults end in the
error log and a 500, the peer's in a 4xx and a close, and neither in a response that is cut where a client could take it for whole.
"""

import errno
import logging
import math
import socket
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from muxwsgi.errors import Cut, Draining, Expired, PeerError, ResponseAborted, TLSError
from muxwsgi.events import Events, Refusal, tell
from muxwsgi.http.body import Body
from muxwsgi.http.environ import Environ, ErrorStream, StandardErrors, connection_environ
from muxwsgi.http.exchange import Exchange, refused_request
from muxwsgi.http.h1.body import ChunkedBody, EmptyBody, LengthBody
from muxwsgi.http.h1.head import Head, refuse_early
from muxwsgi.http.h1.incoming import Incoming
from muxwsgi.http.input import Input
from muxwsgi.http.response import Response, Terms
from muxwsgi.http.upgrade import Takeover
from muxwsgi.protocols.http1 import LEADING_CRLFS
from muxwsgi.settings import HTTPSettings
from muxwsgi.signals import may_be_ctrl_c
from muxwsgi.wire.fork import end_child
from muxwsgi.wire.ready import give_turn
from muxwsgi.wire.syscalls import clock

if TYPE_CHECKING:
    from muxwsgi.wire.connection import Connection

__all__ = ["HTTP1", "WSGIApplication"]

WSGIApplication = Callable[[Environ, Callable[..., Any]], Iterable[bytes]]

#: Bytes of a body that nobody read, which are read and dropped so that the connection can go on. Above it closes.
DRAIN_AT_MOST = 65536

#: Bytes read at once where a head is expected: most are smaller, and what is larger goes on from there.
HEAD_BLOCK = 4096

#: Pipelined requests answered in a row, before other greenlets get a turn.
PIPELINED_PER_TURN = 32

_NEVER = math.inf

log = logging.getLogger("muxwsgi.error")


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
    ) -> None:
        """`events` hears of exchanges, of requests that are refused, and of connections that the application had taken over. `multiprocess`
        goes into the environ."""
        self._app = app
        self._settings = settings
        self._events = Events() if events is None else events
        self._multiprocess = multiprocess
        self.errors: ErrorStream = StandardErrors()
        self._terms = Terms(settings.server_header, closing=settings.keep_alive == 0)
        self._draining = False
        self._software = settings.server_header or "muxwsgi"
        self._head_at_most = settings.limit_request_head

    @property
    def draining(self) -> bool:
        """Whether connections close after the exchange they are in."""
        return self._draining

    @draining.setter
    def draining(self, value: bool) -> None:
        self._draining = value
        self._terms.closing = value or self._settings.keep_alive == 0

    def __call__(self, connection: "Connection") -> None:
        """Serve `connection` until either side ends it. Raises its errors, which are the peer's faults, and nothing else."""
        settings = self._settings
        line = connection.lifeline
        line.min_rate = settings.body_min_rate
        line.rate_grace = settings.body_rate_grace
        incoming = Incoming(connection)
        no_body = EmptyBody(incoming, settings)
        shared = connection_environ(connection, self._software, self._multiprocess, self.errors)
        shared["wsgi.input"] = Input(no_body)
        head = Head(settings, shared)
        patience = settings.request_head_timeout
        due = line.deadline  # of the first head, where it has begun so late that the mux had set one
        pipelined = 0
        raw: bytes | None = None
        try:
            while (raw := self._read_head(incoming, patience, due)) is not None:
                due = _NEVER
                environ = head.parse(raw)
                body: Body = no_body
                if head.chunked or head.length:
                    body = self._body(incoming, head, environ)
                if not self._exchange(incoming, head, body, environ, raw):
                    return
                raw = None  # what is refused from here on is another request
                patience = settings.keep_alive
                if incoming.buffer:
                    # The next request is here already, so the next read does not wait. Whoever sends thousands at once must not have the
                    # worker to itself.
                    pipelined += 1
                    if pipelined % PIPELINED_PER_TURN == 0:
                        give_turn()
        except PeerError as error:
            began = clock()
            size = 0
            try:
                size = self._refuse(incoming, error)
            finally:
                if self._events.exchange:
                    request, line_text = refused_request(shared, incoming.buffer if raw is None else raw, settings.limit_request_line)
                    status = _status_line(error)
                    seconds = clock() - began
                    tell(self._events.exchange, Exchange(request, request, status, [], size, seconds, error.reason, line_text))
            self._linger(incoming)

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
            try:
                buffer = incoming.connection.recv(HEAD_BLOCK)
            except (Expired, Draining):
                return None
            finally:
                line.resting = False
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

    def _exchange(self, incoming: Incoming, head: Head, body: Body, environ: Environ, raw: bytes) -> bool:
        """Let the application answer one request. Whether another may follow on the connection."""
        connection = incoming.connection
        began = 0.0
        request = environ
        in_order = True
        exchanges = self._events.exchange
        streams = self._events.stream
        if exchanges or streams:
            began = clock()
        if exchanges:
            request = environ.copy()  # the application may change the other as it likes

        # 1. The request, as the application sees it.
        response = Response(connection, self._terms, body, head.method, head.minor, head.keep_alive)
        takeover = Takeover(incoming, body, response)
        environ["muxwsgi.hijack"] = takeover
        environ["muxwsgi.response"] = response
        environ["werkzeug.socket"] = takeover

        # 2. The application, and what it returns, which is closed once and whatever happens.
        try:
            result = self._app(environ, response.start_response)
            try:
                if not takeover.taken:
                    response.send(result)
            finally:
                if type(result) is not list:  # what most applications return, and it has no close()
                    close = getattr(result, "close", None)
                    if close is not None:
                        close()
        except Cut:
            connection.lifeline.reset_at_close |= takeover.taken  # what it has sent may be half of something
            raise
        except BaseException as error:  # SystemExit, GreenletExit and gevent.Timeout too: an application ends its request, never the worker
            in_order = self._answer_for(error, incoming, body, response, takeover, raw)
            if may_be_ctrl_c(error):
                raise
        finally:
            takeover.end()
            if streams and takeover.taken:
                tell(streams, connection, clock() - began)
            if exchanges:
                refused = body.fault.reason if isinstance(body.fault, PeerError) and not response.head_sent else None
                status = response.status or ""
                seconds = clock() - began
                tell(exchanges, Exchange(request, environ, status, response.headers, response.body_bytes, seconds, refused))

        # 3. What follows.
        if not in_order:
            if isinstance(body.fault, PeerError) and not response.head_sent:
                self._linger(incoming)
            return False
        if takeover.taken:
            return False
        if response.peer_error is not None:  # which the application has kept to itself: the response is not whole
            connection.abort()
            return False
        if not response.keep_alive or not self._drained(incoming, body):
            # A client that asked for the close, and sent no body, sends nothing more: what it has read cannot be lost to a reset.
            if head.keep_alive or head.length is not None or head.chunked or incoming.buffer:
                self._linger(incoming)
            return False
        return True

    def _body(self, incoming: Incoming, head: Head, environ: Environ) -> Body:
        body: Body
        if head.chunked:
            body = ChunkedBody(incoming, self._settings, head.expects_continue)
            environ["muxwsgi.trailers"] = body.trailers
            # Only where there is no Content-Length, which says the same to everybody.
            environ["wsgi.input_terminated"] = True
        else:
            body = LengthBody(incoming, self._settings, head.expects_continue, head.length or 0)
        environ["wsgi.input"] = Input(body)
        return body

    def _answer_for(
        self, error: BaseException, incoming: Incoming, body: Body, response: Response, takeover: Takeover, raw: bytes
    ) -> bool:
        """Answer for what went wrong in an exchange. Whether the connection is still in order.

        The application has had the environ, so nothing is looked up there: `raw` is the request's head.
        """
        end_child(error)  # where the application has forked, the child must not
        connection = incoming.connection
        if takeover.taken:
            if isinstance(error, (PeerError, ConnectionError, TimeoutError, TLSError)) or getattr(error, "errno", None) == errno.EBADF:
                log.debug("%r: %s", connection, error)  # most likely the peer's, as everywhere that it is read from
                # Or of a server that the application asks: then the peer has half of something.
                connection.lifeline.reset_at_close |= not isinstance(error, (PeerError, Expired, Draining))
            else:
                self._log_application_error(raw, "the connection it had taken over is reset")
                connection.lifeline.reset_at_close = True  # as where it is killed
            return False
        fault = response.peer_error or body.fault
        if fault is not None:  # whatever the application made of it
            log.debug("%r: %s", connection, fault)
            if isinstance(fault, PeerError) and not response.head_sent:
                response.forget()
                response.status = _status_line(fault)
                response.body_bytes = self._refuse(incoming, fault)
            return False
        if response.complete:
            self._log_application_error(raw, "the response is complete all the same")
            return True
        if isinstance(error, ResponseAborted):
            log.debug("%s: the response is cut: %s", connection, error)
        else:
            self._log_application_error(raw, "the connection is closed" if response.head_sent else "answered with 500")
        if response.head_sent:
            return False
        response.forget()
        status = "502 Bad Gateway" if isinstance(error, ResponseAborted) else "500 Internal Server Error"
        try:
            response.start_response(status, [("Content-Type", "text/plain; charset=utf-8")])
            response.send([status[4:].encode() + b"\n"])
        except OSError as gone:
            log.debug("%s: %s", connection, gone)
            return False
        return True

    def _log_application_error(self, raw: bytes, consequence: str) -> None:
        line = raw[: raw.find(b"\r\n")].rpartition(b" ")[0].decode("latin-1")  # visible ASCII: `head` has seen to it
        log.exception("application error in %s: %s", line, consequence)

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

    # Refusing

    def _refuse(self, incoming: Incoming, error: PeerError) -> int:
        """Tell the peer what is wrong with its request, in so many bytes of a body. `_linger` comes next, so that it can read that."""
        connection = incoming.connection
        if self._events.refused:
            tell(self._events.refused, connection, Refusal("refused", error.reason, status=error.status))
        log.debug("%s: refused: %s", connection, error)
        body = f"{error.reason}\n".encode()
        self._terms.refresh()
        head = f"HTTP/1.1 {_status_line(error)}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {len(body)}\r\n"
        connection.deadline = clock() + self._settings.linger
        connection.sendall(head.encode("ascii") + self._terms.date_and_server + b"Connection: close\r\n\r\n" + body)
        return len(body)

    def _linger(self, incoming: Incoming) -> None:
        """End our side and read on for a while: a close with unread bytes is a reset, which can take our last words with it."""
        connection = incoming.connection
        connection.deadline = clock() + self._settings.linger
        try:
            connection.shutdown(socket.SHUT_WR)
            while connection.recv():
                pass
        except OSError:
            pass  # gone, or late: it had its chance
        finally:
            connection.deadline = math.inf


def _status_line(error: PeerError) -> str:
    return f"{error.status} {HTTPStatus(error.status).phrase}"
