"""Processes on a processor of their own: started, ended, and what they use."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

__all__ = ["LOAD_CPU", "ROOT", "SERVER_CPU", "BenchError", "cpu_seconds", "memory", "pinned", "started"]

SERVER_CPU = 0
LOAD_CPU = 1
#: The checkout: where `tests.bench` can be imported from.
ROOT = Path(__file__).resolve().parents[2]
TICK = 1 / os.sysconf("SC_CLK_TCK")
#: Seconds that a server has to end by itself, which none needs when nothing is open.
PATIENCE = 3.0


class BenchError(Exception):
    """The turn says nothing: a server did not start, a load failed, or an answer was wrong."""


def pinned(
    command: Sequence[str], cpu: int, *, environment: Mapping[str, str] | None = None, **options: object
) -> "subprocess.Popen[bytes]":
    """A process, and all that will descend from it, on processor `cpu`, in a session of its own."""
    process: subprocess.Popen[bytes] = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, **(environment or {})},
        start_new_session=True,
        preexec_fn=lambda: os.sched_setaffinity(0, {cpu}),
        **options,  # type: ignore[call-overload]
    )
    return process


@contextmanager
def started(
    command: Sequence[str], cpu: int, log: Path, environment: Mapping[str, str] | None = None
) -> Iterator["subprocess.Popen[bytes]"]:
    """A server that writes to `log` and is ended, with whatever it started, when the block is left."""
    with log.open("wb") as output:
        process = pinned(command, cpu, environment=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        give_up = time.monotonic() + PATIENCE
        while process.poll() is None and time.monotonic() < give_up:
            time.sleep(0.01)
        # Its session is ours alone; what it left behind would take part in the next turn.
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait()


def cpu_seconds(root: int, *, precise: bool = False) -> float:
    """User + system seconds of a process, of all that descend from it, and of those of their children that ended. Of 0: none.

    `precise` counts nanoseconds instead of ticks of 10 ms, and leaves out children that ended, and threads."""
    tree = _tree(root)
    return sum(map(_on_processor, tree)) if precise else sum(tree.values())


def _on_processor(pid: int) -> float:
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def memory(root: int) -> tuple[float, float]:
    """RSS and PSS of a process and all that descend from it, in KiB. PSS counts a page that several share once."""
    rss = pss = 0
    for pid in _tree(root):
        try:
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            continue  # it ended meanwhile
        for line in rollup.splitlines():
            name, _, value = line.partition(":")
            if name == "Rss":
                rss += int(value.split()[0])
            elif name == "Pss":
                pss += int(value.split()[0])
    return rss, pss


def _tree(root: int) -> dict[int, float]:
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
            used[int(entry.name)] = sum(map(int, fields[11:15])) * TICK
    found: dict[int, float] = {}
    pending = [root] if root else []
    while pending:
        pid = pending.pop()
        if pid in used:
            found[pid] = used[pid]
            pending += children.get(pid, [])
    return found
