"""The yardstick of memory: holds connections, plain or OpenSSL's, and nothing else for them. Each is read once and answered once."""

import selectors
import socket
from collections.abc import Callable

from OpenSSL import SSL

from tests.bench.applications.hello import BODY
from tests.bench.servers.arguments import read

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), BODY)

arguments = read()
context = SSL.Context(SSL.TLS_SERVER_METHOD)
if arguments.files:
    context.use_certificate_chain_file(arguments.files[0])
    context.use_privatekey_file(arguments.files[1])
    # As nginx and muxwsgi do: a connection at rest gives its record buffers back.
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)
selector = selectors.DefaultSelector()
listener = socket.create_server(("127.0.0.1", arguments.port), backlog=2048)


def accept() -> None:
    sock, _ = listener.accept()
    sock.setblocking(False)
    stream: socket.socket | SSL.Connection = sock
    if arguments.files:
        stream = SSL.Connection(context, sock)
        stream.set_accept_state()

    def answer() -> None:
        try:
            asked = stream.recv(16384)
            if asked:
                stream.sendall(ANSWER)
                return
        except (SSL.WantReadError, BlockingIOError):
            return
        except (SSL.ZeroReturnError, SSL.SysCallError, OSError):
            pass
        selector.unregister(sock)
        sock.close()

    selector.register(sock, selectors.EVENT_READ, answer)


selector.register(listener, selectors.EVENT_READ, accept)
while True:
    for key, _ in selector.select():
        act: Callable[[], None] = key.data
        act()
