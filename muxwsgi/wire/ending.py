"""How a `Connection` ends if its stream is incomplete or its peer does not read: resets, and a limit on unsent bytes in the kernel."""

import socket as socket_module
import struct
from time import monotonic
from typing import TYPE_CHECKING

from gevent import sleep

from muxwsgi.wire.ready import unacknowledged
from muxwsgi.wire.tls.transport import encrypts
from muxwsgi.wire.transport import ClosedTransport, Transport

if TYPE_CHECKING:
    from muxwsgi.wire.connection import Connection

__all__ = ["MANY_BYTES", "NO_LINGER", "RESET", "cut", "drain", "limit_unread", "limit_unread_of", "prepare_reset"]

_INTERNET = frozenset({socket_module.AF_INET, socket_module.AF_INET6})

#: The state of a connection that was reset, in the first byte of TCP_INFO (tcp_states.h).
_TCP_CLOSE = 7

#: Values of SO_LINGER: with the first, close() sends a reset; with the second, the unsent bytes and then a FIN.
RESET = struct.pack("ii", 1, 0)
NO_LINGER = struct.pack("ii", 0, 0)

#: Milliseconds. After a close, the kernel drops the unsent bytes if the peer has taken nothing for this time. Otherwise a peer that answers
#: probes and reads nothing keeps up to 4 MB of kernel memory for ever. A `WritePace` allows about the same time before the close. If less
#: than `MANY_BYTES` were sent, the option is not set, which saves a short exchange the system call.
UNREAD_AT_MOST = 180_000
MANY_BYTES = 1 << 16


def cut(connection: "Connection", grace: float) -> None:
    """See `Connection.cut`."""
    transport = connection._transport
    if isinstance(transport, ClosedTransport):
        return
    encrypted = encrypts(transport)
    if encrypts(transport):
        transport.abandon()
    sock = transport.socket()
    if sock is not None and sock.family != socket_module.AF_UNIX:
        drain(sock, grace)
    if not encrypted:  # under TLS the missing close_notify shows the cut, and the kernel still sends the unsent bytes
        connection.lifeline.reset_at_close = True
    connection._end("the connection was cut")


def prepare_reset(transport: Transport) -> None:
    """Make the close of `transport` a reset. The kernel drops unsent bytes."""
    sock = transport.socket()
    if sock is not None:
        sock.setsockopt(socket_module.SOL_SOCKET, socket_module.SO_LINGER, RESET)
    if encrypts(transport):
        transport.abandon()


def limit_unread(transport: Transport) -> None:
    """See `UNREAD_AT_MOST`."""
    sock = transport.socket()
    if sock is not None:
        limit_unread_of(sock)


def limit_unread_of(sock: socket_module.socket) -> None:
    """The same for a socket."""
    if sock.family in _INTERNET and sock.fileno() >= 0 and unacknowledged(sock.fileno()):
        sock.setsockopt(socket_module.IPPROTO_TCP, socket_module.TCP_USER_TIMEOUT, UNREAD_AT_MOST)


def drain(sock: socket_module.socket, seconds: float) -> None:
    """Wait until the peer of a TCP connection has acknowledged what was sent, for `seconds` at most. A reset would take the rest back."""
    give_up = monotonic() + seconds
    pause = 0.001
    while (left := give_up - monotonic()) > 0 and sock.fileno() >= 0 and _is_unsent(sock):
        sleep(min(pause, left))
        pause = min(2 * pause, 0.1)


def _is_unsent(sock: socket_module.socket) -> bool:
    """Whether there are bytes that the peer has not acknowledged, on a connection that still stands."""
    return unacknowledged(sock.fileno()) > 0 and sock.getsockopt(socket_module.IPPROTO_TCP, socket_module.TCP_INFO, 1)[0] != _TCP_CLOSE
