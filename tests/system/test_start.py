"""What a start may load. Each module here takes 1 to 50 ms, and a start waits for all of them before it answers."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.ports import free_port
from tests.system import server_process
from tests.system.server_process import ServerProcess
from tests.waiting import wait_for

#: Only for those who use it: TLS, the client side of it, asyncio, files of options, development, the commands that ask a server.
NEVER_IN_A_PLAIN_START = frozenset(
    (
        *("OpenSSL", "cryptography", "service_identity", "attr", "bcrypt", "idna", "asyncio", "multiprocessing"),
        *("tomllib", "configparser", "logging.config", "watchfiles", "werkzeug", "rich", "http.client", "http.server", "sqlite3", "xml"),
        *("muxwsgi.wire.tls.start", "muxwsgi.wire.tls.server_context", "muxwsgi.dial", "muxwsgi.proxy.proxy", "muxwsgi.records"),
        *("muxwsgi.cli.ctl", "muxwsgi.cli.top", "muxwsgi.cli.ca", "muxwsgi.cli.replay", "muxwsgi.cli.gunicorn", "muxwsgi.cli.python_file"),
        *("muxwsgi.cli.debugger", "muxwsgi.cli.watched", "muxwsgi.admin.application", "muxwsgi.http.static", "muxwsgi.http.client.pool"),
        *("muxwsgi.http.gevent_websocket", "muxwsgi.http.websocket.frame", "muxwsgi.http.spool", "muxwsgi.http.compression"),
        *("muxwsgi.observe.access_log", "muxwsgi.observe.stream_log", "muxwsgi.observe.statsd", "muxwsgi.observe.tracing"),
        *("muxwsgi.server.routes", "muxwsgi.server.conditions", "muxwsgi.hijackers.forward", "muxwsgi.hijackers.proxy_protocol", "muxwsgi.mux.explain", "muxwsgi.server.answers"),
    )
)

#: Besides, where no package but gevent has plugins: what reads the metadata of packages, and what these modules import.
NEVER_WITHOUT_PLUGINS = frozenset(
    (
        *("importlib.metadata", "importlib.resources", "importlib.abc", "email", "zipfile", "shutil", "tempfile", "random", "hashlib", "hmac", "secrets"),
        *("pkgutil", "pathlib", "encodings.idna"),
    )
)


@pytest.mark.parametrize("tls", [False, True])
def test_a_worker_has_only_what_it_serves_with(tls: bool) -> None:
    # A worker also has all that its master had when it forked.
    with ServerProcess("tests.system.loaded_app:application", "--hijack", "none", tls=tls, cold=True) as server:
        loaded = set(json.loads(server.get("/")[1]))
    found = sorted(loaded & NEVER_IN_A_PLAIN_START)
    if not tls:
        assert found == []
    else:
        assert "muxwsgi.wire.tls.start" in found  # before the first handshake
        assert not loaded & {"service_identity", "asyncio", "multiprocessing", "http.client"}


#: The protocols that every server needs for its routes. The others name unknown bytes in messages, and are loaded a second later.
PROTOCOLS_AT_ONCE = {"http1", "http2", "proxy_header", "tls"}


def test_a_start_reads_no_metadata_of_packages_if_none_has_a_plugin(tmp_path: Path) -> None:
    packages = tmp_path / "packages"
    packages.mkdir()
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if path.suffix not in (".dist-info", ".egg-info", ".pth") or path.name.startswith("gevent-2"):
            (packages / path.name).symlink_to(path)
    address = tmp_path / "socket"
    command = [sys.executable, "-S", "-m", "muxwsgi", "run", "tests.system.start_app:application", "-b", f"127.0.0.1:{free_port()}", "-b", f"unix:{address}"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (packages, server_process.ROOT)))}
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True) as server:
        try:
            wait_for(lambda: address.exists() or server.poll() is not None)
            assert server.poll() is None, server.communicate()[1]
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(30)
                client.connect(str(address))
                client.sendall(b"GET / HTTP/1.0\r\n\r\n")
                answer = client.makefile("rb").read()
        finally:
            server.terminate()
            server.communicate(timeout=30)
    found = json.loads(answer.partition(b"\r\n\r\n")[2])
    assert found["collects"], "the garbage collector has to run while an application is loaded"
    assert set(found["loaded"]) & (NEVER_IN_A_PLAIN_START | NEVER_WITHOUT_PLUGINS) == set()
    prefix = "muxwsgi.protocols."
    assert {name.removeprefix(prefix) for name in found["loaded"] if name.startswith(prefix)} == PROTOCOLS_AT_ONCE


def test_a_worker_needs_no_file_of_the_package_any_more_once_it_serves() -> None:
    # The package on disk may be another release by then.
    options = ("--hijack", "none", "--forwarded-allow-ips", "127.0.0.1", "--client-cert-header", "X-Client-Cert")
    protocols = {f"muxwsgi.protocols.{path.stem}" for path in (server_process.ROOT / "muxwsgi/protocols").glob("[a-z]*.py")}
    with ServerProcess("tests.system.loaded_app:application", *options, cold=True) as server:
        loaded = set(json.loads(server.get("/")[1]))
        assert {"muxwsgi.http.h2.takeover", "muxwsgi.http.client_certificate", "cryptography.x509"} <= loaded
        wait_for(lambda: protocols <= set(json.loads(server.get("/")[1])))


def test_a_worker_with_tls_to_a_server_needs_no_file_for_its_first_connection() -> None:
    upstream = json.dumps({"shop": {"server": ["localhost:1"], "ssl": True}})
    options = ("--hijack", "none", "--upstream", upstream, "--fallback", "forward:shop")
    with ServerProcess("tests.system.loaded_app:application", *options, cold=True) as server:
        loaded = set(json.loads(server.get("/")[1]))
        assert {"muxwsgi.wire.tls.start", "muxwsgi.wire.tls.certificate_match", "service_identity", "muxwsgi.wire.relay_engine"} <= loaded


def test_a_master_says_that_new_workers_would_be_of_two_releases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "muxwsgi"
    shutil.copytree(server_process.ROOT / "muxwsgi", package, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "app.py").write_text("def application(environ, start_response):\n    start_response('204 No Content', [])\n    return []\n")
    monkeypatch.setattr(server_process, "ROOT", tmp_path)
    says = "muxwsgi was replaced on disk after this master had started"
    with ServerProcess("app:application", cold=True) as server:
        for replaced in (0, 1, 1, 2):
            if server.log.count(says) < replaced:
                shutil.copy(package / "__init__.py", tmp_path / "new")
                (tmp_path / "new").rename(package / "__init__.py")
            ready = server.log.count("1 worker is ready")
            server.send_signal(signal.SIGHUP)
            server.wait_for_log_times("1 worker is ready", ready + 1)
            assert server.log.count(says) == replaced
