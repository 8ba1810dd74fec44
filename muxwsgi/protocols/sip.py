"""SIP over TCP: a request line."""

from muxwsgi.mux.matchers import regex
from muxwsgi.protocols import Protocol, Speaks

__all__ = ["PROTOCOL", "sip"]

sip = regex(rb"[A-Z]+ (?i:sips?|tel):[^ \r\n]+ SIP/[0-9]")

PROTOCOL = Protocol(
    name="SIP",
    defined_in="RFC 3261 section 7.1",
    speaks_first=Speaks.CLIENT,
    match=sip,
    alpn=("sip/2",),
    begins=(b"OPTIONS sip:a@b SIP/2.0\r\n", b"INVITE sips:a@b SIP/2.0\r\n"),
    not_begins=(b"OPTIONS sip:a@b HTTP/1.1\r\n", b"SIP/2.0 200 OK\r\n"),
)
