"""SSH: a line with the version, which both sides send at once."""

from muxwsgi.mux.matchers import prefix
from muxwsgi.protocols import Protocol, Speaks

__all__ = ["PROTOCOL", "ssh"]

ssh = prefix(b"SSH-")

PROTOCOL = Protocol(
    name="SSH",
    defined_in="RFC 4253 section 4.2",
    speaks_first=Speaks.EITHER,
    match=ssh,
    begins=(b"SSH-2.0-OpenSSH_9.9\r\n", b"SSH-1.99-x\n"),
    not_begins=(b"ssh-2.0-x\r\n", b"SSL-2"),
)
