"""Starting on a machine that is short of something, or that is stopped in the middle: what is left behind, and what the operator reads."""

import os
import random
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.ports import reserved_port
from tests.system.other_user import NOBODY, NOGROUP, interpreter
from tests.system.server_process import ROOT, ServerProcess
from tests.waiting import wait_for

APP = "tests.system.front_app"


def children_of(pid: int) -> list[int]:
    try:
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def is_running(pid: int) -> bool:
    try:
        return not re.search(r"^State:\s+Z", Path(f"/proc/{pid}/status").read_text(), re.M)
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT], ids=lambda number: number.name)
def test_a_signal_in_any_phase_of_the_start_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    command = [sys.executable, "-m", "muxwsgi", "run", APP, "-w", "2", "-b", f"unix:{tmp_path}/socket", "--pid", f"{tmp_path}/app.pid"]
    statuses = set()
    for _ in range(25):
        process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
        time.sleep(random.uniform(0.0, 1.5))
        workers = children_of(process.pid)
        process.send_signal(number)
        log = process.communicate(timeout=30)[1]
        statuses.add(process.returncode)
        wait_for(lambda workers=workers: not any(map(is_running, workers)), log)
        assert os.listdir(tmp_path) == [], log
        assert "Traceback" not in log or (number == signal.SIGINT and log.endswith("KeyboardInterrupt\n")), log
        # Before our first line runs, the signal does what it does to any Python program.
        assert process.returncode in (0, -number) or (number == signal.SIGINT and (process.returncode == 130 or "KeyboardInterrupt" in log)), log
    assert 0 in statuses


@pytest.mark.skipif(os.geteuid() != 0, reason="the limit does not hold for root, so another user is needed")
def test_a_machine_without_room_for_a_process_is_one_line() -> None:
    python, variables = interpreter()
    user = 54_321  # nobody else's processes count
    command = ["setpriv", f"--reuid={user}", f"--regid={NOGROUP}", "--clear-groups", "prlimit", "--nproc=1", python, "-m", "muxwsgi", "run", APP]
    ran = subprocess.run(
        [*command, "-b", "127.0.0.1:0", "-w", "2"], cwd=ROOT, env={**os.environ, **variables}, capture_output=True, text=True, timeout=60
    )
    assert ran.returncode == 1 and ran.stderr.splitlines()[-1] == "muxwsgi: error: no worker can be started: Resource temporarily unavailable", ran.stderr


@pytest.mark.parametrize("limit", [pytest.param(n, marks=() if n in (9, 12, 13) else pytest.mark.slow) for n in range(5, 17)])
def test_a_limit_of_descriptors_is_one_line_and_leaves_nothing(tmp_path: Path, limit: int) -> None:
    command = ["prlimit", f"--nofile={limit}", sys.executable, "-m", "muxwsgi", "run", APP, "-b", f"unix:{tmp_path}/socket"]
    ran = subprocess.run([*command, "--pid", f"{tmp_path}/app.pid"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert ran.returncode in (1, 2) and ran.stderr.splitlines()[-1].endswith(": Too many open files"), ran.stderr
    assert ran.stderr.splitlines()[-1].startswith("muxwsgi: error: ") and "Traceback" not in ran.stderr, ran.stderr
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)])
def test_closed_standard_streams_do_not_become_a_socket_or_a_pid_file(tmp_path: Path, closed: tuple[int, ...]) -> None:
    pid = tmp_path / "app.pid"

    def close() -> None:
        for fd in closed:
            os.close(fd)

    with ServerProcess(APP, "--pid", str(pid), "-w", "2", preexec=close, stderr=subprocess.DEVNULL) as server:
        assert server.get("/")[0] == 200
        wait_for(lambda: pid.read_text() == f"{server.pid}\n")
        for fd in closed:
            for each in (server.pid, *children_of(server.pid)):
                where = os.readlink(f"/proc/{each}/fd/{fd}")
                assert where == "/dev/null", where
        assert server.stop() == 0


def test_a_full_pipe_on_standard_output_stops_nobody() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    try:
        with ServerProcess(APP, "--access-logfile", "-", "-w", "2", stdout=writing) as server:
            filled = 0
            while True:
                try:
                    filled += os.write(writing, b"x" * 65536)
                except BlockingIOError:
                    break
            for _ in range(30):
                assert server.get("/" + "p" * 200)[0] == 200
            server.send_signal(signal.SIGHUP)
            server.wait_for_log_times("ready", 2)
            assert server.get("/")[0] == 200
            assert server.stop() == 0
    finally:
        os.close(reading)
        os.close(writing)


