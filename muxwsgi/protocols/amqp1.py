"""AMQP 1.0: the protocol header, of AMQP itself, of TLS or of SASL."""

from muxwsgi.mux.matchers import prefix
from muxwsgi.protocols import Protocol, Speaks

__all__ = ["PROTOCOL", "amqp1"]

amqp1 = prefix(b"AMQP\0\1\0\0", b"AMQP\2\1\0\0", b"AMQP\3\1\0\0")

PROTOCOL = Protocol(
    name="AMQP 1.0",
    defined_in="AMQP 1.0 sections 2.2, 5.2.1 and 5.3.1",
    speaks_first=Speaks.CLIENT,
    match=amqp1,
    begins=(b"AMQP\3\1\0\0", b"AMQP\0\1\0\0", b"AMQP\2\1\0\0"),
    not_begins=(b"AMQP\1\1\0\x09", b"AMQP\0\0\x09\1"),
)
