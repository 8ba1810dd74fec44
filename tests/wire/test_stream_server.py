"""A `Listener` is a `StreamServer`: the same dialogues with both show that it means what gevent's documentation says."""

import errno
import itertools
import socket
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Any

import gevent
import gevent.pool
import pytest
from gevent.event import Event
from gevent.server import StreamServer

from muxwsgi.wire import listener as listener_module
from muxwsgi.wire.acceptor import FAILED_IN_A_ROW, Acceptor
from muxwsgi.wire.connection import Connection
from muxwsgi.wire.listener import Listener
from muxwsgi.wire.plain_socket import PlainSocket
from muxwsgi.wire.ready import give_turn
from muxwsgi.wire.room import Room
from tests.waiting import until

Kind = type[Any]
Make = Callable[..., Any]
LOOPBACK = ("127.0.0.1", 0)


@pytest.fixture(params=[StreamServer, Listener])
def kind(request: pytest.FixtureRequest) -> Kind:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def make(kind: Kind) -> Iterator[Make]:
    """A server of this kind, which echoes unless it is told what to handle with; closed at the end."""
    made = []

    def server(listener: Any = LOOPBACK, handle: Any = None, **more: Any) -> Any:
        made.append(kind(listener, handle or echo, **more))
        return made[-1]

    yield server
    for each in made:
        each.close()


def echo(stream: Any, *address: Any) -> None:
    while data := stream.recv(100):
        stream.sendall(data)


def said(server: Any, words: bytes = b"hello") -> bytes:
    """What comes back for `words`."""
    with gevent.socket.create_connection(("127.0.0.1", server.server_port), 5) as client:
        client.sendall(words)
        client.shutdown(socket.SHUT_WR)
        return bytes(client.recv(100))


def refused(address: Any) -> bool:
    try:
        gevent.socket.create_connection(address, 5).close()
    except ConnectionRefusedError:
        return True
    return False


# Starting and stopping

def test_the_address_is_known_once_it_has_started(make: Make) -> None:
    server = make()
    assert (server.started, server.closed, server.address) == (False, True, LOOPBACK)
    server.start()
    assert (server.started, server.closed) == (True, False)
    assert server.address == server.socket.getsockname() and server.server_host == "127.0.0.1" and server.server_port == server.address[1] > 0
    assert said(server) == b"hello"
    server.stop()
    assert (server.started, server.closed) == (False, True)
    assert refused(server.address)


@pytest.mark.parametrize("blocking", [True, False])
@pytest.mark.parametrize("of", [PlainSocket, gevent.socket.socket])
def test_a_socket_that_listens_already_is_served(make: Make, of: Any, blocking: bool, kind: Kind) -> None:
    if kind is StreamServer and blocking and of is PlainSocket:
        pytest.skip("gevent's would block the loop")
    listening = of(socket.AF_INET, socket.SOCK_STREAM)
    listening.bind(LOOPBACK)
    listening.listen(5)
    listening.setblocking(blocking)
    server = make(listening)
    assert (server.started, server.closed, server.address) == (False, False, listening.getsockname())
    server.start()
    assert said(server) == b"hello"
    gevent.sleep(0.01)
    assert said(server) == b"hello", "the loop is not held up by an accept that finds nobody"


def test_a_socket_has_its_backlog(kind: Kind) -> None:
    with PlainSocket(socket.AF_INET, socket.SOCK_STREAM) as listening, pytest.raises(TypeError, match="backlog must be None"):
        listening.bind(LOOPBACK)
        kind(listening, echo, backlog=5)


def test_starting_twice_is_starting_once(make: Make) -> None:
    server = make()
    server.start()
    address = server.address
    server.start()
    assert server.address == address
    assert [said(server) for _ in range(3)] == [b"hello"] * 3


def test_stopping_twice_is_stopping_once(make: Make) -> None:
    server = make()
    server.start()
    server.stop()
    server.stop()
    server.close()
    assert server.closed


def test_stop_before_start_is_no_error(make: Make) -> None:
    server = make()
    server.stop()
    assert not server.started


def test_what_a_method_handles_can_be_started_again_on_its_address(kind: Kind) -> None:
    class Echo(kind):  # type: ignore[misc, valid-type]
        def handle(self, stream: Any, *address: Any) -> None:
            echo(stream)

    server = Echo(LOOPBACK)
    server.start()
    address = server.address
    assert said(server) == b"hello"
    server.stop()
    assert refused(address)
    server.start()
    try:
        assert server.address == address
        assert said(server) == b"hello"
    finally:
        server.stop()


def test_a_handler_of_the_constructor_is_forgotten_by_stop(make: Make, kind: Kind) -> None:
    server = make()
    server.start()
    address = server.address
    server.stop()
    with pytest.raises((TypeError, AttributeError), match="handle"):
        server.start()
    if kind is Listener:
        assert refused(address), "nothing was bound for it"
        server.set_handle(echo)
        server.start()
        assert said(server) == b"hello"


