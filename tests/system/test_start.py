"""What a start may load. Each module here takes 1 to 50 ms, and a start waits for all of them before it answers."""

import json
import shutil
import signal
from pathlib import Path

import pytest

from tests.system import server_process
from tests.system.server_process import ServerProcess

#: Only for those who use it: TLS, the client side of it, asyncio, files of options, development, the commands that ask a server.
NEVER_IN_A_PLAIN_START = frozenset(
    (
        *("OpenSSL", "cryptography", "service_identity", "attr", "bcrypt", "idna", "asyncio", "multiprocessing"),
        *("tomllib", "configparser", "logging.config", "watchfiles", "werkzeug", "rich", "http.client", "http.server", "sqlite3", "xml"),
        *("muxwsgi.wire.tls.start", "muxwsgi.wire.tls.server_context", "muxwsgi.dial", "muxwsgi.proxy.proxy", "muxwsgi.records"),
        *("muxwsgi.cli.ctl", "muxwsgi.cli.top", "muxwsgi.cli.ca", "muxwsgi.cli.replay", "muxwsgi.cli.gunicorn", "muxwsgi.cli.python_file"),
        *("muxwsgi.cli.debugger", "muxwsgi.cli.watched", "muxwsgi.admin.application", "muxwsgi.http.static", "muxwsgi.http.client.pool"),
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


def test_a_worker_needs_no_file_of_the_package_any_more_once_it_serves() -> None:
    # The package on disk may be another release by then.
    options = ("--hijack", "none", "--forwarded-allow-ips", "127.0.0.1", "--client-cert-header", "X-Client-Cert")
    with ServerProcess("tests.system.loaded_app:application", *options, cold=True) as server:
        loaded = set(json.loads(server.get("/")[1]))
    assert {"muxwsgi.http.h2.takeover", "muxwsgi.http.client_certificate", "cryptography.x509"} <= loaded


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
