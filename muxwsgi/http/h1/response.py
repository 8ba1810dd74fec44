"""A response as HTTP/1.1 writes it (RFC 9112): status line, chunks, whether the connection goes on. Head and first data leave in one write.

A length that is known is stated. An unknown one is chunked for a client of HTTP/1.1, and ends with the connection for one of HTTP/1.0.
"""

import errno
from http import HTTPStatus
from typing import IO, TYPE_CHECKING

from muxwsgi.errors import PeerError
from muxwsgi.http.date import http_date
from muxwsgi.http.h1.chunk_line import last_chunk
from muxwsgi.http.rendered import Header, Rendered
from muxwsgi.http.response import JOIN_AT_MOST, Response
from muxwsgi.wire.syscalls import clock, second

if TYPE_CHECKING:
    from muxwsgi.http.body import Body
    from muxwsgi.wire.connection import Connection

__all__ = ["H1Response", "ResponseDefaults", "put_refusal", "response_to"]

#: What the last heads have become: see `Response._set_up`.
_RENDERED: dict[str, Rendered] = {}


class ResponseDefaults:
    """What all responses of an engine have in common.

    server              the field line Server, with its CRLF; b"" for none
    date                the field line Date, likewise, of the second of the last `refresh`
    date_and_server     both
    closing             connections are closed after the exchange that they are in
    linger              seconds that a refusal may take to be sent
    """

    __slots__ = ("_second", "closing", "date", "date_and_server", "linger", "server")

    def __init__(self, server: str, *, closing: bool, linger: float) -> None:
        self.server = b"Server: %b\r\n" % server.encode("ascii") if server else b""
        self.closing = closing
        self.linger = linger
        self._second = -1
        self.refresh()

    def refresh(self) -> None:
        """Make the field lines of this second."""
        now = second()
        if now != self._second:
            self._second = now
            self.date = b"Date: %b\r\n" % http_date(now).encode("ascii")
            self.date_and_server = self.date + self.server


