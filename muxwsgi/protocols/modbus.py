"""Modbus/TCP: the header and the function of a request."""

from muxwsgi.mux.matchers import regex
from muxwsgi.protocols import Ambiguity, Protocol, Speaks

__all__ = ["PROTOCOL", "modbus"]

#: A transaction id, protocol 0, the length that a request of the function has, and a unit: reading 1 to 4 and writing one value 5 and 6,
#: writing several 15 and 16, diagnosis 8, the server's id 17, reading and writing 23, device identification 43.
modbus = regex(
    rb"(?s)..\x00\x00\x00(?:\x06.(?:[\x01\x02]..[\x00-\x07].|[\x03\x04]..\x00[\x01-\x7d]|\x05..[\x00\xff]\x00|\x06|\x08)"
    rb"|[\x08-\xfe].[\x0f\x10]..[\x00-\x07].|\x02.\x11|[\x0d-\xfe].\x17|\x05.\x2b\x0e)"
)

PROTOCOL = Protocol(
    name="Modbus/TCP",
    defined_in="MODBUS Messaging on TCP/IP 1.0b section 3.1, MODBUS Application Protocol 1.1b3 section 6",
    speaks_first=Speaks.CLIENT,
    match=modbus,
    ambiguous=(
        Ambiguity(
            "SOCKS", b"\5\1\0\0\0\6\1\3\0\0\0\1", "a transaction id of 0x0501 and others that read as a greeting. Clients count from 0 or 1"
        ),
    ),
    begins=(b"\0\1\0\0\0\6\1\3\0\0\0\x0a", b"\0\0\0\0\0\6\xff\5\0\xac\xff\0", b"\0\1\0\0\0\5\1\x2b\x0e\1\0"),
    not_begins=(b"\0\1\0\0\0\6\1\x83", b"\0\1\0\1\0\6\1\3", b"\0\1\0\0\0\6\1\3\0\0\1\0"),
)
