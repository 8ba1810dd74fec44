"""`Budget`: what a peer may ask for that brings no request forward.

HTTP/2 lets a client cause work that costs the client almost nothing: requests that are reset at once (CVE-2023-44487), errors that make the
server reset them (CVE-2025-8671), PING, SETTINGS, PRIORITY, WINDOW_UPDATE by the byte, empty frames (CVE-2019-9512 to 9518). Each of these
spends points. Requests that are answered and bodies that move earn points, and so does time, so that a client may ping once a second as
long as a request is under way. When no points are left, the connection ends with ENHANCE_YOUR_CALM.
"""

from muxwsgi.http.h2.errors import ENHANCE_YOUR_CALM, ConnectionFault
from muxwsgi.wire.syscalls import clock

__all__ = ["POINTS", "RESET", "SMALL", "Budget"]

#: Points at the beginning, and at most: 600 small things, or 200 resets, at once. A browser that leaves a page resets all its streams.
POINTS = 600

#: Points of a stream that either side resets.
RESET = 3

#: Points of anything else.
SMALL = 1

#: Points that a second earns.
PER_SECOND = 10.0


class Budget:
    """The points of one connection.

    left        what is left of them
    """

    __slots__ = ("_at", "left")

    def __init__(self) -> None:
        self.left = POINTS
        self._at = clock()

    def spend(self, points: int, what: str) -> None:
        """Raises `ConnectionFault` if there are not as many left. `what` is said to the peer and in the log."""
        self.left -= points
        if self.left < 0:
            now = clock()
            earned = int((now - self._at) * PER_SECOND)
            if earned:
                self._at = now
                self.earn(earned)
            if self.left < 0:
                raise ConnectionFault(ENHANCE_YOUR_CALM, f"too much that brings no request forward, at last {what}")

    def earn(self, points: int) -> None:
        """Some of the points back, never more than at the beginning."""
        self.left += points
        if self.left > POINTS:
            self.left = POINTS
