"""SOCKS: two matchers, and the door that learns from the first bytes where a client wants to go.

SOCKS 4 and 4a have no RFC ("SOCKS: A protocol for TCP proxy across firewalls", Ying-Da Lee; "SOCKS 4A", the same); SOCKS 5 is RFC 1928, its
user and password RFC 1929. CONNECT alone is served: BIND wants a listening socket of ours for somebody else, UDP ASSOCIATE is no stream.

What happens with the tunnel is not known here. The door calls `open` and lends it `reply`, which says how it went in the client's version.
"""

import math
import re
import socket
import struct
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address
from time import monotonic

from muxwsgi.errors import PeerError
from muxwsgi.mux.match import Match
from muxwsgi.mux.route import Route
from muxwsgi.proxy.access import Access, NotAdmitted, decode_credentials
from muxwsgi.proxy.context import Door
from muxwsgi.proxy.door import Open
from muxwsgi.proxy.fault import Fault, Phase
from muxwsgi.wire.connection import Connection

__all__ = ["SocksDoor", "socks4", "socks5"]

NO_AUTHENTICATION, USER_AND_PASSWORD, NONE_ACCEPTABLE = 0x00, 0x02, 0xFF
CONNECT, BIND = 1, 2
IPV4, DOMAIN, IPV6 = 1, 3, 4

#: Replies of RFC 1928 section 6.
SUCCEEDED, FAILED, NOT_ALLOWED, HOST_UNREACHABLE, REFUSED, TTL_EXPIRED, NO_SUCH_COMMAND, NO_SUCH_ADDRESS_TYPE = 0, 1, 2, 4, 5, 6, 7, 8

#: None of the replies is made for a proxy that looks names up, checks certificates and asks other proxies. TTL expired is what others
#: (Tor, for one) say when it took too long.
_REPLIES = {
    Phase.POLICY: NOT_ALLOWED,
    Phase.LOOP: NOT_ALLOWED,
    Phase.RESOLVE: HOST_UNREACHABLE,
    Phase.CONNECT: REFUSED,
    Phase.TIMEOUT: TTL_EXPIRED,
}

#: Bytes of the user id and of the host name in SOCKS 4. It knows no limit; a DNS name has 255 bytes at most (RFC 1035 section 2.3.4).
LONGEST_STRING = 255

#: Letters, digits, "-" and ".", and "_", which some names have although RFC 952 knows none. IPv4 addresses are of these too.
_NAME = re.compile(rb"[A-Za-z0-9._-]+")

#: Seconds that a refused client has to read why before the connection is closed, and the bytes of it that are thrown away meanwhile.
LINGER = 2.0
LINGER_BYTES = 1 << 16


class _Matcher:
    """A matcher that listings show by its name."""

    def __init__(self, name: str, ask: Callable[[bytes], Match]) -> None:
        self._name = name
        self._ask = ask
        self.__doc__ = ask.__doc__

    def __call__(self, data: bytes) -> Match:
        return self._ask(data)

    def __repr__(self) -> str:
        return self._name


def _is_socks5(data: bytes) -> Match:
    """The greeting of SOCKS 5, `05 NMETHODS METHODS` (RFC 1928 section 3), all of it.

    A `YES` does not prove SOCKS: any protocol whose first bytes are 5, a count above 0 and that many bytes other than FF would do.
    """
    if data[:1] not in (b"", b"\x05") or data[1:2] == b"\x00":
        return Match.NO
    if len(data) < 2:
        return Match.MORE
    methods = data[2 : 2 + data[1]]
    if NONE_ACCEPTABLE in methods:  # the server's word
        return Match.NO
    return Match.YES if len(methods) == data[1] else Match.MORE


def _is_socks4(data: bytes) -> Match:
    """A whole request of SOCKS 4 or 4a: `04 CD DSTPORT DSTIP USERID 00`, and `HOST 00` where the address is 0.0.0.x with x not 0.

    CD is 1 or 2, and user id and host have at most 255 bytes.
    """
    if data[:1] not in (b"", b"\x04") or data[1:2] not in (b"", b"\x01", b"\x02"):
        return Match.NO
    strings = 2 if _has_name(data[4:8]) else 1
    at = 8
    for _ in range(strings):
        end = data.find(b"\0", at, at + LONGEST_STRING + 1)
        if end < 0:
            return Match.NO if len(data) > at + LONGEST_STRING else Match.MORE
        at = end + 1
    return Match.YES


