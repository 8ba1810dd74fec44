"""`Room` limits how many connections are served at once, and `AcceptGate` is what it tells of them to other processes."""

import sys
from collections import deque
from typing import Protocol

from gevent import get_hub

__all__ = ["NO_LIMIT", "AcceptGate", "Room", "Waiting"]

#: What `AcceptGate.allowed` returns without others.
NO_LIMIT = sys.maxsize


class AcceptGate:
    """Decides with other processes who accepts on the sockets that all of them share. A base class, because its methods are called for each
    connection: compiled, that is a call of C."""

    def note(self, taken: int, full: bool) -> None:
        """`taken` connections are served now; `full`: one more is too many."""
        raise NotImplementedError

    def allowed(self) -> int:
        """How many connections may be accepted now; 0 to ask again after `GATE_PAUSE`, or to accept one then."""
        raise NotImplementedError


class Waiting(Protocol):
    """Waits for room."""

    def accept_next(self) -> None:
        """Called by the hub when there is a place."""


class Room:
    """Room for connections, shared by listeners: at most `limit` are served at once, None for as many as come.

    taken       how many are served
    gate        is told how many; None if no other process accepts on the same sockets
    """

    def __init__(self, limit: int | None, gate: AcceptGate | None = None) -> None:
        self.taken = 0
        self.gate = gate
        self._limit = sys.maxsize if limit is None else limit
        self._waiting: deque[Waiting] = deque()

    def is_full(self) -> bool:
        """Whether one more is too many."""
        return self.taken >= self._limit

    def wait(self, acceptor: Waiting) -> None:
        """Let `acceptor` have a place when it is its turn."""
        self._waiting.append(acceptor)

    def take(self) -> None:
        """Take a place."""
        self.taken += 1
        if self.gate is not None:
            self.gate.note(self.taken, self.taken >= self._limit)

    def free(self) -> None:
        """Give it back."""
        self.taken -= 1
        if self.gate is not None:
            self.gate.note(self.taken, self.taken >= self._limit)
        self._call_next()

    def _call_next(self) -> None:
        # By the hub, which accepts: a place is given back by a connection's greenlet, and by one that ends at once while `accept_next`
        # still runs.
        if self._waiting and not self.is_full():
            get_hub().loop.run_callback(self._pass_on)

    def _pass_on(self) -> None:
        # One place each, in the order in which they came: a crowd on one port does not lock out another.
        if self._waiting and not self.is_full():
            self._waiting.popleft().accept_next()
            self._call_next()
