"""Cassandra: OPTIONS or STARTUP, in the native protocol 3 to 6 (and what DataStax made of it)."""

from muxwsgi.mux.matchers import regex
from muxwsgi.protocols import Protocol, Speaks

__all__ = ["PROTOCOL", "cassandra"]

#: Version, no flags (6 is a draft, and has one), a low stream, and the opcode. OPTIONS has no body, and STARTUP
#: a short map of strings.
cassandra = regex(
    rb"(?s)(?:[\x03-\x05\x41\x42]\x00|\x06\x10)[\x00-\x4f].(?:\x05\x00{4}|\x01\x00\x00[\x00-\x07].\x00[\x01-\x08]\x00[\x01-\x40])"
)

PROTOCOL = Protocol(
    name="Cassandra",
    defined_in="CQL binary protocol v5 section 2, v4 section 2",
    speaks_first=Speaks.CLIENT,
    match=cassandra,
    begins=(b"\5\0\0\0\5\0\0\0\0", b"\4\0\0\1\1\0\0\0\x16\0\1\0\x0bCQL_VERSION"),
    not_begins=(b"\5\1\0", b"\4\0\0\0\7\0\0\0\0", b"\x84\0\0\0\6"),
)
