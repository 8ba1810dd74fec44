"""The server's own routes, over a real socket: any cut of any bytes gives the same decision and the same bytes."""

import socket
from collections.abc import Iterator
from itertools import pairwise

import gevent
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import muxwsgi
from muxwsgi.mux.matchers import prefix, regex
from muxwsgi.mux.registry import discover
from muxwsgi.settings import CertificateFiles, ServerSettings
from muxwsgi.wire.connection import Connection
from muxwsgi.wire.tls.client_context import ClientContext
from tests.http.conftest import hello


def reporting(name: str) -> object:
    def report(connection: Connection) -> None:
        received = b""
        while data := connection.recv():
            received += data
        connection.sendall(name.encode() + b"|" + received)

    return report


upper = muxwsgi.hijack(match=prefix(b"UPPER "), name="upper")(reporting("upper"))  # type: ignore[type-var]
ssh = muxwsgi.hijack(match=regex(rb"SSH-2\.0-[^\r\n]*\r\n"), name="ssh")(reporting("ssh"))  # type: ignore[type-var]
mqtt = muxwsgi.hijack(match=prefix(b"\x10"), name="mqtt")(reporting("mqtt"))  # type: ignore[type-var]

STARTS = [b"UPPER text", b"SSH-2.0-OpenSSH_9\r\nrest", b"\x10\x0c\x00\x04MQTT", b"UPPE", b"SSH-1.0\r\n", b"\x00unknown"]
EXPECTED = {b"UPPER ": "upper", b"SSH-2.0-": "ssh", b"\x10": "mqtt"}


@pytest.fixture(scope="module", params=["plain", "tls"])
def server(request: pytest.FixtureRequest, make_certificate: object) -> Iterator[tuple[muxwsgi.Server, ClientContext | None]]:
    files: CertificateFiles = make_certificate()  # type: ignore[operator]
    bind = "127.0.0.1:0" if request.param == "plain" else f"127.0.0.1:0,certfile={files.certfile}"
    server = muxwsgi.Server(hello, binds=[bind], hijackers=[upper, ssh, mqtt], settings=ServerSettings())
    server.start()
    yield server, None if request.param == "plain" else ClientContext(ca_file=files.certfile)
    server.stop(graceful_timeout=0)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(start=st.sampled_from(STARTS), more=st.binary(max_size=40), cuts=st.lists(st.integers(0, 60), max_size=6))
def test_any_cut_of_any_bytes_reaches_the_same_hijacker_whole(
    server: tuple[muxwsgi.Server, ClientContext | None], start: bytes, more: bytes, cuts: list[int]
) -> None:
    running, tls = server
    host, _, port = running.addresses[0].rpartition(":")
    sent = start + more
    with gevent.Timeout(10):
        sock = gevent.socket.create_connection((host, int(port)))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = Connection.from_socket(sock)
        if tls is not None:
            connection = connection.start_tls(tls, server_hostname="localhost")
        edges = sorted({0, len(sent), *(cut for cut in cuts if cut < len(sent))})
        answer = b""
        try:
            for begin, end in pairwise(edges):
                connection.sendall(sent[begin:end])
                gevent.sleep(0)
            connection.shutdown(socket.SHUT_WR)
            while data := connection.recv():
                answer += data
        except OSError:
            pass  # nobody takes it: closed, with bytes unread
        connection.finish()
    wanted = [name for begin, name in EXPECTED.items() if sent.startswith(begin) and (name != "ssh" or b"\r\n" in sent)]
    if wanted:
        assert answer == wanted[0].encode() + b"|" + sent
    else:
        assert b"|" not in answer


def test_the_installed_hijackers_are_found() -> None:
    assert {"echo", "resp"} <= {plugin.name for plugin in discover()}

