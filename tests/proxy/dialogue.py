"""Both ends of the proxy, spoken by hand: a server that keeps what it was sent, byte for byte, and clients that come to it by three ways."""

import socket
import struct
from collections.abc import Callable
from typing import Any, NamedTuple

import gevent
import gevent.socket

from muxwsgi.proxy.proxy import Proxy
from muxwsgi.proxy.settings import ProxySettings
from tests.proxy.conftest import Lab, read_head

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

#: How a request comes to its server: named to the proxy, in a tunnel, in TLS in a tunnel.
WAYS = ["plain", "tunnel", "tls"]


class Asked(NamedTuple):
    """A request as it arrived: the head with its CRLFCRLF, the body without framing, the trailer section, and which connection it came on."""

    head: bytes
    body: bytes
    trailers: bytes
    connection: int

    @property
    def line(self) -> bytes:
        return self.head.partition(b"\r\n")[0]

    @property
    def fields(self) -> list[bytes]:
        return self.head.split(b"\r\n")[1:-2]

    def field(self, name: str) -> list[str]:
        """The values of a field."""
        pairs = [line.decode("latin-1").partition(":") for line in self.fields]
        return [value.strip() for found, _, value in pairs if found.lower() == name.lower()]


def field(head: bytes, name: str) -> list[str]:
    """The values of a field of a head."""
    return Asked(head, b"", b"", 0).field(name)


def read_exactly(sock: Any, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = sock.recv(count - len(data))
        if not more:
            raise EOFError(f"{len(data)} of {count} bytes")
        data += more
    return data


def read_chunks(sock: Any) -> tuple[bytes, bytes]:
    """A chunked body: its data, and its trailer section. Raises `EOFError` where it is cut."""
    data = b""
    while True:
        size = int(_line(sock).partition(b";")[0], 16)
        if size == 0:
            break
        data += read_exactly(sock, size)
        assert read_exactly(sock, 2) == b"\r\n"
    trailers = b""
    while (line := _line(sock)) != b"\r\n":
        trailers += line
    return data, trailers


def _line(sock: Any) -> bytes:
    data = b""
    while not data.endswith(b"\r\n"):
        data += read_exactly(sock, 1)
    return data


class Answer(NamedTuple):
    """A response as a client gets it."""

    head: bytes
    body: bytes
    trailers: bytes = b""

    @property
    def status(self) -> int:
        return int(self.head.split(b" ")[1])


def read_answer(sock: Any, method: str = "GET") -> Answer:
    """One response. Raises `EOFError` where it is cut, `ConnectionError` where it is reset."""
    head = read_head(sock)
    if not head.endswith(b"\r\n\r\n"):
        raise EOFError(f"a head that ends after {head!r}")
    status = int(head.split(b" ")[1])
    if method == "HEAD" or status < 200 or status in (204, 304):
        return Answer(head, b"")
    if field(head, "Transfer-Encoding"):
        return Answer(head, *read_chunks(sock))
    if lengths := field(head, "Content-Length"):
        return Answer(head, read_exactly(sock, int(lengths[0])))
    body = b""
    while more := sock.recv(65536):
        body += more
    return Answer(head, body)


def reset(sock: Any) -> None:
    """Close with a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    gevent.socket.socket.close(sock)


def carry_both_ways(left: Any, right: Any) -> None:
    """What a tunnel does, until one side ends."""

    def carry(source: Any, target: Any) -> None:
        while data := source.recv(65536):
            target.sendall(data)

    ways = [gevent.spawn(carry, left, right), gevent.spawn(carry, right, left)]
    gevent.joinall(ways, count=1)
    gevent.killall(ways)


Respond = Callable[[Asked, Any], bytes | None]


class Upstream:
    """A server of HTTP/1 without any opinion: `respond(asked, sock)` gives the bytes to send, None to end the connection.

    asked           the requests, in the order in which they came
    connections     how many were accepted
    """

    def __init__(self, lab: Lab, respond: Respond | bytes = OK, *, tls: bool = False) -> None:
        self._respond = respond
        self.asked: list[Asked] = []
        self.connections = 0
        self.port = lab.serve_raw(self._serve, tls=tls)

    def _serve(self, sock: Any) -> None:
        self.connections += 1
        number = self.connections
        while head := read_head(sock):
            if not head.endswith(b"\r\n\r\n"):
                return
            body = trailers = b""
            try:
                if not field(head, "Expect"):
                    if field(head, "Transfer-Encoding"):
                        body, trailers = read_chunks(sock)
                    elif lengths := field(head, "Content-Length"):
                        body = read_exactly(sock, int(lengths[0]))
            except EOFError:
                return
            asked = Asked(head, body, trailers, number)
            self.asked.append(asked)
            answer = self._respond if isinstance(self._respond, bytes) else self._respond(asked, sock)
            if answer is None:
                return
            sock.sendall(answer)


class Road:
    """A way from clients through a proxy to one upstream.

    proxy       rules may be added to it
    authority   "host:port" of the upstream
    """

    def __init__(
        self, lab: Lab, way: str, port: int, *, settings: ProxySettings | None = None, proxy: Proxy | None = None, **more: Any
    ) -> None:
        self.lab = lab
        self.way = way
        self.proxy = proxy or lab.proxy(settings=settings, record=True, **more)
        if way != "plain":
            self.proxy.on_connect().mitm()
        self.port = lab.serve_proxy(self.proxy)
        self.authority = f"localhost:{port}" if way == "tls" else f"127.0.0.1:{port}"

    @property
    def prefix(self) -> str:
        """In front of a path, what makes it a target."""
        return f"http://{self.authority}" if self.way == "plain" else ""

    def client(self) -> Any:
        """A connected socket that speaks with the upstream, through the proxy."""
        if self.way == "plain":
            return self.lab.connect(self.port)
        sock = self.lab.tunnel(self.port, self.authority)
        return self.lab.wrap(sock) if self.way == "tls" else sock

    def request(self, path: str = "/", *fields: str, method: str = "GET", version: str = "1.1", host: str | None = None) -> bytes:
        """A head."""
        lines = [f"{method} {self.prefix}{path} HTTP/{version}", f"Host: {host or self.authority}", *fields, "", ""]
        return "\r\n".join(lines).encode("latin-1")

    def ask(self, sock: Any, path: str = "/", *fields: str, method: str = "GET", body: bytes = b"", **more: Any) -> Answer:
        """One exchange."""
        if body:
            fields = (*fields, f"Content-Length: {len(body)}")
        sock.sendall(self.request(path, *fields, method=method, **more) + body)
        return read_answer(sock, method)
