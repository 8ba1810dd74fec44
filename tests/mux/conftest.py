"""Connected pairs, a sweeper that comes often, and a certificate."""

from collections.abc import Callable, Iterator
from time import monotonic

import gevent
import pytest

from muxwsgi.settings import CertificateFiles, TLSSettings
from muxwsgi.testing import connection_pair
from muxwsgi.wire.lifeline import Lifeline, sweep
from muxwsgi.wire.tls.client_context import ClientContext
from muxwsgi.wire.tls.development_certificate import development_certificate
from muxwsgi.wire.tls.server_context import ServerContext
from tests.pairs import Pair, tcp_pair, unix_pair

MAKERS: dict[str, Callable[[], Pair]] = {"memory": connection_pair, "tcp": tcp_pair, "unix": unix_pair}


@pytest.fixture(autouse=True)
def bounded() -> Iterator[None]:
    """No test waits for ever."""
    with gevent.Timeout(20):
        yield


@pytest.fixture(params=MAKERS)
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    """Both ends of a connection, closed afterwards."""
    ends = MAKERS[request.param]()
    yield ends
    for end in ends:
        end.finish()


@pytest.fixture
def swept() -> Iterator[Callable[..., None]]:
    """Registers connections with a sweeper that comes every 10 ms instead of every second."""
    lines: list[Lifeline] = []

    def run() -> None:
        while True:
            sweep(list(lines), monotonic())
            gevent.sleep(0.01)

    sweeper = gevent.spawn(run)
    yield lambda *connections: lines.extend(connection.lifeline for connection in connections)
    sweeper.kill()


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> CertificateFiles:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_DATA_HOME", str(tmp_path_factory.mktemp("data")))
        return development_certificate(["localhost"])


@pytest.fixture(scope="session")
def make_server_context(certificate: CertificateFiles) -> Callable[..., ServerContext]:
    """A context that offers the given ALPN ids."""
    return lambda *alpn: ServerContext(TLSSettings(certificates=(certificate,)), alpn=alpn)


@pytest.fixture(scope="session")
def make_client_context(certificate: CertificateFiles) -> Callable[..., ClientContext]:
    """A context that trusts the server's certificate and asks for the given ALPN ids."""
    return lambda *alpn: ClientContext(ca_file=certificate.certfile, alpn=alpn)
