"""FTP: a command of a client, after the greeting of the server."""

from muxwsgi.mux.matchers import regex
from muxwsgi.protocols import Protocol, Speaks

__all__ = ["PROTOCOL", "ftp"]

#: Commands that POP3 and SMTP do not have: they share USER, PASS and AUTH with it.
ftp = regex(rb"(?i)(?:AUTH (?:TLS|SSL)|FEAT|SYST|OPTS (?:UTF8|UTF-8|MLST|HASH)(?: [!-~]+)*|PBSZ [0-9]+)\r?\n")

PROTOCOL = Protocol(
    name="FTP",
    defined_in="RFC 959 section 5.3, RFC 2389, RFC 4217",
    speaks_first=Speaks.SERVER,
    match=ftp,
    alpn=("ftp",),
    begins=(b"AUTH TLS\r\n", b"FEAT\r\n", b"OPTS UTF8 ON\r\n"),
    not_begins=(b"USER ann\r\n", b"AUTH PLAIN\r\n", b"OPTS sip:a@b SIP/2.0"),
)
