"""`forward`: passes a connection on to another server, first bytes included. The usual fallback and silence route (SSH speaks first).

`muxwsgi/upstreams/` chooses the server and connects. The deadlines of the relay are HAProxy's `timeout tunnel` and `timeout client-fin`.
"""

import logging
from typing import TYPE_CHECKING

from muxwsgi.dial.errors import DialError
from muxwsgi.errors import OperatorError
from muxwsgi.mux import matchers
from muxwsgi.mux.route import Route
from muxwsgi.upstreams.chosen import ByFunction, Chosen, Only
from muxwsgi.upstreams.upstreams import Upstreams
from muxwsgi.wire.relay import Relayed, Throttles, relay_to_end
from muxwsgi.wire.throttle import Throttle

if TYPE_CHECKING:
    from muxwsgi.upstreams.upstream import Session
    from muxwsgi.wire.connection import Connection

__all__ = ["Forward", "forward_route"]

_log = logging.getLogger("muxwsgi.forward")

#: Seconds without a byte either way. An hour is what HAProxy's documentation suggests for tunnels; SSH's own
#: keep-alives come sooner.
IDLE_TIMEOUT = 3600.0

#: The same once one side has ended (HAProxy's `timeout client-fin`): the other one may wait for a peer that is gone.
FIN_TIMEOUT = 30.0


class Forward:
    """A handler that connects to a server of an upstream, and relays both ways until both have ended."""

    may_leave = True  # see `Route`

    def __init__(self, chosen: Chosen) -> None:
        """`chosen` says for each connection which upstream it is for."""
        self.chosen = chosen
        self._rates: tuple[float | None, float | None] = (None, None)
        self._totals: Throttles = ((), ())

    def throttled(
        self, upload: float | None, download: float | None, total_upload: float | None, total_download: float | None
    ) -> "Forward":
        """The same handler with so many bytes a second, of one connection and of all, from the client and to it. None for no limit. Raises
        `ValueError` for one that is not more than 0."""
        slower = Forward(self.chosen)
        slower._rates = upload, download
        slower._totals = _throttles(total_upload), _throttles(total_download)
        slower._throttles()  # raises for a wrong rate
        return slower

    def _throttles(self) -> Throttles:
        upload, download = self._rates
        return (*_throttles(upload), *self._totals[0]), (*_throttles(download), *self._totals[1])

    def __repr__(self) -> str:
        return f"<forward to {self}>"

    def __str__(self) -> str:
        return str(self.chosen)

    def __call__(self, connection: "Connection") -> None:
        """Where no server can be reached, a warning says in which phase, and the connection is left to be closed."""
        try:
            session = self.chosen(connection).open(connection)
        except DialError as error:
            failure = f"{error.phase}: {error.reason}"
            connection.trace.append(f"forward to {self}: {failure}")
            _log.warning("connection %d from %s cannot be forwarded to %s: %s", connection.id, connection.client, self, failure)
            return
        assert session.connection is not None
        forwarded = _Forwarded(self, connection, session)
        idle, throttles = connection.idle_timeout, self._throttles()
        relay_to_end(connection, session.connection, forwarded, idle_timeout=idle, fin_timeout=FIN_TIMEOUT, throttles=throttles)
        if connection.lifeline.afterwards is not None:
            session.leave_greenlet(connection.lifeline)


class _Forwarded:
    """What is done when the relay of a connection is over. An object is smaller than a function with arguments."""

    __slots__ = ("_connection", "_forward", "_session")

    def __init__(self, forward: Forward, connection: "Connection", session: "Session") -> None:
        self._forward = forward
        self._connection = connection
        self._session = session

    def __call__(self, result: Relayed) -> None:
        session = self._session
        session.end()
        title = str(self._forward)
        to = title if session.server.title == title else f"{title}, {session.server}"
        ended = f", ended by {result.error or type(result.error).__name__}" if result.error is not None else ""
        self._connection.trace.append(f"forward to {to}: {result.from_left} bytes there, {result.from_right} back{ended}")


def _throttles(rate: float | None) -> tuple[Throttle, ...]:
    return () if rate is None else (Throttle(rate),)


def forward_route(target: str, upstreams: Upstreams | None = None) -> Route:
    """The route for `forward:TARGET`: HOST:PORT, [ADDRESS]:PORT or unix:PATH; several of them behind commas; the name of an upstream; or
    python:MODULE:FUNCTION. Raises `OperatorError` for anything else."""
    upstreams = Upstreams() if upstreams is None else upstreams
    handler = Forward(_chosen(target, upstreams))
    return Route(f"forward:{handler}", matchers.never, handler, idle_timeout=IDLE_TIMEOUT)


def _chosen(target: str, upstreams: Upstreams) -> Chosen:
    if target.startswith("python:"):
        return ByFunction(target, upstreams)
    try:
        return Only(upstreams.short(target))
    except ValueError:
        pass
    try:
        return Only(upstreams.named(target))
    except OperatorError as error:
        why = f"{error}; " if target and ":" not in target else ""
        raise OperatorError(
            f"forward:{target}: {why}expected forward:HOST:PORT, forward:[ADDRESS]:PORT, forward:unix:PATH, several addresses behind "
            "commas, or the name of an [upstream.NAME]"
        ) from None
