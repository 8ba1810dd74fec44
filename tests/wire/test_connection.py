"""`Connection` over every transport: one stream, whatever is below it."""

import errno
import math
import os
import socket
import time
from collections.abc import Callable

import gevent
import pytest
from gevent.exceptions import ConcurrentObjectUseError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from muxwsgi.errors import Draining, Expired
from muxwsgi.testing import connection_pair
from muxwsgi.wire.connection import Connection
from tests.gate.test_build import EXPECTED
from tests.waiting import until

Pair = tuple[Connection, Connection]

BIG = os.urandom(3_000_000)


def read_all(connection: Connection) -> bytes:
    parts = []
    while data := connection.recv():
        parts.append(data)
    return b"".join(parts)


def read_exactly(connection: Connection, n: int) -> bytes:
    data = b""
    while len(data) < n:
        part = connection.recv(n - len(data))
        assert part, f"the stream ended after {len(data)} of {n} bytes"
        data += part
    return data


def test_bytes_arrive_in_both_directions(pair: Pair) -> None:
    server, client = pair
    client.sendall(b"ping")
    assert read_exactly(server, 4) == b"ping"
    server.sendall(b"pong")
    assert read_exactly(client, 4) == b"pong"
    assert (server.bytes_received, server.bytes_sent) == (4, 4)
    assert (client.bytes_received, client.bytes_sent) == (4, 4)


def test_a_large_send_reaches_a_slow_reader_whole(pair: Pair) -> None:
    server, client = pair
    writer = gevent.spawn(client.sendall, BIG)
    received = bytearray()
    while len(received) < len(BIG):
        received += server.recv(50_000)
        gevent.sleep(0)
    assert received == BIG
    writer.get(timeout=5)


def test_a_gathered_write_is_one_stream_also_to_a_slow_reader(pair: Pair) -> None:
    """The second and third writes find the buffers full, so that heads are waited for too. Other writers come in between, never within."""
    server, client = pair
    parts = [(bytes([number]) * 10, BIG) for number in range(3)]

    def write() -> None:
        for head, data in parts:
            client.sendall_gathered(head, data)

    writer = gevent.spawn(write)
    other = gevent.spawn(client.sendall, b"other")
    expected = b"".join(head + data for head, data in parts)
    received = bytearray()
    while len(received) < len(expected) + 5:
        received += server.recv(50_000)
        gevent.sleep(0)
    at = received.find(b"other")
    assert at % (10 + len(BIG)) == 0
    del received[at : at + 5]
    assert received == expected
    gevent.joinall([writer, other], timeout=5, raise_error=True)
    assert client.bytes_sent == len(expected) + 5


def test_both_directions_stream_at_once(pair: Pair) -> None:
    server, client = pair
    writers = [gevent.spawn(server.sendall, BIG), gevent.spawn(client.sendall, BIG[::-1])]
    readers = [gevent.spawn(read_exactly, client, len(BIG)), gevent.spawn(read_exactly, server, len(BIG))]
    gevent.joinall(writers + readers, timeout=30, raise_error=True)
    assert readers[0].value == BIG
    assert readers[1].value == BIG[::-1]


def test_peek_consumes_nothing(pair: Pair) -> None:
    server, client = pair
    client.sendall(b"hello world")
    assert server.peek(5) == b"hello"
    assert server.peek(11) == b"hello world"
    assert server.bytes_received == 0
    assert server.recv(5, socket.MSG_PEEK) == b"hello"
    assert server.recv(5) == b"hello"
    assert server.recv(100) == b" world"


def test_peek_returns_what_there_is_at_the_end_of_the_stream(pair: Pair) -> None:
    server, client = pair
    client.sendall(b"abc")
    client.shutdown(socket.SHUT_WR)
    assert server.peek(10) == b"abc"
    assert server.recv(10) == b"abc"
    assert server.recv(10) == b""


