"""DNS over TCP: a query, with its length in front. Inside of TLS it is DNS over TLS."""

from muxwsgi.mux.matchers import regex
from muxwsgi.protocols import Ambiguity, Protocol, Speaks

__all__ = ["PROTOCOL", "dns"]

#: Length, id, the flags of a query (RD, AD and CD may be set), one question, no answer, perhaps the SOA of IXFR, perhaps EDNS and TSIG.
dns = regex(rb"(?s)(?:\x00[\x11-\xff]|[\x01-\x0f].)..[\x00\x01][\x00\x10\x20\x30]\x00\x01\x00\x00\x00[\x00\x01]\x00[\x00-\x02]")

PROTOCOL = Protocol(
    name="DNS",
    defined_in="RFC 1035 sections 4.1.1 and 4.2.2, RFC 7766",
    speaks_first=Speaks.CLIENT,
    match=dns,
    ambiguous=(
        Ambiguity("SOCKS", b"\5\1\0\0\1\0\0\1\0\0\0\0\0\0", "a query of 1,281 bytes, or another length that reads as a greeting"),
        Ambiguity("JSON", b'\t{" \0\0\0\1\0\0\0\0\0\0', "a query of 2,427 bytes"),
    ),
    begins=(b"\0\x1d\xab\xcd\1\0\0\1\0\0\0\0\0\0\7example\3com\0\0\1\0\1", b"\0\x28\xab\xcd\1\x20\0\1\0\0\0\0\0\1\7example"),
    not_begins=(b"\0\x1d\xab\xcd\x81\x80\0\1\0\1\0\0\0\0", b"\0\x1d\xab\xcd\1\0\0\2\0\0\0\0\0\0"),
)
