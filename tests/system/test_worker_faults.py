"""What a worker is spared or replaced for: endless loops, crashes in C, want of memory, full disks. Others are served meanwhile."""

import contextlib
import ctypes
import json
import os
import resource
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests

from tests.system.server_process import ServerProcess
from tests.waiting import wait_for

REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture
def installed(tmp_path: Path) -> str:
    """A folder with the hijackers as an installed package has them, and the application."""
    (tmp_path / "faulty_hijackers.py").write_text(Path(__file__).with_name("faulty_hijackers.py").read_text())
    folder = tmp_path / "faulty_hijackers-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: faulty-hijackers\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text("[muxwsgi.hijack]\nspins = faulty_hijackers:spins\ncrashes = faulty_hijackers:crashes\n")
    return str(tmp_path)


@contextlib.contextmanager
def serving(installed: str, *options: str, preexec: Callable[[], None] | None = None, **environment: str) -> Iterator[ServerProcess]:
    environment = {"PYTHONPATH": installed, "PYTHONDONTWRITEBYTECODE": "1", **environment}
    with ServerProcess("faulty_hijackers:app", *options, environment=environment, preexec=preexec) as server:
        yield server


def ask(sock: socket.socket) -> int:
    """The worker that answers on a kept connection."""
    sock.sendall(REQUEST)
    answer = sock.recv(1000)
    assert answer.startswith(b"HTTP/1.1 200 "), answer
    return int(answer.rpartition(b"\r\n")[2].split()[0])


@contextlib.contextmanager
def client_of_each(server: ServerProcess) -> Iterator[dict[int, socket.socket]]:
    """A kept connection with each worker."""
    with contextlib.ExitStack() as stack:
        clients: dict[int, socket.socket] = {}
        while len(clients) < len(server.worker_pids):
            sock = stack.enter_context(server.connect())
            clients.setdefault(ask(sock), sock)
            assert len(clients) < 50
        yield clients


def sent(server: ServerProcess, data: bytes) -> socket.socket:
    sock = server.connect()
    sock.sendall(data)
    return sock


def at_end(sock: socket.socket) -> bool:
    try:
        return sock.recv(1) == b""
    except ConnectionResetError:
        return True


def test_a_hijacker_that_never_yields_is_reported_and_its_worker_replaced(installed: str) -> None:
    with serving(installed, "-w", "2", "--timeout", "1") as server, client_of_each(server) as clients:
        with sent(server, b"SPIN") as spinning:
            server.wait_for_log("its event loop is blocked", patience=30)
            assert "route 'spins'" in server.log and "in spin_for_a_minute" in server.log, server.log
            (blocked,) = [pid for pid in clients if f"worker {pid}: its event loop is blocked" in server.log]
            (other,) = clients.keys() - {blocked}
            assert ask(clients[other]) == other, "the other worker goes on"
            server.wait_for_log(f"worker {blocked} has ended by SIGKILL", patience=30)
            assert at_end(spinning) and at_end(clients[blocked])
        assert ask(clients[other]) == other and server.get("/")[0] == 200
        assert len(server.worker_pids) == 2
        assert server.stop() == 0


@pytest.mark.parametrize("way", ["hijacker", "application"])
def test_a_crash_in_c_shows_its_stack_and_costs_what_that_worker_held(installed: str, way: str) -> None:
    with serving(installed, "-w", "2") as server, client_of_each(server) as clients:
        with sent(server, b"CRASH" if way == "hijacker" else b"GET /crash HTTP/1.1\r\nHost: localhost\r\n\r\n") as sock:
            assert at_end(sock)
        server.wait_for_log("has ended by SIGSEGV: another one starts", patience=30)
        assert "Fatal Python error: Segmentation fault" in server.log and "in read_address_0" in server.log, server.log
        (crashed,) = [pid for pid in clients if f"worker {pid} has ended by SIGSEGV" in server.log]
        (other,) = clients.keys() - {crashed}
        assert ask(clients[other]) == other and at_end(clients[crashed])
        wait_for(lambda: len(server.worker_pids) == 2 and crashed not in server.worker_pids, lambda: server.log)
        assert server.get("/")[0] == 200
        assert server.stop() == 0


