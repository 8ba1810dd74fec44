"""The relay engine: whatever is sent in whatever pieces arrives, and every end is told as it was."""

import errno
import gc
import os
import resource
import socket
import struct
from collections.abc import Callable, Iterator
from hashlib import sha256
from time import monotonic

import gevent
import gevent.monkey
import gevent.socket
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from muxwsgi.errors import Expired
from muxwsgi.wire import pipes as pipes_module
from muxwsgi.wire.connection import Connection
from muxwsgi.wire.relay import Relayed, Throttles, relay
from muxwsgi.wire.relay_calls import BLOCK
from muxwsgi.wire.relay_engine import engine_here
from muxwsgi.wire.throttle import BURST, Throttle
from tests.pairs import tcp_pair, unix_pair
from tests.waiting import until

MAKERS = {"tcp": tcp_pair, "unix": unix_pair}
LARGE = 3_000_000


@pytest.fixture(autouse=True)
def bounded() -> Iterator[None]:
    """No test waits for ever, and none leaves a pair behind."""
    with gevent.Timeout(60):
        yield
    assert engine_here().pairs == 0


class Two:
    """A relay, and the plain sockets of its two peers."""

    def __init__(self, kinds: tuple[str, str] = ("tcp", "tcp"), buffer: int = 0, throttles: Throttles = ((), ()), **limits: float) -> None:
        self.left, client = MAKERS[kinds[0]]()
        self.right, server = MAKERS[kinds[1]]()
        self.client, self.server = client.detach()[0], server.detach()[0]
        if buffer:
            for each in (self.left, self.right, self.client, self.server):
                each.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
                each.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        self.running = gevent.spawn(relay, self.left, self.right, throttles=throttles, **limits)
        gevent.sleep(0)
        assert engine_here().pairs >= 1

    @property
    def result(self) -> Relayed:
        result: Relayed = self.running.get()
        return result

    def close(self) -> None:
        self.running.kill()
        for each in (self.client, self.server, self.left, self.right):
            each.close()


@pytest.fixture
def two() -> Iterator[Callable[..., Two]]:
    made: list[Two] = []

    def make(*arguments: object, **more: object) -> Two:
        made.append(Two(*arguments, **more))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for each in made:
        each.close()


def reset(sock: "gevent.socket.socket") -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def read_all(sock: "gevent.socket.socket", size: int = 65536) -> bytes:
    parts = []
    while data := sock.recv(size):
        parts.append(data)
    return b"".join(parts)


def send_in(sock: "gevent.socket.socket", pieces: list[bytes]) -> None:
    for piece in pieces:
        sock.sendall(piece)
        gevent.sleep(0)
    sock.shutdown(socket.SHUT_WR)


# Bytes

PIECES = st.lists(st.integers(1, 5 * BLOCK).map(os.urandom) | st.binary(min_size=1, max_size=40), max_size=8)
KINDS = st.sampled_from([("tcp", "tcp"), ("tcp", "unix"), ("unix", "tcp"), ("unix", "unix")])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(KINDS, PIECES, PIECES, st.sampled_from([0, 4096]), st.binary(max_size=50), st.integers(1, 70000), st.sampled_from([0.0, 5e6, 5e7]))
def test_any_bytes_in_any_pieces_arrive_both_ways(
    kinds: tuple[str, str], from_client: list[bytes], from_server: list[bytes], buffer: int, ahead: bytes, read: int, rate: float
) -> None:
    two = Two.__new__(Two)
    two.left, client = MAKERS[kinds[0]]()
    two.right, server = MAKERS[kinds[1]]()
    two.left.unread(ahead)
    two.client, two.server = client.detach()[0], server.detach()[0]
    for each in (two.left, two.right, two.client, two.server):
        if buffer:
            each.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
    throttles = ((Throttle(rate),), (Throttle(rate), Throttle(2 * rate))) if rate else ((), ())
    two.running = gevent.spawn(relay, two.left, two.right, throttles=throttles)
    readers = [gevent.spawn(read_all, two.client, read), gevent.spawn(read_all, two.server, read)]
    writers = [gevent.spawn(send_in, two.client, from_client), gevent.spawn(send_in, two.server, from_server)]
    gevent.joinall(writers, raise_error=True)
    try:
        assert readers[0].get() == b"".join(from_server)
        assert readers[1].get() == ahead + b"".join(from_client)
        assert two.result == Relayed(len(ahead) + sum(map(len, from_client)), sum(map(len, from_server)), None)
        assert two.left.bytes_received == sum(map(len, from_client))  # what was read ahead was counted, and `unread` took it back
        assert two.right.bytes_sent == two.left.bytes_received + len(ahead)
    finally:
        two.close()


