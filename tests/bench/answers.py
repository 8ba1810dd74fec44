"""What the right answer is, and whether a peer gives it: asked once before every turn."""

import http.client
import socket
import ssl
import subprocess
import time
from collections.abc import Callable
from functools import cache
from importlib import import_module
from io import BytesIO
from typing import Any
from wsgiref.util import setup_testing_defaults

from tests.bench.clients import Target
from tests.bench.echoes import message
from tests.bench.generators.relay_upstream import ECHO
from tests.bench.generators.relayed import MESSAGE, answered, client_context, opened
from tests.bench.processes import BenchError

__all__ = ["await_echo", "await_http", "await_http2", "await_port", "await_relay", "await_tunnel", "called"]

#: Seconds that a server has to come up: mitmdump and Django take a few on a busy machine.
START_TIMEOUT = 30.0
PATIENCE = 10.0


@cache
def called(app: str, path: str, body: bytes) -> bytes:
    """The body that the WSGI application `app` (module:name) answers with when it is called without any server."""
    module, _, name = app.partition(":")
    environ: dict[str, Any] = {"PATH_INFO": path, "wsgi.input": BytesIO(body), "CONTENT_LENGTH": str(len(body)) if body else ""}
    environ["REQUEST_METHOD"] = "POST" if body else "GET"
    setup_testing_defaults(environ)
    answer = getattr(import_module(module), name)(environ, lambda *head: None)
    try:
        return b"".join(answer)
    finally:
        if hasattr(answer, "close"):
            answer.close()


def await_http(server: "subprocess.Popen[bytes]", target: Target, expected: bytes, *, pause: float = 0.02) -> None:
    """Wait until it answers, and see that the answer is `expected`. `pause` are the seconds between two attempts. Raises `BenchError`."""
    _compare(_await(server, lambda: _ask(_connection(target), target.path, target.body), pause), expected)


def await_tunnel(server: "subprocess.Popen[bytes]", target: Target, expected: bytes) -> None:
    """The same through the tunnel that a proxy makes to the upstream."""

    def ask() -> bytes:
        connection = http.client.HTTPSConnection("127.0.0.1", target.port, timeout=PATIENCE, context=ssl._create_unverified_context())
        connection.set_tunnel("localhost", target.upstream)
        return _ask(connection, "/", b"")

    _compare(_await(server, ask), expected)


def await_relay(server: "subprocess.Popen[bytes]", target: Target) -> None:
    """The same of a relay, whose upstream says everything back."""

    def ask() -> bytes:
        with opened(target.port, client_context() if target.tls else None, ECHO + MESSAGE) as sock:
            answered(sock)
        return MESSAGE

    _compare(_await(server, ask), MESSAGE)


def await_echo(server: "subprocess.Popen[bytes]", target: Target) -> None:
    sent = message(close=True)

    def ask() -> bytes:
        with socket.create_connection(("127.0.0.1", target.port), PATIENCE) as sock:
            sock.sendall(sent)
            received = b""
            while len(received) < len(sent) and (data := sock.recv(4096)):
                received += data
            return received

    _compare(_await(server, ask), sent)


def await_port(server: "subprocess.Popen[bytes]", target: Target) -> None:
    """Wait until it listens, for loads whose generator looks at the answers."""

    def connect() -> bytes:
        socket.create_connection(("127.0.0.1", target.port), PATIENCE).close()
        return b""

    _await(server, connect)


def await_http2(server: "subprocess.Popen[bytes]", target: Target) -> None:
    """Wait until it answers. h2load looks at the status of answers itself, and it hangs if a handshake lasts longer than its whole time."""
    await_port(server, target)
    url = f"{'https' if target.tls else 'http'}://127.0.0.1:{target.port}{target.path}"
    try:
        done = subprocess.run(["h2load", "-n1", "-c1", url], capture_output=True, text=True, timeout=START_TIMEOUT, check=False)
    except (FileNotFoundError, subprocess.TimeoutExpired) as error:
        raise BenchError(f"no answer to h2load: {error}") from None
    if "status codes: 1 2xx" not in done.stdout:
        raise BenchError(f"no right answer: {done.stdout[-400:]}")


def _connection(target: Target) -> http.client.HTTPConnection:
    if target.tls:
        return http.client.HTTPSConnection("127.0.0.1", target.port, timeout=PATIENCE, context=ssl._create_unverified_context())
    return http.client.HTTPConnection("127.0.0.1", target.port, timeout=PATIENCE)


def _ask(connection: http.client.HTTPConnection, path: str, body: bytes) -> bytes:
    try:
        connection.request("POST" if body else "GET", path, body or None)
        response = connection.getresponse()
        answer = response.read()
    finally:
        connection.close()
    if response.status != 200:
        raise BenchError(f"the answer is {response.status} {response.reason}: {answer[:200]!r}")
    return answer


def _await(server: "subprocess.Popen[bytes]", ask: Callable[[], bytes], pause: float = 0.02) -> bytes:
    give_up = time.monotonic() + START_TIMEOUT
    while True:
        try:
            return ask()
        except ConnectionRefusedError as error:
            if server.poll() is not None:
                raise BenchError(f"it ended with status {server.returncode} before it listened") from None
            if time.monotonic() > give_up:
                raise BenchError(f"no answer within {START_TIMEOUT:g} s: {error}") from None
            time.sleep(pause)
        except (OSError, http.client.HTTPException) as error:
            raise BenchError(f"no right answer: {error!r}") from None


def _compare(answer: bytes, expected: bytes) -> None:
    if answer != expected:
        raise BenchError(f"the answer is {answer[:100]!r} ({len(answer)} bytes), not {expected[:100]!r} ({len(expected)} bytes)")
