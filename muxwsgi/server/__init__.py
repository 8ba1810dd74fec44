"""Running: the composition root, listening sockets, signals, what is shown at the start."""

from muxwsgi.server.server import Server

__all__ = ["Server"]
