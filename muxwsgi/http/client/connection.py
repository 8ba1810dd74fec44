"""The client's side of HTTP/1.1: one upstream connection, one exchange after the other. No byte of one exchange gets into another.

It frames and parses. The caller decides which request is sent, whether one may be sent again, and where a connection goes afterwards.
Requests are given as bytes. The caller tells whether more of the same request follows.
"""

import re
import select
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gevent.monkey import get_original

from muxwsgi.errors import OperatorError
from muxwsgi.http.body import Body
from muxwsgi.http.client.head_wait import HeadWait, OnInterim
from muxwsgi.http.client.response_head import BrokenResponse, ResponseHead, parse_response_head, refuse_response_early
from muxwsgi.http.client.response_repair import normalised
from muxwsgi.http.h1.body import ChunkedBody, CloseBody, EmptyBody, LengthBody
from muxwsgi.http.h1.chunk_line import last_chunk
from muxwsgi.http.h1.incoming import Incoming
from muxwsgi.settings.http import RESPONSE_HEAD_TIMEOUT, HTTPSettings

if TYPE_CHECKING:
    from muxwsgi.wire.connection import Connection

__all__ = ["BODIES", "BrokenResponse", "ClientConnection", "ClientSettings", "NoResponse", "OnInterim", "ResponseHead"]

#: Bodies of responses have no minimum rate and no limit: an event stream is silent for hours, and how long silence may last is
#: set by `Connection.idle_timeout`.
BODIES = HTTPSettings(body_min_rate=0, limit_request_body=0)

#: The end of a head whose lines may end in a bare LF.
_HEAD_END = re.compile(rb"\n\r?\n")

#: The unpatched function, which is called without waiting.
_poll: Callable[[], "select.poll"] = get_original("select", "poll")


