"""The error log: one line per event, and tracebacks. If it is a file, it also receives `wsgi.errors`.

It is a handler of Python's logging. If an application configures logging with `dictConfig` or `fileConfig`, Python by default disables all
existing loggers and closes all handlers. The error log belongs to the operator, so it stays in use. An application that names these loggers
in its configuration configures them.
"""

import contextlib
import logging
from collections.abc import Iterable

from muxwsgi.observe.log_file import LogFile
from muxwsgi.observe.output import standard_output

__all__ = ["LOGGERS", "ErrorLog", "ErrorStream"]

#: All loggers of the server. Their records go to their common parent, `muxwsgi`.
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
    """Writes records to a `LogFile`. If the file was moved away, the next record goes to a new file."""

    def __init__(self, path: str) -> None:
        """`-` is standard error. Raises `OperatorError` if the file cannot be opened."""
        super().__init__()
        self.setFormatter(logging.Formatter(FORMAT, TIME_FORMAT))
        self._file = LogFile(path, "error_logfile", 2, self._say)

    def install(self, level: str) -> None:
        """Receive the records of the server's loggers, from `level` on, and no other records."""
        parent = logging.getLogger("muxwsgi")
        parent.handlers[:] = [self]
        parent.propagate = False
        parent.setLevel(level.upper())
        for name in LOGGERS:
            logging.getLogger(name).__class__ = EnduringLogger

    def add_plugins(self, modules: Iterable[str], level: str) -> None:
        """Also receive the records of plugins: those of `logging.getLogger(__name__)` in the packages of `modules`. A level that a package
        has set stays."""
        for package in {module.partition(".")[0] for module in modules} - {"muxwsgi"}:
            logger = logging.getLogger(package)
            logger.__class__ = EnduringLogger
            if self not in logger.handlers:
                logger.addHandler(self)
            if logger.level == logging.NOTSET:
                logger.setLevel(level.upper())

    @property
    def stream(self) -> "ErrorStream | None":
        """The stream of `wsgi.errors`; None for `sys.stderr`, which is looked up at each write."""
        return None if self._file.path == "-" else ErrorStream(self._file)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = self.format(record)
        except Exception:  # the arguments do not fit the message
            self.handleError(record)
            return
        self._file.follow()
        self._file.write(text + "\n")

    @property
    def waiting(self) -> bool:
        """Whether lines wait for the reader of the log."""
        return self._file.waiting

    def flush(self) -> None:
        """Try again to write the waiting lines."""
        self._file.flush()

    def reopen(self) -> None:
        """After a rotation."""
        self._file.reopen()

    def close(self) -> None:
        """Does nothing, because `logging.config` closes all handlers. See `end`."""

    def end(self) -> None:
        """Write the waiting lines, at the end of the process."""
        self._file.flush(timeout=1)

    def give_up(self) -> None:
        """Write the waiting lines, and close the file: another log has taken its place."""
        self._file.close()

    def _say(self, level: int, message: str) -> None:
        # An error of the log goes to standard error, because the log does not work. Its recovery is logged in the log.
        if level >= logging.ERROR and self._file.path != "-":
            with contextlib.suppress(OSError):  # there is no other place for the report
                standard_output(2).write(f"muxwsgi: {message}\n".encode("utf-8", "backslashreplace"))
        elif level < logging.ERROR:
            self.emit(logging.LogRecord("muxwsgi.error", level, __file__, 0, message, None, None))


class ErrorStream:
    """The error log as a text file. Each write goes to the log at once."""

    def __init__(self, file: LogFile) -> None:
        self._file = file

    def write(self, text: str) -> int:
        """Write `text`, and return its length."""
        self._file.follow()
        self._file.write(text)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write all lines."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Does nothing: the text is in the file already, or waits for the reader."""
        self._file.flush()
