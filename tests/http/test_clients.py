"""Clients that people use, over real sockets: http.client, requests, and WebSockets by flask-sock and simple-websocket."""

import http.client
import json
import os
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gevent
import pytest
import requests
import simple_websocket
from gevent.server import StreamServer

from muxwsgi.http.h1.h1 import HTTP1
from muxwsgi.settings import CertificateFiles, HTTPSettings
from muxwsgi.wire.connection import Connection


def mirror(environ: dict[str, Any], start_response: Any) -> Any:
    """Says what it was sent, in one piece or in many."""
    body = environ["wsgi.input"].read()
    if environ["PATH_INFO"] == "/stream":
        start_response("200 OK", [("Content-Type", "application/octet-stream")])
        return (body[at : at + 1000] for at in range(0, len(body), 1000))
    if environ["PATH_INFO"] == "/empty":
        start_response("204 No Content", [])
        return []
    said = {key: value for key, value in environ.items() if isinstance(value, str)} | {"length": len(body)}
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(said).encode()]


@pytest.fixture
def port() -> Iterator[int]:
    engine = HTTP1(mirror, HTTPSettings())
    failures: list[BaseException] = []

    def serve(sock: Any, address: Any) -> None:
        connection = Connection.from_socket(sock)
        try:
            engine(connection)
        except OSError:
            pass
        except BaseException as error:
            failures.append(error)
            raise
        finally:
            connection.finish()

    server = StreamServer(("127.0.0.1", 0), serve)
    server.start()
    yield server.server_port
    server.stop(1)
    assert failures == []


def in_a_thread(client: Callable[[], None]) -> None:
    """Clients that block have a thread of their own, while the hub serves them in this one."""
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(client)
        with gevent.Timeout(30):
            while not running.done():
                gevent.sleep(0.005)
        running.result()


def test_http_client_keeps_its_connection_for_all_kinds_of_exchanges(port: int) -> None:
    def client() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        connection.connect()
        sock = connection.sock
        body = os.urandom(200_000)
        for method, path in (("GET", "/a?b"), ("HEAD", "/a"), ("DELETE", "/"), ("GET", "/empty"), ("OPTIONS", "*")):
            connection.request(method, path)
            response = connection.getresponse()
            assert response.status == (204 if path == "/empty" else 200)
            assert bool(response.read()) == (method != "HEAD" and path != "/empty")
        connection.request("POST", "/stream", body=body)
        assert connection.getresponse().read() == body
        connection.request("PUT", "/stream", body=(body[at : at + 7000] for at in range(0, len(body), 7000)), encode_chunked=True)
        assert connection.getresponse().read() == body
        connection.request("POST", "/stream", body=body, headers={"Expect": "100-continue"})
        assert connection.getresponse().read() == body
        assert connection.sock is sock, "the connection was closed in between"
        connection.close()

    in_a_thread(client)


def test_requests_sends_forms_files_and_streams(port: int) -> None:
    def client() -> None:
        url = f"http://127.0.0.1:{port}"
        with requests.Session() as session:
            said = session.get(url + "/caf\xe9?q=\xfc", headers={"X-Custom": "value"}, timeout=10).json()
            assert said["PATH_INFO"].encode("latin-1").decode() == "/caf\xe9" and said["QUERY_STRING"] == "q=%C3%BC"
            assert said["HTTP_X_CUSTOM"] == "value" and said["SERVER_PORT"] == str(port) and said["REMOTE_ADDR"] == "127.0.0.1"
            said = session.post(url, files={"file": b"x" * 300_000}, timeout=10).json()
            assert said["CONTENT_TYPE"].startswith("multipart/form-data") and said["length"] > 300_000
            body = os.urandom(100_000)
            response = session.post(url + "/stream", data=(body[at : at + 999] for at in range(0, len(body), 999)), stream=True, timeout=10)
            assert b"".join(response.iter_content(4096)) == body and response.headers["Transfer-Encoding"] == "chunked"
            assert session.get(url + "/empty", timeout=10).status_code == 204

    in_a_thread(client)


def test_many_clients_at_once_get_their_own_answers(port: int) -> None:
    def client(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        for turn in range(20):
            body = f"{number}-{turn} ".encode() * 500
            connection.request("POST", "/stream", body=body)
            assert connection.getresponse().read() == body
        connection.close()

    def clients() -> None:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(client, range(8)))

    in_a_thread(clients)


# WebSockets


@pytest.fixture(scope="module", params=["quiet", "pinging"])
def websockets(request: pytest.FixtureRequest, make_certificate: Callable[[], CertificateFiles]) -> Iterator[str]:
    """Where a patched server listens, plain and in TLS on one port."""
    files = make_certificate()
    command = [sys.executable, "-m", "tests.http.websocket_app", files.certfile, files.keyfile, f"--{request.param}"]
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        address = process.stdout.readline().strip()
        yield address
        process.stdin.close()
        log = process.stderr.read()
        assert process.wait(20) == 0, log
        assert "Traceback" not in log, log


@pytest.mark.parametrize("path", ["/flask-sock", "/simple-websocket"])
@pytest.mark.parametrize("scheme", ["ws", "wss"])
def test_a_websocket_echoes_with_nothing_done_for_this_server(websockets: str, scheme: str, path: str) -> None:
    context = None
    if scheme == "wss":
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    ws = simple_websocket.Client(f"{scheme}://{websockets}{path}", ssl_context=context)
    try:
        # A message larger than what the server reads at once: in TLS the rest is inside OpenSSL, where no selector sees it.
        for message in ("hello", "\u2603" * 5000, b"\x00\xff" * 30_000, "the last"):
            ws.send(message)
            assert ws.receive(timeout=10) == message
        ws.send("large")
        time.sleep(0.2)  # the server's buffers are full
        assert ws.receive(timeout=30) == bytes(range(256)) * 12_000
    finally:
        # Client.close() would close the descriptor under the client's own reading thread, which then reads from whoever gets the number
        # next. Saying goodbye is enough: the thread closes the socket when the server has answered.
        super(simple_websocket.Client, ws).close()
        ws.thread.join(10)
        assert not ws.thread.is_alive()


def test_the_same_application_answers_what_is_no_websocket(websockets: str) -> None:
    assert requests.get(f"http://{websockets}/", timeout=10).text == "not a socket"
    assert requests.get(f"http://{websockets}/flask-sock", timeout=10).status_code in (400, 500)
