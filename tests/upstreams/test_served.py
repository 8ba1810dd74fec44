"""Upstreams of a server: routes lead to them, functions choose them, a swap keeps their state, and nothing is left behind."""

import gc
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gevent
import gevent.ssl
import pytest
from gevent.server import StreamServer

import muxwsgi
from muxwsgi import Connection
from muxwsgi.settings import ServerSettings, parse_route, parse_upstream
from muxwsgi.upstreams.checks import Checker
from muxwsgi.upstreams.lookup import Lookup
from muxwsgi.upstreams.state import Readiness
from muxwsgi.wire.tls.client_context import ClientContext
from tests.http.conftest import hello
from tests.mux.conftest import bounded
from tests.tls.authority import Authority
from tests.waiting import until

from .servers import Named, refusing_port

__all__ = ["bounded"]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


Tables = dict[str, dict[str, Any]]


def settings_of(upstreams: Tables, to: str, fallback: str = "close") -> ServerSettings:
    return ServerSettings(
        routes=(parse_route({"name": "shop", "match": {"regex": "[A-Z]+ ?[a-z ]*\r\n"}, "to": to}, "route 1"),),
        upstreams=tuple(parse_upstream(name, table, f"upstream.{name}") for name, table in upstreams.items()),
        fallback=fallback,
    )


@contextmanager
def serving(upstreams: Tables, to: str = "forward:shop", fallback: str = "close") -> Iterator[muxwsgi.Server]:
    server = muxwsgi.Server(hello, binds=["127.0.0.1:0"], settings=settings_of(upstreams, to, fallback))
    server.start()
    try:
        yield server
    finally:
        server.stop(graceful_timeout=0)
        assert running() == []


def running() -> list[str]:
    """Greenlets of checks and lookups that live."""
    owners = [getattr(each._run, "__self__", None) for each in gc.get_objects() if isinstance(each, gevent.Greenlet) and not each.dead]
    return [repr(owner) for owner in owners if isinstance(owner, Checker | Lookup)]


def asked(server: muxwsgi.Server, data: bytes = b"PING\r\n") -> bytes:
    """What comes back to a client that says something and ends."""
    host, _, port = server.addresses[0].rpartition(":")
    sock = gevent.socket.create_connection((host, int(port)), timeout=10)
    sock.sendall(data)
    sock.shutdown(1)
    received = b""
    try:
        while more := sock.recv(4096):
            received += more
    except ConnectionResetError:
        pass
    finally:
        sock.close()
    return received


def test_a_route_leads_to_the_servers_of_its_upstream() -> None:
    with Named("a", b"|") as a, Named("b", b"|") as b, serving({"shop": {"server": [a.address, b.address]}}) as server:
        assert {asked(server) for _ in range(2)} == {b"a|", b"b|"}
        until(lambda: all(each.taken == 0 for each in server.upstreams.named("shop").servers))
        assert a.received == b.received == b"PING\r\n"


def test_so_does_a_list_of_addresses_and_a_fallback() -> None:
    with Named("a", b"|") as a, Named("b", b"|") as b:
        a.stop()
        with serving({"shop": {"server": [b.address]}}, f"forward:{a.address},{b.address}", "forward:shop") as server:
            assert [asked(server) for _ in range(3)] == [b"b|"] * 3
            assert asked(server, b"\xff\xff\xff\xff") == b"b|"


def test_a_bind_may_have_one_upstream_alone_and_silent_clients_too() -> None:
    with Named("a", b"|") as a, Named("b", b"|") as b:
        made = settings_of({"one": {"server": [a.address]}, "two": {"server": [b.address]}}, "forward:one")
        binds = ["127.0.0.1:0,only=forward:two", "127.0.0.1:0,silence=forward:two,silence-after=0.02"]
        server = muxwsgi.Server(hello, binds=binds, settings=made)
        server.start()
        try:
            assert asked(server, b"\xff\xff") == b"b|"
            host, _, port = server.addresses[1].rpartition(":")
            with gevent.socket.create_connection((host, int(port)), timeout=10) as silent:
                assert silent.recv(1) == b"b"
        finally:
            server.stop(graceful_timeout=0)