class H1Response(Response):
    """One response on a connection of HTTP/1.0 or 1.1. `response_to` makes it."""

    __slots__ = ("_chunked", "_connection", "_defaults", "_minor")

    def _take(
        self, connection: "Connection", defaults: ResponseDefaults, body: "Body", method: str, minor: int, keep_alive: bool
    ) -> None:
        """Begin: see `response_to`. Not `__init__`, for the same reason as `Response._set_up`."""
        self._connection = connection
        self._defaults = defaults
        self._minor = minor
        self._chunked = False
        self._set_up(body, method, keep_alive, _RENDERED)

    def _spell(self, status: str, fields: list[Header]) -> bytes:
        lines = [f"HTTP/1.1 {status}\r\n" if len(status) > 3 else f"HTTP/1.1 {status} \r\n"]
        for name, value in fields:
            lines.append(f"{name}: {value}\r\n")
        return "".join(lines).encode("latin-1")

    def _put_head(self, total: int | None, data: bytes) -> None:
        defaults = self._defaults
        defaults.refresh()

        # 1. How the body is framed.
        framing = b""
        if total is not None:
            framing = b"Content-Length: %d\r\n" % total
        elif self._left is None and not self._silent:
            if self._minor:
                self._chunked = True
                framing = b"Transfer-Encoding: chunked\r\n"
            else:
                self.keep_alive = False
                self._connection.reset_unless_complete(True)  # otherwise half of such a response would look complete

        # 2. Whether the connection goes on.
        body = self._body
        if defaults.closing:
            self.keep_alive = False
        if body.withheld:
            self.keep_alive = False  # the client may send the body or not: what comes next cannot be told
            body.forgo_continue()
        if self.keep_alive:
            connection = b"" if self._minor else b"Connection: keep-alive\r\n"
        else:
            connection = b"Connection: close\r\n"

        # 3. Date and Server, unless the application gave them.
        if not self._dated and not self._served:
            ours = defaults.date_and_server
        else:
            ours = (b"" if self._dated else defaults.date) + (b"" if self._served else defaults.server)
        head = b"".join((self._block, framing, ours, connection, b"\r\n"))

        # 4. The head and the first of the body.
        if not self._chunked and len(data) <= JOIN_AT_MOST:  # as most responses are
            self._send(head + data, len(head), len(data))
        else:
            self._write(head, data)

    def _put(self, data: bytes) -> None:
        self._write(b"", data)

    def _put_end(self) -> None:
        if self._chunked:
            self._send(last_chunk(self._trailer_fields()) if self.trailers else b"0\r\n\r\n", 0, 0)
        elif self._left is None:  # the end of the connection is the end of the body
            self._connection.reset_unless_complete(False)

    def _put_interim(self, code: int, reason: str, fields: list[Header]) -> None:
        if self._minor:
            lines = [f"HTTP/1.1 {code} {reason}", *(f"{name}: {value}" for name, value in fields)]
            self._send("\r\n".join([*lines, "", ""]).encode("latin-1"), 0, 0)

    def _put_refusal(self, error: PeerError) -> int:
        return put_refusal(self._connection, error, self._defaults)

    def _break_off(self) -> None:
        self.keep_alive = False

    def _sends_files(self) -> bool:
        return self._connection.can_sendfile

    def _put_file(self, file: IO[bytes], offset: int, count: int) -> int:
        connection = self._connection
        before = connection.bytes_sent
        try:
            return connection.sendfile(file, offset, count)
        except OSError as error:
            self.peer_error = error
            raise
        except BaseException:  # as in `_send`
            self.peer_error = BrokenPipeError(errno.EPIPE, "a write was interrupted")
            raise
        finally:
            self.body_bytes += connection.bytes_sent - before

    def _write(self, head: bytes, data: bytes) -> None:
        """Send `data` of the body in its framing, with `head` before it."""
        count = len(data)
        in_front = len(head)
        if self._chunked and data:
            size = b"%x\r\n" % count
            in_front += len(size)
            data = size + data + b"\r\n"
        if head and len(data) > JOIN_AT_MOST:
            first = min(len(head) + JOIN_AT_MOST - in_front, count)  # of the body; the second write has the rest, and a chunk's end
            self._send(head + data[:JOIN_AT_MOST], in_front, first)
            self._send(memoryview(data)[JOIN_AT_MOST:], 0, count - first)
        elif head or data:
            self._send(head + data, in_front, count)

    def _send(self, data: bytes | memoryview, in_front: int, count: int) -> None:
        """Send `data`, in which `count` bytes of the body come after `in_front` others."""
        if self.peer_error is not None:
            raise self.peer_error
        connection = self._connection
        before = connection.bytes_sent
        try:
            connection.sendall(data)
        except OSError as error:
            self.peer_error = error
            self.body_bytes += min(max(connection.bytes_sent - before - in_front, 0), count)
            raise
        except BaseException:  # a Timeout of the application's: how much has reached the peer is not known, so nothing may follow
            self.peer_error = BrokenPipeError(errno.EPIPE, "a write was interrupted")
            self.body_bytes += min(max(connection.bytes_sent - before - in_front, 0), count)
            raise
        self.body_bytes += count


def response_to(
    connection: "Connection", defaults: ResponseDefaults, body: "Body", method: str, minor: int, keep_alive: bool
) -> H1Response:
    """The response to a request that came in HTTP/1.`minor`, with `body`. `keep_alive`: whether the peer lets the connection go on."""
    response = H1Response.__new__(H1Response)
    response._take(connection, defaults, body, method, minor, keep_alive)
    return response


def put_refusal(connection: "Connection", error: PeerError, defaults: ResponseDefaults) -> int:
    """Send a whole error response for a request, with `Connection: close`. Returns the number of bytes of its body."""
    body = f"{error.reason}\n".encode()
    status = f"{error.status} {HTTPStatus(error.status).phrase}"
    defaults.refresh()
    head = f"HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {len(body)}\r\n"
    head += "".join([f"{name}: {value}\r\n" for name, value in error.fields])
    connection.deadline = clock() + defaults.linger
    connection.sendall(head.encode("ascii") + defaults.date_and_server + b"Connection: close\r\n\r\n" + body)
    return len(body)
