"""Relays, `forward`, and what `--fallback` and `--silence` may name."""

import gc
import logging
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import EntryPoint
from pathlib import Path
from time import monotonic
from typing import Any

import gevent
import gevent.socket
import pytest
from gevent.server import StreamServer

from muxwsgi import Connection, Expired, Mux, OperatorError, Route, hijack
from muxwsgi.dial.resolve import Resolver, system_resolver
from muxwsgi.hijackers.forward import Forward, forward_route
from muxwsgi.hijackers.resolve import resolve
from muxwsgi.mux.matchers import never
from muxwsgi.mux.registry import GROUP, Registered
from muxwsgi.names import join_host_port
from muxwsgi.settings.upstream import UpstreamOptions, UpstreamServerSettings, UpstreamSettings
from muxwsgi.upstreams import lookup
from muxwsgi.upstreams.chosen import Only
from muxwsgi.upstreams.upstreams import Upstreams
from muxwsgi.wire.relay import relay
from muxwsgi.wire.relay_engine import engine_here
from tests.dial.conftest import BlackHole, socket_on, zone

from .conftest import MAKERS, Pair
from .first_bytes import ignore

BIG = bytes(range(256)) * 8000

#: Makes ((client's end, server's end), the greenlet that relays between them).
Relayed = Callable[..., tuple[Pair, Any]]


@hijack()
def parrot(connection: Connection) -> None:
    """A hijacker to be found by its name."""


def greenlets() -> int:
    """How many copies of relays run."""
    return sum(
        1
        for thing in gc.get_objects()
        if isinstance(thing, gevent.Greenlet)
        and not thing.dead
        and getattr(thing._run, "__name__", "") == "copy"
    )


def engine_pairs() -> int:
    """How many pairs the relay engine has."""
    return engine_here().pairs


@pytest.fixture
def relayed() -> Iterator[Relayed]:
    """(client's end, server's end) of a relay between two connections of a kind, and the greenlet that
    relays.
    """
    made: list[Connection] = []

    def make(kind: str = "memory", **terms: float) -> tuple[Pair, Any]:
        left, client = MAKERS[kind]()
        right, server = MAKERS[kind]()
        made.extend((left, client, right, server))
        relaying = gevent.spawn(relay, left, right, **terms)
        gevent.sleep(0)
        return (client, server), relaying

    yield make
    for connection in made:
        connection.finish()
    assert greenlets() == 0 and engine_pairs() == 0


def read_all(connection: Connection) -> bytes:
    return connection.makefile("rb").read()  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", MAKERS)
def test_bytes_go_both_ways_at_once_and_each_end_is_passed_on(kind: str, relayed: Relayed) -> None:
    (client, server), relaying = relayed(kind)

    def talk(connection: Connection) -> bytes:
        reading = gevent.spawn(read_all, connection)
        connection.sendall(BIG)
        connection.shutdown(socket.SHUT_WR)
        return reading.get(timeout=10)  # type: ignore[no-any-return]

    talks = [gevent.spawn(talk, client), gevent.spawn(talk, server)]
    assert [each.get(timeout=10) == BIG for each in talks] == [True, True]
    result = relaying.get(timeout=5)
    assert (result.from_left, result.from_right, result.error) == (len(BIG), len(BIG), None)


def test_an_answer_comes_after_the_question_was_ended(relayed: Relayed) -> None:
    (client, server), relaying = relayed("tcp")
    client.sendall(b"question")
    client.shutdown(socket.SHUT_WR)
    assert read_all(server) == b"question"
    server.sendall(b"answer")
    server.close()
    assert read_all(client) == b"answer"
    assert relaying.get(timeout=5).error is None


def test_a_reader_that_does_not_read_stops_the_writer(relayed: Relayed) -> None:
    (client, _), relaying = relayed("memory")
    writing = gevent.spawn(client.sendall, BIG)
    gevent.sleep(0.05)
    assert not writing.ready()
    relaying.kill()


def test_an_error_on_one_side_ends_both_ways(relayed: Relayed) -> None:
    (client, server), relaying = relayed("tcp")
    client.sendall(b"x")
    assert server.recv() == b"x"
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.close()
    result = relaying.get(timeout=5)
    assert isinstance(result.error, ConnectionResetError)
    assert result.from_left == 1


def test_a_killed_copy_leaves_no_greenlet(relayed: Relayed) -> None:
    _, relaying = relayed("memory")
    assert greenlets() == 2
    relaying.kill()
    assert greenlets() == 0


