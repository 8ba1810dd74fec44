"""`LogConfig`: the operator's configuration of logging (`--log-config` and its kin), applied to the server's loggers.

The handlers that it names are an operator's choice, and may be anything. So the server does not call them where it logs. Records wait in a
queue, up to a limit, and one greenlet gives them to the handlers. A handler that waits (a socket, a queue) holds up this greenlet and no
connection. A handler that raises is reported on standard error, once a minute at most. Records beyond the limit are lost and counted.

A handler that blocks the whole thread, in C code, blocks the event loop as the application could. `--timeout` finds it. The common case is
a pipe or a terminal whose reader does not read (/dev/stdout of a container). Such a stream is replaced by one that does not wait.

In a master, which has no event loop and serves nobody, handlers are called at once.
"""

import io
import json
import logging
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import field
from typing import Any

from muxwsgi.errors import OperatorError
from muxwsgi.observe.output import Output, TextOutput, may_wait, standard_output
from muxwsgi.record import record

__all__ = ["GUNICORN", "Guard", "LogConfig"]

#: Loggers of gunicorn, and those here that are the same.
GUNICORN = {"gunicorn.error": "muxwsgi.error", "gunicorn.access": "muxwsgi.access"}

#: Records that may wait for the handlers.
WAITING_AT_MOST = 10_000

#: Seconds for the waiting records at the end, and between two looks meanwhile.
LAST_WORDS, RETRY = 1.0, 0.02

#: Records that are given to handlers in a row, before other greenlets get a turn.
TURN = 50

#: Seconds between two reports of the same kind on standard error.
COMPLAINING = 60.0


