"""FIX: the fields BeginString and BodyLength, with which each message begins."""

from muxwsgi.mux.matchers import regex
from muxwsgi.protocols import Protocol, Speaks

__all__ = ["PROTOCOL", "fix"]

fix = regex(rb"8=FIXT?\.[0-9]\.[0-9](?:SP[0-9])?\x019=")

PROTOCOL = Protocol(
    name="FIX",
    defined_in="FIX tag-value encoding, Standard header; FIXT 1.1",
    speaks_first=Speaks.CLIENT,
    match=fix,
    begins=(b"8=FIX.4.2\x019=73\x0135=A\x01", b"8=FIXT.1.1\x019=73\x0135=A\x01"),
    not_begins=(b"8=FIX.4.2|9=73|", b"8=O\x019=1"),
)
