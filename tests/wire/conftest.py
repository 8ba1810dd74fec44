"""Connected pairs over every transport there is: each behaviour of `Connection` is checked on all of them."""

from collections.abc import Callable, Iterator
from pathlib import Path

import gevent
import pytest

from muxwsgi.settings import CertificateFiles, TLSSettings
from muxwsgi.testing import connection_pair
from muxwsgi.wire.connection import Connection
from muxwsgi.wire.lifeline import sweep
from muxwsgi.wire.tls.client_context import ClientContext
from muxwsgi.wire.tls.server_context import ServerContext
from tests.pairs import Pair, tcp_pair, unix_pair

PairMaker = Callable[[], Pair]

PLAIN = ["tcp", "unix", "memory"]
LAYERED = ["tls", "tls-over-read-ahead", "tls-over-memory", "tls-in-tls"]
KINDS = PLAIN + LAYERED


@pytest.fixture(scope="session")
def certificate(make_certificate: Callable[[], CertificateFiles]) -> CertificateFiles:
    return make_certificate()


@pytest.fixture(scope="session")
def server_context(certificate: CertificateFiles) -> ServerContext:
    return ServerContext(TLSSettings(certificates=(certificate,)), alpn=("http/1.1",))


@pytest.fixture(scope="session")
def client_context(certificate: CertificateFiles) -> ClientContext:
    return ClientContext(ca_file=certificate.certfile)


@pytest.fixture
def make_pair(server_context: ServerContext, client_context: ClientContext, tmp_path: Path) -> Iterator[Callable[[str], Pair]]:
    """Makes a pair (server's end, client's end) of the named kind; whatever is made is closed at the end."""
    made: list[Connection] = []

    def with_tls(pair: Pair) -> Pair:
        client = gevent.spawn(pair[1].start_tls, client_context, server_hostname="localhost")
        server = pair[0].start_tls(server_context)
        return server, client.get(timeout=10)

    def make(kind: str) -> Pair:
        match kind:
            case "tcp":
                pair = tcp_pair()
            case "unix":
                pair = unix_pair()
            case "memory":
                pair = connection_pair()
            case "tls":
                pair = with_tls(tcp_pair())
            case "tls-over-read-ahead":
                pair = tcp_pair()
                client = gevent.spawn(pair[1].start_tls, client_context, server_hostname="localhost")
                assert pair[0].peek(1) == b"\x16"
                pair = pair[0].start_tls(server_context), client.get(timeout=10)
            case "tls-over-memory":
                pair = with_tls(connection_pair())
            case "tls-in-tls":
                pair = with_tls(with_tls(tcp_pair()))
            case _:
                raise AssertionError(kind)
        made.extend(pair)
        return pair

    yield make
    for connection in made:
        connection.finish()


@pytest.fixture(params=KINDS)
def pair(request: pytest.FixtureRequest, make_pair: Callable[[str], Pair]) -> Pair:
    return make_pair(request.param)


@pytest.fixture
def swept() -> Iterator[Callable[..., None]]:
    """Registers connections with a sweeper that comes every 10 ms."""
    lines = []

    def run() -> None:
        from time import monotonic

        while True:
            sweep(list(lines), monotonic())
            gevent.sleep(0.01)

    sweeper = gevent.spawn(run)
    yield lambda *connections: lines.extend(connection.lifeline for connection in connections)
    sweeper.kill()
