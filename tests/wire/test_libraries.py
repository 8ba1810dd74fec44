"""Libraries that expect a socket use a `Connection` as theirs, plain and in TLS."""

import http.client
import re
import socket
from collections.abc import Callable
from typing import Any

import gevent
import gevent.event
import gevent.selectors
import pytest
import redis
import simple_websocket
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, CloseConnection, Ping, Request, TextMessage

from muxwsgi.wire.connection import Connection

Pair = tuple[Connection, Connection]


@pytest.fixture(params=["tcp", "memory", "tls", "tls-in-tls"])
def pair(request: pytest.FixtureRequest, make_pair: Callable[[str], Pair]) -> Pair:
    return make_pair(request.param)


def test_http_client_reads_a_response_after_closing_its_socket(pair: Pair) -> None:
    server, client = pair
    body = bytes(range(256)) * 4000

    def serve() -> None:
        requests = server.makefile("rb")
        for last in (False, True):
            line = requests.readline()
            length = 0
            while (field := requests.readline()) != b"\r\n":
                name, _, value = field.partition(b":")
                if name.lower() == b"content-length":
                    length = int(value)
            received = requests.read(length)
            if last:
                # No length: the end of the body is the end of the stream, which http.client reads after `close()`.
                server.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + line + received + body)
                server.shutdown(socket.SHUT_WR)
            else:
                server.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        requests.close()

    serving = gevent.spawn(serve)
    connection = http.client.HTTPConnection("memory.invalid")
    connection.sock = client  # type: ignore[assignment]
    connection.request("GET", "/first")
    assert connection.getresponse().read() == body
    connection.request("POST", "/second", body=b"posted")
    response = connection.getresponse()
    assert connection.sock is None, "http.client has closed its socket, and reads on"
    assert response.read() == b"POST /second HTTP/1.1\r\n" + b"posted" + body
    serving.get(timeout=5)


class ConnectionForRedis(redis.Connection):
    """redis-py's connection, over a stream that is there already."""

    def __init__(self, stream: Connection, **kwargs: Any) -> None:
        self.stream = stream
        super().__init__(**kwargs)

    def _connect(self) -> Connection:
        self.stream.settimeout(self.socket_timeout)
        return self.stream


@pytest.mark.parametrize("protocol", [2, 3])
def test_redis_py_talks_through_a_connection(pair: Pair, protocol: int) -> None:
    server, client = pair
    stored: dict[bytes, bytes] = {}

    def serve() -> None:
        lines = server.makefile("rb")

        def read_command() -> list[bytes]:
            header = lines.readline()
            parts = []
            for _ in range(int(header[1:] or b"0")):
                length = int(lines.readline()[1:])
                parts.append(lines.read(length + 2)[:-2])
            return parts

        while command := read_command():
            match command[0].upper():
                case b"HELLO":
                    server.sendall(b"%1\r\n$5\r\nproto\r\n:3\r\n")
                case b"SET":
                    stored[command[1]] = command[2]
                    server.sendall(b"+OK\r\n")
                case b"GET":
                    value = stored[command[1]]
                    server.sendall(b"$%d\r\n%b\r\n" % (len(value), value))
                case _:
                    server.sendall(b"+OK\r\n")

    serving = gevent.spawn(serve)
    pool = redis.ConnectionPool(
        connection_class=ConnectionForRedis, stream=client, protocol=protocol, socket_timeout=5, max_connections=1
    )
    with redis.Redis(connection_pool=pool) as db:
        value = b"\r\n\x00binary" * 20_000
        assert db.set("key", value)
        assert db.get("key") == value
        pipeline = db.pipeline(transaction=False)
        for number in range(100):
            pipeline.set(f"key-{number}", str(number))
        assert all(pipeline.execute())
        assert db.get("key-42") == b"42"
    pool.disconnect()
    serving.get(timeout=5)


class GreenletThread:
    """What simple-websocket needs of a thread: it reads in one of its own."""

    def __init__(self, target: Callable[[], None]) -> None:
        self.name = "reader (_thread)"
        self._target = target

    def start(self) -> None:
        self.greenlet = gevent.spawn(self._target)


@pytest.mark.parametrize("pinging", [False, True], ids=["quiet", "pinging"])
def test_simple_websocket_echoes_over_a_connection(pair: Pair, pinging: bool) -> None:
    server, client = pair
    # Its ping timer selects on the descriptor, which only `as_socket` makes tell the truth.
    stream = server.as_socket() if pinging else server
    protocol = WSConnection(ConnectionType.CLIENT)
    head = protocol.send(Request(host="localhost", target="/")).decode()
    key = re.search(r"Sec-WebSocket-Key: (\S+)", head, re.I)
    assert key is not None
    environ = {  # the head goes this way instead of over the wire
        "werkzeug.socket": stream,
        "HTTP_HOST": "localhost",
        "HTTP_UPGRADE": "websocket",
        "HTTP_CONNECTION": "Upgrade",
        "HTTP_SEC_WEBSOCKET_KEY": key[1],
        "HTTP_SEC_WEBSOCKET_VERSION": "13",
    }

    def echo() -> None:
        socket_ = simple_websocket.Server(
            environ,
            ping_interval=0.05 if pinging else None,
            thread_class=GreenletThread,
            event_class=gevent.event.Event,
            selector_class=gevent.selectors.GeventSelector,
        )
        try:
            while True:
                socket_.send(socket_.receive()[::-1])
        except simple_websocket.ConnectionClosed:
            socket_.thread.greenlet.join(5)

    echoing = gevent.spawn(echo)
    texts: list[str] = []
    pings = 0

    def read() -> bool:
        nonlocal pings
        protocol.receive_data(client.recv() or None)
        for event in protocol.events():
            if isinstance(event, TextMessage):
                texts.append(event.data)
            elif isinstance(event, Ping):
                pings += 1
                client.sendall(protocol.send(event.response()))
            elif isinstance(event, CloseConnection):
                return False
            elif isinstance(event, AcceptConnection):
                accepted.append(True)
        return True

    accepted: list[bool] = []
    with gevent.Timeout(10):
        while not accepted:
            read()
        message = "".join(chr(97 + n % 26) for n in range(5000))
        for _ in range(3):
            client.sendall(protocol.send(TextMessage(message)))
        while len("".join(texts)) < 15_000 or (pinging and pings < 2):
            read()
        client.sendall(protocol.send(CloseConnection(1000)))
        while read():
            pass
    assert "".join(texts) == message[::-1] * 3
    echoing.get(timeout=5)