def test_peek_beyond_waits_for_one_byte_more_than_was_seen(pair: Pair) -> None:
    server, client = pair
    client.sendall(b"ab")
    assert server.peek_beyond(0, 16) == b"ab"
    later = gevent.spawn(server.peek_beyond, 2, 16)
    gevent.sleep(0.02)
    assert not later.ready()
    client.sendall(b"c")
    assert later.get(timeout=5) == b"abc"
    client.sendall(b"0123456789" * 3)
    assert server.peek_beyond(3, 8) == b"abc01234"
    server.settle()
    assert read_exactly(server, 33) == b"abc" + b"0123456789" * 3
    client.sendall(b"!")
    assert server.recv(10) == b"!"


@pytest.mark.parametrize("first", [b"", b"abc"])
def test_peek_beyond_returns_no_more_than_was_seen_at_the_end(pair: Pair, first: bytes) -> None:
    server, client = pair
    if first:
        client.sendall(first)
        assert server.peek_beyond(0, 16) == first
    later = gevent.spawn(server.peek_beyond, len(first), 16)
    gevent.sleep(0.01)
    client.shutdown(socket.SHUT_WR)
    assert later.get(timeout=5) == first
    server.settle()
    assert read_all(server) == first


def test_waiting_to_peek_costs_no_wakeups(make_pair: Callable[[str], Pair]) -> None:
    server, client = make_pair("tcp")
    client.sendall(b"x")
    waiter = gevent.spawn(server.peek_beyond, 1, 16)
    before = time.thread_time()
    gevent.sleep(0.3)
    assert time.thread_time() - before < 0.15
    client.sendall(b"y")
    assert waiter.get(timeout=5) == b"xy"


def test_first_bytes_of_tcp_stay_in_the_kernel(make_pair: Callable[[str], Pair]) -> None:
    server, client = make_pair("tcp")
    client.sendall(b"first")
    assert server.peek_beyond(0, 16) == b"first"
    assert server.peek_beyond(0, 16) == b"first"
    sock, ahead = server.detach()
    assert ahead == b""
    assert sock.recv(16) == b"first"
    sock.close()


def test_unread_bytes_come_first(pair: Pair) -> None:
    server, client = pair
    client.sendall(b"world")
    server.unread(b"hello ")
    assert server.recv(3) == b"hel"
    assert read_exactly(server, 8) == b"lo world"
    assert server.bytes_received == 5


def test_recv_into_fills_the_part_that_was_asked_for(pair: Pair) -> None:
    server, client = pair
    client.sendall(b"abcdef")
    buffer = bytearray(b"......")
    assert server.recv_into(buffer, 2) == 2
    assert server.recv_into(memoryview(buffer)[2:4]) == 2
    assert server.peek(2) == b"ef"
    assert server.recv_into(memoryview(buffer)[4:]) == 2
    assert buffer == b"abcdef"
    assert server.recv(0) == b""
    assert server.recv_into(bytearray()) == 0


def test_send_takes_any_buffer_and_sends_all_of_it(pair: Pair) -> None:
    import array

    server, client = pair
    assert client.send(array.array("I", [1, 2])) == 8  # type: ignore[arg-type]
    assert client.sendmsg([b"a", bytearray(b"b"), memoryview(b"c")]) == 3
    client.sendall(b"")
    assert read_exactly(server, 11) == array.array("I", [1, 2]).tobytes() + b"abc"


def test_half_close_lets_the_other_direction_go_on(pair: Pair) -> None:
    server, client = pair
    client.sendall(b"question")
    client.shutdown(socket.SHUT_WR)
    assert read_all(server) == b"question"
    server.sendall(b"answer" * 10_000)
    server.shutdown(socket.SHUT_WR)
    assert read_all(client) == b"answer" * 10_000
    assert server.recv(1) == b""


def test_the_end_of_the_stream_can_be_read_again_and_again(pair: Pair) -> None:
    server, client = pair
    client.close()
    assert [server.recv(10) for _ in range(3)] == [b"", b"", b""]


