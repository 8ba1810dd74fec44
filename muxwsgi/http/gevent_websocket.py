"""`wsgi.websocket`: what applications written for the package gevent-websocket find in their environ.

python-engineio, and with it Flask-SocketIO, prefers that package where it is installed, and fails without this key. The WebSocket is the
package's own class; only its stream is ours. The connection is taken over and 101 is sent when the application first reads or sends, so an
application that wants no WebSocket can still answer in HTTP.
"""

import base64
import binascii
import hashlib
import logging
import sys
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from muxwsgi.http.environ import Environ

if TYPE_CHECKING:
    from muxwsgi.wire.connection import Connection

__all__ = ["GeventWebSocket", "with_gevent_websocket"]

WSGIApplication = Callable[[Environ, Callable[..., Any]], Iterable[bytes]]

#: RFC 6455 section 1.3.
_GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

_VERSIONS = ("13", "8", "7")  # those of the package

#: Bytes of one message, however many frames it comes in. The package reads into memory whatever the peer sends.
MESSAGE_AT_MOST = 64 << 20

_FIRST_CONTROL = 8  # opcodes from here on are control frames, which may come between the frames of a message (RFC 6455 section 5.5)

_BLOCK = 1 << 16

log = logging.getLogger("muxwsgi.error")


class _Stream:
    """The connection as the package's WebSocket reads and writes it. The first of either takes the connection over and sends 101."""

    def __init__(self, environ: Environ, head: bytes) -> None:
        self._take_over: Callable[[], "Connection"] = environ["muxwsgi.hijack"]
        self._head = head
        self.connection: "Connection | None" = None
        self.message = 0  # bytes of the message that is being read

    def _open(self) -> "Connection":
        if self.connection is None:
            self.connection = self._take_over()
            self.connection.sendall(self._head)
        return self.connection

    def read(self, count: int) -> bytes:
        """`count` bytes, fewer at the end of the stream. `OSError` for more than a message may have."""
        connection = self._open()
        if self.message + count > MESSAGE_AT_MOST:
            raise OSError(f"a message is longer than {MESSAGE_AT_MOST} bytes")
        data = bytearray()
        while len(data) < count:
            more = connection.recv(min(count - len(data), _BLOCK))
            if not more:
                break
            data += more
        return bytes(data)

    def write(self, data: bytes) -> None:
        """All of `data`."""
        self._open().sendall(data)


class GeventWebSocket:
    """A WSGI application that gives another one `wsgi.websocket` and `wsgi.websocket_version`, for requests that ask for a WebSocket."""

    def __init__(self, app: WSGIApplication) -> None:
        self.app = app
        websocket: Any = sys.modules["geventwebsocket.websocket"]

        class Kept(websocket.WebSocket):  # type: ignore[misc]  # the package has no types
            """Not closed by the collector, which may come while the application can still answer in HTTP: `__call__` closes it. It counts
            what a message has."""

            __slots__ = ()

            def __del__(self) -> None:
                pass

            def read_frame(self) -> Any:
                stream = self.stream
                header, payload = super().read_frame()
                if header.opcode < _FIRST_CONTROL:
                    stream.message = 0 if header.fin else stream.message + len(payload)
                return header, payload

        self._websocket = Kept
        self._handler = SimpleNamespace(server=SimpleNamespace(application=app), logger=log)

    def __call__(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        if "HTTP_UPGRADE" not in environ or not _wants_websocket(environ):
            return self.app(environ, start_response)
        version, key = environ.get("HTTP_SEC_WEBSOCKET_VERSION"), environ.get("HTTP_SEC_WEBSOCKET_KEY", "")
        if version not in _VERSIONS:
            fields = [("Sec-WebSocket-Version", ", ".join(_VERSIONS))]
            return _refused(start_response, "426 Upgrade Required", "this version of WebSocket is not served", fields)
        if not _is_key(key):
            return _refused(start_response, "400 Bad Request", "Sec-WebSocket-Key is missing or malformed", [])
        stream = _Stream(environ, self._head(environ, key))
        websocket = self._websocket(environ, stream, self._handler)
        environ["wsgi.websocket"] = websocket
        environ["wsgi.websocket_version"] = version
        try:
            return self.app(environ, start_response)
        finally:
            if stream.connection is not None and not websocket.closed:
                try:
                    websocket.close()
                except OSError as error:  # the client has left
                    log.debug("%r: %s", stream.connection, error)

    def _head(self, environ: Environ, key: str) -> bytes:
        accept = base64.b64encode(hashlib.sha1((key + _GUID).encode("ascii"), usedforsecurity=False).digest()).decode("ascii")
        lines = ["HTTP/1.1 101 Switching Protocols", "Upgrade: websocket", "Connection: Upgrade", f"Sec-WebSocket-Accept: {accept}"]
        choose = getattr(self.app, "app_protocol", None)  # of the package's Resource
        protocol = choose(environ["PATH_INFO"]) if choose is not None else None
        if protocol and protocol in [each.strip() for each in environ.get("HTTP_SEC_WEBSOCKET_PROTOCOL", "").split(",")]:
            lines.append(f"Sec-WebSocket-Protocol: {protocol}")
        return "\r\n".join([*lines, "", ""]).encode("latin-1")


def _wants_websocket(environ: Environ) -> bool:
    """RFC 6455 section 4.2.1."""
    options = [option.strip() for option in environ.get("HTTP_CONNECTION", "").lower().split(",")]
    return (
        environ["HTTP_UPGRADE"].lower() == "websocket"
        and "upgrade" in options
        and environ["REQUEST_METHOD"] == "GET"
        and environ["SERVER_PROTOCOL"] == "HTTP/1.1"
    )


def _is_key(key: str) -> bool:
    try:
        return len(base64.b64decode(key, validate=True)) == 16
    except (binascii.Error, ValueError):
        return False


def _refused(start_response: Callable[..., Any], status: str, text: str, fields: list[tuple[str, str]]) -> list[bytes]:
    start_response(status, [("Content-Type", "text/plain; charset=utf-8"), *fields])
    return [f"{text}\n".encode()]


def with_gevent_websocket(app: WSGIApplication) -> WSGIApplication:
    """`app`, with `wsgi.websocket` where it has imported gevent-websocket. All others pay nothing."""
    if "geventwebsocket.websocket" not in sys.modules or isinstance(app, GeventWebSocket):
        return app
    return GeventWebSocket(app)
