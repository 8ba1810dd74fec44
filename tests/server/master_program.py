"""A master without a server: its workers write what they do, a line each, and behave as the file named in TEST_HOW says."""

import errno
import os
import resource
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import muxwsgi.server.master
import muxwsgi.server.worker
from muxwsgi.server.handover_queue import HandoverQueue
from muxwsgi.server.master import Master
from muxwsgi.server.page import SharedPage
from muxwsgi.server.worker import Given, Worker, WorkerProcess
from muxwsgi.settings import WorkerSettings


def say(text: str) -> None:
    os.write(1, f"{text}\n".encode())


def in_python(environ: dict[str, object]) -> None:
    """Compute until told otherwise."""
    give_up = time.monotonic() + 60
    while Path(os.environ["TEST_HOW"]).read_text().startswith("python") and time.monotonic() < give_up:
        pass


def in_c(environ: dict[str, object]) -> None:
    """Hold the GIL in C code, about a minute."""
    sum(range(3 * 10**9))


def take(ended: list[int]) -> None:
    """Take the signals of a worker. Those that end it are noted in `ended`."""

    def note(number: int, frame: object) -> None:
        ended.append(number)
        say(f"{os.getpid()} told {signal.Signals(number).name}")

    for number in (signal.SIGTERM, signal.SIGQUIT, signal.SIGUSR2):
        signal.signal(number, note)
    signal.signal(signal.SIGUSR1, lambda number, frame: say(f"{os.getpid()} usr1"))


def work(worker: Worker) -> int:
    how = Path(os.environ["TEST_HOW"]).read_text().split()
    ended: list[int] = []
    if "late" in how:
        say(f"{os.getpid()} forked {worker.number}")
        time.sleep(0.5)
    take(ended)
    say(f"{os.getpid()} boots {worker.number}")
    if "fail" in how:
        return 7
    if "say-and-fail" in how:
        worker.fail("no database \udcff\nthe beginning\n" + "x" * 100_000 + "\nthe end\n")
        return 3
    if f"fail-{worker.number}" in how:
        time.sleep(0.2)
        return 7
    if "hang" in how:
        time.sleep(60)
    if "slow" in how:
        time.sleep(0.4)
    if "slower" in how:
        time.sleep(6)
    if "forks" in how and os.fork() == 0:  # as an application does with `multiprocessing`
        say(f"{os.getpid()} was forked")
        time.sleep(60)
        os._exit(0)
    say(f"{os.getpid()} loaded")
    worker.ready()
    say(f"{os.getpid()} ready {worker.number} {' '.join(how)}")
    say(f"{os.getpid()} among {sorted(entry.pid for entry in worker.page.entries())} at {worker.entry.index}")
    give_up = time.monotonic() + 60
    left = False
    blocks = {"python": in_python, "c": in_c}
    while not ended and time.monotonic() < give_up:
        worker.beat()
        now = Path(os.environ["TEST_HOW"]).read_text().split()
        if now == ["leave", str(os.getpid())] and not left:
            left = True
            worker.leave()
        if now[0] in blocks and now[1] == str(os.getpid()):
            blocks[now[0]]({"muxwsgi.connection": None, "REQUEST_METHOD": "GET", "RAW_URI": "/slow", "REMOTE_ADDR": "192.0.2.1"})
        time.sleep(0.01)
    if "stubborn" in how and signal.SIGQUIT not in ended:
        while signal.SIGQUIT not in ended and time.monotonic() < give_up:
            time.sleep(0.01)
    say(f"{os.getpid()} ends {signal.Signals(ended[-1]).name}")
    return 0


class Owner:
    def __init__(self) -> None:
        self.settings = WorkerSettings(
            workers=int(sys.argv[1]),
            graceful_timeout=float(os.environ.get("TEST_GRACEFUL", "30")),
            boot_timeout=float(os.environ.get("TEST_BOOT", "30")),
            settled_after=float(os.environ.get("TEST_SETTLED", "10")),
            kill_after=float(os.environ.get("TEST_KILL", "10")),
            timeout=float(os.environ.get("TEST_TIMEOUT", "30")),
        )

    sign_interval = None

    def upgrade(self) -> None:
        pass

    def watched(self) -> dict[int, object]:
        return {}

    def sign_of_life(self) -> None:
        pass

    def steer(self, live: Sequence[int]) -> None:
        pass

    def before_fork(self, slot: int, *, booting: bool) -> None:
        pass

    def after_fork(self, pid: int | None) -> None:
        pass

    preloads = False

    def before_preload(self, *, booting: bool) -> None:
        raise AssertionError("nothing is preloaded")

    def given(self, slot: int, *, booting: bool) -> Given:
        raise AssertionError("nothing is preloaded")

    def reaped(self, pid: int) -> None:
        pass

    def resized(self, workers: int) -> None:
        pass

    aborts = False

    def reload(self) -> bool:
        how = Path(os.environ["TEST_HOW"]).read_text().split()
        self._before = self.settings
        for word in how:
            if word.startswith("workers="):
                self.settings = replace(self.settings, workers=int(word.removeprefix("workers=")))
        return "unreadable" not in how

    def reloaded(self, whole: bool) -> None:
        say(f"{os.getpid()} reloaded {whole}")
        if not whole:
            self.settings = self._before

    def reopen_logs(self) -> None:
        say(f"{os.getpid()} reopens")

    def stop(self) -> None:
        say(f"{os.getpid()} stops")


def main() -> None:
    import logging

    descriptors = int(os.environ.get("TEST_DESCRIPTORS", "0"))
    if descriptors:
        resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors + 100, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        for _ in range(descriptors):
            os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    real_start = muxwsgi.server.worker.start

    def start(
        slot: int, generation: int, taken: Sequence[int], page: SharedPage, queue: HandoverQueue, *, announces: bool, **no_preloader: None
    ) -> WorkerProcess | Worker:
        if f"{generation}-{slot}" == os.environ.get("TEST_NO_PROCESS"):
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return real_start(slot, generation, taken, page, queue, announces=announces)

    vars(muxwsgi.server.master)["start"] = start
    early = [signal.Signals[name] for name in os.environ.get("TEST_EARLY", "").split()]
    master = Master(Owner())
    result = master.run(lambda: early)
    if isinstance(result, Worker):
        sys.exit(work(result))
    say(f"{os.getpid()} failure {master.failure!r}")
    sys.exit(result)


main()
