"""`ServerMetrics`: the metrics of one server. A worker writes them into the memory that it shares, and a program may serve them itself."""

import os
from collections.abc import Callable, Sequence
from time import monotonic
from typing import TYPE_CHECKING

import gevent

from muxwsgi.observe.certificates import CertificateRow, rows_of
from muxwsgi.observe.counters import Counters
from muxwsgi.observe.exposition import Readings, check_installed, expose
from muxwsgi.observe.metrics import ROUTES, SERVERS, UNDECIDED

if TYPE_CHECKING:
    from cryptography import x509

    from muxwsgi.server.server import Server

__all__ = ["ServerMetrics", "resident_bytes"]

#: Seconds between two looks at the event loop's delay.
INTERVAL = 1.0


class Rows:
    """The rows of routes, or of servers, of one process: see `metrics.ROUTES`."""

    def __init__(self, most: int, *names: str) -> None:
        self._last = most - 1
        self.names = list(names)

    def row_of(self, name: str) -> int:
        """The row of `name`."""
        if name in self.names:
            return self.names.index(name)
        if len(self.names) >= self._last:
            return self._last
        self.names.append(name)
        return len(self.names) - 1


class ServerMetrics:
    """Counts what `server` does, from its making on.

        metrics = ServerMetrics(server)
        server.start()
        text, media_type = metrics.expose()

    `server` may be started before or later.
    """

    def __init__(
        self, server: "Server", row_of: Callable[[str], int] | None = None, server_row_of: Callable[[str], int] | None = None
    ) -> None:
        """`row_of` gives the name of a route a row that is the same in all workers, and `server_row_of` that of a server of an upstream;
        None for one process."""
        self._server = server
        self._rows = Rows(ROUTES, UNDECIDED)
        self._server_rows = Rows(SERVERS)
        self._counters = Counters(server.events, row_of or self._rows.row_of, server_row_of or self._server_rows.row_of)
        self._certificates: list[tuple[str, x509.Certificate]] = []
        self._rows_of_certificates: Sequence[CertificateRow] = ()
        self._watching: gevent.Greenlet[..., None] | None = None

    @property
    def requests(self) -> int:
        """Requests since the start."""
        return self._counters.requests

    def words(self) -> list[int]:
        """The numbers of this moment, as `observe/metrics.py` lays them out."""
        server = self._server
        app = server.proxy_counts
        return self._counters.words(
            server.live, memory=resident_bytes(), accepting=server.accepting, proxy=app, upstreams=server.upstreams
        )

    def certificates(self) -> Sequence[CertificateRow]:
        """When the certificates of this moment expire. The same object, as long as they are the same."""
        found = self._server.certificates
        if len(found) != len(self._certificates) or any(new[1] is not old[1] for new, old in zip(found, self._certificates, strict=True)):
            self._certificates, self._rows_of_certificates = found, rows_of(found)
        return self._rows_of_certificates

    def expose(self, accept: str = "") -> tuple[bytes, str]:
        """The text for Prometheus and its media type. `accept` is the request's Accept field. Raises `OperatorError` if prometheus-client
        is not installed."""
        check_installed()
        words = self.words()
        readings = Readings(
            workers={0: words}, sums=words, routes=self._rows.names, servers=self._server_rows.names, certificates=self.certificates()
        )
        return expose(readings, accept)

    def watch(self, write: Callable[[list[int]], object] = len) -> None:
        """Look at the delay of the event loop once a second from now on, and call `write` with the words. In this thread's hub."""
        if self._watching is None:
            self._watching = gevent.spawn(self._watch, write)

    def unwatch(self) -> None:
        """End what `watch` has begun. Idempotent."""
        if self._watching is not None:
            self._watching.kill()
            self._watching = None

    def _watch(self, write: Callable[[list[int]], object]) -> None:
        while True:
            due = monotonic() + INTERVAL
            gevent.sleep(INTERVAL)
            self._counters.note_lag(monotonic() - due)
            write(self.words())


def resident_bytes() -> int:
    """Memory of this process that is in RAM (proc(5), statm)."""
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
