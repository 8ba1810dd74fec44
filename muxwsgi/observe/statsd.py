"""`StatsD`: numbers of requests for a statsd daemon, under gunicorn's names. It never waits for the daemon.

    gunicorn.requests           counter
    gunicorn.request.duration   timer, milliseconds
    gunicorn.request.status.N   counter, for each status
    gunicorn.log.LEVEL          counter, of critical, error, warning and exception: lines of the error log
    gunicorn.streams            counter: streams of hijackers, relays and tunnels that have ended. gunicorn has none of these
    gunicorn.turned_away.KIND   counter, by the kinds of `events.Refusal`, and handshake

Reference: docs.gunicorn.org, "Instrumentation"; the datagrams of etsy/statsd, docs/metric_types.md; tags as DogStatsD has them. A datagram
has several metrics, a line each. Counters are added up and sent once a second; the daemon adds them up anyway.
"""

import _socket
import logging
import socket
from collections import Counter
from collections.abc import Callable
from time import monotonic
from typing import Any

from muxwsgi.errors import OperatorError
from muxwsgi.events import Events, Refusal
from muxwsgi.http.exchange import Exchange
from muxwsgi.names import split_host_port
from muxwsgi.observe.error_log import LOGGERS
from muxwsgi.wire.fork import leave_to_parent

__all__ = ["StatsD"]

log = logging.getLogger("muxwsgi.error")

#: Bytes of a datagram: what fits into a frame of Ethernet beside the headers of IPv6 and UDP.
DATAGRAM = 1432

#: Seconds without an error after which datagrams count as delivered. The kernel takes each one, and reports with a later one that nobody
#: listens.
DELIVERED_AFTER = 10.0


class StatsD:
    """Subscribes to events, and sends numbers to `address`.

    lost    number of datagrams that the kernel or the daemon did not take
    """

    waiting = False

    def __init__(self, address: str, *, prefix: str = "", tags: str = "", clock: Callable[[], float] = monotonic) -> None:
        """`address` is HOST:PORT or unix:PATH. `prefix` is put before all names, with a dot. `tags` are DogStatsD's, behind commas.
        Resolves the host, which may wait. Raises `OperatorError`."""
        self.lost = 0
        self._address = address
        self._family, self._to = _resolved(address)
        self._prefix = f"{prefix.rstrip('.')}." if prefix else ""
        tags = ",".join(tag.strip() for tag in tags.split(",") if tag.strip())
        self._suffix = f"|#{tags}" if tags else ""
        self._counters: Counter[str] = Counter()
        self._lines: list[str] = []
        self._size = 0
        self._clock = clock
        self._failing = False
        self._failed_at = 0.0
        self._lost_said = 0
        self._sock: _socket.socket | None = None
        leave_to_parent(self)

    def forsake(self) -> None:
        """In a forked child: drop what the parent sends."""
        self._counters.clear()
        self._lines, self._size = [], 0

    def subscribe(self, events: Events) -> None:
        """Count events, and records of the error log, from now on."""
        events.subscribe(exchange=self._exchange, stream=self._stream, refused=self._refused, handshake=self._handshake)
        for name in LOGGERS:
            logging.getLogger(name).addFilter(self._count_record)

    def _exchange(self, exchange: Exchange) -> None:
        self._counters["gunicorn.requests"] += 1
        status = exchange.status[:3]
        if status.isascii() and status.isdigit():
            self._counters[f"gunicorn.request.status.{status}"] += 1
        self._put(f"gunicorn.request.duration:{exchange.seconds * 1e3:.3f}|ms")

    def _stream(self, connection: object, seconds: float) -> None:
        self._counters["gunicorn.streams"] += 1

    def _refused(self, connection: object, refusal: Refusal) -> None:
        self._counters[f"gunicorn.turned_away.{refusal.kind}"] += 1

    def _handshake(self, connection: object, error: OSError | None) -> None:
        if error is not None:
            self._counters["gunicorn.turned_away.handshake"] += 1

    def _count_record(self, record: logging.LogRecord) -> bool:
        if record.levelno >= logging.WARNING:
            kind = "exception" if record.exc_info else record.levelname.lower()
            self._counters[f"gunicorn.log.{kind}"] += 1
        return True

    # Sending

    def flush(self) -> None:
        """Send everything. Raises nothing."""
        counters, self._counters = self._counters, Counter()
        for name, count in counters.items():
            self._put(f"{name}:{count}|c")
        self._send()

    def reopen(self) -> None:
        """Begin with a new socket, as after SIGUSR1."""
        sock, self._sock = self._sock, None
        if sock is not None:
            sock.close()

    def close(self) -> None:
        """Send the rest. Raises nothing."""
        for name in LOGGERS:
            logging.getLogger(name).removeFilter(self._count_record)
        self.flush()
        self.reopen()

    def _put(self, metric: str) -> None:
        line = f"{self._prefix}{metric}{self._suffix}"
        if self._size + len(line) > DATAGRAM:
            self._send()
        self._lines.append(line)
        self._size += len(line) + 1

    def _send(self) -> None:
        lines, self._lines, self._size = self._lines, [], 0
        if not lines:
            return
        try:
            if self._sock is None:
                self._sock = sock = _socket.socket(self._family, _socket.SOCK_DGRAM)
                sock.setblocking(False)
                sock.connect(self._to)
            self._sock.send("\n".join(lines).encode("utf-8", "replace"), _socket.MSG_DONTWAIT)
        except OSError as error:
            self.lost += 1
            self._failed_at = self._clock()
            self.reopen()
            if not self._failing:
                self._failing = True
                log.warning("statsd_host: %s: %s; numbers are lost", self._address, error.strerror)
        else:
            if self._failing and self._clock() >= self._failed_at + DELIVERED_AFTER:
                self._failing = False
                lost, self._lost_said = self.lost - self._lost_said, self.lost
                log.info("statsd_host: %s: numbers are sent again; %d datagrams were lost", self._address, lost)


def _resolved(address: str) -> tuple[int, Any]:
    if address.startswith("unix:"):
        path = address[5:].removeprefix("//")
        if not path:
            raise OperatorError(f"statsd_host: {address!r} is not HOST:PORT or unix:PATH")
        return _socket.AF_UNIX, path
    host, port = split_host_port(address)
    if not host or port is None or not 0 < port <= 65535:
        raise OperatorError(f"statsd_host: {address!r} is not HOST:PORT or unix:PATH")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
    except OSError as error:
        raise OperatorError(f"statsd_host: {address}: {error.strerror}") from error
    return found[0][0], found[0][4]
