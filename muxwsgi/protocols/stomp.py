"""STOMP: the command of a client's first frame."""

from muxwsgi.mux.matchers import regex
from muxwsgi.protocols import Protocol, Speaks

__all__ = ["PROTOCOL", "stomp"]

stomp = regex(rb"(?:CONNECT|STOMP)\r?\n")

PROTOCOL = Protocol(
    name="STOMP",
    defined_in="STOMP 1.2, CONNECT or STOMP frame",
    speaks_first=Speaks.CLIENT,
    match=stomp,
    begins=(b"CONNECT\naccept-version:1.2\nhost:a\n\n\0", b"STOMP\r\naccept-version:1.2\r\n\r\n\0"),
    not_begins=(b"CONNECT a:1 HTTP/1.1\r\n", b"CONNECTED\nversion:1.2\n\n\0"),
)
