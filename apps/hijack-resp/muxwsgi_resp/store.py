"""The data: keys with values of four types, expiry, and a bound on how much there may be. No protocol here.

Greenlets switch only where something waits, and nothing here does: each call is atomic.
"""

import fnmatch
import heapq
import re
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

__all__ = ["OVERHEAD", "Refused", "Store", "Value", "pattern", "weight"]

Value = bytes | dict[bytes, bytes] | deque[bytes] | set[bytes]
Kind = TypeVar("Kind", dict[bytes, bytes], deque[bytes], set[bytes])

#: What a key or an item costs beside its bytes, roughly: for the bound, not for accounting.
OVERHEAD = 64

#: Bytes of a pattern: to compile one takes 3 us a byte, and nobody else has a turn meanwhile.
MAX_GLOB = 1024

#: Expired keys that one write drops on its way.
DROPPED_PER_WRITE = 20


class Refused(Exception):
    """The store does not do that; the text says why, in Redis' words."""


def weight(*items: bytes) -> int:
    """What the items count for in the bound, in bytes."""
    return sum(map(len, items)) + OVERHEAD * len(items)


class Store:
    """Holds `most` bytes; what would need more is refused. Expired keys are dropped when they are met, and a few at every write."""

    def __init__(self, most: int = 256 * 1024 * 1024, clock: Callable[[], float] = time.time) -> None:
        self.most = most
        self.used = 0
        self._clock = clock
        self._values: dict[bytes, Value] = {}
        self._weights: dict[bytes, int] = {}  # kept, not counted again: a list of a million would be counted at each push
        self._expiry: dict[bytes, float] = {}  # Unix time in seconds
        self._due: list[tuple[float, bytes]] = []  # a heap of `_expiry`, and of what stood there before

    def now(self) -> float:
        """Unix time in seconds."""
        return self._clock()

    # Reading

    def get(self, key: bytes) -> Value | None:
        """The value, None where there is none any more."""
        expiry = self._expiry.get(key)
        if expiry is not None and expiry <= self._clock():
            self.delete(key)
            return None
        return self._values.get(key)

    def string(self, key: bytes) -> bytes | None:
        """The value of a string key. Raises `Refused` for other types."""
        value = self.get(key)
        if value is not None and not isinstance(value, bytes):
            raise _wrong_type()
        return value

    def collection(self, key: bytes, kind: type[Kind]) -> Kind:
        """The collection at `key`, an empty one that is not stored yet where there is none. Raises `Refused` for other types."""
        value = self.get(key)
        if value is None:
            return kind()
        if not isinstance(value, kind):
            raise _wrong_type()
        return value

    def keys(self) -> Iterator[bytes]:
        """All keys that are not expired."""
        return (key for key in list(self._values) if self.get(key) is not None)

    def __len__(self) -> int:
        return len(self._values)

    # Writing

    def set(self, key: bytes, value: bytes, expiry: float | None = None, keep_expiry: bool = False) -> None:
        """Store a string over whatever was there. `expiry` is Unix time in seconds. Raises `Refused` where there is no room."""
        self.get(key)  # what has expired is gone, and its expiry with it
        self._make_room(weight(key, value) - self._weights.get(key, 0))
        self._put(key, value, weight(key, value))
        if expiry is not None:
            self.expire(key, expiry)
        elif not keep_expiry:
            self._expiry.pop(key, None)

    def set_all(self, pairs: Sequence[tuple[bytes, bytes]]) -> None:
        """Store all these strings, or none of them."""
        last = dict(pairs)
        self._make_room(sum(weight(key, value) - self._weights.get(key, 0) for key, value in last.items()))
        for key, value in last.items():
            self._put(key, value, weight(key, value))
            self._expiry.pop(key, None)

    def change(self, key: bytes, collection: Kind, change: Callable[[Kind], int], grows: int = 0) -> None:
        """Let `change` work on the collection, which `collection()` gave. It returns the weight that it added, negative where it
        took some away; `grows` is the most that this can be. Raises `Refused`, with nothing changed, where there is no room.
        """
        if grows:
            self._make_room(grows + (0 if key in self._values else weight(key)))
        if key not in self._values:
            collection.clear()  # new, or its time came while there was room to make
        total = self._weights.get(key, weight(key)) + change(collection)
        if collection:
            self._put(key, collection, total)
        else:
            self.delete(key)

    def delete(self, key: bytes) -> bool:
        """Whether there was something to delete."""
        self._expiry.pop(key, None)
        self.used -= self._weights.pop(key, 0)
        return self._values.pop(key, None) is not None

    def clear(self) -> None:
        """Forget everything."""
        self._values.clear()
        self._weights.clear()
        self._expiry.clear()
        self._due.clear()
        self.used = 0

    # Expiry

    def expire(self, key: bytes, expiry: float | None) -> bool:
        """Set the Unix time at which `key` goes, None for never. Whether anything changed."""
        if self.get(key) is None:
            return False
        if expiry is None:
            return self._expiry.pop(key, None) is not None
        self._expiry[key] = expiry
        heapq.heappush(self._due, (expiry, key))
        if len(self._due) > 2 * len(self._expiry) + 100:  # mostly of keys that got another expiry since
            self._due = [(when, name) for name, when in self._expiry.items()]
            heapq.heapify(self._due)
        return True

    def expiry(self, key: bytes) -> float | None:
        """When `key` goes, None for never."""
        return self._expiry.get(key)

    def _drop_expired(self, most: int | None = None) -> None:
        now = self._clock()
        while self._due and self._due[0][0] <= now and most != 0:
            expiry, key = heapq.heappop(self._due)
            if self._expiry.get(key) == expiry:
                self.delete(key)
            most = None if most is None else most - 1

    # The bound

    def _put(self, key: bytes, value: Value, total: int) -> None:
        self.used += total - self._weights.get(key, 0)
        self._weights[key] = total
        self._values[key] = value

    def _make_room(self, needed: int) -> None:
        self._drop_expired(DROPPED_PER_WRITE)
        if needed <= 0 or self.used + needed <= self.most:
            return
        self._drop_expired()
        if self.used + needed > self.most:
            raise Refused("OOM command not allowed when used memory > 'maxmemory'.")


def _wrong_type() -> Refused:
    return Refused("WRONGTYPE Operation against a key holding the wrong kind of value")


def pattern(glob: bytes) -> Callable[[bytes], bool]:
    """Whether a key fits a glob of Redis (`h?llo`, `h*llo`, `h[ae]llo`, `h[^e]llo`, backslash quotes). Raises `Refused`."""
    if len(glob) > MAX_GLOB:
        raise Refused(f"ERR a pattern has {MAX_GLOB} bytes at most")
    text = glob.decode("latin-1").replace("[^", "[!")
    text = re.sub(r"\\(.)", lambda quoted: f"[{quoted[1]}]" if quoted[1] in "*?[" else quoted[1], text)
    matches = re.compile(fnmatch.translate(text)).match
    return lambda key: matches(key.decode("latin-1")) is not None