def test_a_killed_relay_leaves_no_pair_in_the_engine(relayed: Relayed) -> None:
    _, relaying = relayed("tcp")
    assert greenlets() == 0 and engine_pairs() == 1
    relaying.kill()
    assert engine_pairs() == 0


def test_an_idle_relay_expires(relayed: Relayed) -> None:
    _, relaying = relayed("tcp", idle_timeout=0.05)
    assert isinstance(relaying.get(timeout=5).error, Expired)


def test_an_idle_relay_expires_at_its_limit_and_not_at_twice_that(relayed: Relayed) -> None:
    (client, server), relaying = relayed("memory", idle_timeout=0.6)
    gevent.sleep(0.4)
    client.sendall(b"x")
    began = monotonic()
    assert server.recv() == b"x"
    assert isinstance(relaying.get(timeout=5).error, Expired)
    assert 0.6 <= monotonic() - began + 0.01 < 1.0


def test_once_one_side_has_ended_another_limit_counts(relayed: Relayed) -> None:
    (client, server), relaying = relayed("tcp", idle_timeout=60, fin_timeout=0.5)
    client.shutdown(socket.SHUT_WR)
    assert server.recv() == b""
    for _ in range(8):  # longer than the limit, and never silent for so long
        gevent.sleep(0.1)
        server.sendall(b"x")
        assert client.recv() == b"x"
    error = relaying.get(timeout=5).error
    assert isinstance(error, Expired) and "one side has ended" in str(error)


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_a_block_that_is_taken_slowly_is_no_silence(kind: str, relayed: Relayed) -> None:
    # Nor is what the relay has sent, and the kernel has not: 2 MB may be in there.
    (client, server), relaying = relayed(kind, idle_timeout=60, fin_timeout=0.5)
    sending = gevent.spawn(client.sendall, BIG)
    sending.link(lambda _: client.shutdown(socket.SHUT_WR))
    read = 0
    while read < len(BIG):
        read += len(server.recv(100_000))
        gevent.sleep(0.07)
    sending.get(timeout=5)
    assert server.recv() == b""
    relaying.kill()


def test_a_relay_whose_other_side_takes_nothing_expires_too(relayed: Relayed) -> None:
    (client, _), relaying = relayed("memory", idle_timeout=0.05)
    writing = gevent.spawn(client.sendall, BIG)
    assert isinstance(relaying.get(timeout=5).error, Expired)
    writing.kill()


def test_a_fault_that_is_no_connection_error_is_raised() -> None:
    left, client = MAKERS["memory"]()

    class Broken:
        def recv(self, n: int) -> bytes:
            raise ZeroDivisionError

        sendall = shutdown = recv
        bytes_sent = bytes_unacknowledged = 0

        def cut(self, grace: float) -> None:
            pass

    with pytest.raises(ZeroDivisionError):
        relay(left, Broken())  # type: ignore[arg-type]
    left.close()
    client.close()
    assert greenlets() == 0


# forward


def greet(sock: "gevent.socket.socket", address: object) -> None:
    """Speaks first, as SSH does, then says everything back."""
    sock.sendall(b"SSH-2.0-there\r\n")
    while data := sock.recv(4096):
        sock.sendall(data)
    sock.close()


@pytest.fixture
def upstream() -> Iterator[StreamServer]:
    server = StreamServer(("127.0.0.1", 0), greet)
    server.start()
    yield server
    server.stop()


def test_forward_passes_on_what_was_looked_at(upstream: StreamServer) -> None:
    server, client = MAKERS["tcp"]()
    target = f"127.0.0.1:{upstream.server_port}"
    mux = Mux([], fallback=forward_route(target))
    client.sendall(b"SSH-2.0-here\r\n")
    client.shutdown(socket.SHUT_WR)
    serving = gevent.spawn(mux, server)
    assert read_all(client) == b"SSH-2.0-there\r\nSSH-2.0-here\r\n"
    serving.get(timeout=5)
    assert server.trace == [
        f"mux 'mux': no route said YES to 14 bytes: fallback 'forward:{target}'",
        f"forward to {target}: 14 bytes there, 29 back",
    ]
    server.finish()
    client.finish()


