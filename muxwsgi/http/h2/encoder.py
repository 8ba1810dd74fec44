"""Encodes field blocks (RFC 7541): the sender's side of HPACK.

A field is inserted into the table when it is sent for the second time on the connection. One that is sent once, such as a request id, would
only push others out. Lengths change with each response. Cookies are marked as never indexed, so that an intermediary does not
compress them either (section 7.1.3).

A connection to an upstream has requests of several clients of the proxy. If the values of all fields were in its table, a client that sees
the sizes of its packets could find out those of another, by guesses (section 7.1). So only fields in `SHARED_NAMES` are inserted there:
their values are the same for many clients, and tell nothing about one. Paths, keys, tokens and fields of other names are sent in full. A
connection for each client would be the other way. It would need as many connections as HTTP/1.1.

What was encoded is valid for as long as the table does not change: see `changes`. **A block that inserts must never be sent twice.**
"""

from collections import deque

from muxwsgi.http.h2.field import STATIC, TABLE_SIZE
from muxwsgi.http.h2.huffman import encode as encode_huffman

__all__ = ["SHARED_NAMES", "Encoder", "Pair"]

#: Name and value. The name is in lower case.
Pair = tuple[bytes, bytes]

#: Fields that were sent once, at most, of which the encoder knows that.
SEEN_AT_MOST = 64

#: A field of more bytes than this is not inserted: it would push out most others.
INSERTED_AT_MOST = TABLE_SIZE // 4

#: Never indexed, and not inserted.
_SENSITIVE = frozenset({b"set-cookie", b"authorization", b"proxy-authorization", b"cookie"})
_NOT_INSERTED = frozenset({b"content-length", b"content-range", b"etag", b"last-modified"})

#: What may be inserted on a connection with requests of several clients.
SHARED_NAMES = frozenset(
    b":authority accept accept-encoding accept-language cache-control content-encoding content-type dnt grpc-accept-encoding"
    b" grpc-encoding pragma sec-ch-ua sec-ch-ua-mobile sec-ch-ua-platform sec-fetch-dest sec-fetch-mode sec-fetch-site"
    b" sec-fetch-user te upgrade-insecure-requests user-agent".split()
)

_STATIC_PAIRS: dict[Pair, bytes] = {}
_STATIC_NAMES: dict[bytes, int] = {}
for _index, _entry in reversed(list(enumerate(STATIC, 1))):
    _name = _entry.name.encode("latin-1")
    if _entry.value:
        _STATIC_PAIRS[_name, _entry.value.encode("latin-1")] = bytes((0x80 | _index,))
    _STATIC_NAMES[_name] = _index


class Encoder:
    """The encoder of one connection.

    changes     grows with each change of the table, and while a change of its size is still to be sent. What was encoded at one number
                can be sent again at the same number
    differs     whether the last block would be encoded in another way the next time, because a field in it will be inserted then
    """

    __slots__ = ("_by_pair", "_inserted", "_limit", "_names", "_order", "_pending", "_seen", "_size", "changes", "differs")

    def __init__(self, names: frozenset[bytes] | None = None) -> None:
        """`names` are those of fields that may be inserted, None for all."""
        self._names = names
        self._by_pair: dict[Pair, int] = {}  # the number of each entry in the table
        self._order: deque[tuple[Pair, int]] = deque()  # the entries and their sizes, the oldest first
        self._inserted = 0
        self._size = 0
        self._limit = TABLE_SIZE
        self._pending: list[int] = []  # sizes of the table that are to be sent with the next block
        self._seen: dict[Pair, None] = {}
        self.changes = 0
        self.differs = False

    def resize(self, limit: int) -> None:
        """The peer's SETTINGS_HEADER_TABLE_SIZE, in bytes. A larger table than the default one is not used (section 4.2)."""
        limit = min(limit, TABLE_SIZE)
        if limit == self._limit and not self._pending:
            return
        self._limit = limit
        self._make_room(0)
        # The smallest size in between has to be sent too, since the peer may have evicted entries at it.
        smallest = min(self._pending[0], limit) if self._pending else limit
        self._pending = [smallest, limit] if smallest < limit else [limit]
        self.changes += 1

    def encode(self, pairs: list[Pair]) -> bytes:
        """The block of `pairs`. It has to be sent, and before the next one."""
        parts: list[bytes] = []
        self.differs = False
        if self._pending:
            for limit in self._pending:
                parts.append(_integer(0x20, 0x1F, limit))
            self._pending = []
            self.changes += 1
        for pair in pairs:
            known = _STATIC_PAIRS.get(pair)
            if known is not None:
                parts.append(known)
                continue
            number = self._by_pair.get(pair, -1)
            if number >= 0:
                parts.append(_integer(0x80, 0x7F, len(STATIC) + self._inserted - number))
                continue
            name, value = pair
            size = len(name) + len(value) + 32
            first, mask = 0x00, 0x0F
            if name in _SENSITIVE:
                first = 0x10
            elif (
                size <= INSERTED_AT_MOST
                and size <= self._limit
                and name not in _NOT_INSERTED
                and (self._names is None or name in self._names)
                and self._was_seen(pair)
            ):
                first, mask = 0x40, 0x3F
                self._insert(pair, size)
            index = _STATIC_NAMES.get(name, 0)
            parts.append(_integer(first, mask, index))
            if not index:
                parts.append(_string(name))
            parts.append(_string(value))
        return b"".join(parts)

    def _was_seen(self, pair: Pair) -> bool:
        if pair in self._seen:
            del self._seen[pair]
            return True
        if len(self._seen) >= SEEN_AT_MOST:
            self._seen.clear()
        self._seen[pair] = None
        self.differs = True
        return False

    def _insert(self, pair: Pair, size: int) -> None:
        self.changes += 1
        self._make_room(size)
        self._order.append((pair, size))
        self._by_pair[pair] = self._inserted
        self._inserted += 1
        self._size += size

    def _make_room(self, size: int) -> None:
        while self._order and self._size + size > self._limit:
            pair, its_size = self._order.popleft()
            del self._by_pair[pair]
            self._size -= its_size


def _integer(first: int, mask: int, value: int) -> bytes:
    """Section 5.1."""
    if value < mask:
        return bytes((first | value,))
    out = bytearray((first | mask,))
    value -= mask
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _string(text: bytes) -> bytes:
    """Section 5.2: the shorter of both forms."""
    code = encode_huffman(text)
    if len(code) < len(text):
        return _integer(0x80, 0x7F, len(code)) + code
    return _integer(0x00, 0x7F, len(text)) + text
