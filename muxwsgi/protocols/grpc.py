"""gRPC: HTTP/2 whose first request has a content type of gRPC.

Nothing is decoded: a field block of HPACK (RFC 7541) is walked over, and a value is compared as it is and in its Huffman code. So this
needs neither tables nor the package of HTTP/2.
"""

from muxwsgi.mux.match import Match
from muxwsgi.mux.matchers import named
from muxwsgi.protocols import Protocol, Speaks
from muxwsgi.protocols.http2 import PREFACE

__all__ = ["PROTOCOL", "grpc"]

_HEADERS, _SETTINGS, _WINDOW_UPDATE, _PING, _PRIORITY = 1, 4, 8, 6, 2
#: Frames that a client may send in front of its first request.
_BEFORE = frozenset({_SETTINGS, _WINDOW_UPDATE, _PING, _PRIORITY})
_PADDED, _WITH_PRIORITY = 0x8, 0x20

#: Bytes of a frame, at most: no client may send more before it has seen our SETTINGS (RFC 9113 section 4.2).
_LONGEST_FRAME = 16384

#: `content-type`, by its place in the static table, as it is, and in the Huffman code.
_CONTENT_TYPE = 31
_NAMES = (b"content-type", bytes.fromhex("21ea496a4ac9f5597f"))
#: `application/grpc` as it is, and in the Huffman code, where it fills whole bytes. Behind it is nothing, `+` or `;`: gRPC-Web has `-`.
_VALUE = b"application/grpc"
_CODED = bytes.fromhex("1d75d0620d263d4c4d6564")
_BEHIND, _CODED_BEHIND = (b"", b"+", b";"), (b"", b"\xff", b"\xfb")


class _Malformed(Exception):
    pass


#: SETTINGS without a setting, and their acknowledgement (RFC 9113 section 6.5).
_OPENING, _ACKNOWLEDGED = b"\0\0\0\x04\0\0\0\0\0", b"\0\0\0\x04\x01\0\0\0\0"


class _Settings:
    """Many clients of gRPC send no request before they have seen the SETTINGS of the server. The server that gets the connection sends its
    own, as it may at any time. It has not sent these, so it must not see them acknowledged: grpcio takes that for an error."""

    def said_to(self, data: bytes) -> bytes:
        at = len(PREFACE)
        if not data.startswith(PREFACE) or len(data) < at + 9 or data[at + 3] != _SETTINGS:
            return b""
        return _OPENING if len(data) >= at + 9 + int.from_bytes(data[at : at + 3], "big") else b""

    def without_answer(self, data: bytes) -> bytes | None:
        at = len(PREFACE)
        while len(data) >= at + 9:
            if data[at : at + 9] == _ACKNOWLEDGED:
                return data[:at] + data[at + 9 :]
            at += 9 + int.from_bytes(data[at : at + 3], "big")
        return None


@named("grpc", prompt=_Settings(), into=frozenset({"h2"}))
def grpc(data: bytes) -> Match:
    """The preface of HTTP/2, and in the first HEADERS frame a content-type that begins with `application/grpc`.

    A client that waits for the SETTINGS of the server before its first request is sent an empty one.
    """
    if not data.startswith(PREFACE):
        return Match.MORE if PREFACE.startswith(data) else Match.NO
    at = len(PREFACE)
    first = True
    while len(data) >= at + 9:
        length = int.from_bytes(data[at : at + 3], "big")
        kind, flags = data[at + 3], data[at + 4]
        if length > _LONGEST_FRAME or (first and kind != _SETTINGS):
            return Match.NO
        if kind != _HEADERS and kind not in _BEFORE:
            return Match.NO
        at += 9
        if len(data) < at + length:
            return Match.MORE
        if kind == _HEADERS:
            try:
                return Match.YES if _is_grpc(_block(data[at : at + length], flags)) else Match.NO
            except (_Malformed, IndexError):
                return Match.NO
        at += length
        first = False
    return Match.MORE


def _block(payload: bytes, flags: int) -> bytes:
    """The field block in a HEADERS frame (RFC 9113 section 6.2)."""
    start, end = 0, len(payload)
    if flags & _PADDED:
        end -= payload[0]
        start = 1
    if flags & _WITH_PRIORITY:
        start += 5
    return payload[start:end]


def _is_grpc(block: bytes) -> bool:
    at = 0
    while at < len(block):
        octet = block[at]
        if octet & 0x80:  # an indexed field: no table has ours in a first block, unless it is in this one already
            at = _number(block, at, 0x7F)[1]
        elif octet & 0xE0 == 0x20:  # a size of the table
            at = _number(block, at, 0x1F)[1]
        else:
            index, at = _number(block, at, 0x3F if octet & 0x40 else 0x0F)
            name = b""
            if not index:
                name, at, _ = _string(block, at)
            value, at, coded = _string(block, at)
            if index == _CONTENT_TYPE or name in _NAMES:
                wanted, behind = (_CODED, _CODED_BEHIND) if coded else (_VALUE, _BEHIND)
                return value.startswith(wanted) and value[len(wanted) : len(wanted) + 1] in behind
    return False


def _number(block: bytes, at: int, most: int) -> tuple[int, int]:
    """An integer whose prefix has the bits of `most` (RFC 7541 section 5.1), and the place behind it."""
    value = block[at] & most
    at += 1
    if value < most:
        return value, at
    for shift in (0, 7, 14):
        octet = block[at]
        at += 1
        value += (octet & 0x7F) << shift
        if octet < 0x80:
            return value, at
    raise _Malformed


def _string(block: bytes, at: int) -> tuple[bytes, int, bool]:
    """A string as it stands there, the place behind it, and whether it is in the Huffman code."""
    coded = block[at] >= 0x80
    length, at = _number(block, at, 0x7F)
    if at + length > len(block):
        raise _Malformed
    return block[at : at + length], at + length, coded


_SETTINGS_FRAME = b"\0\0\0\4\0\0\0\0\0"
#: POST, http, the path /a/b, the authority a, and the name `content-type`.
_REQUEST = b"\x83\x86\x44\4/a/b\x41\1a\x5f"


def _opening(content_type: bytes) -> bytes:
    block = _REQUEST + bytes((len(content_type),)) + content_type
    return PREFACE + _SETTINGS_FRAME + len(block).to_bytes(3, "big") + b"\1\4\0\0\0\1" + block


PROTOCOL = Protocol(
    name="gRPC",
    defined_in="gRPC over HTTP2, Requests; RFC 9113 section 3.4",
    speaks_first=Speaks.CLIENT,
    match=grpc,
    refines=("HTTP/2",),
    begins=(_opening(b"application/grpc"), _opening(b"application/grpc+proto")),
    not_begins=(_opening(b"application/json"), PREFACE + b"\0\0\0\1\4\0\0\0\1"),
)
