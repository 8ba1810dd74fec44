"""The yardstick of dispatch: gevent's StreamServer and an echo that asks nothing, decides nothing and has no deadline."""

from gevent.server import StreamServer
from gevent.socket import socket

from tests.bench.servers.arguments import read


def echo(sock: socket, address: object) -> None:
    while data := sock.recv(65536):
        sock.sendall(data)


StreamServer(("127.0.0.1", read().port), echo, backlog=2048).serve_forever()
