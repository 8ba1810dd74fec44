"""Handlers of logging that an operator could have."""

import logging
import time


class Slow(logging.Handler):
    """Waits for something, as handlers of the network do."""

    def emit(self, record: logging.LogRecord) -> None:
        time.sleep(1)


class Broken(logging.Handler):
    """Raises."""

    def emit(self, record: logging.LogRecord) -> None:
        raise ZeroDivisionError("of the handler")
