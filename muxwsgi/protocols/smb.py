"""SMB: the first message over TCP."""

from muxwsgi.mux.matchers import regex
from muxwsgi.protocols import Protocol, Speaks

__all__ = ["PROTOCOL", "smb"]

#: Four bytes of length, and the protocol id of SMB 1, or 2 and 3.
smb = regex(rb"(?s)\x00.{3}[\xfe\xff]SMB")

PROTOCOL = Protocol(
    name="SMB",
    defined_in="MS-SMB2 sections 2.1 and 2.2.1",
    speaks_first=Speaks.CLIENT,
    match=smb,
    alpn=("smb",),
    begins=(b"\0\0\0\x45\xffSMBr\0\0\0\0", b"\0\0\0\x68\xfeSMB\x40\0"),
    not_begins=(b"\0\0\0\x45\xfdSMB",),
)
