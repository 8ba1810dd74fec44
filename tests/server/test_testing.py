"""`muxwsgi.testing.serve`: a hijacker on every way, and clients that block."""

import socket
import ssl
import subprocess
import sys
from typing import Any

import pytest

from muxwsgi import Connection, OperatorError, hijack
from muxwsgi.mux.matchers import prefix
from muxwsgi.settings import ServerSettings
from muxwsgi.testing import WAYS, Served, serve


@hijack(match=prefix(b"SHOUT "), priority=1)
def shout(connection: Connection) -> None:
    with connection.makefile("rb") as lines:
        for line in lines:
            connection.sendall(line.upper())


@hijack(match=prefix(b"TELL "), priority=1)
def tell(connection: Connection) -> None:
    connection.recv()
    tls = connection.tls.version if connection.tls is not None else None
    connection.sendall(repr((tls, connection.destination, type(connection.client).__name__)).encode())


@hijack(match=prefix(b"FAIL "), priority=1)
def fail(connection: Connection) -> None:
    raise LookupError(connection.recv().decode())


@hijack(match=prefix(b"STARTTLS\n"), priority=1)
def starttls(connection: Connection) -> None:
    assert connection.recv(9) == b"STARTTLS\n"
    connection.sendall(b"go ahead\n")
    inside = connection.start_tls()
    inside.sendall(inside.recv().upper())


@pytest.fixture(scope="module")
def served() -> Any:
    with serve(shout, tell, fail, starttls) as served:
        yield served


def read_exactly(sock: socket.socket, n: int) -> bytes:
    data = b""
    while len(data) < n:
        part = sock.recv(n - len(data))
        assert part, data
        data += part
    return data


@pytest.mark.parametrize("name", WAYS)
def test_a_hijacker_answers_on_every_way(served: Served, name: str) -> None:
    with served[name].connect() as client:
        for line in (b"SHOUT hello\n", b"x" * 200_000 + b"\n"):
            client.sendall(line)
            assert read_exactly(client, len(line)) == line.upper()


def test_the_ways_are_what_they_are_called(served: Served) -> None:
    said = {}
    for way in served:
        with way.connect() as client:
            client.sendall(b"TELL ")
            said[way.name] = client.recv(200).decode()
    assert said == {
        "plain": "(None, None, 'tuple')",
        "tls": "('TLSv1.3', None, 'tuple')",
        "unix": "(None, None, 'str')",
        "tunnel": "(None, ('localhost', 9), 'tuple')",
        "tls-tunnel": "('TLSv1.3', ('localhost', 9), 'tuple')",
    }


@pytest.mark.parametrize("name", WAYS)
def test_start_tls_has_a_certificate_on_every_way(served: Served, name: str) -> None:
    # On the bind its own; in a tunnel a leaf for the host that the client asked for. The client verifies both.
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = ssl.create_default_context(cafile=served.ca_file).wrap_bio(incoming, outgoing, server_hostname="localhost")

    def do(step: Any) -> Any:
        while True:
            try:
                return step()
            except ssl.SSLWantReadError:
                if data := outgoing.read():  # even an empty send fails once the server has answered and closed
                    client.sendall(data)
                incoming.write(client.recv(65536))

    with served[name].connect() as client:
        client.sendall(b"STARTTLS\n")
        assert read_exactly(client, 9) == b"go ahead\n"
        do(tls.do_handshake)
        tls.write(b"hello")
        assert do(lambda: tls.read(100)) == b"HELLO"


def test_what_a_hijacker_raises_is_there_for_the_test(served: Served) -> None:
    assert served.failures == []
    for way in served:
        with way.connect() as client:
            client.sendall(b"FAIL " + way.name.encode())
            try:
                assert client.recv(1) == b""
            except ConnectionError:  # what fails may end in a reset
                pass
    assert len(served.failures) == len(WAYS)
    assert all(f"LookupError: FAIL {name}" in text for name, text in zip(WAYS, served.failures, strict=True))
    served.failures.clear()


def test_settings_are_those_of_the_test() -> None:
    with serve(shout, settings=ServerSettings(fallback="shout", graceful_timeout=0.5)) as served, served["plain"].connect() as client:
        client.sendall(b"\x00hello\n")
        assert read_exactly(client, 7) == b"\x00HELLO\n"
    with pytest.raises(OSError):
        served["plain"].connect()
    with pytest.raises(OperatorError), serve(shout, shout):
        pass


def test_it_serves_in_a_patched_process_too() -> None:
    program = (
        "from gevent import monkey; monkey.patch_all()\n"
        "from muxwsgi.testing import serve\n"
        "from tests.server.test_testing import shout\n"
        "with serve(shout) as served:\n"
        "    for way in served:\n"
        "        with way.connect() as client:\n"
        "            client.sendall(b'SHOUT hello\\n')\n"
        "            assert client.recv(100) == b'SHOUT HELLO\\n', way\n"
        "print('done')\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert result.stdout == "done\n", result.stderr
