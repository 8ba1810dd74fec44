"""`Pair` and `Way`: the state of one relay, and of each of its two directions. `relay_engine.py` moves the bytes."""

import errno
import math
from collections.abc import Sequence
from typing import Any, Protocol

from muxwsgi.wire.lifeline import Lifeline
from muxwsgi.wire.throttle import Throttle

__all__ = ["Pair", "Way"]


class Ends(Protocol):
    """The part of the engine that a pair uses."""

    def end(self, pair: "Pair", error: BaseException) -> None: ...


class Owner(Protocol):
    """Hears of the end of a pair for which no greenlet waits."""

    def end(self, pair: "Pair") -> None:
        """Called in a greenlet. Must not wait."""


class Way:
    """One direction of a pair.

    moved       bytes that the target's kernel took
    ended       the source has ended
    done        its end was passed on, or the target has failed
    waits       for the next tick of the throttles
    """

    __slots__ = (
        "done", "ended", "full", "held", "moved", "offset", "other", "pair", "piped", "pipe_in", "pipe_out", "queued", "readable",
        "source", "target", "throttles", "waits", "whole", "writable",
    )  # fmt: skip

    def __init__(self, source: int, target: int, whole: bool, ahead: bytes | None, throttles: Sequence[Throttle]) -> None:
        """`whole`: a read that gets less than it asked for never shows that nothing is left. `ahead` is sent first."""
        self.pair: Any = None
        self.other: Any = None
        self.source = source
        self.target = target
        self.whole = whole
        self.held = ahead or None
        self.throttles = tuple(throttles) or None
        self.offset = 0
        self.pipe_in = self.pipe_out = -1
        self.piped = 0
        self.full = 0
        self.moved = 0
        self.readable = self.writable = self.ended = self.done = self.queued = self.waits = False


class Pair:
    """Two descriptors between which bytes are relayed.

    error       what ended it; None for a regular end, and before the end
    ended       whether it is over
    """

    __slots__ = (
        "_engine", "active_at", "ended", "error", "far_line", "fin_timeout", "give_up", "idle_timeout", "left", "line", "noted_left",
        "noted_right", "owner", "right", "under_way", "waiter",
    )  # fmt: skip

    def __init__(self, engine: Ends, left: Way, right: Way, line: Lifeline | None, far_line: Lifeline | None) -> None:
        self._engine = engine
        self.left = left
        self.right = right
        self.line = line
        self.far_line = far_line
        self.waiter: Any = None
        self.owner: Owner | None = None
        self.error: BaseException | None = None
        self.ended = False
        self.idle_timeout = self.fin_timeout = self.give_up = math.inf
        self.active_at = 0.0
        self.under_way = 0
        self.noted_left = self.noted_right = 0

    @property
    def half_closed(self) -> bool:
        """Whether one side has ended."""
        return bool(self.left.ended or self.right.ended)

    def fail(self, error: BaseException) -> None:
        """End it with `error`. Any greenlet, and any thread, may call this."""
        self._engine.end(self, error)

    def closing(self) -> None:
        """One of its descriptors is closed next."""
        self._engine.end(self, OSError(errno.EBADF, "the connection was closed by another greenlet"))

    def release(self) -> None:
        """It was told that it is over: break its circles of references."""
        for way in (self.left, self.right):
            way.pair = way.other = None

    def note(self) -> None:
        """Count what has moved since the last call in both connections."""
        left, right = self.left.moved - self.noted_left, self.right.moved - self.noted_right
        self.noted_left += left
        self.noted_right += right
        _count(self.line, left, right)
        _count(self.far_line, right, left)


def _count(line: Lifeline | None, received: int, sent: int) -> None:
    top: Any = None if line is None else line.top
    if top is not None:
        top.bytes_received += received
        top.bytes_sent += sent
