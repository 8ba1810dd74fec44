"""SOCKS over real sockets, and with curl."""

import math
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
import gevent.socket
import gevent.subprocess
import pytest

from muxwsgi import Server
from muxwsgi.proxy.doors.access import Access, one_user
from muxwsgi.proxy.doors.socks import SocksDoor
from muxwsgi.settings import BindSettings, CertificateFiles, ServerSettings
from muxwsgi.wire.connection import Connection
from muxwsgi.wire.tls.client_context import ClientContext
from tests.proxy.doors.conftest import Tunnels, page
from tests.proxy.doors.socks_client import ANN, GREETING, request4, request5
from tests.tls.authority import Authority

Open = Callable[..., tuple[str, int]]


@pytest.fixture
def curl() -> Callable[..., "gevent.subprocess.CompletedProcess[str]"]:
    def run(*arguments: str) -> "gevent.subprocess.CompletedProcess[str]":
        return gevent.subprocess.run(["curl", "-sS", "-m", "20", "--noproxy", "", *arguments], capture_output=True, text=True, timeout=30)

    return run


@pytest.mark.parametrize(
    ("scheme", "name"), [("socks4", "127.0.0.1"), ("socks4a", "name.test"), ("socks5", "127.0.0.1"), ("socks5h", "name.test")]
)
def test_curl_fetches_a_page(scheme: str, name: str, door: Open, web: int, tunnels: Tunnels, curl: Any) -> None:
    host, port = door()
    done = curl("--proxy", f"{scheme}://{host}:{port}", f"http://{name}:{web}/")
    assert done.stdout == f"the page of {name}:{web}\n", done.stderr
    assert tunnels.seen == [(scheme[:6], (name, web), None)]


def test_curl_says_a_user_and_a_password(door: Open, web: int, tunnels: Tunnels, curl: Any) -> None:
    host, port = door(ANN)
    proxy = "--proxy", f"socks5h://{host}:{port}", f"http://127.0.0.1:{web}/"
    assert curl("--proxy-user", "ann:pass word:1", *proxy).returncode == 0
    assert tunnels.seen == [("socks5", ("127.0.0.1", web), "ann")]
    assert curl("--proxy-user", "ann:wrong", *proxy).returncode == 97  # CURLE_PROXY
    assert curl(*proxy).returncode == 97
    assert len(tunnels.seen) == 1


def test_curl_learns_that_nobody_answers(door: Open, curl: Any) -> None:
    host, port = door()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        done = curl("--proxy", f"socks5h://{host}:{port}", f"http://127.0.0.1:{taken.getsockname()[1]}/")
    assert done.returncode == 97
    assert "(5)" in done.stderr  # the reply's number


def test_http_is_served_on_the_same_port(door: Open, curl: Any) -> None:
    host, port = door()
    assert curl(f"http://{host}:{port}/").stdout == f"the page of {host}:{port}\n"


@pytest.fixture
def client(door: Open) -> Iterator["gevent.socket.socket"]:
    with gevent.socket.create_connection(door(), 10) as sock:
        yield sock


def test_a_reply_is_read_by_a_client_that_had_already_sent_more(client: "gevent.socket.socket", web: int) -> None:
    client.sendall(GREETING + request5("example.com", 443, 3) + b"more than is read" * 100)
    answer = b""
    while data := client.recv(100):
        answer += data
    assert answer == b"\x05\x00\x05\x07\x00\x01" + bytes(6)


def test_who_is_slow_to_say_where_to_is_dropped(door: Open) -> None:
    with gevent.socket.create_connection(door(handshake_timeout=0.1), 10) as client:
        client.sendall(GREETING)
        assert client.recv(2) == b"\x05\x00"
        client.sendall(b"\x05\x01\x00")
        assert client.recv(1) == b""


@pytest.mark.parametrize(
    "message", [GREETING + request5("example.com", 443), request4("example.com", 443, b"ann"), request4("192.0.2.1", 443)]
)
def test_what_follows_the_request_is_left_in_the_kernel(message: bytes, door: Open) -> None:
    """So TLS in the tunnel may have the descriptor."""
    ahead = []

    def opens(connection: Connection, _door: Any, _destination: Any, reply: Any) -> None:
        reply(None)
        sock, read = connection.detach()
        ahead.append(read)
        with sock:
            sock.sendall(b"heard " + sock.recv(100))

    with gevent.socket.create_connection(door(open=opens), 10) as client:
        client.sendall(message + b"\x16\x03\x01")
        answer = b""
        while data := client.recv(100):
            answer += data
    assert answer.endswith(b"heard \x16\x03\x01")
    assert ahead == [b""]


@pytest.mark.parametrize("message", [GREETING + request5("127.0.0.1", 0)[:-2], request4("127.0.0.1", 0)])
def test_a_client_certificate_lets_socks_in_without_a_password(message: bytes, tmp_path: Path, tunnels: Tunnels, web: int) -> None:
    authority = Authority(tmp_path)
    bind = BindSettings(host="127.0.0.1", tls="required", certificates=(authority.leaf("localhost"),))
    settings = ServerSettings(client_certificates="optional", client_ca=authority.root)
    entrance = SocksDoor(Access(one_user("ann", "x"), client_certificates=True), tunnels.open)
    server = Server(page, [bind], entrance.routes(), settings=settings)
    server.start()
    port = int(server.addresses[0].rpartition(":")[2])
    message = message + struct.pack("!H", web) if message[0] == 5 else message[:2] + struct.pack("!H", web) + message[4:]

    def ask(certificate: CertificateFiles | None) -> bytes:
        context = ClientContext(
            ca_file=authority.root, certfile=certificate and certificate.certfile, keyfile=certificate and certificate.keyfile
        )
        outside = Connection.from_socket(gevent.socket.create_connection(("127.0.0.1", port), 10))
        inside = outside.start_tls(context, server_hostname="localhost")
        inside.sendall(message + b"GET / HTTP/1.1\r\nHost: inside\r\nConnection: close\r\n\r\n")
        answer = b""
        while data := inside.recv():
            answer += data
        inside.finish()
        return answer

    try:
        assert ask(authority.leaf("ann.test")).endswith(b"the page of inside\n")
        assert tunnels.seen == [("socks5" if message[0] == 5 else "socks4", ("127.0.0.1", web), "ann.test")]
        assert ask(None) in (b"\x05\xff", b"\x00\x5b" + bytes(6))
    finally:
        server.stop(0)


def test_a_request_that_drips_into_a_socket_leaves_it_in_order() -> None:
    """Without a mux that has waited for all of it."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        client = gevent.socket.create_connection(listening.getsockname(), 10)
        accepted, _ = listening.accept()
    heard = []

    def opens(connection: Connection, _door: Any, _destination: Any, reply: Any) -> None:
        reply(None)
        heard.append(connection.deadline)
        heard.append(connection.recv(100))

    connection = Connection.from_socket(accepted)
    serving = gevent.spawn(SocksDoor(Access(), opens).serve_socks4, connection)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for byte in request4("example.com", 443, b"ann"):
        client.sendall(bytes((byte,)))
        gevent.sleep(0.001)
    assert client.recv(8) == b"\x00\x5a" + bytes(6)
    client.sendall(b"x")
    serving.get(timeout=10)
    assert heard == [math.inf, b"x"]  # the tunnel has its own deadlines, and one byte wakes its reader
    client.close()
    connection.finish()
