"""`--reuse-port`: a socket for each worker, and no connection lost in the queue of one that ends."""

import http.client
import os
import random
import signal
import socket
import threading
from collections import Counter
from functools import partial
from pathlib import Path

from muxwsgi.server.binds import listen_on
from muxwsgi.settings import BindSettings
from tests.server.test_upgrade import Service, ended, service
from tests.system.server_process import ServerProcess
from tests.waiting import wait_for

APP = "tests.system.front_app"


def accepted(sockets: list[socket.socket]) -> list[int]:
    """How many connections wait in each queue, which is empty after that."""
    counts = []
    for each in sockets:
        counts.append(0)
        while True:
            try:
                each.accept()[0].close()
                counts[-1] += 1
            except BlockingIOError:
                break
    return counts


def test_the_kernel_chooses_among_the_slots_that_are_live() -> None:
    for host in ("127.0.0.1", "::1"):
        (listening,) = listen_on([BindSettings(host=host, reuse_port=True)], 512)
        listening.grow(4)
        try:
            for live in ((0, 1, 2, 3), (0, 2), (3,), (0, 1, 2, 3)):
                listening.steer(live)
                clients = [socket.create_connection(listening.name[:2]) for _ in range(200)]
                counts = accepted(listening.sockets)
                assert sum(counts) == 200 and {slot for slot, count in enumerate(counts) if count} == set(live), counts
                for each in clients:
                    each.close()
        finally:
            listening.close()


def sockets_of(port: int) -> int:
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return sum(1 for line in lines if line.split()[3] == "0A" and line.split()[1].endswith(f":{port:04X}"))


def load(server: "Service", stop: threading.Event, failed: list[str], seen: "Counter[str]") -> None:
    """Each request on a connection of its own, so that all pass through a queue."""
    while not stop.is_set():
        try:
            seen[server.ask()[1]] += 1
        except (OSError, http.client.HTTPException, IndexError) as error:
            failed.append(repr(error))


def test_nothing_is_lost_when_workers_come_and_go_and_in_reloads_and_upgrades(tmp_path: Path) -> None:
    stop, failed, seen = threading.Event(), [], Counter[str]()
    with service(tmp_path, "--reuse-port", "-w", "2") as server:
        assert sockets_of(server.port) == 2
        clients = [threading.Thread(target=load, args=(server, stop, failed, seen), daemon=True) for _ in range(4)]
        for each in clients:
            each.start()
        try:
            generator = random.Random(1)
            for _ in range(12):
                os.kill(server.master, generator.choice([signal.SIGTTIN, signal.SIGTTOU]))
                before = seen.total()
                wait_for(lambda before=before: seen.total() > before + 15, lambda: server.log)
            for number in range(2):
                os.kill(server.master, signal.SIGHUP)
                wait_for(lambda number=number: server.log.count("workers are ready") == number + 2, lambda: server.log)
            old = server.upgrade()
            wait_for(partial(ended, old) if old != server.process.pid else lambda: server.process.poll() is not None, lambda: server.log)
            before = seen.total()
            wait_for(lambda: seen.total() > before + 50, lambda: server.log)
        finally:
            stop.set()
            for each in clients:
                each.join(30)
        assert failed == [] and len(seen) >= 6, (failed[:5], server.log)


def test_a_worker_that_was_killed_gets_no_connection_until_another_one_is_ready() -> None:
    with ServerProcess(APP, "--reuse-port", "-w", "2") as server:
        server.wait_for_log("workers are ready")
        assert sockets_of(server.port) >= 2
        pids = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
        assert len(pids) == 2
        os.kill(int(pids[0]), signal.SIGSTOP)
        os.kill(int(pids[0]), signal.SIGKILL)
        server.wait_for_log("another one starts")
        for _ in range(20):
            assert server.get("/", timeout=5)[0] == 200
        assert server.stop() == 0


def test_a_unix_socket_stays_shared(tmp_path: Path) -> None:
    with ServerProcess(APP, "--reuse-port", "-w", "2", "-b", f"unix:{tmp_path}/socket") as server:
        assert server.get("/")[0] == 200
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(20)
            sock.connect(f"{tmp_path}/socket")
            sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert sock.recv(4096).startswith(b"HTTP/1.1 200")
