"""`environ["muxwsgi.fields"]` of HTTP/2: the fields of a request without its pseudo-fields."""

from muxwsgi.http.h2.field import UNKNOWN_PSEUDO, Field
from muxwsgi.http.sent_fields import SentFields

__all__ = ["FieldList", "sent_fields"]


class FieldList(SentFields):
    """See `sent_fields`."""

    __slots__ = ("_authority", "_fields")

    def _take(self, fields: list[Field], authority: str | None) -> None:
        self._fields = fields
        self._authority = authority
        self._pairs = None

    def _parse(self) -> list[tuple[str, str]]:
        pairs = [(each.name, each.value) for each in self._fields if each.kind > UNKNOWN_PSEUDO]
        if self._authority is not None:
            pairs.insert(0, ("host", self._authority))
        return pairs


def sent_fields(fields: list[Field], authority: str | None) -> FieldList:
    """`fields` as sent, a list that nobody changes. `authority`, if there is one, stands in front as Host, where HTTP/1.1 has it."""
    sent = FieldList.__new__(FieldList)
    sent._take(fields, authority)
    return sent
