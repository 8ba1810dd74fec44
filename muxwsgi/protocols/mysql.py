"""MySQL and MariaDB: the answer of a client to the greeting of the server."""

from muxwsgi.mux.matchers import regex
from muxwsgi.protocols import Ambiguity, Protocol, Speaks

__all__ = ["PROTOCOL", "mysql"]

#: A length of three bytes, packet 1, capabilities with those of protocol 4.1, the largest packet, a character set, and 19 zeros. It is a
#: request for TLS, or for a login.
mysql = regex(
    rb"(?s)(?:[\x20-\xff]\x00|.[\x01-\xff])\x00\x01.[\x02\x03\x06\x07\x0a\x0b\x0e\x0f\x22\x23\x26\x27\x2a\x2b\x2e\x2f\x82\x83\x86\x87\x8a\x8b\x8e\x8f\xa2\xa3\xa6\xa7\xaa\xab\xae\xaf].{6}.\x00{19}"
)

PROTOCOL = Protocol(
    name="MySQL",
    defined_in="MySQL client/server protocol, HandshakeResponse41 and SSLRequest",
    speaks_first=Speaks.SERVER,
    match=mysql,
    ambiguous=(
        Ambiguity(
            "SOCKS",
            b"\5\1\0\1\0\2" + bytes(26),
            "an answer of 261 bytes, or another length that reads as a greeting. The MySQL client is silent until the server has spoken",
        ),
        Ambiguity("Minecraft", b"\x80\1\0\1\x7a\2" + bytes(123) + b"\1", "the same with a length of 384 bytes"),
    ),
    begins=(b"\x20\0\0\1\x85\xae\xff\1\0\0\0\1\x2d" + bytes(23), b"\x54\0\0\1\x8d\xa6\x0f\0\0\0\0\1\x08" + bytes(23) + b"ann\0"),
    not_begins=(b"\x20\0\0\0\x85\xae", b"\x20\0\0\1\x85\xae\xff\1\0\0\0\1\x2d\1"),
)
