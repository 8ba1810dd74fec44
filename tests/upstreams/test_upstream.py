"""Sessions: the choice, retries, the queue, and what is left behind."""

import logging
import random
import socket
from pathlib import Path
from time import monotonic
from typing import Any

import gevent
import pytest

from muxwsgi.dial.errors import DialError
from muxwsgi.settings.upstream import parse_upstream
from muxwsgi.upstreams import upstream as upstream_module
from muxwsgi.upstreams.errors import AllDown
from muxwsgi.upstreams.upstream import Session, Upstream
from muxwsgi.upstreams.upstreams import Upstreams
from tests.dial.conftest import BlackHole, nothing_left, zone
from tests.mux.conftest import bounded
from tests.pairs import tcp_pair
from tests.waiting import until

from .servers import Named, made, refusing_port, said, session_of, upstream_of

__all__ = ["bounded", "nothing_left"]

pytestmark = pytest.mark.usefixtures("nothing_left")


@pytest.fixture
def no_turn_around(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream_module, "TURN_AROUND", 0.01)


class Held:
    """A session that stays until it is let go."""

    def __init__(self, upstream: Upstream) -> None:
        self._ours, self._theirs = tcp_pair()
        self.session: Session | None = None
        self.failure = ""
        self._go = gevent.event.Event()
        self._greenlet = gevent.spawn(self._run, upstream)

    def _run(self, upstream: Upstream) -> None:
        try:
            with session_of(upstream, self._ours) as self.session:
                self._go.wait()
        except DialError as error:
            self.failure = f"{error.phase}: {error.reason}"

    @property
    def server(self) -> str:
        until(lambda: self.session is not None or self.failure)
        return self.session.server.title if self.session is not None else self.failure

    @property
    def waits(self) -> bool:
        gevent.sleep(0.02)
        return self.session is None and not self.failure

    def kill(self) -> None:
        self._greenlet.kill()

    def end(self) -> None:
        self._go.set()
        self._greenlet.join()
        self._ours.finish()
        self._theirs.finish()


def test_servers_take_turns() -> None:
    with Named("a") as a, Named("b") as b, upstream_of(a, b) as upstream:
        assert [said(upstream) for _ in range(4)] == ["a", "b", "a", "b"]


def test_a_server_that_refuses_costs_a_retry_and_no_client(caplog: pytest.LogCaptureFixture) -> None:
    with Named("a") as a, refusing_port() as port, upstream_of(f"127.0.0.1:{port}", a, fall=100) as upstream:
        assert [said(upstream) for _ in range(4)] == ["a"] * 4
        assert upstream.retries == 2
        assert upstream.servers[0].state.last_failure == "connect: 127.0.0.1: Connection refused"


def test_a_server_that_never_answers_costs_its_connect_timeout() -> None:
    hole = BlackHole("127.0.0.1")
    try:
        with Named("a") as a, upstream_of(f"127.0.0.1:{hole.port}", a, connect_timeout=0.2) as upstream:
            assert said(upstream) == "a"
            assert upstream.servers[0].state.last_failure == "connect: 127.0.0.1: no answer"
    finally:
        hole.close()


def test_all_attempts_together_end_at_the_total_timeout() -> None:
    hole = BlackHole("127.0.0.1")
    try:
        with upstream_of(f"127.0.0.1:{hole.port}", retries=100, connect_timeout=0.2, total_timeout=0.5, fall=1000) as upstream:
            began = monotonic()
            assert said(upstream).startswith("connect: 127.0.0.1: no answer")
            assert 0.45 < monotonic() - began < 5
    finally:
        hole.close()


@pytest.mark.usefixtures("no_turn_around")
def test_retries_are_bounded_and_the_error_has_all_of_them() -> None:
    with refusing_port() as one, refusing_port() as two, upstream_of(f"127.0.0.1:{one}", f"127.0.0.1:{two}", retries=2, fall=100) as upstream:
        failure = said(upstream)
        assert failure.startswith("upstream: ") and failure.count("Connection refused") == 3
        assert upstream.servers[0].state.counts.connect_failures + upstream.servers[1].state.counts.connect_failures == 3
        assert upstream.refused["failed"] == 1


def test_no_byte_is_tried_again_after_a_server_has_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    # The first server accepts and closes. The client learns that, and the second one is not asked: bytes may have been taken.
    class Closing(Named):
        def _serve(self, sock: Any, _: object) -> None:
            self.accepted += 1
            sock.close()

    with Closing("closing") as closing, Named("b") as b, upstream_of(closing, b) as upstream:
        assert said(upstream) == ""
        assert (closing.accepted, b.accepted, upstream.retries) == (1, 0, 0)


