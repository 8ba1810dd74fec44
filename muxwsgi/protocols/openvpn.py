"""OpenVPN over TCP: the first packet of a client, a hard reset.

Two bytes of length, opcode and key id, eight bytes of session id. Then, by the options of the operator:

    nothing                     no acknowledgements, packet 0
    tls-auth                    an HMAC, packet id 1, four bytes of time, no acknowledgements, packet 0
    tls-crypt, tls-crypt-v2     packet id 1 (or 0x0f000001), four bytes of time, encrypted bytes
"""

from muxwsgi.mux.matchers import regex
from muxwsgi.protocols import Ambiguity, Protocol, Speaks

__all__ = ["PROTOCOL", "openvpn"]

_NOTHING_ACKNOWLEDGED = rb"\x00\x00\x00\x00\x00"
#: The lengths of a packet with an HMAC of 16, 20, 28, 32, 48 or 64 bytes.
_WITH_HMAC = rb"|".join(
    rb"\x00\x%02x\x38.{8}.{%d}\x00\x00\x00\x01.{4}%b" % (22 + size, size, _NOTHING_ACKNOWLEDGED) for size in (16, 20, 28, 32, 48, 64)
)

openvpn = regex(
    rb"(?s)\x00\x0e\x38.{8}%b" % _NOTHING_ACKNOWLEDGED
    + rb"|\x00\x36\x38.{8}[\x00\x0f]\x00\x00\x01"  # tls-crypt
    + rb"|(?:\x00[\x36-\xff]|[\x01-\x05].)\x50.{8}[\x00\x0f]\x00\x00\x01"  # tls-crypt-v2, with the client's key
    + rb"|"
    + _WITH_HMAC
)

PROTOCOL = Protocol(
    name="OpenVPN",
    defined_in="draft-ietf-opsawg-openvpn; OpenVPN, ssl_pkt.h",
    speaks_first=Speaks.CLIENT,
    match=openvpn,
    ambiguous=(
        Ambiguity("DNS", b"\0\x36\x38\0\0\0\0\1\0\0\0\0\0\0\1", "a session id that is, in 64 bits, the header of a query"),
        Ambiguity("SOCKS", b"\5\1\x50\0\0\0\0\0\0\0\0\0\0\0\1", "tls-crypt-v2 with a packet of 1,281 bytes"),
    ),
    begins=(
        b"\0\x0e\x38\1\2\3\4\5\6\7\x08\0\0\0\0\0",
        b"\0\x2a\x38\1\2\3\4\5\6\7\x08" + b"h" * 20 + b"\0\0\0\1\x68\0\0\0" + b"\0\0\0\0\0",
        b"\0\x36\x38\1\2\3\4\5\6\7\x08\0\0\0\1\x68\0\0\0" + b"c" * 35,
        b"\2\x30\x50\1\2\3\4\5\6\7\x08\x0f\0\0\1\x68\0\0\0" + b"c" * 35,
    ),
    not_begins=(b"\0\x0e\x38\1\2\3\4\5\6\7\x08\0\0\0\0\1", b"\0\x0e\x40\1\2\3", b"\0\x0f\x38\1"),
)
