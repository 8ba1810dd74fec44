"""SOCKS 4, 4a and 5: what a client sends first. The door of the proxy serves them."""

from muxwsgi.mux.match import Match
from muxwsgi.mux.matchers import any_of, named, regex
from muxwsgi.protocols import Protocol, Speaks

__all__ = ["LONGEST_STRING", "NONE_ACCEPTABLE", "PROTOCOL", "has_name", "socks", "socks4", "socks5"]

#: The method by which a server of SOCKS 5 refuses all that the client offers.
NONE_ACCEPTABLE = 0xFF

#: Bytes of the user id and of the host name in SOCKS 4, which has no limit. A DNS name has 255 bytes at most (RFC 1035 section 2.3.4).
LONGEST_STRING = 255


@named("socks5")
def socks5(data: bytes) -> Match:
    """The greeting of SOCKS 5, `05 NMETHODS METHODS` (RFC 1928 section 3), all of it.

    A `YES` does not prove SOCKS: any protocol whose first bytes are 5, a count above 0 and that many bytes other than FF would do.
    """
    if data[:1] not in (b"", b"\x05") or data[1:2] == b"\x00":
        return Match.NO
    if len(data) < 2:
        return Match.MORE
    methods = data[2 : 2 + data[1]]
    if NONE_ACCEPTABLE in methods:  # only a server sends it
        return Match.NO
    return Match.YES if len(methods) == data[1] else Match.MORE


@named("socks4")
def socks4(data: bytes) -> Match:
    """A whole request of SOCKS 4 or 4a: `04 CD DSTPORT DSTIP USERID 00`, and `HOST 00` where the address is 0.0.0.x with x not 0.

    CD is 1 or 2, and user id and host have at most 255 bytes.
    """
    if data[:1] not in (b"", b"\x04") or data[1:2] not in (b"", b"\x01", b"\x02"):
        return Match.NO
    strings = 2 if has_name(data[4:8]) else 1
    at = 8
    for _ in range(strings):
        end = data.find(b"\0", at, at + LONGEST_STRING + 1)
        if end < 0:
            return Match.NO if len(data) > at + LONGEST_STRING else Match.MORE
        at = end + 1
    return Match.YES


def has_name(address: bytes) -> bool:
    """Whether the address is 0.0.0.x: in SOCKS 4a a host name follows."""
    return address[:3] == b"\0\0\0" and address[3:] not in (b"", b"\0")


socks = any_of(socks5, socks4)

PROTOCOL = Protocol(
    name="SOCKS",
    defined_in="RFC 1928 section 3; Ying-Da Lee, SOCKS",
    speaks_first=Speaks.CLIENT,
    match=socks,
    loose=regex(rb"(?s)\x05[\x01-\x09]|\x04[\x01\x02].."),
    begins=(
        b"\x05\x01\x00",
        b"\x05\x02\x00\x02",
        b"\x04\x01\x00\x50\xc0\x00\x02\x01ann\0",
        b"\x04\x01\x00\x50\x00\x00\x00\x01\0example.com\0",
    ),
    not_begins=(b"\x05\x00", b"\x05\x01\xff", b"\x04\x03\x00\x50"),
)
