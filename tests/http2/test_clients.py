"""Clients that people use, against `muxwsgi run`: curl, nghttp, h2load, httpx."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from muxwsgi.http.websocket.frame import Frame, Opcode, encode_frame
from muxwsgi.settings import CertificateFiles
from tests import warm
from tests.http2.frames import OPENING, WEBSOCKET, Responses, data, headers
from tests.ports import free_ports
from tests.waiting import wait_for

ROOT = Path(__file__).parents[2]


class Server:
    def __init__(self, folder: Path, certificate: CertificateFiles, *options: str) -> None:
        self.port, self.tls_port = free_ports(2)
        self.access = folder / "access"
        self.log = folder / "log"
        command = [sys.executable, "-m", "muxwsgi", "run", "tests.http2.served:app", "-b", f"127.0.0.1:{self.port}"]
        tls = f"127.0.0.1:{self.tls_port},tls=required,certfile={certificate.certfile},keyfile={certificate.keyfile}"
        command += ["-b", tls, "--hijack", "none", "--access-logfile", str(self.access), *options]
        with self.log.open("wb") as log:
            self.process = warm.Popen(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": os.environ.get("PYTHONPATH", str(ROOT))}, stderr=log)
        wait_for(lambda: self.log.read_text().count("listening on") == 2, self.log.read_text)

    @property
    def plain(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def tls(self) -> str:
        return f"https://127.0.0.1:{self.tls_port}"

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, make_certificate: Callable[[], CertificateFiles]) -> Iterator[Server]:
    served = Server(tmp_path_factory.mktemp("served"), make_certificate())
    yield served
    served.process.kill()
    served.process.wait()


def run(*command: str) -> str:
    assert shutil.which(command[0]), f"{command[0]} is missing"
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, (done.returncode, done.stderr)
    return done.stdout


def curl(*arguments: str) -> str:
    return run("curl", "-sk", "--max-time", "30", *arguments)


def test_curl_with_prior_knowledge_and_by_alpn(server: Server) -> None:
    for address, flag in ((server.plain, "--http2-prior-knowledge"), (server.tls, "--http2")):
        answer = curl(flag, "-i", f"{address}/", "-w", "%{http_version}")
        assert answer.startswith("HTTP/2 200") and answer.endswith("hello2")
        assert "x-protocol: HTTP/2.0" in answer
    assert curl("--http1.1", f"{server.tls}/", "-w", "%{http_version}") == "hello1.1"
    assert curl(f"{server.plain}/", "-w", "%{http_version}") == "hello1.1"
    wait_for(lambda: '"GET / HTTP/2.0" 200' in server.access.read_text())


def test_curl_sends_and_gets_large_bodies(server: Server, tmp_path: Path) -> None:
    (tmp_path / "up").write_bytes(os.urandom(3_000_000))
    for way in (("--data-binary", f"@{tmp_path}/up"), ("-T", f"{tmp_path}/up"), ("-H", "Transfer-Encoding: chunked", "-T", f"{tmp_path}/up")):
        curl("--http2", f"{server.tls}/", *way, "-o", f"{tmp_path}/down")
        assert (tmp_path / "down").read_bytes() == (tmp_path / "up").read_bytes()
    curl("--http2-prior-knowledge", f"{server.plain}/file?{tmp_path}/up", "-o", f"{tmp_path}/down")
    assert (tmp_path / "down").read_bytes() == (tmp_path / "up").read_bytes()


def test_nghttp_sees_interim_responses_and_trailers(server: Server) -> None:
    shown = run("nghttp", "-v", f"{server.plain}/stream")
    assert re.findall(r"recv \(stream_id=\d+\) (:status: \d+|link: .*|x-lines: .*)", shown) == [
        ":status: 103", "link: </style.css>; rel=preload", ":status: 200", "x-lines: 3",
    ]  # fmt: skip
    assert all(f"line {number}" in shown for number in range(3))
    assert run("nghttp", "--expect-continue", "-d", str(ROOT / "setup.py"), f"{server.plain}/") == (ROOT / "setup.py").read_text()


@pytest.mark.parametrize(
    ("path", "arguments"),
    [
        ("/", ("-n", "2000", "-c", "1", "-m", "32")),
        ("/", ("-n", "1000", "-c", "8", "-m", "1")),
        ("/sleep", ("-n", "1000", "-c", "8", "-m", "16")),
        ("/big", ("-n", "40", "-c", "2", "-m", "8")),
        ("/", ("-n", "200", "-c", "2", "-m", "8", "-d", str(ROOT / "setup.py"))),
        ("/big", ("-n", "8", "-c", "1", "-m", "4", "-w", "12", "-W", "14")),  # windows of 4 and 16 KiB
    ],
)
def test_h2load_counts_no_failure(server: Server, path: str, arguments: tuple[str, ...]) -> None:
    total = arguments[1]
    for address in (server.plain, server.tls):
        shown = run("h2load", *arguments, f"{address}{path}")
        assert f"{total} succeeded, 0 failed, 0 errored, 0 timeout" in shown, shown
        assert f"{total} 2xx" in shown


def test_httpx_keeps_one_connection_for_many_requests(server: Server) -> None:
    with httpx.Client(http2=True, verify=False, timeout=30) as client:
        for number in range(20):
            response = client.post(f"{server.tls}/{number}", content=b"x" * number * 1000)
            assert (response.http_version, len(response.content)) == ("HTTP/2", number * 1000 or 5)
        assert client.get(f"{server.tls}/stream").text == "line 0\nline 1\nline 2\n"


def test_simple_websocket_serves_a_stream(server: Server) -> None:
    responses = Responses()

    def until(sock: socket.socket, condition: Callable[[], bool]) -> None:
        while not condition():
            responses.add(sock.recv(65536))

    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as sock:
        fields = [(name, "/socket" if name == ":path" else value) for name, value in WEBSOCKET]
        sock.sendall(OPENING + headers(1, fields, end=False))
        until(sock, lambda: 1 in responses.streams and responses.streams[1].status == "200")
        sock.sendall(data(1, encode_frame(Frame(Opcode.TEXT, b"hello", from_client=True), masked=True)))
        until(sock, lambda: responses.streams[1].body == encode_frame(Frame(Opcode.TEXT, b"hello", from_client=False), masked=False))
        sock.sendall(data(1, encode_frame(Frame(Opcode.CLOSE, b"", from_client=True), masked=True)))
        until(sock, lambda: responses.streams[1].ended)
        sock.sendall(headers(3))
        until(sock, lambda: 3 in responses.streams and responses.streams[3].ended)
    wait_for(lambda: '"GET /socket HTTP/2.0"' in server.access.read_text())


def test_a_stop_loses_no_response(tmp_path: Path, make_certificate: Callable[[], CertificateFiles]) -> None:
    served = Server(tmp_path, make_certificate())
    load = subprocess.Popen(
        ["h2load", "-n", "100000", "-c", "2", "-m", "4", f"{served.plain}/sleep"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    time.sleep(0.5)
    assert served.stop() == 0
    shown = load.communicate(timeout=30)[0]
    found = re.search(r"(\d+) done, (\d+) succeeded", shown)
    assert found, shown
    # h2load goes on to open streams when it was told not to. Those behind the last one that GOAWAY has named are not served.
    assert int(found[2]) == served.access.read_text().count('" 200 ') > 0
    assert int(found[1]) - int(found[2]) <= 2 * 4


def test_http2_off_serves_http_1_alone(tmp_path: Path, make_certificate: Callable[[], CertificateFiles]) -> None:
    served = Server(tmp_path, make_certificate(), "--http2", "off")
    try:
        assert curl("--http2", f"{served.tls}/", "-w", "%{http_version}") == "hello1.1"
        refused = subprocess.run(["curl", "-s", "--max-time", "10", "--http2-prior-knowledge", f"{served.plain}/"], capture_output=True)
        assert refused.returncode != 0
    finally:
        assert served.stop() == 0
