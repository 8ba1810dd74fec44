"""`LineLog`: lines about the traffic, in a file that is written in batches, in syslog, or in both."""

import logging

from muxwsgi.observe.log_file import LogFile
from muxwsgi.observe.syslog import INFO, Syslog
from muxwsgi.wire.fork import leave_to_parent

__all__ = ["LineLog"]

log = logging.getLogger("muxwsgi.error")

#: Bytes of lines that are collected at most. Lines are also written about once a second.
BATCH = 1 << 16


class LineLog:
    """If the log cannot be written, lines are lost and counted (`lost`). The traffic is not affected: see `LogFile` and `Syslog`."""

    def __init__(self, path: str | None, option: str, *, syslog: Syslog | None = None, kind: str = "") -> None:
        """`path` is a file, or `-` for standard output. `option` names it in messages. `syslog` belongs to the caller, and gets the lines
        as messages of the `kind`. Raises `OperatorError` if the file cannot be opened."""
        self._waiting: list[str] = []
        self._size = 0
        self._syslog = syslog
        self._kind = kind
        self._file = None if path is None else LogFile(path, option, 1, log.log)
        leave_to_parent(self)

    def forsake(self) -> None:
        """In a forked child: drop the waiting lines, which the parent writes."""
        self._waiting, self._size = [], 0

    @property
    def lost(self) -> int:
        """Number of lines that are lost in the file."""
        return 0 if self._file is None else self._file.lost

    @property
    def waiting(self) -> bool:
        """Whether lines wait for the reader of the file."""
        return self._file is not None and self._file.waiting

    @property
    def writes(self) -> bool:
        """Whether lines go anywhere."""
        return self._file is not None or self._syslog is not None

    def write(self, line: str) -> None:
        """Write `line` soon. Raises nothing."""
        if self._syslog is not None:
            self._syslog.send(INFO, line, self._kind)
        if self._file is None:
            return
        self._waiting.append(line)
        self._size += len(line)
        if self._size > BATCH:
            self.flush()

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