socks5 = _Matcher("socks5", _is_socks5)
socks4 = _Matcher("socks4", _is_socks4)


def _has_name(address: bytes) -> bool:
    """Whether this is no address but the sign of SOCKS 4a that a host name follows."""
    return address[:3] == b"\0\0\0" and address[3:] not in (b"", b"\0")


class SocksDoor:
    """The way in for SOCKS clients."""

    def __init__(self, access: Access, open: Open, handshake_timeout: float = 10.0) -> None:
        """`handshake_timeout` is in seconds, from the first byte to the end of the request."""
        self._access = access
        self._open = open
        self._handshake_timeout = handshake_timeout

    def routes(self) -> list[Route]:
        """For the mux in front, in any order: their first bytes are nobody else's."""
        return [Route("socks5", socks5, self.serve_socks5), Route("socks4", socks4, self.serve_socks4)]

    def serve_socks5(self, connection: Connection) -> None:
        """A handler: `connection` begins with the greeting. Raises `PeerError`, the connection's errors and what `open` raises."""
        connection.deadline = monotonic() + self._handshake_timeout
        try:
            connection.identity = self._greet(connection)
            destination = _read_request5(connection)
        except _Refusal as refusal:
            _part(connection, refusal.answer)
            raise PeerError(400, f"SOCKS 5: {refusal.reason}") from None
        self._enter(connection, "socks5", destination, _answer5)

    def serve_socks4(self, connection: Connection) -> None:
        """The same for SOCKS 4 and 4a. They have no passwords: where one is needed, they are refused."""
        connection.deadline = monotonic() + self._handshake_timeout
        try:
            if self._access.admits_address(connection.client):
                connection.identity = self._access.certificate(connection)
                destination = _read_request4(connection)
                admitted = connection.identity is not None or not self._access.asks_identity
            else:
                admitted = False
            if not admitted:
                raise _Refusal("this client may not use the proxy", _answer4(NOT_ALLOWED))
        except _Refusal as refusal:
            _part(connection, refusal.answer)
            raise PeerError(400, f"SOCKS 4: {refusal.reason}") from None
        self._enter(connection, "socks4", destination, _answer4)

    def _greet(self, connection: Connection) -> str | None:
        """Agree on how the client says who it is, and hear it (RFC 1928 section 3); who it is."""
        offered = _take(connection, _take(connection, 2)[1])
        access = self._access
        if not access.admits_address(connection.client):
            raise _Refusal("this address may not use the proxy", bytes((5, NONE_ACCEPTABLE)))
        identity = access.certificate(connection)
        if identity is not None or not access.asks_identity:
            if NO_AUTHENTICATION in offered:
                connection.sendall(bytes((5, NO_AUTHENTICATION)))
                return identity
            if USER_AND_PASSWORD in offered:  # some clients that were given a password offer nothing else
                connection.sendall(bytes((5, USER_AND_PASSWORD)))
                _read_user_and_password(connection)
                connection.sendall(b"\x01\x00")
                return identity
        elif access.asks_password and USER_AND_PASSWORD in offered:
            connection.sendall(bytes((5, USER_AND_PASSWORD)))
            user, password = _read_user_and_password(connection)
            try:
                identity = access.password(connection.client, user, password)
            except NotAdmitted as error:
                raise _Refusal(error.reason, b"\x01\x01") from None
            if identity is None:
                raise _Refusal("the user or the password is wrong", b"\x01\x01")
            connection.sendall(b"\x01\x00")
            return identity
        raise _Refusal("the client offers no way to say who it is that would do", bytes((5, NONE_ACCEPTABLE)))

    def _enter(self, connection: Connection, door: Door, destination: tuple[str, int], answer: Callable[[int], bytes]) -> None:
        connection.destination = destination
        connection.trace.append(f"{door}: to {destination[0]} port {destination[1]}, {connection.identity or 'nobody in particular'}")
        answered = False

        def reply(fault: Fault | None) -> None:
            nonlocal answered
            if answered:
                raise RuntimeError(f"the {door} client was answered before")
            answered = True
            if fault is None:
                connection.sendall(answer(SUCCEEDED))
            else:
                _part(connection, answer(_REPLIES.get(fault.phase, FAILED)))

        connection.deadline = math.inf
        try:
            self._open(connection, door, destination, reply)
        except Fault as fault:
            if answered:
                raise
            reply(fault)
        except Exception:
            if not answered:
                _part(connection, answer(FAILED))
            raise


