"""A response that only the end of the connection delimits, and that is not whole, ends in a reset, whatever cut it. Under TLS there is no
close_notify either."""

import errno
import os
import signal
import socket
import ssl
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import gevent.socket
import gevent.ssl
import pytest

from muxwsgi import hijack
from muxwsgi.errors import Expired, PeerError
from muxwsgi.http.h1.h1 import HTTP1
from muxwsgi.mux.matchers import prefix
from muxwsgi.server.server import Server
from muxwsgi.settings import BindSettings, CertificateFiles, HTTPSettings, ServerSettings
from muxwsgi.testing import connection_pair
from muxwsgi.wire import sweeper
from tests.system.server_process import ServerProcess, insecure_context
from tests.waiting import until

GET10 = b"GET / HTTP/1.0\r\n\r\n"



class Half:
    """Sends half of its response, and does then what `then` says."""

    def __init__(self, then: Callable[[], Any]) -> None:
        self.then = then
        self.at_half = False
        self.environ: dict[str, Any] = {}

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        self.environ = environ
        start_response("200 OK", [("Content-Type", "text/plain")])
        yield b"half"
        self.at_half = True
        yield self.then()


def fail(error: BaseException) -> bytes:
    raise error


def interrupted_write() -> bytes:
    with gevent.Timeout(0.2):
        gevent.sleep(10)
    return b""


def stubborn() -> bytes:
    """An application that does not let itself be killed before it is asked twice."""
    try:
        gevent.sleep(60)
    except gevent.GreenletExit:
        pass
    raise RuntimeError("it was asked to go")


@pytest.fixture(params=["plain", "tls"])
def start(request: pytest.FixtureRequest, make_certificate: Callable[[], CertificateFiles]) -> Iterator[Callable[..., Any]]:
    """Starts a server, and returns it with a client that has asked it by HTTP/1.0."""
    servers: list[Server] = []
    clients: list[Any] = []

    def run(app: Any, ask: bytes = GET10, hijackers: Any = (), **http: Any) -> tuple[Server, Any]:
        more: dict[str, Any] = {}
        if request.param == "tls":
            more = {"tls": "required", "certificates": (make_certificate(),)}
        binds = (BindSettings(host="127.0.0.1", **more),)
        server = Server(app, hijackers=hijackers, settings=ServerSettings(binds=binds, http=HTTPSettings(**http)))
        server.start()
        servers.append(server)
        host, port = server.addresses[0].split(":")
        client: Any = gevent.socket.create_connection((host, int(port)), timeout=20)
        if request.param == "tls":
            trusting = gevent.ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            trusting.check_hostname = False
            trusting.verify_mode = ssl.CERT_NONE
            client = trusting.wrap_socket(client, suppress_ragged_eofs=False)
        clients.append(client)
        client.sendall(ask)
        return server, client

    yield run
    for client in clients:
        client.close()
    for server in servers:
        server.stop(graceful_timeout=0)


def read_to_the_end(client: Any) -> bytes:
    """All that comes, to a regular end."""
    received = b""
    while data := client.recv(1 << 16):
        received += data
    return received


def is_cut(client: Any) -> bool:
    """Whether the stream ends in a way that no client can take for the end of a message."""
    try:
        read_to_the_end(client)
    except (ConnectionResetError, ssl.SSLEOFError):
        return True
    return False


@pytest.mark.parametrize(
    "then",
    [
        lambda: fail(RuntimeError("the other half is not to be had")),
        lambda: fail(SystemExit(1)),
        lambda: fail(gevent.GreenletExit()),
        lambda: fail(OSError("a fault that is not the connection's")),
        interrupted_write,
    ],
    ids=["an error", "SystemExit", "GreenletExit", "OSError", "Timeout"],
)
def test_an_application_that_fails_in_the_middle_ends_in_a_reset(start: Callable[..., Any], then: Callable[[], bytes]) -> None:
    _, client = start(Half(then))
    assert is_cut(client)


@pytest.mark.parametrize("then", [lambda: gevent.sleep(60), stubborn], ids=["waits", "does not want to go"])
def test_what_a_drain_cuts_ends_in_a_reset(start: Callable[..., Any], then: Callable[[], bytes]) -> None:
    app = Half(then)
    server, client = start(app)
    until(lambda: app.at_half)
    server.stop(graceful_timeout=0)
    assert is_cut(client)


