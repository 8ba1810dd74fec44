"""LDAP: a bind, search or extended request (StartTLS), in BER."""

from muxwsgi.mux.matchers import regex
from muxwsgi.protocols import Protocol, Speaks

__all__ = ["PROTOCOL", "ldap"]

#: A sequence (Windows writes its length in four bytes), a message id of one to four bytes, and the tag of a request.
ldap = regex(
    rb"(?s)\x30(?:[\x07-\x7f]|\x81[\x07-\xff]|\x82[\x01-\xff].|\x83[\x01-\xff]..|\x84\x00\x00(?:\x00[\x07-\xff]|[\x01-\xff].))\x02(?:\x01.|\x02.{2}|\x03.{3}|\x04.{4})[\x60\x63\x77]"
)

PROTOCOL = Protocol(
    name="LDAP",
    defined_in="RFC 4511 sections 4.1.1, 4.2, 4.5 and 4.12",
    speaks_first=Speaks.CLIENT,
    match=ldap,
    begins=(b"\x30\x0c\2\1\1\x60\7\2\1\3\4\0\x80\0", b"\x30\x84\0\0\0\x1d\2\1\1\x77\x84\0\0\0\x14"),
    not_begins=(b"\x30\x82\2\1\xa0\3", b"0 office 17.7\n", b"\x30\x0c\2\1\1\x61\7"),
)
