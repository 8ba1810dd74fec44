"""The words of sockets: flags, messages, files, certificates; and what a Connection says in another thread."""

import errno
import gzip
import io
import os
import socket
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gevent
import pytest

from muxwsgi.settings import CertificateFiles
from muxwsgi.wire.connection import Connection
from muxwsgi.wire.tls.client_context import ClientContext
from muxwsgi.wire.tls.server_context import ServerContext
from tests.waiting import until

Pair = tuple[Connection, Connection]

BIG = os.urandom(3_000_000)

#: More than any pair of sockets holds.
LARGE = memoryview(BIG * 8)


def read_exactly(connection: Connection, n: int) -> bytes:
    data = b""
    while len(data) < n:
        part = connection.recv(n - len(data))
        assert part, f"the stream ended after {len(data)} of {n} bytes"
        data += part
    return data


def test_waitall_waits_for_all_or_the_end(pair: Pair) -> None:
    server, client = pair
    waiting = gevent.spawn(server.recv, 6, socket.MSG_WAITALL)
    for part in (b"ab", b"cd", b"ef"):
        assert not waiting.ready()
        client.sendall(part)
        gevent.sleep(0.01)
    assert waiting.get(timeout=5) == b"abcdef"
    client.sendall(b"peeked")
    assert server.recv(6, socket.MSG_PEEK | socket.MSG_WAITALL) == b"peeked"
    buffer = bytearray(6)
    assert server.recv_into(buffer, 0, socket.MSG_WAITALL) == 6 and buffer == b"peeked"
    client.sendall(b"short")
    client.shutdown(socket.SHUT_WR)
    assert server.recv(100, socket.MSG_WAITALL) == b"short"
    assert server.bytes_received == 17


def test_dontwait_does_not_wait(pair: Pair) -> None:
    server, client = pair
    for flags in (socket.MSG_DONTWAIT, socket.MSG_DONTWAIT | socket.MSG_PEEK, socket.MSG_DONTWAIT | socket.MSG_WAITALL):
        with pytest.raises(BlockingIOError):
            server.recv(1, flags)
    client.sendall(b"xyz")
    until(lambda: _has(server, 3))
    assert server.recv(10, socket.MSG_DONTWAIT | socket.MSG_WAITALL) == b"xyz"
    assert server.gettimeout() is None


def _has(connection: Connection, n: int) -> bool:
    try:
        return len(connection.recv(n, socket.MSG_PEEK | socket.MSG_DONTWAIT)) == n
    except BlockingIOError:
        return False


