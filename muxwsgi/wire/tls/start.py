"""How a `Connection` passes its stream on to a TLS layer: `start_tls`, which keeps the read-ahead."""

import errno
import socket as socket_module
from typing import TYPE_CHECKING

from OpenSSL import SSL

from muxwsgi.wire.tls.client_context import ClientContext
from muxwsgi.wire.tls.descriptor import DescriptorTLS
from muxwsgi.wire.tls.info import TLSInfo
from muxwsgi.wire.tls.layered import LayeredTLS
from muxwsgi.wire.tls.server_context import ServerSide
from muxwsgi.wire.tls.transport import TLSTransport
from muxwsgi.wire.transport import ClosedTransport, SocketTransport

if TYPE_CHECKING:
    from muxwsgi.wire.connection import Connection

__all__ = ["ClientContext", "begin_tls", "shake_hands"]

_IN_TLS = "this connection carries TLS now: use the one that start_tls() returned"


#: The first argument of `Connection.start_tls`.
Context = ServerSide | ClientContext


def begin_tls(connection: "Connection", context: Context | None, server_hostname: str | None) -> tuple[TLSTransport, Context]:
    """The first half of `Connection.start_tls`: a TLS transport, which takes over the connection's transport, and its context."""
    transport = connection._transport
    if isinstance(transport, ClosedTransport):
        raise OSError(errno.EBADF, transport.reason)
    if context is None:
        context = _own_side(connection)
    elif not isinstance(context, ClientContext) and not hasattr(context, "connection"):
        raise TypeError(
            f"start_tls() takes muxwsgi's ServerContext or ClientContext, or nothing for the bind's certificates, not {context!r}: "
            "the ssl module wraps the socket that as_socket() returns"
        )
    ahead = bytes(connection._ahead or b"")
    own = connection._lowest()._own
    if own is not None:
        own.write_files()
        connection._transport = ClosedTransport(connection.lifeline, _IN_TLS)  # a file with an empty buffer must not read from the stream
        ahead = own.take_files_ahead() + ahead
    below: TLSTransport
    try:
        if isinstance(transport, SocketTransport) and not ahead:
            transport.settle()
            below = DescriptorTLS(transport, _tls_side(context, transport.socket(), server_hostname))
        else:
            below = LayeredTLS(transport, _tls_side(context, None, server_hostname), ahead)
    except BaseException:
        connection._transport = transport
        raise
    connection._ahead = None
    connection._transport = ClosedTransport(connection.lifeline, _IN_TLS)
    return below, context


def shake_hands(below: TLSTransport, context: Context, server_hostname: str | None) -> TLSInfo:
    """The second half: do the handshake, and return what it agreed on."""
    below.handshake()
    if isinstance(context, ClientContext):
        context.verify_name(below.ssl, server_hostname)
    return TLSInfo.of(below.ssl)


def _own_side(connection: "Connection") -> ServerSide:
    side: ServerSide | None = None
    if connection.tunnel is not None:
        side = connection.tunnel.server_side()
    if side is None and connection.lifeline.service is not None:
        side = connection.lifeline.service.tls
    if side is None:
        raise RuntimeError("start_tls() needs a certificate, and this bind has none: --certfile, or -b ADDRESS,tls=off,certfile=FILE")
    return side


def _tls_side(context: Context, sock: socket_module.socket | None, server_hostname: str | None) -> SSL.Connection:
    if isinstance(context, ClientContext):
        return context.connection(sock, server_hostname)
    return context.connection(sock)
