"""`ServerState`: what is known of one server of an upstream in this process. A reload keeps it for a server that stays.

    up --`fall` failures in a row--> down --`rise` checks in a row--> up, with a slow start if one is set

Beside that stands the operator's word: ready, drain (no new sessions; checks go on) and maint (no new sessions, no checks). It changes
nothing about up and down.

Failures of checks and of connections are counted apart. Otherwise a server that takes connections and answers its checks wrongly would
never go down. Of connections that were attempted at the same time, one failure counts: a client that opens a hundred at once is one
observation.
"""

from collections.abc import Callable
from enum import Enum
from time import time
from typing import Any

__all__ = ["REFUSALS", "Counts", "Readiness", "ServerState"]

#: Why a session was refused.
REFUSALS = ("down", "queue_full", "queue_timeout", "failed")


class Readiness(Enum):
    """The operator's word about a server."""

    READY = "ready"
    DRAIN = "drain"
    MAINT = "maint"


class Counts:
    """Numbers of one server since the process began. They survive reloads, and never go back."""

    __slots__ = ("check_failures", "checks", "connect_failures", "connected", "downs")

    def __init__(self) -> None:
        self.connected = 0
        self.connect_failures = 0
        self.checks = 0
        self.check_failures = 0
        self.downs = 0


class ServerState:
    """The state of one server.

    up              whether it gets sessions, as far as its health goes
    readiness       the operator's word
    since           when `up` or `readiness` changed, seconds since the epoch
    sessions        those that are open, with those that are connecting
    failures        failures of connections in a row, while up
    check_failures  failures of checks in a row, while up
    check_successes successes of checks in a row, while down
    last_failure    the last one in words, "" before the first; `last_failure_at` is its time, seconds since the epoch
    """

    def __init__(self, clock: Callable[[], float], counts: Counts, readiness: Readiness = Readiness.READY) -> None:
        self.clock = clock
        self.counts = counts
        self.up = True
        self.readiness = readiness
        self.since = time()
        self.sessions: set[Any] = set()
        self.failures = 0
        self.check_failures = 0
        self.check_successes = 0
        self.last_failure = ""
        self.last_failure_at = 0.0
        self._counted_at = -1.0  # when the last failure of a connection was counted
        self._rising_since: float | None = None  # when it came up again

    def note_failure(self, reason: str, began: float, fall: int) -> bool:
        """A connection that was begun at `began` (by `clock`) has failed. Whether the server goes down by it."""
        self.remember(reason)
        if not self.up or began < self._counted_at:
            return False
        self._counted_at = self.clock()
        self.failures += 1
        return self.failures >= fall and self._go(False)

    def note_success(self) -> None:
        """A connection was made."""
        self.failures = 0

    def note_check(self, failure: str | None, rise: int, fall: int) -> bool:
        """A check has ended, with a failure or without. Whether the server goes up or down by it."""
        self.counts.checks += 1
        if failure is None:
            self.check_failures = self.failures = 0
            self.check_successes += 1
            return not self.up and self.check_successes >= rise and self._go(True)
        self.counts.check_failures += 1
        self.remember(failure)
        self.check_successes = 0
        self.check_failures += 1
        return self.up and self.check_failures >= fall and self._go(False)

    def begin_down(self) -> None:
        """It is down at first, because the worker before found it down."""
        self.up = False
        self.remember("it was down before the reload")

    def set_readiness(self, readiness: Readiness) -> bool:
        """Take the operator's word. Whether it is a new one."""
        if readiness is self.readiness:
            return False
        self.readiness = readiness
        self.since = time()
        return True

    def risen(self, slowstart: float) -> float:
        """The share of its weight that it has: between 0.05 and 1."""
        if self._rising_since is None or slowstart <= 0:
            return 1.0
        share = (self.clock() - self._rising_since) / slowstart
        if share >= 1.0:
            self._rising_since = None
            return 1.0
        return max(share, 0.05)

    def remember(self, reason: str) -> None:
        """Note the last failure, which counts for nothing."""
        self.last_failure = reason
        self.last_failure_at = time()

    def _go(self, up: bool) -> bool:
        self.up = up
        self.since = time()
        self.failures = self.check_failures = self.check_successes = 0
        self._rising_since = self.clock() if up else None
        if not up:
            self.counts.downs += 1
        return True
