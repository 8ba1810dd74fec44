"""Free ports for servers in processes of their own."""

import socket

__all__ = ["free_port", "free_ports", "reserved_port"]


def reserved_port() -> socket.socket:
    """A socket that is bound to a free port of 127.0.0.1, and does not listen. The kernel gives that port to no other socket meanwhile, and a
    server that sets SO_REUSEADDR can listen on it. A port that is only looked for may be another test's by the time the server starts."""
    reserved = socket.socket()
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reserved.bind(("127.0.0.1", 0))
    return reserved


def free_port() -> int:
    """A port on which nobody listens, for a client that must be refused."""
    return free_ports(1)[0]


def free_ports(count: int) -> list[int]:
    """Ports on which nobody listened a moment ago, for a program that cannot be given a socket."""
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [sock.getsockname()[1] for sock in held]
    for sock in held:
        sock.close()
    return ports
