"""Many connections in one thread: each is a Python generator that yields whenever it would block, over one edge-triggered epoll.

Cheaper per request than gevent or asyncio, because nothing is started, stopped or modified between the waits, and the server that
is measured should be slower than the load that measures it.
"""

import json
import re
import select
import socket
import ssl
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field

__all__ = ["Load", "Wire", "WrongAnswer", "client_context"]

Waiting = Generator[None, None, None]
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
#: Seconds without any progress of any connection, after which the server is taken for stuck.
STUCK = 10.0


class WrongAnswer(Exception):
    """The server answered something else than it should have."""


def client_context() -> ssl.SSLContext:
    """Verifies nothing: what is measured is the server."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["http/1.1"])
    return context


class Wire:
    """One connection after another to 127.0.0.1:`port`. The methods that may block are to be used with `yield from`."""

    def __init__(self, load: "Load", port: int) -> None:
        self._load = load
        self._address = ("127.0.0.1", port)
        self._sock: socket.socket | ssl.SSLSocket | None = None
        self.run: Waiting | None = None
        #: Whether the server has said that it closes behind the last answer.
        self.ended = False

    def connect(self) -> Waiting:
        self.ended = False
        self._sock = sock = socket.socket()
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._load.connects += 1
        try:
            sock.connect(self._address)
        except BlockingIOError:
            self._load.watch(sock, self)
            yield
            if error := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                raise OSError(error, "the connection was refused") from None
        else:
            self._load.watch(sock, self)

    def start_tls(self, context: ssl.SSLContext, session: ssl.SSLSession | None = None) -> Waiting:
        assert self._sock is not None
        self._sock = sock = context.wrap_socket(
            self._sock, server_hostname="localhost", do_handshake_on_connect=False, suppress_ragged_eofs=True, session=session
        )
        while True:
            try:
                sock.do_handshake()
                break
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                yield
        self._load.handshakes += 1
        self._load.resumed += bool(sock.session_reused)

    def exchange(self, request: bytes, body: bytes | None) -> Waiting:
        """Send `request`, read the answer, which must be 200 with `body`. None: a head without a body, as CONNECT has it."""
        assert self._sock is not None
        sock, answer = self._sock, b""
        sock.send(request)  # small, on an idle connection: it fits
        while True:
            try:
                data = sock.recv(65536)
            except (ssl.SSLWantReadError, BlockingIOError):
                yield
                continue
            if not data:
                raise WrongAnswer(f"the connection ended behind {answer[:200]!r}")
            answer = answer + data if answer else data
            head, end, rest = answer.partition(b"\r\n\r\n")
            if not end:
                continue
            if body is None:
                if not head.startswith((b"HTTP/1.1 200", b"HTTP/1.0 200")) or rest:
                    raise WrongAnswer(f"{answer[:200]!r}")
                return
            length = _LENGTH.search(head)
            if length is None:
                raise WrongAnswer(f"no Content-Length in {head!r}")
            if len(rest) < int(length[1]):
                continue
            if rest != body or not head.startswith(b"HTTP/1.1 200"):
                raise WrongAnswer(f"{answer[:200]!r}")
            if b"\r\nconnection: close" in head.lower():
                self._load.closes += 1
                self.ended = True
            return

    def session(self) -> ssl.SSLSession | None:
        """What resumes this connection's TLS session; with TLS 1.3 there is one only after something was read."""
        return self._sock.session if isinstance(self._sock, ssl.SSLSocket) else None

    def close(self) -> None:
        if self._sock is not None:
            self._load.forget(self._sock)
            self._sock.close()
            self._sock = None


@dataclass
class Load:
    """Runs `behaviour(wire)` on `connections` connections until `seconds` have passed, and counts. Latencies are in seconds."""

    port: int
    connections: int
    seconds: float
    behaviour: Callable[["Load", Wire], Waiting]
    latencies: list[float] = field(default_factory=list)
    connects: int = 0
    handshakes: int = 0
    resumed: int = 0
    closes: int = 0

    def __post_init__(self) -> None:
        self._poll = select.epoll()
        self._wires: dict[int, Wire] = {}

    def watch(self, sock: socket.socket, wire: Wire) -> None:
        self._wires[sock.fileno()] = wire
        self._poll.register(sock.fileno(), select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET)

    def forget(self, sock: socket.socket) -> None:
        if self._wires.pop(sock.fileno(), None) is not None:
            self._poll.unregister(sock.fileno())

    def run(self) -> None:
        """Print one JSON object, or raise `WrongAnswer` or OSError. What is in flight at the end is not counted."""
        started = time.monotonic()
        end = started + self.seconds
        for _ in range(self.connections):
            wire = Wire(self, self.port)
            wire.run = self.behaviour(self, wire)
            next(wire.run)
        while (now := time.monotonic()) < end:
            events = self._poll.poll(min(STUCK, max(0.0, end - now) + 0.001))
            if not events and end - now > STUCK:
                raise WrongAnswer(f"nothing moved for {STUCK:g} seconds")
            for descriptor, _ in events:
                wire_of = self._wires.get(descriptor)
                if wire_of is not None and wire_of.run is not None:
                    next(wire_of.run)
        self._print(time.monotonic() - started)

    def _print(self, seconds: float) -> None:
        ordered = sorted(self.latencies)
        if not ordered:
            raise WrongAnswer("no request was answered in time")
        report = {
            "requests": len(ordered),
            "seconds": seconds,
            "p50": ordered[len(ordered) // 2] * 1e3,
            "p99": ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)] * 1e3,
            "connects": self.connects,
            "handshakes": self.handshakes,
            "resumed": self.resumed,
            "closes": self.closes,
        }
        print(json.dumps(report))