def test_a_backup_is_used_only_if_no_other_server_is_up() -> None:
    with Named("a") as a, Named("b") as b, upstream_of(a, {"address": b.address, "backup": True}, fall=1, inter=60) as upstream:
        assert [said(upstream) for _ in range(3)] == ["a"] * 3
        a.stop()
        assert said(upstream) == "b"
        assert not upstream.servers[0].state.up
        assert said(upstream) == "b"


def test_unix_sockets_are_servers_too(tmp_path: Path) -> None:
    path = tmp_path / "shop.sock"
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(path))
    listening.listen()
    try:
        with upstream_of(f"unix:{path}") as upstream:
            held = Held(upstream)
            assert held.server == f"unix:{path}"
            held.end()
        with upstream_of(f"unix:{tmp_path}/none", retries=0) as upstream:
            assert said(upstream) == "connect: No such file or directory"
    finally:
        listening.close()


def test_a_unix_socket_whose_queue_is_full_is_waited_for(tmp_path: Path) -> None:
    path = str(tmp_path / "shop.sock")
    callers = []
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen(0)
        while True:
            caller = socket.socket(socket.AF_UNIX)
            caller.setblocking(False)
            callers.append(caller)
            if caller.connect_ex(path) != 0:
                break
        with upstream_of(f"unix:{path}", connect_timeout=0.1, retries=0, fall=100) as upstream:
            assert said(upstream) == "connect: no answer"
        with upstream_of(f"unix:{path}", connect_timeout=10, retries=0) as upstream:
            held = Held(upstream)
            assert held.waits
            listening.listen(128)
            assert held.server == f"unix:{path}"
            held.end()
    for caller in callers:
        caller.close()


# maxconn and the queue


def test_a_full_server_leaves_the_next_one() -> None:
    with Named("a") as a, Named("b") as b, upstream_of({"address": a.address, "maxconn": 1}, b, balance="first") as upstream:
        held = [Held(upstream) for _ in range(3)]
        assert [each.server for each in held] == [a.address, b.address, b.address]
        held[0].end()
        assert said(upstream) == "a"
        for each in held[1:]:
            each.end()


def test_connections_wait_in_order_while_all_are_full() -> None:
    with Named("a") as a, upstream_of(a, maxconn=1) as upstream:
        held = [Held(upstream) for _ in range(3)]
        assert held[0].server == a.address
        assert held[1].waits and held[2].waits
        assert upstream.waiting == 2
        held[0].end()
        assert held[1].server == a.address
        assert held[2].waits
        held[1].end()
        assert held[2].server == a.address
        held[2].end()
        assert upstream.waiting == 0


def test_a_wait_in_the_queue_ends() -> None:
    with Named("a") as a, upstream_of(a, maxconn=1, queue_timeout=0.1) as upstream:
        held = Held(upstream)
        assert held.server == a.address
        assert said(upstream) == "queue: all servers stayed at maxconn for 0.1 s"
        held.end()
        assert upstream.refused["queue_timeout"] == 1
        assert said(upstream) == "a"


def test_the_queue_is_bounded() -> None:
    with Named("a") as a, upstream_of(a, maxconn=1, maxqueue=1) as upstream:
        held = [Held(upstream), Held(upstream)]
        assert held[0].server == a.address and held[1].waits
        assert said(upstream) == "queue: all servers are at maxconn, and 1 connections wait"
        assert upstream.refused["queue_full"] == 1
        held[0].end()
        assert held[1].server == a.address
        held[1].end()


def test_one_that_leaves_the_queue_holds_up_nobody() -> None:
    with Named("a") as a, upstream_of(a, maxconn=1) as upstream:
        held = [Held(upstream) for _ in range(3)]
        assert held[0].server == a.address and held[1].waits
        held[1].kill()
        held[0].end()
        assert held[2].server == a.address
        for each in held[1:]:
            each.end()


def test_a_session_that_is_killed_while_it_connects_counts_for_nothing() -> None:
    hole = BlackHole("127.0.0.1")
    try:
        with upstream_of(f"127.0.0.1:{hole.port}", fall=1, connect_timeout=5) as upstream:
            held = Held(upstream)
            until(lambda: upstream.servers[0].taken == 1)
            held.kill()
            assert upstream.servers[0].taken == 0
            assert upstream.servers[0].state.up and upstream.servers[0].state.last_failure == ""
            held.end()
    finally:
        hole.close()


def test_a_connection_that_the_queue_leaves_little_time_says_nothing_about_the_server() -> None:
    hole = BlackHole("127.0.0.1")
    try:
        with upstream_of(
            f"127.0.0.1:{hole.port}", fall=1, inter=60, retries=0, maxconn=1, connect_timeout=0.8, queue_timeout=0.8, total_timeout=0.8
        ) as upstream:
            server = upstream.servers[0]
            first = Session(upstream, server)
            gevent.spawn_later(0.6, first.end)
            said(upstream)
            assert server.state.up
            assert said(upstream).startswith("connect: 127.0.0.1: no answer")  # this one had all of its time
            assert not server.state.up
    finally:
        hole.close()


