"""The pool of upstream connections: nobody gets one that somebody else has, that is over, or that has something to say."""

import gc
import random
import socket
import weakref
from collections import Counter
from collections.abc import Iterator

import gevent
import pytest
from gevent.server import StreamServer
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from muxwsgi.http.client.connection import ClientConnection, ClientSettings
from muxwsgi.http.client.pool import Pool
from muxwsgi.testing import connection_pair
from muxwsgi.wire.connection import Connection


class Upstream:
    """A client connection, and what its server may do to it."""

    def __init__(self) -> None:
        self.server, near = connection_pair()
        self.client = ClientConnection(near, ClientSettings())

    @property
    def open(self) -> bool:
        return not self.client.connection.lifeline.closed

    def end(self) -> None:
        self.client.close()
        self.server.finish()


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def upstreams() -> Iterator[list[Upstream]]:
    made = [Upstream() for _ in range(5)]
    yield made
    for one in made:
        one.end()


def test_the_one_that_rested_least_comes_first(upstreams: list[Upstream]) -> None:
    pool = Pool(10, 10, 60)
    for one in upstreams[:3]:
        pool.put("a", one.client)
    assert pool.idle == 3
    assert [pool.take("a") for _ in range(4)] == [upstreams[2].client, upstreams[1].client, upstreams[0].client, None]
    assert (pool.reused, pool.kept, pool.idle) == (3, 3, 0)


def test_a_key_gets_its_own_connections_only(upstreams: list[Upstream]) -> None:
    pool = Pool(10, 10, 60)
    pool.put(("https", "a", 443), upstreams[0].client)
    assert pool.take(("https", "b", 443)) is None
    assert pool.take(("https", "a", 443)) is upstreams[0].client


