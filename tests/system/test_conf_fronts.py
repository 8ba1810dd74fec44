"""conf/: the configurations of nginx, HAProxy and Envoy in front of muxwsgi. nginx and HAProxy run; Envoy's is read by its own schema."""

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.ports import reserved_port
from tests.system.server_process import ROOT, ServerProcess
from tests.waiting import wait_for

CONF = ROOT / "conf"
APP = "tests.system.front_app"
#: The path that checks ask for: the server answers it, and the application is not called.
HEALTH = "/healthz"


def answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


@contextlib.contextmanager
def running(command: list[str], port: int) -> "Iterator[subprocess.Popen[bytes]]":
    """A front in the foreground, once it listens."""
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    try:
        wait_for(lambda: answers(port) or process.poll() is not None)
        assert process.poll() is None, process.stderr and process.stderr.read()
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=20)


@contextlib.contextmanager
def nginx(folder: Path, server: str) -> Iterator[int]:
    """nginx with conf/nginx.conf, in which only the two addresses are other ones."""
    text = (CONF / "nginx.conf").read_text()
    with reserved_port() as reserved:
        port = reserved.getsockname()[1]
        text, one = re.subn(r"listen 80;", f"listen 127.0.0.1:{port};", text)
        text, two = re.subn(r"unix:/run/muxwsgi/web\.sock", server, text)
        assert (one, two) == (1, 1)
        (folder / "app.conf").write_text(text)
        whole = f"user root; daemon off; pid {folder}/nginx.pid; error_log stderr; events {{}} http {{ access_log off; include {folder}/app.conf; "
        whole += "".join(f"{name}_temp_path {folder}/{name}; " for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")) + "}"
        (folder / "nginx.conf").write_text(whole)
        with running(["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf")], port):
            yield port


def ask(connection: http.client.HTTPConnection, method: str = "GET", path: str = "/", **fields: str) -> dict[str, str]:
    connection.request(method, path, body="x" * 100_000 if method == "POST" else None, headers={"Host": "example.org", **fields})
    response = connection.getresponse()
    body = response.read()
    assert response.status == 200, body
    told: dict[str, str] = json.loads(body)
    return told


def echoes(port: int) -> None:
    """An upgraded connection, through the front and back."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as sock:
        sock.sendall(b"GET /ws HTTP/1.1\r\nHost: example.org\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
        head = b""
        while b"\r\n\r\n" not in head:
            head += sock.recv(4096)
        assert head.startswith(b"HTTP/1.1 101"), head
        for word in (b"one", b"two"):
            sock.sendall(word)
            assert sock.recv(100) == word


def test_requests_come_through_nginx_with_the_client_s_address_on_connections_that_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "web.sock"
    with ServerProcess(APP, "-b", f"unix:{path},mode=666"), nginx(tmp_path, f"unix:{path}") as port:
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        told = [ask(client, method, "/a?b=c", **{"X-Forwarded-For": "1.2.3.4"}) for method in ("GET", "POST", "GET")]
        assert told[0]["HTTP_X_FORWARDED_FOR"] == "127.0.0.1"  # what the client claims is replaced
        assert told[0]["HTTP_X_FORWARDED_PROTO"] == "http" and told[0]["HTTP_HOST"] == "example.org"
        assert "HTTP_CONNECTION" not in told[0] and told[0]["QUERY_STRING"] == "b=c"
        assert told[1]["body"] == "x" * 100_000
        assert len({each["connection"] for each in told}) == 1
        echoes(port)


def test_no_request_through_nginx_is_lost_in_reloads(tmp_path: Path) -> None:
    path, stop, failed, served = tmp_path / "web.sock", threading.Event(), [], []

    def client(port: int, method: str) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        while not stop.is_set():
            try:
                served.append(ask(connection, method)["pid"])
            except Exception as error:
                failed.append(repr(error))

    with ServerProcess(APP, "-b", f"unix:{path},mode=666", "-w", "2") as server, nginx(tmp_path, f"unix:{path}") as port:
        clients = [threading.Thread(target=client, args=(port, method), daemon=True) for method in ("GET", "POST", "GET", "POST")]
        for each in clients:
            each.start()
        for number in range(3):
            server.wait_for_log_times("workers are ready", number + 1)
            seen = len(served)
            wait_for(lambda seen=seen: len(served) > seen + 50)
            server.send_signal(signal.SIGHUP)
        server.wait_for_log_times("workers are ready", 4)
        seen = len(served)
        wait_for(lambda: len(served) > seen + 50)
        stop.set()
        for each in clients:
            each.join(30)
    assert failed == [] and len(set(served)) >= 6


def test_haproxy_takes_its_file() -> None:
    checked = subprocess.run(["haproxy", "-c", "-f", str(CONF / "haproxy.cfg")], capture_output=True, text=True)
    assert checked.returncode == 0 and "WARNING" not in checked.stderr, checked.stderr


def test_tls_passes_through_haproxy_and_a_server_that_is_down_gets_none(tmp_path: Path) -> None:
    text = (CONF / "haproxy.cfg").read_text()
    assert f"option httpchk GET {HEALTH}\n" in text and f"`--health-path {HEALTH}`" in text
    with reserved_port() as reserved, reserved_port() as nobody, ServerProcess(
        APP, "--proxy-protocol", "v2", "--health-path", HEALTH, tls=True, environment={"XDG_DATA_HOME": str(tmp_path)}
    ) as server:
        port = reserved.getsockname()[1]
        for pattern, new in (
            (r"bind :443", f"bind 127.0.0.1:{port}"), (r"10\.0\.0\.1:443", server.address), (r"10\.0\.0\.2:443", f"127.0.0.1:{nobody.getsockname()[1]}"),
        ):
            text, count = re.subn(pattern, new, text)
            assert count == 1
        (tmp_path / "haproxy.cfg").write_text(text)
        with running(["haproxy", "-db", "-f", str(tmp_path / "haproxy.cfg")], port):
            for _ in range(6):
                done = subprocess.run(["curl", "-sSk", "-w", " %{local_port}", f"https://127.0.0.1:{port}/"], capture_output=True, timeout=30, check=True)
                body, _, port_of_client = done.stdout.decode().rpartition(" ")
                told = json.loads(body)
                assert told["wsgi.url_scheme"] == "https" and told["REMOTE_PORT"] == port_of_client


def envoy() -> dict[str, Any]:
    """What Envoy's own schema finds in the file."""
    command = [sys.executable, "-m", "tests.system.envoy_schema", str(CONF / "envoy.yaml")]
    path = f"{Path(sys.prefix) / 'envoy'}:{ROOT}"
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=ROOT, env={**os.environ, "PYTHONPATH": path})
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_envoy_s_schema_has_all_fields_of_the_file() -> None:
    """No Envoy can be had as a package here: its published schema reads the file instead, with all types that it names."""
    found = envoy()
    (cluster,) = set(found.pop("clusters"))
    assert cluster
    assert found.pop("idle timeout") > 0
    assert found == {
        "refuses a misspelt field": True,
        "health check": HEALTH,
        "uses the remote address": True,
        "upgrade": "websocket",
        "the last filter is the router": True,
    }


def test_fronts_close_connections_at_rest_before_muxwsgi_does() -> None:
    from muxwsgi.settings import HTTPSettings

    assert envoy()["idle timeout"] < HTTPSettings().keep_alive
    assert 60 < HTTPSettings().keep_alive  # nginx, keepalive_timeout of an upstream
