"""The queue in front of an operator's handlers: bounded, in order, and of no harm whatever a handler does."""

import logging
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from muxwsgi.observe import log_config
from muxwsgi.observe.log_config import Guard, LogConfig

OPTIONS = {"logconfig_dict": None, "log_config": None, "log_config_json": None}


class Kept(logging.Handler):
    """Keeps messages. Raises for those that begin with `raise`."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []
        self.closed = False

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage().startswith("raise"):
            raise ZeroDivisionError
        self.messages.append(record.getMessage())

    def close(self) -> None:
        self.closed = True
        super().close()


class Later:
    """Stands for the event loop: runs when the test says so."""

    def __init__(self) -> None:
        self.started: list[Callable[[], None]] = []
        self.turns = 0

    def start(self, run: Callable[[], None]) -> None:
        self.started.append(run)

    def give_turn(self, seconds: float) -> None:
        self.turns += 1
        self.run()

    def run(self) -> None:
        while self.started:
            self.started.pop(0)()


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What goes to standard error."""
    lines: list[str] = []

    class Standard:
        def write(self, data: bytes) -> None:
            lines.append(data.decode())

    monkeypatch.setattr(log_config, "standard_output", lambda fd: Standard())
    return lines


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    logger = logging.Logger("of the test")
    logger.propagate = False
    yield logger
    logger.handlers.clear()


def taken(logger: logging.Logger, handler: logging.Handler, **more: Any) -> tuple[Guard, Later]:
    logger.addHandler(handler)
    guard, later = Guard("log_config", **more), Later()
    guard.take(logger)
    guard.serve(later.start, later.give_turn)
    return guard, later


def test_records_wait_for_the_event_loop_and_come_in_order(logger: logging.Logger) -> None:
    kept = Kept()
    guard, later = taken(logger, kept)
    for number in range(120):
        logger.warning("%d", number)
    assert kept.messages == [] and guard.waiting and len(later.started) == 1
    later.run()
    assert kept.messages == [str(number) for number in range(120)] and not guard.waiting
    assert later.turns == 2, "others get a turn every 50 records"


def test_what_is_beyond_the_limit_is_lost_and_that_is_said(logger: logging.Logger, said: list[str]) -> None:
    kept = Kept()
    guard, later = taken(logger, kept, at_most=10)
    for number in range(25):
        logger.warning("%d", number)
    later.run()
    assert kept.messages == [str(number) for number in range(10)] and guard.lost == 15
    assert said == [
        "muxwsgi: log_config: its handlers do not keep up: records are lost\n",
        "muxwsgi: log_config: its handlers keep up again; 15 records were lost\n",
    ]


def test_a_handler_that_raises_costs_its_own_record_and_is_said_once_a_minute(logger: logging.Logger, said: list[str]) -> None:
    now = [0.0]
    kept, other = Kept(), Kept()
    logger.addHandler(other)
    _, later = taken(logger, kept, clock=lambda: now[0])
    for message in ("one", "raise", "raise", "two"):
        logger.warning(message)
    later.run()
    assert kept.messages == other.messages == ["one", "two"]
    assert said == ["muxwsgi: log_config: a handler failed: ZeroDivisionError()\n"]
    now[0] = 61
    logger.warning("raise")
    later.run()
    assert len(said) == 2


def test_a_handler_that_logs_itself_does_not_run_without_end(logger: logging.Logger) -> None:
    class Echo(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            logger.warning("again")

    guard, later = taken(logger, Echo())
    logger.warning("first")

    class Enough(Exception):
        pass

    def give_turn(seconds: float) -> None:
        raise Enough

    guard.serve(later.start, give_turn)
    with pytest.raises(Enough):
        later.run()


def test_the_end_writes_what_waits_and_closes_the_handlers(logger: logging.Logger) -> None:
    kept = Kept()
    guard, _ = taken(logger, kept)
    logger.warning("last")
    guard.close()
    assert kept.messages == ["last"] and kept.closed
    logger.warning("after the end")
    assert kept.messages[-1] == "after the end", "the handlers are called at once"


def test_the_end_does_not_wait_for_a_handler_that_does_not_end(logger: logging.Logger, said: list[str]) -> None:
    now = [0.0]
    kept = Kept()
    guard, later = taken(logger, kept, clock=lambda: now[0])
    later.start = lambda run: None  # type: ignore[method-assign]
    guard.serve(later.start, lambda seconds: now.__setitem__(0, now[0] + seconds))
    for _ in range(3):
        logger.warning("stuck")
    guard.close()
    assert now[0] == pytest.approx(1.0, abs=0.05) and guard.lost == 3
    assert said == ["muxwsgi: log_config: its handlers do not end: 3 records are lost\n"]


def test_a_child_drops_what_the_parent_writes(logger: logging.Logger) -> None:
    kept = Kept()
    guard, later = taken(logger, kept)
    logger.warning("of the parent")
    guard.forsake()
    logger.warning("of the child")
    assert kept.messages == ["of the child"]
    later.run()
    assert kept.messages == ["of the child"]


def test_records_that_are_passed_on_reach_the_root(logger: logging.Logger) -> None:
    root, kept = logging.getLogger(), Kept()
    root.addHandler(kept)
    try:
        logger.propagate = True
        _, later = taken(logger, Kept())
        logger.warning("to all")
        later.run()
        assert "to all" in kept.messages
    finally:
        root.removeHandler(kept)


def test_a_stream_handler_of_a_pipe_is_given_a_stream_that_does_not_wait(logger: logging.Logger) -> None:
    reader, writer = os.pipe()
    try:
        with open(writer, "w", closefd=False) as stream:
            handler = logging.StreamHandler(stream)
            guard, later = taken(logger, handler)
            for _ in range(100):
                logger.warning("x" * 5000)
                later.run()
            assert os.read(reader, 5001) == b"x" * 5000 + b"\n"
            guard.close()
            handler.stream.detach()  # type: ignore[attr-defined]
    finally:
        os.close(reader)
        os.close(writer)


def test_only_one_option_configures_logging() -> None:
    from muxwsgi.errors import OperatorError

    assert LogConfig.of(OPTIONS) is None
    with pytest.raises(OperatorError, match="logconfig_dict: log_config configures logging too"):
        LogConfig.of({**OPTIONS, "logconfig_dict": {"version": 1}, "log_config": "/a"})


def test_what_gunicorn_lets_one_leave_out_may_be_left_out_and_its_loggers_are_found() -> None:
    configuration = LogConfig.of({**OPTIONS, "logconfig_dict": {"loggers": {"gunicorn.access": {}, "mine": {}}}})
    assert configuration is not None
    assert configuration.values["version"] == 1 and configuration.values["disable_existing_loggers"] is False
    assert configuration.names_of_gunicorn() == ["gunicorn.access"]
