"""The access log: one line per exchange, in a file, in syslog, or as records of logging. `access_format` makes the lines."""

import logging

from muxwsgi.http.exchange import Exchange
from muxwsgi.observe.access_format import DEFAULT_FORMAT, JSON_FORMAT, Atoms, compile_format
from muxwsgi.observe.log_file import LogFile
from muxwsgi.observe.syslog import INFO, Syslog
from muxwsgi.wire.fork import leave_to_parent

__all__ = ["AccessLog"]

log = logging.getLogger("muxwsgi.error")

#: Bytes of lines that are collected at most. Lines are also written about once a second.
BATCH = 1 << 16


class AccessLog:
    """Takes exchanges (it is an `OnExchange`) and writes their lines.

    If the log cannot be written, lines are lost and counted (`lost`). Requests are not affected: see `LogFile`.
    """

    def __init__(
        self,
        path: str | None,
        format_text: str = DEFAULT_FORMAT,
        *,
        syslog: Syslog | None = None,
        logger: logging.Logger | None = None,
        exclude: tuple[str, ...] = (),
    ) -> None:
        """`path` is a file, or `-` for standard output, whose lines are written in batches. `syslog` belongs to the caller. Records of
        `logger` have the format as their message, and the atoms as their arguments, as in gunicorn. Paths that begin with one of `exclude`
        have no line if the status is below 400. Raises `OperatorError` if the file cannot be opened."""
        self._line = compile_format(format_text)
        self._waiting: list[str] = []
        self._size = 0
        self._syslog = syslog
        self._logger = logger
        self._message = None if format_text == JSON_FORMAT else format_text
        self._exclude = exclude
        self._file = None if path is None else LogFile(path, "access_logfile", 1, log.log)
        leave_to_parent(self)

    def forsake(self) -> None:
        """In a forked child: drop the waiting lines, which the parent writes."""
        self._waiting, self._size = [], 0

    @property
    def lost(self) -> int:
        """Number of lines that are lost."""
        return 0 if self._file is None else self._file.lost

    @property
    def waiting(self) -> bool:
        """Whether lines wait for the reader of the log."""
        return self._file is not None and self._file.waiting

    def __call__(self, exchange: Exchange) -> None:
        if self._exclude and exchange.status < "4" and str(exchange.request["PATH_INFO"]).startswith(self._exclude):
            return
        if self._logger is not None:
            self._log(self._logger, exchange)
        if self._file is None and self._syslog is None:
            return
        line = self._line(exchange)
        if self._syslog is not None:
            self._syslog.send(INFO, line, "access")
        if self._file is None:
            return
        self._waiting.append(line)
        self._size += len(line)
        if self._size > BATCH:
            self.flush()

    def _log(self, logger: logging.Logger, exchange: Exchange) -> None:
        if not logger.isEnabledFor(logging.INFO):
            return
        message, arguments = (self._line(exchange), ()) if self._message is None else (self._message, (Atoms(exchange),))
        logger.handle(logger.makeRecord(logger.name, logging.INFO, __file__, 0, message, arguments, None))

    def flush(self) -> None:
        """Write the waiting lines. Raises nothing."""
        if self._file is None:
            return
        lines, self._waiting, self._size = self._waiting, [], 0
        if lines:
            self._file.write("\n".join(lines) + "\n")
        else:
            self._file.flush()

    def reopen(self) -> None:
        """After a log rotation: go on in a new file of the same name. Raises nothing."""
        if self._file is not None:
            self.flush()
            self._file.reopen()

    def close(self) -> None:
        """Write the waiting lines, and close the file. Raises nothing."""
        if self._file is not None:
            self.flush()
            self._file.close()
