"""SMPP: a bind request of a client that sends or receives short messages."""

from muxwsgi.mux.matchers import regex
from muxwsgi.protocols import Protocol, Speaks

__all__ = ["PROTOCOL", "smpp"]

#: Length, the command (bind_receiver, bind_transmitter, bind_transceiver) and a status of 0.
smpp = regex(rb"(?s)\x00\x00\x00[\x17-\x80]\x00\x00\x00[\x01\x02\x09]\x00\x00\x00\x00")

PROTOCOL = Protocol(
    name="SMPP",
    defined_in="SMPP 3.4 sections 3.2 and 4.1, 5.0 section 4.1.1",
    speaks_first=Speaks.CLIENT,
    match=smpp,
    begins=(b"\0\0\0\x2f\0\0\0\2\0\0\0\0\0\0\0\1SMPP3TEST\0", b"\0\0\0\x2f\0\0\0\x09\0\0\0\0\0\0\0\1SMPP3TEST\0"),
    not_begins=(b"\0\0\0\x10\0\0\0\x15\0\0\0\0\0\0\0\1", b"\0\0\0\x2f\x80\0\0\2"),
)
