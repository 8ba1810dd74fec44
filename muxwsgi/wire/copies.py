"""Copies between two streams, both ways at once, by two greenlets. For all that the relay engine cannot move: TLS, memory, hooks."""

import errno
import socket as socket_module
from collections.abc import Sequence
from time import monotonic
from typing import Protocol

import gevent

from muxwsgi.errors import Cut, Expired
from muxwsgi.wire.throttle import TICK, Throttle

__all__ = ["BLOCK", "Copies", "Side", "Stream", "Truncated"]

#: Bytes that a copy between two streams reads at once. Allocated only when there is something to read, so an idle copy holds no buffer.
BLOCK = 65536


class Stream(Protocol):
    """The methods for copying."""

    def recv(self, n: int, /) -> bytes: ...
    def sendall(self, data: bytes, /) -> None: ...
    def shutdown(self, how: int, /) -> None: ...


class Side(Stream, Protocol):
    """The methods that a relay uses of either side: see `Connection`."""

    @property
    def truncated(self) -> bool: ...
    @property
    def bytes_sent(self) -> int: ...
    @property
    def bytes_unacknowledged(self) -> int: ...
    def cut(self, grace: float, /) -> None: ...


class Truncated(ConnectionResetError):
    """A stream has ended without a proper end: TLS without close_notify."""

    def __init__(self) -> None:
        super().__init__(errno.ECONNRESET, "the peer ended TLS without close_notify")


class _Direction:
    """One of the two ways."""

    __slots__ = ("_source", "_target", "count", "_throttles", "ended", "failure", "moved_at")

    def __init__(self, source: Side, target: Side, throttles: Sequence[Throttle]) -> None:
        self._source = source
        self._target = target
        self._throttles = throttles
        self.count = 0
        self.moved_at = 0.0  # `time.monotonic()` of the last byte
        self.ended = False  # whether the source has ended
        self.failure: BaseException | None = None

    def copy(self) -> None:
        # The next block is read when the last one is sent, which is enough back-pressure.
        try:
            while data := self._source.recv(self._most()):
                self.moved_at = monotonic()
                for throttle in self._throttles:
                    throttle.took(len(data))
                self._target.sendall(data)
                self.count += len(data)
                self.moved_at = monotonic()
            if self._source.truncated:
                raise Truncated
            self.ended = True
            self.moved_at = monotonic()
            self._target.shutdown(socket_module.SHUT_WR)
        except Cut:
            raise
        except BaseException as failure:  # reported by the greenlet that waits, once
            self.failure = failure

    def _most(self) -> int:
        """How many bytes may be read now. Waits for some."""
        while True:
            most = min([BLOCK, *(throttle.allowed(monotonic()) for throttle in self._throttles)])
            if most > 0:
                return most
            gevent.sleep(TICK)


class Copies:
    """Copies from `left` to `right` and back.

    from_left, from_right   bytes that were sent
    half_closed             whether one side has ended
    """

    def __init__(self, left: Side, right: Side, throttles: tuple[Sequence[Throttle], Sequence[Throttle]]) -> None:
        self._left = left
        self._right = right
        self._ways = _Direction(left, right, throttles[0]), _Direction(right, left, throttles[1])

    @property
    def from_left(self) -> int:
        return self._ways[0].count

    @property
    def from_right(self) -> int:
        return self._ways[1].count

    @property
    def half_closed(self) -> bool:
        return self._ways[0].ended or self._ways[1].ended

    def run(self, idle_timeout: float | None, fin_timeout: float | None) -> OSError | None:
        """Copy until both ways have ended, or until an error or a timeout, which is returned. The greenlets have ended then, after a kill
        too. Raises errors that are not of a connection."""
        running = [gevent.spawn(way.copy) for way in self._ways]
        try:
            return self._wait(running, idle_timeout, fin_timeout)
        finally:
            # Both copies may still wait, on streams that the caller goes on using or closes next.
            gevent.killall([greenlet for greenlet in running if not greenlet.dead], Cut)

    def _wait(
        self, running: "list[gevent.Greenlet[[], None]]", idle_timeout: float | None, fin_timeout: float | None
    ) -> OSError | None:
        active_at = monotonic()
        before = self._left.bytes_sent + self._right.bytes_sent
        under_way = (0, 0, 0)
        while True:
            limit = idle_timeout
            if fin_timeout is not None and self.half_closed:
                limit = fin_timeout if limit is None else min(limit, fin_timeout)
            wait = None if limit is None else max(active_at + limit - monotonic(), 0.001)
            ended = gevent.wait(running, timeout=wait, count=1)
            running = [greenlet for greenlet in running if not greenlet.dead]
            error = _failure(self._ways)
            if error is not None or not running:
                return error
            active_at = max(active_at, self._ways[0].moved_at, self._ways[1].moved_at)
            if limit is None or ended or monotonic() - active_at < limit:
                continue
            # What is being sent, and what the kernel still has of what was sent, may be moving, however slowly.
            half_sent = self._left.bytes_sent + self._right.bytes_sent - before - self.from_left - self.from_right
            now_under_way = (half_sent, self._left.bytes_unacknowledged, self._right.bytes_unacknowledged)
            if now_under_way == under_way:
                silence = "one side has ended, and no byte came from the other" if self.half_closed else "no byte in either direction"
                return Expired(f"{silence} for {limit:g} s")
            under_way = now_under_way
            active_at = monotonic()


def _failure(directions: tuple[_Direction, _Direction]) -> OSError | None:
    for direction, other in (directions, directions[::-1]):
        failure = direction.failure
        if isinstance(failure, OSError):
            # The end could not be passed on because the target is closed already. If it was closed before its own end, the other direction
            # has failed too.
            if direction.ended and (other.ended or failure.errno == errno.ENOTCONN):
                continue
            return failure
        if failure is not None:
            raise failure
    return None
