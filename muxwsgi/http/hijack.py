"""`muxwsgi.hijack`: how an application takes its connection over and leaves HTTP, for a WebSocket, a tunnel or another protocol.

`environ["muxwsgi.hijack"]()` returns the `Connection` with every byte that the client sent behind the request. The engine does not touch it
again, but closes it when the application returns. `environ["werkzeug.socket"]` is a socket whose first use does the same. flask-sock and
simple-websocket need no more than that.
"""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NoReturn

from muxwsgi.errors import PeerError
from muxwsgi.http.unreadable import raise_unreadable

if TYPE_CHECKING:
    from muxwsgi.http.body import Body
    from muxwsgi.http.response import Response
    from muxwsgi.wire.connection import Connection
    from muxwsgi.wire.given import StreamSocket

__all__ = ["Hijack", "hijack_of"]


#: What can be asked of the socket without taking the connection over.
_HARMLESS = frozenset({"getpeername", "getsockname", "getsockopt", "gettimeout", "family", "type", "proto", "client", "server"})


class Hijack:
    """The right to take one exchange's connection over. It ends with the exchange.

    It is the `muxwsgi.hijack`, which is called, and also the `werkzeug.socket`: it has the methods of the connection, and the first that
    reads or writes takes it over.

    taken       the application has the connection
    connection  that of the exchange; once it is taken, what the application has. In HTTP/2 these are two: the stream is a connection
    """

    __slots__ = ("_at_end", "_body", "_over", "_response", "_socket", "connection", "taken")

    def _take(self, connection: "Connection", body: "Body", response: "Response") -> None:
        """Begin: see `hijack_of`. Not `__init__`, for the same reason as `Response._set_up`."""
        self.connection = connection
        self._body = body
        self._response = response
        self._socket: "StreamSocket | None" = None
        self._over = False
        self._at_end: Callable[[bool], None] | None = None
        self.taken = False

    def __call__(self) -> "Connection":
        """The connection, whose next bytes are those behind the request; the application writes 101 or 200 itself. Idempotent.

        Raises `RuntimeError` if a response has begun, after the exchange, and for requests of HTTP/2 other than CONNECT. Raises `PeerError`
        (400) if the request has a body that is not read to its end, because the rest would be taken for the new protocol: the client gets
        the 400 in any case.
        """
        if self.taken:
            return self.connection
        if self._over:
            raise RuntimeError("the exchange is over: its connection serves other requests now")
        if self._response.head_sent:
            raise RuntimeError("the connection cannot be taken over: the response has begun")
        self._body.check_hand_over()
        if not self._body.done:
            self.refuse(400, "the request has a body, which the application has not read before it took the connection over")
        self.taken = True
        self._response.give_up()
        connection = self.connection = self._body.hand_over()
        connection.lifeline.min_rate = 0.0  # the limit is for responses, and not for the new protocol
        connection.trace.append(f"the application took the connection over from {self._response.method}")
        return connection

    def upgrade(self, protocol: str, fields: Iterable[tuple[str, str]]) -> "Connection":
        """Take the connection over, and answer that it speaks `protocol` from now on (101, RFC 9110 section 15.2.2), with `fields`.

        Raises as a call does.
        """
        connection = self()
        fields = [("Upgrade", protocol), ("Connection", "Upgrade"), *fields]
        head = "".join(f"{name}: {value}\r\n" for name, value in fields)
        connection.sendall(f"HTTP/1.1 101 Switching Protocols\r\n{head}\r\n".encode("latin-1"))
        return connection

    def refuse(self, status: int, reason: str, fields: Iterable[tuple[str, str]] = ()) -> NoReturn:
        """Answer the request with an error, whatever the application does with the `PeerError` that this raises."""
        fault = PeerError(status, reason, tuple(fields))
        self._body.fail(fault)
        self._response.peer_error = fault  # the body may be one that other requests without a body have too
        raise_unreadable(fault)

    def ends_with(self, at_end: Callable[[bool], None]) -> None:
        """Have `at_end` called once when the application has returned or failed (True), before the connection is closed. Such a protocol
        says by itself that it was cut short, so the connection is not reset after a failure."""
        self._at_end = at_end

    def end(self, failed: bool = False) -> bool:
        """The exchange is over, and with it the right. Returns whether the peer was told of a failure."""
        self._over = True
        at_end, self._at_end = self._at_end, None
        if at_end is not None:
            at_end(failed)
        if self._socket is not None:
            self._socket.close()
        return at_end is not None

    def fileno(self) -> int:
        """The descriptor, for polls as simple-websocket does them for its pings.

        Where the connection's own would not be the stream (TLS, read-ahead), it is that of a real socket, which has the stream from
        then on. Raises `OSError` there while the connection is not taken over.
        """
        connection = self.connection
        if self._socket is None:
            try:
                number = connection.fileno()
            except OSError:
                if not self.taken:
                    raise
                number = -1
            if number >= 0 or not self.taken:
                return number
            self._socket = connection.as_socket()
        return int(self._socket.fileno())

    def __getattr__(self, name: str) -> Any:
        if self._socket is not None:
            return getattr(self._socket, name)
        if name in _HARMLESS:
            return getattr(self.connection, name)
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self(), name)


def hijack_of(connection: "Connection", body: "Body", response: "Response") -> Hijack:
    """The right to take `connection` over from the request with `body`, as long as its `response` has not begun."""
    hijack = Hijack.__new__(Hijack)
    hijack._take(connection, body, response)
    return hijack
