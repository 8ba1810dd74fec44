"""SMB: the first message over TCP."""

from muxwsgi.mux.matchers import regex
from muxwsgi.protocols import Protocol, Speaks

__all__ = ["PROTOCOL", "smb"]

#: Length below 64 KiB, and the protocol id with the command of SMB 1, or with the size of the header of SMB 2 and 3.
smb = regex(rb"(?s)\x00\x00..(?:\xffSMBr|\xfeSMB\x40\x00)")

PROTOCOL = Protocol(
    name="SMB",
    defined_in="MS-SMB2 sections 2.1 and 2.2.1",
    speaks_first=Speaks.CLIENT,
    match=smb,
    alpn=("smb",),
    begins=(b"\0\0\0\x45\xffSMBr\0\0\0\0", b"\0\0\0\x68\xfeSMB\x40\0"),
    not_begins=(b"\0\0\0\x45\xfdSMB",),
)