def test_a_worker_without_memory_answers_500_and_one_that_the_kernel_kills_for_it_is_replaced(installed: str) -> None:
    """The first half is real: RLIMIT_AS. The second is the signal alone that the kernel sends: a memory cgroup would have to be made."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))

    with serving(installed, "-w", "2", preexec=limit) as server, client_of_each(server) as clients:
        assert server.get("/eat")[0] == 500
        server.wait_for_log("MemoryError")
        assert set(server.worker_pids) == set(clients)
        killed, other = clients
        os.kill(killed, signal.SIGKILL)
        server.wait_for_log(f"worker {killed} has ended by SIGKILL, perhaps for want of memory: another one starts", patience=30)
        assert ask(clients[other]) == other and at_end(clients[killed])
        wait_for(lambda: len(server.worker_pids) == 2, lambda: server.log)
        assert server.stop() == 0


def small_disk(folder: Path) -> Callable[[], None]:
    """For `preexec`: a disk of 2 MB on `folder`, in a mount namespace of the process."""
    new_namespace, recursive_and_private = 0x20000, 0x44000  # CLONE_NEWNS; MS_REC | MS_PRIVATE

    def mount() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        for result in (
            libc.unshare(new_namespace),
            libc.mount(b"none", b"/", None, recursive_and_private, None),
            libc.mount(b"none", os.fsencode(folder), b"tmpfs", 0, b"size=2m"),
        ):
            if result != 0:
                raise OSError(ctypes.get_errno(), "mount")

    return mount


@pytest.mark.skipif(os.geteuid() != 0, reason="a file system is mounted, in a namespace")
def test_a_full_disk_costs_what_is_written_to_it_and_nothing_else(installed: str, tmp_path: Path) -> None:
    """Under the access log, the spool of chunked bodies, and the application."""
    disk = tmp_path / "disk"
    disk.mkdir()
    log, filler = disk / "access.log", disk / "filler"
    options = ("--access-logfile", str(log), "--buffer-chunked", "always")
    with serving(installed, *options, preexec=small_disk(disk), TMPDIR=str(disk)) as server, server.connect() as kept:
        inside = Path(f"/proc/{server.pid}/root{log}")
        worker = ask(kept)
        answer = requests.post(f"http://{server.address}/", data=iter([bytes(100_000)] * 50), timeout=60)
        assert answer.status_code == 507
        server.wait_for_log("cannot be buffered in")
        answer = requests.post(f"http://{server.address}/", data=iter([bytes(100_000)] * 3), timeout=60)
        assert (answer.status_code, answer.text) == (200, f"{worker} 300000"), "the space was given back"

        assert server.get(f"/write?{filler}")[0] == 200
        assert server.get(f"/write?{filler}2")[0] == 500
        server.wait_for_log("OSError: [Errno 28] No space left on device")
        tracebacks = len(server.tracebacks())
        for _ in range(20):
            assert server.get("/" + "p" * 4000)[0] == 200
            assert ask(kept) == worker
        server.wait_for_log("lines are lost, the traffic goes on")
        for name in ("filler", "filler2"):
            server.get(f"/remove?{disk / name}")
        assert server.get("/written-again")[0] == 200
        wait_for(lambda: b"/written-again" in inside.read_bytes(), lambda: server.log)
        assert len(server.tracebacks()) == tracebacks and server.worker_pids == [worker]
        assert server.stop() == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="a file system is mounted, in a namespace")
def test_a_full_disk_under_the_records_of_a_proxy_costs_records_and_leaves_whole_files(installed: str, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    options = ("--flows", str(disk / "flows"), "--har", str(disk / "traffic.har"), "--allow-destination", "127.0.0.1")
    with serving(installed) as origin, ServerProcess(None, *options, preexec=small_disk(disk)) as proxy:
        inside = Path(f"/proc/{proxy.pid}/root{disk}")

        def ask(path: str) -> None:
            answer = requests.get(f"http://{origin.address}/{path}", proxies={"http": f"http://{proxy.address}"}, timeout=30)
            assert answer.status_code == 200, answer.text

        ask("before")
        wait_for(lambda: b"/before" in (inside / "flows").read_bytes() and b"/before" in (inside / "traffic.har").read_bytes(), lambda: proxy.log)
        with contextlib.suppress(OSError), open(inside / "filler", "wb", buffering=0) as filler:
            while True:
                filler.write(bytes(4096))
        for number in range(10):  # the last page of each file takes some
            ask(f"while-full/{number}?{'x' * 3000}")
        wait_for(lambda: proxy.log.count("No space left on device; flows are lost") == 2, lambda: proxy.log)
        (inside / "filler").unlink()
        ask("after")
        wait_for(lambda: b"/after" in (inside / "flows").read_bytes() and b"/after" in (inside / "traffic.har").read_bytes(), lambda: proxy.log)
        flows = [json.loads(line) for line in (inside / "flows").read_text().splitlines()]
        entries = json.loads((inside / "traffic.har").read_text())["log"]["entries"]
        for found in (json.dumps(flows), json.dumps(entries)):
            assert "/before" in found and "/after" in found and found.count("while-full") < 40
        assert "Traceback" not in proxy.log
        assert proxy.stop() == 0
