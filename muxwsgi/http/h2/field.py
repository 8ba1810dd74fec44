"""Fields of HTTP/2 as the tables of HPACK keep them.

A `Field` knows what it means to a request: the environ key of its name, and its kind. The name is looked up when the field enters a table,
and not with every request that refers to it.
"""

import re

from muxwsgi.grammar import CONTROL, TCHAR
from muxwsgi.http.environ import environ_key

__all__ = [
    "AUTHORITY",
    "CONNECTION_SPECIFIC",
    "CONTENT_TYPE",
    "COOKIE",
    "DROPPED",
    "EXPECT",
    "HOST",
    "LENGTH",
    "MALFORMED",
    "METHOD",
    "OF_CONNECTIONS",
    "PATH",
    "PRIORITY",
    "PROTOCOL",
    "REGULAR",
    "SCHEME",
    "STATIC",
    "STATUS",
    "TABLE_SIZE",
    "TE",
    "UNKNOWN_PSEUDO",
    "Field",
    "field",
]

#: Bytes of a dynamic table, unless a peer sets another size (RFC 9113 section 6.5.2). Our SETTINGS leave it so.
TABLE_SIZE = 4096

#: Kinds of fields. The pseudo-fields come first: those of requests (RFC 9113 section 8.3.1, RFC 8441 section 4) and that of responses.
METHOD, SCHEME, AUTHORITY, PATH, PROTOCOL, STATUS, UNKNOWN_PSEUDO = 0, 1, 2, 3, 4, 5, 6
#: Fields that make a message malformed: by their characters (section 8.2.1), or since they describe the connection (section 8.2.2).
MALFORMED, CONNECTION_SPECIFIC = 7, 8
#: REGULAR goes into the environ as it is; DROPPED has no key (see `environ_key`); for the others the server has rules.
REGULAR, DROPPED, TE, COOKIE, LENGTH, CONTENT_TYPE, HOST, EXPECT, PRIORITY = 9, 10, 11, 12, 13, 14, 15, 16, 17

_KINDS = {
    ":method": METHOD,
    ":scheme": SCHEME,
    ":authority": AUTHORITY,
    ":path": PATH,
    ":protocol": PROTOCOL,
    ":status": STATUS,
    "connection": CONNECTION_SPECIFIC,
    "keep-alive": CONNECTION_SPECIFIC,
    "proxy-connection": CONNECTION_SPECIFIC,
    "transfer-encoding": CONNECTION_SPECIFIC,
    "upgrade": CONNECTION_SPECIFIC,
    "te": TE,
    "cookie": COOKIE,
    "content-length": LENGTH,
    "content-type": CONTENT_TYPE,
    "host": HOST,
    "expect": EXPECT,
    "priority": PRIORITY,
}

#: Names of fields that describe the connection (section 8.2.2). No message may have one.
OF_CONNECTIONS = frozenset(name for name, kind in _KINDS.items() if kind == CONNECTION_SPECIFIC)

#: A name in lower case (RFC 9113 section 8.2).
_NAME = re.compile(TCHAR.replace("A-Z", "") + "+")
_BAD_VALUE = re.compile(CONTROL)

#: Names, with their keys and kinds. A client that invents names cannot fill the memory: further ones are looked up each time.
_NAMES: dict[str, tuple[str, int]] = {}
_NAMES_AT_MOST = 2048
_NAME_LENGTH = 64


class Field:
    """One field line.

    name, value     as sent, as latin-1
    key             its environ key
    kind            one of the kinds above
    size            as tables count it: both lengths and 32 (RFC 7541 section 4.1)
    """

    __slots__ = ("key", "kind", "name", "size", "value")

    def __init__(self, name: str, value: str, key: str, kind: int) -> None:
        self.name = name
        self.value = value
        self.key = key
        self.kind = kind
        self.size = len(name) + len(value) + 32


def _learn(name: str) -> tuple[str, int]:
    kind = _KINDS.get(name, REGULAR)
    key = ""
    if name[:1] == ":":
        kind = _KINDS.get(name, UNKNOWN_PSEUDO)
    elif not _NAME.fullmatch(name):
        kind = MALFORMED
    else:
        key = environ_key(name)
        if not key:
            kind = DROPPED
    known = (key, kind)
    if len(_NAMES) < _NAMES_AT_MOST and len(name) <= _NAME_LENGTH:
        _NAMES[name] = known
    return known


def field(name: str, value: str) -> Field:
    """The field of `name` and `value`. It is MALFORMED if it cannot be part of a message (RFC 9113 section 8.2.1)."""
    known = _NAMES.get(name)
    if known is None:
        known = _learn(name)
    kind = known[1]
    if value and (not value.isprintable() or value[0] == " " or value[-1] == " ") and _is_bad(value):
        kind = MALFORMED
    made = Field.__new__(Field)
    made.name = name
    made.value = value
    made.key = known[0]
    made.kind = kind
    made.size = len(name) + len(value) + 32
    return made


def _is_bad(value: str) -> bool:
    return _BAD_VALUE.search(value) is not None or value[0] in " \t" or value[-1] in " \t"


_STATIC_TABLE = """:authority|:method GET|:method POST|:path /|:path /index.html|:scheme http|:scheme https|:status 200|:status 204
:status 206|:status 304|:status 400|:status 404|:status 500|accept-charset|accept-encoding gzip, deflate|accept-language|accept-ranges
accept|access-control-allow-origin|age|allow|authorization|cache-control|content-disposition|content-encoding|content-language|content-length
content-location|content-range|content-type|cookie|date|etag|expect|expires|from|host|if-match|if-modified-since|if-none-match|if-range
if-unmodified-since|last-modified|link|location|max-forwards|proxy-authenticate|proxy-authorization|range|referer|refresh|retry-after|server
set-cookie|strict-transport-security|transfer-encoding|user-agent|vary|via|www-authenticate"""

#: The static table (RFC 7541 appendix A), from its entry 1 on.
STATIC: list[Field] = [
    field(name, value) for name, _, value in (entry.partition(" ") for entry in _STATIC_TABLE.replace("\n", "|").split("|"))
]
