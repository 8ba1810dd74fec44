"""`Sessions`: the connections of HTTP/2 to upstreams, which many requests share.

Requests that come at the same time share what the first one dials. They wait for its handshake, for a bounded time, since it tells whether
the server speaks HTTP/2. Browsers do so for servers of which they know that they do, and dial in parallel otherwise. A proxy has more
clients than a browser, and would make a connection for each. The cost is one handshake for the first requests to a server that turns out to
speak HTTP/1.1, once an hour (`HTTP1Only`).
"""

from collections.abc import Callable, Hashable
from time import monotonic

import gevent
from gevent.event import Event

from muxwsgi.http.client.h2_session import ClientSession
from muxwsgi.proxy.upstream.needs import Needs
from muxwsgi.wire.connection import Connection

__all__ = ["HTTP1Only", "Sessions"]

#: Seconds that requests wait for a handshake of another one.
WAIT_FOR_OTHERS = 1.0

#: Seconds for which it is remembered that a server speaks HTTP/1.1, and servers of which it is remembered.
REMEMBERED_FOR = 3600.0
REMEMBERED_AT_MOST = 1024


class Sessions:
    """Connections by key, as in `Pool`.

    by_key      all of them
    """

    def __init__(self, max_idle: int, max_idle_per_key: int, idle_timeout: float) -> None:
        """At most `max_idle` connections without requests, and `max_idle_per_key` of one key, are kept for `idle_timeout` seconds."""
        self._max_idle = max_idle
        self._max_idle_per_key = max_idle_per_key
        self._idle_timeout = idle_timeout
        self.by_key: dict[Hashable, list[ClientSession]] = {}
        self._resting: dict[ClientSession, Hashable] = {}  # without exchanges, the one that has rested longest first
        self._dialling: dict[Hashable, Event] = {}
        self._closed = False

    def find(self, key: Hashable, needs: Needs, may_reuse: Callable[[Connection], bool]) -> ClientSession | None:
        """A connection on which a stream can be opened. A body does not go where others have used up the window, since the server may not
        be reading these."""
        for session in self.by_key.get(key, ()):
            if (
                session.room > 0
                and (not needs.body or session.send_window >= needs.body)
                and (session.engine.peer_connects or not needs.websocket)
                and may_reuse(session.connection)
            ):
                self._resting.pop(session, None)
                return session
        return None

    def add(self, key: Hashable, session: ClientSession) -> None:
        """A new connection, for the next ones to share."""
        self.by_key.setdefault(key, []).append(session)

    # Dialling

    def wait_for_others(self, key: Hashable) -> bool:
        """Wait for the handshake that is under way; False if there is none."""
        others = self._dialling.get(key)
        if others is None:
            return False
        others.wait(WAIT_FOR_OTHERS)
        return True

    def begin_dial(self, key: Hashable) -> Event:
        """A handshake begins. `end_dial` has to follow."""
        dialled = Event()
        self._dialling.setdefault(key, dialled)
        return dialled

    def end_dial(self, key: Hashable, dialled: Event) -> None:
        """It is over."""
        dialled.set()
        if self._dialling.get(key) is dialled:
            del self._dialling[key]

    # Rest and end

    def rests(self, key: Hashable, session: ClientSession) -> None:
        """`session` has no exchanges any more. Above the limits, those that have rested longest are closed."""
        sessions = self.by_key.get(key, ())
        if session not in sessions:
            return  # it is closed
        resting = self._resting
        resting[session] = key
        of_key = [each for each in sessions if each in resting]
        if session.over or self._closed:
            oldest = session
        elif len(of_key) > self._max_idle_per_key:
            oldest = min(of_key, key=lambda each: each.idle_since)
        elif len(resting) > self._max_idle:
            oldest = next(iter(resting))
        else:
            return
        self._close(resting[oldest], oldest)

    def prune(self) -> None:
        """Close connections that have rested too long, and forget those that have ended."""
        oldest = monotonic() - self._idle_timeout
        for key, sessions in list(self.by_key.items()):
            for session in list(sessions):
                if session.over or (not session.exchanges and session.idle_since <= oldest):
                    self._close(key, session)

    def close(self) -> None:
        """Close all of them, with the exchanges on them. One that is added later is closed after its exchanges."""
        self._closed = True
        for sessions in list(self.by_key.values()):
            for session in list(sessions):
                session.close()
        self.by_key.clear()
        self._resting.clear()

    def _close(self, key: Hashable, session: ClientSession) -> None:
        """Close `session`, and do not wait for its GOAWAY, since its server may take nothing."""
        self._resting.pop(session, None)
        sessions = self.by_key.get(key, [])
        if session in sessions:
            sessions.remove(session)
        if not sessions:
            self.by_key.pop(key, None)
        gevent.spawn(session.close)


class HTTP1Only:
    """Servers that have chosen HTTP/1.1, or that have asked for it (HTTP_1_1_REQUIRED), by key."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._known: dict[Hashable, tuple[float, bool]] = {}  # until when, and whether it was asked for; the oldest first

    def note(self, key: Hashable, *, asked: bool = False) -> None:
        """A server speaks HTTP/1.1."""
        self._known.pop(key, None)
        if len(self._known) >= REMEMBERED_AT_MOST:
            del self._known[next(iter(self._known))]
        self._known[key] = (self._clock() + REMEMBERED_FOR, asked)

    def forget(self, key: Hashable) -> None:
        """It has chosen HTTP/2, or cannot be reached: another one may answer at its address later."""
        self._known.pop(key, None)

    def covers(self, key: Hashable, *, asked: bool = False) -> bool:
        """Whether the server is known to speak HTTP/1.1. `asked`: and has asked for it."""
        until, was_asked = self._known.get(key, (0.0, False))
        return until > self._clock() and (was_asked or not asked)
