"""A descriptor has one owner: what a library does with `fileno()` and `detach()` never reaches another client's connection."""

import errno
import gc
import select
import selectors
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import gevent.socket
import gevent.ssl
import pytest

from muxwsgi import Connection, Server, hijack
from muxwsgi.mux.matchers import prefix
from muxwsgi.settings import CertificateFiles, ServerSettings

GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    start_response("200 OK", [("Content-Length", "5")])
    return [b"hello"]


class Wrapper:
    """Does STARTTLS as the standard library has it: `SSLContext.wrap_socket`, with the ssl module that it is given."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self.context = context
        self.failures: list[tuple[int | None, str]] = []
        self.ended = 0

    def __call__(self, connection: Connection) -> None:
        try:
            assert connection.recv(4) == b"WRAP"
            connection.sendall(b"go ahead")
            try:
                with self.context.wrap_socket(connection, server_side=True) as wrapped:  # type: ignore[call-overload]
                    wrapped.sendall(wrapped.recv(100).upper())
            except OSError as error:
                self.failures.append((error.errno, str(error)))
            if self.failures:
                gc.collect()  # what the library made and could not finish is gone
                connection.sendall(b"plain again")
        finally:
            self.ended += 1


@pytest.fixture(params=["tcp", "tls"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def serve(kind: str, make_certificate: Callable[[], CertificateFiles]) -> Iterator[Callable[..., tuple[str, int]]]:
    """Starts a server of these hijackers; its address."""
    servers = []

    def start(*hijackers: Any) -> tuple[str, int]:
        tls = f",certfile={make_certificate().certfile}" if kind == "tls" else ""
        server = Server(app, [f"127.0.0.1:0{tls}"], hijackers=hijackers, settings=ServerSettings())
        servers.append(server)
        server.start()
        host, _, port = server.addresses[0].rpartition(":")
        return host, int(port)

    with gevent.Timeout(60):
        yield start
        for server in servers:
            server.stop(0.2)


@pytest.fixture
def connect(kind: str) -> Callable[[tuple[str, int]], Any]:
    context = gevent.ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE

    def open_to(address: tuple[str, int]) -> Any:
        sock = gevent.socket.create_connection(address)
        return context.wrap_socket(sock) if kind == "tls" else sock

    return open_to


def read_exactly(sock: Any, n: int) -> bytes:
    data = b""
    while len(data) < n:
        part = sock.recv(n - len(data))
        assert part, f"the stream ended after {data!r}"
        data += part
    return data


def get(sock: Any) -> bytes:
    sock.sendall(GET)
    answer = b""
    while not answer.endswith(b"hello"):
        part = sock.recv(1000)
        assert part, answer
        answer += part
    return answer


def test_another_clients_connection_never_gets_bytes_of_one_that_a_library_wrapped(
    serve: Callable[..., tuple[str, int]],
    connect: Callable[[tuple[str, int]], Any],
    kind: str,
    make_certificate: Callable[[], CertificateFiles],
) -> None:
    context = gevent.ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(make_certificate().certfile, make_certificate().keyfile)
    wrapper = Wrapper(context)
    address = serve(hijack(match=prefix(b"WRAP"), name="wrap", priority=1)(wrapper))
    inside = gevent.ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    inside.check_hostname = False
    inside.verify_mode = ssl.CERT_NONE
    for turn in range(4):
        first = connect(address)
        first.sendall(b"WRAP")
        assert read_exactly(first, 8) == b"go ahead"
        if kind == "tls":  # refused in words, and the connection goes on as it was
            assert read_exactly(first, 11) == b"plain again"
            assert wrapper.failures[turn][0] == errno.EOPNOTSUPP and "as_socket()" in wrapper.failures[turn][1]
        else:
            first = inside.wrap_socket(first)
        kept = connect(address)  # its descriptor is the lowest free number: the first client's, were that closed under it
        assert get(kept).startswith(b"HTTP/1.1 200 ")
        if kind == "tcp":
            first.sendall(b"secret")
            assert read_exactly(first, 6) == b"SECRET"
        first.close()
        while wrapper.ended <= turn:
            gevent.sleep(0.01)
        gc.collect()
        for _ in range(2):
            assert get(kept).startswith(b"HTTP/1.1 200 ")
        assert not select.select([kept], [], [], 0)[0]
        kept.close()
    assert kind == "tls" or wrapper.failures == []


def test_code_that_polls_or_inherits_a_descriptor_is_told_where_it_would_not_be_the_stream(
    serve: Callable[..., tuple[str, int]], connect: Callable[[tuple[str, int]], Any], kind: str
) -> None:
    said: list[str] = []

    @hijack(match=prefix(b"POLL"), priority=1)
    def polls(connection: Connection) -> None:
        connection.peek(8)  # read-ahead, as detection makes it on unix sockets

        def register() -> None:
            with selectors.DefaultSelector() as selector:
                selector.register(connection, selectors.EVENT_READ)

        for use in (
            connection.fileno,
            lambda: select.select([connection], [], [], 0),
            register,
            lambda: subprocess.run([sys.executable, "-c", "print('plain text')"], stdout=connection, check=True),  # type: ignore[call-overload]
            lambda: socket.socket(fileno=connection.fileno()),
        ):
            try:
                use()
            except OSError as error:
                said.append(str(error))
        gc.collect()
        assert connection.descriptor() > 0
        assert connection.recv(100) == b"POLLpoll"
        if kind == "tcp":
            assert connection.fileno() == connection.descriptor()
        connection.sendall(b"done")

    client = connect(serve(polls))
    client.sendall(b"POLLpoll")
    assert read_exactly(client, 4) == b"done"
    assert client.recv(1) == b""
    assert len(said) == 5 and all("as_socket()" in line for line in said)


def test_a_detached_socket_is_closed_by_its_one_owner() -> None:
    left, right = socket.socketpair()
    near, far = Connection.from_socket(left), Connection.from_socket(right)
    number = near.fileno()
    near.detach()  # dropped, as ssl does it: the number is the caller's now
    gc.collect()
    with socket.socket(fileno=number) as owner:
        owner.sendall(b"mine")
        assert far.recv(4) == b"mine"
    assert far.recv(1) == b""

    again, other = (Connection.from_socket(sock) for sock in socket.socketpair())
    again.fileno()
    sock, ahead = again.detach()
    assert ahead == b""
    sock.close()
    assert other.recv(1) == b""

    untold, peer = (Connection.from_socket(sock) for sock in socket.socketpair())
    untold.detach()
    gc.collect()
    assert peer.recv(1) == b"", "nobody but the socket knows the descriptor: it is closed with it"
    for connection in (far, other, peer):
        connection.close()
