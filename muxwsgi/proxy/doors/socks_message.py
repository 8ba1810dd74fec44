"""The messages of SOCKS: read from a connection, and the answers to them.

SOCKS 4 and 4a have no RFC ("SOCKS: A protocol for TCP proxy across firewalls", Ying-Da Lee; "SOCKS 4A", the same); SOCKS 5 is RFC 1928, its
user and password RFC 1929.

Never is a byte more read than belongs to the message: what follows it may be the ClientHello of the tunnel, which TLS wants to find in the
kernel.
"""

import re
import struct
from ipaddress import IPv4Address, IPv6Address

from muxwsgi.errors import PeerError
from muxwsgi.protocols.socks import LONGEST_STRING, has_name
from muxwsgi.proxy.doors.access import decode_credentials
from muxwsgi.wire.connection import Connection

__all__ = [
    "FAILED",
    "HOST_UNREACHABLE",
    "NOT_ALLOWED",
    "NO_AUTHENTICATION",
    "REFUSED",
    "SUCCEEDED",
    "TTL_EXPIRED",
    "USER_AND_PASSWORD",
    "Refusal",
    "answer4",
    "answer5",
    "read_request4",
    "read_request5",
    "read_user_and_password",
    "take",
]

NO_AUTHENTICATION, USER_AND_PASSWORD = 0x00, 0x02
CONNECT = 1  # BIND is 2, UDP ASSOCIATE 3
IPV4, DOMAIN, IPV6 = 1, 3, 4

#: Replies of RFC 1928 section 6.
SUCCEEDED, FAILED, NOT_ALLOWED, HOST_UNREACHABLE, REFUSED, TTL_EXPIRED, NO_SUCH_COMMAND, NO_SUCH_ADDRESS_TYPE = 0, 1, 2, 4, 5, 6, 7, 8

#: Letters, digits, "-" and ".", and "_", which some names have although RFC 952 knows none. IPv4 addresses are of these too.
_NAME = re.compile(rb"[A-Za-z0-9._-]+")


class Refusal(Exception):
    """The client is sent `answer` and away."""

    def __init__(self, reason: str, answer: bytes) -> None:
        super().__init__(reason)
        self.reason = reason
        self.answer = answer


def take(connection: Connection, n: int) -> bytes:
    """The next `n` bytes. Raises `PeerError` where the stream ends before."""
    data = connection.recv(n) if n else b""
    while len(data) < n:
        more = connection.recv(n - len(data))
        if not more:
            raise PeerError(400, "SOCKS: the client ended the stream within a message")
        data += more
    return data


def read_user_and_password(connection: Connection) -> tuple[str, str]:
    """RFC 1929 section 2."""
    version, length = take(connection, 2)
    if version != 1 or length == 0:
        raise Refusal("the message with user and password is broken", b"\x01\x01")
    user = take(connection, length)
    password = take(connection, take(connection, 1)[0])
    decoded = decode_credentials(user), decode_credentials(password)
    if decoded[0] is None or decoded[1] is None:
        raise Refusal("control characters in user or password", b"\x01\x01")
    return decoded[0], decoded[1]


def read_request5(connection: Connection) -> tuple[str, int]:
    """RFC 1928 section 4; where the client wants to go."""
    version, command, _, kind = take(connection, 4)
    if version != 5:
        raise Refusal(f"the request is one of version {version}", answer5(FAILED))
    if kind == IPV4:
        host: str | None = str(IPv4Address(take(connection, 4)))
    elif kind == IPV6:
        host = str(IPv6Address(take(connection, 16)))
    elif kind == DOMAIN:
        host = _host_name(take(connection, take(connection, 1)[0]))
    else:
        raise Refusal(f"address type {kind} is unknown", answer5(NO_SUCH_ADDRESS_TYPE))
    (port,) = struct.unpack("!H", take(connection, 2))
    if command != CONNECT:
        raise Refusal(f"command {command} is not served, only CONNECT", answer5(NO_SUCH_COMMAND))
    if host is None or port == 0:
        raise Refusal("the destination is no host name and port", answer5(FAILED))
    return host, port


def read_request4(connection: Connection) -> tuple[str, int]:
    """Where the client wants to go. Its user id is what it calls itself (RFC 1413 was to check it), and counts for nothing."""
    command, port, address = struct.unpack("!xBH4s", take(connection, 8))
    _take_string(connection)
    host: str | None
    if has_name(address):
        host = _host_name(_take_string(connection))
    else:
        host = str(IPv4Address(address))
    if command != CONNECT:
        raise Refusal(f"command {command} is not served, only CONNECT", answer4(FAILED))
    if host is None or port == 0:
        raise Refusal("the destination is no host name and port", answer4(FAILED))
    return host, port


def _take_string(connection: Connection) -> bytes:
    """The bytes up to the next NUL, which is taken too."""
    limit = LONGEST_STRING + 1
    seen = b""
    try:
        while (end := seen.find(b"\0")) < 0:
            data = connection.peek_beyond(len(seen), limit)
            if len(data) <= len(seen):
                raise Refusal("a string in the request has no end", answer4(FAILED))
            seen = data
    finally:
        connection.settle()
    return take(connection, end + 1)[:-1]


def _host_name(data: bytes) -> str | None:
    """`data` as a name or address to connect to; None where it can be none, which ends up in logs otherwise.

    Clients with an internationalised name send its ASCII form, as for DNS.
    """
    if _NAME.fullmatch(data):
        return data.decode("ascii")
    try:
        return str(IPv6Address(data.decode("ascii"))) if b"%" not in data else None  # a zone of the client's is none of ours
    except ValueError:
        return None


def answer5(reply: int) -> bytes:
    """RFC 1928 section 6. The address that we connect from is told to nobody, and often there is none: 0.0.0.0, port 0."""
    return bytes((5, reply, 0, IPV4, 0, 0, 0, 0, 0, 0))


def answer4(reply: int) -> bytes:
    """Version 0, 5A for granted or 5B for rejected or failed, and an address that only means something for BIND."""
    return bytes((0, 0x5A if reply == SUCCEEDED else 0x5B, 0, 0, 0, 0, 0, 0))
