"""The error log: one line per event, and tracebacks. If it is a file, it also receives `wsgi.errors`.

Records may go to syslog too (`SyslogHandler`), and the operator may configure logging (`log_config`). For the loggers that this
configuration names, it takes the place of this log.

It is a handler of Python's logging. If an application configures logging with `dictConfig` or `fileConfig`, Python by default disables all
existing loggers and closes all handlers. The error log belongs to the operator, so it stays in use. An application that names these loggers
in its configuration configures them.
"""

import contextlib
import logging
from collections.abc import Callable, Iterable

from muxwsgi.errors import OperatorError
from muxwsgi.observe.log_config import GUNICORN, Guard, LogConfig
from muxwsgi.observe.log_file import LogFile
from muxwsgi.observe.output import standard_output
from muxwsgi.observe.syslog import Syslog, severity_of

__all__ = ["ACCESS", "LOGGERS", "STREAM", "ErrorLog", "ErrorStream"]

#: All loggers of the server. Their records go to their common parent, `muxwsgi`.
LOGGERS = ("muxwsgi.error", "muxwsgi.forward", "muxwsgi.proxy", "muxwsgi.upstream")

#: The loggers that lines of the access log and of the stream log go to if the operator's configuration names them.
ACCESS, STREAM = "muxwsgi.access", "muxwsgi.stream"