def test_without_a_handler_there_is_no_server(kind: Kind) -> None:
    with pytest.raises(TypeError, match="'handle' must be provided"):
        kind(LOOPBACK)


def test_an_address_in_use_is_an_error_of_start(make: Make) -> None:
    first = make()
    first.start()
    second = make(first.address)
    with pytest.raises(OSError, match="Address already in use"):
        second.start()
    assert (second.started, second.closed) == (False, True)


def test_a_handler_may_stop_its_server(make: Make) -> None:
    def handle(stream: Any, *address: Any) -> None:
        server.stop()
        stream.sendall(b"stopped")

    server = make(handle=handle)
    server.start()
    address = server.address
    assert said(server, b"") == b"stopped"
    assert refused(address)


def test_serve_forever_starts_and_ends_by_stop(make: Make) -> None:
    server = make()
    serving = gevent.spawn(server.serve_forever)
    until(lambda: server.started)
    assert said(server) == b"hello" and not serving.ready()
    server.stop()
    serving.get(timeout=5)
    assert server.closed


def test_serve_forever_that_is_killed_stops(make: Make) -> None:
    server = make()
    serving = gevent.spawn(server.serve_forever)
    until(lambda: server.started)
    serving.kill()
    assert server.closed and refused(server.address)


def test_with_stops_it(make: Make) -> None:
    with make() as server:
        server.start()
        assert said(server) == b"hello"
    assert server.closed


def test_accepting_can_be_stopped_for_a_while(make: Make) -> None:
    server = make()
    server.start()
    server.stop_accepting()
    waiting = gevent.spawn(said, server)
    gevent.sleep(0.05)
    assert not waiting.ready() and server.started
    server.start_accepting()
    server.start_accepting()
    assert waiting.get(timeout=5) == b"hello"


def test_another_handler_serves_those_who_come_later(make: Make) -> None:
    server = make()
    server.start()
    assert said(server) == b"hello"
    server.set_handle(lambda stream, *address: stream.sendall(b"another"))
    server.init_socket()  # gevent's takes the new one here
    assert said(server, b"") == b"another"


def test_a_server_says_where_it_listens(make: Make) -> None:
    server = make()
    server.start()
    assert f"address=127.0.0.1:{server.server_port}" in str(server) and "handle=<function echo" in repr(server)
    assert not server.ssl_enabled


# How a connection is served

def test_the_stream_is_closed_when_the_handler_returns(make: Make) -> None:
    kept = []

    def handle(stream: Any, *address: Any) -> None:
        kept.append(stream)

    server = make(handle=handle)
    server.start()
    assert said(server, b"") == b"" and len(kept) == 1
    assert kept[0].fileno() == -1


def test_a_number_is_a_pool_of_that_size(make: Make) -> None:
    served, leave = [], Event()

    def handle(stream: Any, *address: Any) -> None:
        served.append(gevent.getcurrent())
        leave.wait()

    server = make(handle=handle, spawn=2)
    server.start()
    clients = [gevent.socket.create_connection(server.address, 5) for _ in range(5)]
    until(lambda: len(served) == 2)
    gevent.sleep(0.05)
    assert len(served) == 2 and server.full() and server.pool.full() and set(server.pool) == set(served)
    leave.set()
    until(lambda: len(served) == 5 and len(server.pool) == 0)
    assert not server.full()
    assert [client.recv(1) for client in clients] == [b""] * 5
    for client in clients:
        client.close()


def test_stop_waits_for_the_pool_and_kills_what_lasts_longer(make: Make) -> None:
    ended = []

    def handle(stream: Any, *address: Any) -> None:
        words = stream.recv(100)
        try:
            gevent.sleep(0.1 if words == b"short" else 60)
            ended.append(words)
        except gevent.GreenletExit:
            ended.append(words + b" was killed")

    server = make(handle=handle, spawn=gevent.pool.Pool(10))
    server.start()
    clients = []
    for words in (b"short", b"long"):
        client = gevent.socket.create_connection(server.address, 5)
        client.sendall(words)
        clients.append(client)
    until(lambda: len(server.pool) == 2)
    began = monotonic()
    server.stop(timeout=0.5)
    assert ended == [b"short", b"long was killed"] and 0.4 < monotonic() - began < 3
    for client in clients:
        client.close()


def test_without_a_pool_stop_leaves_the_handlers_to_end(make: Make) -> None:
    server = make()
    server.start()
    with gevent.socket.create_connection(server.address, 5) as client:
        client.sendall(b"one")
        assert client.recv(10) == b"one"
        server.stop()
        client.sendall(b"two")
        assert client.recv(10) == b"two"


