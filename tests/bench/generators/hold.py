"""Opens connections that then sit idle: python -m tests.bench.generators.hold PORT NUMBER plain|tls

Each has made one request and read its answer. Prints `open` once all are there, and, when its standard input ends, how many still are.
"""

import select
import socket
import ssl
import sys
import time

from tests.bench.applications.hello import BODY
from tests.bench.generators.wire import WrongAnswer, client_context

REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
#: Seconds for one connection to be opened and answered.
PATIENCE = 10.0


def opened(port: int, context: ssl.SSLContext | None) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port), PATIENCE)
    if context is not None:
        sock = context.wrap_socket(sock, server_hostname="localhost")
    sock.sendall(REQUEST)
    answer = b""
    while not answer.endswith(BODY):
        data = sock.recv(4096)
        if not data:
            raise WrongAnswer(f"the connection ended behind {answer!r}")
        answer += data
    return sock


def still_open(held: list[socket.socket]) -> int:
    """Those of which nothing has come: a server that is done with a connection ends it."""
    poll = select.poll()
    for sock in held:
        poll.register(sock.fileno(), select.POLLIN | select.POLLHUP)
    return len(held) - len(poll.poll(0))


def main() -> None:
    port, number, kind = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    context = client_context() if kind == "tls" else None
    began = time.monotonic()
    held = []
    for _ in range(number):
        held.append(opened(port, context))
    print(f"open {time.monotonic() - began:.3f}", flush=True)
    sys.stdin.read()
    print(still_open(held), flush=True)


if __name__ == "__main__":
    main()
