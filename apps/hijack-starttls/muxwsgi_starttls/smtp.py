"""SMTP with STARTTLS (RFC 3207) in front of a mail server without TLS, such as one on the loopback.

The front greets, and answers until the client has asked for TLS. The client begins anew inside, and talks to the mail server from there on.
"""

import math
import re
import time
from dataclasses import dataclass
from typing import IO, Any

import gevent.socket

from muxwsgi import Connection, hijack
from muxwsgi.mux.matchers import regex
from muxwsgi.names import split_host_port
from muxwsgi.setting import setting
from muxwsgi.wire.relay import Relayed, relay_to_end

__all__ = ["Options", "SMTPStartTLS"]

#: Bytes of a line, with its end (RFC 5321, section 4.5.3.1.4), and lines until STARTTLS.
LINE = 512
LINES = 20

#: One line, or several (RFC 5321, section 4.2).
_GREETING = re.compile(rb"(?:220-[^\n]*\n)*220(?: [^\n]*)?\n")

#: Seconds for all that comes before TLS, and for the greeting of the mail server.
TIMEOUT = 60.0


@dataclass(frozen=True, kw_only=True)
class Options:
    to: str = setting("127.0.0.1:25", "The mail server: HOST:PORT.")
    name: str = setting("localhost", "The name of this server, in its greeting.")

    def __post_init__(self) -> None:
        if split_host_port(self.to)[1] is None:
            raise ValueError(f"to: {self.to!r} is not HOST:PORT")


@hijack(
    match=regex(rb"(?i)(?:EHLO|HELO) ", 5),
    takes_silence=True,
    options=Options,
    examples=("swaks --server {host}:{port} --tls --quit-after TLS", "openssl s_client -starttls smtp -connect {host}:{port}"),
)
class SMTPStartTLS:
    """Serves clients of SMTP, which wait for the greeting. One that does not wait is greeted all the same."""

    def __init__(self, options: Options) -> None:
        self._address = split_host_port(options.to)
        self._name = options.name.encode()

    def __call__(self, connection: Connection) -> None:
        connection.deadline = time.monotonic() + TIMEOUT
        connection.sendall(b"220 %b ESMTP\r\n" % self._name)
        with connection.makefile("rb") as lines:
            if not self._asks_for_tls(connection, lines):
                return
            inside = connection.start_tls()
        server, greeting = self._server()
        if server is None:
            inside.recv()  # the client has been greeted, so an answer has to wait for its first command
            inside.sendall(greeting)
            return
        inside.deadline = math.inf
        relay_to_end(inside, server, self._over)

    def _asks_for_tls(self, connection: Connection, lines: IO[Any]) -> bool:
        """Answer until the client has sent STARTTLS. False if it ends, or goes on for too long."""
        for _ in range(LINES):
            line = lines.readline(LINE)
            if not line.endswith(b"\n"):
                if line:
                    connection.sendall(b"500 5.5.2 the line is too long\r\n")
                return False
            match line.strip().upper().split(b" ")[0]:
                case b"STARTTLS":
                    connection.sendall(b"220 2.0.0 ready\r\n")
                    return True
                case b"EHLO":
                    connection.sendall(b"250-%b\r\n250-ENHANCEDSTATUSCODES\r\n250 STARTTLS\r\n" % self._name)
                case b"HELO":
                    connection.sendall(b"250 %b\r\n" % self._name)
                case b"NOOP" | b"RSET":
                    connection.sendall(b"250 2.0.0 ok\r\n")
                case b"QUIT":
                    connection.sendall(b"221 2.0.0 bye\r\n")
                    return False
                case _:
                    connection.sendall(b"530 5.7.0 must issue a STARTTLS command first\r\n")
        connection.sendall(b"421 4.7.0 too many commands without STARTTLS\r\n")
        return False

    def _server(self) -> tuple[Connection | None, bytes]:
        """The mail server, behind its greeting, which the client must not see; or what to tell the client instead."""
        try:
            server = Connection.from_socket(gevent.socket.create_connection(self._address, timeout=TIMEOUT))
        except OSError:
            return None, b"421 4.3.2 the mail server cannot be reached\r\n"
        try:
            server.deadline = time.monotonic() + TIMEOUT
            greeting = b""
            while not _GREETING.fullmatch(greeting):
                more = server.recv(LINE)
                greeting += more
                if not more or len(greeting) > LINES * LINE or not b"220".startswith(greeting[:3]):
                    raise ConnectionError
        except OSError:
            server.close()
            return None, b"421 4.3.2 the mail server does not serve now\r\n"
        server.deadline = math.inf
        return server, b""

    def _over(self, result: Relayed) -> None:
        """The relay has closed both sides, and the connection's trace and counters have what it carried."""