def test_a_closed_connection_refuses_every_use(pair: Pair) -> None:
    server, _ = pair
    server.close()
    server.close()
    server.finish()
    for use in (
        lambda: server.recv(1),
        lambda: server.sendall(b"x"),
        lambda: server.peek(1),
        lambda: server.shutdown(socket.SHUT_WR),
        lambda: server.detach(),
        lambda: server.getpeername(),
    ):
        with pytest.raises(OSError) as caught:
            use()
        assert caught.value.errno == errno.EBADF
    assert server.fileno() == -1


def test_close_from_another_greenlet_wakes_the_reader_and_the_writer(pair: Pair) -> None:
    server, _client = pair
    server.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)  # a write blocks soon, also on a machine that is busy
    reader = gevent.spawn(server.recv, 1)
    writer = gevent.spawn(server.sendall, BIG * 4)
    line = server.lifeline
    until(lambda: line.reader.waiting and line.writer.waiting)
    server.close()
    gevent.joinall([reader, writer], timeout=30)
    for sleeper in (reader, writer):
        assert isinstance(sleeper.exception, OSError)
        assert sleeper.exception.errno == errno.EBADF


def test_a_second_reader_is_an_error_and_the_first_one_still_gets_its_bytes(pair: Pair) -> None:
    server, client = pair
    first = gevent.spawn(server.recv, 10)
    gevent.sleep(0.01)
    with pytest.raises(ConcurrentObjectUseError):
        server.recv(10)
    client.sendall(b"mine")
    assert first.get(timeout=5) == b"mine"


def test_concurrent_writers_never_mix_their_messages(pair: Pair) -> None:
    server, client = pair
    messages = [bytes([65 + n]) * 400_000 for n in range(4)]
    writers = [gevent.spawn(client.sendall, message) for message in messages]
    received = read_exactly(server, 1_600_000)
    gevent.joinall(writers, timeout=10, raise_error=True)
    assert sorted(received[i : i + 400_000] for i in range(0, 1_600_000, 400_000)) == messages


def test_a_timeout_is_per_operation_and_leaves_the_stream_usable(pair: Pair) -> None:
    server, client = pair
    server.settimeout(0.02)
    assert server.gettimeout() == server.timeout == 0.02
    for _ in range(2):
        with pytest.raises(TimeoutError):
            server.recv(1)
    client.sendall(b"late")
    assert server.recv(10) == b"late"


def test_a_timeout_covers_the_whole_of_a_send(pair: Pair) -> None:
    server, _client = pair
    server.settimeout(0.05)
    with pytest.raises(TimeoutError):
        server.sendall(BIG * 4)


def test_a_zero_timeout_never_waits(pair: Pair) -> None:
    server, client = pair
    server.setblocking(False)
    with pytest.raises(BlockingIOError):
        server.recv(1)
    client.sendall(b"x")
    for _ in range(100):
        try:
            assert server.recv(1) == b"x"
            break
        except BlockingIOError:
            gevent.sleep(0.01)
    else:
        pytest.fail("the byte never came")
    assert not server.getblocking()


def test_a_gevent_timeout_in_a_wait_leaves_the_stream_usable(pair: Pair) -> None:
    server, client = pair
    for _ in range(3):
        with gevent.Timeout(0.01, False):
            server.recv(1)
            pytest.fail("nothing was sent")
        gevent.sleep(0.01)  # a stale waiter would be switched to here
    client.sendall(b"x")
    assert server.recv(1) == b"x"


def test_a_killed_waiter_leaves_the_stream_usable(pair: Pair) -> None:
    server, client = pair
    waiter = gevent.spawn(server.recv, 1)
    gevent.sleep(0.01)
    waiter.kill()
    client.sendall(b"x")
    gevent.sleep(0.01)
    assert server.recv(1) == b"x"


def test_a_stray_switch_does_not_end_a_wait(make_pair: Callable[[str], Pair]) -> None:
    server, client = make_pair("tcp")
    waiter = gevent.spawn(server.recv, 10)
    gevent.sleep(0.01)
    gevent.get_hub().loop.run_callback(waiter.switch)
    gevent.sleep(0.01)
    assert not waiter.ready()
    client.sendall(b"real")
    assert waiter.get(timeout=5) == b"real"


