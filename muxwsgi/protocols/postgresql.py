"""PostgreSQL: what a client sends before or as its startup message."""

from muxwsgi.mux.matchers import regex
from muxwsgi.protocols import Protocol, Speaks

__all__ = ["PROTOCOL", "postgresql"]

#: Four bytes of length, and four of a code: cancel, TLS, GSSAPI; or the version 3.0.
postgresql = regex(rb"(?s)\x00\x00.{2}(?:\x04\xd2\x16[\x2e-\x30]|\x00\x03\x00\x00)")

PROTOCOL = Protocol(
    name="PostgreSQL",
    defined_in="PostgreSQL, Message Formats",
    speaks_first=Speaks.CLIENT,
    match=postgresql,
    alpn=("postgresql",),
    begins=(b"\0\0\0\x08\x04\xd2\x16\x2f", b"\0\0\0\x4d\0\3\0\0user\0ann\0\0"),
    not_begins=(b"\0\0\0\x08\x04\xd2\x16\x2d", b"\0\0\0\x55\xffSMBr"),
)
