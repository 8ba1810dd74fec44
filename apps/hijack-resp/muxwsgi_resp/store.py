"""The data: keys with values of four types, expiry, and a bound on how much there may be. No protocol here.

Greenlets switch only where something waits, and nothing here does: each call is atomic.
"""

import fnmatch
import re
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import TypeVar

from muxwsgi_resp.protocol import Error

__all__ = ["Store", "Value", "pattern"]

Value = bytes | dict[bytes, bytes] | deque[bytes] | set[bytes]
Kind = TypeVar("Kind", dict[bytes, bytes], deque[bytes], set[bytes])

WRONG_TYPE = "WRONGTYPE Operation against a key holding the wrong kind of value"

#: What a key or an item costs beside its bytes, roughly: for the bound, not for accounting.
OVERHEAD = 64


class Store:
    """`most` bytes at most, `OOM` errors above. Expired keys are dropped when they are met, and a few at every write."""

    def __init__(self, most: int = 256 * 1024 * 1024, clock: Callable[[], float] = time.time) -> None:
        self.most = most
        self.used = 0
        self._clock = clock
        self._values: dict[bytes, Value] = {}
        self._expiry: dict[bytes, float] = {}  # Unix time in seconds

    def now(self) -> float:
        """Unix time in seconds."""
        return self._clock()

    def get(self, key: bytes) -> Value | None:
        """The value, None where there is none any more."""
        expiry = self._expiry.get(key)
        if expiry is not None and expiry <= self._clock():
            self.delete(key)
            return None
        return self._values.get(key)

    def string(self, key: bytes) -> bytes | None:
        """The value of a string key. Raises `Error` for other types."""
        value = self.get(key)
        if value is not None and not isinstance(value, bytes):
            raise Error(WRONG_TYPE)
        return value

    def collection(self, key: bytes, kind: type[Kind]) -> Kind:
        """The collection at `key`, an empty one that is not stored yet where there is none. Raises `Error` for other types."""
        value = self.get(key)
        if value is None:
            return kind()
        if not isinstance(value, kind):
            raise Error(WRONG_TYPE)
        return value

    def set(self, key: bytes, value: bytes, expiry: float | None = None, keep_expiry: bool = False) -> None:
        """Store a string. `expiry` is Unix time in seconds."""
        old = self.get(key)
        self._make_room(len(key) + len(value) + OVERHEAD - (_size(key, old) if old is not None else 0))
        if old is not None:
            self.used -= _size(key, old)
        self._values[key] = value
        self.used += _size(key, value)
        if expiry is not None:
            self._expiry[key] = expiry
        elif not keep_expiry:
            self._expiry.pop(key, None)

    def change(self, key: bytes, collection: Kind, change: Callable[[Kind], object], grows: int = 0) -> None:
        """Let `change` work on the collection, which `collection()` gave, and keep the books. `grows`: bytes it may add."""
        self._make_room(grows)
        before = _size(key, collection) if key in self._values else 0
        change(collection)
        if collection:
            self._values[key] = collection
            self.used += _size(key, collection) - before
        else:
            self._values.pop(key, None)
            self._expiry.pop(key, None)
            self.used -= before

    def delete(self, key: bytes) -> bool:
        """Whether there was something to delete."""
        value = self._values.pop(key, None)
        self._expiry.pop(key, None)
        if value is None:
            return False
        self.used -= _size(key, value)
        return True

    def keys(self) -> Iterator[bytes]:
        """All keys that are not expired."""
        return (key for key in list(self._values) if self.get(key) is not None)

    def __len__(self) -> int:
        return len(self._values)

    def clear(self) -> None:
        self._values.clear()
        self._expiry.clear()
        self.used = 0

    def expire(self, key: bytes, expiry: float | None) -> bool:
        """Set the Unix time at which `key` goes, None for never. Whether anything changed."""
        if self.get(key) is None:
            return False
        if expiry is None:
            return self._expiry.pop(key, None) is not None
        self._expiry[key] = expiry
        return True

    def expiry(self, key: bytes) -> float | None:
        """When `key` goes, None for never."""
        return self._expiry.get(key)

    def _make_room(self, needed: int) -> None:
        now = self._clock()
        for key in [key for key, _ in zip(self._expiry, range(20), strict=False)]:
            if self._expiry[key] <= now:
                self.delete(key)
        if needed > 0 and self.used + needed > self.most:
            raise Error("OOM command not allowed when used memory > 'maxmemory'.")


def _size(key: bytes, value: Value) -> int:
    if isinstance(value, bytes):
        return len(key) + len(value) + OVERHEAD
    if isinstance(value, dict):
        return len(key) + OVERHEAD + sum(len(name) + len(item) + OVERHEAD for name, item in value.items())
    return len(key) + OVERHEAD + sum(len(item) + OVERHEAD for item in value)


def pattern(glob: bytes) -> Callable[[bytes], bool]:
    """Whether a key fits a glob of Redis (`h?llo`, `h*llo`, `h[ae]llo`, `h[^e]llo`, backslash quotes)."""
    text = glob.decode("latin-1").replace("[^", "[!")
    text = re.sub(r"\\(.)", lambda quoted: f"[{quoted[1]}]" if quoted[1] in "*?[" else quoted[1], text)
    matches = re.compile(fnmatch.translate(text)).match
    return lambda key: matches(key.decode("latin-1")) is not None
