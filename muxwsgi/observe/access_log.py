"""The access log: one line per exchange, written in batches. `access_format` makes the lines."""

import logging

from muxwsgi.http.exchange import Exchange
from muxwsgi.observe.access_format import DEFAULT_FORMAT, compile_format
from muxwsgi.observe.log_file import LogFile
from muxwsgi.wire.fork import leave_to_parent

__all__ = ["AccessLog"]

log = logging.getLogger("muxwsgi.error")

#: Bytes of lines that are collected at most. Lines are also written about once a second.
BATCH = 1 << 16


class AccessLog:
    """Takes exchanges (it is an `OnExchange`) and writes their lines to a file, or to standard output for `-`.

    If the log cannot be written, lines are lost and counted (`lost`). Requests are not affected: see `LogFile`.
    """

    def __init__(self, path: str, format_text: str = DEFAULT_FORMAT) -> None:
        """Raises `OperatorError` if the file cannot be opened."""
        self._line = compile_format(format_text)
        self._waiting: list[str] = []
        self._size = 0
        self._file = LogFile(path, "access_logfile", 1, log.log)
        leave_to_parent(self)

    def forsake(self) -> None:
        """In a forked child: drop the waiting lines, which the parent writes."""
        self._waiting, self._size = [], 0

    @property
    def lost(self) -> int:
        """Number of lines that are lost."""
        return self._file.lost

    @property
    def waiting(self) -> bool:
        """Whether lines wait for the reader of the log."""
        return self._file.waiting

    def __call__(self, exchange: Exchange) -> None:
        line = self._line(exchange)
        self._waiting.append(line)
        self._size += len(line)
        if self._size > BATCH:
            self.flush()

    def flush(self) -> None:
        """Write the waiting lines. Raises nothing."""
        lines, self._waiting, self._size = self._waiting, [], 0
        if lines:
            self._file.write("\n".join(lines) + "\n")
        else:
            self._file.flush()

    def reopen(self) -> None:
        """After a log rotation: go on in a new file of the same name. Raises nothing."""
        self.flush()
        self._file.reopen()

    def close(self) -> None:
        """Write the waiting lines, and close the file. Raises nothing."""
        self.flush()
        self._file.close()
