"""What a proxy may owe when its clients have gone: nothing. Modules that want every test of theirs checked import `nothing_left`."""

import gc
import logging
from collections import Counter
from collections.abc import Iterator
from time import monotonic
from typing import Any

import gevent
import pytest

from muxwsgi.proxy.exchange.client_watch import HALF_CLOSED_AT_MOST
from muxwsgi.proxy.proxy import Proxy
from muxwsgi.wire.lifeline import sweep
from muxwsgi.wire.relay_engine import engine_here
from tests.dial.conftest import open_sockets
from tests.proxy.conftest import Lab
from tests.waiting import until

__all__ = ["begun_flows", "clean_process", "frozen_heap", "later", "nothing_left", "settle", "until"]


def later(proxy: Proxy, seconds: float) -> None:
    """Let the proxy's upstream deadlines be looked at as if `seconds` had passed. Idle times count from one look to the next."""
    lines = list(proxy._sweeper.lines)
    sweep(lines, monotonic())
    sweep(lines, monotonic() + seconds)


def _greenlets() -> set[int]:
    gc.collect()
    return {id(thing) for thing in gc.get_objects() if isinstance(thing, gevent.Greenlet) and not thing.dead}


@pytest.fixture(scope="module")
def frozen_heap() -> None:
    """What was there before is not looked through again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def clean_process(frozen_heap: None) -> Iterator[None]:
    """No descriptor and no greenlet is left of a test."""
    gevent.get_hub().threadpool.apply(int)
    engine_here()  # its epoll stays
    sockets, greenlets = open_sockets(), _greenlets()
    yield
    with gevent.Timeout(10, False):
        while open_sockets() - sockets or _greenlets() - greenlets:
            gevent.sleep(0.01)
    assert open_sockets() - sockets == set()
    left = _greenlets() - greenlets
    assert [thing for thing in gc.get_objects() if id(thing) in left] == []


def begun_flows(proxy: Proxy) -> Counter[int]:
    """Counts the flows that begin, by their id."""
    begun: Counter[int] = Counter()
    begin = proxy._recorder.begin

    def counted(*arguments: Any, **what: Any) -> Any:
        flow = begin(*arguments, **what)
        if flow is not None:
            begun[flow.id] += 1
        return flow

    proxy._recorder.begin = counted  # type: ignore[method-assign]
    return begun


def settle(lab: Lab) -> None:
    """The clients go. Every connection of the servers ends by itself, and nothing is kept but what is kept on purpose."""
    for client in lab.clients:
        client.close()
    now = monotonic()
    with gevent.Timeout(10, False):
        while any(server.connections for server in lab.servers):
            for proxy in lab.proxies:
                now += HALF_CLOSED_AT_MOST + 1
                proxy._client_watch.look(now)
            gevent.sleep(0.01)
    assert [server.connections for server in lab.servers] == [0] * len(lab.servers)
    for proxy in lab.proxies:
        assert proxy._client_watch.waiting == {}
        kept = {client.connection.lifeline for client in proxy.pool._since}
        assert {line for line in proxy._sweeper.lines if not line.closed} == kept


@pytest.fixture
def nothing_left(
    clean_process: None, lab: Lab, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """Around a test: what it begins ends, once, and without a word in the error log (a test that expects one clears `caplog`)."""
    make = lab.proxy

    def proxy(**more: Any) -> Proxy:
        made = make(**more)
        counts = begun_flows(made)
        counters.append(counts)
        return made

    counters: list[Counter[int]] = []
    monkeypatch.setattr(lab, "proxy", proxy)
    yield
    settle(lab)
    assert Counter(flow.id for flow in lab.flows) == sum(counters, Counter())
    assert all(flow.ended is not None for flow in lab.flows)
    assert [record.getMessage() for record in caplog.get_records("call") if record.levelno >= logging.ERROR] == []
    caplog.clear()
    lab.flows.clear()
