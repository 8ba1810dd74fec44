"""Two `Connection`s that are connected to each other."""

import socket

from muxwsgi.wire.connection import Connection

__all__ = ["Pair", "tcp_pair", "unix_pair"]

Pair = tuple[Connection, Connection]


def tcp_pair() -> Pair:
    """The server's end and the client's, over loopback. Small writes leave at once."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
    for sock in (client, server):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return Connection.from_socket(server), Connection.from_socket(client)


def unix_pair() -> Pair:
    left, right = socket.socketpair()
    return Connection.from_socket(left), Connection.from_socket(right)
