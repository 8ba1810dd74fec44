"""The streams of bytes that MQTT comes through: a connection of muxwsgi, plain or in TLS, and a WebSocket."""

from socket import MSG_DONTWAIT

from muxwsgi import Connection
from muxwsgi.websocket import ConnectionClosed, WebSocket

__all__ = ["ConnectionStream", "WebSocketStream"]

_DONTWAIT = int(MSG_DONTWAIT)


class ConnectionStream:
    """TCP, or TLS over it."""

    __slots__ = ("_is_tls", "connection")

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._is_tls = connection.tls is not None or connection.parent is not None

    def read(self) -> bytes:
        return self.connection.recv()

    def write(self, data: bytes) -> None:
        self.connection.sendall(data)

    def write_now(self, data: bytes) -> int:
        if self._is_tls:  # a TLS record cannot be sent in part
            return 0
        try:
            return self.connection.send(data, _DONTWAIT)
        except BlockingIOError:
            return 0

    def close(self) -> None:
        self.connection.close()

    def set_deadline(self, deadline: float) -> None:
        self.connection.deadline = deadline

    def set_resting(self, resting: bool) -> None:
        self.connection.resting = resting


class WebSocketStream:
    """Binary messages (section 6). Where a message begins means nothing to MQTT [MQTT-6.0.0-2]."""

    __slots__ = ("_websocket", "connection")

    def __init__(self, websocket: WebSocket) -> None:
        self._websocket = websocket
        self.connection = websocket.connection

    def read(self) -> bytes:
        """A WebSocket that was closed has ended, whether with a Close frame or without."""
        try:
            message = self._websocket.receive()
        except ConnectionClosed:
            return b""
        if isinstance(message, str):  # [MQTT-6.0.0-1]
            self._websocket.close(1003, "MQTT is binary")
            return b""
        return message

    def write(self, data: bytes) -> None:
        self._websocket.send(data)

    def write_now(self, data: bytes) -> int:
        return 0

    def close(self) -> None:
        self.connection.close()

    def set_deadline(self, deadline: float) -> None:
        self.connection.deadline = deadline

    def set_resting(self, resting: bool) -> None:
        """WebSockets are closed with 1001 when the server stops."""
