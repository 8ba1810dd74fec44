"""What a hijacker from a package has of its server: TLS without a certificate of its own, a dict, a log, and word of the end."""

import logging
import socket
import ssl
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import gevent.event
import gevent.socket
import gevent.ssl
import pytest

from muxwsgi import Connection, HandshakeError, Mux, Route, Server, hijack
from muxwsgi.mux.matchers import prefix
from muxwsgi.settings import BindSettings, CertificateFiles
from muxwsgi.testing import connection_pair
from muxwsgi.wire.service import Service
from muxwsgi.wire.tls.server_context import ServerContext
from tests.waiting import until

Serve = Callable[..., tuple[Server, int]]


def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]


@pytest.fixture
def serve() -> Iterator[Serve]:
    servers = []

    def start(bind: BindSettings, *hijackers: Any) -> tuple[Server, int]:
        server = Server(app, [bind], hijackers)
        servers.append(server)
        server.start()
        return server, int(server.addresses[0].rpartition(":")[2])

    with gevent.Timeout(60):
        yield start
        for server in servers:
            server.stop(0.2)


def connect(port: int) -> Any:
    return gevent.socket.create_connection(("127.0.0.1", port))


def in_tls(sock: Any) -> Any:
    context = gevent.ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context.wrap_socket(sock)


def read_all(sock: Any) -> bytes:
    parts = []
    while data := sock.recv(65536):
        parts.append(data)
    return b"".join(parts)


# STARTTLS

#: What reads the command: each way of reading keeps bytes behind it in a buffer of its own.
READERS: dict[str, Callable[[Connection], Any]] = {
    "recv": lambda connection: connection.recv(9),
    "peek": lambda connection: (connection.peek(9), connection.recv(9))[1],
    "rb": lambda connection: connection.makefile("rb"),
    "r": lambda connection: connection.makefile("r"),
    "rwb": lambda connection: connection.makefile("rwb"),
}


def starttls_with(how: str, said: list[Any]) -> Any:
    @hijack(match=prefix(b"STARTTLS\n"), priority=1)
    def starttls(connection: Connection) -> None:
        read = READERS[how](connection)
        if hasattr(read, "readline"):
            assert read.readline() in ("STARTTLS\n", b"STARTTLS\n")
        connection.sendall(b"go ahead\n")
        try:
            inside = connection.start_tls()
        except HandshakeError as error:
            said.append(str(error))
            return
        if hasattr(read, "readline"):
            with pytest.raises((OSError, ValueError)) as caught:
                read.readline()
            said.append(caught.value)
        inside.sendall(inside.recv(100).upper())

    return starttls


@pytest.mark.parametrize("how", READERS)
@pytest.mark.parametrize("tls", ["off", "optional"])
def test_starttls_takes_the_certificate_of_the_bind(
    serve: Serve, make_certificate: Callable[[], CertificateFiles], how: str, tls: Any
) -> None:
    said: list[Any] = []
    bind = BindSettings(host="127.0.0.1", tls=tls, certificates=(make_certificate(),))
    _, port = serve(bind, starttls_with(how, said))
    client = connect(port)
    client.sendall(b"STARTTLS\n")
    assert client.recv(9) == b"go ahead\n"
    client = in_tls(client)
    client.sendall(b"hello")
    assert read_all(client) == b"HELLO"
    client.close()


@pytest.mark.parametrize("how", READERS)
def test_plain_text_behind_the_command_never_looks_like_something_in_tls(
    serve: Serve, make_certificate: Callable[[], CertificateFiles], how: str
) -> None:
    said: list[Any] = []
    bind = BindSettings(host="127.0.0.1", certificates=(make_certificate(),))
    _, port = serve(bind, starttls_with(how, said))
    client = connect(port)
    client.sendall(b"STARTTLS\nRCPT TO:<injected@example.org>\n")
    assert client.recv(9) == b"go ahead\n"
    if how != "r":  # the injected bytes are what TLS begins with, and no ClientHello
        until(lambda: said)
        assert said[0].startswith("[Errno 103] TLS handshake")
        return
    client = in_tls(client)  # a text file has decoded them: they are dropped
    client.sendall(b"hello")
    assert read_all(client) == b"HELLO"
    assert len(said) == 1
    client.close()


def test_a_client_that_sends_its_clienthello_with_the_command_is_served(
    serve: Serve, make_certificate: Callable[[], CertificateFiles]
) -> None:
    bind = BindSettings(host="127.0.0.1", certificates=(make_certificate(),))
    _, port = serve(bind, starttls_with("rb", []))
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    tls = context.wrap_bio(incoming, outgoing)
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    client = connect(port)
    client.sendall(b"STARTTLS\n" + outgoing.read())
    received = b""
    while len(received) < 9:
        received += client.recv(9 - len(received))
    while True:
        try:
            tls.do_handshake()
            break
        except ssl.SSLWantReadError:
            incoming.write(client.recv(65536))
    tls.write(b"hello")
    client.sendall(outgoing.read())
    while True:
        try:
            assert tls.read(100) == b"HELLO"
            break
        except ssl.SSLWantReadError:
            incoming.write(client.recv(65536))
    client.close()


def test_start_tls_says_what_it_takes(serve: Serve) -> None:
    server, client = connection_pair()
    with pytest.raises(TypeError, match=r"ServerContext.*as_socket"):
        server.start_tls(ssl.create_default_context())  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="--certfile"):
        server.start_tls()
    client.sendall(b"still there")
    assert server.recv() == b"still there"
    server.close()
    client.close()


