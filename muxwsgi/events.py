"""`Events`: what happens to connections and requests. All floors report here; logs, counters and dashboards subscribe.

    accepted(connection)            a connection was accepted. No byte of it was read
    decided(connection, decision)   a mux has decided, and has not called the handler. `decision` is a `mux.mux.Decision`. Its `route` is
                                    None where the connection is closed
    refused(connection, refusal)    a connection or a request is not served. `refusal` is a `Refusal`
    handshake(connection, error)    a TLS handshake with a client has ended. `connection` is the one inside TLS, and `error` is None. After
                                    a failure `connection` is the one that TLS began on, and `error` is the exception
    exchange(exchange)              a request was answered or refused. `exchange` is a `http.exchange.Exchange`
    stream(connection, seconds)     a handler other than HTTP and TLS has ended after so many seconds, or an application that had taken the
                                    connection over. `connection.route` is the route's name
    handover(connection, given)     a connection has gone from one worker to another, while a worker is replaced. `given` is True in the
                                    worker that gives it, where no other event of it follows. It is False in the one that takes it,
                                    where this is its first event
    closed(connection, error)       a connection was closed. `error` is the exception that ended it, None without one

A connection is `accepted` and `closed` once, in different processes if there was a `handover`. The other events come in between, as often
as they happen: a TLS connection is `decided` by the outer and by the inner mux, and a tunnel of the proxy is decided again inside.

The greenlet that serves the connection calls the subscribers, in the order in which they subscribed. A subscriber must not wait, because
the client waits with it. It reads what it is given and changes nothing: neither the objects nor the stream. What it raises is logged, and
does not reach the connection or the other subscribers.

Without subscribers an event costs a look at an empty tuple. The types of arguments are those of floors above this module, so they are not
written here.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from muxwsgi.errors import Cut
from muxwsgi.signals import may_be_ctrl_c

__all__ = ["Events", "Refusal", "tell"]

log = logging.getLogger("muxwsgi.error")

_One = Callable[[Any], object]
_Two = Callable[[Any, Any], object]
_F = TypeVar("_F")


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a connection or a request is not served.

    kind        unmatched   no route wanted the first bytes
                silent      no byte came in time
                ended       the client ended the stream before its first byte
                drained     no byte had come when the server was shut down
                limit       the route is at its limit
                untrusted   the peer may not connect to a port with the PROXY protocol
                refused     the HTTP engine answered a request with a 4xx or 5xx, before the application saw it or because of its body
    reason      one line
    route       the name of the route that is at its limit, None for other kinds
    status      the status of a refused request, None for other kinds
    """

    kind: Literal["unmatched", "silent", "ended", "drained", "limit", "untrusted", "refused"]
    reason: str
    route: str | None = None
    status: int | None = None


class Events:
    """The subscribers of each event, in the order in which they subscribed. A server, its muxes and its engines share one object."""

    def __init__(self) -> None:
        self.accepted: tuple[_One, ...] = ()
        self.decided: tuple[_Two, ...] = ()
        self.refused: tuple[_Two, ...] = ()
        self.handshake: tuple[_Two, ...] = ()
        self.exchange: tuple[_One, ...] = ()
        self.stream: tuple[_Two, ...] = ()
        self.handover: tuple[_Two, ...] = ()
        self.closed: tuple[_Two, ...] = ()
        #: A `http.exchange_counts.ExchangeCounts` in which HTTP counts exchanges, None to count none. It costs far less than a subscriber.
        self.counts: Any = None

    def subscribe(
        self,
        *,
        accepted: _One | None = None,
        decided: _Two | None = None,
        refused: _Two | None = None,
        handshake: _Two | None = None,
        exchange: _One | None = None,
        stream: _Two | None = None,
        handover: _Two | None = None,
        closed: _Two | None = None,
    ) -> None:
        """Have each function called from now on, at the event of its name."""
        self.accepted += _those(accepted)
        self.decided += _those(decided)
        self.refused += _those(refused)
        self.handshake += _those(handshake)
        self.exchange += _those(exchange)
        self.stream += _those(stream)
        self.handover += _those(handover)
        self.closed += _those(closed)


def _those(subscriber: _F | None) -> tuple[_F, ...]:
    return () if subscriber is None else (subscriber,)


def tell(subscribers: tuple[Callable[..., object], ...], *arguments: object) -> None:
    """Call each subscriber. Where this may be called often, look first whether there are any."""
    for subscriber in subscribers:
        try:
            subscriber(*arguments)
        except Cut:
            raise
        except BaseException as error:  # SystemExit and GreenletExit too: a subscriber must not end a connection
            log.exception("a subscriber of events failed: %r", subscriber)
            if may_be_ctrl_c(error):
                raise
