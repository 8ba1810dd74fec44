"""Signals, from before the application is loaded until the end, also for the first process of a container."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from muxwsgi.signals import Signals
from tests import warm
from tests.ports import reserved_port
from tests.system.server_process import ROOT, ServerProcess
from tests.waiting import wait_for

APP = "tests.server.loading_app"

#: A PID namespace, in which the process is the first.
CONTAINER = ("unshare", "--pid", "--fork", "--kill-child")


class Loading:
    """`muxwsgi run` of an application that is not loaded yet. `log` is what it said."""

    def __init__(self, how: str, *prefix: str, **environment: str) -> None:
        self.reserved = reserved_port()
        self.port: int = self.reserved.getsockname()[1]
        self.process = warm.Popen(
            [*prefix, sys.executable, "-m", "muxwsgi", "run", APP, "-b", environment.get("TEST_BIND", f"127.0.0.1:{self.port}")],
            cwd=ROOT,
            env={**os.environ, "TEST_LOADING": how, **environment},
            stderr=subprocess.PIPE,
            text=True,
        )
        self.log = ""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log += line

    def wait_for(self, text: str) -> None:
        wait_for(lambda: text in self.log, lambda: f"{text!r} never came:\n{self.log}")

    @property
    def reads(self) -> bool:
        """Whether a process still has the pipe that `log` is read from."""
        return self._reader.is_alive()

    @property
    def pid(self) -> int:
        """Of muxwsgi, as it is seen from here."""
        if self.process.args[0] != CONTAINER[0]:  # type: ignore[index]
            return self.process.pid
        return int(Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()[0])

    def ended(self, patience: float = 15) -> int:
        """The exit status, which has to come in time."""
        status = self.process.wait(patience)
        self._reader.join(5)
        return status


@contextlib.contextmanager
def loading(how: str, *prefix: str, **environment: str) -> Iterator[Loading]:
    process = Loading(how, *prefix, **environment)
    try:
        yield process
    finally:
        process.process.kill()
        process.process.wait()
        process.reserved.close()


def can_unshare() -> bool:
    return subprocess.run([*CONTAINER, "true"], capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("prefix", [(), CONTAINER], ids=["", "container"])
@pytest.mark.parametrize("how", ["sleeps", "computes", "catches"])
@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_while_the_application_is_loaded_ends_the_process(how: str, sig: signal.Signals, prefix: tuple[str, ...]) -> None:
    if prefix and not can_unshare():
        pytest.skip("no PID namespaces here")
    with loading(how, *prefix) as process:
        process.wait_for("loading")
        os.kill(process.pid, sig)
        assert process.ended() == 0
        assert "stopped before anything was served" in process.log
        assert "Traceback" not in process.log and "listening" not in process.log
        assert ("caught" in process.log) is (how == "catches")


def test_other_signals_neither_kill_nor_stop_whether_it_loads_or_serves(tmp_path: Path) -> None:
    others = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH, signal.SIGTTIN, signal.SIGTTOU)
    with loading("until told", TEST_FILE=str(tmp_path / "go")) as process:
        process.wait_for("loading")
        for number in others:
            os.kill(process.pid, number)
        (tmp_path / "go").touch()
        process.wait_for("listening")
        process.wait_for("logs reopened")  # what came too early is done as soon as it can be
        for number in others:
            os.kill(process.pid, number)
        process.wait_for("SIGTTOU")
        with socket.create_connection(("127.0.0.1", process.port), timeout=10) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert sock.recv(1000).endswith(b"hello")
        os.kill(process.pid, signal.SIGTERM)
        assert process.ended() == 0


def test_the_first_process_of_a_container_drains_and_ends() -> None:
    if not can_unshare():
        pytest.skip("no PID namespaces here")
    with loading("", *CONTAINER) as process:
        process.wait_for("listening")
        for number in (signal.SIGUSR2, signal.SIGTTIN, signal.SIGTTOU, signal.SIGWINCH):
            os.kill(process.pid, number)
        os.kill(process.pid, signal.SIGTERM)
        assert process.ended() == 0
        assert "stopped" in process.log


def test_a_quit_cuts_at_once() -> None:
    with ServerProcess("tests.system.counted_app", "--graceful-timeout=60", "--hijack=echo") as server:
        sock = server.connect()
        sock.sendall(b"ECHO hi")
        assert sock.recv(100) == b"ECHO hi"
        assert server.stop(signal.SIGQUIT) == 0
        assert "stopping at once" in server.log
        sock.close()


@pytest.mark.parametrize("prefix", [(), CONTAINER], ids=["", "container"])
@pytest.mark.parametrize("how", ["thread", "process"])
def test_what_an_application_leaves_running_is_named_and_does_not_make_the_process_deaf(how: str, prefix: tuple[str, ...]) -> None:
    """Python ends when the threads and children do that the application has started, which may be never."""
    if prefix and not can_unshare():
        pytest.skip("no PID namespaces here")
    with loading(how, *prefix) as process:
        process.wait_for("listening")
        os.kill(process.pid, signal.SIGTERM)
        process.wait_for("stopped; the worker ends with what the application has started: the application's")
        with pytest.raises(subprocess.TimeoutExpired):
            process.process.wait(0.5)
        os.kill(process.pid, signal.SIGTERM)
        assert process.ended() == 0
        assert "is killed" not in process.log, "the second signal ends the worker"


@pytest.mark.parametrize("lasts", ["thread", "process"])
def test_a_start_that_fails_does_not_wait_for_what_the_application_has_started(lasts: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        bind = f"127.0.0.1:{taken.getsockname()[1]}"
        with loading(lasts, TEST_BIND=bind) as process:
            assert process.ended() == 2  # so has a child: the pipe that it shares is at its end
            assert not process.reads
            assert "muxwsgi: error: " in process.log


def test_what_came_in_time_is_read_although_the_process_was_stopped_meanwhile() -> None:
    """Or the application has computed for so long: the deadline is the peer's, and the peer has kept it."""
    with ServerProcess("tests.system.counted_app", "--request-head-timeout=2") as server, server.connect() as sock:
        sock.sendall(b"GET / HTTP/1.1\r\n")
        time.sleep(0.5)
        os.kill(server.worker_pid, signal.SIGSTOP)
        sock.sendall(b"Host: a\r\n\r\n")
        time.sleep(4)
        os.kill(server.worker_pid, signal.SIGCONT)
        assert sock.recv(100).startswith(b"HTTP/1.1 200 ")


def test_a_child_of_the_application_ends_by_a_signal_that_comes_as_soon_as_it_lives() -> None:
    with loading("forks") as process:
        process.wait_for("children ended with {-15}")
        process.wait_for("listening")
        os.kill(process.pid, signal.SIGTERM)
        assert process.ended() == 0


def test_an_action_that_fails_is_logged_and_the_next_one_done(caplog: pytest.LogCaptureFixture) -> None:
    done = []

    def fail() -> None:
        raise RuntimeError("of the action")

    signals = Signals()
    signals.take((signal.SIGUSR1, signal.SIGUSR2))
    try:
        signals.act({signal.SIGUSR1: fail, signal.SIGUSR2: lambda: done.append(1)}, lambda: None)
        signal.raise_signal(signal.SIGUSR1)
        signal.raise_signal(signal.SIGUSR2)
        signals.perform()
    finally:
        signals.release()
    assert done == [1]
    assert "SIGUSR1: what it is for went wrong" in caplog.text and "RuntimeError: of the action" in caplog.text