def test_a_deadline_ends_a_wait_and_can_be_moved(pair: Pair, swept: Callable[..., None]) -> None:
    server, client = pair
    swept(server)
    server.deadline = time.monotonic() + 0.03
    with pytest.raises(Expired):
        server.recv(1)
    server.sendall(b"408")  # needs no wait
    server.deadline = math.inf
    assert read_exactly(client, 3) == b"408"
    client.sendall(b"x")
    assert server.recv(1) == b"x"


def test_dripping_bytes_buys_no_time(pair: Pair, swept: Callable[..., None]) -> None:
    server, client = pair
    swept(server)
    stop = False

    def drip() -> None:
        while not stop:
            client.sendall(b".")
            gevent.sleep(0.005)

    dripper = gevent.spawn(drip)
    server.deadline = time.monotonic() + 0.1
    with pytest.raises(Expired), gevent.Timeout(5):
        while True:
            server.recv(1)
    stop = True
    dripper.get(timeout=5)


def test_a_reader_that_takes_nothing_is_given_up(pair: Pair, swept: Callable[..., None]) -> None:
    server, _client = pair
    swept(server)
    server.lifeline.min_rate = 1_000_000
    server.lifeline.rate_grace = 0.05
    with pytest.raises(Expired), gevent.Timeout(10):
        server.sendall(BIG * 4)


def test_a_slow_reader_above_the_minimum_rate_gets_everything(pair: Pair, swept: Callable[..., None]) -> None:
    server, client = pair
    swept(server)
    server.lifeline.min_rate = 10
    server.lifeline.rate_grace = 30
    writer = gevent.spawn(server.sendall, BIG)
    gevent.sleep(0.1)
    assert read_exactly(client, len(BIG)) == BIG
    writer.get(timeout=5)
    assert server.lifeline.write_pace is None


def test_idleness_counts_bytes_of_both_directions(pair: Pair, swept: Callable[..., None]) -> None:
    server, client = pair
    swept(server)
    server.idle_timeout = 1.0
    reader = gevent.spawn(server.recv, 1)
    for _ in range(30):  # a second and a half in which only the other direction is busy
        server.sendall(b"x")
        client.recv(10)
        gevent.sleep(0.05)
    assert not reader.ready()
    with pytest.raises(Expired):
        reader.get(timeout=5)


def test_a_resting_connection_is_woken_by_the_drain(pair: Pair) -> None:
    server, _client = pair
    reader = gevent.spawn(server.recv, 1)
    gevent.sleep(0.01)
    server.lifeline.drain()
    gevent.sleep(0.01)
    assert not reader.ready(), "it did not say that it rests"
    server.resting = True
    server.lifeline.drain()
    with pytest.raises(Draining):
        reader.get(timeout=5)


def test_files_hold_the_connection_open(pair: Pair) -> None:
    server, client = pair
    reader = server.makefile("rb")
    writer = server.makefile("w", encoding="utf-8", newline="")
    server.close()
    client.sendall(b"line 1\nline 2\n")
    assert reader.readline() == b"line 1\n"
    writer.write("réponse\n")
    writer.flush()
    assert read_exactly(client, 9) == "réponse\n".encode()
    writer.close()
    assert reader.readline() == b"line 2\n"
    reader.close()
    assert client.recv(10) == b""


def test_finish_closes_whatever_files_are_open(pair: Pair) -> None:
    server, client = pair
    file = server.makefile("rwb")
    server.finish()
    assert client.recv(1) == b""
    with pytest.raises(OSError):
        file.read(1)


def test_sendfile_sends_the_part_of_a_file(pair: Pair, tmp_path: "os.PathLike[str]") -> None:
    path = os.path.join(tmp_path, "file")
    with open(path, "wb") as file:
        file.write(BIG)
    server, client = pair
    with open(path, "rb") as file:
        sender = gevent.spawn(server.sendfile, file, 10, 2_000_000)
        assert read_exactly(client, 2_000_000) == BIG[10:2_000_010]
        assert sender.get(timeout=5) == 2_000_000
        sender = gevent.spawn(server.sendfile, file, len(BIG) - 5)
        assert read_exactly(client, 5) == BIG[-5:]
        assert sender.get(timeout=5) == 5
        assert server.sendfile(file, len(BIG) + 1) == 0


