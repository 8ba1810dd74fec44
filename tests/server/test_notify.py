"""What a service manager is told: a socket plays systemd."""

import os
import re
import signal
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from muxwsgi.server.notify import Notifier
from tests.system.server_process import ServerProcess
from tests.waiting import wait_for

APPLICATION = """
import os, time

def app(environ, start_response):
    if environ["PATH_INFO"] == "/block":
        give_up = time.monotonic() + 60
        while time.monotonic() < give_up:
            pass
    if environ["PATH_INFO"] == "/sleep":
        time.sleep(2)
    body = repr(sorted(name for name in os.environ if name.startswith(("NOTIFY_", "WATCHDOG_")))).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""


class Manager:
    """Plays systemd: a datagram socket, and what came on it."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address)
        self.socket.setblocking(False)
        self.fields: list[str] = []

    def heard(self) -> list[str]:
        """All fields so far."""
        while True:
            try:
                self.fields += self.socket.recv(4096).decode().split("\n")
            except BlockingIOError:
                return self.fields

    def wait_for(self, field: str, times: int = 1) -> None:
        wait_for(lambda: self.heard().count(field) >= times, lambda: f"{field} did not come {times} times: {self.fields}")


@pytest.fixture
def manager() -> Iterator[Manager]:
    with tempfile.TemporaryDirectory() as folder:
        yield Manager(f"{folder}/notify")


@pytest.fixture
def app(tmp_path: Path) -> Path:
    (tmp_path / "notify_app.py").write_text(APPLICATION)
    return tmp_path


def serving(manager: Manager, folder: Path, *options: str, **environment: str) -> ServerProcess:
    address = manager.socket.getsockname()
    variables = {"NOTIFY_SOCKET": address, "PYTHONDONTWRITEBYTECODE": "1", **environment}
    return ServerProcess("notify_app:app", "--pythonpath", str(folder), *options, environment=variables)


def test_the_life_of_a_service(manager: Manager, app: Path) -> None:
    with serving(manager, app, "-w", "2") as server:
        manager.wait_for("READY=1")
        assert manager.fields[0] == "STATUS=starting workers" and re.fullmatch(r"EXTEND_TIMEOUT_USEC=\d{8}", manager.fields[1])
        assert server.get("/") == (200, b"[]")
        before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        server.send_signal(signal.SIGHUP)
        manager.wait_for("READY=1", 2)
        at = manager.fields.index("RELOADING=1")
        assert before < int(manager.fields[at + 1].removeprefix("MONOTONIC_USEC=")) < time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        (app / "notify_app.py").write_text("def")
        server.send_signal(signal.SIGHUP)
        manager.wait_for("STATUS=the reload failed, and what served before goes on")
        assert manager.fields.count("RELOADING=1") == 2 and manager.fields.count("READY=1") == 3
        assert server.stop() == 0
    manager.heard()
    assert manager.fields[-3] == "STOPPING=1" and manager.fields[-1] == f"EXTEND_TIMEOUT_USEC={(30 + 10 + 10) * 1_000_000}"
    assert "WATCHDOG=1" not in manager.fields


def test_a_configuration_that_cannot_be_read_ends_a_reload_too(manager: Manager, app: Path) -> None:
    config = app / "app.toml"
    config.write_text("")
    with serving(manager, app, "-c", str(config)) as server:
        manager.wait_for("READY=1")
        config.write_text("no_such_option = 1")
        server.send_signal(signal.SIGHUP)
        manager.wait_for("READY=1", 2)
        assert "STATUS=the reload failed, and what served before goes on" in manager.fields


def test_an_application_that_cannot_be_loaded_is_never_ready(manager: Manager, app: Path) -> None:
    (app / "notify_app.py").write_text("def")
    with pytest.raises(AssertionError, match="does not serve"), serving(manager, app):
        pass
    assert "READY=1" not in manager.heard()


def test_the_watchdog_gets_signs_of_life_only_while_an_event_loop_runs(manager: Manager, app: Path) -> None:
    with serving(manager, app, "-w", "1", "--timeout", "0", WATCHDOG_USEC="4000000") as server:
        manager.wait_for("WATCHDOG=1", 2)
        with server.connect() as blocking:
            blocking.sendall(b"GET /block HTTP/1.1\r\nHost: localhost\r\n\r\n")
            time.sleep(3)  # a sign may come until the silence is as long as the interval
            count = manager.heard().count("WATCHDOG=1")
            time.sleep(4.5)
            assert manager.heard().count("WATCHDOG=1") == count
            server.stop(signal.SIGQUIT, timeout=30)


def test_signs_of_life_go_on_while_connections_end(manager: Manager, app: Path) -> None:
    with serving(manager, app, WATCHDOG_USEC="400000") as server:
        manager.wait_for("WATCHDOG=1")
        with server.connect() as slow:
            slow.sendall(b"GET /sleep HTTP/1.1\r\nHost: localhost\r\n\r\n")
            time.sleep(0.5)
            server.send_signal(signal.SIGTERM)
            manager.wait_for("STOPPING=1")
            count = manager.heard().count("WATCHDOG=1")
            manager.wait_for("WATCHDOG=1", count + 2)
            assert slow.recv(4096).startswith(b"HTTP/1.1 200")
        assert server.ended() == 0


def test_an_abstract_socket_and_variables_that_are_for_others() -> None:
    name = f"muxwsgi-test-{os.getpid()}"
    manager = Manager("\0" + name)
    environ = {"NOTIFY_SOCKET": "@" + name, "WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"}
    notifier = Notifier(environ)
    assert environ == {} and notifier.watchdog is None
    notifier.ready("serving")
    assert manager.heard() == ["READY=1", "STATUS=serving"]


def test_a_manager_that_is_gone_is_reported_once(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    monkeypatch.setattr("muxwsgi.server.notify.log.warning", lambda text, *arguments: lines.append(text % arguments))
    notifier = Notifier({"NOTIFY_SOCKET": "/no/such/socket"})
    notifier.ready("serving")
    notifier.alive()
    assert lines == ["NOTIFY_SOCKET: the service manager gets no messages: No such file or directory"]
    Notifier({"NOTIFY_SOCKET": "vsock:2:1234"}).ready("serving")
    assert lines[1:] == ["NOTIFY_SOCKET: vsock:2:1234: only sockets with a path or an abstract name are supported"]


def test_without_a_manager_nothing_is_sent() -> None:
    notifier = Notifier({})
    notifier.ready("serving")
    assert not notifier.listened
