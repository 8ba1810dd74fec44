"""`wsgi.websocket`: what applications written for the package gevent-websocket find in their environ.

python-engineio, and with it Flask-SocketIO, prefers that package where it is installed, and fails without this key. The object is of the
package's class, since applications ask for that class. It reads and writes with our codec: the package unmasks byte by byte in Python,
takes messages of any length, and sends Close frames without their code. The connection is taken over and 101 is sent when the application
first reads or sends, so an application that wants no WebSocket can still answer in HTTP.
"""

import logging
import sys
from collections import deque
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from muxwsgi.http.environ import Environ, WSGIApplication
from muxwsgi.http.websocket.frame import BrokenFrame, Frame, FrameParser, Opcode, encode_frame
from muxwsgi.http.websocket.handshake import VERSION, accept_of, asks_for_websocket, is_key, subprotocols
from muxwsgi.http.websocket.messages import Messages, close_payload, close_reason
from muxwsgi.http.websocket.turns import BYTES_AT_ONCE, FRAMES_PER_TURN
from muxwsgi.wire.ready import give_turn

if TYPE_CHECKING:
    from muxwsgi.wire.connection import Connection

__all__ = ["GeventWebSocket", "with_gevent_websocket"]

#: Those that the package serves: 8 and 7 are drafts with the same frames.
_VERSIONS = (VERSION, "8", "7")

#: Bytes of one message, however many frames it comes in.
MESSAGE_AT_MOST = 64 << 20

#: Bytes that are read at once.
_BLOCK = 1 << 16

log = logging.getLogger("muxwsgi.error")


class _Stream:
    """The connection, in frames. The first that is read or written takes the connection over and sends 101."""

    def __init__(self, environ: Environ, head: bytes) -> None:
        self._take_over: Callable[[], "Connection"] = environ["muxwsgi.hijack"]
        self._head = head
        self._parser = FrameParser(from_client=True, at_most=MESSAGE_AT_MOST)
        self._frames: deque[Frame] = deque()
        self._received = b""  # what the parser has not seen yet
        self._taken = 0  # frames
        self.connection: "Connection | None" = None
        self.messages = Messages(MESSAGE_AT_MOST)

    def _open(self) -> "Connection":
        if self.connection is None:
            self.connection = self._take_over()
            self.connection.sendall(self._head)
        return self.connection

    def next_frame(self) -> Frame:
        """The client's next frame. Raises `BrokenFrame`, and another `OSError` where there is none."""
        connection = self._open()
        while not self._frames:
            if self._parser.fault is not None:
                raise self._parser.fault
            if not self._received:
                self._received = connection.recv(_BLOCK)
                if not self._received:
                    raise ConnectionResetError("the client has ended the stream without a Close frame")
            data, self._received = self._received[:BYTES_AT_ONCE], self._received[BYTES_AT_ONCE:]
            self._frames.extend(self._parser.feed(data))
        frame = self._frames.popleft()
        self._taken += 1
        if self._taken % FRAMES_PER_TURN == 0:
            give_turn()
        return frame

    def write(self, data: bytes) -> None:
        """All of `data`."""
        self._open().sendall(data)


