"""NATS: the CONNECT of a client, after the INFO of the server."""

from muxwsgi.mux.matchers import regex
from muxwsgi.protocols import Protocol, Speaks

__all__ = ["PROTOCOL", "nats"]

nats = regex(rb"(?i)CONNECT[ \t]+\{")

PROTOCOL = Protocol(
    name="NATS",
    defined_in="NATS client protocol, CONNECT",
    speaks_first=Speaks.SERVER,
    match=nats,
    begins=(b'CONNECT {"verbose":false}\r\n', b'connect\t{"verbose":false}\r\n'),
    not_begins=(b"CONNECT a:1 HTTP/1.1\r\n", b"CONNECT\n", b"INFO {}\r\n"),
)