@pytest.mark.parametrize("kinds", [("tcp", "tcp"), ("unix", "tcp"), ("tcp", "unix"), ("unix", "unix")])
def test_large_streams_both_ways_at_once(kinds: tuple[str, str], two: Callable[..., Two]) -> None:
    relayed = two(kinds)
    sent = os.urandom(LARGE), os.urandom(LARGE)
    writers = [gevent.spawn(send_in, sock, [data]) for sock, data in zip((relayed.client, relayed.server), sent, strict=True)]
    readers = [gevent.spawn(read_all, sock) for sock in (relayed.server, relayed.client)]
    gevent.joinall(writers, raise_error=True)
    assert [sha256(reader.get()).digest() for reader in readers] == [sha256(data).digest() for data in sent]
    assert relayed.result == Relayed(LARGE, LARGE, None)


def test_without_pipes_it_copies(two: Callable[..., Two], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    monkeypatch.setattr(pipes_module, "SPARE", 0)
    engine_here().pipes.close()
    monkeypatch.setattr(pipes_module, "make_pipe", lambda: asked.append(True))
    relayed = two()
    data = os.urandom(LARGE)
    gevent.spawn(send_in, relayed.client, [data])
    assert read_all(relayed.server) == data
    assert asked


def test_no_descriptors_are_left_for_pipes(two: Callable[..., Two]) -> None:
    relayed = two()
    engine_here().pipes.close()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(map(int, os.listdir("/proc/self/fd")))
    fill = []
    data = os.urandom(LARGE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, hard))
        with pytest.raises(OSError, match="Too many open files"):
            while True:
                fill.append(os.dup(0))
        gevent.spawn(send_in, relayed.client, [data])
        assert read_all(relayed.server) == data
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd in fill:
            os.close(fd)


def test_urgent_data_does_not_hold_up_the_rest(two: Callable[..., Two]) -> None:
    # A read stops in front of urgent data, which the relay drops, as it always has.
    relayed = two()
    relayed.client.sendall(b"before")
    relayed.client.send(b"!", socket.MSG_OOB)
    relayed.client.sendall(b"after")
    relayed.client.shutdown(socket.SHUT_WR)
    assert read_all(relayed.server).replace(b"!", b"") == b"beforeafter"


def test_a_descriptor_in_a_message_does_not_hold_up_the_bytes_behind_it(two: Callable[..., Two]) -> None:
    relayed = two(("unix", "unix"))
    relayed.client.sendall(b"before")
    socket.send_fds(relayed.client, [b"with"], [0])
    relayed.client.sendall(b"after")
    assert b"".join(iter(lambda: relayed.server.recv(3), b"ter")) == b"beforewithaf"


def test_a_busy_pair_does_not_starve_another(two: Callable[..., Two]) -> None:
    busy, other = two(), two()
    reading = gevent.spawn(read_all, busy.server)
    writing = gevent.spawn(lambda: [busy.client.sendall(bytes(1 << 20)) for _ in range(1_000_000)])
    for _ in range(50):
        other.client.sendall(b"?")
        assert other.server.recv(1) == b"?"
    assert not writing.ready()
    gevent.killall([writing, reading])


# Ends


def test_each_half_is_ended_by_itself(two: Callable[..., Two]) -> None:
    relayed = two()
    relayed.server.shutdown(socket.SHUT_WR)
    assert relayed.client.recv(1) == b""
    relayed.client.sendall(b"still")
    assert relayed.server.recv(10) == b"still"
    relayed.client.close()
    assert relayed.server.recv(1) == b""
    assert relayed.result == Relayed(5, 0, None)


def test_the_end_comes_behind_the_bytes_of_a_slow_reader(two: Callable[..., Two]) -> None:
    relayed = two(buffer=8192)
    data = os.urandom(400_000)
    writing = gevent.spawn(send_in, relayed.client, [data])
    got = b""
    while piece := relayed.server.recv(50_000):
        got += piece
        gevent.sleep(0.001)
    writing.get()
    assert got == data


def test_a_reset_is_passed_on(two: Callable[..., Two]) -> None:
    relayed = two()
    relayed.client.sendall(b"x")
    assert relayed.server.recv(1) == b"x"
    reset(relayed.client)
    with pytest.raises(ConnectionResetError):
        relayed.server.recv(1)
    assert isinstance(relayed.result.error, ConnectionResetError)


def test_bytes_before_a_reset_arrive(two: Callable[..., Two]) -> None:
    relayed = two()
    relayed.client.sendall(b"the last words")
    gevent.sleep(0.05)
    reset(relayed.client)
    got = b""
    with pytest.raises(ConnectionResetError):
        while True:
            got += relayed.server.recv(100)
            assert got == b"the last words"


