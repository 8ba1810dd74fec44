"""The server behind a relay: python -m tests.bench.generators.relay_upstream PORT

A connection begins with a zero byte, which begins no protocol, and a letter: `e` says everything back, `d` sends for as long as the client
reads, `u` reads.
"""

import select
import socket
import sys

ECHO, DOWN, UP = b"\0e", b"\0d", b"\0u"
BLOCK = bytes(1 << 18)


class Served:
    """One connection."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.kind = b""

    def ready(self) -> bool:
        """Do what can be done now. False when it is over."""
        try:
            if self.kind == DOWN:
                self.sock.send(BLOCK)
                return True
            data = self.sock.recv(1 << 18)
            if not data:
                return False
            if not self.kind:
                self.kind, data = data[:2], data[2:]
            if self.kind == ECHO and data:
                self.sock.sendall(data)
        except BlockingIOError:
            pass
        except OSError:
            return False
        return True


def main() -> None:
    epoll = select.epoll()
    listener = socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=2048)
    epoll.register(listener, select.EPOLLIN)
    served: dict[int, Served] = {}
    while True:
        for number, _ in epoll.poll():
            if number == listener.fileno():
                sock, _ = listener.accept()
                sock.setblocking(False)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                served[sock.fileno()] = Served(sock)
                epoll.register(sock, select.EPOLLIN)
            elif not served[number].ready():
                served.pop(number).sock.close()
            elif served[number].kind == DOWN:
                epoll.modify(number, select.EPOLLOUT)


if __name__ == "__main__":
    main()
