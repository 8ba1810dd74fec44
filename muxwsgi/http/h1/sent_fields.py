"""`environ["muxwsgi.fields"]`: the field lines of a request, as they were sent. It is read from the head only when an application asks."""

from collections.abc import Iterator, Sequence
from typing import Any

__all__ = ["SentFields", "fields_of", "sent_fields"]


def fields_of(block: bytes) -> list[tuple[str, str]]:
    """The fields of `block`, the lines of a head that was found to be in order: name as spelled, value without the blanks around it."""
    fields = []
    for line in block.decode("latin-1").split("\r\n"):
        name, colon, value = line.partition(":")
        if colon:
            fields.append((name, value.strip(" \t")))
    return fields


class SentFields:
    """A sequence of (name, value) in the order in which the client sent them, with repetitions. It does not change."""

    __slots__ = ("_at", "_head", "_pairs")

    def _take(self, head: bytes, at: int) -> None:
        """Begin: see `sent_fields`. Not `__init__`, for the same reason as `Response._set_up`."""
        self._head = head
        self._at = at
        self._pairs: list[tuple[str, str]] | None = None

    def _read(self) -> list[tuple[str, str]]:
        if self._pairs is None:
            self._pairs = fields_of(self._head[self._at :])
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


def sent_fields(head: bytes, at: int) -> SentFields:
    """The fields of `head`, whose lines begin at `at`."""
    fields = SentFields.__new__(SentFields)
    fields._take(head, at)
    return fields


Sequence.register(SentFields)