def test_the_answer_of_a_server_that_resets_arrives(two: Callable[..., Two]) -> None:
    # It answers and closes with bytes of the client unread, so its kernel sends a reset. Its answer is on the way to a slow client.
    relayed = two(buffer=8192)
    answer = os.urandom(100_000)
    answering = gevent.spawn(relayed.server.sendall, answer)
    got = relayed.client.recv(10)
    relayed.client.sendall(b"not read")
    while len(got) < len(answer):
        got += relayed.client.recv(2000)
        gevent.sleep(0)
    answering.get()
    relayed.server.close()
    assert got == answer
    with pytest.raises(ConnectionResetError):
        while relayed.client.recv(10):
            pass


def test_a_client_that_ends_and_then_resets_frees_the_server(two: Callable[..., Two]) -> None:
    relayed = two()
    relayed.client.shutdown(socket.SHUT_WR)
    assert relayed.server.recv(1) == b""
    reset(relayed.client)
    assert isinstance(relayed.result.error, OSError)
    with pytest.raises(OSError, match=r"Broken pipe|reset"):
        while True:
            relayed.server.sendall(b"nobody has asked")
            gevent.sleep(0.01)


def test_who_does_not_read_does_not_get_more_than_buffers_hold(two: Callable[..., Two]) -> None:
    relayed = two(buffer=8192)
    sent = 0
    relayed.client.setblocking(False)
    quiet = 0
    while quiet < 20:  # nothing is taken any more
        try:
            sent += relayed.client.send(bytes(65536))
            quiet = 0
        except BlockingIOError:
            quiet += 1
            gevent.sleep(0.01)
    engine = engine_here()
    way = next(way for way in engine._ways if way is not None and way.source == relayed.left.descriptor()) if hasattr(engine, "_ways") else None
    assert way is None or len(way.held or b"") <= BLOCK
    assert sent < 2_000_000


def test_a_connection_that_is_closed_by_another_greenlet_ends_the_relay(two: Callable[..., Two]) -> None:
    relayed = two()
    relayed.left.close()
    error = relayed.result.error
    assert isinstance(error, OSError) and error.errno == errno.EBADF
    with pytest.raises(ConnectionResetError):
        relayed.server.recv(1)


def test_a_descriptor_is_not_watched_any_more_when_its_number_is_used_again(two: Callable[..., Two]) -> None:
    relayed = two()
    number = relayed.right.descriptor()
    relayed.right.close()
    near, far = socket.socketpair()
    numbers = near.fileno(), far.fileno()
    assert number in numbers
    near.sendall(b"not for the relay")
    gevent.sleep(0.05)
    assert far.recv(100) == b"not for the relay"
    near.close()
    far.close()


def test_a_connection_is_not_relayed_twice(two: Callable[..., Two]) -> None:
    relayed = two()
    third, peer = tcp_pair()
    running = gevent.spawn(relay, relayed.left, third)
    gevent.sleep(0)
    relayed.client.sendall(b"x")
    gevent.sleep(0.05)
    running.kill()
    third.close()
    peer.close()


# Time


def test_idle_pairs_end_when_their_time_is_up(two: Callable[..., Two]) -> None:
    relayed = two(idle_timeout=100.0)
    engine = engine_here()
    engine.sweep(monotonic() + 99)
    assert not relayed.running.ready()
    engine.sweep(monotonic() + 101)
    error = relayed.result.error
    assert isinstance(error, Expired) and "no byte in either direction for 100 s" in str(error)
    with pytest.raises(ConnectionResetError):
        relayed.server.recv(1)


def test_a_byte_begins_the_time_again(two: Callable[..., Two]) -> None:
    relayed = two(idle_timeout=100.0)
    gevent.sleep(0.3)
    relayed.server.sendall(b"x")
    assert relayed.client.recv(1) == b"x"
    engine_here().sweep(monotonic() + 99.9)
    assert not relayed.running.ready()


def test_once_one_side_has_ended_the_shorter_time_counts(two: Callable[..., Two]) -> None:
    relayed = two(idle_timeout=100.0, fin_timeout=10.0)
    engine = engine_here()
    engine.sweep(monotonic() + 11)
    relayed.client.shutdown(socket.SHUT_WR)
    assert relayed.server.recv(1) == b""
    engine.sweep(monotonic() + 9)
    assert not relayed.running.ready()
    engine.sweep(monotonic() + 11)
    engine.sweep(monotonic() + 22)  # the kernel may have had the end itself under way
    assert "one side has ended" in str(relayed.result.error)


def test_bytes_that_the_peer_takes_out_of_the_kernel_are_no_silence(two: Callable[..., Two]) -> None:
    relayed = two(idle_timeout=100.0, buffer=65536)
    relayed.client.setblocking(False)
    with pytest.raises(BlockingIOError):
        while True:
            relayed.client.send(bytes(10_000))
            gevent.sleep(0.001)
    gevent.sleep(0.1)
    engine = engine_here()
    engine.sweep(monotonic() + 101)  # bytes are under way: they may be moving
    assert not relayed.running.ready()
    engine.sweep(monotonic() + 202)  # they are not
    assert isinstance(relayed.result.error, Expired)


