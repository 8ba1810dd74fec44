"""AMQP: the protocol header."""

from muxwsgi.mux.matchers import prefix
from muxwsgi.protocols import Protocol, Speaks

__all__ = ["PROTOCOL", "amqp"]

amqp = prefix(b"AMQP")

PROTOCOL = Protocol(
    name="AMQP",
    defined_in="AMQP 0-9-1 section 4.2.2; AMQP 1.0 part 2.2",
    speaks_first=Speaks.CLIENT,
    match=amqp,
    begins=(b"AMQP\0\0\x09\x01", b"AMQP\0\1\0\0"),
    not_begins=(b"AMPQ",),
)
