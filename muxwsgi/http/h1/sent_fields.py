"""`environ["muxwsgi.fields"]` of HTTP/1.1: the field lines of a head."""

from muxwsgi.http.sent_fields import SentFields

__all__ = ["FieldLines", "fields_of", "sent_fields"]


def fields_of(block: bytes) -> list[tuple[str, str]]:
    """The fields of `block`, the lines of a head that was found to be in order: name as spelled, value without the blanks around it."""
    fields = []
    for line in block.decode("latin-1").split("\r\n"):
        name, colon, value = line.partition(":")
        if colon:
            fields.append((name, value.strip(" \t")))
    return fields


class FieldLines(SentFields):
    """See `sent_fields`."""

    __slots__ = ("_at", "_head")

    def _take(self, head: bytes, at: int) -> None:
        self._head = head
        self._at = at
        self._pairs = None

    def _parse(self) -> list[tuple[str, str]]:
        return fields_of(self._head[self._at :])


def sent_fields(head: bytes, at: int) -> FieldLines:
    """The fields of `head`, whose lines begin at `at`."""
    fields = FieldLines.__new__(FieldLines)
    fields._take(head, at)
    return fields
