"""The Huffman code of HPACK (RFC 7541 section 5.2 and appendix B).

The code is canonical: codes of one length are consecutive numbers, in the order of their symbols. So the lengths define it, and the table
below has nothing else. Most symbols of requests have codes of up to nine bits, and are found by the next nine bits of the text. A longer
code is found by its length: it is the first whose number lies in the range of that length.
"""

from muxwsgi.http.h2.errors import COMPRESSION_ERROR, ConnectionFault

__all__ = ["decode", "encode"]

#: The length of the code of each octet, in bits, and at last that of EOS.
_TABLE = """
    13 23 28 28 28 28 28 28 28 24 30 28 28 30 28 28 28 28 28 28 28 28 30 28 28 28 28 28 28 28 28 28 6 10 10 12 13 6 8 11 10 10 8 11 8 6 6 6
    5 5 5 6 6 6 6 6 6 6 7 8 15 6 12 10 13 6 7 7 7 7 7 7 7 7 7 7 7 7 7 7 7 7 7 7 7 7 7 7 8 7 8 13 19 13 14 6 15 5 6 5 6 5 6 6 6 5 7 7 6 6 6
    5 6 7 6 5 5 6 7 7 7 7 7 15 11 14 13 28 20 22 20 20 22 22 22 23 22 23 23 23 23 23 24 23 24 24 22 23 24 23 23 23 23 21 22 23 22 23 23 24
    22 21 20 22 22 23 23 21 23 22 22 24 21 22 23 23 21 21 22 21 23 22 23 23 20 22 22 22 23 22 22 23 26 26 20 19 22 23 22 25 26 26 26 27 27
    26 24 25 19 21 26 27 27 26 27 24 21 21 26 26 28 27 27 27 20 24 20 21 22 21 21 23 22 22 25 25 24 24 26 23 26 27 26 26 27 27 27 27 27 28
    27 27 27 27 27 26 30
    """
_LENGTHS = bytes(map(int, _TABLE.split()))
_EOS = 256
_LONGEST = 30
_SHORT = 9

#: By length: the first code, how many there are, and the place of the first one's symbol in `_SORTED`.
_FIRST = [0] * (_LONGEST + 1)
_COUNT = [0] * (_LONGEST + 1)
_PLACE = [0] * (_LONGEST + 1)
_SORTED: list[int] = []

#: The code of each octet, and of EOS.
_CODES = [0] * (_EOS + 1)

#: By nine bits: the symbol whose code they begin with, and its length; 0 for a longer code.
_SHORT_SYMBOLS = bytearray(1 << _SHORT)
_SHORT_LENGTHS = bytearray(1 << _SHORT)


def _prepare() -> None:
    code = 0
    for length in range(1, _LONGEST + 1):
        code <<= 1
        _FIRST[length] = code
        _PLACE[length] = len(_SORTED)
        for symbol in range(_EOS + 1):
            if _LENGTHS[symbol] != length:
                continue
            _CODES[symbol] = code
            _COUNT[length] += 1
            _SORTED.append(symbol)
            if length <= _SHORT:
                spread = 1 << (_SHORT - length)
                at = code * spread
                _SHORT_SYMBOLS[at : at + spread] = bytes((symbol,)) * spread
                _SHORT_LENGTHS[at : at + spread] = bytes((length,)) * spread
            code += 1


_prepare()


def decode(data: bytes, at: int, end: int) -> str:
    """The text of the code in `data` from `at` to `end`, as latin-1. Raises `ConnectionFault` (COMPRESSION_ERROR) for EOS in it, and for
    padding that is longer than seven bits or not all ones."""
    text = data  # a pointer in the compiled build
    symbols = _SHORT_SYMBOLS
    lengths = _SHORT_LENGTHS
    out = bytearray((end - at) * 8 // 5 + 1)
    count = 0
    bits = 0
    have = 0  # bits of `bits` that are not decoded yet
    while True:
        if have <= 48 and at < end:
            bits &= (_ONE << have) - 1
            while have <= 48 and at < end:
                bits = bits << 8 | text[at]
                at += 1
                have += 8
        if have < 5:
            break
        if have >= 9:
            window = bits >> (have - 9) & 511
        else:
            window = (bits << (9 - have) | ((_ONE << (9 - have)) - 1)) & 511
        size = lengths[window]
        if size:
            if size > have:
                break
            out[count] = symbols[window]
        else:
            size = _long(bits, have)
            if not size:
                break
            symbol = _SORTED[_PLACE[size] + (bits >> (have - size) & ((_ONE << size) - 1)) - _FIRST[size]]
            if symbol == _EOS:
                have = 8  # an error
                break
            out[count] = symbol
        count += 1
        have -= size
    if have > 7 or bits & ((_ONE << have) - 1) != (_ONE << have) - 1:
        raise ConnectionFault(COMPRESSION_ERROR, "a Huffman code that is malformed")
    return out[:count].decode("latin-1")


def _long(bits: int, have: int) -> int:
    """The length of the code that the last `have` bits of `bits` begin with, if it has ten bits or more; 0 if it is not complete."""
    size = _SHORT + 1
    while size <= _LONGEST and size <= have:
        if 0 <= (bits >> (have - size) & ((_ONE << size) - 1)) - _FIRST[size] < _COUNT[size]:
            return size
        size += 1
    return 0


def encode(text: bytes) -> bytes:
    """The code of `text`, padded with ones. It may be longer than `text`."""
    lengths = _LENGTHS
    out = bytearray()
    bits = 0
    have = 0
    for octet in text:
        size = lengths[octet]
        bits = bits << size | _CODES[octet]
        have += size
        while have >= 8:
            have -= 8
            out.append(bits >> have & 255)
        bits &= (_ONE << have) - 1
    if have:
        out.append((bits << (8 - have) | ((_ONE << (8 - have)) - 1)) & 255)
    return bytes(out)


#: In the compiled build it has 64 bits, as the shifted values need.
_ONE = 1
