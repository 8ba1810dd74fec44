"""What an application may give to `start_response`: statuses, names and values of fields; and what each name means to the server."""

import re
import sys
from collections.abc import Iterable
from enum import Enum
from typing import Any

from muxwsgi.grammar import CONTROL, is_token

__all__ = ["KINDS", "FieldKind", "as_texts", "check_value", "code_of", "kind_of"]

_CONTROL = re.compile(CONTROL)
_BEYOND_LATIN_1 = re.compile(r"[^\x00-\xff]")
_STATUS = re.compile(r"[2-9][0-9]{2}(?: [\t -~\x80-\xff]*)?")


class FieldKind(Enum):
    """What a response field means to the server.

    PLAIN       nothing: it is passed on
    LENGTH      Content-Length: it is checked, and decides the framing
    DATE        Date: passed on, and the server adds none
    SERVER      Server: likewise
    CONNECTION  Connection: its `close` is obeyed, and it is dropped
    HOP         another field that describes the connection: dropped
    """

    PLAIN = 0
    LENGTH = 1
    DATE = 2
    SERVER = 3
    CONNECTION = 4
    HOP = 5


#: Fields that describe the connection, which is the server's. PEP 3333 forbids them. They are dropped, as gunicorn does: applications
#: that pass on the fields of an upstream are common and mean no harm.
_HOP_BY_HOP = frozenset({"keep-alive", "te", "transfer-encoding", "upgrade", "proxy-connection"})

_SPECIAL = {
    "content-length": FieldKind.LENGTH,
    "date": FieldKind.DATE,
    "server": FieldKind.SERVER,
    "connection": FieldKind.CONNECTION,
    **dict.fromkeys(_HOP_BY_HOP, FieldKind.HOP),
}

#: Names as applications spelled them, and what they mean. Names are few; further ones are looked up each time.
KINDS: dict[str, FieldKind] = {}
_KINDS_AT_MOST = 2048


def kind_of(name: Any) -> FieldKind:
    """What the field `name` means, also of a name that is not in `KINDS`. Raises what is wrong with a name."""
    if type(name) is not str:
        raise TypeError(f"a header name is a string, not {type(name).__name__}: {name!r}")
    if not is_token(name):
        raise ValueError(f"{name!r} is not a header name")
    kind = _SPECIAL.get(name.lower(), FieldKind.PLAIN)
    if len(KINDS) < _KINDS_AT_MOST:
        KINDS[sys.intern(name)] = kind
    return kind


def code_of(status: Any) -> int:
    """The code of a final status. Raises what is wrong with `status`."""
    if type(status) is not str:
        raise TypeError(f"the status is a string, not {type(status).__name__}")
    if not _STATUS.fullmatch(status):
        raise ValueError(f"{status!r} is not a final status: three digits from 200 on, a space, a reason (for 101 there is muxwsgi.hijack)")
    return int(status[:3])


def check_value(name: str, value: str) -> None:
    """Raise what is wrong with `value`. Tabs and the upper half of latin-1 are not printable to Python, and allowed."""
    if not isinstance(value, str):
        raise TypeError(f"the value of the header {name!r} is a string, not {type(value).__name__}: {value!r}")
    if _CONTROL.search(value):
        raise ValueError(f"the value of the header {name!r} has a line break or another control character in it")
    if beyond := _BEYOND_LATIN_1.search(value):
        raise ValueError(f"the value of the header {name!r} has a character in it that is not latin-1: {beyond[0]!r}")


def as_texts(fields: Iterable[tuple[str | bytes, str | bytes]]) -> list[tuple[str, str]]:
    """`fields` as strings, without white space around the values. Bytes are read as latin-1."""
    return [(_as_text(name), _as_text(value).strip(" \t")) for name, value in fields]


def _as_text(text: str | bytes) -> str:
    return text.decode("latin-1") if isinstance(text, bytes) else text
