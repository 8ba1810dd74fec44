"""What the clients of the reload group take for lost."""

import socket
import struct
from collections.abc import Callable

import gevent
import gevent.socket
import pytest
from gevent.server import StreamServer

from tests.bench.applications.hello import BODY
from tests.bench.generators.reloads import GET, Client, Lost, Seen

HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 13\r\nX-Worker: 7\r\n\r\n"


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def exchanges(answers: Callable[[socket.socket, int], None], number: int) -> list[str]:
    """How each of `number` requests of one client ended; "" for a right answer. `answers` gets each connection with its number."""
    ended: list[str] = []
    seen = Seen()
    count = 0

    def handle(sock: socket.socket, address: object) -> None:
        nonlocal count
        count += 1
        answers(sock, count)

    server = StreamServer(("127.0.0.1", 0), handle)
    server.start()
    client = Client(seen, server.server_port, 0.0, GET)
    try:
        with gevent.Timeout(20):
            for _ in range(number):
                try:
                    client._exchange()
                    ended.append("")
                except Lost as how:
                    ended.append(str(how))
                    client._close()
                gevent.sleep(0.02)
    finally:
        client._close()
        server.stop()
    return ended


@pytest.mark.parametrize(
    ("answer", "how"),
    [
        (HEAD + BODY, ""),
        (HEAD + BODY[:5], "cut"),
        (HEAD[:20], "cut"),
        (b"", "ended"),
        (HEAD.replace(b"200 OK", b"502 Bad Gateway") + BODY, "502"),
        (HEAD + b"Hello, Worle!", "wrong"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "no HTTP"),
    ],
)
def test_an_answer_that_is_not_the_right_one_is_lost(answer: bytes, how: str) -> None:
    def once(sock: socket.socket, number: int) -> None:
        sock.recv(65536)
        sock.sendall(answer)
        sock.close()

    # An answer without a length ends with the connection.
    assert exchanges(once, 1) == [how]


def test_a_connection_that_rests_may_be_ended_and_one_with_a_request_may_not() -> None:
    def answers(sock: socket.socket, number: int) -> None:
        sock.recv(65536)
        sock.sendall(HEAD + BODY)
        if number == 1:
            sock.close()  # before the next request: the client sees it, and connects again
            return
        sock.recv(65536)
        reset(sock)
        sock.close()

    assert exchanges(answers, 3) == ["", "", "reset"]


def test_a_port_that_nobody_listens_on_is_lost() -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with pytest.raises(Lost, match="refused"):
        Client(Seen(), port, 0.0, GET)._exchange()
