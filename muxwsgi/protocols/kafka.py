"""Kafka: the header of a client's first request: ApiVersions, Metadata or SaslHandshake."""

from muxwsgi.mux.matchers import regex
from muxwsgi.protocols import Protocol, Speaks

__all__ = ["PROTOCOL", "kafka"]

#: Length below 64 KiB, API and its version, a small correlation id, and the length of the client id, which may be null.
kafka = regex(
    rb"(?s)\x00\x00(?:\x00[\x0a-\xff]|[\x01-\xff].)\x00(?:\x12\x00[\x00-\x0f]|\x03\x00[\x00-\x1f]|\x11\x00[\x00\x01])\x00\x00..(?:\x00.|\xff\xff)"
)

PROTOCOL = Protocol(
    name="Kafka",
    defined_in="Apache Kafka protocol guide, Request Header",
    speaks_first=Speaks.CLIENT,
    match=kafka,
    begins=(b"\0\0\0\x1a\0\x12\0\0\0\0\0\1\0\x10kafka-python-2.0", b"\0\0\0\x0a\0\3\0\0\0\0\0\0\xff\xff"),
    not_begins=(b"\0\0\0\x1a\0\x12\1\0\0\0\0\1\0\x10", b"\0\0\0\x4d\0\3\0\0user\0ann\0\0"),
)
