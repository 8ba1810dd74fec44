"""`Board`: a second piece of memory that the master shares with its children, beside the page (`server/page.py`). Imports no gevent.

    the master's metrics    `observe.metrics.OF_MASTER`, written by the master; `muxwsgi_draining` by the admin process
    log level               written by the admin process, read by workers when they start; 0: as configured
    report                  what blocked a worker the last time: its pid and the text, written by the master
    names of routes         by row, see `observe.metrics.ROUTES`; written by workers
    names of servers        of upstreams, likewise, see `observe.metrics.SERVERS`
    readiness of servers    by the same rows: what the operator said, see `READINESS`; written by the admin process, read by workers
    servers that are down   by the same rows: a number that the worker which saw it last has chosen, 0 for those that are up
    numbers                 how many numbers of each kind workers have taken so far; written by workers
    certificates            by row, see `observe.certificates`; written by workers

Words have 64 bits, and each has one writer, so that they are written and read without a lock. Names and numbers are written under a lock of
the file (fcntl(2)), because workers that start at the same time know the same routes. A name stays for as long as the master lives. Rows of
certificates are written under the same lock, and have a checksum: a reader leaves out a row that is being written.
"""

import errno
import fcntl
import mmap
import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain
from zlib import crc32

from muxwsgi.observe.certificates import ROWS, CertificateRow
from muxwsgi.observe.metrics import OF_MASTER, ROUTES, SERVERS, UNDECIDED

__all__ = ["READINESS", "Board"]

#: What an operator may say about a server. The first one is for those about which nothing was said.
READINESS = ("", "ready", "drain", "maint")

#: Bytes of a route's name, and of a server's. Names of routes are words, and those of servers two words, or addresses.
_NAME = 64
_SERVER = 160

#: Bytes of a report, and where its text begins.
_REPORT = 8192
_TEXT = 16

#: What workers number.
KINDS = ("connections", "sessions", "flows")

#: Numbers that a worker takes at once.
BLOCK = 1000

_PLACES: dict[str, int] = {}
_words = 0
for _metric in OF_MASTER:
    _PLACES[_metric.name] = _words
    _words += _metric.size
_LOG_LEVEL = _words
_NUMBERS = _LOG_LEVEL + 1
_READINESS = _NUMBERS + len(KINDS)
_DOWN = _READINESS + SERVERS
_REPORT_AT = (_DOWN + SERVERS) * 8
_NAMES_AT = _REPORT_AT + _REPORT
#: Bytes of a certificate: checksum, expiry, lengths of the bind and of the name, and both.
_HEAD = struct.Struct("=IqHH")
_ROW = 256
_BIND_AT_MOST = 112

_SERVERS_AT = _NAMES_AT + ROUTES * _NAME
_CERTIFICATES_AT = _SERVERS_AT + SERVERS * _SERVER
_SIZE = _CERTIFICATES_AT + ROWS * _ROW


