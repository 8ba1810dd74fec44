"""TLS sessions of several workers: each resumes those of all others, and those of the generation before."""

import http.client
import signal
import ssl
from pathlib import Path

import pytest

from tests.system.server_process import ServerProcess, insecure_context
from tests.tls.authority import Authority

WORKERS = 4

APPLICATION = """
import os

def app(environ, start_response):
    body = f"{os.getpid()}".encode()
    start_response("200 OK", [("Content-Length", str(len(body))), ("Connection", "close")])
    return [body]
"""


class Client:
    """Connects again and again, each time with the session of the last connection."""

    def __init__(self, server: ServerProcess, version: ssl.TLSVersion) -> None:
        self._server = server
        self._context = insecure_context()
        self._context.minimum_version = self._context.maximum_version = version
        self._context.set_alpn_protocols(["http/1.1"])
        self._session: ssl.SSLSession | None = None

    def ask(self) -> tuple[int, bool]:
        """The pid of the worker that answers, and whether it has resumed the session."""
        with self._context.wrap_socket(self._server.connect(), server_hostname="a.example", session=self._session) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n")
            response = http.client.HTTPResponse(sock)
            response.begin()
            pid = int(response.read())
            assert sock.selected_alpn_protocol() == "http/1.1", "the ids are known in workers alone"
            self._session = sock.session
            return pid, bool(sock.session_reused)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_sessions_are_resumed_by_all_workers_and_after_a_reload(tmp_path: Path, version: ssl.TLSVersion) -> None:
    (tmp_path / "pid_app.py").write_text(APPLICATION)
    files = Authority(tmp_path).leaf("a.example")
    options = ["-w", str(WORKERS), "--pythonpath", str(tmp_path), "--certfile", files.certfile, "--keyfile", files.keyfile]
    with ServerProcess("pid_app:app", *options) as server:
        client = Client(server, version)
        assert client.ask()[1] is False, "there is no session yet"
        old: set[int] = set()
        for _ in range(200):
            pid, resumed = client.ask()
            assert resumed
            old.add(pid)
            if len(old) == WORKERS:
                break
        assert len(old) == WORKERS
        server.send_signal(signal.SIGHUP)
        server.wait_for_log_times(f"{WORKERS} workers are ready", 2)
        new: set[int] = set()
        for _ in range(200):
            pid, resumed = client.ask()
            assert resumed
            new.add(pid)
            if len(new - old) >= 2:
                break
        assert len(new - old) >= 2, "the reload has started others"
        assert server.stop() == 0


def test_a_faulty_certificate_is_one_line_of_the_master(tmp_path: Path) -> None:
    (tmp_path / "pid_app.py").write_text(APPLICATION)
    (tmp_path / "broken.pem").write_text("broken")
    options = ["-w", "4", "--pythonpath", str(tmp_path), "--certfile", str(tmp_path / "broken.pem")]
    server = ServerProcess("pid_app:app", *options)
    try:
        assert server.ended(30) == 2
        assert server.log.startswith("muxwsgi: error: ") and server.log.count("\n") == 1 and "broken.pem" in server.log
    finally:
        server.__exit__(None, None, None)
