"""Counts connections and requests that are not served. The first of each kind in a minute is logged in the error log."""

import logging
from collections import Counter
from collections.abc import Callable
from time import monotonic

import gevent

from muxwsgi.errors import HandshakeError
from muxwsgi.events import Events, Refusal
from muxwsgi.names import address_text
from muxwsgi.protocols import load, looks_like, names, proxy_header, tls
from muxwsgi.wire.connection import Connection

__all__ = ["Throttle", "TurnedAway", "load_protocols"]

log = logging.getLogger("muxwsgi.error")

#: Number of first bytes that are examined for the log.
_LOOK = 128

#: Advice for the operator.
_ADVICE = {
    tls.PROTOCOL.name: "TLS on a port without TLS: use --certfile here, or http:// there",
    proxy_header.PROTOCOL.name: "a PROXY protocol header: switch it off in the load balancer, or on here (--proxy-protocol)",
}


class Throttle:
    """Admits at most `most` of each kind in `seconds`, and counts the others."""

    def __init__(self, most: int = 10, seconds: float = 60.0, clock: Callable[[], float] = monotonic) -> None:
        self._most = most
        self._seconds = seconds
        self._clock = clock
        self._kinds: dict[str, tuple[float, int, int]] = {}  # kind -> begin of its period, admitted in it, held back since

    def admit(self, kind: str) -> int | None:
        """The number of `kind` that were held back before this one. None if this one is held back too."""
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
    """Subscribes to the `events` of connections and requests that are not served.

    The kinds are those of `Refusal`, and `handshake`: TLS with a client failed. Handshakes and silence inside of a proxy's tunnels are not
    counted, because the connection to the proxy was served.

    counts      of each kind since the start
    """

    def __init__(self, events: Events, throttle: Throttle | None = None) -> None:
        self.counts: Counter[str] = Counter()
        self._throttle = throttle or Throttle()
        events.subscribe(refused=self._refused, handshake=self._handshake)

    def _refused(self, connection: Connection, refusal: Refusal) -> None:
        match refusal.kind:
            case "refused":
                self._note("refused", connection, f"its request was refused: {refusal.status}: {refusal.reason}", str(refusal.status))
            case "limit":
                self._note("limit", connection, f"closed: {refusal.reason}", refusal.route or "")
            case "untrusted":
                self._note("untrusted", connection, f"closed: {refusal.reason}")
            case "unmatched" if connection.tunnel is None:
                self._note("unmatched", connection, _why_unmatched)
            case "silent" if connection.tunnel is None:
                self._note("silent", connection, "closed: it has not sent a byte in time")
            case kind if connection.tunnel is None:
                self._note(kind, connection, None)

    def _handshake(self, connection: Connection, error: OSError | None) -> None:
        if isinstance(error, HandshakeError) and connection.tunnel is None:
            self._note("handshake", connection, f"closed: {error.strerror or error}")

    def _note(self, kind: str, connection: Connection, text: str | Callable[[Connection], str] | None, detail: str = "") -> None:
        """Count it, and log `text` if the throttle admits it. `text` may be a function, which is called only then because it takes time."""
        self.counts[kind] += 1
        if text is None or not log.isEnabledFor(logging.INFO):
            return
        before = self._throttle.admit(f"{kind} {detail}")
        if before is not None:
            more = f" ({before} more like it since the last line)" if before else ""
            text = text(connection) if callable(text) else text
            log.info("connection %d from %s %s%s", connection.id, address_text(connection.client), text, more)


def load_protocols() -> None:
    """Load all protocols, one in each turn of the event loop. Messages name them. They are not loaded before a worker serves, because that
    would be a tenth of its start, and not when a message needs them, because the package on disk may be another release by then."""
    for name in names():
        load(name)
        gevent.sleep()


def _why_unmatched(connection: Connection) -> str:
    """A text for the log about a connection that no route takes. Its first bytes are still there."""
    try:
        data = connection.peek_beyond(0, _LOOK)
    except OSError:
        data = b""
    finally:
        connection.settle()
    found = looks_like(data)
    if connection.tls is not None:
        return f"closed: no route for what it sends: {found} (inside of TLS)"
    return f"closed: no route for what it sends: {_ADVICE.get(found, found)}"
