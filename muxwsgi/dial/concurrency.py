"""`Turns`: how many things of a kind may go on for one client at a time, so that no client has all there is."""

from collections.abc import Hashable, Iterator
from contextlib import contextmanager

from gevent.lock import BoundedSemaphore

__all__ = ["Turns"]


class Turns:
    """Remembers those who have something going on, and nobody else."""

    def __init__(self, at_once: int) -> None:
        self._at_once = at_once
        self._lines: dict[Hashable, _Line] = {}

    def __len__(self) -> int:
        """Clients that have something going on."""
        return len(self._lines)

    @contextmanager
    def one_of(self, client: Hashable, seconds: float) -> Iterator[bool]:
        """One thing of `client`'s, once it is its turn: True. False where that took longer than `seconds`."""
        line = self._lines.get(client)
        if line is None:
            line = self._lines[client] = _Line(self._at_once)
        line.members += 1
        its_turn = False
        try:
            its_turn = line.semaphore.acquire(timeout=max(seconds, 0.001))
            yield its_turn
        finally:
            if its_turn:
                line.semaphore.release()
            line.members -= 1
            if not line.members:
                del self._lines[client]


class _Line:
    __slots__ = ("members", "semaphore")

    def __init__(self, at_once: int) -> None:
        self.members = 0
        self.semaphore = BoundedSemaphore(at_once)