def test_what_is_over_is_not_handed_out(upstreams: list[Upstream]) -> None:
    pool = Pool(10, 10, 60)
    for one in upstreams[:3]:
        pool.put("a", one.client)
    upstreams[2].server.shutdown(socket.SHUT_WR)
    upstreams[1].server.sendall(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
    assert pool.take("a") is upstreams[0].client
    assert [one.open for one in upstreams[:3]] == [True, False, False]
    assert pool.dropped == 2


def test_what_cannot_be_used_again_is_closed(upstreams: list[Upstream]) -> None:
    pool = Pool(10, 10, 60)
    waiting, half, extra, closing, closed = upstreams
    for one in (waiting, half, extra):
        one.client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    half.server.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel")
    half.client.receive("GET")
    half.client.body.read_some(100)
    extra.server.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nHTTP/1.1 200 OK\r\n")
    extra.client.receive("GET")
    closing.client.closing = True
    closed.client.close()
    for one in upstreams:
        pool.put("a", one.client)
        assert not one.open
    assert (pool.idle, pool.refused) == (0, 5)


def test_a_key_has_its_limit(upstreams: list[Upstream]) -> None:
    pool = Pool(10, 2, 60)
    for one in upstreams[:3]:
        pool.put("a", one.client)
    pool.put("b", upstreams[3].client)
    assert [one.open for one in upstreams[:4]] == [True, True, False, True]
    assert pool.refused == 1
    pool.close()


def test_the_oldest_makes_way_when_the_pool_is_full(upstreams: list[Upstream]) -> None:
    pool = Pool(3, 2, 60)
    for key, one in zip("abcd", upstreams, strict=False):
        pool.put(key, one.client)
    assert [one.open for one in upstreams] == [False, True, True, True, True]
    assert pool.take("a") is None and pool.take("d") is upstreams[3].client
    pool.close()


def test_no_room_keeps_nothing(upstreams: list[Upstream]) -> None:
    for pool, one in zip((Pool(0, 5, 60), Pool(5, 0, 60), Pool(5, 5, 0)), upstreams, strict=False):
        pool.put("a", one.client)
        assert pool.take("a") is None
        assert not one.open


def test_what_rested_too_long_is_not_handed_out(upstreams: list[Upstream], clock: Clock) -> None:
    pool = Pool(10, 10, 60, clock=clock)
    pool.put("a", upstreams[0].client)
    clock.now += 60
    assert pool.take("a") is None
    assert not upstreams[0].open


def test_pruning_closes_what_rested_too_long_or_has_ended(upstreams: list[Upstream], clock: Clock) -> None:
    pool = Pool(10, 10, 60, clock=clock)
    pool.put("a", upstreams[0].client)
    clock.now += 30
    for one in upstreams[1:4]:
        pool.put("a", one.client)
    pool.put("b", upstreams[4].client)
    upstreams[2].server.shutdown(socket.SHUT_WR)
    pool.prune(clock.now + 30)
    assert [one.open for one in upstreams] == [False, True, False, True, True]
    assert (pool.idle, pool.dropped) == (3, 2)
    assert pool.take("a") is upstreams[3].client and pool.take("a") is upstreams[1].client and pool.take("a") is None
    clock.now += 60
    pool.prune()
    assert pool.idle == 0


def test_a_closed_pool_keeps_nothing(upstreams: list[Upstream]) -> None:
    pool = Pool(10, 10, 60)
    pool.put("a", upstreams[0].client)
    pool.close()
    pool.close()
    pool.put("a", upstreams[1].client)
    assert not upstreams[0].open and not upstreams[1].open
    assert pool.take("a") is None


def test_what_is_in_the_pool_cannot_be_put_there_again(upstreams: list[Upstream]) -> None:
    pool = Pool(10, 10, 60)
    pool.put("a", upstreams[0].client)
    with pytest.raises(RuntimeError):
        pool.put("b", upstreams[0].client)
    pool.close()


def test_a_key_that_has_no_connections_left_is_forgotten(upstreams: list[Upstream]) -> None:
    class Key:
        pass

    pool = Pool(10, 10, 60)
    taken, pruned = Key(), Key()
    pool.put(taken, upstreams[0].client)
    pool.put(pruned, upstreams[1].client)
    assert pool.take(taken) is upstreams[0].client
    upstreams[1].server.finish()
    pool.prune()
    keys = [weakref.ref(taken), weakref.ref(pruned)]
    del taken, pruned
    gc.collect()
    assert [key() for key in keys] == [None, None]


class AnyUse(RuleBasedStateMachine):
    """Whatever is done in whatever order: a connection is in one hand, or in the pool, or closed."""

    taken = Bundle("taken")

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.pool = Pool(4, 3, 60, clock=self.clock)
        self.all: list[Upstream] = []
        self.in_hand: set[ClientConnection] = set()
        self.spoiled: set[ClientConnection] = set()
        self.opened = 0

    def upstream(self, client: ClientConnection) -> Upstream:
        return next(one for one in self.all if one.client is client)

    @rule(target=taken, key=st.sampled_from("ab"))
    def take(self, key: str) -> tuple[str, ClientConnection]:
        client = self.pool.take(key)
        if client is None:
            self.opened += 1
            made = Upstream()
            self.all.append(made)
            client = made.client
        assert client not in self.in_hand and client not in self.spoiled
        assert client.reusable and client.alive()
        self.in_hand.add(client)
        client.address = client.address or key
        assert client.address == key
        return key, client

    @rule(one=consumes(taken), asked=st.booleans())
    def put(self, one: tuple[str, ClientConnection], asked: bool) -> None:
        key, client = one
        if asked:
            client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        self.in_hand.remove(client)
        self.pool.put(key, client)
        assert not (asked and self.upstream(client).open)

    @rule(at=st.integers(0, 100), what=st.sampled_from(["end", "say"]))
    def spoil(self, at: int, what: str) -> None:
        resting = [one for one in self.all if one.open and one.client not in self.in_hand | self.spoiled]
        if resting:
            one = resting[at % len(resting)]
            self.spoiled.add(one.client)
            if what == "end":
                one.server.finish()
            else:
                one.server.sendall(b"HTTP/1.1 200 OK\r\n\r\n")

    @rule(seconds=st.integers(0, 70))
    def pass_time(self, seconds: int) -> None:
        self.clock.now += seconds

    @rule()
    def prune(self) -> None:
        self.pool.prune()

    @invariant()
    def everything_is_somewhere(self) -> None:
        open_ones = {one.client for one in self.all if one.open}
        assert self.in_hand <= open_ones
        assert self.pool.idle == len(open_ones - self.in_hand) <= 4
        assert self.opened + self.pool.reused == self.pool.kept + self.pool.refused + len(self.in_hand)
        assert self.pool.kept == self.pool.reused + self.pool.dropped + self.pool.idle

    def teardown(self) -> None:
        self.pool.close()
        for one in self.all:
            one.end()


TestAnyUse = AnyUse.TestCase
TestAnyUse.settings = settings(max_examples=60, deadline=None)


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**32), workers=st.integers(2, 8))
def test_many_greenlets_never_share_a_connection(seed: int, workers: int) -> None:
    """Each asks for its own words of a server that repeats them, and now and then hangs up or says something unasked."""
    chance = random.Random(seed)
    accepted: list[object] = []

    def serve(sock: socket.socket, _: object) -> None:
        accepted.append(sock)
        stream = sock.makefile("rb")
        while line := stream.readline():
            while stream.readline() != b"\r\n":
                pass
            word = line.split()[1]
            gevent.sleep(0)
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(word))
            gevent.sleep(0)
            sock.sendall(word)
            match chance.randrange(6):
                case 0:
                    break
                case 1:
                    sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
        stream.close()

    server = StreamServer(("127.0.0.1", 0), serve)
    server.start()
    pool = Pool(5, 4, 60)
    in_use: Counter[ClientConnection] = Counter()
    answers = 0

    def work(number: int) -> None:
        nonlocal answers
        for turn in range(6):
            client = pool.take("server")
            if client is None:
                pool.opened += 1
                client = ClientConnection(Connection.from_socket(socket.create_connection(server.address)), ClientSettings())
            in_use[client] += 1
            assert in_use[client] == 1
            word = b"/%d/%d" % (number, turn)
            try:
                client.send(b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n" % word)
                client.receive("GET")
                body = b""
                while data := client.body.read_some(3):
                    body += data
                assert body == word
                answers += 1
            except OSError:  # hung up in the moment between the look and the request
                assert not client.fresh and not client.answered
                client.close()
            in_use[client] -= 1
            pool.put("server", client)

    with gevent.Timeout(20):
        running = [gevent.spawn(work, number) for number in range(workers)]
        for greenlet in running:
            greenlet.get()
    pool.close()
    server.stop()
    assert answers > 0
    assert pool.opened == len(accepted)
    assert pool.opened + pool.reused == 6 * workers
