"""`Route`: a matcher, the handler that it leads to, and limits. A mux chooses between routes."""

from collections.abc import Callable
from dataclasses import field, replace
from typing import TYPE_CHECKING

from muxwsgi.mux.match import check_answers
from muxwsgi.mux.matchers import Matcher
from muxwsgi.mux.quota import Quota, quota_of
from muxwsgi.mux.slots import Slots
from muxwsgi.record import record

if TYPE_CHECKING:  # plugins import this module, and need no gevent for it
    from muxwsgi.wire.connection import Connection

__all__ = ["FIRST", "LAST", "Condition", "Handler", "Route"]

#: Priorities of routes that no other route may come before, or after.
FIRST, LAST = 1 << 30, -(1 << 30)

#: What has to hold of a connection beside its first bytes. `str()` of it is for listings.
Condition = Callable[["Connection"], bool]

#: Owns the connection until it returns. The caller of the outermost mux closes it then.
Handler = Callable[["Connection"], None]


@record()
class Route:
    """One handler that a connection can go to, and when it does.

    name            shown in traces, listings and logs; unique within a mux
    match           asked about the first bytes
    handler         called with the connection when this route is chosen
    alpn            ALPN protocol ids that this route owns: a TLS connection that agreed on one is decided
                    without a look at its bytes
    priority        routes with a higher one are asked first; equal ones in the order given
    limit           connections served at once in this process, None for no limit
    limit_per_client        connections of one client address at once in this process (of IPv6: of 64 bits), None for no limit
    rate, rate_per_client   new connections a second in this process, of all clients and of one; None for no limit
    limit_wait      seconds that a connection above `limit` or a rate waits for its turn; 0 refuses (closes) it at once
    idle_timeout    seconds without a byte in either direction until the handler's wait raises `Expired`; None
                    leaves it as it is
    takes_silence   also gets connections whose client waits for the server to speak first
    takes_late      also gets streams that could still become its protocol, and no other's, when their time is up or
                    they end, and which would be closed otherwise: to tell the client
    is_stream       whether the handler's end is an event, `stream`: False for HTTP and TLS, which have events of their own
    when            what has to hold of the connection, asked once, before its first bytes; None for nothing. See `ConditionalMux`
    slots           the places of the connections that are served
    may_leave       whether the handler may return while its connection goes on (`wire.relay.relay_to_end`). It has an attribute of this
                    name then
    """

    name: str
    match: Matcher
    handler: Handler
    alpn: tuple[str, ...] = ()
    priority: int = 0
    limit: int | None = None
    limit_per_client: int | None = None
    rate: float | None = None
    rate_per_client: float | None = None
    limit_wait: float = 0.0
    idle_timeout: float | None = None
    takes_silence: bool = False
    takes_late: bool = False
    is_stream: bool = True
    when: Condition | None = None
    slots: Slots = field(init=False, repr=False, compare=False)
    may_leave: bool = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("a route needs a name")
        if isinstance(self.alpn, str):
            raise ValueError(f"route {self.name!r}: alpn is a sequence of ids, as in alpn=({self.alpn!r},)")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"route {self.name!r}: limit must be at least 1, or None for no limit")
        if self.limit_wait < 0:
            raise ValueError(f"route {self.name!r}: limit_wait cannot be negative")
        if self.idle_timeout is not None and self.idle_timeout <= 0:
            raise ValueError(
                f"route {self.name!r}: idle_timeout must be more than 0 seconds, or None for no limit"
            )
        try:
            check_answers(self.match)
        except ValueError as error:
            raise ValueError(f"route {self.name!r}: {error}") from None
        object.__setattr__(self, "alpn", tuple(self.alpn))
        object.__setattr__(self, "slots", Slots(self.limit, self._quota()))
        object.__setattr__(self, "may_leave", bool(getattr(self.handler, "may_leave", False)))

    def _quota(self) -> Quota | None:
        try:
            return quota_of(self.limit_per_client, self.rate, self.rate_per_client)
        except ValueError as error:
            raise ValueError(f"route {self.name!r}: {error}") from None

    @property
    def limits(self) -> tuple[float | None, ...]:
        """All of them, for a comparison."""
        return self.limit, self.limit_per_client, self.rate, self.rate_per_client

    def behind(self, admit: Handler) -> "Route":
        """The same route with the same slots, for connections that `admit` lets pass: it raises `PeerError` for the others."""
        handler = self.handler

        def admitted(connection: "Connection") -> None:
            admit(connection)
            handler(connection)

        setattr(admitted, "may_leave", self.may_leave)  # noqa: B010  # mypy knows no attributes of functions
        return replace(self, handler=admitted).counted_in(self.slots)

    def counted_in(self, slots: Slots) -> "Route":
        """The same route, whose connections take places in `slots`."""
        route = replace(self)
        object.__setattr__(route, "slots", slots)
        return route
