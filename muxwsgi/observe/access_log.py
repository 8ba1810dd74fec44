"""The access log: one line per exchange, written in batches. `access_format` makes the lines."""

import sys
from typing import TextIO

from muxwsgi.errors import OperatorError
from muxwsgi.http.exchange import Exchange
from muxwsgi.observe.access_format import DEFAULT_FORMAT, compile_format

__all__ = ["AccessLog"]

#: Bytes of lines that are kept back at most; beside that they are written about once a second.
BATCH = 1 << 16


class AccessLog:
    """Takes exchanges (it is an `OnExchange`) and writes their lines to a file, or to standard output for `-`.

    A log that cannot be written loses lines, which it counts (`lost`), and never a request.
    """

    def __init__(self, path: str, format_text: str = DEFAULT_FORMAT) -> None:
        """Raises `OperatorError` where the file cannot be opened."""
        self._path = path
        self._line = compile_format(format_text)
        self._waiting: list[str] = []
        self._size = 0
        self.lost = 0
        self._file = self._open()

    def __call__(self, exchange: Exchange) -> None:
        line = self._line(exchange)
        self._waiting.append(line)
        self._size += len(line)
        if self._size > BATCH:
            self.flush()

    def flush(self) -> None:
        """Write what waits."""
        lines, self._waiting, self._size = self._waiting, [], 0
        if not lines:
            return
        try:
            self._file.write("\n".join(lines) + "\n")
            self._file.flush()
        except OSError:
            self.lost += len(lines)

    def reopen(self) -> None:
        """After a log rotation: go on in a new file of the same name."""
        self.flush()
        if self._file is not sys.stdout:
            opened = self._open()
            self._file.close()
            self._file = opened

    def close(self) -> None:
        """Write what waits, and close the file."""
        self.flush()
        if self._file is not sys.stdout:
            self._file.close()

    def _open(self) -> TextIO:
        if self._path == "-":
            return sys.stdout
        try:
            return open(self._path, "a", encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            raise OperatorError(f"access_logfile: {self._path}: {error.strerror}") from error
