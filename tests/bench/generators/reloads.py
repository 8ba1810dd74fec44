"""Clients of a server that is reloaded again and again: python -m tests.bench.generators.reloads PORT PID WORKERS RELOADS QUIET

After QUIET seconds, SIGHUP is sent to the process PID, RELOADS times, each time after the new workers have answered. All that a careful client cannot
help is lost: an answer that is not 200 with the right body, a connection that is refused, reset, or ended in an answer or instead of one. A
client sends on a kept connection only if it has not ended yet, and never sends a request twice.
"""

import json
import os
import random
import re
import select
import signal
import sys
import time
from collections import Counter
from dataclasses import dataclass, field

import gevent
import gevent.socket

from tests.bench.applications.hello import BODY

#: Connections with a short and with a long pause between two requests, and these pauses: at most so many seconds.
CONNECTIONS, PAUSES = 24, (0.02, 0.5)
#: Seconds between two reloads, at least; for one reload, at most; for all workers to answer, if at least one has.
BETWEEN, RELOAD_AT_MOST, ALL_WORKERS = 0.5, 30.0, 3.0
#: Seconds after the last reload, in which old workers may still lose something.
AFTER = 3.0
PATIENCE = 30.0

GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1024\r\n\r\n" + b"x" * 1024

_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})")
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_WORKER = re.compile(rb"\r\nx-worker: *(\d+)", re.IGNORECASE)
_CLOSE = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)


class Lost(Exception):
    """How a request was lost, in a word."""


@dataclass
class Seen:
    """What all clients have seen so far. `latencies` are those of the present phase, in seconds."""

    requests: int = 0
    connects: int = 0
    lost: Counter[str] = field(default_factory=Counter)
    workers: set[bytes] = field(default_factory=set)
    latencies: list[float] = field(default_factory=list)
    ends: bool = False

    def p99(self) -> float:
        """Of the present phase, in milliseconds. A new phase begins."""
        ordered, self.latencies = sorted(self.latencies), []
        return ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)] * 1e3 if ordered else 0.0


class Client:
    """One client. It has one connection at a time, and pauses for up to `pause` seconds between requests."""

    def __init__(self, seen: Seen, port: int, pause: float, request: bytes) -> None:
        self._seen = seen
        self._port = port
        self._pause = pause
        self._request = request
        self._sock: gevent.socket.socket | None = None

    def run(self) -> None:
        while not self._seen.ends:
            gevent.sleep(random.uniform(0, self._pause))
            began = time.monotonic()
            self._seen.requests += 1
            try:
                self._exchange()
            except Lost as how:
                self._seen.lost[str(how)] += 1
                self._close()
            else:
                self._seen.latencies.append(time.monotonic() - began)

    def _close(self) -> None:
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    def _exchange(self) -> None:
        if self._sock is not None and _has_ended(self._sock):
            self._close()
        if self._sock is None:
            self._seen.connects += 1
            try:
                self._sock = gevent.socket.create_connection(("127.0.0.1", self._port), PATIENCE)
            except OSError:
                raise Lost("refused") from None
        answer = b""
        try:
            self._sock.sendall(self._request)
            while (whole := _whole(answer)) is None:
                data = self._sock.recv(65536)
                if not data:
                    raise Lost("cut" if answer else "ended")
                answer += data
        except TimeoutError:
            raise Lost("late") from None
        except OSError:
            raise Lost("cut" if answer else "reset") from None
        self._judge(*whole)

    def _judge(self, head: bytes, body: bytes) -> None:
        status = _STATUS.match(head)
        if status is None or status[1] != b"200":
            raise Lost(status[1].decode() if status else "no HTTP")
        if body != BODY:
            raise Lost("wrong")
        worker = _WORKER.search(head)
        if worker is not None:
            self._seen.workers.add(worker[1])
        if _CLOSE.search(head):
            self._close()


def _has_ended(sock: gevent.socket.socket) -> bool:
    """Whether the server has closed a connection on which nothing is under way."""
    poll = select.poll()
    poll.register(sock.fileno(), select.POLLIN)
    return bool(poll.poll(0))


def _whole(answer: bytes) -> tuple[bytes, bytes] | None:
    """Head and body, None while something is missing. A head without a length makes the body all that came."""
    head, end, body = answer.partition(b"\r\n\r\n")
    if not end:
        return None
    length = _LENGTH.search(head)
    return (head, body) if length is None or len(body) >= int(length[1]) else None


def reload(seen: Seen, master: int, workers: int) -> None:
    """`master` is a descriptor of the process (pidfd_open(2)), because its number may be that of another one once it has ended."""
    before, began = set(seen.workers), time.monotonic()
    signal.pidfd_send_signal(master, signal.SIGHUP)
    while True:
        gevent.sleep(0.02)
        passed, new = time.monotonic() - began, len(seen.workers - before)
        if passed > BETWEEN and (new >= workers or (new and passed > ALL_WORKERS)):
            return
        if passed > RELOAD_AT_MOST:
            raise SystemExit(f"no new worker has answered {RELOAD_AT_MOST:g} s after SIGHUP; lost so far: {dict(seen.lost)}")


def main() -> None:
    port, pid, workers, reloads, quiet = *map(int, sys.argv[1:5]), float(sys.argv[5])
    master = os.pidfd_open(pid)
    seen = Seen()
    clients = [Client(seen, port, pause, POST if number % 2 else GET) for pause in PAUSES for number in range(CONNECTIONS)]
    greenlets = [gevent.spawn(client.run) for client in clients]
    gevent.sleep(quiet)
    quiet_p99 = seen.p99()
    before = seen.requests
    began = time.monotonic()
    for _ in range(reloads):
        reload(seen, master, workers)
    gevent.sleep(AFTER)
    seconds = time.monotonic() - began
    seen.ends = True
    gevent.joinall(greenlets, timeout=PATIENCE, raise_error=True)
    kinds = {f"lost_{kind}": count for kind, count in seen.lost.items()}
    lost = sum(seen.lost.values())
    report = {"requests": seen.requests - before, "seconds": seconds, "p50": None, "p99": seen.p99()}
    print(json.dumps({**report, "quiet_p99": quiet_p99, "reloads": reloads, "lost": lost, "connects": seen.connects, **kinds}))


if __name__ == "__main__":
    main()