class Board:
    """Made by the master, before it forks."""

    def __init__(self) -> None:
        """Raises `OSError` if no memory or no descriptor is left."""
        # For the lock alone: a file with a size would be subject to RLIMIT_FSIZE.
        self._fd = os.memfd_create("muxwsgi-board", os.MFD_CLOEXEC)
        self._map = mmap.mmap(-1, _SIZE)
        self._words = memoryview(self._map)[:_REPORT_AT].cast("Q")
        self.row_of(UNDECIDED)

    # Words

    def put(self, name: str, value: int, at: int = 0) -> None:
        """Set the word `at` of the metric `name`."""
        self._words[_PLACES[name] + at] = value

    def add(self, name: str, at: int = 0) -> None:
        """Add 1 to the word `at` of the metric `name`. Only its writer may call this."""
        self._words[_PLACES[name] + at] += 1

    def get(self, name: str, at: int = 0) -> int:
        """The word `at` of the metric `name`."""
        return self._words[_PLACES[name] + at]

    def words(self) -> dict[str, Sequence[int]]:
        """The words of all metrics of the master, by name."""
        return {metric.name: self._words[_PLACES[metric.name] : _PLACES[metric.name] + metric.size].tolist() for metric in OF_MASTER}

    @property
    def log_level(self) -> int:
        """The level of error logs, as `logging` has it; 0: as configured."""
        return self._words[_LOG_LEVEL]

    @log_level.setter
    def log_level(self, level: int) -> None:
        self._words[_LOG_LEVEL] = level

    # The report

    def report(self, pid: int, text: str) -> None:
        """Note what blocks the worker `pid`."""
        data = text.encode("utf-8", "backslashreplace")[: _REPORT - _TEXT]
        self._map[_REPORT_AT : _REPORT_AT + _TEXT] = bytes(_TEXT)  # a reader does not take the old text for that of another worker
        self._map[_REPORT_AT + _TEXT : _REPORT_AT + _TEXT + len(data)] = data
        self._map[_REPORT_AT : _REPORT_AT + _TEXT] = struct.pack("=QQ", pid, len(data))

    def reported(self, pid: int) -> str | None:
        """What blocks the worker `pid`; None if the last report is about another one."""
        of, length = struct.unpack("=QQ", self._map[_REPORT_AT : _REPORT_AT + _TEXT])
        if of != pid:
            return None
        return self._map[_REPORT_AT + _TEXT : _REPORT_AT + _TEXT + length].decode("utf-8", "replace")

    # Numbers

    def numbers(self, kind: str) -> Iterator[int]:
        """Numbers of `kind` from 1 on, without end. No other process of this master gets the same ones. Each takes a block at once, so a
        number that is not used is missing, and a larger number may be older."""
        return chain.from_iterable(iter(partial(self._block, _NUMBERS + KINDS.index(kind)), None))

    def _block(self, word: int) -> range:
        with self._locked():
            taken = self._words[word]
            self._words[word] = taken + BLOCK
        return range(taken + 1, taken + BLOCK + 1)

    # Names of routes and servers

    def row_of(self, name: str) -> int:
        """The row of the route `name`; the last one if there is no room for it. Called by workers."""
        return self._row_of(name, _NAMES_AT, ROUTES, _NAME)

    def routes(self) -> list[str]:
        """The names of routes, by row."""
        return self._names(_NAMES_AT, ROUTES, _NAME)

    def server_row_of(self, name: str) -> int:
        """The row of the server `name` (UPSTREAM/SERVER); the last one if there is no room for it. Called by workers."""
        return self._row_of(name, _SERVERS_AT, SERVERS, _SERVER)

    def servers(self) -> list[str]:
        """The names of servers, by row. Long ones are cut."""
        return self._names(_SERVERS_AT, SERVERS, _SERVER)

    def readiness(self, server: str) -> str:
        """What the operator said about a server; "" for nothing."""
        row = self._server_row(server)
        return "" if row is None else READINESS[self._words[_READINESS + row]]

    def said(self) -> dict[str, str]:
        """The servers about which the operator said something, and what."""
        return {name: READINESS[word] for name, word in self._set(_READINESS)}

    def down(self) -> dict[str, int]:
        """The servers that a worker has found down, each with its number."""
        return dict(self._set(_DOWN))

    def put_down(self, row: int, number: int) -> None:
        """Note that the server of this row is down, or with 0 that it is up. The row that servers share says nothing."""
        if row < SERVERS - 1:
            self._words[_DOWN + row] = number

    def _set(self, first: int) -> list[tuple[str, int]]:
        """The words of servers that are not 0."""
        words = self._words[first : first + SERVERS].tolist()
        return [(name, word) for name, word in zip(self.servers(), words, strict=False) if word] if any(words) else []

    def put_readiness(self, server: str, said: str) -> bool:
        """Note what the operator says. Whether the server has a row."""
        row = self._server_row(server)
        if row is None:
            return False
        self._words[_READINESS + row] = READINESS.index(said)
        return True

    def _server_row(self, server: str) -> int | None:
        names = self.servers()
        name = _cut(server, _SERVER).decode()
        return names.index(name) if name in names else None

    def _row_of(self, name: str, first: int, rows: int, size: int) -> int:
        data = _cut(name, size)
        with self._locked():
            for row in range(rows - 1):
                at = first + row * size
                found = self._name(at, size)
                if found == data:
                    return row
                if not found:
                    self._map[at : at + size] = data.ljust(size, b"\0")
                    return row
        return rows - 1

    def _names(self, first: int, rows: int, size: int) -> list[str]:
        names = []
        for row in range(rows - 1):
            name = self._name(first + row * size, size)
            if not name:
                break
            names.append(name.decode("utf-8", "replace"))
        return names

    # Certificates

    def put_certificates(self, rows: Sequence[CertificateRow]) -> None:
        """Let these rows be the only ones. Called by workers, again and again: it writes only what is new."""
        data = b"".join(map(_packed, rows[:ROWS])).ljust(ROWS * _ROW, b"\0")
        if self._map[_CERTIFICATES_AT:_SIZE] != data:
            with self._locked():
                self._map[_CERTIFICATES_AT:_SIZE] = data

    def certificates(self) -> list[CertificateRow]:
        """The rows."""
        found = []
        for at in range(_CERTIFICATES_AT, _SIZE, _ROW):
            data = self._map[at : at + _ROW]
            checksum, not_after, bind, name = _HEAD.unpack_from(data)
            if checksum and checksum == _checksum(data):
                texts = data[_HEAD.size :]
                found.append(CertificateRow(texts[:bind].decode(), texts[bind : bind + name].decode(), not_after))
        return found

    def _name(self, at: int, size: int) -> bytes:
        return self._map[at : at + size].rstrip(b"\0")

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            fcntl.lockf(self._fd, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in (errno.EDEADLK, errno.ENOLCK):
                raise
        try:
            yield
        finally:
            fcntl.lockf(self._fd, fcntl.LOCK_UN)


def _cut(name: str, most: int) -> bytes:
    """The name as it is kept: a longer one is cut between two characters."""
    return name.encode("utf-8", "replace")[:most].decode("utf-8", "ignore").encode()


def _packed(row: CertificateRow) -> bytes:
    bind = _cut(row.bind, _BIND_AT_MOST)
    name = _cut(row.name, _ROW - _HEAD.size - _BIND_AT_MOST)
    data = (_HEAD.pack(0, row.not_after, len(bind), len(name)) + bind + name).ljust(_ROW, b"\0")
    return struct.pack("=I", _checksum(data)) + data[4:]


def _checksum(data: bytes) -> int:
    return crc32(data[4:]) or 1
