"""Who speaks first in a tunnel: the client, as in HTTP and TLS, or the server, as in SMTP, IMAP, MySQL and SSH.

Nothing is consumed here: what a side has said stays in its stream, for the code that reads it next.
"""

import socket as socket_module
import struct
from enum import Enum
from typing import TYPE_CHECKING

import gevent

if TYPE_CHECKING:
    from muxwsgi.wire.connection import Connection

__all__ = ["Speaker", "first_to_speak", "has_spoken_within", "patience", "says_something"]

#: Seconds that a client has for its first byte, beside the time that bytes take from and to it, before the server is asked. Clients that
#: speak first do so in a millisecond or two; a connection that is made for nothing costs the server more than this costs anybody.
GRACE = 0.03

#: struct tcp_info: tcpi_rtt, microseconds.
_RTT = struct.Struct("=68xI")


class Speaker(Enum):
    """Who has said something."""

    CLIENT = "client"  # whatever the server has said
    SERVER = "server"  # and the client has not; or one of the two has ended
    NEITHER = "neither"  # in time


def patience(client: "Connection") -> float:
    """Seconds that a client that speaks first may take for it: twice the round trip to it (RFC 6298), and a little."""
    try:
        info = client.getsockopt(socket_module.IPPROTO_TCP, socket_module.TCP_INFO, _RTT.size)
    except OSError:
        return GRACE
    assert isinstance(info, bytes)
    return GRACE + (2e-6 * _RTT.unpack(info)[0] if len(info) == _RTT.size else 0.0)


def has_spoken_within(client: "Connection", seconds: float) -> bool:
    """Wait for a byte of the client, or its end, for `seconds` at most; whether there is one."""
    waits = client.gettimeout()
    client.settimeout(seconds)
    try:
        client.peek_beyond(0, 1)
        return True
    except TimeoutError:
        return False
    except OSError:
        return True  # for the code that reads next to find out
    finally:
        client.settimeout(waits)
        client.settle()


def first_to_speak(client: "Connection", server: "Connection", seconds: float) -> Speaker:
    """Wait until either side says something, or ends, for `seconds` at most."""
    said = [gevent.spawn(says_something, side) for side in (client, server)]
    try:
        gevent.wait(said, timeout=seconds, count=1)
        from_client, from_server = (greenlet.value if greenlet.dead else None for greenlet in said)
    finally:
        gevent.killall(said)
        client.settle()
        server.settle()
    if from_client is True:
        return Speaker.CLIENT
    return Speaker.NEITHER if from_client is None and from_server is None else Speaker.SERVER


def says_something(side: "Connection") -> bool:
    """Wait for a byte, and leave it there. False where the stream ends, or breaks, which is for the code that reads next to find out."""
    try:
        return bool(side.peek_beyond(0, 1))
    except OSError:
        return False