def test_tls_is_passed_on_as_it_is_to_the_servers_of_an_upstream(authority: Authority) -> None:
    leaf = authority.leaf("inside.example")
    context = gevent.ssl.SSLContext(gevent.ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(leaf.certfile, leaf.keyfile)
    inside = StreamServer(("127.0.0.1", 0), lambda sock, _: sock.sendall(b"inside"), ssl_context=context)
    inside.start()
    with refusing_port() as port:
        table = parse_upstream(
            "tls", {"server": [f"127.0.0.1:{port}", f"127.0.0.1:{inside.server_port}"], "balance": "first"}, "upstream.tls"
        )
        routes = (parse_route({"sni": "inside.example", "to": "passthrough:tls"}, "route 1"),)
        server = muxwsgi.Server(hello, binds=["127.0.0.1:0"], settings=ServerSettings(routes=routes, upstreams=(table,)))
        server.start()
        try:
            host, _, bound = server.addresses[0].rpartition(":")
            client = Connection.from_socket(gevent.socket.create_connection((host, int(bound)), timeout=10))
            client = client.start_tls(ClientContext(ca_file=authority.root), server_hostname="inside.example")
            assert client.recv() == b"inside"
            client.finish()
        finally:
            server.stop(graceful_timeout=0)
            inside.stop()


def test_the_log_says_once_why_nobody_was_connected_to(caplog: pytest.LogCaptureFixture) -> None:
    with Named("a") as a, serving({"shop": {"server": [{"address": a.address, "disabled": True}]}}) as server:
        assert asked(server) == b""
        said = [record.getMessage() for record in caplog.records if record.name == "muxwsgi.forward"]
        assert len(said) == 1
        assert said[0].endswith(f"cannot be forwarded to shop: upstream: no server can be used: {a.address} is in maint")


# A function that chooses


def by_first_byte(connection: Connection) -> str | None:
    """Chooses by what the client says, for the tests below."""
    return {b"P": "one", b"S": "two", b"G": "three", b"D": None}[connection.peek(1)]


def test_a_function_chooses_the_upstream(caplog: pytest.LogCaptureFixture) -> None:
    with Named("a", b"|") as a, Named("b", b"|") as b:
        tables = {"one": {"server": [a.address]}, "two": {"server": [b.address]}}
        with serving(tables, f"forward:python:{__name__}:by_first_byte") as server:
            assert asked(server, b"PING\r\n") == b"a|"
            assert asked(server, b"SET a b\r\n") == b"b|"
            assert asked(server, b"DEL a\r\n") == b""
            assert "choice: the function names no upstream" in caplog.text
            assert asked(server, b"GET a\r\n") == b""
            assert "choice: the function returned a wrong name: no upstream is named 'three'" in caplog.text
            assert asked(server, b"MGET a\r\n") == b""
            assert "choice: the function raised KeyError" in caplog.text and "Traceback" in caplog.text


# Swaps


def swap(server: muxwsgi.Server, upstreams: Tables) -> None:
    server.swap(hello, settings=settings_of(upstreams, "forward:shop"))


def test_a_swap_keeps_the_state_of_servers_that_stay() -> None:
    with Named("a", b"|") as a, Named("b", b"|") as b, Named("c", b"|") as c:
        table = {"server": [a.address, b.address], "fall": 1, "inter": 60}
        with serving({"shop": table}) as server:
            before = server.upstreams.named("shop")
            a.stop()
            while before.servers[0].state.up:
                asked(server)
            before.set_readiness(before.servers[1], Readiness.DRAIN)
            swap(server, {"shop": {**table, "server": [a.address, b.address, c.address], "rise": 5}})
            first, second, third = server.upstreams.named("shop").servers
            assert not first.state.up and second.state.readiness is Readiness.DRAIN
            assert third.is_usable
            assert first.state.counts.connect_failures == 1
            assert asked(server) == b"c|"


def test_a_swap_ends_the_checks_of_servers_that_are_gone() -> None:
    with Named("a", b"|") as a, Named("b", b"|") as b:
        checked = {"check": True, "inter": 0.02}
        with serving({"shop": {"server": [a.address, b.address], **checked}}) as server:
            until(lambda: a.accepted and b.accepted)
            swap(server, {"shop": {"server": [b.address], **checked}})
            gevent.sleep(0.05)
            accepted = a.accepted, b.accepted
            until(lambda: b.accepted > accepted[1] + 1)
            assert a.accepted == accepted[0]
            assert len(running()) == 1


def test_a_session_that_a_swap_leaves_counts_for_the_server_that_stays() -> None:
    with Named("a", b"|") as a:
        table = {"shop": {"server": [a.address], "maxconn": 1, "queue_timeout": 0.1}}
        with serving(table) as server:
            host, _, port = server.addresses[0].rpartition(":")
            sock = gevent.socket.create_connection((host, int(port)), timeout=10)
            sock.sendall(b"PING\r\n")
            assert sock.recv(1) == b"a"
            swap(server, table)
            (one,) = server.upstreams.named("shop").servers
            assert one.taken == 1
            assert asked(server) == b""
            sock.close()
            until(lambda: one.taken == 0)
            assert asked(server) == b"a|"
            assert server.upstreams.refused["queue_timeout"] == 1


def test_a_swap_that_fails_changes_nothing() -> None:
    with Named("a", b"|") as a, serving({"shop": {"server": [a.address], "check": True, "inter": 0.02}}) as server:
        with pytest.raises(muxwsgi.OperatorError, match="no upstream is named 'shop'"):
            server.swap(hello, settings=settings_of({"other": {"server": [a.address]}}, "forward:shop"))
        accepted = a.accepted
        until(lambda: a.accepted > accepted + 1)
        assert asked(server) == b"a|"


def test_the_numbers_of_a_server_that_is_gone_are_kept(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.CRITICAL), Named("a", b"|") as a, Named("b", b"|") as b:
        with serving({"shop": {"server": [a.address]}}) as server:
            assert asked(server) == b"a|"
            swap(server, {"shop": {"server": [b.address]}})
            assert asked(server) == b"b|"
            counts = server.upstreams.counts
            assert {name: each.connected for name, each in counts.items()} == {f"shop/{a.address}": 1, f"shop/{b.address}": 1}
