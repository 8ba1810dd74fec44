"""The front door for SOCKS: the first bytes of a connection have the destination.

Only CONNECT is served. BIND needs a listening socket of the proxy for another host, and UDP ASSOCIATE is not a stream.

The door calls `open` with the destination and with `reply`, which sends the result in the client's version of SOCKS.
"""

import math
from collections.abc import Callable
from time import monotonic

from muxwsgi.errors import PeerError
from muxwsgi.mux.route import Route
from muxwsgi.protocols.socks import NONE_ACCEPTABLE, socks4, socks5
from muxwsgi.proxy.context import Door
from muxwsgi.proxy.doors.access import Access, NotAdmitted
from muxwsgi.proxy.doors.door import Open
from muxwsgi.proxy.doors.socks_message import (
    FAILED,
    HOST_UNREACHABLE,
    NO_AUTHENTICATION,
    NOT_ALLOWED,
    REFUSED,
    SUCCEEDED,
    TTL_EXPIRED,
    USER_AND_PASSWORD,
    Refusal,
    answer4,
    answer5,
    read_request4,
    read_request5,
    read_user_and_password,
    take,
)
from muxwsgi.proxy.fault import Fault, Phase
from muxwsgi.settings.tls import HANDSHAKE_TIMEOUT
from muxwsgi.wire.connection import Connection
from muxwsgi.wire.lingering_close import linger

__all__ = ["SocksDoor"]

#: The reply for each phase. RFC 1928 has no replies for failures of DNS, TLS or further proxies, so the nearest ones are used.
#: "TTL expired" stands for a timeout, as in Tor.
_REPLIES = {
    Phase.POLICY: NOT_ALLOWED,
    Phase.LOOP: NOT_ALLOWED,
    Phase.TARGET: HOST_UNREACHABLE,
    Phase.RESOLVE: HOST_UNREACHABLE,
    Phase.CONNECT: REFUSED,
    Phase.TIMEOUT: TTL_EXPIRED,
}

#: Seconds that a refused client has to read the reply before the connection is closed, and bytes from it that are discarded meanwhile.
LINGER = 2.0
LINGER_BYTES = 1 << 16


class SocksDoor:
    """The front door for SOCKS clients."""

    def __init__(self, access: Access, open: Open, handshake_timeout: float = HANDSHAKE_TIMEOUT) -> None:
        """`handshake_timeout` is in seconds, from the first byte to the end of the request."""
        self._access = access
        self._open = open
        self._handshake_timeout = handshake_timeout

    def routes(self) -> list[Route]:
        """For the mux, in any order: no other protocol has the same first bytes."""
        return [Route("socks5", socks5, self.serve_socks5), Route("socks4", socks4, self.serve_socks4)]

    def serve_socks5(self, connection: Connection) -> None:
        """A handler: `connection` begins with the greeting. Raises `PeerError`, the connection's errors and what `open` raises."""
        connection.deadline = monotonic() + self._handshake_timeout
        try:
            connection.identity = self._greet(connection)
            destination = read_request5(connection)
        except Refusal as refusal:
            _part(connection, refusal.answer)
            raise PeerError(400, f"SOCKS 5: {refusal.reason}") from None
        self._enter(connection, "socks5", destination, answer5)

    def serve_socks4(self, connection: Connection) -> None:
        """The same for SOCKS 4 and 4a. They have no passwords, so clients are refused if one is needed."""
        connection.deadline = monotonic() + self._handshake_timeout
        try:
            if self._access.admits_address(connection.client):
                connection.identity = self._access.certificate(connection)
                destination = read_request4(connection)
                admitted = connection.identity is not None or not self._access.asks_identity
            else:
                admitted = False
            if not admitted:
                raise Refusal("this client may not use the proxy", answer4(NOT_ALLOWED))
        except Refusal as refusal:
            _part(connection, refusal.answer)
            raise PeerError(400, f"SOCKS 4: {refusal.reason}") from None
        self._enter(connection, "socks4", destination, answer4)

    def _greet(self, connection: Connection) -> str | None:
        """Agree on a method of authentication, and perform it (RFC 1928 section 3). Returns the identity."""
        offered = take(connection, take(connection, 2)[1])
        access = self._access
        if not access.admits_address(connection.client):
            raise Refusal("this address may not use the proxy", bytes((5, NONE_ACCEPTABLE)))
        identity = access.certificate(connection)
        if identity is not None or not access.asks_identity:
            if NO_AUTHENTICATION in offered:
                connection.sendall(bytes((5, NO_AUTHENTICATION)))
                return identity
            if USER_AND_PASSWORD in offered:  # some clients that were given a password offer nothing else
                connection.sendall(bytes((5, USER_AND_PASSWORD)))
                read_user_and_password(connection)
                connection.sendall(b"\x01\x00")
                return identity
        elif access.asks_password and USER_AND_PASSWORD in offered:
            connection.sendall(bytes((5, USER_AND_PASSWORD)))
            user, password = read_user_and_password(connection)
            try:
                identity = access.password(connection.client, user, password)
            except NotAdmitted as error:
                raise Refusal(error.reason, b"\x01\x01") from None
            if identity is None:
                raise Refusal("the user or the password is wrong", b"\x01\x01")
            connection.sendall(b"\x01\x00")
            return identity
        raise Refusal("the client offers no acceptable method of authentication", bytes((5, NONE_ACCEPTABLE)))

    def _enter(self, connection: Connection, door: Door, destination: tuple[str, int], answer: Callable[[int], bytes]) -> None:
        connection.destination = destination
        connection.trace.append(f"{door}: to {destination[0]} port {destination[1]}, {connection.identity or 'not authenticated'}")
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


def _part(connection: Connection, answer: bytes) -> None:
    """Send the last `answer`, and linger so that a reset does not destroy it."""
    connection.deadline = monotonic() + LINGER
    try:
        connection.sendall(answer)
    except OSError:
        return  # the client is gone or too slow
    linger(connection, LINGER, LINGER_BYTES)
