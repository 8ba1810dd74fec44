"""IMAP: a command of a client, after the greeting of the server."""

from muxwsgi.mux.matchers import regex
from muxwsgi.protocols import Ambiguity, Protocol, Speaks

__all__ = ["PROTOCOL", "imap"]

#: A tag, and a command that is allowed before the login.
imap = regex(
    rb"(?i)[a-z0-9.]+ (?:CAPABILITY|STARTTLS|NOOP)\r?\n|[a-z0-9.]+ (?:LOGIN [!-~]+ [!-~]|AUTHENTICATE [!-~]*[g-z_-]|ID (?:\(|NIL))"
)

PROTOCOL = Protocol(
    name="IMAP",
    defined_in="RFC 9051 sections 6.1 and 6.2, RFC 2971",
    speaks_first=Speaks.SERVER,
    match=imap,
    alpn=("imap",),
    ambiguous=(
        Ambiguity("SMTP", b"EHLO ID (", "the tag EHLO. Both clients are silent until the server has spoken"),
        Ambiguity("ZooKeeper", b"isro ID (", "tags that are words of ZooKeeper's administrators"),
    ),
    begins=(b"a001 CAPABILITY\r\n", b"1 login ann secret\r\n", b"A1 STARTTLS\r\n"),
    not_begins=(b"* OK ready\r\n", b"a001 SELECT inbox\r\n", b"GET / HTTP/1.1\r\n"),
)
