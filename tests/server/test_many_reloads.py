"""Many reloads one after the other leave nothing behind: no descriptor, no process, no memory, no entry of the page.

`TEST_RELOADS=200` makes it as many; the default is short.
"""

import os
import re
import signal
from pathlib import Path

import pytest

from muxwsgi.server.page import SharedPage
from tests.system.server_process import ServerProcess
from tests.waiting import wait_for

RELOADS = int(os.environ.get("TEST_RELOADS", "20"))

APPLICATION = """
def app(environ, start_response):
    start_response("200 OK", [("Content-Length", "5")])
    return [b"hello"]
"""


def memory(pid: int) -> int:
    """Bytes of a process, with its share of what it shares (Pss, proc_pid_smaps(5))."""
    (found,) = re.findall(r"^Pss:\s+(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.M)
    return int(found) << 10


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("--preload", "--reuse-port")], ids=["plain", "preload"])
def test_many_reloads_leave_nothing_behind(tmp_path: Path, options: tuple[str, ...]) -> None:
    (tmp_path / "reloaded.py").write_text(APPLICATION)
    more = ("-w", "2", "--pythonpath", str(tmp_path), "--control-socket", str(tmp_path / "ctl"), "--graceful-timeout", "2", *options)
    with ServerProcess("reloaded:app", *more) as server:

        def reload(times: int) -> None:
            before = server.log.count("2 workers are ready")
            for number in range(before + 1, before + 1 + times):
                old = server.child_pids
                server.send_signal(signal.SIGHUP)
                server.wait_for_log_times("2 workers are ready", number, patience=60)
                assert server.get("/") == (200, b"hello")
                wait_for(lambda old=old: not set(old) & set(server.child_pids), lambda: server.log, patience=60)

        reload(3)  # caches and pools of allocators are as large as they get
        processes, opened, used = len(server.child_pids), descriptors(server.pid), memory(server.pid)
        of_worker = descriptors(server.worker_pids[0]), memory(server.worker_pids[0])
        reload(RELOADS)
        print(f"{RELOADS} reloads: the master's Pss was {used >> 10} KiB and is {memory(server.pid) >> 10} KiB")
        assert len(server.child_pids) == processes
        assert descriptors(server.pid) == opened
        # A worker that has just taken over still closes what it was handed, and the connection of the last request.
        wait_for(lambda: descriptors(server.worker_pids[0]) <= of_worker[0], lambda: server.log)
        assert memory(server.pid) - used < (2 << 20) + RELOADS * 4096, f"{used} before, {memory(server.pid)} after {RELOADS} reloads"
        assert memory(server.worker_pids[0]) - of_worker[1] < 4 << 20
        assert server.stop(timeout=60) == 0 and server.tracebacks() == []


def test_entries_of_ended_workers_are_used_again() -> None:
    page = SharedPage(entries=4)
    for generation in range(1, 1000):
        taken = [page.take(number, generation) for number in range(2)]
        assert {entry.index for entry in taken} <= {1, 2}
        for entry in taken:
            page.retire(entry)
    page.close()
