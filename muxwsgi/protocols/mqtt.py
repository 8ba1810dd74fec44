"""MQTT: the CONNECT packet."""

from muxwsgi.mux.matchers import regex
from muxwsgi.protocols import Protocol, Speaks

__all__ = ["PROTOCOL", "mqtt"]

#: The packet type, one to four bytes of length, and the protocol name of MQTT 3.1.1 and 5, or 3.1.
mqtt = regex(rb"(?s)\x10(?:[\x0c-\x7f]|[\x80-\xff]{1,3}[\x01-\x7f])\x00(?:\x04MQTT|\x06MQIsdp)")

PROTOCOL = Protocol(
    name="MQTT",
    defined_in="OASIS MQTT 5.0 section 3.1",
    speaks_first=Speaks.CLIENT,
    match=mqtt,
    alpn=("mqtt",),
    begins=(b"\x10\x10\0\4MQTT\4\2\0\x3c\0\4abcd", b"\x10\x12\0\6MQIsdp\3\2\0\x3c\0\4abcd"),
    not_begins=(b"\x10\x10\0\4AMQP", b"\x20\2\0\0"),
)