def test_sendfile_stops_where_the_file_ends(pair: Pair, tmp_path: "os.PathLike[str]") -> None:
    path = os.path.join(tmp_path, "file")
    with open(path, "wb") as file:
        file.write(b"short")
    server, client = pair
    with open(path, "rb") as file:
        assert server.sendfile(file, 0, 100) == 5
    assert read_exactly(client, 5) == b"short"


def test_names_and_options_are_those_of_the_socket(make_pair: Callable[[str], Pair]) -> None:
    for kind in ("tcp", "tls", "tls-in-tls"):
        server, client = make_pair(kind)
        assert server.getpeername() == client.getsockname() == server.client
        assert server.getsockname() == client.getpeername() == server.server
        assert server.descriptor() > 0
        assert server.family == socket.AF_INET and server.type == socket.SOCK_STREAM
        server.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        assert server.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    server, _ = make_pair("memory")
    assert server.getpeername() == server.client
    assert server.fileno() == -1


def test_a_reset_is_a_connection_reset(make_pair: Callable[[str], Pair]) -> None:
    import struct

    for kind in ("tcp", "tls", "tls-over-read-ahead", "tls-in-tls"):
        server, client = make_pair(kind)
        root = client
        while root.parent is not None:
            root = root.parent
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock = client._transport.socket()
        assert sock is not None
        client.lifeline.close()
        sock.close()
        with pytest.raises(ConnectionResetError):
            server.recv(1)
        with pytest.raises(OSError):
            for _ in range(3):
                server.sendall(b"x" * 100)
                gevent.sleep(0.01)


def test_a_write_after_a_reset_tells_what_the_kernel_does(make_pair: Callable[[str], Pair]) -> None:
    import struct

    for kind in ("tcp", "tls"):
        server, client = make_pair(kind)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock = client._transport.socket()
        assert sock is not None
        client.lifeline.close()
        sock.close()
        gevent.sleep(0.01)
        with pytest.raises(ConnectionResetError) as caught:
            server.sendall(b"x" * 100)
        assert caught.value.strerror == os.strerror(errno.ECONNRESET), kind


def test_detach_gives_the_socket_and_the_bytes_read_ahead(make_pair: Callable[[str], Pair]) -> None:
    for kind in ("tcp", "unix"):
        server, client = make_pair(kind)
        client.sendall(b"read ahead")
        assert server.peek(4) == b"read"
        client.sendall(b" and the rest")
        sock, ahead = server.detach()
        received = ahead
        while len(received) < 23:
            received += sock.recv(100)
        assert received == b"read ahead and the rest"
        sock.sendall(b"bye")
        server.finish()  # does not touch what was given away
        sock.close()
        assert read_all(client) == b"bye"


def test_detach_refuses_where_a_socket_would_not_carry_the_stream(make_pair: Callable[[str], Pair]) -> None:
    for kind in ("memory", "tls", "tls-in-tls"):
        server, client = make_pair(kind)
        with pytest.raises(OSError) as caught:
            server.detach()
        assert caught.value.errno == errno.EOPNOTSUPP
        client.sendall(b"still fine")
        assert read_exactly(server, 10) == b"still fine"


def test_as_socket_is_a_descriptor_that_tells_the_truth(pair: Pair) -> None:
    import gevent.select

    server, client = pair
    client.sendall(b"early")
    assert server.peek(5) == b"early"
    sock = server.as_socket()
    assert gevent.select.select([sock.fileno()], [], [], 5)[0]
    received = b""
    while len(received) < 5:
        received += sock.recv(10)
    assert received == b"early"
    assert not gevent.select.select([sock.fileno()], [], [], 0.02)[0]
    client.sendall(b"late")
    assert gevent.select.select([sock.fileno()], [], [], 5)[0]
    assert sock.recv(10) == b"late"
    writer = gevent.spawn(sock.sendall, BIG)
    assert read_exactly(client, len(BIG)) == BIG
    writer.get(timeout=5)
    sock.sendall(b"last words")
    sock.close()
    server.finish()
    assert read_all(client) == b"last words"