# What is the author's own


def test_data_is_one_dict_for_all_layers(server_context: ServerContext, client_context: Any) -> None:
    server, client = connection_pair()
    server.data["user"] = "somebody"
    shaking = gevent.spawn(client.start_tls, client_context, server_hostname="localhost")
    inside = server.start_tls(server_context)
    assert inside.data == {"user": "somebody"} and inside.data is server.data
    assert client.data == {}
    inside.finish()
    shaking.get(timeout=5).finish()


def test_lines_of_a_connection_say_its_number_and_hijacker(caplog: pytest.LogCaptureFixture) -> None:
    def talk(connection: Connection) -> None:
        connection.log.warning("100%% of %s", "it")
        connection.log.info("nothing to format: 100%")

    server, client = connection_pair()
    client.sendall(b"x")
    with caplog.at_level(logging.INFO, "muxwsgi"):
        Mux([Route("talker", prefix(b"x"), talk)])(server)
    assert [record.getMessage() for record in caplog.records] == [
        f"connection {server.id} (talker): 100% of it",
        f"connection {server.id} (talker): nothing to format: 100%",
    ]
    assert [(record.connection, record.hijacker) for record in caplog.records] == [(server.id, "talker")] * 2  # type: ignore[attr-defined]
    assert server.route == "talker"
    server.close()
    client.close()


def test_handlers_are_told_that_the_server_stops(serve: Serve) -> None:
    said: list[str] = []

    @hijack(match=prefix(b"EVENT"), priority=1)
    def waits_for_it(connection: Connection) -> None:
        assert connection.recv(5) == b"EVENT" and not connection.draining.is_set()
        connection.sendall(b"ready")
        assert connection.draining.wait(20)
        connection.sendall(b"bye")

    @hijack(match=prefix(b"CALL "), priority=1)
    def is_called(connection: Connection) -> None:
        assert connection.recv(5) == b"CALL "
        woken = gevent.event.Event()
        connection.on_drain(lambda: said.append("before an error"))
        connection.on_drain(lambda: 1 / 0)
        connection.on_drain(woken.set)
        connection.sendall(b"ready")
        assert woken.wait(20)
        connection.sendall(b"bye")

    @hijack(match=prefix(b"OVER "), priority=1)
    def is_over(connection: Connection) -> None:
        assert connection.recv(5) == b"OVER "
        connection.on_drain(lambda: said.append("after the end"))
        connection.sendall(b"ready")

    server, port = serve(BindSettings(host="127.0.0.1"), waits_for_it, is_called, is_over)
    clients = []
    for first in (b"EVENT", b"CALL ", b"OVER "):
        client = connect(port)
        client.sendall(first)
        assert client.recv(5) == b"ready"
        clients.append(client)
    assert clients[2].recv(1) == b""
    until(lambda: server.connections == 2)
    server.stop(10)
    assert read_all(clients[0]) == b"bye"
    assert read_all(clients[1]) == b"bye"
    assert said == ["before an error"]
    for client in clients:
        client.close()


def test_a_greenlet_that_a_handler_spawned_dies_with_the_way_of_its_connection(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    @hijack(match=prefix(b"SPAWN"), priority=1)
    def spawns(connection: Connection) -> None:
        def fail() -> None:
            raise LookupError("in a grandchild")

        def reset() -> None:
            raise ConnectionResetError("by the peer")

        assert connection.recv(5) == b"SPAWN"
        gevent.joinall([gevent.spawn(gevent.spawn, fail), gevent.spawn(reset)])
        gevent.sleep(0.05)
        connection.sendall(b"done")

    _, port = serve(BindSettings(host="127.0.0.1"), spawns)
    client = connect(port)
    client.sendall(b"SPAWN")
    with caplog.at_level(logging.INFO, "muxwsgi"):
        assert read_all(client) == b"done"
    client.close()
    (record,) = caplog.records
    assert "route 'spawns' said YES" in record.getMessage() and record.exc_info is not None
    assert isinstance(record.exc_info[1], LookupError)
    assert gevent.get_hub().print_exception.__self__ is not gevent.get_hub()


def test_a_connection_without_a_server_never_drains() -> None:
    server, client = connection_pair()
    called: list[bool] = []
    server.on_drain(lambda: called.append(True))
    assert not server.draining.wait(0.01)
    server.lifeline.service = Service(server.draining)
    server.draining.set()
    until(lambda: called)
    server.close()
    client.close()


@pytest.fixture(scope="module")
def server_context(make_certificate: Callable[[], CertificateFiles]) -> ServerContext:
    from muxwsgi.settings import TLSSettings

    return ServerContext(TLSSettings(certificates=(make_certificate(),)))


@pytest.fixture(scope="module")
def client_context(make_certificate: Callable[[], CertificateFiles]) -> Any:
    from muxwsgi.wire.tls.client_context import ClientContext

    return ClientContext(ca_file=make_certificate().certfile)


def test_nothing_is_made_that_nobody_asked_for() -> None:
    left, right = socket.socketpair()
    server, client = Connection.from_socket(left), Connection.from_socket(right)
    client.sendall(b"x")
    assert server.recv() == b"x"
    server.finish()
    assert server._own is None
    client.close()
