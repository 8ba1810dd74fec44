"""The yardstick of mixed traffic: StreamServer, a constant for what begins with `GET `, an echo for the rest. No parser, no limits."""

from gevent.server import StreamServer
from gevent.socket import socket

from tests.bench.applications.hello import BODY
from tests.bench.servers.arguments import read

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), BODY)


def either(sock: socket, address: object) -> None:
    data = sock.recv(65536)
    if data.startswith(b"GET "):
        while data:
            if data.endswith(b"\r\n\r\n"):
                sock.sendall(ANSWER)
                data = b""
            more = sock.recv(65536)
            data = data + more if more else b""
    while data:
        sock.sendall(data)
        data = sock.recv(65536)


StreamServer(("127.0.0.1", read().port), either, backlog=2048).serve_forever()
