"""`Gate`: spreads connections evenly over the workers that accept on the same sockets.

The kernel wakes all idle workers for a connection, and the first one gets it. When many connections come at once, a worker that is awake
could take most of them. So a worker that has `AHEAD` connections more than the one with the fewest lets others go first: it stops
watching its sockets for `wire.acceptor.GATE_PAUSE`, and then accepts one. The shared page has the numbers of connections.

Nothing waits for a worker that does not accept:

- A worker that is not ready yet, drains, or has `max_connections` says so in the page, and does not count. One that has ended has no entry
  as soon as the master has reaped it.
- A worker whose event loop is blocked, or that has died a moment ago, still seems to accept. After each pause one connection is accepted
  in any case. After `PAUSES` pauses in a row in which the other worker has accepted nothing, it does not count until it has accepted again.
- If no other worker counts, there is no limit, as with a single worker.
"""

from muxwsgi.server.page import ACCEPTED, ACCEPTS, CONNECTIONS, Entry, SharedPage
from muxwsgi.wire.fork import leave_to_parent
from muxwsgi.wire.room import NO_LIMIT, AcceptGate

__all__ = ["Gate"]

# Typed in the compiled build.
_CONNECTIONS, _ACCEPTS, _ACCEPTED = CONNECTIONS, ACCEPTS, ACCEPTED

#: So many connections more than another worker are too many. With 1, two workers would take turns, also when both are idle.
AHEAD = 2

#: Pauses for a worker that accepts nothing, in a row. It may be waiting for the processor.
PAUSES = 20


class Gate(AcceptGate):
    """The gate of one worker, and the numbers that others see of it."""

    def __init__(self, page: SharedPage, entry: Entry) -> None:
        """`entry` is this worker's."""
        self._page = page
        self._index = entry.index
        self._head = page.head
        self._line = entry.line
        self._forsaken = False
        self._open = False
        self._taken = 0
        self._full = False
        self._version = 2**64 - 1  # of the page, when `_others` was read
        self._others: dict[int, memoryview] = {}  # the lines of the other workers, by the index of their entries
        self._awaited: tuple[int, int] | None = None  # for which worker it pauses, and how many connections that has accepted so far
        self._pauses = 0  # for that one
        self._idle: dict[int, int] = {}  # workers that do not count until they accept again, with the number of connections accepted
        leave_to_parent(self)

    def open(self) -> None:
        """Let others know that this worker accepts."""
        self._open = True
        self._tell()

    def close(self) -> None:
        """Let others know that this worker accepts no more."""
        self._open = False
        self._tell()

    def forsake(self) -> None:
        """In a forked child: the entry belongs to the parent."""
        self._forsaken = True

    # As `AcceptGate`

    def note(self, taken: int, full: bool) -> None:
        """Let others know how many connections this worker has."""
        if self._forsaken:
            return
        self._line[_CONNECTIONS] = taken
        if taken > self._taken:
            self._line[_ACCEPTED] += 1
        self._taken = taken
        if full != self._full:
            self._full = full
            self._tell()

    def allowed(self) -> int:
        """How many connections this worker may accept now: 0 if others go first, `NO_LIMIT` if there are no others."""
        if self._head[0] != self._version:
            self._version = self._head[0]
            self._others = {entry.index: entry.line for entry in self._page.entries() if entry.index != self._index}
            self._idle.clear()
        fewest = -1
        least = 0
        for index, line in self._others.items():
            if line[ACCEPTS] and (fewest < 0 or line[CONNECTIONS] < least) and self._idle.get(index) != line[ACCEPTED]:
                fewest, least = index, line[CONNECTIONS]
        if fewest < 0:
            return NO_LIMIT
        if self._taken < least + AHEAD:
            self._awaited = None
            return 1
        awaited = (fewest, self._others[fewest][ACCEPTED])
        if awaited != self._awaited:
            self._awaited, self._pauses = awaited, 0
        self._pauses += 1
        if self._pauses > PAUSES:
            self._idle[fewest] = awaited[1]
            return 1
        return 0

    def _tell(self) -> None:
        if not self._forsaken:
            self._line[_ACCEPTS] = self._open and not self._full
