"""Libraries that poll a descriptor, hand it to a process, or use it in a thread serve a connection that `as_socket=True` gives them."""

import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import pytest

from muxwsgi.settings import CertificateFiles
from tests.system.server_process import insecure_context

rpyc = pytest.importorskip("rpyc")
client = pytest.importorskip("websockets.sync.client")

LARGE = bytes(range(256)) * 8000


class Served:
    """Where each hijacker is, and what it said."""

    def __init__(self, output: IO[str]) -> None:
        self._output = output
        lines = [output.readline().split() for _ in range(4)]
        self.ports = {name: int(address.rpartition(":")[2]) for name, address in lines}

    def connect(self, name: str, tls: bool) -> socket.socket:
        sock = socket.create_connection(("127.0.0.1", self.ports[name]), 20)
        return insecure_context().wrap_socket(sock) if tls else sock

    def next_line(self) -> str:
        return self._output.readline().strip()


@pytest.fixture(scope="module")
def served(make_certificate: Callable[[], CertificateFiles]) -> Iterator[Served]:
    files = make_certificate()
    command = [sys.executable, "-m", "tests.server.library_hijackers", files.certfile, files.keyfile]
    with subprocess.Popen(
        command, cwd=Path(__file__).parents[2], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        yield Served(process.stdout)
        process.stdin.close()
        log = process.stderr.read()
        assert process.wait(20) == 0, log
        assert "Traceback" not in log, log


@pytest.fixture(params=[False, True], ids=["plain", "tls"])
def tls(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def test_rpyc_calls_in_both_directions(served: Served, tls: bool) -> None:
    sock = served.connect("rpyc", tls)
    connection = rpyc.connect_stream(rpyc.core.stream.SocketStream(sock), config={"sync_request_timeout": 20})
    assert connection.root.repeat("x", 300_000) == "x" * 300_000
    assert connection.root.call_back(lambda number: number * 2) == 41
    connection.close()
    assert served.next_line() == "rpyc ended"


def test_websockets_echo_while_it_pings(served: Served, tls: bool) -> None:
    address = f"{'wss' if tls else 'ws'}://127.0.0.1:{served.ports['websockets']}/"
    context = insecure_context() if tls else None
    with client.connect(address, ssl=context, max_size=None, compression=None, proxy=None) as websocket:
        for message in ("hello", LARGE[:500_000], LARGE, "the last"):
            websocket.send(message)
            assert websocket.recv(timeout=20) == message
    assert served.next_line() == "websockets ended"


@pytest.mark.parametrize("name", ["process", "asyncio"])
def test_a_process_and_an_event_loop_echo(served: Served, tls: bool, name: str) -> None:
    with served.connect(name, tls) as sock:
        for message in (b"hello", LARGE[:100_000]):
            sock.sendall(message)
            received = b""
            while len(received) < len(message):
                part = sock.recv(65536)
                assert part, served.next_line()
                received += part
            assert received == message
        if isinstance(sock, ssl.SSLSocket):
            sock.unwrap().close()
        else:
            sock.shutdown(socket.SHUT_WR)
            assert sock.recv(1) == b""
    assert served.next_line() == f"{name} ended"
