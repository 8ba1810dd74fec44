"""VNC (RFB): the version that a client sends after that of the server."""

from muxwsgi.mux.matchers import regex
from muxwsgi.protocols import Protocol, Speaks

__all__ = ["PROTOCOL", "vnc"]

vnc = regex(rb"RFB [0-9]{3}\.[0-9]{3}\n")

PROTOCOL = Protocol(
    name="VNC",
    defined_in="RFC 6143 section 7.1.1",
    speaks_first=Speaks.SERVER,
    match=vnc,
    begins=(b"RFB 003.008\n", b"RFB 003.889\n"),
    not_begins=(b"RFB 3.8\n", b"RFC 003.008\n"),
)
