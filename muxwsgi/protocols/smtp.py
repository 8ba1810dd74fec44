"""SMTP: the greeting of a client, which comes after the greeting of the server."""

from muxwsgi.mux.matchers import regex
from muxwsgi.protocols import Ambiguity, Protocol, Speaks

__all__ = ["PROTOCOL", "smtp"]

smtp = regex(rb"(?i)(?:EHLO|HELO) ")

PROTOCOL = Protocol(
    name="SMTP",
    defined_in="RFC 5321 section 4.1.1.1",
    speaks_first=Speaks.SERVER,
    match=smtp,
    ambiguous=(
        Ambiguity("RTSP", b"EHLO * RTSP/1", "a method named EHLO, which is none"),
        Ambiguity("SIP", b"EHLO sip:a SIP/2", "a method named EHLO, which is none"),
    ),
    begins=(b"EHLO there\r\n", b"helo there\r\n"),
    not_begins=(b"HELP\r\n", b"MAIL FROM:<a@b>\r\n"),
)
