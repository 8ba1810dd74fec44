"""Which server gets the next connection."""

from collections import Counter

import pytest

from muxwsgi.settings.upstream import UpstreamOptions
from muxwsgi.upstreams.balance import choosing


class Server:
    def __init__(self, title: str, weight: float = 1, taken: int = 0) -> None:
        self.title = title
        self.weight_now = weight
        self.taken = taken
        self.credit = 0.0

    def __repr__(self) -> str:
        return self.title


def chosen(balance: str, servers: list[Server], count: int, client: str = "10.0.0.1") -> str:
    choose = choosing(UpstreamOptions(balance=balance))
    return "".join(choose(servers, client).title for _ in range(count))


def test_round_robin_spreads_by_weight_and_evenly() -> None:
    assert chosen("roundrobin", [Server("a", 5), Server("b"), Server("c")], 14) == "aabacaaaabacaa"
    assert chosen("roundrobin", [Server("a"), Server("b")], 6) == "ababab"


def test_round_robin_goes_on_fairly_when_a_server_comes_back() -> None:
    a, b, c = Server("a"), Server("b"), Server("c")
    choose = choosing(UpstreamOptions())
    for _ in range(50):
        choose([a, b], "")
    after = Counter(choose([a, b, c], "").title for _ in range(30))
    assert after == {"a": 10, "b": 10, "c": 10}


def test_leastconn_takes_the_one_with_the_fewest_sessions_for_its_weight() -> None:
    assert chosen("leastconn", [Server("a", taken=3), Server("b", taken=2)], 3) == "bbb"
    assert chosen("leastconn", [Server("a", 10, taken=9), Server("b", 1, taken=2)], 3) == "aaa"


def test_leastconn_takes_turns_among_equals() -> None:
    assert chosen("leastconn", [Server("a"), Server("b")], 4) == "abab"


def test_first_fills_one_server_after_the_other() -> None:
    assert chosen("first", [Server("a", taken=100), Server("b")], 3) == "aaa"


def test_random_takes_the_less_loaded_of_two() -> None:
    found = Counter(chosen("random(20)", [Server("a", taken=1), Server("b")], 200))
    assert found["b"] > 195  # both draws of 20 are `a` alone once in a million
    assert UpstreamOptions(balance="random").drawn == 2


def test_random_draws_by_weight() -> None:
    found = Counter(chosen("random(1)", [Server("a", 9), Server("b", 1)], 2000))
    assert 1650 < found["a"] < 1950  # five standard deviations and more


CLIENTS = [f"10.1.{high}.{low}" for high in range(4) for low in range(250)]


def by_client(servers: list[Server]) -> dict[str, str]:
    choose = choosing(UpstreamOptions(balance="source"))
    return {client: choose(servers, client).title for client in CLIENTS}


def test_a_client_keeps_its_server() -> None:
    servers = [Server("a"), Server("b"), Server("c")]
    assert by_client(servers) == by_client([Server("c"), Server("a"), Server("b")])
    assert all(count > 250 for count in Counter(by_client(servers).values()).values())


def test_clients_of_a_server_that_is_gone_alone_move() -> None:
    a, b, c = Server("a"), Server("b"), Server("c")
    before, after = by_client([a, b, c]), by_client([a, c])
    assert all(after[client] == server for client, server in before.items() if server != "b")
    assert {after[client] for client, server in before.items() if server == "b"} == {"a", "c"}


def test_a_heavier_server_gets_more_clients() -> None:
    found = Counter(by_client([Server("a", 3), Server("b", 1)]).values())
    assert 680 < found["a"] < 820


@pytest.mark.parametrize("balance", ["", "round", "random(0)", "random(100)", "random()", "Source"])
def test_another_balance_is_refused(balance: str) -> None:
    from muxwsgi import OperatorError

    with pytest.raises(OperatorError, match="is not roundrobin, leastconn, source, first, random or random"):
        UpstreamOptions(balance=balance)
