"""One turn of one server under one load."""

import http.client
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from tests.bench.hello import BODY
from tests.bench.loads import Load
from tests.bench.peers import Certificate, Peer

__all__ = ["BenchError", "Figures", "measure"]

START_TIMEOUT = 20.0
WARM_UP = 1
TICK = 1 / os.sysconf("SC_CLK_TCK")
MILLISECONDS = {"us": 0.001, "ms": 1.0, "s": 1000.0}


class BenchError(Exception):
    """The turn says nothing: the server did not start, or gave errors or another body."""


@dataclass(frozen=True)
class Figures:
    """Requests per second; microseconds of the server's user + system time per request; latencies in milliseconds."""

    requests_per_second: float
    cpu_per_request: float
    p50: float
    p99: float


def measure(peer: Peer, load: Load, certificate: Certificate, seconds: int) -> Figures:
    """Start `peer`, see that it answers right, warm it up, load it for `seconds`, stop it."""
    wrk = shutil.which("wrk")
    if wrk is None:
        raise BenchError("wrk is missing (Debian package wrk)")
    port = _free_port()
    used = certificate if load.tls else None
    server = subprocess.Popen(
        ["taskset", "-c", "0", *peer.command(port, used)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    try:
        _await_answer(server, port, load.tls)
        url = f"{'https' if load.tls else 'http'}://127.0.0.1:{port}/"
        command = ["taskset", "-c", "1", wrk, "-t1", f"-c{load.connections}", "--latency"]
        for field in load.fields:
            command += ["-H", field]
        subprocess.run([*command, f"-d{WARM_UP}", url], check=True, capture_output=True)
        before = _cpu_seconds(server.pid)
        report = subprocess.run([*command, f"-d{seconds}", url], check=True, capture_output=True, text=True).stdout
        used_cpu = _cpu_seconds(server.pid) - before
    finally:
        server.send_signal(signal.SIGTERM)
        try:
            server.wait(5)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
    return _read(report, used_cpu)


def _read(report: str, used_cpu: float) -> Figures:
    if "Non-2xx" in report or re.search(r"Socket errors: (?!connect 0, read 0, write 0, timeout 0)", report):
        raise BenchError(f"errors under load:\n{report}")
    counted = re.search(r"(\d+) requests in", report)
    speed = re.search(r"Requests/sec:\s+([\d.]+)", report)
    latency = {m[1]: float(m[2]) * MILLISECONDS[m[3]] for m in re.finditer(r"^\s+(\d+)%\s+([\d.]+)(us|ms|s)$", report, re.M)}
    if counted is None or speed is None or not {"50", "99"} <= latency.keys():
        raise BenchError(f"wrk said something unexpected:\n{report}")
    return Figures(float(speed[1]), used_cpu / int(counted[1]) * 1e6, latency["50"], latency["99"])


def _await_answer(server: "subprocess.Popen[str]", port: int, tls: bool) -> None:
    give_up = time.monotonic() + START_TIMEOUT
    while True:
        try:
            body = _get(port, tls)
            break
        except OSError as error:
            if server.poll() is not None:
                raise BenchError(f"the server ended:\n{server.stderr.read() if server.stderr else ''}") from error
            if time.monotonic() > give_up:
                raise BenchError(f"no answer within {START_TIMEOUT:g} s: {error}") from error
            time.sleep(0.05)
    if body != BODY:
        raise BenchError(f"the answer is {body!r}, not {BODY!r}")


def _get(port: int, tls: bool) -> bytes:
    connection: http.client.HTTPConnection
    if tls:
        context = ssl._create_unverified_context()
        connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=5, context=context)
    else:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/")
        return connection.getresponse().read()
    finally:
        connection.close()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def _cpu_seconds(root: int) -> float:
    """User + system seconds of a process and all that descend from it."""
    children: dict[int, list[int]] = {}
    used: dict[int, float] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                # The command's name, in parentheses, may hold spaces.
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue  # it ended meanwhile
            children.setdefault(int(fields[1]), []).append(int(entry.name))
            used[int(entry.name)] = (int(fields[11]) + int(fields[12])) * TICK
    total = 0.0
    pending = [root]
    while pending:
        pid = pending.pop()
        total += used.get(pid, 0.0)
        pending += children.get(pid, [])
    return total
