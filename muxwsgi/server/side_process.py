"""`SideProcess`: a child of the master that is no worker: the process that serves the admin bind. This module imports no gevent.

The master starts it again when it has ended. If it lives for a few seconds only, the delay before that doubles. It ignores the
signals of a stop, because /readyz has to say that the service stops while workers drain. It is killed when the last worker has ended,
because it has nothing to lose. If the master dies, Linux kills it.
"""

import logging
import math
import os
import signal
import time
from collections.abc import Callable
from time import monotonic

from muxwsgi.server.worker import fork

__all__ = ["Beside", "SideProcess", "wait_for_end"]

log = logging.getLogger("muxwsgi.error")

#: Delays before a process that ended early is started again, and the time after which it counts as settled, seconds.
FIRST_DELAY, LONGEST_DELAY, SETTLED_AFTER = 0.5, 30.0, 10.0

#: Seconds that `wait_for_end` waits.
END_TIMEOUT = 2.0


class Beside(BaseException):
    """Raised in the child, through the master's frames. `serve` is what it does then."""

    def __init__(self, serve: Callable[[], None]) -> None:
        self.serve = serve


class SideProcess:
    """The process of a master that does what `replace` was told last.

    name        for the log
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._serve: Callable[[], None] | None = None
        self._pid = 0
        self._started = 0.0
        self._delay = FIRST_DELAY
        self._start_at = 0.0
        self._stopped = False

    @property
    def due(self) -> float:
        """When it is to be started (`monotonic`)."""
        return math.inf if self._pid or self._stopped or self._serve is None else self._start_at

    def look(self, taken: tuple[int, ...]) -> None:
        """Start it if it is due. `taken` are the master's signals. Raises `Beside` in the child."""
        now = monotonic()
        if self._serve is None or now < self.due:
            return
        try:
            pid = fork(taken)
        except OSError as error:
            self._wait(f"cannot be started: {error.strerror}", now)
            return
        if pid == 0:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
                signal.signal(number, signal.SIG_IGN)
            raise Beside(self._serve)
        self._pid, self._started = pid, now

    def ended(self, pid: int, status: int) -> bool:
        """Note that the child `pid` has ended. Whether it was this one."""
        if pid != self._pid:
            return False
        self._pid = 0
        if not self._stopped:
            now = monotonic()
            if now - self._started >= SETTLED_AFTER:
                self._delay = FIRST_DELAY
            self._wait(f"has ended ({os.waitstatus_to_exitcode(status)})", now)
        return True

    def replace(self, serve: Callable[[], None] | None) -> None:
        """Do `serve` from now on, None for nothing: the process is ended, and the next `look` starts another one."""
        self._serve = serve
        self._kill()
        self._delay, self._start_at = FIRST_DELAY, 0.0

    def stop(self) -> None:
        """End it for good, as `wait_for_end` waits."""
        self._stopped = True
        pid = self._pid
        self._kill()
        if pid:
            wait_for_end(pid)

    def _kill(self) -> None:
        """Kill it. The master reaps it later, as a process that it does not know."""
        if self._pid:
            os.kill(self._pid, signal.SIGKILL)  # it is a child that was not waited for, so the pid is its own
            self._pid = 0

    def _wait(self, what: str, now: float) -> None:
        log.error("the %s %s: it is started again in %.1f s", self.name, what, self._delay)
        self._start_at = now + self._delay
        self._delay = min(2 * self._delay, LONGEST_DELAY)


def wait_for_end(pid: int) -> None:
    """Wait until a killed child has ended, and reap it, for `END_TIMEOUT` seconds at most: one that waits for a disk may end later."""
    give_up = monotonic() + END_TIMEOUT
    while monotonic() < give_up and os.waitpid(pid, os.WNOHANG) == (0, 0):
        time.sleep(0.005)
