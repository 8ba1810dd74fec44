"""What a client may have at once and in a second: by a clock that the test turns, through a mux, and in a server."""

import contextlib
import socket
import time
from collections.abc import Iterator

import gevent
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muxwsgi import Connection, Mux, Route
from muxwsgi.events import Refusal
from muxwsgi.mux import quota as module
from muxwsgi.mux.matchers import prefix
from muxwsgi.mux.quota import Quota, Rate, client_of
from muxwsgi.settings import MuxSettings, ServerSettings
from muxwsgi.testing import connection_pair, serve
from tests.subscribed import subscribed

ANN, BOB = ("192.0.2.1", 1), ("192.0.2.2", 2)


@pytest.mark.parametrize(
    ("address", "client"),
    [
        (("192.0.2.1", 5), "192.0.2.1"),
        (("2001:db8:1:2:3::4", 5, 0, 0), "2001:db8:1:2::/64"),
        (("2001:db8:1:2::", 5, 0, 0), "2001:db8:1:2::/64"),
        (("fe80::1%eth0", 5, 0, 2), "fe80::/64"),
        ("", ""),
        ("/run/socket", ""),
    ],
)
def test_a_client_is_an_address_or_64_bits_of_one(address: object, client: str) -> None:
    assert client_of(address) == client


def test_a_client_has_so_many_connections_at_once_and_others_as_many() -> None:
    quota = Quota(2, None, None)
    assert [quota.take(ANN, 0, 0) for _ in range(2)] == [0, 0]
    assert quota.take(ANN, 0, 0) == "192.0.2.1 has 2 connections already, which is the limit of a client"
    assert quota.take(BOB, 0, 0) == 0
    quota.free(ANN)
    assert quota.take(("192.0.2.1", 999), 0, 0) == 0
    for who in (ANN, ANN, BOB):
        quota.free(who)
    assert not quota._open
    for _ in range(100):
        assert quota.take("/run/socket", 0, 0) == 0
        quota.free("/run/socket")


def test_a_rate_lets_a_second_s_worth_in_at_once_and_then_one_after_the_other() -> None:
    rate = Rate(4)
    assert [rate.take("a", 100.0, 0) for _ in range(5)] == [0, 0, 0, 0, None]
    assert rate.take("b", 100.0, 0) == 0
    assert rate.take("a", 100.2, 0) is None
    assert rate.take("a", 100.25, 0) == 0
    assert rate.take("a", 100.25, 0) is None
    assert [rate.take("a", 1000.0, 0) for _ in range(5)] == [0, 0, 0, 0, None]
    slow = Rate(0.5)
    assert [slow.take("a", 0.0, 0), slow.take("a", 1.9, 0), slow.take("a", 2.0, 0)] == [0, None, 0]


def test_who_waits_is_served_in_turn() -> None:
    rate = Rate(2)
    assert [rate.take("a", 0.0, 1.0) for _ in range(5)] == [0, 0, 0.5, 1.0, None]
    assert rate.take("a", 0.5, 1.0) == 1.0


def test_what_is_remembered_is_bounded_and_busy_clients_are_not_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REMEMBERED", 10)
    rate = Rate(1)
    assert rate.take("busy", 0.0, 0) == 0
    for number in range(1000):
        rate.take(f"client {number}", number * 0.001, 0)
        if number % 5 == 0:
            rate.take("busy", number * 0.001, 5)  # it is heard of again, and waits
    assert len(rate._rests_at) == 10
    assert rate.take("busy", 1.0, 0) is None


@settings(max_examples=100, deadline=None)
@given(st.floats(0.5, 50), st.lists(st.floats(0, 0.5), max_size=60), st.floats(0, 2))
def test_in_no_time_are_there_more_than_the_rate_allows(per_second: float, pauses: list[float], wait: float) -> None:
    rate, now, served = Rate(per_second), 0.0, []
    for pause in pauses:
        now += pause
        delay = rate.take("a", now, wait)
        if delay is not None:
            assert 0 <= delay <= wait + 1e-6
            served.append(now + delay)
    for start in range(len(served)):
        for end in range(start, len(served)):
            assert end - start + 1 <= max(1, per_second) + (served[end] - served[start]) * per_second + 1e-3