def test_none_serves_in_the_hub(make: Make) -> None:
    served = []

    def handle(stream: Any, *address: Any) -> None:
        served.append(gevent.getcurrent() is gevent.get_hub())
        stream.sendall(b"from the hub")

    server = make(handle=handle, spawn=None)
    server.start()
    assert [said(server, b"") for _ in range(2)] == [b"from the hub"] * 2
    assert served == [True, True]


@pytest.mark.parametrize("spawn", [gevent.spawn, gevent.spawn_raw])
def test_a_function_spawns(make: Make, spawn: Any) -> None:
    spawned = []

    def noting(*arguments: Any) -> Any:
        spawned.append(spawn(*arguments))
        return spawned[-1]

    server = make(spawn=noting)
    server.start()
    assert said(server) == b"hello" and len(spawned) == 1 and server.pool is None
    until(lambda: spawned[0].dead)


@pytest.mark.parametrize("spawn", ["default", 5, None])
def test_what_a_handler_raises_is_shown_and_ends_its_connection_alone(make: Make, spawn: Any, capsys: pytest.CaptureFixture[str]) -> None:
    def handle(stream: Any, *address: Any) -> None:
        raise LookupError("of the handler")

    server = make(handle=handle, spawn=spawn)
    server.start()
    assert said(server, b"") == b""
    assert said(server, b"") == b""
    assert capsys.readouterr().err.count("LookupError: of the handler") == 2


def test_spawn_that_fails_is_tried_again_after_a_pause(make: Make) -> None:
    tried = []

    def spawn(*arguments: Any) -> Any:
        tried.append(monotonic())
        if len(tried) == 1:
            raise RuntimeError("no greenlet")
        return gevent.spawn(*arguments)

    server = make(spawn=spawn)
    server.start()
    assert said(server, b"") == b""
    assert said(server) == b"hello"
    assert tried[1] - tried[0] > server.min_delay * 0.8


def test_a_place_in_the_pool_that_another_gives_back_wakes_the_server(make: Make) -> None:
    pool = gevent.pool.Pool(1)
    leave = Event()
    pool.spawn(leave.wait)
    server = make(spawn=pool)
    server.start()
    waiting = gevent.spawn(said, server)
    gevent.sleep(0.05)
    assert not waiting.ready()
    leave.set()
    assert waiting.get(timeout=5) == b"hello"


# Limits and pauses of accepting

def test_at_least_one_is_accepted_at_a_wake_up(kind: Kind) -> None:
    class Nothing(kind):  # type: ignore[misc, valid-type]
        max_accept = 0

    with pytest.raises(ValueError, match="max_accept must be positive"):
        Nothing(LOOPBACK, echo)


@pytest.mark.parametrize("most", [1, 3])
def test_max_accept_limits_what_one_wake_up_accepts(make: Make, most: int) -> None:
    at_once, leave = [0], Event()

    def handle(stream: Any, *address: Any) -> None:
        at_once[-1] += 1
        leave.wait()

    server = make(handle=handle)
    server.max_accept = most
    server.start()
    clients = [PlainSocket(socket.AF_INET, socket.SOCK_STREAM) for _ in range(12)]
    for client in clients:
        client.connect(server.address)
    while sum(at_once) < 12:
        at_once.append(0)
        give_turn()
        assert len(at_once) < 40
    assert max(at_once) <= most + 1, "a turn of the loop may see the end of one wake-up and another"
    leave.set()
    for client in clients:
        client.close()


def failing(monkeypatch: pytest.MonkeyPatch, failures: Callable[[], OSError | None]) -> list[float]:
    """Lets accepting fail with what `failures` returns, None for not; the times of the attempts, on which it failed."""
    tried: list[float] = []

    class Failing(Acceptor):
        def accept(self) -> Any:
            error = failures()
            if error is None:
                return super().accept()
            tried.append(monotonic())
            raise error

    monkeypatch.setattr(listener_module, "Acceptor", Failing)
    return tried


def test_pauses_grow_from_min_delay_to_max_delay_and_begin_anew_after_a_success(monkeypatch: pytest.MonkeyPatch) -> None:
    left = [5]

    def failure() -> OSError | None:
        left[0] -= 1
        return OSError(errno.EMFILE, "Too many open files") if left[0] >= 0 else None

    tried = failing(monkeypatch, failure)

    class Patient(Listener):
        min_delay, max_delay = 0.05, 0.2

    server = Patient(LOOPBACK, echo)
    server.start()
    try:
        assert server.delay == 0.05
        assert said(server) == b"hello"
        pauses = [after - before for before, after in itertools.pairwise(tried)]
        assert [round(pause / 0.05) >= least for pause, least in zip(pauses, [1, 2, 4, 4], strict=True)] == [True] * 4, pauses
        assert server.delay == 0.05
    finally:
        server.stop()