def test_forward_as_the_silence_route_lets_the_server_speak_first(
    upstream: StreamServer, swept: Callable[..., None]
) -> None:
    server, client = MAKERS["tcp"]()
    swept(server)
    mux = Mux([], silence=forward_route(f"127.0.0.1:{upstream.server_port}"), sniff_timeout=0.05)
    serving = gevent.spawn(mux, server)
    assert client.recv() == b"SSH-2.0-there\r\n"
    client.close()
    serving.get(timeout=5)
    server.finish()


def test_forward_reaches_unix_sockets(tmp_path: Path) -> None:
    listener = gevent.socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "ssh.sock"))
    listener.listen()
    unix_server = StreamServer(listener, greet)
    unix_server.start()
    server, client = MAKERS["memory"]()
    serving = gevent.spawn(forward_route(f"unix:{tmp_path}/ssh.sock").handler, server)
    assert client.recv() == b"SSH-2.0-there\r\n"
    client.close()
    serving.get(timeout=5)
    server.close()
    unix_server.stop()
    listener.close()


def forward_to(address: str, resolver: Resolver = system_resolver, connect_timeout: float = 5.0) -> Forward:
    """A handler for one server, which is tried once."""
    options = UpstreamOptions(retries=0, connect_timeout=connect_timeout)
    settings = UpstreamSettings(name=address, servers=(UpstreamServerSettings(address=address),), options=options, is_named=False)
    return Forward(Only(Upstreams([settings], resolver=resolver).named(address)))


def test_a_server_that_cannot_be_reached_costs_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server, client = MAKERS["memory"]()
    with caplog.at_level(logging.WARNING):
        forward_to(f"127.0.0.1:{port}")(server)
    assert len(caplog.records) == 1
    assert f"cannot be forwarded to 127.0.0.1:{port}" in caplog.text
    assert "refused" in server.trace[0]
    server.close()
    client.close()


@contextmanager
def forwarding(forward: Forward) -> Iterator[Connection]:
    """The client's end of a connection that is forwarded."""
    server, client = MAKERS["memory"]()
    serving = gevent.spawn(forward, server)
    yield client
    client.close()
    serving.get(timeout=10)
    server.close()


@pytest.mark.parametrize("dead", ["127.0.0.2", "::1"])
def test_an_address_that_refuses_leaves_the_next_one(dead: str, upstream: StreamServer) -> None:
    names = zone({"two.example": [dead, "127.0.0.1"]})
    with forwarding(forward_to(f"two.example:{upstream.server_port}", names)) as client:
        assert client.recv() == b"SSH-2.0-there\r\n"


@pytest.mark.parametrize("silent", ["127.0.0.2", "::1"])
def test_an_address_that_is_silent_holds_up_nobody(silent: str, upstream: StreamServer) -> None:
    hole = BlackHole(silent, upstream.server_port)
    began = monotonic()
    names = zone({"two.example": [silent, "127.0.0.1"]})
    with forwarding(forward_to(f"two.example:{upstream.server_port}", names)) as client:
        assert client.recv() == b"SSH-2.0-there\r\n"
    assert monotonic() - began < UpstreamOptions().connect_timeout / 2
    hole.close()


def test_forward_reaches_an_address_with_a_zone() -> None:
    listening = socket_on("::1", 0)
    server = StreamServer(listening, greet)
    server.start()
    route = forward_route(f"[::1%lo]:{server.server_port}")
    assert isinstance(route.handler, Forward)
    with forwarding(route.handler) as client:
        assert client.recv() == b"SSH-2.0-there\r\n"
    server.stop()


def hanging(host: str, port: int) -> list[tuple[int, str]]:
    """A resolver whose name servers do not answer."""
    gevent.sleep(3600)
    return []


@pytest.mark.parametrize(
    ("host", "resolver", "failure"),
    [
        ("hanging.example", hanging, "resolve: hanging.example: no answer from the name servers in 0.05 s"),
        ("nowhere.example", zone({}), "resolve: nowhere.example: Name or service not known"),
        ("127.0.0.1", hanging, "connect: 127.0.0.1: no answer"),
        ("both.example", zone({"both.example": ["127.0.0.1", "127.0.0.2"]}), "connect: 127.0.0.2: Connection refused; 127.0.0.1: no answer"),
        ("127.0.0.2", hanging, "connect: 127.0.0.2: Connection refused"),
        ("fe80::1%gone0", hanging, "connect: fe80::1%gone0: No such device"),
    ],
)
def test_the_log_says_once_which_phase_failed(
    host: str, resolver: Resolver, failure: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lookup, "RESOLVE_TIMEOUT", 0.05)
    hole = BlackHole("127.0.0.1")
    server, client = MAKERS["memory"]()
    with caplog.at_level(logging.DEBUG):
        forward_to(join_host_port(host, hole.port), resolver, 0.6)(server)
    target = join_host_port(host, hole.port)
    said = [record.getMessage() for record in caplog.records]
    assert said == [f"connection {server.id} from {server.client} cannot be forwarded to {target}: {failure}"]
    assert server.trace == [f"forward to {target}: {failure}"]
    assert "\n" not in failure
    for each in (server, client, hole):
        each.close()


