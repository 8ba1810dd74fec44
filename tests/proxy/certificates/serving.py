"""A server that serves leaves over `Connection`, in a thread with a hub of its own: clients that block can talk to it."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import gevent
from gevent.server import StreamServer

from muxwsgi.errors import HandshakeError
from muxwsgi.wire.connection import Connection
from muxwsgi.wire.tls.server_context import ServerSide

RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello"

#: What was agreed on, or why nothing was.
Seen = list[object]


@contextmanager
def serving(choose: Callable[[], ServerSide]) -> Iterator[tuple[int, Seen]]:
    """The port, and what the server saw: the `TLSInfo` of each connection, or its `HandshakeError`. Each request is greeted."""
    seen: Seen = []
    ready, done = threading.Event(), []
    port = 0

    def handle(sock: object, address: object) -> None:
        connection = Connection.from_socket(sock, client=address)  # type: ignore[arg-type]
        try:
            inside = connection.start_tls(choose())
            seen.append(inside.tls)
            inside.recv(1 << 14)
            inside.sendall(RESPONSE)
        except HandshakeError as error:
            seen.append(error)
        finally:
            connection.finish()

    def run() -> None:
        nonlocal port
        server = StreamServer(("127.0.0.1", 0), handle)
        server.start()
        port = server.server_port
        stop = gevent.get_hub().loop.async_()
        ended = gevent.event.Event()
        stop.start(ended.set)
        done.append(stop.send)
        ready.set()
        ended.wait(60)
        server.stop(timeout=5)
        stop.close()
        gevent.get_hub().destroy(destroy_loop=True)

    thread = threading.Thread(target=run)
    thread.start()
    assert ready.wait(10)
    try:
        yield port, seen
    finally:
        done[0]()
        thread.join(10)
        assert not thread.is_alive()
