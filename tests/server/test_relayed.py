"""Relayed connections of a server have no greenlet, and are served connections all the same: counted, limited, drained, cut."""

import gc
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gevent
import gevent.socket
import pytest
from gevent.server import StreamServer

import muxwsgi
from muxwsgi.hijackers.forward import Forward, forward_route
from muxwsgi.mux.matchers import prefix
from muxwsgi.mux.route import Route
from muxwsgi.mux.slots import Slots
from muxwsgi.settings import MuxSettings, ServerSettings
from muxwsgi.wire.acceptor import ConnectionGreenlet
from muxwsgi.wire.connection import Connection
from muxwsgi.wire.relay_engine import engine_here
from tests.system.server_process import ServerProcess
from tests.waiting import until

APP = "tests.system.forking_app"


def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    start_response("200 OK", [("Content-Length", "5")])
    return [b"hello"]


def parrot(sock: "gevent.socket.socket", address: object) -> None:
    try:
        while data := sock.recv(65536):
            sock.sendall(data)
    except OSError:
        pass
    sock.close()


@pytest.fixture
def upstream() -> Iterator[StreamServer]:
    server = StreamServer(("127.0.0.1", 0), parrot)
    server.start()
    yield server
    server.stop()


@contextmanager
def running(upstream: StreamServer, limit: int | None = None, **settings: Any) -> Iterator[muxwsgi.Server]:
    route = Route("parrot", prefix(b"!"), forward_route(f"127.0.0.1:{upstream.server_port}").handler, limit=limit)
    server = muxwsgi.Server(app, ["127.0.0.1:0"], [route], settings=ServerSettings(**settings))
    server.start()
    try:
        with gevent.Timeout(30):
            yield server
    finally:
        server.stop(0)
        assert engine_here().pairs == 0


def connect(server: muxwsgi.Server, first: bytes = b"!hello") -> "gevent.socket.socket":
    host, _, port = server.addresses[0].rpartition(":")
    sock = gevent.socket.create_connection((host, int(port)), timeout=10)
    sock.sendall(first)
    return sock


def relayed(server: muxwsgi.Server) -> "gevent.socket.socket":
    sock = connect(server)
    assert sock.recv(100) == b"!hello"
    return sock


def slots(server: muxwsgi.Server) -> Slots:
    return next(route for route in server.routes if route.name == "parrot").slots


def serving_greenlets() -> int:
    return sum(1 for each in gc.get_objects() if isinstance(each, ConnectionGreenlet) and not each.dead)


def test_a_relayed_connection_has_no_greenlet_and_is_counted(upstream: StreamServer) -> None:
    with running(upstream) as server:
        events: list[tuple[str, Any]] = []
        server.events.subscribe(
            stream=lambda connection, seconds: events.append(("stream", (connection.bytes_received, connection.bytes_sent))),
            closed=lambda connection, error: events.append(("closed", error)),
        )
        sock = relayed(server)
        until(lambda: serving_greenlets() == 0)
        assert server.connections == 1 and slots(server).taken == 1
        assert events == []
        sock.sendall(b"more")
        assert sock.recv(10) == b"more"
        sock.close()
        until(lambda: server.connections == 0)
        assert slots(server).taken == 0
        assert events == [("stream", (10, 10)), ("closed", None)]


def test_the_limit_of_a_route_counts_relays(upstream: StreamServer) -> None:
    with running(upstream, limit=2) as server:
        first, second = relayed(server), relayed(server)
        with pytest.raises(ConnectionResetError):  # its first bytes were not read
            connect(server).recv(10)
        first.close()
        until(lambda: slots(server).taken == 1)
        relayed(server).close()
        second.close()


def test_what_a_client_may_have_counts_relays(upstream: StreamServer) -> None:
    with running(upstream, mux=MuxSettings(limit_per_client=1)) as server:
        first = relayed(server)
        until(lambda: serving_greenlets() == 0)
        with pytest.raises(ConnectionResetError):
            connect(server).recv(10)
        first.close()
        until(lambda: server.connections == 0)
        relayed(server).close()


def test_max_connections_counts_relays(upstream: StreamServer) -> None:
    with running(upstream, max_connections=1) as server:
        first = relayed(server)
        second = connect(server)
        second.settimeout(0.2)
        with pytest.raises(TimeoutError):
            second.recv(10)
        first.close()
        second.settimeout(10)
        assert second.recv(10) == b"!hello"
        second.close()


def test_a_client_that_resets_is_told_to_the_upstream_and_the_log(upstream: StreamServer) -> None:
    with running(upstream) as server:
        traces: list[list[str]] = []
        server.events.subscribe(closed=lambda connection, error: traces.append(connection.trace))
        sock = relayed(server)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        sock.close()
        until(lambda: traces)
        assert "6 bytes there, 6 back, ended by [Errno 104]" in traces[0][-1]


