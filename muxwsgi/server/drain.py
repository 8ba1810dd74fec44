"""`Drain`: lets connections end at shutdown, or when another process or composition has taken the place of theirs; cuts those that do not.

A connection on which no request is under way can be closed at once. The client may just be sending one, though: then it gets a reset. At
shutdown that cannot be helped. Where something else goes on serving, there is a grace: the connection stays open until its next request,
which is answered with `Connection: close`, or until its own deadline. What is left after the grace is closed as at shutdown.
"""

from collections.abc import Callable, Mapping
from time import monotonic

import gevent
from greenlet import greenlet

from muxwsgi.errors import Cut
from muxwsgi.wire.lifeline import Lifeline

__all__ = ["DRAIN_INTERVAL", "Drain", "end_of_grace"]

#: Seconds between two looks at what is left during a drain.
DRAIN_INTERVAL = 0.05

#: Seconds that new connections have for their first bytes once a drain has begun: their requests may be under way.
FIRST_BYTES_GRACE = 1.0

#: Seconds that connections which are cut may take to end.
CUT_TIMEOUT = 5.0

#: Seconds between the end of a grace and the cut, at most: requests that come at the last moment have them to be answered.
AFTER_GRACE = 1.0


def end_of_grace(begin: float, cut_at: float) -> float:
    """When a grace ends, of a drain that lasts from `begin` to `cut_at` (`monotonic`)."""
    return max(cut_at - AFTER_GRACE, (begin + cut_at) / 2)


class Drain:
    """The drain of `lines`: connections with the greenlets that serve them. More may come meanwhile."""

    def __init__(self, lines: Mapping[Lifeline, greenlet | None], concerns: Callable[[Lifeline], bool] | None = None) -> None:
        """`concerns` selects the connections to drain; None for all."""
        self._lines = lines
        self._concerns = concerns
        self._spared_until: dict[Lifeline, float] = {}  # those that have sent nothing yet

    def look(self, *, grace: bool = False) -> bool:
        """Close the connections that rest, with `grace` only those on which the client expects no answer. Whether all have ended. To be
        called every `DRAIN_INTERVAL` seconds until then."""
        now = monotonic()
        for line in self._left():
            if grace and (line.promised or line.untouched):
                continue
            if not line.untouched or now > self._spared_until.setdefault(line, now + FIRST_BYTES_GRACE):
                line.drain()
        return not self._left()

    def left(self) -> int:
        """How many connections have not ended."""
        return len(self._left())

    def cut(self) -> None:
        """End the connections that are left, by `Cut` in their greenlets."""
        for line in self._left():
            serving = self._lines.get(line)
            if serving is not None:
                gevent.kill(serving, Cut)
        give_up = monotonic() + CUT_TIMEOUT
        while self._left() and monotonic() < give_up:
            gevent.sleep(DRAIN_INTERVAL)

    def _left(self) -> list[Lifeline]:
        concerns = self._concerns
        return list(self._lines) if concerns is None else [line for line in self._lines if concerns(line)]
