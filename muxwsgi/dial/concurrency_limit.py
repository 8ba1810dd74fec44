"""`ConcurrencyLimit`: limits the concurrent operations of one key, so that one client cannot use up a shared resource."""

from collections.abc import Hashable, Iterator
from contextlib import contextmanager

from gevent.lock import BoundedSemaphore

__all__ = ["ConcurrencyLimit"]


class ConcurrencyLimit:
    """Keys without a running or waiting operation take no memory."""

    def __init__(self, limit: int) -> None:
        """At most `limit` operations of each key run at a time."""
        self._limit = limit
        self._by_key: dict[Hashable, _Key] = {}

    def __len__(self) -> int:
        """Keys that have a running or a waiting operation."""
        return len(self._by_key)

    @contextmanager
    def slot(self, key: Hashable, seconds: float) -> Iterator[bool]:
        """Hold one of the slots of `key`. Yields False if none became free within `seconds`."""
        slots = self._by_key.get(key)
        if slots is None:
            slots = self._by_key[key] = _Key(self._limit)
        slots.operations += 1
        acquired = False
        try:
            acquired = slots.semaphore.acquire(timeout=max(seconds, 0.001))
            yield acquired
        finally:
            if acquired:
                slots.semaphore.release()
            slots.operations -= 1
            if not slots.operations:
                del self._by_key[key]


class _Key:
    __slots__ = ("operations", "semaphore")

    def __init__(self, limit: int) -> None:
        self.operations = 0  # running and waiting ones
        self.semaphore = BoundedSemaphore(limit)
