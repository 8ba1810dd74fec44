"""The error log: one line per event, and tracebacks; `wsgi.errors` too, where it is a file.

It is a handler of Python's logging. An application that configures logging for itself, by `dictConfig` or `fileConfig`, disables all
loggers that there are and closes all handlers, unless it says otherwise. The error log is the operator's, so it survives both. An
application that names these loggers in its configuration configures them.
"""

import contextlib
import logging
from collections.abc import Iterable

from muxwsgi.observe.log_file import LogFile
from muxwsgi.observe.output import standard_output

__all__ = ["LOGGERS", "ErrorLog", "ErrorStream"]

#: Every logger of the server. Their records go to the parent of all, `muxwsgi`.
LOGGERS = ("muxwsgi.error", "muxwsgi.forward", "muxwsgi.proxy")

FORMAT = "[%(asctime)s] [%(process)d] [%(levelname)s] %(message)s"
TIME_FORMAT = "%Y-%m-%d %H:%M:%S %z"


class EnduringLogger(logging.Logger):
    """A logger that `logging.config` does not disable."""

    @property
    def disabled(self) -> bool:
        return False

    @disabled.setter
    def disabled(self, value: bool) -> None: ...


class ErrorLog(logging.Handler):
    """Writes records to a `LogFile`. A file that was moved away is noticed with the next record."""

    def __init__(self, path: str) -> None:
        """`-` is standard error. Raises `OperatorError` where the file cannot be opened."""
        super().__init__()
        self.setFormatter(logging.Formatter(FORMAT, TIME_FORMAT))
        self._file = LogFile(path, "error_logfile", 2, self._say)

    def install(self, level: str) -> None:
        """Receive the records of the server's loggers, from `level` on, and no others."""
        parent = logging.getLogger("muxwsgi")
        parent.handlers[:] = [self]
        parent.propagate = False
        parent.setLevel(level.upper())
        for name in LOGGERS:
            logging.getLogger(name).__class__ = EnduringLogger

    def add_plugins(self, modules: Iterable[str], level: str) -> None:
        """Receive the records of plugins too: `logging.getLogger(__name__)` in any module of a package that one of `modules` is in. A level
        that the package has set for itself stays."""
        for package in {module.partition(".")[0] for module in modules} - {"muxwsgi"}:
            logger = logging.getLogger(package)
            logger.__class__ = EnduringLogger
            if self not in logger.handlers:
                logger.addHandler(self)
            if logger.level == logging.NOTSET:
                logger.setLevel(level.upper())

    @property
    def stream(self) -> "ErrorStream | None":
        """The stream of `wsgi.errors`; None for standard error, as it is at each write."""
        return None if self._file.path == "-" else ErrorStream(self._file)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = self.format(record)
        except Exception:  # its arguments do not fit
            self.handleError(record)
            return
        self._file.follow()
        self._file.write(text + "\n")

    @property
    def waiting(self) -> bool:
        """Whether something waits for its reader."""
        return self._file.waiting

    def flush(self) -> None:
        """Try again to write what waits for its reader."""
        self._file.flush()

    def reopen(self) -> None:
        """After a rotation."""
        self._file.reopen()

    def close(self) -> None:
        """Does nothing: `logging.config` closes every handler there is. See `end`."""

    def end(self) -> None:
        """Write what waits for its reader."""
        self._file.flush(timeout=1)

    def give_up(self) -> None:
        """Write what waits for its reader, and close the file: another log has taken its place."""
        self._file.close()

    def _say(self, level: int, message: str) -> None:
        # Not to the log itself, which is what does not work; but the good news goes there.
        if level >= logging.ERROR and self._file.path != "-":
            with contextlib.suppress(OSError):  # there is no other place to report it
                standard_output(2).write(f"muxwsgi: {message}\n".encode("utf-8", "backslashreplace"))
        elif level < logging.ERROR:
            self.emit(logging.LogRecord("muxwsgi.error", level, __file__, 0, message, None, None))


class ErrorStream:
    """The error log as a file that text is written to, as it comes."""

    def __init__(self, file: LogFile) -> None:
        self._file = file

    def write(self, text: str) -> int:
        """Write `text`; its length."""
        self._file.follow()
        self._file.write(text)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write them all."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """What was written is in the file already, or waits for its reader."""
        self._file.flush()
