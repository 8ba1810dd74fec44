"""`forward`: passes a connection on to another server, first bytes included. The usual fallback and silence
route (SSH speaks first).
"""

import logging
import socket as socket_module

import gevent.socket

from muxwsgi.errors import OperatorError
from muxwsgi.mux import matchers
from muxwsgi.mux.route import Route
from muxwsgi.names import join_host_port
from muxwsgi.wire.connection import Connection
from muxwsgi.wire.relay import relay

__all__ = ["Forward", "forward_route"]

_log = logging.getLogger("muxwsgi.forward")

#: Seconds that the other server has to accept.
CONNECT_TIMEOUT = 10.0

#: Seconds without a byte either way. An hour is what HAProxy's documentation suggests for tunnels; SSH's own
#: keep-alives come sooner.
IDLE_TIMEOUT = 3600.0

#: The same once one side has ended (HAProxy's `timeout client-fin`): the other one may wait for a peer that is gone.
FIN_TIMEOUT = 30.0


class Forward:
    """A handler that connects to `address`, (host, port) or the path of a unix socket, and relays both ways
    until both have ended.
    """

    def __init__(self, address: tuple[str, int] | str) -> None:
        self.address = address

    def __repr__(self) -> str:
        return f"<forward to {self}>"

    def __str__(self) -> str:
        if isinstance(self.address, str):
            return f"unix:{self.address}"
        host, port = self.address
        return join_host_port(host, port)

    def __call__(self, connection: Connection) -> None:
        """A server that cannot be reached costs a warning and this connection."""
        try:
            upstream = Connection.from_socket(self._connect())
        except OSError as error:
            connection.trace.append(f"forward to {self}: {error}")
            _log.warning(
                "connection %d from %s cannot be forwarded to %s: %s",
                connection.id,
                connection.client,
                self,
                error,
            )
            return
        try:
            result = relay(connection, upstream, idle_timeout=connection.idle_timeout, fin_timeout=FIN_TIMEOUT)
        finally:
            upstream.finish()
        ended = f", ended by {result.error}" if result.error else ""
        connection.trace.append(f"forward to {self}: {result.forth} bytes there, {result.back} back{ended}")

    def _connect(self) -> "gevent.socket.socket":
        if isinstance(self.address, str):
            sock = gevent.socket.socket(socket_module.AF_UNIX, socket_module.SOCK_STREAM)
            try:
                sock.settimeout(CONNECT_TIMEOUT)
                sock.connect(self.address)
            except BaseException:
                sock.close()
                raise
            return sock
        sock = gevent.socket.create_connection(self.address, CONNECT_TIMEOUT)
        sock.setsockopt(socket_module.IPPROTO_TCP, socket_module.TCP_NODELAY, 1)
        sock.setsockopt(socket_module.SOL_SOCKET, socket_module.SO_KEEPALIVE, 1)
        return sock


def forward_route(target: str) -> Route:
    """The route for `forward:TARGET`: HOST:PORT, [ADDRESS]:PORT or unix:PATH. Raises `OperatorError` for
    anything else.
    """
    handler = Forward(_address(target))
    return Route(f"forward:{handler}", matchers.never, handler, idle_timeout=IDLE_TIMEOUT)


def _address(target: str) -> tuple[str, int] | str:
    if target.startswith("unix:") and len(target) > len("unix:"):
        return target.removeprefix("unix:")
    host, separator, port = target.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    host = host[1:-1] if bracketed else host
    if (
        not separator
        or not host
        or (":" in host) is not bracketed
        or not port.isdecimal()
        or not 0 < int(port) < 65536
    ):
        raise OperatorError(
            f"forward:{target}: expected forward:HOST:PORT, forward:[ADDRESS]:PORT or forward:unix:PATH"
        )
    return host, int(port)