def test_a_deadline_of_a_connection_holds(two: Callable[..., Two]) -> None:
    relayed = two()
    relayed.right.deadline = monotonic() + 50
    engine_here().sweep(monotonic() + 51)
    assert isinstance(relayed.result.error, Expired)


# Throttles


def test_a_throttle_lets_through_its_rate_and_no_more() -> None:
    throttle = Throttle(1000.0)
    taken = throttle.allowed(10.0)
    assert taken == 1000 * BURST
    throttle.took(taken)
    assert throttle.allowed(10.0) == 0
    assert throttle.allowed(10.125) == 125
    assert throttle.allowed(99.0) == 1000 * BURST
    with pytest.raises(ValueError, match="more than 0"):
        Throttle(0)


def test_a_throttled_stream_arrives_whole_and_takes_its_time(two: Callable[..., Two]) -> None:
    throttle = Throttle(400_000)
    relayed = two(throttles=((throttle,), ()))
    began = monotonic()
    data = os.urandom(300_000)
    gevent.spawn(send_in, relayed.client, [data])
    assert read_all(relayed.server) == data
    assert monotonic() - began > (300_000 - 400_000 * BURST) / 400_000 - 0.06


def test_the_other_direction_of_a_throttled_stream_is_free(two: Callable[..., Two]) -> None:
    relayed = two(throttles=((Throttle(10),), ()))
    data = os.urandom(LARGE)
    gevent.spawn(send_in, relayed.server, [data])
    assert read_all(relayed.client) == data


def test_packets_that_come_while_a_direction_is_throttled_are_not_remembered(two: Callable[..., Two]) -> None:
    asked: list[float] = []

    class Closed(Throttle):
        def allowed(self, now: float) -> int:
            asked.append(now)
            return 0

    relayed = two(throttles=((Closed(1),), ()))
    for _ in range(50):
        relayed.client.sendall(b"x")
        gevent.sleep(0.001)
    asked.clear()
    until(lambda: len(set(asked)) >= 3)  # ticks
    assert len(asked) == len(set(asked))


def test_connections_share_the_throttle_of_a_route(two: Callable[..., Two]) -> None:
    shared = Throttle(200_000)
    relays = [two(throttles=((shared,), ())) for _ in range(4)]
    received = [0] * 4

    def count(at: int) -> None:
        while data := relays[at].server.recv(65536):
            received[at] += len(data)

    began = monotonic()
    running = [gevent.spawn(count, at) for at in range(4)]
    running += [gevent.spawn(each.client.sendall, bytes(LARGE)) for each in relays]
    gevent.sleep(1.5)
    most = 200_000 * (monotonic() - began + BURST) + 4 * BLOCK
    assert sum(received) <= most
    assert min(received) > 0
    gevent.killall(running)


# Many


def test_a_thousand_idle_pairs_hold_nothing_and_work(two: Callable[..., Two]) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))
    relays = [two(("unix", "unix")) for _ in range(1000)]
    engine = engine_here()
    assert engine.pairs == 1000
    for each in relays:
        each.client.sendall(b"x")
    for each in relays:
        assert each.server.recv(1) == b"x"
    assert engine.pipes.made <= pipes_module.SPARE
    for each in relays:
        each.client.close()
        each.server.close()
    assert [each.result for each in relays] == [Relayed(1, 0, None)] * 1000
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_an_engine_ends_with_its_hub() -> None:
    found: list[int] = []

    def work() -> None:
        (near, client), (far, server) = tcp_pair(), tcp_pair()
        running = gevent.spawn(relay, near, far)
        client.sendall(b"x")
        assert server.recv(1) == b"x"
        running.kill()
        for each in (near, client, far, server):
            each.close()
        found.append(len(os.listdir("/proc/self/fd")))
        gevent.get_hub().destroy(destroy_loop=True)

    before = len(os.listdir("/proc/self/fd"))
    thread_class = gevent.monkey.get_original("threading", "Thread")
    for _ in range(5):
        thread = thread_class(target=work)
        thread.start()
        thread.join()
        gc.collect()
    assert len(found) == 5
    assert len(os.listdir("/proc/self/fd")) <= before + 1


def test_the_facts_of_a_connection_say_what_was_relayed(two: Callable[..., Two]) -> None:
    relayed = two()
    relayed.client.sendall(b"12345")
    assert relayed.server.recv(10) == b"12345"
    pair = relayed.left.lifeline.relay
    pair.note()
    assert isinstance(relayed.left, Connection)
    assert (relayed.left.bytes_received, relayed.right.bytes_sent) == (5, 5)