def test_resolving_and_connecting_share_one_deadline(caplog: pytest.LogCaptureFixture) -> None:
    hole = BlackHole("127.0.0.1")

    def slow(host: str, port: int) -> list[tuple[int, str]]:
        gevent.sleep(0.4)
        return [(socket.AF_INET, "127.0.0.1")]

    server, client = MAKERS["memory"]()
    began = monotonic()
    forward_to(f"slow.example:{hole.port}", slow, 0.6)(server)
    assert 0.59 < monotonic() - began < 0.95
    assert "connect: 127.0.0.1: no answer" in caplog.text
    for each in (server, client, hole):
        each.close()


def test_a_crowd_holds_only_one_of_the_threads_that_look_names_up() -> None:
    asked = 0

    def hangs(host: str, port: int) -> list[tuple[int, str]]:
        nonlocal asked
        asked += 1
        return hanging(host, port)

    forward = forward_to("hanging.example:22", hangs)
    pairs = [MAKERS["memory"]() for _ in range(50)]
    crowd = [gevent.spawn(forward, server) for server, _ in pairs]
    gevent.sleep(0.1)
    assert asked == 1
    gevent.killall(crowd)
    for pair in pairs:
        for each in pair:
            each.close()


def test_a_unix_socket_that_is_not_there_is_said_in_the_same_way(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    server, client = MAKERS["memory"]()
    forward_to(f"unix:{tmp_path}/none.sock")(server)
    assert caplog.records[0].getMessage().endswith(f"cannot be forwarded to unix:{tmp_path}/none.sock: connect: No such file or directory")
    server.close()
    client.close()


# Specifications


@pytest.mark.parametrize(
    ("spec", "address"),
    [
        ("forward:127.0.0.1:22", ("127.0.0.1", 22)),
        ("forward:[::1]:22", ("::1", 22)),
        ("forward:[fe80::1%eth0]:22", ("fe80::1%eth0", 22)),
        ("forward:ssh.example:2222", ("ssh.example", 2222)),
        ("forward:unix:/run/ssh.sock", "/run/ssh.sock"),
    ],
)
def test_forward_takes_an_address(spec: str, address: object) -> None:
    route = resolve(spec)
    assert route is not None
    assert isinstance(route.handler, Forward)
    chosen = route.handler.chosen
    assert isinstance(chosen, Only)
    assert [server.settings.place for server in chosen.upstream.servers] == [address]
    assert route.name == spec
    assert route.idle_timeout == 3600.0


@pytest.mark.parametrize(
    "target", ["", "a", "a:", ":22", "a:0", "a:65536", "a:b", "::1:22", "[a]:22", "unix:", "[::1]", "a:²", "a..b:22", "a b:22", "[fe80::1%]:22", "a%eth0:22"]
)
def test_forward_to_no_address_is_refused(target: str) -> None:
    with pytest.raises(OperatorError, match="expected forward:HOST:PORT"):
        resolve(f"forward:{target}")


def test_close_means_nobody() -> None:
    assert resolve("close") is None


def test_a_name_means_the_very_route_that_is_served() -> None:
    route = Route("redis", never, ignore, limit=1)
    assert resolve("redis", [route]) is route


def test_a_name_may_be_of_a_hijacker_that_is_not_served() -> None:
    registered = [Registered(EntryPoint("parrot", f"{__name__}:parrot", GROUP))]
    route = resolve("parrot", [], registered)
    assert route is not None
    assert route.handler is parrot


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(OperatorError, match="no route or hijacker is named 'redsi'; did you mean 'redis'"):
        resolve("redsi", [Route("redis", never, ignore)])
    with pytest.raises(OperatorError, match="cannot be loaded"):
        resolve("gone", [], [Registered(EntryPoint("gone", "no_such_module:x", GROUP))])
