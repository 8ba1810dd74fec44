"""Three nodes behind a real HAProxy, as docs/scaling.md configures it: what clients see of restarts and faults."""

from collections.abc import Iterator
from pathlib import Path

import gevent
import pytest

from tests.system.farm import CLIENTS, NODES, Farm, Streamed, Visitor
from tests.waiting import until

pytestmark = pytest.mark.slow


@pytest.fixture
def farm(tmp_path: Path) -> Iterator[Farm]:
    with gevent.Timeout(150), Farm(tmp_path) as started:
        yield started


def asked(visitor: Visitor, more: int) -> None:
    """Wait for so many answers more."""
    wanted = visitor.answers + more
    until(lambda: visitor.answers >= wanted or visitor.failures, f"answers after {visitor.answers}")


def test_a_rolling_restart_of_all_nodes_loses_no_request_and_ends_streams_in_order(farm: Farm) -> None:
    getting, posting = Visitor(farm), Visitor(farm, "POST", "/")
    streams = [Streamed(farm, address) for address in CLIENTS[:3]]
    assert [stream.client for stream in streams] == CLIENTS[:3]
    asked(getting, 20)
    for n in NODES:
        assert farm.stop_node(n) == 0, farm.logs()
        asked(getting, 10)
        farm.start_node(n)
        farm.wait_for_state(n, "UP")
        asked(getting, 10)
    assert getting.stop() == posting.stop() == [], farm.logs()
    assert set(getting.nodes) == {"1", "2", "3"}
    until(lambda: all(stream.ended for stream in streams))
    assert [(stream.ended, stream.lines[-1]) for stream in streams] == [("closed", "bye")] * 3


def test_a_node_that_is_killed_costs_no_request_that_may_be_retried(farm: Farm) -> None:
    getting = Visitor(farm)
    streams = [Streamed(farm, address) for address in CLIENTS[:3]]
    asked(getting, 20)
    farm.processes[1].kill()
    farm.wait_for_state(1, "DOWN")
    asked(getting, 20)
    farm.start_node(1)
    farm.wait_for_state(1, "UP")
    asked(getting, 20)
    assert getting.stop() == [], farm.logs()
    until(lambda: all(stream.ended for stream in streams if stream.node == "1"))
    assert all(stream.ended is None for stream in streams if stream.node != "1")
    for stream in streams:
        stream.close()


def test_a_node_that_is_cut_off_costs_no_request_that_may_be_retried(farm: Farm) -> None:
    getting = Visitor(farm)
    asked(getting, 20)
    farm.cut_off(2)
    farm.wait_for_state(2, "DOWN")
    asked(getting, 20)
    farm.connect_again(2)
    farm.wait_for_state(2, "UP")
    asked(getting, 30)
    assert getting.stop() == [], farm.logs()
    assert set(getting.nodes) == {"1", "2", "3"}


def test_a_reload_of_haproxy_costs_no_request_and_no_stream(farm: Farm) -> None:
    getting, posting = Visitor(farm), Visitor(farm, "POST", "/")
    stream = Streamed(farm, CLIENTS[0])
    for _ in range(3):
        asked(getting, 20)
        farm.reload_haproxy()
    asked(getting, 40)
    assert getting.stop() == posting.stop() == [], farm.logs()
    lines = len(stream.lines)
    until(lambda: len(stream.lines) > lines + 3)
    assert stream.ended is None
    stream.close()


def test_nobody_goes_past_the_balancer(farm: Farm) -> None:
    """The balancer routes, so a client reaches a node's address. Its own header names the balancer."""
    with farm.balancer.entered():
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    with farm.client.connect("10.78.1.2", 8000) as sock:
        sock.sendall(b"PROXY TCP4 10.78.1.1 10.78.1.2 1 1\r\nGET / HTTP/1.0\r\n\r\n")
        try:
            assert sock.recv(100) == b""
        except ConnectionResetError:
            pass
