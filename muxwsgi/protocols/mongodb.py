"""MongoDB: the header of a client's first message.

Length, request id, 0 for the message that it answers, and an opcode (a query, a compressed message or OP_MSG), each of four bytes, the
lowest first. The first message is shorter than 64 KiB.
"""

from muxwsgi.mux.matchers import regex
from muxwsgi.protocols import Ambiguity, Protocol, Speaks

__all__ = ["PROTOCOL", "mongodb"]

mongodb = regex(rb"(?s)(?:[\x1a-\xff]\x00|.[\x01-\xff])\x00\x00.{4}\x00\x00\x00\x00[\xd4\xdc\xdd]\x07\x00\x00")

PROTOCOL = Protocol(
    name="MongoDB",
    defined_in="MongoDB wire protocol, Standard message header",
    speaks_first=Speaks.CLIENT,
    match=mongodb,
    ambiguous=(
        Ambiguity(
            "Cassandra",
            b"B\0\0\0\5\0\0\0\0\0\0\0\xdd\7\0\0",
            "OPTIONS in a dialect of DataStax, and a message of 66 bytes with the request id 5",
        ),
        Ambiguity(
            "Modbus/TCP",
            b"\x1a\0\0\0\0\2\0\x11\0\0\0\0\xdd\7\0\0",
            "a request id that reads as a Modbus request. Drivers count from 1, or take any number",
        ),
        Ambiguity("SOCKS", b"\5\1\0\0\1\0\0\0\0\0\0\0\xdd\7\0\0", "a message of 261 bytes, or another length that reads as a greeting"),
        Ambiguity(
            "TLS", b"\x16\3\0\0\x10\1\0\0\0\0\0\0\xdd\7\0\0", "a message of 790 bytes whose request id reads as the length of a record"
        ),
        Ambiguity(
            "Minecraft",
            b"\x80\1\0\0\x7a\0\0\0\0\0\0\0\xdd\7\0\0" + bytes(113) + b"\1",
            "a message of 384 bytes and more whose contents read as an address",
        ),
    ),
    begins=(
        b"\x3a\0\0\0\1\0\0\0\0\0\0\0\xd4\7\0\0\0\0\0\0admin.$cmd\0",
        b"\x40\1\0\0\1\0\0\0\0\0\0\0\xdd\7\0\0\0\0\0\0\0",
    ),
    not_begins=(b"\x3a\0\0\0\1\0\0\0\0\0\0\0\1\0\0\0", b"\x3a\0\0\0\1\0\0\0\7\0\0\0\xdd\7\0\0"),
)