@record()
class LogConfig:
    """A configuration that was read. Applied again, it is the same, even if the file has changed.

    option      that names it, for messages
    where       the file, or the option
    """

    option: str
    where: str
    ini: str | None = None
    values: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> "LogConfig | None":
        """Read what the options name; None without any. Raises `OperatorError`."""
        given = [name for name in ("logconfig_dict", "log_config_json", "log_config") if options[name]]
        if not given:
            return None
        if len(given) > 1:
            raise OperatorError(f"{given[0]}: {given[1]} configures logging too; give one of them")
        name = given[0]
        if name == "logconfig_dict":
            return cls(name, name, values=_with_defaults(options[name]))
        path = options[name]
        try:
            with open(path, encoding="utf-8") as file:
                text = file.read()
        except OSError as error:
            raise OperatorError(f"{name}: {path}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise OperatorError(f"{name}: {path}: {error}") from error
        if name == "log_config":
            return cls(name, path, ini=text)
        try:
            values = json.loads(text)
        except ValueError as error:
            raise OperatorError(f"{name}: {path}: {error}") from error
        if not isinstance(values, dict):
            raise OperatorError(f"{name}: {path}: it is not a JSON object")
        return cls(name, path, values=_with_defaults(values))

    @property
    def place(self) -> str:
        """The option and the file, for messages."""
        return self.option if self.where == self.option else f"{self.option}: {self.where}"

    def apply(self) -> None:
        """Configure logging. Raises `OperatorError`; some of it may be applied then."""
        import logging.config

        for name in GUNICORN:
            logging.getLogger(name).propagate = False  # as in gunicorn, unless the configuration says it
        try:
            if self.ini is None:
                logging.config.dictConfig(self.values)
            else:
                import configparser

                parser = configparser.ConfigParser({"here": os.path.dirname(self.where), "__file__": self.where})  # gunicorn's
                parser.read_file(io.StringIO(self.ini))
                if not parser.has_section("loggers"):
                    raise KeyError("loggers")
                logging.config.fileConfig(parser, disable_existing_loggers=False)
        except Exception as error:  # constructors of handlers may raise anything
            raise OperatorError(f"{self.place}: {_one_line(error)}") from error

    def names_of_gunicorn(self) -> list[str]:
        """The loggers of gunicorn that it names."""
        if self.ini is None:
            loggers = self.values.get("loggers")
            named = list(loggers) if isinstance(loggers, dict) else []
        else:
            named = [line.partition("=")[2].strip() for line in self.ini.splitlines() if line.replace(" ", "").startswith("qualname=")]
        return [name for name in GUNICORN if name in named]


def _with_defaults(values: dict[str, Any]) -> dict[str, Any]:
    """gunicorn lets a configuration leave these out."""
    return {"version": 1, "disable_existing_loggers": False, **values}


def _one_line(error: BaseException) -> str:
    """What went wrong. The configurators' own texts name the place, and their causes the reason."""
    texts = [f"{type(error).__name__} {error}" if isinstance(error, KeyError) else str(error) or type(error).__name__]
    cause = error.__cause__
    while cause is not None and len(texts) < 4:
        texts.append(str(cause) or type(cause).__name__)
        cause = cause.__cause__
    return ": ".join(" ".join(text.split()) for text in dict.fromkeys(texts))


class Guard:
    """The queue between the server's loggers and the operator's handlers.

    lost    number of records that are lost
    """

    def __init__(self, option: str, *, at_most: int = WAITING_AT_MOST, clock: Callable[[], float] = time.monotonic) -> None:
        self.lost = 0
        self._option = option
        self._at_most = at_most
        self._clock = clock
        self._queue: deque[tuple[_Guarded, logging.LogRecord]] = deque()
        self._start: Callable[[Callable[[], None]], object] | None = None
        self._give_turn: Callable[[float], object] = time.sleep
        self._running = False
        self._guarded: list[_Guarded] = []
        self._said_at: dict[str, float] = {}
        self._lost_said = 0

    def take(self, logger: logging.Logger) -> None:
        """Put the queue between `logger` and the handlers that it has now."""
        guarded = _Guarded(self, logger)
        self._guarded.append(guarded)
        for handler in guarded.all_handlers():
            _make_nonblocking(handler)
        logger.handlers[:] = [guarded]
        logger.propagate = False

    def serve(self, start: Callable[[Callable[[], None]], object], give_turn: Callable[[float], object]) -> None:
        """From now on, call handlers in a greenlet. `start(function)` begins one; it is called in any thread, at any time.
        `give_turn(seconds)` lets other greenlets run."""
        self._start = start
        self._give_turn = give_turn

    @property
    def waiting(self) -> bool:
        """Whether records wait for the handlers."""
        return bool(self._queue)

    def put(self, guarded: "_Guarded", record: logging.LogRecord) -> None:
        """Give a record to the handlers soon. Raises nothing."""
        if self._start is None:
            self._deliver(guarded, record)
            return
        if len(self._queue) >= self._at_most:
            self.lost += 1
            self._complain("lost", "its handlers do not keep up: records are lost")
            return
        self._queue.append((guarded, record))
        if not self._running:
            self._running = True
            self._start(self._run)

    def reopen(self) -> None:
        """After a log rotation: let handlers of files open them anew with the next record, as gunicorn does. Raises nothing."""
        for handler in self._handlers():
            if isinstance(handler, logging.FileHandler) and handler.stream is not None:
                handler.acquire()
                try:
                    handler.stream.close()
                    handler.stream = handler._open()
                    _make_nonblocking(handler)
                except (OSError, ValueError) as error:
                    self._complain("reopen", f"{handler!r} cannot be opened again: {error}")
                finally:
                    handler.release()

    def close(self) -> None:
        """Give the waiting records to the handlers, within a second, and close these. Raises nothing."""
        give_up = self._clock() + LAST_WORDS
        while (self._queue or self._running) and self._start is not None and self._clock() < give_up:
            self._give_turn(RETRY)
        stuck, self._start = self._running, None
        if stuck:
            self.lost += len(self._queue)
            self._complain("end", f"its handlers do not end: {len(self._queue)} records are lost")
            self._queue.clear()
        for handler in {handler for guarded in self._guarded for handler in guarded.handlers}:
            try:
                if stuck:
                    handler.createLock()  # the greenlet that does not end holds the lock, and the end of the process asks for it
                else:
                    handler.close()
            except Exception as error:
                self._complain("close", f"{handler!r} cannot be closed: {error!r}")

    def forsake(self) -> None:
        """In a forked child: drop the waiting records, which the parent writes, and call handlers at once."""
        self._queue.clear()
        self._start = None
        self._running = False

    def _handlers(self) -> set[logging.Handler]:
        return {handler for guarded in self._guarded for handler in guarded.all_handlers()}

    def _run(self) -> None:
        try:
            delivered = 0
            while self._queue:
                self._deliver(*self._queue.popleft())
                delivered += 1
                if delivered % TURN == 0:
                    self._give_turn(0)
        finally:
            self._running = False
        if self.lost > self._lost_said:
            lost, self._lost_said = self.lost - self._lost_said, self.lost
            self._complain("kept up", f"its handlers keep up again; {lost} records were lost")

    def _deliver(self, guarded: "_Guarded", record: logging.LogRecord) -> None:
        try:
            guarded.deliver(record)
        except Exception as error:
            self._complain("raised", f"a handler failed: {error!r}")

    def _complain(self, kind: str, text: str) -> None:
        """On standard error, because the log is what fails."""
        now = self._clock()
        if now - self._said_at.get(kind, -COMPLAINING) < COMPLAINING:
            return
        self._said_at[kind] = now
        try:
            standard_output(2).write(f"muxwsgi: {self._option}: {text}\n".encode("utf-8", "backslashreplace"))
        except OSError:
            pass  # counted there


class _Guarded(logging.Handler):
    """Stands in a logger in place of its handlers."""

    def __init__(self, guard: Guard, logger: logging.Logger) -> None:
        super().__init__()
        self._guard = guard
        self._logger = logger
        self.handlers = list(logger.handlers)
        self._propagates = logger.propagate

    def emit(self, record: logging.LogRecord) -> None:
        self._guard.put(self, record)

    def all_handlers(self) -> Iterable[logging.Handler]:
        """Those of the logger, and those that a record is passed on to."""
        above = logging.getLogger().handlers if self._propagates else []
        return [each for each in (*self.handlers, *above) if not isinstance(each, _Guarded)]

    def deliver(self, record: logging.LogRecord) -> None:
        """Call the handlers. Each is called even if one before it raises. Raises the last error."""
        failed: Exception | None = None
        for handler in self.handlers:
            try:
                if record.levelno >= handler.level:
                    handler.handle(record)
            except Exception as error:
                failed = error
        if self._propagates:
            logging.getLogger().callHandlers(record)
        if failed is not None:
            raise failed


def _make_nonblocking(handler: logging.Handler) -> None:
    """Let a handler of a stream write to a pipe, a terminal or a socket without waiting for its reader."""
    if not isinstance(handler, logging.StreamHandler):
        return
    stream = handler.stream
    if not isinstance(stream, io.TextIOWrapper) or isinstance(stream.buffer, TextOutput) or stream in (sys.stdout, sys.stderr):
        return
    try:
        fd = stream.fileno()
        if not may_wait(fd):
            return
    except (OSError, ValueError):
        return
    raw = TextOutput(Output(fd, shared=True), fd, stream.name)
    handler.replaced_stream = stream  # type: ignore[attr-defined]  # kept, because it would close the descriptor
    handler.stream = io.TextIOWrapper(raw, encoding=stream.encoding, errors="backslashreplace", newline="\n", write_through=True)