class _Refusal(Exception):
    """The client is sent `answer` and away."""

    def __init__(self, reason: str, answer: bytes) -> None:
        super().__init__(reason)
        self.reason = reason
        self.answer = answer


# Reading. Never a byte more than belongs to the message: what follows it may be the ClientHello of the tunnel, which TLS wants to find in
# the kernel.


def _take(connection: Connection, n: int) -> bytes:
    """The next `n` bytes. Raises `PeerError` where the stream ends before."""
    data = connection.recv(n) if n else b""
    while len(data) < n:
        more = connection.recv(n - len(data))
        if not more:
            raise PeerError(400, "SOCKS: the client ended the stream within a message")
        data += more
    return data


def _read_user_and_password(connection: Connection) -> tuple[str, str]:
    """RFC 1929 section 2."""
    version, length = _take(connection, 2)
    if version != 1 or length == 0:
        raise _Refusal("the message with user and password is broken", b"\x01\x01")
    user = _take(connection, length)
    password = _take(connection, _take(connection, 1)[0])
    decoded = decode_credentials(user), decode_credentials(password)
    if decoded[0] is None or decoded[1] is None:
        raise _Refusal("control characters in user or password", b"\x01\x01")
    return decoded[0], decoded[1]


def _read_request5(connection: Connection) -> tuple[str, int]:
    """RFC 1928 section 4; where the client wants to go."""
    version, command, _, kind = _take(connection, 4)
    if version != 5:
        raise _Refusal(f"the request is one of version {version}", _answer5(FAILED))
    if kind == IPV4:
        host: str | None = str(IPv4Address(_take(connection, 4)))
    elif kind == IPV6:
        host = str(IPv6Address(_take(connection, 16)))
    elif kind == DOMAIN:
        host = _host_name(_take(connection, _take(connection, 1)[0]))
    else:
        raise _Refusal(f"address type {kind} is unknown", _answer5(NO_SUCH_ADDRESS_TYPE))
    (port,) = struct.unpack("!H", _take(connection, 2))
    if command != CONNECT:
        raise _Refusal(f"command {command} is not served, only CONNECT", _answer5(NO_SUCH_COMMAND))
    if host is None or port == 0:
        raise _Refusal("the destination is no host name and port", _answer5(FAILED))
    return host, port


def _read_request4(connection: Connection) -> tuple[str, int]:
    """Where the client wants to go. Its user id is what it calls itself (RFC 1413 was to check it), and counts for nothing."""
    command, port, address = struct.unpack("!xBH4s", _take(connection, 8))
    _take_string(connection)
    host: str | None
    if _has_name(address):
        host = _host_name(_take_string(connection))
    else:
        host = str(IPv4Address(address))
    if command != CONNECT:
        raise _Refusal(f"command {command} is not served, only CONNECT", _answer4(FAILED))
    if host is None or port == 0:
        raise _Refusal("the destination is no host name and port", _answer4(FAILED))
    return host, port


def _take_string(connection: Connection) -> bytes:
    """The bytes up to the next NUL, which is taken too."""
    limit = LONGEST_STRING + 1
    seen = b""
    try:
        while (end := seen.find(b"\0")) < 0:
            data = connection.peek_beyond(len(seen), limit)
            if len(data) <= len(seen):
                raise _Refusal("a string in the request has no end", _answer4(FAILED))
            seen = data
    finally:
        connection.settle()
    return _take(connection, end + 1)[:-1]


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


# Answering


def _answer5(reply: int) -> bytes:
    """RFC 1928 section 6. The address that we connect from is told to nobody, and often there is none: 0.0.0.0, port 0."""
    return bytes((5, reply, 0, IPV4, 0, 0, 0, 0, 0, 0))


def _answer4(reply: int) -> bytes:
    """Version 0, 5A for granted or 5B for rejected or failed, and an address that only means something for BIND."""
    return bytes((0, 0x5A if reply == SUCCEEDED else 0x5B, 0, 0, 0, 0, 0, 0))


def _part(connection: Connection, answer: bytes) -> None:
    """Send the last word, end our side, and read on for a while: a close with unread bytes is a reset, which can take the word with it."""
    connection.deadline = monotonic() + LINGER
    try:
        connection.sendall(answer)
        connection.shutdown(socket.SHUT_WR)
        left = LINGER_BYTES
        while left > 0 and (data := connection.recv()):
            left -= len(data)
    except OSError:
        pass  # gone, or late: it had its chance
