"""AMQP 0-9-1: the protocol header."""

from muxwsgi.mux.matchers import prefix
from muxwsgi.protocols import Protocol, Speaks

__all__ = ["PROTOCOL", "amqp"]

#: 0-9-1, and the spellings of 0-8 and 0-9.
amqp = prefix(b"AMQP\0\0\x09\x01", b"AMQP\1\1")

PROTOCOL = Protocol(
    name="AMQP 0-9-1",
    defined_in="AMQP 0-9-1 section 4.2.2",
    speaks_first=Speaks.CLIENT,
    match=amqp,
    begins=(b"AMQP\0\0\x09\x01", b"AMQP\1\1\x08\0"),
    not_begins=(b"AMPQ", b"AMQP\0\1\0\0"),
)
