"""`Throttle`: so many bytes a second, for one direction of a relay or for many together."""

import math

__all__ = ["TICK", "Throttle"]

#: Seconds between two looks at what is throttled.
TICK = 0.05

#: Seconds of the rate that may be used at once.
BURST = 0.25


class Throttle:
    """A token bucket. It has no timer: what has come in since the last look is counted at the next one.

    rate    bytes a second
    """

    __slots__ = ("_at", "_tokens", "rate")

    def __init__(self, rate: float) -> None:
        """Raises `ValueError` for a rate that is not more than 0."""
        if not 0 < rate < math.inf:
            raise ValueError(f"a rate is more than 0 bytes a second, not {rate}")
        self.rate = rate
        self._tokens = self._most()
        self._at = -1.0

    def allowed(self, now: float) -> int:
        """How many bytes may be moved now. `now` is `time.monotonic()`."""
        if self._at < 0.0:
            self._at = now
        elif now > self._at:
            self._tokens = min(self._most(), self._tokens + (now - self._at) * self.rate)
            self._at = now
        return int(self._tokens)

    def took(self, n: int) -> None:
        """`n` bytes are moved."""
        self._tokens -= n

    def _most(self) -> float:
        return max(self.rate * BURST, 1.0)
