"""The messages of SOCKS: reads requests from a connection, and makes the replies.

SOCKS 4 and 4a have no RFC ("SOCKS: A protocol for TCP proxy across firewalls" and "SOCKS 4A", both by Ying-Da Lee). SOCKS 5 is RFC 1928,
its authentication by user and password RFC 1929.

No byte behind a message is read. The ClientHello of the tunnel may follow, and TLS on a descriptor has to find it in the kernel.
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

#: Letters, digits, "-" and ".", and "_", which some names have although RFC 952 does not allow it. IPv4 addresses match too.
_NAME = re.compile(rb"[A-Za-z0-9._-]+")


class Refusal(Exception):
    """The client is refused: `answer` is sent, and the connection is closed."""

    def __init__(self, reason: str, answer: bytes) -> None:
        super().__init__(reason)
        self.reason = reason
        self.answer = answer


def take(connection: Connection, n: int) -> bytes:
    """The next `n` bytes. Raises `PeerError` if the stream ends before."""
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
    """Read a request (RFC 1928 section 4). Returns the destination."""
    version, command, _, kind = take(connection, 4)
    if version != 5:
        raise Refusal(f"the request has version {version}", answer5(FAILED))
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
        raise Refusal("the destination is not a host name and a port", answer5(FAILED))
    return host, port


def read_request4(connection: Connection) -> tuple[str, int]:
    """Read a request. Returns the destination. The user id is ignored, because a client can send any."""
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
        raise Refusal("the destination is not a host name and a port", answer4(FAILED))
    return host, port


def _take_string(connection: Connection) -> bytes:
    """The bytes before the next NUL. The NUL is consumed too."""
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
    """`data` as a name or an address; None if it cannot be either, so that such bytes do not reach logs.

    Clients send the ASCII form of an internationalised name, as for DNS.
    """
    if _NAME.fullmatch(data):
        return data.decode("ascii")
    try:
        return str(IPv6Address(data.decode("ascii"))) if b"%" not in data else None  # a zone has a meaning on the client's host only
    except ValueError:
        return None


def answer5(reply: int) -> bytes:
    """A reply (RFC 1928 section 6). The address is always 0.0.0.0 port 0: the proxy does not reveal the address that it connects from."""
    return bytes((5, reply, 0, IPV4, 0, 0, 0, 0, 0, 0))


def answer4(reply: int) -> bytes:
    """A reply: version 0, then 5A for granted or 5B for rejected or failed, then an address that only BIND uses."""
    return bytes((0, 0x5A if reply == SUCCEEDED else 0x5B, 0, 0, 0, 0, 0, 0))
