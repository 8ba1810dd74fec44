"""Relays between two streams, both ways at once, for tunnels and forwarders.

Two plain connections are relayed by the `Engine` (`relay_engine.py`), without a greenlet. Everything else (TLS, streams in memory, hooks
that see the bytes) is copied by two greenlets (`copies.py`). Both do the same:

- The end of one direction is passed on, and the other goes on. After a regular end of both sides the streams stay open, for the code that
  opened them.
- Every other end cuts both, so that each peer can tell that its stream is incomplete.
"""

import logging
import socket as socket_module
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gevent

from muxwsgi.wire.connection import Connection
from muxwsgi.wire.copies import Copies, Side, Truncated
from muxwsgi.wire.ending import MANY_BYTES, limit_unread_of
from muxwsgi.wire.plain_socket import PlainSocket
from muxwsgi.wire.ready import unacknowledged
from muxwsgi.wire.relay_engine import engine_here
from muxwsgi.wire.relay_pair import Pair, Way
from muxwsgi.wire.syscalls import close_descriptor
from muxwsgi.wire.throttle import Throttle
from muxwsgi.wire.transport import CUT_GRACE, ClosedTransport, SocketTransport

__all__ = ["Relayed", "Throttles", "cut_both", "relay", "relay_to_end"]

log = logging.getLogger("muxwsgi.error")

#: What slows the bytes that come from the left, and those that come from the right.
Throttles = tuple[Sequence[Throttle], Sequence[Throttle]]

_NONE: Throttles = ((), ())


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


def relay(
    left: Side,
    right: Side,
    *,
    idle_timeout: float | None = None,
    fin_timeout: float | None = None,
    throttles: Throttles = _NONE,
    cut: bool = True,
) -> Relayed:
    """Copy from `left` to `right` and back until both have ended, or one fails.

    The end of one direction is passed on (SHUT_WR, under TLS close_notify too) and the other goes on:
    half-close works through it. An error in either direction ends both.

    `idle_timeout` are the seconds without a byte either way after which it ends, up to about a second late. Once one side has ended,
    `fin_timeout` replaces it, because the peer of the other side may be gone.

    Every other end (an error, a TLS stream without close_notify, a timeout, a kill) cuts both streams, see `Connection.cut`. With `cut`
    False that is left to the caller, for example to send something before.

    Connection errors are in the result, not raised. When this has returned or raised, nothing reads or writes any more, after a kill too.
    """
    pair = _begin(left, right, None, idle_timeout, fin_timeout, throttles)
    copies = None if pair is not None else Copies(left, right, throttles)
    error: BaseException | None
    try:
        if copies is not None:
            error = copies.run(idle_timeout, fin_timeout)
        else:
            assert pair is not None
            error = _wait_for(pair)
    except BaseException as raised:
        if cut:
            cut_both(left, right, CUT_GRACE if isinstance(raised, Exception) else 0)  # a kill does not wait for peers
        raise
    if cut and error is not None:
        cut_both(left, right)
    if copies is None:
        assert pair is not None
        return Relayed(pair.left.moved, pair.right.moved, error)
    if isinstance(error, Truncated) and copies.half_closed:
        error = None  # it had been told the end of the other side, and many then close without close_notify
    return Relayed(copies.from_left, copies.from_right, error)


def relay_to_end(
    connection: Connection,
    upstream: Connection,
    ended: Callable[[Relayed], None],
    *,
    idle_timeout: float | None = None,
    fin_timeout: float | None = None,
    throttles: Throttles = _NONE,
) -> None:
    """Relay between `connection` and `upstream` as the last thing that a handler does with `connection`. It closes `upstream`.

    `ended` is called once, whatever ends the relay, and must not wait. It may be called after this has returned: where all callers allow it
    (`Route.may_leave`), a plain relay goes on without the greenlet that has begun it. The other arguments are as in `relay`. Raises what
    ends the greenlet, such as `Cut`.
    """
    line = connection.lifeline
    if line.may_leave and _begin(connection, upstream, _Leaving(connection, ended), idle_timeout, fin_timeout, throttles) is not None:
        line.afterwards = []
        return
    before = upstream.bytes_sent, connection.bytes_sent
    try:
        result = relay(connection, upstream, idle_timeout=idle_timeout, fin_timeout=fin_timeout, throttles=throttles)
    except BaseException as error:
        ended(Relayed(upstream.bytes_sent - before[0], connection.bytes_sent - before[1], error))
        raise
    else:
        ended(result)
    finally:
        upstream.finish()