@pytest.mark.parametrize("way", ["plain", "as a socket"])
def test_a_hijacker_that_a_drain_cuts_ends_in_a_reset_behind_what_it_has_sent(start: Callable[..., Any], way: str) -> None:
    half = b"half" * 50_000
    at_half = False

    @hijack(match=prefix(b"HALF"), as_socket=way == "as a socket")
    def halves(stream: Any) -> None:
        nonlocal at_half
        stream.recv(4)
        stream.sendall(half)
        at_half = True
        gevent.sleep(60)

    server, client = start(Half(bytes), b"HALF", hijackers=[halves])
    until(lambda: at_half)
    stopping = gevent.spawn(server.stop, 0)
    gevent.sleep(0.1)  # the server has given up by then, and the client reads what it was sent before
    received = b""
    with pytest.raises((ConnectionResetError, ssl.SSLEOFError)):
        while data := client.recv(1 << 16):
            received += data
    assert received == half
    stopping.get()


@pytest.mark.parametrize("way", ["plain", "as a socket", "taken over"])
@pytest.mark.parametrize(
    ("error", "cut"),
    [
        (ConnectionResetError("of the server that it asks"), True),
        (TimeoutError("of the server that it asks"), True),
        (OSError(errno.EHOSTUNREACH, "the server that it asks"), True),
        (RuntimeError("a fault of its own"), True),
        (PeerError(400, "said to the peer"), False),
        (Expired("a limit of the connection"), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_hijacker_that_fails_in_the_middle_ends_in_a_reset(start: Callable[..., Any], way: str, error: Exception, cut: bool) -> None:
    @hijack(match=prefix(b"HALF"), as_socket=way == "as a socket")
    def halves(stream: Any) -> None:
        stream.recv(4)
        stream.sendall(b"half")
        gevent.sleep(0.1)
        raise error

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        stream = environ["muxwsgi.hijack"]()
        stream.sendall(b"half")
        gevent.sleep(0.1)
        raise error

    _, client = start(app, GET10 if way == "taken over" else b"HALF", hijackers=[halves])
    assert is_cut(client) == cut


def test_a_client_that_reads_too_slowly_gets_a_reset(start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeper, "INTERVAL", 0.05)
    app = Half(lambda: bytes(30_000_000))
    server, client = start(app, body_min_rate=100_000_000, body_rate_grace=0.2)
    until(lambda: app.at_half)
    until(lambda: not server.connections)
    assert is_cut(client)


def test_the_memory_of_what_nobody_reads_goes_with_its_connection(start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    # A FIN would wait behind megabytes in the kernel, for a client that never takes them.
    monkeypatch.setattr(sweeper, "INTERVAL", 0.05)

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        return [bytes(30_000_000)]

    server, client = start(app, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", body_min_rate=100_000_000, body_rate_grace=0.2)
    until(lambda: server.connections)
    until(lambda: not server.connections)
    assert is_cut(client)


def test_a_takeover_that_fails_ends_in_a_reset(start: Callable[..., Any]) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        environ["muxwsgi.hijack"]().sendall(b"HTTP/1.0 200 OK\r\n\r\nhalf")
        raise RuntimeError("the other half is not to be had")

    _, client = start(app)
    assert is_cut(client)


def test_a_whole_response_ends_as_it_should(start: Callable[..., Any]) -> None:
    _, client = start(Half(lambda: b" and half"))
    assert read_to_the_end(client).endswith(b"half and half")


def test_a_whole_response_by_write_ends_as_it_should(start: Callable[..., Any]) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        write = start_response("200 OK", [])
        write(b"half")
        write(b" and half")
        return []

    _, client = start(app)
    assert read_to_the_end(client).endswith(b"half and half")


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_even_a_server_that_dies_leaves_no_half_response_that_looks_whole(tls: bool) -> None:
    with ServerProcess("tests.system.half_app", tls=tls) as server:
        with server.connect() as sock:
            client = insecure_context().wrap_socket(sock, suppress_ragged_eofs=False) if tls else sock
            client.sendall(GET10)
            while b"half" not in client.recv(1 << 16):
                pass
            worker = server.worker_pid
            os.kill(worker, signal.SIGSTOP)
            os.kill(worker, signal.SIGKILL)
            assert is_cut(client)


def test_in_memory_a_cut_response_is_a_reset_too() -> None:
    server, client = connection_pair()
    serving = gevent.spawn(HTTP1(Half(lambda: fail(RuntimeError("no"))), HTTPSettings(server_header="")), server)
    client.sendall(GET10)
    client.shutdown(socket.SHUT_WR)
    serving.join()
    server.finish()
    assert b"half" in client.recv()
    with pytest.raises(ConnectionResetError):
        client.recv()
    client.finish()
