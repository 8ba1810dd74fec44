"""The end of a connection on which the last bytes that were sent have to arrive."""

import math
import socket
from time import monotonic
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from muxwsgi.wire.connection import Connection

__all__ = ["linger"]


def linger(connection: "Connection", seconds: float | None, most: float = math.inf) -> None:
    """End our side of `connection`, and read and drop what the peer still sends: for `seconds` at most, and about `most` bytes.

    With None, the deadline that the caller has set holds.

    close(2) on a socket with unread bytes sends a reset, and a reset can take what was sent before with it. The caller closes afterwards.
    """
    if seconds is not None:
        connection.deadline = monotonic() + seconds
    try:
        connection.shutdown(socket.SHUT_WR)
        while most > 0 and (data := connection.recv()):
            most -= len(data)
    except OSError:
        pass  # the peer is gone, or it is late
    finally:
        if seconds is not None:
            connection.deadline = math.inf
