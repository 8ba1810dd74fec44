"""Clients that go away, stall, break off and send garbage, in every phase, plain and in TLS.

None may leave a greenlet, a descriptor, a connection object or memory behind, none may make the server write a traceback, and
during all of it everybody else is served.
"""

import contextlib
import os
import random
import socket
import ssl
import time
from collections.abc import Callable, Iterator

import pytest

from tests.system.server_process import ServerProcess, insecure_context, read_until_closed, reset

pytestmark = pytest.mark.slow  # deadlines have to pass

OPTIONS = (
    "--sniff-timeout=1",
    "--handshake-timeout=1",
    "--request-head-timeout=1",
    "--keep-alive=1",
    "--body-min-rate=100000",
    "--body-rate-grace=1",
    "--log-level=debug",
)

Leave = Callable[[socket.socket], None]

LEAVING: dict[str, Leave] = {
    "closes": lambda sock: sock.close(),
    "resets": reset,
    "half-closes": lambda sock: half_close(sock),
    "stalls": lambda sock: STALLED.append(sock),
}

#: Sockets that a test left open on purpose, so that only the server's deadlines can end them.
STALLED: list[socket.socket] = []


def half_close(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_WR)
    STALLED.append(sock)


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "tls"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    environment = {"XDG_DATA_HOME": str(tmp_path_factory.mktemp("data"))}
    with ServerProcess("tests.system.counted_app", *OPTIONS, tls=request.param, environment=environment) as process:
        yield process


@pytest.fixture
def unharmed(server: ServerProcess) -> Iterator[ServerProcess]:
    """The server, which afterwards holds what it held before, has logged no traceback and still answers."""
    baseline = server.settled_counts(server.counts(), patience=0)
    tracebacks = len(server.tracebacks())
    yield server
    after = server.settled_counts(baseline)
    for sock in STALLED:
        sock.close()
    STALLED.clear()
    for key in ("descriptors", "greenlets", "connections"):
        assert after[key] <= baseline[key], f"{key}: {baseline[key]} before, {after[key]} after"
    assert server.tracebacks()[tracebacks:] == [], server.log
    assert server.get("/") == (200, b"hello")


def at_connect(server: ServerProcess) -> socket.socket:
    return server.connect()


def in_the_client_hello(server: ServerProcess) -> socket.socket:
    sock = server.connect()
    sock.sendall(client_hello()[:40] if server.tls else b"GE")
    return sock


def after_the_client_hello(server: ServerProcess) -> socket.socket:
    sock = server.connect()
    sock.sendall(client_hello() if server.tls else b"GET")
    return sock


def after_the_handshake(server: ServerProcess) -> socket.socket:
    return server.open()


def in_the_head(server: ServerProcess) -> socket.socket:
    return sent(server, b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Unfinished: ")


def in_the_body(server: ServerProcess) -> socket.socket:
    return sent(server, b"POST /upload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\nbeginning")


def in_a_chunk(server: ServerProcess) -> socket.socket:
    return sent(server, b"POST /upload HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nbeginning")


def while_the_application_works(server: ServerProcess) -> socket.socket:
    return sent(server, b"GET /slow HTTP/1.1\r\nHost: localhost\r\n\r\n")


def while_the_response_streams(server: ServerProcess) -> socket.socket:
    sock = sent(server, b"GET /stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert sock.recv(10)
    return sock


def while_the_response_is_stuck(server: ServerProcess) -> socket.socket:
    sock = sent(server, b"GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert sock.recv(10)
    time.sleep(0.05)
    return sock


def between_requests(server: ServerProcess) -> socket.socket:
    sock = sent(server, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    received = b""
    while not received.endswith(b"hello"):
        part = sock.recv(1000)
        assert part, received
        received += part
    return sock


def sent(server: ServerProcess, data: bytes) -> socket.socket:
    sock = server.open()
    sock.sendall(data)
    return sock


def client_hello() -> bytes:
    outgoing = ssl.MemoryBIO()
    tls = insecure_context().wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost")
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


PHASES = (
    at_connect,
    in_the_client_hello,
    after_the_client_hello,
    after_the_handshake,
    in_the_head,
    in_the_body,
    in_a_chunk,
    while_the_application_works,
    while_the_response_streams,
    while_the_response_is_stuck,
    between_requests,
)


@pytest.mark.parametrize("leaving", LEAVING)
def test_a_client_that_leaves_in_any_phase_leaves_nothing_behind(unharmed: ServerProcess, leaving: str) -> None:
    for phase in PHASES:
        for _ in range(3):
            LEAVING[leaving](phase(unharmed))


def test_garbage_is_turned_away(unharmed: ServerProcess) -> None:
    randomness = random.Random(7)
    for number in range(60):
        garbage = randomness.randbytes(randomness.randrange(1, 3000))
        if number % 3 == 0:
            garbage = b"\x16\x03\x01" + garbage  # as if TLS began
        for sock in (unharmed.connect(), unharmed.open()):
            with contextlib.suppress(OSError), sock:
                sock.sendall(garbage)
                sock.shutdown(socket.SHUT_WR)
                read_until_closed(sock)


def test_garbage_in_the_middle_of_a_tls_session_is_turned_away(unharmed: ServerProcess) -> None:
    for _ in range(5):
        sock = unharmed.open()
        if not unharmed.tls:  # garbage behind a request is then just the next request
            sock.sendall(b"\x16\x03garbage")
        else:
            sock.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert sock.recv(100)
        raw = socket.socket(fileno=os.dup(sock.fileno()))
        raw.settimeout(10)
        with contextlib.suppress(ConnectionError):  # the first bytes may have been enough
            raw.sendall(os.urandom(500))
        read_until_closed(raw)
        raw.close()
        sock.close()


def test_dripping_buys_no_time(unharmed: ServerProcess) -> None:
    hello = client_hello()
    for data in (hello, b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X-Drip: 1\r\n" * 1000):
        sock = unharmed.connect() if data is hello else unharmed.open()
        began = time.monotonic()
        closed = False
        for index in range(len(data)):
            try:
                sock.sendall(data[index : index + 1])
            except OSError:
                closed = True
                break
            time.sleep(0.02)
            if time.monotonic() - began > 12:
                break
        sock.close()
        assert closed, "the server went on listening to a drip"


def test_a_late_head_is_answered_with_408(unharmed: ServerProcess) -> None:
    sock = sent(unharmed, b"GET / HTTP/1.1\r\nHost: localhost\r\n")
    answer = read_until_closed(sock)
    assert answer.startswith(b"HTTP/1.1 408 "), answer
    sock.close()


def test_others_are_served_while_readers_do_not_read(unharmed: ServerProcess) -> None:
    for _ in range(20):
        STALLED.append(while_the_response_is_stuck(unharmed))
    assert unharmed.get("/") == (200, b"hello")


def test_memory_does_not_grow_with_the_number_of_faults(server: ServerProcess) -> None:
    def faults(rounds: int) -> None:
        for _ in range(rounds):
            for phase in PHASES:
                reset(phase(server))

    baseline = server.counts()
    faults(10)
    warm = server.settled_counts(baseline)["resident"]
    faults(30)
    grown = server.settled_counts(baseline)["resident"] - warm
    assert grown < 6 << 20, f"{grown / 1024:.0f} KiB more after 330 faults"