def test_a_mux_refuses_and_says_why_and_gives_back_what_was_taken() -> None:
    refused: list[Refusal] = []
    release = gevent.event.Event()
    events = subscribed(refused=lambda connection, refusal: refused.append(refusal))
    route = Route("x", prefix(b"x"), lambda connection: release.wait(5) and None, limit_per_client=1)
    mux = Mux([route], events=events)
    pairs = [connection_pair() for _ in range(3)]
    for (server, client), who in zip(pairs, (ANN, ANN, BOB), strict=True):
        server.client = who
        client.sendall(b"x")
    serving = [gevent.spawn(mux, server) for server, _ in pairs]
    serving[1].get(timeout=5)
    assert [(each.kind, each.route, each.reason) for each in refused] == [
        ("limit", "x", "192.0.2.1 has 1 connections already, which is the limit of a client")
    ]
    assert (route.slots.taken, route.slots.refused) == (2, 1)
    release.set()
    gevent.joinall(serving, timeout=5)
    assert route.slots.taken == 0
    assert route.slots.quota is not None
    assert not route.slots.quota._open
    for server, client in pairs:
        server.finish()
        client.close()


def test_a_connection_above_the_rate_waits_and_one_that_is_killed_gives_back() -> None:
    served: list[int] = []
    route = Route("x", prefix(b"x"), lambda connection: served.append(connection.id), limit_per_client=5, rate=20, limit_wait=60)
    mux = Mux([route])
    pairs = [connection_pair() for _ in range(22)]
    for server, client in pairs:
        server.client = ANN if server is not pairs[-1][0] else BOB
        client.sendall(b"x")
    quota = route.slots.quota
    assert quota is not None
    quota._rate._at_once = 0.0  # type: ignore[union-attr]
    quota._rate._interval = 3600.0  # type: ignore[union-attr]
    first = gevent.spawn(mux, pairs[0][0])
    first.get(timeout=5)
    assert len(served) == 1
    quota._rate._interval = 30.0  # type: ignore[union-attr]
    quota._rate._rests_at[""] = time.monotonic() + 30  # type: ignore[union-attr]
    second = gevent.spawn(mux, pairs[1][0])
    gevent.sleep(0.01)
    assert quota._open == {"192.0.2.1": 1}
    second.kill()
    assert not quota._open
    assert len(served) == 1
    for server, client in pairs:
        server.finish()
        client.close()


@pytest.mark.parametrize("wrong", [{"limit_per_client": 0}, {"rate": 0}, {"rate_per_client": -1.0}])
def test_wrong_limits_are_said_with_the_route(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"route 'x': "):
        Route("x", prefix(b"x"), print, **wrong)  # type: ignore[arg-type]


def hold(connection: Connection) -> None:
    connection.recv(4)
    connection.sendall(b"here")
    connection.recv()


@contextlib.contextmanager
def clients(address: object, count: int) -> Iterator[list[socket.socket]]:
    with contextlib.ExitStack() as stack:
        made = [stack.enter_context(socket.create_connection(address, timeout=10)) for _ in range(count)]  # type: ignore[arg-type]
        for sock in made:
            with contextlib.suppress(OSError):
                sock.sendall(b"HOLD")
        yield made


def answers(socks: list[socket.socket]) -> list[bytes]:
    found = []
    for sock in socks:
        try:
            found.append(sock.recv(10))
        except ConnectionError:
            found.append(b"")
    return found


def test_a_server_counts_the_connections_of_a_client_over_all_routes_until_they_end() -> None:
    route = Route("hold", prefix(b"HOLD"), hold)
    wanted = ServerSettings(mux=MuxSettings(limit_per_client=3), graceful_timeout=0.5)
    with serve(route, settings=wanted) as served:
        for _ in range(2):  # once more, when the first ones are over
            with clients(served["plain"].address, 5) as socks:
                assert answers(socks) == [b"here"] * 3 + [b""] * 2
            deadline = time.monotonic() + 10
            while time.monotonic() < deadline:
                with clients(served["plain"].address, 1) as socks:
                    if answers(socks) == [b"here"]:
                        break
                time.sleep(0.05)
        with clients(served["tls"].address, 1):
            pass
        assert served.failures == []


def test_a_server_takes_no_more_than_its_rate() -> None:
    route = Route("hold", prefix(b"HOLD"), hold)
    wanted = ServerSettings(mux=MuxSettings(rate_per_client=0.01), graceful_timeout=0.5)
    with serve(route, settings=wanted) as served, clients(served["plain"].address, 3) as socks:
        assert answers(socks) == [b"here", b"", b""]
        assert served.failures == []
