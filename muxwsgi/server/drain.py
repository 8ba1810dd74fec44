"""`Drain`: lets connections end at shutdown, or when another composition has taken the place of theirs; cuts those that do not."""

from collections.abc import Callable, Mapping
from time import monotonic

import gevent
from greenlet import greenlet

from muxwsgi.errors import Cut
from muxwsgi.wire.lifeline import Lifeline

__all__ = ["DRAIN_INTERVAL", "Drain"]

#: Seconds between two looks at what is left during a drain.
DRAIN_INTERVAL = 0.05

#: Seconds that new connections have for their first bytes once a drain has begun: their requests may be under way.
FIRST_BYTES_GRACE = 1.0

#: Seconds that connections which are cut may take to end.
CUT_TIMEOUT = 5.0


class Drain:
    """The drain of `lines`: connections with the greenlets that serve them. More may come meanwhile."""

    def __init__(self, lines: Mapping[Lifeline, greenlet | None], concerns: Callable[[Lifeline], bool] | None = None) -> None:
        """`concerns` says which connections are drained; None for all."""
        self._lines = lines
        self._concerns = concerns
        self._spared_until: dict[Lifeline, float] = {}  # those that have sent nothing yet

    def look(self) -> bool:
        """Close the connections that rest. Whether all have ended. To be called every `DRAIN_INTERVAL` seconds until then."""
        now = monotonic()
        for line in self._left():
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
