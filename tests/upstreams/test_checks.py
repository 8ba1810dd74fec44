"""Health: checks, failures of connections, the operator's word, and what a client must not be able to do."""

import errno
import logging
from pathlib import Path
from typing import Any

import gevent
import pytest
from gevent.server import StreamServer

from muxwsgi.dial import happy_eyeballs
from muxwsgi.settings import CertificateFiles
from muxwsgi.upstreams import server as server_module
from muxwsgi.upstreams import upstream as upstream_module
from muxwsgi.upstreams.state import Readiness
from muxwsgi.upstreams.upstream import Upstream
from tests.dial.conftest import BlackHole, nothing_left
from tests.mux.conftest import bounded, certificate, make_server_context
from tests.waiting import until

from .servers import Clock, Named, refusing_port, said, upstream_of
from .test_upstream import Held

__all__ = ["bounded", "certificate", "make_server_context", "nothing_left"]

pytestmark = pytest.mark.usefixtures("nothing_left")

#: Fast checks.
FAST = {"inter": 0.02, "rise": 2, "fall": 2}


def down(upstream: Upstream, at: int = 0) -> bool:
    return not upstream.servers[at].state.up


def test_a_server_goes_down_and_comes_up_by_checks_and_each_change_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    with Named("a") as a, Named("b") as b, caplog.at_level(logging.INFO), upstream_of(a, b, check=True, **FAST) as upstream:
        until(lambda: all(server.state.counts.checks >= 2 for server in upstream.servers))
        assert caplog.records == []
        a.stop()
        until(lambda: down(upstream))
        assert [said(upstream) for _ in range(3)] == ["b"] * 3
        a.start()
        until(lambda: not down(upstream))
        assert {said(upstream) for _ in range(4)} == {"a", "b"}
        assert [record.getMessage() for record in caplog.records] == [
            f"upstream shop: server {a.address} is down: connect: 127.0.0.1: Connection refused; 1 of 2 can be used",
            f"upstream shop: server {a.address} is up: checks succeed; 2 of 2 can be used",
        ]


def test_failures_of_connections_take_a_server_down_and_checks_bring_it_back() -> None:
    with Named("a") as a, Named("b") as b, upstream_of(a, b, balance="first", inter=0.02, rise=3, fall=2) as upstream:
        a.stop()
        assert [said(upstream) for _ in range(2)] == ["b", "b"]
        assert down(upstream)
        a.start()
        until(lambda: not down(upstream))
        assert upstream.servers[0].state.counts.checks >= 3
        assert said(upstream) == "a"
        checks = upstream.servers[0].state.counts.checks
        gevent.sleep(0.1)
        assert upstream.servers[0].state.counts.checks == checks, "without `check`, a server that is up is not checked"


def test_observe_none_leaves_it_to_checks() -> None:
    with refusing_port() as port, Named("a") as a, upstream_of(f"127.0.0.1:{port}", a, observe="none", fall=1) as upstream:
        assert [said(upstream) for _ in range(6)] == ["a"] * 6
        assert not down(upstream)


def test_a_check_that_gets_no_answer_fails() -> None:
    hole = BlackHole("127.0.0.1")
    try:
        with upstream_of(f"127.0.0.1:{hole.port}", check=True, check_timeout=0.05, **FAST) as upstream:
            until(lambda: down(upstream))
            assert upstream.servers[0].state.last_failure == "connect: 127.0.0.1: no answer"
    finally:
        hole.close()


@pytest.mark.parametrize(
    ("reply", "failure"),
    [
        (b"+PONG\r\n", None),
        (b"-LOADING\r\n", "check: no answer with '+PONG' in 0.2 s"),
        (None, "check: no answer with '+PONG' in 0.2 s"),
        (b"x" * 20000, "check: the first 16384 bytes of the answer do not have '+PONG'"),
    ],
)
def test_a_check_sends_and_expects_bytes(reply: bytes | None, failure: str | None) -> None:
    with (
        Named("", reply, greets=False) as a,
        upstream_of(a, check=True, check_send="PING\r\n", check_expect="+PONG", check_timeout=0.2, **FAST) as upstream,
    ):
        if failure is None:
            until(lambda: upstream.servers[0].state.counts.checks >= 3)
            assert not down(upstream) and upstream.servers[0].state.last_failure == ""
        else:
            until(lambda: down(upstream))
            assert upstream.servers[0].state.last_failure == failure
    assert a.received.startswith(b"PING\r\n")


