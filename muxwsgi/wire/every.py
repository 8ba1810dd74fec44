"""`Every`: calls a function again and again, in a greenlet, until it is stopped."""

import logging
from collections.abc import Callable
from time import monotonic

import gevent

__all__ = ["Every"]

log = logging.getLogger("muxwsgi.error")


class Every:
    """Calls `call` every `seconds`. What it raises is logged, and the next call comes all the same: deadlines hang on it."""

    def __init__(self, seconds: float, call: Callable[[], object]) -> None:
        self._seconds = seconds
        self._call = call
        self._greenlet: gevent.Greenlet[..., None] | None = None

    @property
    def running(self) -> bool:
        """Whether it was started, and not stopped since."""
        return self._greenlet is not None

    def start(self) -> None:
        """Call from now on, in this thread's hub. Idempotent."""
        if self._greenlet is None:
            self._greenlet = gevent.spawn(self._run)

    def stop(self) -> None:
        """Call no more. Idempotent."""
        if self._greenlet is not None:
            self._greenlet.kill()
            self._greenlet = None

    def _run(self) -> None:
        while True:
            due = monotonic() + self._seconds
            gevent.sleep(self._seconds)
            if monotonic() - due > self._seconds:
                # Some code held up the loop, or the process was stopped: what peers sent in time waits in the kernel, and is read first.
                gevent.sleep(self._seconds)
            try:
                self._call()
            except Exception:  # MemoryError too
                log.exception("%r failed", self._call)