def test_a_send_that_does_not_wait_says_how_much_it_sent(make_pair: Callable[[str], Pair]) -> None:
    for kind in ("tcp", "unix", "memory"):
        server, client = make_pair(kind)
        sent = 0
        with pytest.raises(BlockingIOError):
            while True:
                count = server.send(LARGE[sent:], socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
                assert count > 0
                sent += count
        assert 0 < sent == server.bytes_sent, kind
        assert read_exactly(client, sent) == LARGE[:sent], kind
        server.setblocking(False)
        assert 0 < (more := server.send(BIG)) <= len(BIG)
        server.setblocking(True)
        assert read_exactly(client, more) == BIG[:more]
        reading = gevent.spawn(read_exactly, client, len(BIG))
        server.sendall(BIG, socket.MSG_MORE | socket.MSG_NOSIGNAL)  # whole and unbroken after what did not fit
        assert reading.get(timeout=20) == BIG, kind


def test_a_send_in_tls_cannot_be_without_waiting_and_says_so(make_pair: Callable[[str], Pair]) -> None:
    for kind in ("tls", "tls-in-tls"):
        server, _client = make_pair(kind)
        with pytest.raises(OSError, match="as_socket") as caught:
            server.send(b"x", socket.MSG_DONTWAIT)
        assert caught.value.errno == errno.EOPNOTSUPP


def test_flags_that_mean_something_else_are_refused_in_words(pair: Pair) -> None:
    server, _client = pair
    for use in (lambda: server.recv(1, socket.MSG_OOB), lambda: server.sendall(b"x", socket.MSG_OOB), lambda: server.send(b"x", socket.MSG_EOR)):
        with pytest.raises(ValueError, match="flags that a Connection knows"):
            use()


def test_a_peek_sees_what_has_come_since_the_last_one(pair: Pair) -> None:
    server, client = pair
    for have in range(1, 4):
        client.sendall(b"x")
        until(lambda have=have: len(server.recv(10, socket.MSG_PEEK)) == have)  # type: ignore[misc]
    assert server.recv(2, socket.MSG_PEEK) == b"xx"
    client.shutdown(socket.SHUT_WR)
    assert server.recv(100, socket.MSG_PEEK | socket.MSG_WAITALL) == server.recv(100) == b"xxx"


def test_what_waitall_has_gathered_stays_in_the_stream_where_it_raises(pair: Pair) -> None:
    server, client = pair
    client.sendall(b"half")
    server.settimeout(0.1)
    with pytest.raises(TimeoutError):
        server.recv(8, socket.MSG_WAITALL)
    waiting = gevent.spawn(server.recv, 8, socket.MSG_WAITALL)
    until(lambda: server.bytes_received == 4)
    waiting.kill()
    server.setblocking(False)
    assert server.recv(4, socket.MSG_WAITALL | socket.MSG_PEEK) == b"half"
    assert server.recv(8, socket.MSG_WAITALL) == b"half"
    assert server.bytes_received == 4


def test_a_timeout_covers_the_whole_of_a_read_that_waits_for_all(pair: Pair) -> None:
    server, client = pair
    server.settimeout(0.5)

    def drip() -> None:
        while True:
            client.sendall(b"x")
            gevent.sleep(0.05)

    dripping = gevent.spawn(drip)
    with pytest.raises(TimeoutError):
        server.recv(10_000, socket.MSG_WAITALL)
    dripping.kill()


def test_a_reset_is_told_by_a_read_that_waits_for_all(make_pair: Callable[[str], Pair]) -> None:
    for kind in ("tcp", "memory"):
        server, client = make_pair(kind)
        waiting = gevent.spawn(server.recv, 8, socket.MSG_WAITALL)
        client.sendall(b"half")
        until(lambda server=server: server.bytes_received == 4)  # type: ignore[misc]
        client.abort()
        with pytest.raises(ConnectionResetError):
            waiting.get(timeout=5)
        assert server.recv() == b"half", kind


def test_messages_are_parts_of_the_stream(pair: Pair) -> None:
    server, client = pair
    assert client.sendmsg([b"01", bytearray(b"23"), memoryview(b"456789")], [], socket.MSG_NOSIGNAL) == 10
    until(lambda: _has(server, 10))
    assert server.recvfrom(2) == (b"01", None)
    assert server.recvmsg(2, 100) == (b"23", [], 0, None)
    buffer = bytearray(3)
    assert server.recvfrom_into(buffer) == (3, None) and buffer == b"456"
    assert server.recvmsg_into([bytearray(), memoryview(buffer)]) == (3, [], 0, None) and buffer == b"789"
    with pytest.raises(OSError) as caught:
        client.sendmsg([b"x"], [(socket.SOL_SOCKET, 1, b"")])
    assert caught.value.errno == errno.EOPNOTSUPP


class Reading(io.RawIOBase):
    """A file without a descriptor that cannot seek."""

    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._data.readinto(buffer)


def test_files_of_every_kind_are_sent(pair: Pair, tmp_path: Path) -> None:
    server, client = pair
    data = BIG[:300_000]
    path = tmp_path / "file.gz"
    with gzip.open(path, "wb") as packed:
        packed.write(data)
    reader, writer = os.pipe()
    with os.fdopen(writer, "wb") as writing:
        writing.write(data[:5000])
    spooled: Any = tempfile.TemporaryFile()
    spooled.write(data)  # part of it is in the buffer of the file
    files: list[tuple[Any, bytes, int]] = [
        (spooled, data, 0),
        (open("/proc/self/status", "rb", buffering=0), b"Name:", 0),
        (io.BytesIO(data), data, 0),
        (io.BytesIO(data), data[100:], 100),
        (Reading(data), data, 0),
        (gzip.open(path, "rb"), data, 0),
        (open(path, "rb"), path.read_bytes(), 0),
        (open(path, "rb", buffering=0), path.read_bytes()[7:], 7),
        (os.fdopen(reader, "rb"), data[:5000], 0),
    ]
    for file, expected, offset in files:
        sending = gevent.spawn(server.sendfile, file, offset, len(expected) if expected == b"Name:" else None)
        assert read_exactly(client, len(expected)) == expected, file
        assert sending.get(timeout=5) == len(expected)
        file.close()
    with open(path) as text, pytest.raises(ValueError, match="binary"):
        server.sendfile(text)  # type: ignore[arg-type]


def test_a_duplicate_is_a_socket_where_the_descriptor_is_the_stream(make_pair: Callable[[str], Pair]) -> None:
    for kind in ("tcp", "unix"):
        server, client = make_pair(kind)
        with server.dup() as other:
            assert other.fileno() != server.descriptor()
            other.sendall(b"by the other")
        server.sendall(b" and this one")
        assert read_exactly(client, 25) == b"by the other and this one"
        assert not server.get_inheritable()
        server.set_inheritable(True)
        assert server.get_inheritable()
        server.set_inheritable(False)
        detached, _ahead = server.detach()
        assert type(detached) is gevent.socket.socket  # nobody was given the number
        detached.close()
        with pytest.raises(OSError) as caught:
            server.dup()
        assert caught.value.errno == errno.EBADF
    server, _client = make_pair("memory")
    with pytest.raises(OSError, match="as_socket"):
        server.dup()
    server, _client = make_pair("tls")
    for use in (server.dup, lambda: server.set_inheritable(True)):
        with pytest.raises(OSError, match="as_socket"):
            use()
    assert not server.get_inheritable()
    server.set_inheritable(False)


def test_the_words_of_ssl(make_pair: Callable[[str], Pair], certificate: CertificateFiles) -> None:
    server, client = make_pair("tcp")
    assert (server.version(), server.cipher(), server.selected_alpn_protocol(), server.getpeercert()) == (None, None, None, None)
    client.sendall(b"abc")
    server.peek(1)
    assert server.pending() == 3
    for kind in ("tls", "tls-in-tls"):
        server, client = make_pair(kind)
        assert server.version() == client.version() == "TLSv1.3"
        cipher = client.cipher()
        assert cipher is not None and cipher[1] == "TLSv1.3" and cipher[2] in (128, 256)
        assert server.getpeercert() is None and server.getpeercert(True) is None
        der = client.getpeercert(True)
        assert isinstance(der, bytes)
        assert ssl.DER_cert_to_PEM_cert(der) in Path(certificate.certfile).read_text()
        described = client.getpeercert()
        assert described == ssl._ssl._test_decode_cert(certificate.certfile)  # type: ignore[attr-defined]
        server.sendall(b"z" * 1000)
        assert len(client.recv(1)) == 1
        assert client.pending() == 999


def test_alpn_is_told(certificate: CertificateFiles, server_context: ServerContext) -> None:
    from muxwsgi.testing import connection_pair

    server, client = connection_pair()
    shaking = gevent.spawn(client.start_tls, ClientContext(ca_file=certificate.certfile, alpn=("http/1.1",)), server_hostname="localhost")
    inside = server.start_tls(server_context)
    assert inside.selected_alpn_protocol() == shaking.get(timeout=5).selected_alpn_protocol() == "http/1.1"
    inside.finish()
    shaking.value.finish()


def in_a_thread(function: Callable[[], Any]) -> Any:
    """What `function` returns or raises in a real thread."""

    def call() -> Any:
        try:
            return function()
        except Exception as error:
            return error

    return gevent.get_hub().threadpool.apply(call)


def test_another_thread_is_told_what_to_use(pair: Pair) -> None:
    server, client = pair
    waits: list[Callable[[], Any]] = [lambda: server.recv(1), lambda: server.recv(1, socket.MSG_WAITALL), lambda: server.peek(1), server.as_socket]
    for use in (*waits, lambda: server.makefile("rb", buffering=0).read(1)):
        told = in_a_thread(use)
        assert isinstance(told, RuntimeError) and "as_socket()" in str(told), told
    server.settimeout(5)
    assert isinstance(in_a_thread(waits[0]), RuntimeError)
    server.settimeout(None)
    client.sendall(b"for its own thread")
    assert read_exactly(server, 18) == b"for its own thread"
    near = server.as_socket()
    client.sendall(b"for the other")
    assert in_a_thread(lambda: near.recv(13, socket.MSG_WAITALL)) == b"for the other"
    near.close()


def test_another_thread_may_look_and_may_write_what_there_is_room_for(pair: Pair) -> None:
    server, client = pair
    assert in_a_thread(lambda: server.sendall(b"from afar")) is None
    client.settimeout(10)
    assert read_exactly(client, 9) == b"from afar"
    assert in_a_thread(server.version) == server.version()
    assert in_a_thread(server.getpeername) == server.getpeername()
    told = in_a_thread(lambda: server.sendall(LARGE))
    assert isinstance(told, RuntimeError) and "as_socket()" in str(told)
    assert server.lifeline.reset_at_close or "tls" in str(server)  # it has sent half of something


def test_another_thread_may_close(pair: Pair) -> None:
    server, _client = pair
    reading = gevent.spawn(server.recv, 1)
    until(lambda: server.lifeline.reader.waiting)
    assert in_a_thread(server.close) is None
    with pytest.raises(OSError) as caught:
        reading.get(timeout=10)
    assert caught.value.errno == errno.EBADF


def test_a_close_by_another_thread_wakes_a_loop_that_waits() -> None:
    """Nothing else is in the loop: no timer, and no other descriptor."""
    program = """
import threading, time
from tests.pairs import tcp_pair

server, client = tcp_pair()
def close():
    while not server.lifeline.reader.waiting:
        time.sleep(0.01)
    time.sleep(0.2)
    server.close()
threading.Thread(target=close).start()
try:
    server.recv(1)
except OSError as error:
    print(error.errno)
client.close()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, cwd=Path(__file__).parents[2])
    assert done.stdout == f"{errno.EBADF}\n", done.stderr
