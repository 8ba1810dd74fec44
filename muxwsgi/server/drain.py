"""`Drain`: ends connections at shutdown, or after a swap, or after another process has taken over. It cuts those that do not end in time.

A connection without a request under way can be closed at once. But the client may just be sending a request. Then it gets a reset. At
shutdown this cannot be avoided. If another process or composition serves instead, there is a grace: the connection stays open until its
next request, which is answered with `Connection: close`, or until its deadline. After the grace, the rest is closed as at shutdown.
"""

from collections.abc import Callable, Mapping
from time import monotonic

import gevent
from greenlet import greenlet

from muxwsgi.errors import Cut
from muxwsgi.wire.lifeline import Lifeline

__all__ = ["DRAIN_INTERVAL", "Drain", "end_of_grace"]

#: Seconds between two checks of the remaining connections.
DRAIN_INTERVAL = 0.05

#: Seconds for the first bytes of new connections once a drain has begun, because their requests may be under way.
FIRST_BYTES_GRACE = 1.0

#: Seconds for cut connections to end.
CUT_TIMEOUT = 5.0

#: Seconds between the end of a grace and the cut, at most. They are for the answers to the last requests.
AFTER_GRACE = 1.0


def end_of_grace(begin: float, cut_at: float) -> float:
    """When the grace of a drain from `begin` to `cut_at` ends (`monotonic`)."""
    return max(cut_at - AFTER_GRACE, (begin + cut_at) / 2)


class Drain:
    """The drain of `lines`: connections with the greenlets that serve them, None for relays without
    one. New ones may be added during the drain."""

    def __init__(self, lines: Mapping[Lifeline, greenlet | None], concerns: Callable[[Lifeline], bool] | None = None) -> None:
        """`concerns` selects the connections to drain; None for all."""
        self._lines = lines
        self._concerns = concerns
        self._spared_until: dict[Lifeline, float] = {}  # connections that have sent nothing yet

    def look(self, *, grace: bool = False) -> bool:
        """Close the resting connections; with `grace`, only those on which the client expects no answer. Returns whether all connections
        have ended. Call it every `DRAIN_INTERVAL` seconds until then."""
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
        """End the connections that are left, by `Cut`."""
        for line in self._left():
            serving = self._lines.get(line)
            if serving is not None:
                gevent.kill(serving, Cut)
            else:  # a relay without a greenlet
                line.fail(Cut())
        give_up = monotonic() + CUT_TIMEOUT
        while self._left() and monotonic() < give_up:
            gevent.sleep(DRAIN_INTERVAL)

    def _left(self) -> list[Lifeline]:
        concerns = self._concerns
        return list(self._lines) if concerns is None else [line for line in self._lines if concerns(line)]