def test_as_socket_passes_the_end_of_either_side_on(pair: Pair) -> None:
    server, client = pair
    client.sendall(b"x")
    server.peek(1)
    sock = server.as_socket()
    client.shutdown(socket.SHUT_WR)
    assert sock.recv(1) == b"x"
    assert sock.recv(1) == b""
    sock.sendall(b"answer")
    sock.shutdown(socket.SHUT_WR)
    assert read_all(client) == b"answer"
    sock.close()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    chunks=st.lists(st.binary(max_size=300), max_size=12),
    reads=st.lists(st.tuples(st.sampled_from(["recv", "peek", "into", "unread", "beyond"]), st.integers(1, 400)), max_size=20),
)
def test_no_byte_is_lost_or_doubled_by_any_mix_of_reads(chunks: list[bytes], reads: list[tuple[str, int]]) -> None:
    server, client = connection_pair()
    sent = b"".join(chunks)

    def write() -> None:
        for chunk in chunks:
            client.sendall(chunk)
            gevent.sleep(0)
        client.shutdown(socket.SHUT_WR)

    writer = gevent.spawn(write)
    received = b""
    for how, n in reads:
        match how:
            case "recv":
                received += server.recv(n)
            case "peek":
                assert server.peek(n) == sent[len(received) : len(received) + n]
            case "beyond":
                seen = server.peek_beyond(0, n)
                assert sent[len(received) :].startswith(seen) and len(seen) <= n
            case "into":
                buffer = bytearray(n)
                received += buffer[: server.recv_into(buffer)]
            case "unread":
                back = server.recv(n)
                server.unread(back)
    received += read_all(server)
    writer.get(timeout=5)
    assert received == sent
    assert server.bytes_received == len(sent)
    server.finish()
    client.finish()


def test_a_forgotten_connection_is_closed_and_warned_about(make_pair: Callable[[str], Pair]) -> None:
    import gc

    def forget() -> Connection:
        left, right = connection_pair()
        del left
        return right

    with pytest.warns(ResourceWarning, match="unclosed <Connection"):
        right = forget()
        gc.collect()
    assert right.recv(1) == b""
    right.close()


def test_nothing_is_left_behind_by_connections_that_end_in_any_way(make_pair: Callable[[str], Pair]) -> None:
    import gc
    import weakref

    before = len(os.listdir("/proc/self/fd"))
    gone: list["weakref.ref[Connection]"] = []
    for kind in ("tcp", "unix", "memory", "tls", "tls-in-tls"):
        for ending in ("finish", "close", "waiting"):
            server, client = make_pair(kind)
            if ending == "waiting":
                reader = gevent.spawn(server.recv, 1)
                gevent.sleep(0)
                client.close()
                assert reader.get(timeout=5) == b""
                server.finish()
            else:
                getattr(server, ending)()
                client.close()
            gone += [weakref.ref(server), weakref.ref(client)]
    assert len(os.listdir("/proc/self/fd")) == before
    del server, client, reader
    # The fixture still lists them: empty its list.
    for cell in make_pair.__closure__ or ():
        if isinstance(cell.cell_contents, list):
            cell.cell_contents.clear()
    gc.collect()
    assert [ref() for ref in gone if ref() is not None] == []


def test_openssl_is_called_directly_as_long_as_pyopenssl_has_the_names() -> None:
    from muxwsgi.wire.tls import openssl

    assert openssl.read is not openssl._read, "pyOpenSSL's private names are gone: wire/tls has fallen back to the slower public methods"
    assert all(openssl.functions()), "cryptography's private names are gone: the compiled wire/tls has fallen back to calls through cffi"


