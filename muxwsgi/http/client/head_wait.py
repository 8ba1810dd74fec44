"""`HeadWait`: the wait for the head of a response. It has a deadline, and interim responses may come before the final one."""

import math
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING

from muxwsgi.http.client.response_head import BrokenResponse, ResponseHead

if TYPE_CHECKING:
    from muxwsgi.wire.lifeline import Lifeline

__all__ = ["HeadWait", "OnInterim"]

#: Called with each 1xx response but 101.
OnInterim = Callable[[ResponseHead], None]


class HeadWait:
    """For one exchange after the other.

    waiting     whether a greenlet waits for a head
    """

    __slots__ = ("_count", "_limit", "_line", "_outer", "_timeout", "waiting")

    def __init__(self, line: "Lifeline", limit: int, timeout: float) -> None:
        """`line` is where the deadline is set. `limit` and `timeout` are those of `ClientSettings`: interim responses, and seconds for each
        head."""
        self._line = line
        self._limit = limit
        self._timeout = timeout
        self._outer = math.inf  # the deadline that the caller has set for the whole exchange
        self._count = 0
        self.waiting = False

    def begin(self) -> None:
        """A greenlet begins to wait. `end` has to follow."""
        self._outer = self._line.deadline
        self._count = 0
        self.waiting = True

    def set_deadline(self) -> None:
        """Set the deadline for the next head: the request is complete. An earlier deadline of the caller stays."""
        if self._timeout:
            self._line.deadline = min(monotonic() + self._timeout, self._outer)

    def is_final(self, head: ResponseHead, on_interim: OnInterim | None) -> bool:
        """Whether `head` is that of the final response. An interim one is given to `on_interim`. Raises `BrokenResponse` if there are too
        many."""
        status = head.status
        if status >= 200 or status == 101:
            return True
        self._count += 1
        if self._count > self._limit:
            raise BrokenResponse(f"more than {self._limit} interim responses")
        if on_interim is not None:
            on_interim(head)
        return False

    def end(self) -> None:
        """The wait is over."""
        self.waiting = False
        self._line.deadline = self._outer
