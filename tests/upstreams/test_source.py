"""The client's address as the source, in network namespaces: it needs root."""

import socket
from collections.abc import Iterator
from typing import Any

import gevent
import gevent.socket
import pytest

from muxwsgi.dial import happy_eyeballs
from muxwsgi.wire.plain_socket import PlainSocket
from tests.mux.conftest import bounded
from tests.pairs import tcp_pair
from tests.proxy.doors.netns import CLIENT, SERVER, Lab

from .servers import Named, said, session_of, upstream_of

__all__ = ["bounded"]

FAMILIES = [socket.AF_INET, socket.AF_INET6]


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab() as lab:
        # Answers to sockets that have a client's address are for this machine.
        lab.router.nft("""
            table inet sources {
                chain arriving {
                    type filter hook prerouting priority mangle
                    meta l4proto tcp socket transparent 1 meta mark set 1 accept
                }
            }
        """)
        yield lab


@pytest.fixture
def on_the_router(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections to servers are made there."""

    def make(family: int, kind: int) -> socket.socket:
        with lab.router.entered():
            return PlainSocket(family, kind)

    monkeypatch.setattr(happy_eyeballs, "PlainSocket", make)


@pytest.mark.usefixtures("on_the_router")
@pytest.mark.parametrize("family", FAMILIES)
def test_the_server_sees_the_address_and_the_port_of_the_client(lab: Lab, family: int) -> None:
    listening = lab.server.listen(SERVER[family])
    port = listening.getsockname()[1]
    accepting = gevent.socket.socket(fileno=listening.detach())
    address = f"[{SERVER[family]}]:{port}" if family == socket.AF_INET6 else f"{SERVER[family]}:{port}"
    ours, theirs = tcp_pair()
    ours.client = (CLIENT[family], 45678)

    def opened(expected_port: int | None) -> tuple[Any, Any]:
        session = upstream.open(ours)
        assert session.connection is not None
        session.connection.sendall(b"hello")
        sock, peer = accepting.accept()
        assert sock.recv(100) == b"hello"
        sock.sendall(b"and back")
        assert session.connection.recv() == b"and back"
        assert peer[0] == CLIENT[family]
        assert (peer[1] == 45678) is (expected_port is not None)
        return session, sock

    with upstream_of(address, source="client", retries=0) as upstream:
        held = [opened(45678), opened(None)]  # the second finds the port taken, and keeps the address
        for session, sock in held:
            session.end()
            session.connection.finish()
            sock.close()
    for each in (ours, theirs, accepting):
        each.close()


def test_a_fixed_source_is_used() -> None:
    listening = gevent.socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen()
    ours, theirs = tcp_pair()
    with (
        upstream_of(f"127.0.0.1:{listening.getsockname()[1]}", source="127.0.0.9") as upstream,
        session_of(upstream, ours),
    ):
        sock, peer = listening.accept()
        assert peer[0] == "127.0.0.9"
        sock.close()
    for each in (ours, theirs, listening):
        each.close()


def test_a_client_of_another_family_is_not_forwarded() -> None:
    with Named("a") as a, upstream_of(a, source="client", retries=0) as upstream:
        assert said(upstream, "2001:db8::1") == "connect: 127.0.0.1: no source address of this family is set"
