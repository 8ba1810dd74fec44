"""`environ["muxwsgi.fields"]`: the fields of a request, as they were sent. The pairs are made only when an application asks."""

from collections.abc import Iterator, Sequence
from typing import Any

__all__ = ["SentFields"]


class SentFields:
    """A sequence of (name, value) in the order in which the client sent them, with repetitions. It does not change.

    Each version of HTTP has a class that knows how to `_parse` what it got."""

    # What is below has `_take` instead of `__init__`, for the same reason as `Response._set_up`.

    __slots__ = ("_pairs",)

    _pairs: list[tuple[str, str]] | None

    def _parse(self) -> list[tuple[str, str]]:
        raise NotImplementedError

    def _read(self) -> list[tuple[str, str]]:
        if self._pairs is None:
            self._pairs = self._parse()
        return self._pairs

    def __len__(self) -> int:
        return len(self._read())

    def __getitem__(self, index: Any) -> Any:
        return self._read()[index]

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self._read())

    def __reversed__(self) -> Iterator[tuple[str, str]]:
        return reversed(self._read())

    def __contains__(self, pair: object) -> bool:
        return pair in self._read()

    def __eq__(self, other: object) -> bool:
        """Whether `other` is a sequence of the same pairs, such as a list."""
        if not isinstance(other, Sequence):
            return NotImplemented
        return self._read() == list(other)

    def index(self, pair: object, start: int = 0, stop: int | None = None) -> int:
        """As a list's."""
        pairs = self._read()
        return pairs.index(pair, start, len(pairs) if stop is None else stop)  # type: ignore[arg-type]

    def count(self, pair: object) -> int:
        """As a list's."""
        return self._read().count(pair)  # type: ignore[arg-type]

    def __repr__(self) -> str:
        return repr(self._read())


Sequence.register(SentFields)
