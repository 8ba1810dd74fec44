"""Waiting for what has to come: inside of the event loop (`until`), where the server runs in the process of the tests, and outside of it
(`wait_for`), where the server is another process."""

import contextlib
import time
from collections.abc import Callable
from typing import Any, TypeVar

import gevent

__all__ = ["until", "wait_for"]

Found = TypeVar("Found")


def until(condition: Any, what: str = "") -> None:
    """Wait for what has to come."""
    with gevent.Timeout(10, AssertionError(f"it did not come: {what or condition}")):
        while not condition():
            gevent.sleep(0.005)


def wait_for(condition: Callable[[], Found | None], missing: str | Callable[[], str] = "it did not come", patience: float = 30) -> Found:
    """What `condition` returns, once it is true. No greenlet runs meanwhile. A file that is not there yet is waited for. `missing` is what to
    say after `patience` seconds; a function is called then, as for the end of a log."""
    give_up = time.monotonic() + patience
    while True:
        with contextlib.suppress(FileNotFoundError):
            if found := condition():
                return found
        assert time.monotonic() < give_up, missing() if callable(missing) else missing
        time.sleep(0.02)
