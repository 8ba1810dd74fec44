"""Syslog over TCP: a message with its length in front (octet-counted) or without, of RFC 5424 or of BSD."""

from muxwsgi.mux.matchers import regex
from muxwsgi.protocols import Protocol, Speaks

__all__ = ["PROTOCOL", "syslog"]

#: The priority, and behind it version 1, or a month.
syslog = regex(rb"(?:[1-9][0-9]{0,5} )?<(?:0|[1-9][0-9]{0,2})>(?:1 |(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec) )")

PROTOCOL = Protocol(
    name="syslog",
    defined_in="RFC 6587 section 3.4, RFC 5424 section 6, RFC 3164 section 4.1",
    speaks_first=Speaks.CLIENT,
    match=syslog,
    begins=(
        b"52 <13>1 2026-01-01T00:00:00Z host app - - - text of 52",
        b"<13>1 2026-01-01T00:00:00Z host app - - - text\n",
        b"<34>Oct 11 22:14:15 host su: text\n",
    ),
    not_begins=(b"<?xml version='1.0'?>", b"<stream:stream to='a'>", b"<013>1 ", b"8=FIX.4.2\x019=73"),
)
