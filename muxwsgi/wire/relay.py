"""Copying between two streams, both ways at once: what a tunnel, a forwarder and the pump of `as_socket` are
made of.

It knows streams (`recv`, `sendall`, `shutdown`) and nothing of protocols. It closes neither stream: both stay
with who opened them.
"""

import errno
import socket as socket_module
from dataclasses import dataclass
from typing import Protocol

import gevent

from muxwsgi.errors import Expired

__all__ = ["BLOCK", "Relayed", "Stream", "relay"]

#: Bytes read at once. Allocated only when there is something to read, so an idle tunnel holds no buffer.
BLOCK = 65536


class Stream(Protocol):
    """What is needed of either side."""

    def recv(self, n: int, /) -> bytes: ...
    def sendall(self, data: bytes, /) -> None: ...
    def shutdown(self, how: int, /) -> None: ...


@dataclass(frozen=True, slots=True)
class Relayed:
    """How a relay went.

    forth   bytes from `left` that `right` took
    back    bytes from `right` that `left` took
    error   what ended it before both sides had said their end: an `OSError`, `Expired` when idle; None for a
            regular end
    """

    forth: int
    back: int
    error: OSError | None


class _Direction:
    """One of the two ways."""

    __slots__ = ("_source", "_target", "count", "ended", "failure")

    def __init__(self, source: Stream, target: Stream) -> None:
        self._source = source
        self._target = target
        self.count = 0
        self.ended = False  # whether the source has said its end
        self.failure: Exception | None = None

    def copy(self) -> None:
        # The next block is read when the last one is sent: that is all the back-pressure there needs to be.
        try:
            while data := self._source.recv(BLOCK):
                self._target.sendall(data)
                self.count += len(data)
            self.ended = True
            self._target.shutdown(socket_module.SHUT_WR)
        except Exception as failure:  # reported by the greenlet that waits, once
            self.failure = failure


def relay(left: Stream, right: Stream, *, idle_timeout: float | None = None) -> Relayed:
    """Copy from `left` to `right` and back until both have ended, or one fails.

    The end of one direction is passed on (SHUT_WR, under TLS close_notify too) and the other goes on:
    half-close works through it. An error in either direction ends both. `idle_timeout` are the seconds
    without a byte either way after which it ends, noticed at the latest after twice that time; the deadlines
    of the streams themselves do not see a stall on the other side.

    Connection errors are in the result, not raised. Whatever way this returns or raises, a kill included, no
    greenlet of it is left.
    """
    forth, back = _Direction(left, right), _Direction(right, left)
    running = [gevent.spawn(forth.copy), gevent.spawn(back.copy)]
    error: OSError | None = None
    moved = 0
    try:
        while running and error is None:
            ended = gevent.wait(running, timeout=idle_timeout, count=1)
            running = [greenlet for greenlet in running if not greenlet.dead]
            error = _failure((forth, back))
            if not ended:
                if forth.count + back.count == moved:
                    error = Expired(f"no byte in either direction for {idle_timeout:g} s")
                moved = forth.count + back.count
    finally:
        # Both copies may sit in a wait of their own, on streams that we go on using or close next.
        gevent.killall(running)
    return Relayed(forth.count, back.count, error)


def _failure(directions: tuple[_Direction, _Direction]) -> OSError | None:
    for direction, other in (directions, directions[::-1]):
        failure = direction.failure
        if isinstance(failure, OSError):
            # The end could not be told to who is gone already. Had it gone before its own end, the other direction says so.
            if direction.ended and (other.ended or failure.errno == errno.ENOTCONN):
                continue
            return failure
        if failure is not None:
            raise failure
    return None
