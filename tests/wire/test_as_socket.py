"""`as_socket()`: a real socket over every transport, whose last bytes arrive and through which every limit holds."""

import errno
import gc
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import gevent
import gevent.ssl
import gevent.threadpool
import pytest
from gevent.monkey import get_original

from muxwsgi.errors import Draining, Expired
from muxwsgi.settings import CertificateFiles
from muxwsgi.wire import pump
from muxwsgi.wire.connection import Connection
from tests.waiting import until

Pair = tuple[Connection, Connection]

BIG = os.urandom(3_000_000)


def read_all(connection: Connection) -> bytes:
    parts = []
    while data := connection.recv():
        parts.append(data)
    return b"".join(parts)


def test_what_was_written_arrives_whole_at_a_peer_that_reads_slowly(pair: Pair) -> None:
    server, client = pair
    sock = server.as_socket()

    def handle() -> None:
        sock.sendall(BIG)
        sock.close()
        server.finish()

    handling = gevent.spawn(handle)
    received = bytearray()
    while data := client.recv(25_000):
        received += data
        gevent.sleep(0.02)  # 120 times: more than 2 s in all
    assert received == BIG
    handling.get(timeout=5)


def test_the_end_waits_for_nobody_where_nothing_is_left_to_send(pair: Pair) -> None:
    server, client = pair
    sock = server.as_socket()
    sock.sendall(b"last words")
    began = time.monotonic()
    server.finish()  # the socket is open still, as a thread of the application may have it
    assert time.monotonic() - began < 0.9
    assert read_all(client) == b"last words"
    with pytest.raises(BrokenPipeError):
        sock.send(b"to nobody")
    assert sock.recv(1) == b""
    sock.close()


@pytest.mark.parametrize("cut", [False, True])
def test_a_peer_that_reads_nothing_ends_in_a_reset(make_pair: Callable[[str], Pair], monkeypatch: pytest.MonkeyPatch, cut: bool) -> None:
    monkeypatch.setattr(pump, "STALLED", 60.0 if cut else 0.3)
    for kind in ("tcp", "memory", "tls", "tls-over-read-ahead", "tls-in-tls"):  # unix sockets know no reset
        server, client = make_pair(kind)
        sock = server.as_socket()
        writing = gevent.spawn(sock.sendall, BIG * 8)
        gevent.sleep(0.1)
        with gevent.Timeout(20):
            if cut:
                writing.kill()  # as the server does with the handler
            server.finish(cut)
            with pytest.raises(OSError) as caught:
                read_all(client)
        assert caught.value.errno in (errno.ECONNRESET, errno.EPROTO), kind
        writing.kill()
        sock.close()


def test_every_limit_holds_through_the_socket(pair: Pair, swept: Callable[..., None]) -> None:
    server, _client = pair
    swept(server)
    sock = server.as_socket()
    server.resting = True
    waiting = gevent.spawn(sock.recv, 10)
    gevent.sleep(0.05)
    server.lifeline.drain()
    with pytest.raises(Draining):
        waiting.get(timeout=5)
    sock.sendall(b"goodbye")
    assert _client.recv() == b"goodbye"
    sock.close()


@pytest.mark.parametrize("limit", ["deadline", "idle_timeout"])
def test_a_limit_that_passes_is_raised_by_the_sockets_recv(pair: Pair, swept: Callable[..., None], limit: str) -> None:
    server, client = pair
    swept(server)
    sock = server.as_socket()
    client.sendall(b"before")
    assert sock.recv(100) == b"before"
    if limit == "deadline":
        server.deadline = time.monotonic() + 0.1
    else:
        server.idle_timeout = 0.1
    with gevent.Timeout(10), pytest.raises(Expired):
        sock.recv(10)
    with pytest.raises(Expired):
        sock.recv_into(bytearray(10))
    sock.close()


def test_a_reset_is_no_end_of_the_stream(make_pair: Callable[[str], Pair]) -> None:
    for kind in ("tcp", "memory", "tls", "tls-in-tls"):
        server, client = make_pair(kind)
        sock = server.as_socket()
        client.sendall(b"half of it")
        until(lambda sock=sock: len(sock.recv(100, socket.MSG_PEEK)) == 10)
        client.abort()
        assert sock.recv(100) == b"half of it"
        with pytest.raises(ConnectionResetError):
            sock.recv(100)
        sock.close()


def test_the_socket_works_in_real_threads(pair: Pair) -> None:
    server, client = pair
    sock = server.as_socket()
    sock.settimeout(5)
    ended: list[str] = []

    def echo() -> None:
        with sock, sock.makefile("rb") as lines:
            for line in lines:
                sock.send(line.upper())
        ended.append(get_original("threading", "current_thread")().name)

    thread = get_original("threading", "Thread")(target=echo, name="real")
    thread.start()
    for line in (b"hello\n", b"x" * 1_000_000 + b"\n"):
        writing = gevent.spawn(client.sendall, line)
        received = b""
        while len(received) < len(line):
            part = client.recv()
            assert part
            received += part
        assert received == line.upper()
        writing.get(timeout=5)
    client.shutdown(socket.SHUT_WR)
    assert read_all(client) == b""
    until(lambda: not thread.is_alive())
    assert ended == ["real"]


