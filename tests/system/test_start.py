"""What a start may load. Each module here takes 1 to 50 ms, and a start waits for all of them before it answers."""

import json

import pytest

from tests.system.server_process import ServerProcess

#: Only for those who use it: TLS, the client side of it, asyncio, files of options, development, the commands that ask a server.
NEVER_IN_A_PLAIN_START = frozenset(
    (
        *("OpenSSL", "cryptography", "service_identity", "attr", "bcrypt", "idna", "asyncio", "multiprocessing"),
        *("tomllib", "configparser", "logging.config", "watchfiles", "werkzeug", "rich", "http.client", "http.server", "sqlite3", "xml"),
        *("muxwsgi.wire.tls.start", "muxwsgi.wire.tls.server_context", "muxwsgi.dial", "muxwsgi.proxy.proxy", "muxwsgi.records"),
        *("muxwsgi.cli.ctl", "muxwsgi.cli.top", "muxwsgi.cli.ca", "muxwsgi.cli.replay", "muxwsgi.cli.gunicorn", "muxwsgi.cli.python_file"),
        *("muxwsgi.cli.debugger", "muxwsgi.cli.watched", "muxwsgi.admin.application", "muxwsgi.http.static", "muxwsgi.http.client"),
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
