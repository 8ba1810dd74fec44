"""Clients of a relay: python -m tests.bench.generators.relayed PORT KIND CONNECTIONS SECONDS plain|tls

KIND is `echo`: messages of 64 bytes, one at a time on each connection; `connect`: a connection for each message; `down` and `up`: a stream on
each connection, of which each MiB counts as a request; `hold`: connections that sit idle, as `generators.hold` has them.
"""

import json
import select
import socket
import ssl
import sys
import time

from tests.bench.generators.hold import still_open
from tests.bench.generators.relay_upstream import BLOCK, DOWN, ECHO, UP
from tests.bench.generators.wire import WrongAnswer

MESSAGE = bytes(range(64))
MEBIBYTE = 1 << 20
PATIENCE = 10.0


def client_context() -> ssl.SSLContext:
    """Without ALPN: the relay decides by the bytes."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def opened(port: int, context: ssl.SSLContext | None, begin: bytes) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port), PATIENCE)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if context is not None:
        sock = context.wrap_socket(sock, server_hostname="localhost")
    sock.sendall(begin)
    return sock


def answered(sock: socket.socket) -> None:
    got = b""
    while len(got) < len(MESSAGE):
        data = sock.recv(4096)
        if not data:
            raise WrongAnswer("the connection has ended")
        got += data
    if got != MESSAGE:
        raise WrongAnswer(f"{got!r} has come back")


def echo(port: int, number: int, seconds: float, context: ssl.SSLContext | None) -> list[float]:
    poll = select.epoll()
    socks = {}
    for _ in range(number):
        sock = opened(port, context, ECHO + MESSAGE)
        answered(sock)
        poll.register(sock, select.EPOLLIN)
        socks[sock.fileno()] = sock
    now = time.perf_counter()
    sent = dict.fromkeys(socks, now)
    until = now + seconds
    latencies = []
    for sock in socks.values():
        sock.sendall(MESSAGE)
    while now < until:
        for number, _ in poll.poll(PATIENCE):
            answered(socks[number])
            now = time.perf_counter()
            latencies.append(now - sent[number])
            sent[number] = now
            socks[number].sendall(MESSAGE)
    return latencies


def connect(port: int, seconds: float, context: ssl.SSLContext | None) -> list[float]:
    until = time.perf_counter() + seconds
    latencies = []
    while (began := time.perf_counter()) < until:
        with opened(port, context, ECHO + MESSAGE) as sock:
            answered(sock)
        latencies.append(time.perf_counter() - began)
    return latencies


def stream(port: int, down: bool, number: int, seconds: float, context: ssl.SSLContext | None) -> int:
    """The bytes that went through."""
    poll = select.epoll()
    socks = {}
    for _ in range(number):
        sock = opened(port, context, DOWN if down else UP)
        sock.setblocking(False)
        poll.register(sock, select.EPOLLIN if down else select.EPOLLOUT)
        socks[sock.fileno()] = sock
    buffer = bytearray(len(BLOCK))
    until = time.perf_counter() + seconds
    moved = 0
    while time.perf_counter() < until:
        ready = poll.poll(PATIENCE)
        if not ready:
            raise WrongAnswer("nothing moves")
        for number, _ in ready:
            try:
                moved += socks[number].recv_into(buffer) if down else socks[number].send(BLOCK)
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                pass
    return moved


def hold(port: int, number: int, context: ssl.SSLContext | None) -> None:
    began = time.monotonic()
    held = []
    for _ in range(number):
        held.append(opened(port, context, ECHO + MESSAGE))
        answered(held[-1])
    print(f"open {time.monotonic() - began:.3f}", flush=True)
    sys.stdin.read()
    print(still_open(held), flush=True)


def main() -> None:
    port, kind, number, seconds = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
    context = client_context() if sys.argv[5] == "tls" else None
    if kind == "hold":
        hold(port, number, context)
        return
    began = time.perf_counter()
    report: dict[str, float | None]
    if kind in ("down", "up"):
        moved = stream(port, kind == "down", number, seconds, context)
        report = {"requests": moved // MEBIBYTE, "p50": None, "p99": None}
    else:
        latencies = sorted(echo(port, number, seconds, context) if kind == "echo" else connect(port, seconds, context))
        if not latencies:
            raise WrongAnswer("no message has come back in time")
        report = {"requests": len(latencies), "p50": latencies[len(latencies) // 2] * 1e3, "p99": latencies[len(latencies) * 99 // 100] * 1e3}
    print(json.dumps({**report, "seconds": time.perf_counter() - began}))


if __name__ == "__main__":
    main()