def _class_on_our_codec() -> Any:
    """A subclass of the package's WebSocket that reads and writes with our codec."""
    package: Any = sys.modules["geventwebsocket.websocket"]

    class WebSocket(package.WebSocket):  # type: ignore[misc]  # the package has no types
        def __init__(self, environ: Environ, stream: _Stream, handler: Any) -> None:
            self.environ: Environ | None = environ
            self.closed = False
            self.stream: Any = stream
            self.raw_write: Any = stream.write
            self.handler = handler

        def __del__(self) -> None:
            """Not closed by the collector, which may come while the application can still answer in HTTP: `GeventWebSocket` closes it."""

        def read_message(self) -> str | bytearray | None:
            """The next message; None behind the last."""
            stream: _Stream = self.stream
            try:
                while True:
                    frame = stream.next_frame()
                    if frame.opcode < Opcode.CLOSE:
                        message = stream.messages.add(frame)
                        if message is not None:
                            return bytearray(message) if isinstance(message, bytes) else message
                    elif frame.opcode == Opcode.PING:
                        self.send_frame(frame.data, Opcode.PONG)
                    elif frame.opcode == Opcode.CLOSE:
                        code, reason = close_reason(frame.data)
                        self.close(1000 if code is None else code, reason)
                        return None
            except BrokenFrame as fault:
                self.close(fault.code, fault.reason)
                return None

        def send_frame(self, message: Any, opcode: int) -> None:
            if self.closed:
                self.current_app.on_close(package.MSG_ALREADY_CLOSED)
                raise package.WebSocketError(package.MSG_ALREADY_CLOSED)
            data = self._encode_bytes(message) if opcode in (Opcode.TEXT, Opcode.PING) else bytes(message)
            try:
                self.raw_write(encode_frame(Frame(Opcode(opcode), data, from_client=False), masked=False))
            except OSError:
                raise package.WebSocketError(package.MSG_SOCKET_DEAD)

        def close(self, code: int = 1000, message: str | bytes | None = b"") -> None:
            if self.closed:
                self.current_app.on_close(package.MSG_ALREADY_CLOSED)
                return
            reason = message if isinstance(message, str) else (message or b"").decode(errors="replace")
            try:
                self.send_frame(close_payload(code, reason), Opcode.CLOSE)
            except package.WebSocketError:
                log.debug("a client has left before its WebSocket was closed")
            finally:
                self.closed = True
                self.stream = self.raw_write = self.environ = None

    return WebSocket


class GeventWebSocket:
    """A WSGI application that gives another one `wsgi.websocket` and `wsgi.websocket_version`, for requests that ask for a WebSocket."""

    def __init__(self, app: WSGIApplication) -> None:
        self.app = app
        self._websocket = _class_on_our_codec()
        self._handler = SimpleNamespace(server=SimpleNamespace(application=app), logger=log)

    def __call__(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        if not asks_for_websocket(environ):
            return self.app(environ, start_response)
        version, key = environ.get("HTTP_SEC_WEBSOCKET_VERSION"), environ.get("HTTP_SEC_WEBSOCKET_KEY", "")
        if version not in _VERSIONS:
            fields = [("Sec-WebSocket-Version", ", ".join(_VERSIONS))]
            return _refused(start_response, "426 Upgrade Required", "this version of WebSocket is not served", fields)
        if not is_key(key):
            return _refused(start_response, "400 Bad Request", "Sec-WebSocket-Key is missing or malformed", [])
        if "HTTP_TRANSFER_ENCODING" in environ or environ.get("CONTENT_LENGTH", "").strip("0"):  # it would be taken for frames
            return _refused(start_response, "400 Bad Request", "a request for a WebSocket has no body", [])
        stream = _Stream(environ, self._head(environ, key))
        websocket = self._websocket(environ, stream, self._handler)
        environ["wsgi.websocket"] = websocket
        environ["wsgi.websocket_version"] = version
        try:
            return self.app(environ, start_response)
        finally:
            if stream.connection is not None and not websocket.closed:
                websocket.close()

    def _head(self, environ: Environ, key: str) -> bytes:
        lines = ["HTTP/1.1 101 Switching Protocols", "Upgrade: websocket", "Connection: Upgrade", f"Sec-WebSocket-Accept: {accept_of(key)}"]
        choose = getattr(self.app, "app_protocol", None)  # of the package's Resource
        protocol = choose(environ["PATH_INFO"]) if choose is not None else None
        if protocol and protocol in subprotocols(environ.get("HTTP_SEC_WEBSOCKET_PROTOCOL", "")):
            lines.append(f"Sec-WebSocket-Protocol: {protocol}")
        return "\r\n".join([*lines, "", ""]).encode("latin-1")


def _refused(start_response: Callable[..., Any], status: str, text: str, fields: list[tuple[str, str]]) -> list[bytes]:
    start_response(status, [("Content-Type", "text/plain; charset=utf-8"), *fields])
    return [f"{text}\n".encode()]


def with_gevent_websocket(app: WSGIApplication) -> WSGIApplication:
    """`app`, with `wsgi.websocket` where it has imported gevent-websocket. All others pay nothing."""
    if "geventwebsocket.websocket" not in sys.modules or isinstance(app, GeventWebSocket):
        return app
    return GeventWebSocket(app)
