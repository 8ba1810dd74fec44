"""Free ports for servers in processes of their own."""

import socket

__all__ = ["reserved_port"]


def reserved_port() -> socket.socket:
    """A socket that is bound to a free port of 127.0.0.1, and does not listen. The kernel gives that port to no other socket meanwhile, and a
    server that sets SO_REUSEADDR can listen on it. A port that is only looked for may be another test's by the time the server starts."""
    reserved = socket.socket()
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reserved.bind(("127.0.0.1", 0))
    return reserved