class NoResponse(BrokenResponse):
    """The upstream closed without a byte of a response. A connection that was used before may have hit the server's idle timeout: a request
    that may be repeated can be tried on another (RFC 9112 section 9.5)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClientSettings:
    """Limits and deadlines towards an upstream.

    limit_response_head     bytes of one head
    limit_response_fields   number of fields in it
    limit_interim           1xx responses before the final one
    accept_invalid          repair some invalid heads: see `response_repair.py`
    response_head_timeout   seconds from the end of the request, and from each interim response, to the end of the head; 0 for no limit
    """

    limit_response_head: int = 131072
    limit_response_fields: int = 256
    limit_interim: int = 64
    response_head_timeout: float = RESPONSE_HEAD_TIMEOUT
    accept_invalid: bool = False

    def __post_init__(self) -> None:
        for name in ("limit_response_head", "limit_response_fields", "limit_interim"):
            if getattr(self, name) < 1:
                raise OperatorError(f"{name}: {getattr(self, name)} is less than 1")
        if not self.response_head_timeout >= 0:
            raise OperatorError(f"response_head_timeout: {self.response_head_timeout} is less than 0")


class ClientConnection:
    """An upstream connection that speaks HTTP/1.1, which it owns.

    An exchange: `send` the request, `receive` the head, read `body` to its end. Then, if `reusable`, another. One greenlet may send while
    another receives, so that a response that comes before the request is sent whole is seen.

    Deadlines are set on the connection's lifeline, which the caller adds to a sweeper (`Sweeper.lines`).

    Attributes:
        connection: the stream below; not to be read from or written to.
        body: of the response whose head `receive` returned last. Its faults are `OSError`s (`BrokenBody`).
        fresh: whether no response has come on it yet.
        answered: whether a byte of a response has come since the last request began. While False, that request can be repeated elsewhere
            if its method allows it.
        closing: whether this is the last request on the connection. The caller that sends `Connection: close` sets it.
        address: the upstream's address, for logs. The caller that opened the connection sets it.
    """

    __slots__ = (
        "_accept_invalid",
        "_awaited",
        "_incoming",
        "_keep_alive",
        "_no_body",
        "_poll",
        "_sending",
        "_settings",
        "_wait",
        "address",
        "answered",
        "body",
        "closing",
        "connection",
        "fresh",
    )

    def __init__(self, connection: "Connection", settings: ClientSettings) -> None:
        self.connection = connection
        self._settings = settings
        self._accept_invalid = settings.accept_invalid
        self._incoming = Incoming(connection)
        self._no_body = EmptyBody(self._incoming, BODIES)
        self.body: Body = self._no_body
        self.fresh = True
        self.answered = False
        self.closing = False
        self.address = ""
        self._keep_alive = True  # of the last response
        self._sending = False  # more of the request is to come
        self._awaited = False  # a request has begun, its final head has not come
        self._wait = HeadWait(connection.lifeline, settings.limit_interim, settings.response_head_timeout)
        self._poll: "select.poll | None" = None

    def __repr__(self) -> str:
        state = "fresh" if self.fresh else "reusable" if self.reusable else "busy"
        return f"<ClientConnection {state} on {self.connection!r}>"

    # The request

    def send(self, data: bytes | memoryview, *, more: bool = False) -> None:
        """Send a request or a part of one, framed by the caller. `more` means that the request goes on. An empty `data` may end it. Until
        it has ended, closing the connection is a reset.

        Raises the connection's errors. A response may have come even then, because a server that refuses a body responds and closes.
        """
        in_parts = self._sending
        if not in_parts:
            self._awaited = True
            self.answered = False
            if more:
                self.connection.reset_unless_complete(True)
        # Until it is all sent, because a response may be complete before the request is.
        self._sending = True
        try:
            if data:
                self.connection.sendall(data)
            if in_parts and not more:
                self.connection.reset_unless_complete(False)
            self._sending = more
        except BaseException:
            self.closing = True
            self._sending = False  # no more will come: what is left to wait for is a response
            raise
        finally:
            if self._wait.waiting and not self._sending:
                self._wait.set_deadline()

    def send_piece(self, piece: bytes, *, chunked: bool) -> None:
        """More of the body of a request that goes on."""
        self.send(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece, more=True)

    def send_end(self, trailers: Iterable[tuple[str, str]], *, chunked: bool) -> None:
        """The end of such a body."""
        self.send(last_chunk(trailers) if chunked else b"")

    # The response

    def receive(self, method: str, on_interim: OnInterim | None = None) -> ResponseHead:
        """The head of the final response to the request that was sent. The request's method decides whether there is a body (RFC 9112
        section 6.3).

        Interim responses are given to `on_interim`. 101 is final, see `take_over`. Raises `BrokenResponse`, `NoResponse` if the stream
        ended without a byte, `Expired` at the deadline, and the connection's errors. The caller must close the connection then.
        """
        wait = self._wait
        self.body = self._no_body
        wait.begin()
        try:
            while True:
                if not self._sending:
                    wait.set_deadline()
                raw = self._read_invalid_head() if self._accept_invalid else self._read_head()
                head = parse_response_head(raw, self._settings.limit_response_fields)
                self.fresh = False
                if wait.is_final(head, on_interim):
                    break
        finally:
            wait.end()
        self.body = self._body_of(head, method)
        self._keep_alive = head.keep_alive
        self._awaited = False
        return head

    def _first_bytes(self) -> bytes:
        """The beginning of a response, at least a byte."""
        buffer = self._incoming.take()
        if not buffer:
            raise NoResponse("the upstream closed the connection without a response")
        self.answered = True
        return buffer

    def _read_head(self) -> bytes:
        """The next head with its CRLFCRLF. Bytes after it stay in the buffer."""
        incoming = self._incoming
        limit = self._settings.limit_response_head
        buffer = self._first_bytes()
        end = buffer.find(b"\r\n\r\n")
        searched = 0
        while end < 0:
            refuse_response_early(buffer, limit, searched)
            searched = len(buffer)
            more = incoming.connection.recv()
            if not more:
                raise BrokenResponse("the upstream closed the connection in the response head")
            buffer += more
            end = buffer.find(b"\r\n\r\n", searched - 3 if searched > 3 else 0)
        end += 4
        if end > limit:
            raise BrokenResponse(f"the response head is longer than {limit} bytes")
        if end == len(buffer):
            return buffer
        incoming.buffer = buffer[end:]
        return buffer[:end]

    def _read_invalid_head(self) -> bytes:
        """The same for heads whose lines may end in a bare LF. The head is repaired as far as possible."""
        incoming = self._incoming
        limit = self._settings.limit_response_head
        buffer = self._first_bytes()
        searched = 0
        while (end := _HEAD_END.search(buffer, max(searched - 3, 0))) is None:
            if len(buffer) > limit:
                raise BrokenResponse(f"the response head is longer than {limit} bytes")
            searched = len(buffer)
            more = incoming.connection.recv()
            if not more:
                raise BrokenResponse("the upstream closed the connection in the response head")
            buffer += more
        if end.end() > limit:
            raise BrokenResponse(f"the response head is longer than {limit} bytes")
        incoming.buffer = buffer[end.end() :]
        return normalised(buffer[: end.end()])

    def _body_of(self, head: ResponseHead, method: str) -> Body:
        """The body with its framing (RFC 9112 section 6.3). Corrects `keep_alive` of a head whose body ends with the connection."""
        status = head.status
        if status == 101 or (method == "CONNECT" and 200 <= status < 300):
            head.keep_alive = False  # HTTP ends here
            return self._no_body
        if method == "HEAD" or status == 304 or status == 204:
            return self._no_body
        if head.chunked:
            return ChunkedBody(self._incoming, BODIES, expects_continue=False)
        if head.length is None:
            head.keep_alive = False
            return CloseBody(self._incoming, BODIES)
        if head.length == 0:
            return self._no_body
        return LengthBody(self._incoming, BODIES, expects_continue=False, length=head.length)

    # Between and after exchanges

    @property
    def reusable(self) -> bool:
        """Whether another request may be sent: request and response are complete, neither side sent `close`, and no bytes are left over."""
        body = self.body
        return (
            self._keep_alive
            and body.done
            and body.fault is None
            and not (self._sending or self._awaited or self.closing or self._incoming.buffer)
        )

    def alive(self) -> bool:
        """Whether nothing has come on an idle connection: neither its end nor unrequested bytes. Does not wait.

        False is final.
        """
        if self.closing:
            return False
        connection = self.connection
        if connection.parent is None and connection.descriptor() >= 0:
            # On a plain socket, poll shows whether there is something to read, at an eighth of the cost.
            if self._poll is None:
                self._poll = _poll()
                self._poll.register(connection.descriptor(), select.POLLIN)
            if not self._poll.poll(0):
                return True
        timeout = connection.gettimeout()
        connection.settimeout(0)
        try:
            connection.peek(1)
        except BlockingIOError:
            return True
        except OSError:
            pass
        finally:
            connection.settimeout(timeout)
        self.closing = True
        return False

    def take_over(self) -> "Connection":
        """The stream with all bytes after the head, for another protocol after 101, or after 2xx to CONNECT.

        The caller closes it. Raises `RuntimeError` if a response is not read to its end.
        """
        if self._awaited or not self.body.done:
            raise RuntimeError("the connection cannot be taken over before its response is read")
        self.closing = True
        self._incoming.give_back()
        return self.connection

    def close(self) -> None:
        """Close the connection. Idempotent."""
        self.closing = True
        self.connection.finish()