def test_a_check_of_a_server_that_accepts_and_closes_fails_if_bytes_are_expected() -> None:
    closing = StreamServer(("127.0.0.1", 0), lambda sock, _: sock.close())
    closing.start()
    try:
        with upstream_of(f"127.0.0.1:{closing.server_port}", check=True, check_expect="ready", **FAST) as upstream:
            until(lambda: down(upstream))
            assert upstream.servers[0].state.last_failure.startswith("check: ")
    finally:
        closing.stop()


def test_a_check_of_a_tls_server_does_the_handshake(certificate: CertificateFiles) -> None:
    with Named("", b"no TLS here\n", greets=False) as a, upstream_of(a, check=True, ssl=True, ca_file=certificate.certfile, **FAST) as upstream:
        until(lambda: down(upstream))
        assert upstream.servers[0].state.last_failure.startswith("TLS: TLS handshake")


def test_checks_may_go_to_another_port() -> None:
    with Named("a") as a, Named("b") as b, upstream_of(a, check=True, check_port=b.port, **FAST) as upstream:
        until(lambda: b.accepted >= 2)
        assert a.accepted == 0
        assert said(upstream) == "a"


def test_a_fault_in_a_check_is_logged_and_fails_it(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    with Named("a") as a, upstream_of(a, check=True, **FAST) as upstream:
        monkeypatch.setattr(upstream.servers[0], "connect_for_check", lambda timeout: 1 / 0)
        until(lambda: down(upstream))
        assert "ZeroDivisionError" in caplog.text
        monkeypatch.undo()
        until(lambda: not down(upstream))


def test_a_slow_start_gives_a_server_that_came_back_few_sessions_at_first() -> None:
    clock = Clock()
    with Named("a") as a, Named("b") as b, upstream_of(a, b, clock=clock, slowstart=100, inter=0.02, rise=1, fall=1, maxconn=20) as upstream:
        first = upstream.servers[0]
        assert first.weight_now == 1 and first.has_room
        a.stop()
        said(upstream)
        a.start()
        until(lambda: not down(upstream))
        assert [said(upstream) for _ in range(21)].count("a") == 1
        held = [Held(upstream) for _ in range(2)]
        clock.now += 50
        assert first.weight_now == 0.5
        assert [said(upstream) for _ in range(9)].count("a") == 3
        clock.now += 50
        assert first.weight_now == 1
        assert [said(upstream) for _ in range(10)].count("a") == 5
        for each in held:
            each.end()


# The operator's word


def test_a_server_in_drain_keeps_its_sessions_and_gets_no_new_ones(caplog: pytest.LogCaptureFixture) -> None:
    with Named("a") as a, Named("b") as b, upstream_of(a, b, balance="first", check=True, inter=0.02) as upstream:
        held = Held(upstream)
        assert held.server == a.address
        upstream.set_readiness(upstream.servers[0], Readiness.DRAIN)
        assert [said(upstream) for _ in range(3)] == ["b"] * 3
        checks = upstream.servers[0].state.counts.checks
        until(lambda: upstream.servers[0].state.counts.checks > checks + 1)
        assert held.session is not None
        upstream.set_readiness(upstream.servers[0], Readiness.READY)
        assert said(upstream) == "a"
        held.end()
        assert [record.getMessage() for record in caplog.records] == [
            f"upstream shop: server {a.address} is set to drain by the operator; 1 of 2 can be used",
            f"upstream shop: server {a.address} is set to ready by the operator; 2 of 2 can be used",
        ]


def test_a_server_in_maintenance_is_not_checked() -> None:
    with Named("a") as a, upstream_of({"address": a.address, "disabled": True}, check=True, inter=0.02) as upstream:
        gevent.sleep(0.3)
        assert a.accepted == 0
        assert said(upstream) == f"upstream: no server can be used: {a.address} is in maint"
        upstream.set_readiness(upstream.servers[0], Readiness.READY)
        until(lambda: a.accepted >= 2)
        upstream.set_readiness(upstream.servers[0], Readiness.MAINT)
        gevent.sleep(0.1)
        accepted = a.accepted
        gevent.sleep(0.1)
        assert a.accepted == accepted


def test_sessions_of_a_server_that_goes_down_go_on_unless_they_are_to_be_cut() -> None:
    for action, cut in (("none", False), ("shutdown-sessions", True)):
        with Named("a") as a, upstream_of(a, check=True, on_marked_down=action, **FAST) as upstream:
            held = Held(upstream)
            assert held.server == a.address
            a.stop()
            until(lambda upstream=upstream: down(upstream))
            gevent.sleep(0.05)
            assert (upstream.servers[0].taken == 0) is cut
            held.end()


# What a client must not be able to do


def test_a_client_that_leaves_while_its_server_is_slow_says_nothing_about_it() -> None:
    hole = BlackHole("127.0.0.1")
    try:
        with upstream_of(f"127.0.0.1:{hole.port}", fall=1, connect_timeout=10, total_timeout=20) as upstream:
            for _ in range(20):
                held = Held(upstream)
                until(lambda: upstream.servers[0].taken == 1)
                held.kill()
                held.end()
            assert not down(upstream)
    finally:
        hole.close()


def test_a_burst_of_clients_is_one_observation() -> None:
    hole = BlackHole("127.0.0.1")
    try:
        with upstream_of(f"127.0.0.1:{hole.port}", fall=2, retries=0, connect_timeout=0.2) as upstream:
            crowd = [Held(upstream) for _ in range(50)]
            assert {each.server for each in crowd} == {"connect: 127.0.0.1: no answer"}
            assert not down(upstream)
            for each in crowd:
                each.end()
    finally:
        hole.close()


def test_a_server_that_refuses_one_client_by_its_proxy_header_stays_up(certificate: CertificateFiles) -> None:
    # It reads the header, and closes before TLS: so it does for clients that it has banned.
    def ban(sock: Any, _: object) -> None:
        sock.recv(4096)
        sock.close()

    server = StreamServer(("127.0.0.1", 0), ban)
    server.start()
    try:
        tls = {"ssl": True, "ca_file": certificate.certfile, "fall": 1, "retries": 0, "inter": 60}
        with upstream_of(f"127.0.0.1:{server.server_port}", send_proxy_v2=True, **tls) as upstream:
            for _ in range(5):
                assert said(upstream).startswith("TLS: ")
            assert not down(upstream)
            assert upstream.servers[0].state.last_failure.startswith("TLS: ")
        with upstream_of(f"127.0.0.1:{server.server_port}", **tls) as upstream:  # nothing of the client was shown: it is the server
            assert said(upstream).startswith("TLS: ")
            assert down(upstream)
    finally:
        server.stop()


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EADDRNOTAVAIL])
def test_a_machine_without_descriptors_or_ports_says_nothing_about_the_server(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(*arguments: object) -> Any:
        raise OSError(number, "none left")

    with Named("a") as a, upstream_of(a, fall=1, retries=0) as upstream:
        monkeypatch.setattr(happy_eyeballs, "_begin", none_left)
        assert said(upstream) == "connect: 127.0.0.1: none left"
        monkeypatch.undo()
        assert not down(upstream)
        assert said(upstream) == "a"


def test_a_machine_without_descriptors_says_nothing_about_a_unix_socket_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(*arguments: object) -> Any:
        raise OSError(errno.EMFILE, "Too many open files")

    with upstream_of(f"unix:{tmp_path}/shop.sock", fall=1, retries=0, inter=60) as upstream:
        monkeypatch.setattr(server_module, "PlainSocket", none_left)
        assert said(upstream) == "connect: Too many open files"
        assert not down(upstream)
        monkeypatch.undo()
        assert said(upstream) == "connect: No such file or directory"
        assert down(upstream)


def test_an_address_of_the_client_that_cannot_be_used_says_nothing_about_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream_module, "TURN_AROUND", 0.01)
    with Named("a") as a, upstream_of(a, fall=1, source="client", connect_timeout=0.2, retries=1) as upstream:
        assert said(upstream, "203.0.113.7").startswith("upstream: ")  # as root no answer comes, as others it may not bind
        assert said(upstream, "2001:db8::1").startswith("upstream: ")
        assert not down(upstream)


def test_a_slow_client_holds_its_session_and_no_other() -> None:
    with Named("a") as a, upstream_of(a, maxconn=2) as upstream:
        held = Held(upstream)
        assert held.server == a.address
        assert [said(upstream) for _ in range(5)] == ["a"] * 5
        held.end()
        assert upstream.servers[0].taken == 0
