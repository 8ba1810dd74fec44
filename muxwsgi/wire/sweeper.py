"""`Sweeper`: keeps the deadlines of the connections that it is told of, about once a second."""

from time import monotonic

from greenlet import greenlet

from muxwsgi.wire.every import Every
from muxwsgi.wire.fork import leave_to_parent
from muxwsgi.wire.lifeline import Lifeline, sweep

__all__ = ["Sweeper"]

#: Seconds between two sweeps: how late an expiry may be noticed.
INTERVAL = 1.0


class Sweeper(Every):
    """Each part that opens or accepts connections has one, and keeps the lifelines of those that are in use in `lines`.

    lines   each lifeline with the greenlet that serves it, or None. Those with None are removed by
            the sweep once they are closed. The others stay as long as they are served, which may go on over a socket that was detached.
    """

    def __init__(self) -> None:
        self.lines: dict[Lifeline, greenlet | None] = {}
        super().__init__(INTERVAL, self._sweep)
        leave_to_parent(self)

    def forsake(self) -> None:
        """In a forked child: close the connections without a word, see `fork`."""
        for line in self.lines:
            if line.top is not None:
                line.top.forsake()

    def _sweep(self) -> None:
        for line in [line for line, served_by in self.lines.items() if line.closed and served_by is None]:
            del self.lines[line]
        sweep(list(self.lines), monotonic())
