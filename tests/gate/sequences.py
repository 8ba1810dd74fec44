"""The fixed sequences of requests, and the client that says them: one connection, one request at a time, so that counts repeat."""

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import hpack

from tests.http2.frames import END_HEADERS, END_STREAM, HEADERS, OPENING, frame, window_update

__all__ = ["BODY", "COUNTED", "REFERENCE_ROUNDS", "SEQUENCES", "Client", "Upstream"]

BODY = b"Hello, World!"

#: Exchanges counted per sequence. Those before, which fill caches, are not.
COUNTED = 200
WARM_UP = 40
REFERENCE_ROUNDS = 2000

HELLO = b"GET / HTTP/1.1\r\nHost: 127.0.0.1:8000\r\n\r\n"

BROWSER = (
    "GET /path/to/page?query=1 HTTP/1.1|Host: www.example.com|User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 "
    "Firefox/128.0|Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8|Accept-Language: en-US,en;q=0.5|"
    "Accept-Encoding: gzip, deflate, br, zstd|Cookie: session=0123456789abcdef0123456789abcdef; theme=dark|Sec-Fetch-Dest: document|"
    "Sec-Fetch-Mode: navigate|Sec-Fetch-Site: none|Connection: keep-alive||"
).replace("|", "\r\n").encode()

POST = (
    b"POST /form HTTP/1.1\r\nHost: 127.0.0.1:8000\r\nContent-Type: application/octet-stream\r\nContent-Length: 1024\r\n\r\n" + b"x" * 1024
)

Say = Callable[[int], bytes]


def _always(data: bytes) -> Say:
    return lambda number: data


def _another_cookie(number: int) -> bytes:
    return BROWSER.replace(b"0123456789abcdef", b"%016x" % number)


#: name -> what the exchange with this number says, requests in it
KEEP_ALIVE: dict[str, tuple[Say, int]] = {
    "hello": (_always(HELLO), 1),
    "browser": (_always(BROWSER), 1),
    "browser, fields that change": (_another_cookie, 1),
    "POST 1 KiB": (_always(POST), 1),
    "16 pipelined": (_always(HELLO * 16), 16),
}


def _fields_of(head: bytes) -> list[tuple[str, str]]:
    """The fields of a request of HTTP/1.1, as HTTP/2 has them."""
    line, *lines = head.decode().removesuffix("\r\n\r\n").split("\r\n")
    pairs = [each.split(": ", 1) for each in lines]
    fields = [(name.lower(), value) for name, value in pairs if name not in ("Host", "Connection")]
    return [(":method", "GET"), (":scheme", "http"), (":authority", "www.example.com"), (":path", line.split(" ")[1]), *fields]


#: The same for HTTP/2: the fields that the request with this number has, and requests that are sent at once
HTTP2: dict[str, tuple[Callable[[int], list[tuple[str, str]]], int]] = {
    "HTTP/2, 32 at once": (lambda number: _fields_of(HELLO), 32),
    "HTTP/2, one at a time": (lambda number: _fields_of(HELLO), 1),
    "HTTP/2, fields that change": (lambda number: _fields_of(_another_cookie(number)), 1),
}

#: The client's messages of WebSocket, which the server sends back: how many are sent at once. Each is a masked frame with 125 bytes.
WEBSOCKET = {"WebSocket, one at a time": 1, "WebSocket, 16 at once": 16}

