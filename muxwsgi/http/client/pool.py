"""`Pool`: upstream connections that rest between exchanges.

The caller that takes a connection owns it until it puts it back or closes it. A connection goes in only if its last exchange is over and no
byte is left. It comes out only if no byte has come since. So unrequested bytes are never taken for the response to the next request.
"""

from collections import deque
from collections.abc import Callable, Hashable
from time import monotonic

from muxwsgi.http.client.connection import ClientConnection

__all__ = ["Pool"]


class Pool:
    """Idle connections by key. The key holds everything that makes two connections not interchangeable: host, port, layers of TLS, the
    proxy on the way and its credentials.

    Counters:
        opened      connections made because none was here; the caller that makes one counts it
        reused      connections handed out again
        kept        connections put in
        refused     connections closed instead of being kept: not reusable, or no room
        dropped     idle connections closed: ended by the upstream, too old, pushed out, or at `close`
    """

    def __init__(self, max_idle: int, max_idle_per_key: int, idle_timeout: float, *, clock: Callable[[], float] = monotonic) -> None:
        """At most `max_idle` connections, and `max_idle_per_key` of one key, are kept for `idle_timeout` seconds; 0 keeps none."""
        self._max_idle = max_idle
        self._max_idle_per_key = max_idle_per_key
        self._idle_timeout = idle_timeout
        self._clock = clock
        self._closed = False
        # Both in the order in which they were put in, so that the first of either is the oldest.
        self._since: dict[ClientConnection, tuple[Hashable, float]] = {}
        self._by_key: dict[Hashable, deque[ClientConnection]] = {}
        self.opened = 0
        self.reused = 0
        self.kept = 0
        self.refused = 0
        self.dropped = 0

    def __repr__(self) -> str:
        return f"<Pool of {self.idle}, {self.reused} reused, {self.opened} opened>"

    @property
    def idle(self) -> int:
        """The number of connections in it."""
        return len(self._since)

    def take(self, key: Hashable) -> ClientConnection | None:
        """The connection that was put in last, which is the least likely to end; None without one. The caller owns it from now on."""
        kept = self._by_key.get(key)
        if kept is None:
            return None
        oldest = self._clock() - self._idle_timeout
        while kept:
            client = kept.pop()  # before it is checked, so that no other greenlet gets it
            _, since = self._since.pop(client)
            if not kept:
                self._by_key.pop(key, None)
            if since > oldest and client.alive():
                self.reused += 1
                return client
            self._drop(client)
        return None

    def put(self, key: Hashable, client: ClientConnection) -> None:
        """Keep `client` for the next `take` of `key`, or close it. The caller must not use it any more.

        With no room for `key` it is closed. With no room at all, the connection that has been idle longest is closed instead.
        """
        if client in self._since:
            raise RuntimeError(f"{client!r} is in the pool already: it was put in twice")
        if self._closed or not client.reusable or self._max_idle <= 0 or len(self._by_key.get(key, ())) >= self._max_idle_per_key:
            self.refused += 1
            client.close()
            return
        while len(self._since) >= self._max_idle:
            self._remove(next(iter(self._since)))
        self._since[client] = (key, self._clock())
        kept = self._by_key.get(key)
        if kept is None:
            self._by_key[key] = deque((client,))
        else:
            kept.append(client)
        self.kept += 1

    def prune(self, now: float | None = None) -> None:
        """Close connections that have rested too long, and those that their upstream has ended. Call it every few seconds; it costs a few
        microseconds for each connection. `now` is the clock's time."""
        oldest = (self._clock() if now is None else now) - self._idle_timeout
        for client, (_, since) in list(self._since.items()):
            if client in self._since and (since <= oldest or not client.alive()):
                self._remove(client)

    def close(self) -> None:
        """Close all connections, and those that are put in later. Idempotent."""
        self._closed = True
        while self._since:
            self._remove(next(iter(self._since)))

    def _remove(self, client: ClientConnection) -> None:
        key, _ = self._since.pop(client)
        kept = self._by_key[key]
        kept.remove(client)  # at its front, but for a dead one found by `prune`
        if not kept:
            del self._by_key[key]
        self._drop(client)

    def _drop(self, client: ClientConnection) -> None:
        self.dropped += 1
        client.close()
