"""A client that sends SSLRequest gets TLS here. What it says inside is a new question for the routes, which know its user and database."""

import math
import time

from muxwsgi import Connection, hijack
from muxwsgi.mux.matchers import prefix

__all__ = ["postgresql_tls"]

#: PostgreSQL, Message Formats: the length, and the code.
SSL_REQUEST = b"\0\0\0\x08\x04\xd2\x16\x2f"
GSSENC_REQUEST = b"\0\0\0\x08\x04\xd2\x16\x30"

#: Seconds that a client has for its requests.
TIMEOUT = 10.0


@hijack(match=prefix(SSL_REQUEST, GSSENC_REQUEST))
def postgresql_tls(connection: Connection) -> None:
    """GSSAPI is refused, then TLS is agreed to. A client that goes on without TLS is refused, in its own protocol."""
    connection.deadline = time.monotonic() + TIMEOUT
    request = _exactly(connection, 8)
    if request == GSSENC_REQUEST:
        connection.sendall(b"N")
        request = _exactly(connection, 8)
    if request != SSL_REQUEST:
        if request:
            connection.sendall(_refusal("28000", "this server requires TLS: sslmode=require"))
        return
    connection.sendall(b"S")
    # A byte that came behind the request is taken for TLS, and fails the handshake (CVE-2021-23222).
    inside = connection.start_tls()
    inside.deadline = math.inf
    inside.back_to_mux()


def _exactly(connection: Connection, n: int) -> bytes:
    """b"" if the client ends before."""
    data = b""
    while len(data) < n:
        part = connection.recv(n - len(data))
        if not part:
            return b""
        data += part
    return data


def _refusal(code: str, text: str) -> bytes:
    """An ErrorResponse."""
    fields = b"".join(key + value.encode() + b"\0" for key, value in ((b"S", "FATAL"), (b"V", "FATAL"), (b"C", code), (b"M", text)))
    return b"E" + (len(fields) + 5).to_bytes(4, "big") + fields + b"\0"