@pytest.mark.skipif(EXPECTED != "compiled", reason="plain Python calls through cffi")
def test_the_compiled_build_calls_openssl_without_cffi(make_pair: Callable[[str], Pair], monkeypatch: pytest.MonkeyPatch) -> None:
    from muxwsgi.wire.tls import descriptor

    def never(*args: object) -> None:
        raise AssertionError("called through cffi")

    monkeypatch.setattr(descriptor, "read", never)
    monkeypatch.setattr(descriptor, "write", never)
    server, client = make_pair("tls")
    client.sendall(b"ping")
    assert server.recv(10) == b"ping"
    client.close()
    assert server.recv(10) == b""


@pytest.mark.parametrize("how", ["by cffi", "by the public methods"])
def test_what_openssl_is_called_by_without_those_names_serves_as_well(
    make_pair: Callable[[str], Pair], monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    from muxwsgi.wire.tls import descriptor, openssl

    monkeypatch.setattr(descriptor, "address", lambda ssl: 0)
    if how == "by the public methods":
        monkeypatch.setattr(descriptor, "read", openssl._read)
        monkeypatch.setattr(descriptor, "write", openssl._write)
    server, client = make_pair("tls")
    writer = gevent.spawn(client.sendall, BIG)
    assert read_exactly(server, len(BIG)) == BIG
    writer.get(timeout=5)
    server.sendall(b"small")
    assert client.recv(10) == b"small"
    client.close()
    assert server.recv(10) == b""


def test_nothing_is_written_to_a_descriptor_that_is_somebody_elses_by_now(
    make_pair: Callable[[str], Pair], monkeypatch: pytest.MonkeyPatch
) -> None:
    from muxwsgi.wire import transport

    monkeypatch.setattr(transport, "BYTES_PER_TURN", 1)  # others get a turn after each record: here, to close the connection
    server, _client = make_pair("tls")
    writers = [gevent.spawn(server.sendall, BIG[:200_000]), gevent.spawn(server.sendall, b"queued behind it")]
    gevent.sleep(0)
    assert not writers[0].ready()
    fd = server.descriptor()
    server.close()
    pairs = [socket.socketpair()]
    while fd not in (pairs[-1][0].fileno(), pairs[-1][1].fileno()):
        assert len(pairs) < 50, "the number was not used again"
        pairs.append(socket.socketpair())
    gevent.joinall(writers, timeout=5)
    assert all(isinstance(writer.exception, OSError) for writer in writers)
    sockets = [sock for pair in pairs for sock in pair]
    for sock in sockets:
        sock.setblocking(False)
        with pytest.raises(BlockingIOError):
            sock.recv(1)
    for sock in sockets:
        sock.close()


# The end


@pytest.mark.parametrize("kind", ["tls", "tls-over-read-ahead", "tls-over-memory", "tls-in-tls"])
def test_an_end_without_close_notify_can_be_told_from_one_with_it(make_pair: Callable[[str], Pair], kind: str) -> None:
    server, client = make_pair(kind)
    server.sendall(b"x")
    assert client.recv() == b"x"  # and the session tickets before it: what is left unread makes a reset of the end
    client.sendall(b"half")
    client.cut()
    assert (server.recv(), server.recv(), server.truncated) == (b"half", b"", True)
    server, client = make_pair(kind)
    client.sendall(b"whole")
    client.close()
    assert (server.recv(), server.recv(), server.truncated) == (b"whole", b"", False)


def test_a_connection_that_is_cut_delivers_what_was_sent_and_ends_with_a_reset(make_pair: Callable[[str], Pair]) -> None:
    server, client = make_pair("tcp")
    server.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    sent = b"x" * 200_000
    server.sendall(sent)
    cutting = gevent.spawn(server.cut)
    read = 0
    with pytest.raises(ConnectionResetError):
        while True:
            gevent.sleep(0.01)
            read += len(client.recv(10_000))
    assert read == len(sent)
    cutting.get(timeout=5)


def test_cutting_does_not_wait_for_a_peer_that_takes_nothing(make_pair: Callable[[str], Pair]) -> None:
    server, _ = make_pair("tcp")
    server.settimeout(0.1)
    with pytest.raises(TimeoutError):
        server.sendall(b"x" * (64 << 20))
    began = time.monotonic()
    server.cut(0.2)
    assert time.monotonic() - began < 5
    assert server.fileno() == -1
