"""Decodes field blocks (RFC 7541): the receiver's side of HPACK.

A block that changes no table is remembered, and as long as no other block changes the table, the same bytes mean the same fields: most
requests of a connection differ in few bytes or in none. A block that inserts an entry is never remembered, since decoding it again has to
insert again.

A decoder cannot be used after an error, because its table is not that of the peer any more (RFC 9113 section 4.3).
"""

from muxwsgi.http.h2.errors import COMPRESSION_ERROR, ENHANCE_YOUR_CALM, ConnectionFault
from muxwsgi.http.h2.field import STATIC, TABLE_SIZE, Field, field
from muxwsgi.http.h2.huffman import decode as decode_huffman

__all__ = ["Decoder"]

#: Bytes of a block that is remembered, at most.
REMEMBERED_AT_MOST = 2048

#: How many times the allowed bytes the fields of one block may have until it is not decoded any further. A byte can stand for an entry of
#: 4 KiB, so a block of 256 KiB for a gigabyte. What is a little too much gets a 431, and for that all of it has to be decoded.
FAR_TOO_LARGE = 16

#: Places for entries, as many as a table of that size can have. A power of two.
_RING = TABLE_SIZE // 32


class Decoder:
    """The decoder of one connection.

    remembers   whether the list that was returned last is returned again for the same block
    too_large   whether the last block had more than the given number of bytes in fields. The rest of them was left out
    """

    __slots__ = (
        "_at",
        "_block",
        "_block_changes",
        "_changes",
        "_count",
        "_far_too_much",
        "_fields",
        "_inserted",
        "_limit",
        "_most",
        "_ring",
        "_size",
        "remembers",
        "too_large",
    )

    def __init__(self, most: int) -> None:
        """`most` are the bytes of the fields of one block, as tables count them: each name and value, and 32."""
        self._most = most
        self._far_too_much = most * FAR_TOO_LARGE
        self._ring: list[Field | None] = [None] * _RING
        self._inserted = 0  # entries since the beginning; the newest is in the ring at this number - 1
        self._count = 0
        self._size = 0
        self._limit = TABLE_SIZE
        self._changes = 0  # of the table, since the beginning
        self._block = b""  # the block that is remembered, and its fields
        self._fields: list[Field] = []
        self._block_changes = -1  # the changes when it was decoded
        self._at = 0
        self.too_large = False
        self.remembers = False

    def decode(self, block: bytes) -> list[Field]:
        """The fields of `block`. The same block gives the same list, so nobody may change it. Raises `ConnectionFault`
        (COMPRESSION_ERROR, and ENHANCE_YOUR_CALM for one that is far too large)."""
        if self._block_changes == self._changes and block == self._block:
            self.remembers = True
            self.too_large = False  # as the block before may have been
            return self._fields
        data = block  # a pointer in the compiled build
        end = len(block)
        at = 0
        total = 0
        begun = False
        before = self._changes
        fields: list[Field] = []
        self.too_large = False
        while at < end:
            octet = data[at]
            at += 1
            if octet & 0x80:  # an indexed field (section 6.1)
                index = octet & 0x7F
                if index == 0x7F:
                    index = self._integer(data, at, end, 0x7F)
                    at = self._at
                entry = self._entry(index)
            elif octet & 0xE0 == 0x20:  # a size of the table (section 6.3)
                index = octet & 0x1F
                if index == 0x1F:
                    index = self._integer(data, at, end, 0x1F)
                    at = self._at
                if begun:
                    raise ConnectionFault(COMPRESSION_ERROR, "a table size behind a field")
                if index > TABLE_SIZE:
                    raise ConnectionFault(COMPRESSION_ERROR, "a table size above the limit")
                self._limit = index
                self._changes += 1
                self._make_room(0)
                continue
            else:  # a literal (section 6.2), which is inserted with 0x40
                mask = 0x3F if octet & 0x40 else 0x0F
                index = octet & mask
                if index == mask:
                    index = self._integer(data, at, end, mask)
                    at = self._at
                if index:
                    known = self._entry(index)
                    name = known.name
                else:
                    name = self._string(block, at, end)
                    at = self._at
                value = self._string(block, at, end)
                at = self._at
                entry = field(name, value)
                if octet & 0x40:
                    self._insert(entry)
            begun = True
            total += entry.size
            if total > self._most:
                self.too_large = True  # decoding goes on for the sake of the table
                if total > self._far_too_much:
                    raise ConnectionFault(ENHANCE_YOUR_CALM, "a field block is far too large when it is decoded")
            else:
                fields.append(entry)
        self.remembers = before == self._changes and not self.too_large and end <= REMEMBERED_AT_MOST
        if self.remembers:
            self._block = block
            self._fields = fields
            self._block_changes = before
        return fields

    def _entry(self, index: int) -> Field:
        """The entry `index` of both tables (section 2.3.3)."""
        if index <= _STATIC_COUNT:
            if index == 0:
                raise ConnectionFault(COMPRESSION_ERROR, "the index 0")
            return STATIC[index - 1]
        back = index - _STATIC_COUNT
        if back > self._count:
            raise ConnectionFault(COMPRESSION_ERROR, "an index beyond the table")
        found = self._ring[(self._inserted - back) & (_RING - 1)]
        assert found is not None
        return found

    def _insert(self, entry: Field) -> None:
        """Section 4.4: an entry that is larger than the table empties it."""
        self._changes += 1
        self._make_room(entry.size)
        if entry.size <= self._limit:
            self._ring[self._inserted & (_RING - 1)] = entry
            self._inserted += 1
            self._count += 1
            self._size += entry.size

    def _make_room(self, size: int) -> None:
        while self._count and self._size + size > self._limit:
            place = (self._inserted - self._count) & (_RING - 1)
            oldest = self._ring[place]
            assert oldest is not None
            self._ring[place] = None
            self._count -= 1
            self._size -= oldest.size

    def _integer(self, data: bytes, at: int, end: int, value: int) -> int:
        """An integer that began with a full prefix of `value` (section 5.1), and `_at` behind it. Four octets are enough for every index
        and length that a block can have."""
        shift = 0
        while True:
            if at >= end or shift > 21:
                raise ConnectionFault(COMPRESSION_ERROR, "an integer that is not complete, or too large")
            octet = data[at]
            at += 1
            value += (octet & 0x7F) << shift
            shift += 7
            if octet < 0x80:
                break
        self._at = at
        return value

    def _string(self, block: bytes, at: int, end: int) -> str:
        """A string (section 5.2), and `_at` behind it."""
        if at >= end:
            raise ConnectionFault(COMPRESSION_ERROR, "a string is missing")
        octet = block[at]
        at += 1
        length = octet & 0x7F
        if length == 0x7F:
            length = self._integer(block, at, end, 0x7F)
            at = self._at
        if length > end - at:
            raise ConnectionFault(COMPRESSION_ERROR, "a string that is longer than its block")
        self._at = at + length
        if octet & 0x80:
            return decode_huffman(block, at, at + length)
        return block[at : at + length].decode("latin-1")


_STATIC_COUNT = len(STATIC)