def test_what_a_full_pipe_has_not_taken_is_written_as_soon_as_it_is_read() -> None:
    """Also by the master, which may log nothing more for days."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    os.set_blocking(reading, False)
    read = bytearray()

    def arrived(text: bytes) -> bool:
        try:
            read.extend(os.read(reading, 1 << 20))
        except BlockingIOError:
            pass
        return text in read

    try:
        with ServerProcess(APP, stderr=writing) as server:
            wait_for(lambda: arrived(b" ready\n"))
            while True:
                try:
                    os.write(writing, b"x" * 4096)
                except BlockingIOError:
                    break
            before = server.worker_pids
            server.send_signal(signal.SIGHUP)
            wait_for(lambda: len(server.worker_pids) == 1 and server.worker_pids != before)
            read.clear()
            wait_for(lambda: arrived(b"worker is ready") and arrived(b"has ended"), lambda: read.lstrip(b"x").decode())
            assert server.stop() == 0
    finally:
        os.close(reading)
        os.close(writing)


def test_nohup_makes_a_reload_of_the_terminal_s_sighup() -> None:
    with ServerProcess(APP, preexec=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN) and None) as server:
        server.send_signal(signal.SIGHUP)
        server.wait_for_log_times("ready", 2)
        assert server.get("/")[0] == 200


def test_a_limit_on_files_that_the_logs_reach_ends_no_worker(tmp_path: Path) -> None:
    """RLIMIT_FSIZE: the log cannot grow. The kernel sends SIGXFSZ, which Python ignores."""
    log = tmp_path / "access.log"

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))

    whole = {"PYTHONDONTWRITEBYTECODE": "1"}  # Python would leave a part of a compiled module
    with ServerProcess(APP, "--access-logfile", str(log), preexec=limit, environment=whole) as server:
        workers = children_of(server.pid)
        for _ in range(40):
            assert server.get("/" + "p" * 100)[0] == 200
        server.wait_for_log("lines are lost, the traffic goes on")
        assert children_of(server.pid) == workers and log.stat().st_size <= 2000


def test_a_clock_that_is_set_back_an_hour_ends_nothing(tmp_path: Path) -> None:
    (library,) = Path("/usr/lib").glob("*/faketime/libfaketime.so.1")
    clock = tmp_path / "clock"
    clock.write_text("+0")
    environment = {
        "LD_PRELOAD": str(library), "FAKETIME_TIMESTAMP_FILE": str(clock), "FAKETIME_NO_CACHE": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",
    }
    log = tmp_path / "access.log"
    with ServerProcess(APP, "-w", "2", "--timeout", "3", "--access-logfile", str(log), environment=environment) as server:
        with server.connect() as kept:
            request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
            kept.sendall(request)
            assert kept.recv(65536).startswith(b"HTTP/1.1 200")
            workers = children_of(server.pid)
            now = time.time()
            clock.write_text("-3600")
            wait_for(lambda: now - 3700 < date_of(server, kept, request) < now - 3500, lambda: server.log)
            time.sleep(5)  # longer than --timeout
            kept.sendall(request)
            assert kept.recv(65536).startswith(b"HTTP/1.1 200")
            assert children_of(server.pid) == workers and "blocked" not in server.log
        server.send_signal(signal.SIGHUP)
        server.wait_for_log_times("workers are ready", 2)
        assert server.get("/")[0] == 200
        assert server.stop() == 0
    assert " 200 " in log.read_text()


def date_of(server: ServerProcess, sock: object, request: bytes) -> float:
    """The Date of an answer, in seconds."""
    from email.utils import parsedate_to_datetime

    sock.sendall(request)  # type: ignore[attr-defined]
    answer: bytes = sock.recv(65536)  # type: ignore[attr-defined]
    (date,) = re.findall(rb"\r\nDate: ([^\r]+)", answer)
    return parsedate_to_datetime(date.decode()).timestamp()


@pytest.mark.skipif(os.geteuid() != 0, reason="root's ports")
def test_a_port_that_only_root_may_open_is_one_line_for_others() -> None:
    python, variables = interpreter()
    limit = int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())
    if limit == 0:
        pytest.skip("every user may open every port here")
    ran = subprocess.run(
        ["setpriv", f"--reuid={NOBODY}", f"--regid={NOGROUP}", "--clear-groups", python, "-m", "muxwsgi", "run", APP, "-b", f"127.0.0.1:{limit - 1}"],
        cwd=ROOT, env={**os.environ, **variables}, capture_output=True, text=True, timeout=60,
    )
    assert (ran.returncode, ran.stderr) == (2, f"muxwsgi: error: bind 127.0.0.1:{limit - 1}: Permission denied\n")


def test_a_second_server_on_the_port_of_a_first_one_leaves_it_alone() -> None:
    with reserved_port() as reserved, ServerProcess(APP, "-b", f"127.0.0.1:{reserved.getsockname()[1]}") as server:
        ran = subprocess.run(
            [sys.executable, "-m", "muxwsgi", "run", APP, "-b", f"127.0.0.1:{reserved.getsockname()[1]}"], cwd=ROOT, capture_output=True, text=True, timeout=60
        )
        assert ran.returncode == 2 and "Address already in use" in ran.stderr
        assert server.get("/")[0] == 200