def test_a_relay_is_cut_by_its_number(upstream: StreamServer) -> None:
    with running(upstream) as server:
        errors: list[Any] = []
        server.events.subscribe(closed=lambda connection, error: errors.append(error))
        sock = relayed(server)
        (line,) = server.live
        assert isinstance(line.top, Connection)
        assert server.cut(line.top.id)
        with pytest.raises(ConnectionResetError):
            sock.recv(10)
        until(lambda: errors)
        assert isinstance(errors[0], muxwsgi.errors.Cut)
        assert server.connections == 0


def test_the_session_of_an_upstream_lasts_as_long_as_the_relay_and_ends_it_when_it_is_cut(upstream: StreamServer) -> None:
    with running(upstream) as server:
        forward = next(route for route in server.routes if route.name == "parrot").handler
        assert isinstance(forward, Forward)
        sock, other = relayed(server), relayed(server)
        (line, _) = server.live
        assert isinstance(line.top, Connection)
        sessions = forward.chosen(line.top).servers[0].state.sessions
        assert len(sessions) == 2
        other.close()
        until(lambda: len(sessions) == 1)
        (session,) = sessions
        session.cut()
        with pytest.raises(ConnectionResetError):
            sock.recv(10)
        until(lambda: not sessions)


def test_a_stop_waits_for_relays_and_cuts_those_that_last(upstream: StreamServer) -> None:
    with running(upstream, graceful_timeout=60.0) as server:
        ending, lasting = relayed(server), relayed(server)
        stopping = gevent.spawn(server.stop, 1.0)
        gevent.sleep(0.2)
        ending.sendall(b"goes on")
        assert ending.recv(10) == b"goes on"
        ending.close()
        with pytest.raises(ConnectionResetError):
            lasting.recv(10)
        stopping.get(timeout=10)
        assert server.connections == 0


def test_a_relay_goes_on_over_a_swap_and_is_cut_with_its_composition(upstream: StreamServer) -> None:
    with running(upstream, graceful_timeout=0.5) as server:
        old = relayed(server)
        server.swap(app)
        old.sendall(b"still")
        assert old.recv(10) == b"still"
        with pytest.raises(ConnectionResetError):
            old.recv(10)


def test_a_hijacker_that_forwards_inside_of_itself_gets_the_connection_back(upstream: StreamServer) -> None:
    forward = forward_route(f"127.0.0.1:{upstream.server_port}").handler

    @muxwsgi.hijack(match=prefix(b"!"))
    def around(connection: Connection) -> None:
        forward(connection)
        connection.sendall(b" and goodbye")

    server = muxwsgi.Server(app, ["127.0.0.1:0"], [around])
    server.start()
    try:
        sock = relayed(server)
        sock.shutdown(socket.SHUT_WR)
        with gevent.Timeout(10):
            assert sock.recv(100) == b""  # the end of the upstream was passed on, so nothing more can be sent
        until(lambda: server.connections == 0)
    finally:
        server.stop(0)


class Upstream:
    """A server in threads, for tests with processes: says everything back."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        try:
            while data := sock.recv(65536):
                sock.sendall(data)
        except OSError:
            pass
        finally:
            sock.close()

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def echo() -> Iterator[Upstream]:
    upstream = Upstream()
    yield upstream
    upstream.close()


def test_a_process_that_the_application_forks_does_not_disturb_relays(echo: Upstream) -> None:
    with ServerProcess(APP, f"--fallback=forward:{echo.address}") as server:
        with server.connect() as sock:
            sock.sendall(b"\0 first")
            assert sock.recv(100) == b"\0 first"
            for view in ("process", "fork_and_return", "subprocess", "pool"):
                assert server.get(f"/{view}", timeout=60)[0] == 200
                sock.sendall(view.encode())
                assert sock.recv(100) == view.encode()
            sock.shutdown(socket.SHUT_WR)
            assert sock.recv(10) == b""
        assert server.tracebacks() == []


def test_redis_cli_pipes_and_reads_through_a_relay(tmp_path: Path) -> None:
    path = tmp_path / "redis.sock"
    redis = subprocess.Popen(["redis-server", "--port", "0", "--unixsocket", str(path), "--save", ""], stdout=subprocess.DEVNULL)
    try:
        until(path.exists)
        with ServerProcess(APP, f"--fallback=forward:unix:{path}") as server:
            server.get("/hello")
            command = ["redis-cli", "-h", "127.0.0.1", "-p", str(server.port)]
            value = os.urandom(1_000_000).hex()
            done = subprocess.run([*command, "-x", "SET", "large"], input=value, capture_output=True, text=True, timeout=60)
            assert done.stdout == "OK\n", done
            assert subprocess.run([*command, "GET", "large"], capture_output=True, text=True, timeout=60).stdout == value + "\n"
            protocol = "".join(f"*3\r\n$3\r\nSET\r\n$6\r\n{n:06}\r\n$1\r\nx\r\n" for n in range(5000))
            done = subprocess.run([*command, "--pipe"], input=protocol, capture_output=True, text=True, timeout=60)
            assert "errors: 0, replies: 5000" in done.stdout, done
            assert server.tracebacks() == []
    finally:
        redis.terminate()
        redis.wait(10)