UPGRADE = (
    b"GET /echo HTTP/1.1\r\nHost: 127.0.0.1:8000\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)

SEQUENCES = (
    "reference",
    *KEEP_ALIVE,
    "TLS hello",
    "connection per request",
    "connection to a hijacker",
    "relayed round trip",
    "relayed connection",
    *HTTP2,
    *WEBSOCKET,
    "hello again",
    "hello, counted",
)


def _message(number: int) -> bytes:
    """A frame of a client (RFC 6455 section 5.2): binary, masked, 125 bytes."""
    key = number.to_bytes(4)
    return b"\x82\xfd" + key + bytes(byte ^ key[at % 4] for at, byte in enumerate(BODY.ljust(125, b".")))


class Upstream:
    """The server behind the relay: says everything back, in threads of the client's process, which is not counted."""

    def __init__(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:  # closed
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            while data := connection.recv(65536):
                connection.sendall(data)


class Client:
    """Says the sequences to the server at these ports, with a mark before and after what is counted. `said` are the names in the order
    of the marks."""

    def __init__(self, port: int, tls_port: int) -> None:
        self._address = ("127.0.0.1", port)
        self._tls_address = ("127.0.0.1", tls_port)
        self._control = self._connect()

    def say_all(self) -> None:
        """Every sequence of `SEQUENCES`, in that order."""
        with self._marked():
            self._exchange(self._control, b"GET /reference HTTP/1.1\r\nHost: a\r\n\r\n")
        for say, requests in KEEP_ALIVE.values():
            self._keep_alive(self._connect(), say, requests)
        context = ssl._create_unverified_context()
        self._keep_alive(context.wrap_socket(socket.create_connection(self._tls_address, timeout=60)), _always(HELLO), 1)
        self._one_each(HELLO.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"), BODY)
        self._one_each(b"ECHO me", b"ECHO me")
        self._keep_alive(self._connect(), _always(b"RELAY " + BODY), 1)
        self._one_each(b"RELAY me", b"RELAY me")
        for fields, requests in HTTP2.values():
            self._http2(self._connect(), fields, requests)
        for messages in WEBSOCKET.values():
            self._websocket(self._connect(), messages)
        self._keep_alive(self._connect(), _always(HELLO), 1)
        self._exchange(self._control, b"GET /count HTTP/1.1\r\nHost: a\r\n\r\n")
        self._keep_alive(self._connect(), _always(HELLO), 1)
        self._exchange(self._control, b"GET /stop HTTP/1.1\r\nHost: a\r\n\r\n")
        self._control.close()

    def _keep_alive(self, connection: socket.socket, say: Say, requests: int) -> None:
        with connection:
            for number in range(WARM_UP):
                self._exchange(connection, say(number), requests)
            with self._marked():
                for number in range(WARM_UP, WARM_UP + COUNTED // requests):
                    self._exchange(connection, say(number), requests)

    def _http2(self, connection: socket.socket, fields: Callable[[int], list[tuple[str, str]]], requests: int) -> None:
        encoder = hpack.Encoder()
        stream = 1

        def exchange(number: int) -> None:
            nonlocal stream
            frames = []
            for _ in range(requests):
                frames.append(frame(HEADERS, END_HEADERS | END_STREAM, stream, encoder.encode(fields(number))))
                stream += 2
            self._exchange(connection, b"".join(frames), requests)

        with connection:
            connection.sendall(OPENING + window_update(0, 1 << 30))
            for number in range(WARM_UP):
                exchange(number)
            with self._marked():
                for number in range(WARM_UP, WARM_UP + COUNTED // requests):
                    exchange(number)

    def _websocket(self, connection: socket.socket, messages: int) -> None:
        connection.sendall(UPGRADE)
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += connection.recv(1)
        self._keep_alive(connection, lambda number: _message(number) * messages, messages)

    def _one_each(self, data: bytes, answer: bytes) -> None:
        for number in range(WARM_UP + COUNTED):
            if number == WARM_UP:
                self._exchange(self._control, b"GET /mark HTTP/1.1\r\nHost: a\r\n\r\n")
            with self._connect() as connection:
                connection.sendall(data)
                received = b""
                while not received.endswith(answer):
                    received += _some(connection)
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(4096):
                    pass
        self._exchange(self._control, b"GET /mark HTTP/1.1\r\nHost: a\r\n\r\n")

    @contextmanager
    def _marked(self) -> Iterator[None]:
        self._exchange(self._control, b"GET /mark HTTP/1.1\r\nHost: a\r\n\r\n")
        yield
        self._exchange(self._control, b"GET /mark HTTP/1.1\r\nHost: a\r\n\r\n")

    def _connect(self) -> socket.socket:
        connection = socket.create_connection(self._address, timeout=60)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def _exchange(self, connection: socket.socket, data: bytes, requests: int = 1) -> None:
        connection.sendall(data)
        received = b""
        while received.count(BODY) < requests:
            received += _some(connection)


def _some(connection: socket.socket) -> bytes:
    data = connection.recv(65536)
    if not data:
        raise ConnectionError("the server closed the connection in the middle of a sequence")
    return data
