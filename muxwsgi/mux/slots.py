"""`Slots`: the places of a route."""

from collections import deque
from typing import Protocol

from muxwsgi.mux.quota import Quota

__all__ = ["Slots"]


class Turn(Protocol):
    """What a connection waits on for a slot: a gevent `Event`."""

    def set(self) -> None: ...


class Slots:
    """How many connections a route may serve at once in this process, over all muxes that it is in.

    taken       connections that hold a slot now (counted without a limit too)
    refused     connections that got none, since the start
    waiting     connections in line for a slot, first come, first served
    quota       what each client may have of them, and how many may come in a second; None for no such limit
    """

    __slots__ = ("limit", "quota", "refused", "taken", "waiting")

    def __init__(self, limit: int | None, quota: Quota | None = None) -> None:
        self.limit = limit
        self.quota = quota
        self.taken = 0
        self.refused = 0
        self.waiting: deque[Turn] = deque()

    def take(self) -> bool:
        """Take a slot if one is free."""
        if self.limit is not None and self.taken >= self.limit:
            return False
        self.taken += 1
        return True

    def free(self) -> None:
        """Give a slot back, to the first in line if there is a line."""
        if self.waiting:
            self.waiting.popleft().set()
        else:
            self.taken -= 1
