"""Copies between two streams, both ways at once, for tunnels and forwarders.

It uses `recv`, `sendall` and `shutdown`, and does not interpret bytes. After a regular end of both sides it leaves the streams open, for
the code that opened them. After an error it cuts both, so that each peer can tell that its stream is incomplete.
"""

import errno
import socket as socket_module
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Protocol

import gevent

from muxwsgi.errors import Cut, Expired
from muxwsgi.wire.transport import CUT_GRACE

__all__ = ["BLOCK", "Relayed", "Side", "Stream", "Truncated", "cut_both", "relay", "relay_to_end"]

#: Bytes read at once. Allocated only when there is something to read, so an idle tunnel holds no buffer.
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


@dataclass(frozen=True, slots=True)
class Relayed:
    """The result of a relay.

    from_left     bytes of `left` that were sent to `right`
    from_right    bytes of `right` that were sent to `left`
    error         the `OSError` that ended it before both sides had ended, `Expired` when idle; None for a regular end. `relay_to_end` also
                  has a kill here, such as `Cut`
    """

    from_left: int
    from_right: int
    error: BaseException | None


class Peer(Side, Protocol):
    """The other side of `relay_to_end`, which closes it."""

    def finish(self, cut: bool = False, /) -> None: ...


class _Direction:
    """One of the two ways."""

    __slots__ = ("_source", "_target", "count", "ended", "failure", "moved_at")

    def __init__(self, source: Side, target: Side) -> None:
        self._source = source
        self._target = target
        self.count = 0
        self.moved_at = 0.0  # `time.monotonic()` of the last byte
        self.ended = False  # whether the source has ended
        self.failure: BaseException | None = None

    def copy(self) -> None:
        # The next block is read when the last one is sent, which is enough back-pressure.
        try:
            while data := self._source.recv(BLOCK):
                self.moved_at = monotonic()
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


def relay(
    left: Side, right: Side, *, idle_timeout: float | None = None, fin_timeout: float | None = None, cut: bool = True
) -> Relayed:
    """Copy from `left` to `right` and back until both have ended, or one fails.

    The end of one direction is passed on (SHUT_WR, under TLS close_notify too) and the other goes on:
    half-close works through it. An error in either direction ends both.

    `idle_timeout` are the seconds without a byte either way after which it ends. Once one side has ended, `fin_timeout` replaces it,
    because the peer of the other side may be gone.

    Every other end (an error, a TLS stream without close_notify, a timeout, a kill) cuts both streams, see `Connection.cut`. With `cut`
    False that is left to the caller, for example to send something before.

    Connection errors are in the result, not raised. When this has returned or raised, its greenlets have ended, after a kill too.
    """
    to_right, to_left = _Direction(left, right), _Direction(right, left)
    running = [gevent.spawn(to_right.copy), gevent.spawn(to_left.copy)]
    error: OSError | None = None
    regular = False
    try:
        try:
            error = _wait(running, to_right, to_left, left, right, idle_timeout, fin_timeout)
            regular = error is None
        finally:
            # Both copies may still wait, on streams that the caller goes on using or closes next.
            gevent.killall([greenlet for greenlet in running if not greenlet.dead], Cut)
    except BaseException as raised:
        if cut:
            cut_both(left, right, CUT_GRACE if isinstance(raised, Exception) else 0)  # a kill does not wait for peers
        raise
    if cut and not regular:
        cut_both(left, right)
    if isinstance(error, Truncated) and (to_right.ended or to_left.ended):
        error = None  # it had been told the end of the other side, and many then close without close_notify
    return Relayed(to_right.count, to_left.count, error)


def relay_to_end(
    connection: Side,
    upstream: Peer,
    ended: Callable[[Relayed], None],
    *,
    idle_timeout: float | None = None,
    fin_timeout: float | None = None,
) -> None:
    """Relay between `connection` and `upstream` as the last thing that a handler does with `connection`. It closes `upstream`.

    `ended` is called once, whatever ends the relay, and must not wait. It may be called after this has returned: a plain relay goes on
    without the greenlet that has begun it. The timeouts are as in `relay`. Raises what ends the greenlet, such as `Cut`.
    """
    before = upstream.bytes_sent, connection.bytes_sent
    try:
        result = relay(connection, upstream, idle_timeout=idle_timeout, fin_timeout=fin_timeout)
    except BaseException as error:
        ended(Relayed(upstream.bytes_sent - before[0], connection.bytes_sent - before[1], error))
        raise
    else:
        ended(result)
    finally:
        upstream.finish()


def _wait(
    running: "list[gevent.Greenlet[[], None]]",
    to_right: _Direction,
    to_left: _Direction,
    left: Side,
    right: Side,
    idle_timeout: float | None,
    fin_timeout: float | None,
) -> OSError | None:
    """Wait until both ways have ended, or until an error or a timeout."""
    active_at = monotonic()
    before = left.bytes_sent + right.bytes_sent
    under_way = (0, 0, 0)
    while True:
        limit = idle_timeout
        if fin_timeout is not None and (to_right.ended or to_left.ended):
            limit = fin_timeout if limit is None else min(limit, fin_timeout)
        wait = None if limit is None else max(active_at + limit - monotonic(), 0.001)
        ended = gevent.wait(running, timeout=wait, count=1)
        running = [greenlet for greenlet in running if not greenlet.dead]
        error = _failure((to_right, to_left))
        if error is not None or not running:
            return error
        active_at = max(active_at, to_right.moved_at, to_left.moved_at)
        if limit is None or ended or monotonic() - active_at < limit:
            continue
        # What is being sent, and what the kernel still has of what was sent, may be moving, however slowly.
        half_sent = left.bytes_sent + right.bytes_sent - before - to_right.count - to_left.count
        now_under_way = (half_sent, left.bytes_unacknowledged, right.bytes_unacknowledged)
        if now_under_way == under_way:
            half_closed = to_right.ended or to_left.ended
            silence = "one side has ended, and no byte came from the other" if half_closed else "no byte in either direction"
            return Expired(f"{silence} for {limit:g} s")
        under_way = now_under_way
        active_at = monotonic()


def cut_both(left: Side, right: Side, grace: float = CUT_GRACE) -> None:
    """Cut both at once, so that neither waits for the other's peer."""
    cutting = gevent.spawn(left.cut, grace) if grace else None
    try:
        right.cut(grace)
        if cutting is not None:
            cutting.join()
    finally:
        if cutting is not None:
            cutting.kill()
        left.cut(0)  # nothing where it is done
        right.cut(0)


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