@pytest.mark.parametrize("number", [errno.EBADF, errno.EINVAL, errno.ENOTSOCK])
def test_accepting_that_cannot_succeed_any_more_ends_the_server(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    failing(monkeypatch, lambda: OSError(number, "cannot be mended"))
    server = Listener(LOOPBACK, echo)
    serving = gevent.spawn(server.serve_forever)
    until(lambda: server.started)
    with gevent.socket.create_connection(server.address, 5):
        serving.get(timeout=5)
    assert server.closed
    until(lambda: "accepts no more connections: cannot be mended" in caplog.text)


def test_a_listening_socket_that_is_shut_down_ends_the_server(make: Make) -> None:
    server = make()
    serving = gevent.spawn(server.serve_forever)
    until(lambda: server.started)
    server.socket.shutdown(socket.SHUT_RD)
    serving.get(timeout=5)
    assert server.closed


def constantly_forbidden(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    return failing(monkeypatch, lambda: OSError(errno.EPERM, "Operation not permitted"))


def test_an_accept_that_is_always_forbidden_does_not_spin(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    tried = constantly_forbidden(monkeypatch)
    server = Listener(LOOPBACK, echo)
    server.start()
    try:
        with gevent.socket.create_connection(server.address, 5):
            until(lambda: "cannot accept connections for now: Operation not permitted" in caplog.text)
            gevent.sleep(2.5 * server.min_delay)
        assert FAILED_IN_A_ROW <= len(tried) <= 2 * FAILED_IN_A_ROW, "each of them may be of one connection, but not of so many"
    finally:
        server.stop()


def test_a_drain_ends_its_turn_where_accepting_is_always_forbidden(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = constantly_forbidden(monkeypatch)
    server = Listener(LOOPBACK, echo)
    server.start()
    assert server.drain() is False
    assert len(tried) == FAILED_IN_A_ROW
    server.close()
    assert server.drain() is True


def test_connections_that_fail_one_by_one_cause_no_pause(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    turn = [0]

    def failure() -> OSError | None:
        turn[0] += 1
        return OSError(errno.ECONNABORTED, "Software caused connection abort") if turn[0] % 2 else None

    tried = failing(monkeypatch, failure)
    server = Listener(LOOPBACK, echo)
    server.start()
    try:
        assert [said(server) for _ in range(FAILED_IN_A_ROW + 1)] == [b"hello"] * (FAILED_IN_A_ROW + 1)
        assert len(tried) > FAILED_IN_A_ROW and "cannot accept" not in caplog.text
    finally:
        server.stop()


# What a `Listener` has beside

def test_do_read_and_do_handle_serve_one_by_hand(make: Make, kind: Kind) -> None:
    server = make()
    server.start()
    server.stop_accepting()
    assert server.do_read() is None
    answer = gevent.spawn(said, server)
    gevent.sleep(0.05)
    arguments = server.do_read()
    assert (type(arguments[0]) is Connection) == (kind is Listener)
    server.do_handle(*arguments)
    assert answer.get(timeout=5) == b"hello"


def test_a_pool_and_a_room_both_limit() -> None:
    served, leave = [], Event()

    def handle(connection: Connection) -> None:
        served.append(connection)
        leave.wait()

    room = Room(3)
    servers = [Listener(LOOPBACK, handle, spawn=2, room=room) for _ in range(2)]
    clients = []
    try:
        for server in servers:
            server.start()
            clients += [gevent.socket.create_connection(server.address, 5) for _ in range(4)]
        until(lambda: len(served) == 3)
        gevent.sleep(0.05)
        assert len(served) == room.taken == 3 and sorted(len(server.pool) for server in servers) == [1, 2]
        leave.set()
        until(lambda: len(served) == 8 and room.taken == 0)
    finally:
        for server in servers:
            server.stop()
        for client in clients:
            client.close()


def test_a_drain_serves_through_the_pool_those_who_wait() -> None:
    server = Listener(LOOPBACK, echo, spawn=1)
    server.start()
    clients = [PlainSocket(socket.AF_INET, socket.SOCK_STREAM) for _ in range(5)]
    for number, client in enumerate(clients):
        client.connect(server.address)
        client.sendall(b"%d" % number)
        client.shutdown(socket.SHUT_WR)
    drained = [server.drain()]
    assert server.closed and not server.started and server.unserved() == 5 and refused(server.address)
    for _ in range(200):
        if drained[-1]:
            break
        gevent.sleep(0.01)
        drained.append(server.drain())
    assert drained[-1] and server.unserved() == 0
    server.pool.join(5)
    assert [client.recv(10) for client in clients] == [b"%d" % number for number in range(5)]
    for client in clients:
        client.close()