def test_many_clients_that_come_go_and_are_killed_take_no_place_for_ever() -> None:
    numbers = random.Random(7)
    ours, theirs = tcp_pair()
    with Named("a") as a, Named("b") as b, upstream_of(a, b, maxconn=2, maxqueue=1000, queue_timeout=20, total_timeout=20) as upstream:

        def client(stay: float) -> None:
            with session_of(upstream, ours):
                assert all(server.taken <= 2 for server in upstream.servers)
                gevent.sleep(stay)

        clients = [gevent.spawn_later(numbers.random() / 2, client, numbers.random() / 50) for _ in range(300)]
        gevent.sleep(0.1)
        for each in numbers.sample(clients, 100):
            each.kill(block=False)
            gevent.sleep(numbers.random() / 200)
        gevent.joinall(clients, raise_error=True)
        assert upstream.waiting == 0
        assert [server.taken for server in upstream.servers] == [0, 0]
        assert sum(server.state.counts.connected for server in upstream.servers) >= 200
    for each in (ours, theirs):
        each.finish()


def test_what_is_counted_until_a_swap_is_complete_is_kept() -> None:
    with refusing_port() as port:
        settings = [parse_upstream("shop", {"server": [f"127.0.0.1:{port}"], "retries": 0}, "upstream.shop")]
        before = Upstreams(settings)
        after = Upstreams(settings, before)
        said(before.named("shop"))
        with made(after):
            assert after.refused["failed"] == before.refused["failed"] == 1


# Names


def test_a_name_that_vanishes_leaves_its_addresses_in_use(caplog: pytest.LogCaptureFixture) -> None:
    names = {"shop.example": ["127.0.0.1"]}
    with Named("a") as a, upstream_of(f"shop.example:{a.port}", resolver=lambda *asked: zone(names)(*asked), resolve=0.05) as upstream:
        assert said(upstream) == "a"
        names.clear()
        gevent.sleep(0.06)
        with caplog.at_level(logging.INFO):
            assert said(upstream) == "a"
            gevent.sleep(0.06)
            assert said(upstream) == "a"
        assert [record.getMessage() for record in caplog.records] == [
            "shop.example: the addresses before stay in use: shop.example: Name or service not known"
        ]


def test_a_name_is_looked_up_again_and_not_for_each_connection() -> None:
    asked = 0
    names = {"shop.example": ["127.0.0.1"]}

    def resolver(host: str, port: int) -> list[tuple[int, str]]:
        nonlocal asked
        asked += 1
        return zone(names)(host, port)

    with Named("a") as a, upstream_of(f"shop.example:{a.port}", resolver=resolver, resolve=0.2, retries=0, observe="none") as upstream:
        assert [said(upstream) for _ in range(5)] == ["a"] * 5
        assert asked == 1
        names["shop.example"] = ["127.0.0.7"]
        gevent.sleep(0.25)
        assert said(upstream) == "connect: 127.0.0.7: Connection refused"
        assert asked == 2


def test_a_name_that_does_not_exist_is_a_failure_of_its_server() -> None:
    with Named("a") as a, upstream_of("none.example:1", a, resolver=zone({}), fall=1, inter=60) as upstream:
        assert said(upstream) == "a"
        assert not upstream.servers[0].state.up
        assert upstream.servers[0].state.last_failure == "resolve: none.example: Name or service not known"


# All down


def test_all_down_is_said_and_nobody_is_connected_to() -> None:
    with Named("a") as a, upstream_of(a, fall=1, inter=60, retries=0) as upstream:
        a.stop()
        assert said(upstream) == "connect: 127.0.0.1: Connection refused"
        a.start()  # it would answer now; but it is down until checks say otherwise
        assert said(upstream) == f"upstream: no server can be used: {a.address} is down (connect: 127.0.0.1: Connection refused)"
        assert upstream.refused == {"down": 1, "queue_full": 0, "queue_timeout": 0, "failed": 1}


def test_those_in_the_queue_learn_at_once_that_all_are_down() -> None:
    with Named("a") as a, upstream_of(a, maxconn=1, fall=1, check=True, inter=0.05, queue_timeout=10) as upstream:
        held = [Held(upstream), Held(upstream)]
        assert held[0].server == a.address and held[1].waits
        a.stop()
        began = monotonic()
        assert held[1].server.startswith("upstream: no server can be used")
        assert monotonic() - began < 8
        for each in held:
            each.end()


def test_all_down_is_an_error_with_a_kind() -> None:
    with refusing_port() as port, upstream_of({"address": f"127.0.0.1:{port}", "disabled": True}) as upstream:
        ours, theirs = tcp_pair()
        with pytest.raises(AllDown, match="is in maint"), session_of(upstream, ours):
            pass
        ours.finish()
        theirs.finish()
