"""What is turned away at the door, and why: counts of all, and a line in the error log for the first of each kind in a minute."""

import logging
from collections import Counter
from collections.abc import Callable
from time import monotonic

from muxwsgi.mux.looks_like import looks_like
from muxwsgi.mux.mux import Decision, Reason
from muxwsgi.mux.route import Route
from muxwsgi.names import address_text
from muxwsgi.wire.connection import Connection

__all__ = ["Throttle", "TurnedAway"]

log = logging.getLogger("muxwsgi.error")

#: First bytes that are looked at for the log.
_LOOK = 128

#: What an operator can do about it.
_ADVICE = {
    "TLS": "TLS on a port without TLS: use --certfile here, or http:// there",
    "a PROXY protocol header": "a PROXY protocol header: switch it off in the load balancer",
}


class Throttle:
    """Lets through `most` of each kind in any `seconds`, and counts the others."""

    def __init__(self, most: int = 10, seconds: float = 60.0, clock: Callable[[], float] = monotonic) -> None:
        self._most = most
        self._seconds = seconds
        self._clock = clock
        self._kinds: dict[str, tuple[float, int, int]] = {}  # kind -> begin of its period, let through in it, held back since

    def admit(self, kind: str) -> int | None:
        """How many of `kind` were held back before this one, which is let through; None where it is held back too."""
        now = self._clock()
        begin, passed, held = self._kinds.get(kind, (now, 0, 0))
        if now - begin >= self._seconds:
            begin, passed = now, 0
        if passed >= self._most:
            self._kinds[kind] = (begin, passed, held + 1)
            return None
        self._kinds[kind] = (begin, passed + 1, 0)
        return held


class TurnedAway:
    """Told by muxes and engines about connections and requests that nobody serves.

    The kinds are `unmatched` (no route wanted the first bytes), `silent` and `ended` (none came), `drained` (none had come at shutdown),
    `limit` (a route was at its limit), `handshake` (TLS failed) and `refused` (a request got a 4xx or 5xx from the HTTP engine).

    counts      of each kind since the start
    """

    def __init__(self, throttle: Throttle | None = None) -> None:
        self.counts: Counter[str] = Counter()
        self._throttle = throttle or Throttle()
        self._listeners: list[Callable[[str, Connection], None]] = []

    def subscribe(self, listener: Callable[[str, Connection], None]) -> None:
        """Have `listener(kind, connection)` called each time, before the line is written. It neither waits nor raises."""
        self._listeners.append(listener)

    # Called by muxes and engines

    def unserved(self, connection: Connection, decision: Decision) -> None:
        """A mux found no route (`Mux.on_unserved`). The first bytes are still there."""
        if decision.reason is not Reason.UNMATCHED:
            text = "closed: it has not sent a byte in time" if decision.reason is Reason.SILENT else None
            self._note(decision.reason.value, connection, text)
            return
        try:
            data = connection.peek_beyond(0, _LOOK)
        except OSError:
            data = b""
        finally:
            connection.settle()
        found = looks_like(data)
        inside = " (inside of TLS)" if connection.tls is not None else ""
        self._note("unmatched", connection, f"closed: no route for what it sends: {found if inside else _ADVICE.get(found, found)}{inside}")

    def limited(self, connection: Connection, route: Route) -> None:
        """A route was at its limit (`Mux.on_refusal`)."""
        self._note("limit", connection, f"closed: {route.name} serves {route.limit} connections already, which is its limit", route.name)

    def refused(self, connection: Connection, status: int, reason: str) -> None:
        """An engine refused a request (`HTTP1.on_reject`)."""
        self._note("refused", connection, f"its request was refused: {status}: {reason}", str(status))

    def handshake_failed(self, connection: Connection, error: Exception) -> None:
        """TLS with a client failed."""
        self._note("handshake", connection, f"closed: {getattr(error, 'strerror', None) or error}")

    def _note(self, kind: str, connection: Connection, text: str | None, detail: str = "") -> None:
        self.counts[kind] += 1
        for listener in self._listeners:
            listener(kind, connection)
        if text is None or not log.isEnabledFor(logging.INFO):
            return
        before = self._throttle.admit(f"{kind} {detail}")
        if before is not None:
            more = f" ({before} more like it since the last line)" if before else ""
            log.info("connection %d from %s %s%s", connection.id, address_text(connection.client), text, more)
