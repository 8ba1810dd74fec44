"""Redis: a command of RESP."""

from muxwsgi.mux.matchers import regex
from muxwsgi.protocols import Protocol, Speaks

__all__ = ["PROTOCOL", "redis"]

#: A command as an array. Inline commands, which people type, look like many other protocols.
redis = regex(rb"\*[0-9]+\r")

PROTOCOL = Protocol(
    name="Redis",
    defined_in="Redis serialization protocol specification",
    speaks_first=Speaks.CLIENT,
    match=redis,
    begins=(b"*1\r\n$4\r\nPING\r\n", b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1\r\nv\r\n"),
    not_begins=(b"PING\r\n", b"*a\r\n"),
)
