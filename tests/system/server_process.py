"""`muxwsgi run` or `muxwsgi proxy` as a master with a worker, on a free port of the loopback, and clients that misbehave in stated ways."""

import http.client
import json
import os
import re
import signal
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from muxwsgi.server.heartbeat import ASK
from tests.ports import reserved_port
from tests.waiting import wait_for
from tests.warm import Popen

__all__ = ["ServerProcess", "insecure_context", "reset", "takes_signal"]

START_TIMEOUT = 20.0
ROOT = Path(__file__).parents[2]


def insecure_context() -> ssl.SSLContext:
    """A client context that takes the development certificate."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def reset(sock: socket.socket) -> None:
    """Close so that the peer gets an RST instead of a FIN."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


class ServerProcess:
    """Runs `muxwsgi run APP OPTIONS` bound to a free port; a context manager that ends it by its own process id. Without an app it is
    `muxwsgi proxy OPTIONS`.

    `log` is what it has written to its standard error so far. If its error log is a file, `log` has the rest.
    """

    def __init__(
        self,
        app: str | None,
        *options: str,
        tls: bool = False,
        bind_options: str = "",
        environment: dict[str, str] | None = None,
        stdout: int = subprocess.DEVNULL,
        stderr: int = subprocess.PIPE,
        preexec: Callable[[], None] | None = None,
        error_log: Path | None = None,
        cold: bool = False,
    ) -> None:
        """`error_log` is the file of the error log, if a configuration file names it. `cold`: it has to import everything itself, which is
        what the test is about; see `warm`."""
        self.tls = tls
        self._reserved = reserved_port()
        self.port: int = self._reserved.getsockname()[1]
        self._lines: list[str] = []
        self._opened: list[socket.socket] = []
        self._error_log = error_log or _error_log_of(options)
        self._error_log_is_elsewhere = any(option.startswith(("--error-logfile", "--log-config", "-c", "--config")) for option in options)
        self._is_quiet = any(option.removeprefix("--log-level=") in ("warning", "error", "critical") for option in options)
        subcommand = ["proxy"] if app is None else ["run", app]
        command = [sys.executable, "-m", "muxwsgi", *subcommand, "-b", f"127.0.0.1:{self.port}{bind_options}", *options]
        self._process = (subprocess.Popen if cold else Popen)(
            [*command, "--tls-dev"] if tls else command,
            cwd=ROOT,
            env={**os.environ, **(environment or {})},
            stdout=stdout,
            stderr=stderr,
            text=True,
            preexec_fn=preexec,
        )
        self._reader = threading.Thread(target=self._read_log, daemon=True)
        self._reader.start()

    def _read_log(self) -> None:
        if self._process.stderr is not None:
            for line in self._process.stderr:
                self._lines.append(line)

    @property
    def pid(self) -> int:
        """Of the master, to which an operator sends signals."""
        return self._process.pid

    @property
    def worker_pids(self) -> list[int]:
        """Of the workers, which serve, and the workers that are ending."""
        return [pid for pid in self.child_pids if not _is_called(pid, b"muxwsgi: admin ", b"muxwsgi: preloader ")]

    @property
    def child_pids(self) -> list[int]:
        """Of all children of the master."""
        return [int(pid) for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]

    @property
    def worker_pid(self) -> int:
        """Of the only worker, which loads the application and serves."""
        (pid,) = self.worker_pids
        return pid

    @property
    def address(self) -> str:
        """HOST:PORT."""
        return f"127.0.0.1:{self.port}"

    def send_signal(self, sig: signal.Signals) -> None:
        """Send a signal to the process."""
        self._process.send_signal(sig)

    def wait_for_log(self, text: str, patience: float = 10) -> None:
        """Until `text` stands in the log."""
        wait_for(lambda: text in self.log, lambda: f"{text!r} never came:\n{self.log}", patience)

    def wait_for_log_times(self, text: str, times: int, patience: float = 20) -> None:
        """Until `text` stands there so often."""
        wait_for(lambda: self.log.count(text) >= times, lambda: f"{text!r} did not come {times} times:\n{self.log}", patience)

    @property
    def log(self) -> str:
        return "".join(self._lines)

    def __enter__(self) -> Self:
        give_up = time.monotonic() + START_TIMEOUT
        while not self._serves():
            if self._process.poll() is not None or time.monotonic() > give_up:
                self.stop()
                raise AssertionError(f"the server does not serve:\n{self.log}") from None
            time.sleep(0.02)
        return self

    def _serves(self) -> bool:
        """Whether its workers accept, and the master knows it. A client could connect before, and would wait in the backlog."""
        if self._error_log is not None and not self._is_quiet:
            return self._error_log.is_file() and " ready\n" in self._error_log.read_text()
        if self._process.stderr is not None and not self._error_log_is_elsewhere and not self._is_quiet:
            return " ready\n" in self.log
        try:
            pids = self.worker_pids
            return bool(pids) and all(takes_signal(pid, ASK) for pid in pids)
        except FileNotFoundError:
            return False

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for sock in self._opened:  # the server would wait for those that the test has left open
            sock.close()
        try:
            self.stop()
        finally:
            self._reserved.close()

    def stop(self, sig: signal.Signals = signal.SIGTERM, timeout: float = 15) -> int:
        """Send `sig` and wait; the exit status. Killed, which no test accepts, where it does not end in time."""
        if self._process.poll() is None:
            self._process.send_signal(sig)
            try:
                self._process.wait(timeout)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
                raise AssertionError(f"the server did not end within {timeout:g} s:\n{self.log}") from None
        self._reader.join(5)
        return self._process.returncode

    def ended(self, timeout: float = 15) -> int:
        """Wait until it has ended after a signal that was sent; the exit status."""
        self._process.wait(timeout)
        self._reader.join(5)
        return self._process.returncode

    def connect(self) -> socket.socket:
        """A TCP connection, whatever the server speaks on it."""
        sock = socket.create_connection(("127.0.0.1", self.port), timeout=10)
        self._opened.append(sock)
        return sock

    def open(self) -> socket.socket:
        """A connection that is ready for bytes: through TLS where the server has it."""
        sock = self.connect()
        if self.tls:
            sock = insecure_context().wrap_socket(sock, server_hostname="localhost")
            self._opened.append(sock)
        return sock

    def get(self, path: str, timeout: float = 10) -> tuple[int, bytes]:
        """Status and body of a request on a connection of its own."""
        connection = (
            http.client.HTTPSConnection("127.0.0.1", self.port, timeout=timeout, context=insecure_context())
            if self.tls
            else http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        )
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def counts(self) -> dict[str, int]:
        """What the process holds, as the counted application tells."""
        status, body = self.get("/counts")
        assert status == 200, body
        counted: dict[str, int] = json.loads(body)
        return counted

    def settled_counts(self, baseline: dict[str, int], patience: float = 15) -> dict[str, int]:
        """The counts once descriptors, greenlets and connections are back at `baseline`, or as they are after `patience` seconds."""
        give_up = time.monotonic() + patience
        while True:
            now = self.counts()
            if all(now[key] <= baseline[key] for key in ("descriptors", "greenlets", "connections")) or time.monotonic() > give_up:
                return now
            time.sleep(0.2)

    def tracebacks(self) -> list[str]:
        """The first lines of tracebacks in the log."""
        return re.findall(r"^Traceback.*$", self.log, re.M)


def takes_signal(pid: int, number: int) -> bool:
    """Whether the process has a handler for the signal. A worker that is ready has one for the master's question."""
    (caught,) = re.findall(r"^SigCgt:\s*(\w+)$", Path(f"/proc/{pid}/status").read_text(), re.M)
    return bool(int(caught, 16) >> (number - 1) & 1)


def _is_called(pid: int, *titles: bytes) -> bool:
    """Whether its title begins with one of these."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().startswith(titles)
    except (FileNotFoundError, ProcessLookupError):
        return False  # it has ended meanwhile


def _error_log_of(options: tuple[str, ...]) -> Path | None:
    """The file that the option names."""
    for number, option in enumerate(options):
        name, equals, value = option.partition("=")
        if name == "--error-logfile":
            path = value if equals else options[number + 1]
            return None if path == "-" or path.startswith("/dev/") else Path(path)
    return None


def read_until_closed(sock: socket.socket, limit: int = 1 << 20) -> bytes:
    """All that the server still says; bounded in bytes here and in time by the socket's timeout."""
    data = b""
    while len(data) < limit:
        try:
            part = sock.recv(65536)
        except (ConnectionResetError, ssl.SSLError):
            break
        if not part:
            break
        data += part
    return data
