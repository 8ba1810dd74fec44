"""POP3: a command of a client, after the greeting of the server."""

from muxwsgi.mux.matchers import regex
from muxwsgi.protocols import Protocol, Speaks

__all__ = ["PROTOCOL", "pop3"]

#: Commands that FTP does not have: they share USER and PASS with it, and SMTP has AUTH.
pop3 = regex(rb"(?i)(?:CAPA|STLS|APOP [!-~]+ [0-9a-f]{32})\r?\n")

PROTOCOL = Protocol(
    name="POP3",
    defined_in="RFC 1939 sections 3 and 7, RFC 2449 section 5, RFC 2595 section 4",
    speaks_first=Speaks.SERVER,
    match=pop3,
    alpn=("pop3",),
    begins=(b"CAPA\r\n", b"stls\r\n", b"APOP ann c4c9334bac560ecc979e58001b3e22fb\r\n"),
    not_begins=(b"USER ann\r\n", b"CAP LS 302\r\n"),
)
