"""Waiting inside of the event loop: for tests whose server runs in the same process."""

from typing import Any

import gevent

__all__ = ["until"]


def until(condition: Any, what: str = "") -> None:
    """Wait for what has to come."""
    with gevent.Timeout(10, AssertionError(f"it did not come: {what or condition}")):
        while not condition():
            gevent.sleep(0.005)
