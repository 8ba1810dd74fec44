"""`Pace`: minimum rates, as patience that waiting uses up and bytes earn back."""

from typing import Protocol

__all__ = ["Pace", "SendQueue", "WritePace"]


class Pace:
    """The patience that a peer has left. It must move at least `rate` bytes a second while we wait.

    Waiting uses it up and bytes earn it back, to `grace` seconds at most: otherwise a peer that took 5 GB in a minute could then
    stall for weeks. Time in which we do not wait (the application is busy) costs the peer nothing.

    `patience` is what is left, in seconds.
    """

    __slots__ = ("_grace", "_rate", "patience")

    def __init__(self, rate: float, grace: float) -> None:
        """`rate` in bytes per second, above 0; `grace` in seconds."""
        self._rate = rate
        self._grace = grace
        self.patience = grace

    def moved(self, count: int, waited: float) -> None:
        """Note that `count` bytes came after `waited` seconds."""
        self.patience = min(self._grace, self.patience - waited + count / self._rate)


class SendQueue(Protocol):
    """What was written to a stream and not yet taken by its peer.

    step    bytes that the peer may read before the queue gets shorter: it reports what it has read in steps
    """

    step: int

    def size(self) -> int:
        """Bytes in the queue; 0 where the stream is closed."""


class WritePace(Pace):
    """The `Pace` of a peer that a blocked write waits for.

    It counts the bytes that the peer has taken out of `queue`. The bytes that a send accepts do not show that, because the kernel holds
    megabytes, and accepts more only when a third of them are gone. The peer may read `queue.step` bytes unseen, so their time at the
    minimum rate is added to the grace.
    """

    __slots__ = ("_at", "_queue", "_size")

    def __init__(self, rate: float, grace: float, queue: SendQueue) -> None:
        super().__init__(rate, grace + queue.step / rate)
        self._queue = queue
        self._size = 0
        self._at = 0.0

    def begin(self, now: float) -> None:
        """A wait begins at `now` (`time.monotonic()` seconds). The time since the last one counts for nothing."""
        self._size = self._queue.size()
        self._at = now

    def look(self, now: float) -> None:
        """Note what the peer has taken until `now`."""
        size = self._queue.size()
        self.moved(max(self._size - size, 0), max(now - self._at, 0.0))
        self._size = size
        self._at = now
