"""How a `Connection` passes its stream on to the caller: `detach`, which keeps the read-ahead."""

import errno
from typing import TYPE_CHECKING

import gevent.socket

from muxwsgi.wire.fork import leave_to_parent
from muxwsgi.wire.given import KeptSocket
from muxwsgi.wire.transport import ClosedTransport, SocketTransport

if TYPE_CHECKING:
    from muxwsgi.wire.connection import Connection

__all__ = ["bare_descriptor", "detach"]


def bare_descriptor(connection: "Connection") -> int | None:
    """The descriptor of `connection`, if it is all that there is of it in this process: no TLS, no byte read ahead, no other layer,
    nothing that a handler keeps for it, and nobody else who knows the descriptor. None otherwise."""
    transport = connection._transport
    of_others = connection.parent or connection._own or connection._ahead or connection._files or connection._number_given
    of_tunnels = connection.destination or connection.identity or connection.tunnel
    if of_others or of_tunnels or not isinstance(transport, SocketTransport):
        return None
    return transport.socket().fileno()


def detach(connection: "Connection") -> "tuple[gevent.socket.socket, bytes]":
    """See `Connection.detach`."""
    transport = connection._transport
    if not isinstance(transport, SocketTransport):
        if isinstance(transport, ClosedTransport):
            raise OSError(errno.EBADF, transport.reason)
        raise OSError(errno.EOPNOTSUPP, "no socket carries this stream: use as_socket()")
    ahead = bytes(connection._ahead or b"")
    connection._ahead = None
    connection._transport = ClosedTransport(connection.lifeline, "the socket was detached")
    connection.lifeline.top = None
    sock = transport.release()
    kind = KeptSocket if connection._number_given else gevent.socket.socket
    detached = kind(sock.family, sock.type, sock.proto, fileno=sock.detach())
    leave_to_parent(detached)
    return detached, ahead
