"""Finds which side of a tunnel sends first: the client, as in HTTP and TLS, or the server, as in SMTP, IMAP, MySQL and SSH.

It only peeks: no byte is consumed.
"""

import socket as socket_module
import struct
from enum import Enum
from typing import TYPE_CHECKING

import gevent

if TYPE_CHECKING:
    from muxwsgi.wire.connection import Connection

__all__ = ["Speaker", "first_to_speak", "has_spoken_within", "patience", "says_something"]

#: Seconds that a client has for its first byte, in addition to the round trips, before the proxy connects to the server. Clients that speak
#: first do so within two milliseconds, and this wait costs less than a connection to the server that is not needed.
GRACE = 0.03

#: struct tcp_info: tcpi_rtt, microseconds.
_RTT = struct.Struct("=68xI")


class Speaker(Enum):
    """The side that has sent something."""

    CLIENT = "client"  # whether or not the server has too
    SERVER = "server"  # and the client has not; or one of the two streams has ended
    NEITHER = "neither"  # neither has sent a byte in time


def patience(client: "Connection") -> float:
    """Seconds that a client has to speak first: twice the round trip to it (RFC 6298) plus `GRACE`."""
    try:
        info = client.getsockopt(socket_module.IPPROTO_TCP, socket_module.TCP_INFO, _RTT.size)
    except OSError:
        return GRACE
    assert isinstance(info, bytes)
    return GRACE + (2e-6 * _RTT.unpack(info)[0] if len(info) == _RTT.size else 0.0)


def has_spoken_within(client: "Connection", seconds: float) -> bool:
    """Wait for a byte of the client, or its end, for `seconds` at most. Whether one came."""
    waits = client.gettimeout()
    client.settimeout(seconds)
    try:
        client.peek_beyond(0, 1)
        return True
    except TimeoutError:
        return False
    except OSError:
        return True  # the next read raises it
    finally:
        client.settimeout(waits)
        client.settle()


def first_to_speak(client: "Connection", server: "Connection", seconds: float) -> Speaker:
    """Wait until either side sends a byte, or ends, for `seconds` at most."""
    waits = [gevent.spawn(says_something, side) for side in (client, server)]
    try:
        gevent.wait(waits, timeout=seconds, count=1)
        from_client, from_server = (greenlet.value if greenlet.dead else None for greenlet in waits)
    finally:
        gevent.killall(waits)
        client.settle()
        server.settle()
    if from_client is True:
        return Speaker.CLIENT
    return Speaker.NEITHER if from_client is None and from_server is None else Speaker.SERVER


def says_something(side: "Connection") -> bool:
    """Wait for a byte, without consuming it. False if the stream ends or breaks; the next read raises the error."""
    try:
        return bool(side.peek_beyond(0, 1))
    except OSError:
        return False
