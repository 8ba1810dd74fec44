"""RDP: the connection request of a client of Remote Desktop."""

from muxwsgi.mux.matchers import regex
from muxwsgi.protocols import Protocol, Speaks

__all__ = ["PROTOCOL", "rdp"]

#: A TPKT header (RFC 1006 section 6) and a connection request of X.224.
rdp = regex(rb"(?s)\x03\x00.{2}[\x02-\x7f]\xe0")

PROTOCOL = Protocol(
    name="RDP",
    defined_in="MS-RDPBCGR section 2.2.1.1",
    speaks_first=Speaks.CLIENT,
    match=rdp,
    begins=(b"\x03\0\0\x13\x0e\xe0\0\0\0\0\0\x01\0\x08\0\x03\0\0\0",),
    not_begins=(b"\x03\0\0\x13\x0e\xd0\0\0", b"\x03\0\0\x13\x01\xe0"),
)
