"""Minecraft (Java edition): the handshake of a client, and the ping of old ones."""

from muxwsgi.mux.match import Match
from muxwsgi.mux.matchers import any_of, named, prefix
from muxwsgi.protocols import Protocol, Speaks

__all__ = ["PROTOCOL", "minecraft"]

#: Bytes of the server's address, at most (in four-byte characters).
_LONGEST_ADDRESS = 255 * 4


@named("handshake")
def handshake(data: bytes) -> Match:
    """A whole handshake: `LENGTH 00 VERSION ADDRESS PORT NEXT`. Lengths and version are VarInts of 7 bits a byte, and NEXT is status,
    login or transfer."""
    length, at = _varint(data, 0, 2)
    if length < 0:
        return Match.MORE if at > len(data) else Match.NO
    if not 7 <= length <= _LONGEST_ADDRESS + 11:
        return Match.NO
    end = at + length
    if data[at : at + 1] not in (b"", b"\0"):
        return Match.NO
    version, at = _varint(data, at + 1, 5)
    if version < 0:
        return Match.MORE if at > len(data) else Match.NO
    size, at = _varint(data, at, 2)
    if size < 0:
        return Match.MORE if at > len(data) else Match.NO
    if at + size + 3 != end or not 1 <= size <= _LONGEST_ADDRESS:
        return Match.NO
    if len(data) < end:
        return Match.MORE
    return Match.YES if data[end - 1] in b"\1\2\3" else Match.NO


def _varint(data: bytes, at: int, most: int) -> tuple[int, int]:
    """The number at `at`, and the place behind it. -1 where it has more than `most` bytes, or does not end yet: then the place is behind
    `data`."""
    value = 0
    for n in range(most):
        if at + n >= len(data):
            return -1, len(data) + 1
        value |= (data[at + n] & 0x7F) << 7 * n
        if data[at + n] < 0x80:
            return value, at + n + 1
    return -1, 0


minecraft = named("minecraft")(any_of(handshake, prefix(b"\xfe\x01\xfa\0\x0b\0M\0C\0|")))

PROTOCOL = Protocol(
    name="Minecraft",
    defined_in="Minecraft protocol, Handshake and Server List Ping",
    speaks_first=Speaks.CLIENT,
    match=minecraft,
    begins=(
        b"\x10\0\xff\5\x09localhost\x63\xdd\1\1\0",
        b"\x14\0\xff\xff\xff\xff\x0f\x0amc.example\x63\xdd\2",
        b"\xfe\1\xfa\0\x0b\0M\0C\0|\0P\0i\0n\0g\0H\0o\0s\0t",
    ),
    not_begins=(b"\x10\0\4MQTT", b"\x10\0\xff\5\x09localhost\x63\xdd\4", b"\x06\0\x2f\1a\x63\xdd"),
)