def _begin(
    left: Side, right: Side, leaving: "_Leaving | None", idle_timeout: float | None, fin_timeout: float | None, throttles: Throttles
) -> Pair | None:
    """Give two plain connections to the engine. None if it cannot have them."""
    here, there = _transport_of(left), _transport_of(right)
    if here is None or there is None:
        return None
    assert isinstance(left, Connection) and isinstance(right, Connection)
    near, far = here.lend(), there.lend()
    if near < 0 or far < 0 or near == far:
        return None
    left.lifeline.reader.check_thread()
    from_left = Way(near, far, here.is_unix, bytes(left._ahead or b""), throttles[0])
    from_right = Way(far, near, there.is_unix, bytes(right._ahead or b""), throttles[1])
    far_line = right.lifeline if leaving is None else None
    try:
        pair = engine_here().add(from_left, from_right, left.lifeline, far_line, idle_timeout=idle_timeout, fin_timeout=fin_timeout)
    except OSError as error:  # for want of descriptors or kernel memory: two greenlets need neither
        log.debug("a relay goes on without the engine: %s", error.strerror or error)
        return None
    left._ahead = right._ahead = None
    if leaving is not None:
        leaving.follow(pair, right, there)
    return pair


def _transport_of(side: Side) -> SocketTransport | None:
    """The transport of a plain connection whose bytes no greenlet has to see."""
    if not isinstance(side, Connection) or not isinstance(side._transport, SocketTransport):
        return None
    own = side._lowest()._own
    return side._transport if own is None or own.pump is None else None


def _wait_for(pair: Pair) -> BaseException | None:
    """Wait for the end of `pair` in this greenlet. What ended it."""
    lines = [line for line in (pair.line, pair.far_line) if line is not None]
    limits = [line.idle_timeout for line in lines]
    for line in lines:
        line.idle_timeout = None  # that of the pair counts
    try:
        engine_here().wait(pair)
    finally:
        for line, limit in zip(lines, limits, strict=True):
            line.idle_timeout = limit
    return pair.error


class _Leaving:
    """The relay of a connection whose greenlet has ended: what is done when the relay is over. Of the upstream there is only the descriptor
    left, because its objects are as large as all the rest."""

    __slots__ = ("_connection", "_ended", "_is_unix", "_upstream")

    def __init__(self, connection: Connection, ended: Callable[[Relayed], None]) -> None:
        self._connection = connection
        self._ended = ended
        self._is_unix = False
        self._upstream = -1

    def follow(self, pair: Pair, upstream: Connection, transport: SocketTransport) -> None:
        """Take the descriptor of `upstream` over, and be called at the end of `pair`."""
        upstream._transport = ClosedTransport(upstream.lifeline, "the socket is relayed")
        upstream.lifeline.top = None
        self._upstream = transport.release_descriptor()
        self._is_unix = transport.is_unix
        pair.owner = self
        self._connection.lifeline.idle_timeout = None  # that of the pair counts

    def end(self, pair: Pair) -> None:
        """`pair` is over. Called by the engine, in a greenlet. Does not wait."""
        error = pair.error
        if isinstance(error, Exception) and self._is_under_way():
            gevent.spawn(self._cut, pair, CUT_GRACE)
            return
        if error is not None:
            self._cut(pair, 0)
            return
        try:
            if pair.left.moved > MANY_BYTES and not self._is_unix:
                with self._socket() as sock:
                    limit_unread_of(sock)
            else:
                close_descriptor(self._upstream)
        finally:
            self._tell(pair)

    def _is_under_way(self) -> bool:
        return bool(unacknowledged(self._upstream) or self._connection.bytes_unacknowledged)

    def _cut(self, pair: Pair, grace: float) -> None:
        address = self._connection.server
        try:
            with Connection.from_socket(self._socket(), client=address, server=address) as upstream:
                cut_both(self._connection, upstream, grace)
        finally:
            self._tell(pair)

    def _socket(self) -> socket_module.socket:
        return PlainSocket(fileno=self._upstream)

    def _tell(self, pair: Pair) -> None:
        """Do what the greenlet would have done after the relay."""
        line = self._connection.lifeline
        afterwards, line.afterwards = line.afterwards or [], []
        error = pair.error
        try:
            self._ended(Relayed(pair.left.moved, pair.right.moved, error))
        except Exception:
            log.exception("%r: the end of its relay cannot be told", self._connection)
        if isinstance(error, OSError):
            error = None  # as in a greenlet: it was the handler's to see
        for entry in afterwards:
            try:
                _tell_one(entry, self._connection, error)
            except Exception:  # the others count connections
                log.exception("%r: its end is incomplete", self._connection)


def _tell_one(entry: Any, connection: Connection, error: BaseException | None) -> None:
    """Tell an entry of `Lifeline.afterwards`, with `error` as the exception that is being handled: subscribers of events look there."""
    owner, *more = entry if type(entry) is tuple else (entry,)
    if error is None:
        owner.over(connection, None, *more)
        return
    try:
        raise error
    except BaseException:
        owner.over(connection, error, *more)


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