def test_a_timeout_in_a_real_thread_is_a_timeout(make_pair: Callable[[str], Pair]) -> None:
    server, _client = make_pair("tls")
    sock = server.as_socket()
    sock.settimeout(0.05)
    raised: list[BaseException] = []

    def read() -> None:
        try:
            sock.recv(1)
        except OSError as error:
            raised.append(error)

    gevent.get_hub().threadpool.apply(read)
    assert len(raised) == 1 and isinstance(raised[0], TimeoutError)
    sock.close()


def test_a_process_inherits_a_descriptor_that_blocks_and_has_the_stream(pair: Pair) -> None:
    server, client = pair
    client.sendall(b"early ")
    server.peek(1)
    sock = server.as_socket()
    program = "import sys; sys.stdout.write(sys.stdin.read().upper()); sys.stdout.flush()"
    with subprocess.Popen([sys.executable, "-c", program], stdin=sock, stdout=sock) as process:
        sock.close()
        gevent.sleep(0.3)  # the process waits for its input
        client.sendall(b"late")
        client.shutdown(socket.SHUT_WR)
        assert read_all(client) == b"EARLY LATE"
        assert gevent.get_hub().threadpool.apply(process.wait, (10,)) == 0


def test_an_event_loop_in_a_thread_serves_it(pair: Pair) -> None:
    import asyncio

    server, client = pair
    sock = server.as_socket()

    async def serve() -> None:
        reader, writer = await asyncio.open_connection(sock=sock)
        while data := await reader.read(65536):
            writer.write(data.upper())
            await writer.drain()
        writer.close()
        await writer.wait_closed()

    serving = gevent.get_hub().threadpool.spawn(lambda: asyncio.run(serve()))
    for message in (b"hello", b"y" * 500_000):
        writing = gevent.spawn(client.sendall, message)
        received = b""
        while len(received) < len(message):
            received += client.recv()
        assert received == message.upper()
        writing.get(timeout=5)
    client.shutdown(socket.SHUT_WR)
    assert read_all(client) == b""
    serving.get(timeout=10)


def test_ssl_wraps_it(pair: Pair, certificate: CertificateFiles) -> None:
    server, client = pair
    context = gevent.ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.certfile, certificate.keyfile)
    inside = gevent.ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    inside.check_hostname = False
    inside.verify_mode = ssl.CERT_NONE

    def serve() -> None:
        with context.wrap_socket(server.as_socket(), server_side=True) as wrapped:
            wrapped.sendall(wrapped.recv(100).upper())

    serving = gevent.spawn(serve)
    with inside.wrap_socket(client.as_socket()) as wrapped:
        wrapped.sendall(b"twice in tls")
        assert wrapped.recv(100) == b"TWICE IN TLS"
    serving.get(timeout=10)
    gc.collect()
    for connection in pair:
        connection.finish()


def test_options_and_names_are_the_connections(make_pair: Callable[[str], Pair]) -> None:
    for kind in ("tcp", "tls"):
        server, _client = make_pair(kind)
        sock = server.as_socket()
        assert (sock.getpeername(), sock.getsockname()) == (server.client, server.server)
        for value in (1, 0):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, value)
            assert bool(server.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)) == bool(value)
            assert bool(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)) == bool(value)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        assert server.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE) == socket.SOCK_STREAM
        assert sock.connection is server
        with pytest.raises(OSError) as caught:
            server.as_socket()
        assert caught.value.errno == errno.EALREADY
        with sock.dup() as other:
            sock.close()
            other.sendall(b"by the other one")
            assert _client.recv() == b"by the other one"
        server.finish()


def test_a_socket_that_does_not_block_sends_what_there_is_room_for(make_pair: Callable[[str], Pair]) -> None:
    server, _client = make_pair("tls")
    sock = server.as_socket()
    sock.setblocking(False)
    with pytest.raises(BlockingIOError):
        sock.recv(1)
    assert 0 < sock.send(BIG) < len(BIG)
    sock.setblocking(True)
    assert sock.recvmsg is not None
    sock.close()
    server.abort()


def test_messages_of_several_buffers_are_streams_too(make_pair: Callable[[str], Pair]) -> None:
    server, client = make_pair("tls")
    sock: Any = server.as_socket()
    assert sock.sendmsg([b"a", bytearray(b"b"), memoryview(b"c")]) == 3
    until(lambda: client.peek(3) == b"abc")
    client.sendall(b"0123456789")
    until(lambda: len(sock.recv(100, socket.MSG_PEEK)) == 10)
    assert sock.recvfrom(2) == (b"01", None)
    assert sock.recvmsg(2)[0] == b"23"
    buffer = bytearray(4)
    assert sock.recvmsg_into([bytearray(), buffer])[0] == 4 and buffer == b"4567"
    assert sock.recvfrom_into(buffer, 1)[0] == 1
    with pytest.raises(OSError):
        sock.sendmsg([b"x"], [(1, 1, b"")])
    sock.close()


def test_no_thread_is_left(pair: Pair) -> None:
    before = threading.active_count()
    server, client = pair
    sock = server.as_socket()
    client.close()
    assert sock.recv(1) == b""
    sock.close()
    server.finish()
    assert threading.active_count() == before