FORMAT = "[%(asctime)s] [%(process)d] [%(levelname)s] %(message)s"
FORMAT_WITH_ID = "[%(asctime)s] [%(process)d] [%(levelname)s] [%(request_id)s] %(message)s"
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
        self._level = "INFO"
        self._handlers: list[logging.Handler] = [self]
        self.syslog: Syslog | None = None
        self._syslog_format: logging.Formatter | None = None
        #: The operator's configuration of logging, and the queue in front of its handlers.
        self.configuration: LogConfig | None = None
        self.guard: Guard | None = None
        #: Those of `ACCESS` and `STREAM` that the configuration names.
        self.configured: frozenset[str] = frozenset()

    def install(self, level: str) -> None:
        """Receive the records of the server's loggers, from `level` on, and no other records. Applies the operator's configuration again,
        if there is one."""
        self._level = level.upper()
        self._reset()
        if self.configuration is not None:
            try:
                self._configure(self.configuration)
            except OperatorError as error:  # it was applied before, so something has changed outside
                self._reset()
                logging.getLogger("muxwsgi.error").error("%s", error)

    def extend(self, *, syslog: Syslog | None = None, configuration: LogConfig | None = None) -> None:
        """Send the records to `syslog` too, and apply the operator's `configuration`. Raises `OperatorError`."""
        self.syslog = syslog
        self._reset()
        if configuration is not None:
            try:
                self._configure(configuration)
            except OperatorError:
                self._reset()
                raise
            self.configuration = configuration

    def show_request_ids(self) -> None:
        """Write the id of its request in front of each message. Call it before `extend`."""
        self.setFormatter(logging.Formatter(FORMAT_WITH_ID, TIME_FORMAT, defaults={"request_id": "-"}))
        self._syslog_format = logging.Formatter("[%(request_id)s] %(message)s", defaults={"request_id": "-"})

    def _reset(self) -> None:
        if self.guard is not None:
            self.guard.close()
            self.guard = None
        self._handlers = [self]
        if self.syslog is not None:
            handler = SyslogHandler(self.syslog)
            handler.setFormatter(self._syslog_format)
            self._handlers.append(handler)
        self.configured = frozenset()
        _set(logging.getLogger("muxwsgi"), self._handlers, propagate=False, level=self._level)
        for name in LOGGERS:
            logger = logging.getLogger(name)
            logger.__class__ = EnduringLogger
            _set(logger, [], propagate=True, level=logging.NOTSET)
        for name in (ACCESS, STREAM):
            _set(logging.getLogger(name), [], propagate=False, level=logging.NOTSET)

    def _configure(self, configuration: LogConfig) -> None:
        """Apply it. Each logger that it leaves out keeps the handlers of this log, also if it names another one."""
        parent = logging.getLogger("muxwsgi")
        lines = [logging.getLogger(name) for name in (ACCESS, STREAM)]
        loggers = [logging.getLogger(name) for name in LOGGERS]
        for logger in (parent, *lines, *loggers):
            _set(logger, [], propagate=False, level=logging.NOTSET)
        configuration.apply()
        taken = [name for name in configuration.names_of_gunicorn() if not _is_configured(logging.getLogger(GUNICORN[name]))]
        for name in taken:
            theirs = logging.getLogger(name)
            _set(logging.getLogger(GUNICORN[name]), theirs.handlers, propagate=theirs.propagate, level=theirs.level)
        guard = Guard(configuration.option)
        if parent.level == logging.NOTSET:
            parent.setLevel(self._level)
        whole = _is_configured(parent)
        # The configurators let all loggers below one that is named propagate. That alone says nothing about them.
        self.configured = frozenset(logger.name for logger in lines if logger.handlers or (logger.propagate and not whole))
        for logger in loggers:
            logger.__class__ = EnduringLogger
            if logger.handlers or (logger.propagate and not whole):
                guard.take(logger)
            elif whole:
                logger.propagate = True
            else:
                logger.handlers[:] = self._handlers
        if whole:
            guard.take(parent)
        else:
            parent.handlers[:] = self._handlers
        for logger in lines:
            logger.__class__ = EnduringLogger
            if logger.level == logging.NOTSET:
                logger.setLevel(logging.INFO)
            if logger.name in self.configured:
                guard.take(logger)
        self.guard = guard
        for name in taken:
            logging.getLogger("muxwsgi.error").debug("%s: %s is used for %s", configuration.place, name, GUNICORN[name])

    def add_plugins(self, modules: Iterable[str], level: str) -> None:
        """Also receive the records of plugins: those of `logging.getLogger(__name__)` in the packages of `modules`. A level that a package
        has set stays. A package that the operator's configuration names keeps that configuration."""
        for package in {module.partition(".")[0] for module in modules} - {"muxwsgi"}:
            logger = logging.getLogger(package)
            logger.__class__ = EnduringLogger
            if self not in logger.handlers and not (self.configuration is not None and logger.handlers):
                logger.handlers += self._handlers
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

    def whenever_opened(self, call: Callable[[], None]) -> None:
        """Call `call` whenever a new file has been opened, after a rotation."""
        self._file.opened = call

    @property
    def waiting(self) -> bool:
        """Whether lines wait for the reader of the log."""
        return self._file.waiting or (self.syslog is not None and self.syslog.waiting)

    def flush(self) -> None:
        """Try again to write the waiting lines."""
        self._file.flush()
        if self.syslog is not None:
            self.syslog.flush()

    def create_by(self, create: Callable[[], None]) -> None:
        """Call `create` before the file is opened again."""
        self._file.creating = create

    def reopen(self) -> None:
        """After a rotation."""
        self._file.reopen()
        if self.syslog is not None:
            self.syslog.reconnect()
        if self.guard is not None:
            self.guard.reopen()

    def close(self) -> None:
        """Does nothing, because `logging.config` closes all handlers. See `end`."""

    def end(self) -> None:
        """Write the waiting lines, at the end of the process."""
        if self.guard is not None:
            self.guard.close()
        if self.syslog is not None:
            self.syslog.close()
        self._file.flush(timeout=1)

    def give_up(self) -> None:
        """Write the waiting lines, and close the file: another log has taken its place."""
        if self.guard is not None:
            self.guard.close()
        if self.syslog is not None:
            self.syslog.close()
        self._file.close()

    def forsake(self) -> None:
        """In a child that has another error log: close the file, so that one that was moved away is not kept. Nothing is written."""
        self._file.forsake()

    def say(self, level: int, message: str) -> None:
        """Report an outage of another log in the file of this one, and nowhere else: the handlers of the loggers may be what is out."""
        self.emit(logging.LogRecord("muxwsgi.error", level, __file__, 0, message, None, None))

    def _say(self, level: int, message: str) -> None:
        # An error of the log goes to standard error, because the log does not work. Its recovery is logged in the log.
        if level >= logging.ERROR and self._file.path != "-":
            with contextlib.suppress(OSError):  # there is no other place for the report
                standard_output(2).write(f"muxwsgi: {message}\n".encode("utf-8", "backslashreplace"))
        elif level < logging.ERROR:
            self.emit(logging.LogRecord("muxwsgi.error", level, __file__, 0, message, None, None))


class SyslogHandler(logging.Handler):
    """Sends records to syslog, a message each, tracebacks included."""

    def __init__(self, syslog: Syslog) -> None:
        super().__init__()
        self._syslog = syslog

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = self.format(record)
        except Exception:  # the arguments do not fit the message
            self.handleError(record)
            return
        self._syslog.send(severity_of(record.levelno), text, "error")


def _set(logger: logging.Logger, handlers: list[logging.Handler], *, propagate: bool, level: int | str) -> None:
    logger.handlers[:] = handlers
    logger.propagate = propagate
    logger.setLevel(level)


def _is_configured(logger: logging.Logger) -> bool:
    return bool(logger.handlers) or logger.propagate


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
