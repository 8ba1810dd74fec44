"""Taking the connection over: how an application leaves HTTP, for a WebSocket, a tunnel or a protocol of its own.

`environ["muxwsgi.hijack"]()` returns the `Connection` with every byte that the client sent behind the request, and the engine never touches
it again but to close it when the application returns. `environ["werkzeug.socket"]` is a socket whose first use does the same, which
is all that flask-sock and simple-websocket need.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from muxwsgi.http.body import Body
    from muxwsgi.http.h1.incoming import Incoming
    from muxwsgi.http.response import Response
    from muxwsgi.wire.connection import Connection
    from muxwsgi.wire.given import StreamSocket

__all__ = ["Takeover"]


#: What can be asked of the socket without deciding anything.
_HARMLESS = frozenset({"getpeername", "getsockname", "getsockopt", "gettimeout", "family", "type", "proto", "client", "server"})


class Takeover:
    """The right to take one exchange's connection over, as long as the exchange lasts.

    It is the `muxwsgi.hijack`, which is called, and also the `werkzeug.socket`: it has the methods of the connection, and the first that
    reads or writes takes it over.
    """

    __slots__ = ("_body", "_incoming", "_over", "_response", "_socket", "taken")

    def __init__(self, incoming: "Incoming", body: "Body", response: "Response") -> None:
        self._incoming = incoming
        self._body = body
        self._response = response
        self._socket: "StreamSocket | None" = None
        self._over = False
        self.taken = False

    def __call__(self) -> "Connection":
        """The connection, whose bytes go on behind the request; the application writes 101 or 200 itself. Idempotent.

        Raises `RuntimeError` where a response has begun, where the request has a body that is not read to its end (left in the stream
        it would be taken for the new protocol), and after the exchange.
        """
        connection = self._incoming.connection
        if self.taken:
            return connection
        if self._over:
            raise RuntimeError("the exchange is over: its connection serves other requests now")
        if self._response.head_sent:
            raise RuntimeError("the connection cannot be taken over: the response has begun")
        if not self._body.done:
            raise RuntimeError("the connection cannot be taken over before the request's body is read")
        self.taken = True
        self._response.give_up()
        self._incoming.give_back()
        connection.lifeline.min_rate = 0.0  # the engine's limit, not the new protocol's
        connection.trace.append(f"the application took the connection over from {self._response.method}")
        return connection

    def end(self) -> None:
        """The exchange is over, and with it the right."""
        self._over = True
        if self._socket is not None:
            self._socket.close()

    def fileno(self) -> int:
        """The descriptor, for polls as simple-websocket does them for its pings.

        Where the connection's own would not be the stream (TLS, read-ahead), it is that of a real socket, which has the stream from
        then on. Raises `OSError` there while the connection is not taken over.
        """
        connection = self._incoming.connection
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
            return getattr(self._incoming.connection, name)
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self(), name)
