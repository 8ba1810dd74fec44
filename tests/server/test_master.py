"""The master: real processes, with workers that serve nothing."""

import ast
import contextlib
import functools
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from muxwsgi.server.heartbeat import ASK, Heartbeat
from muxwsgi.server.master import STOOD_STILL
from muxwsgi.server.page import SharedPage
from tests.system.server_process import ROOT
from tests.waiting import wait_for

wait_until = functools.partial(wait_for, patience=20)


class Running:
    """A master. `how` is the file that tells workers how to behave; `lines` are those that workers wrote, `log` is the master's."""

    def __init__(self, how: Path, workers: int, **environment: str) -> None:
        self.how = how
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.server.master_program", str(workers)],
            cwd=ROOT,
            env={**os.environ, "TEST_HOW": str(how), **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
        )
        self.lines: list[str] = []
        self.log = ""
        self._readers = [threading.Thread(target=self._read_lines, daemon=True), threading.Thread(target=self._read_log, daemon=True)]
        for reader in self._readers:
            reader.start()

    def _read_lines(self) -> None:
        assert self.process.stdout is not None
        self.lines.extend(line.rstrip("\n") for line in iter(self.process.stdout.readline, ""))

    def _read_log(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log += line

    def said(self, pattern: str) -> list[int]:
        """The pids of the workers that wrote a line like that."""
        found = (re.fullmatch(rf"(\d+) {pattern}", line) for line in list(self.lines))
        return [int(match[1]) for match in found if match is not None]

    def wait_for(self, pattern: str, times: int = 1) -> list[int]:
        """Until so many workers wrote such a line. If that says that they are ready, the master has heard it too, before it gets a signal."""
        wait_until(lambda: len(self.said(pattern)) >= times, lambda: f"{pattern!r} {times} times in {self.lines}\n{self.log}")
        if pattern.startswith("ready"):
            wait_until(lambda: " ready\n" in self.log, lambda: self.log)
        return self.said(pattern)

    def wait_for_log(self, text: str, times: int = 1) -> None:
        wait_until(lambda: self.log.count(text) >= times, lambda: f"{text!r} {times} times in {self.log}")

    def said_failure(self) -> str:
        """Why the start has failed, as the master reports it to its program."""
        (text,) = (line.partition(" failure ")[2] for line in self.lines if " failure " in line)
        return str(ast.literal_eval(text))

    def send(self, number: int) -> None:
        self.process.send_signal(number)

    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def ended(self) -> int:
        status = self.process.wait(20)
        for reader in self._readers:
            reader.join(5)
        return status


def tell(how: Path, text: str) -> None:
    """Whole at once: workers read the file all the time."""
    new = how.with_suffix(".new")
    new.write_text(text)
    new.rename(how)


@pytest.fixture
def how(tmp_path: Path) -> Path:
    path = tmp_path / "how"
    path.write_text("one")
    return path


@contextlib.contextmanager
def running(how: Path, workers: int, **environment: str) -> Iterator[Running]:
    master = Running(how, workers, **environment)
    try:
        yield master
    finally:
        if master.process.poll() is None:
            master.process.kill()  # its workers end with it
            master.process.wait()


def test_all_workers_start_and_end_with_the_master(how: Path) -> None:
    with running(how, 3) as master:
        pids = master.wait_for("ready . one", 3)
        assert len(set(pids)) == 3 and sorted(line.split()[2] for line in master.lines if " ready " in line) == ["0", "1", "2"]
        master.send(signal.SIGTERM)
        assert master.ended() == 0
        assert sorted(master.said("ends SIGTERM")) == sorted(pids)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_cuts(how: Path, number: signal.Signals) -> None:
    tell(how, "stubborn")
    with running(how, 2) as master:
        master.wait_for("ready .*", 2)
        master.send(number)
        master.wait_for_log(f"master: {number.name}")
        master.send(number)
        assert master.ended() == 0
        assert len(master.said("ends SIGQUIT")) == 2


def test_quit_cuts_at_once(how: Path) -> None:
    with running(how, 2) as master:
        master.wait_for("ready .*", 2)
        master.send(signal.SIGQUIT)
        assert master.ended() == 0
        assert len(master.said("ends SIGQUIT")) == 2


def test_a_worker_that_does_not_end_in_time_is_killed(how: Path) -> None:
    tell(how, "stubborn")
    with running(how, 1, TEST_GRACEFUL="0.1", TEST_KILL="0.1") as master:
        master.wait_for("ready .*")
        master.send(signal.SIGTERM)
        assert master.ended() == 0
        assert "has not ended in time: it is killed" in master.log and "perhaps" not in master.log


def test_a_worker_that_cannot_start_ends_the_start_with_its_status(how: Path) -> None:
    tell(how, "fail-1 slow")
    with running(how, 3) as master:
        assert master.ended() == 7
        assert "has ended before it was ready with status 7" in master.said_failure()


def test_a_worker_that_is_not_ready_in_time_ends_the_start(how: Path) -> None:
    tell(how, "hang")
    with running(how, 1, TEST_BOOT="0.2", TEST_KILL="0.2") as master:
        assert master.ended() == 1
        assert "is not ready after 0.2 s: it is killed" in master.log


def test_a_stop_while_workers_boot_is_heard(how: Path) -> None:
    tell(how, "hang")
    with running(how, 2) as master:
        master.wait_for("boots .", 2)
        master.send(signal.SIGTERM)
        master.wait_for_log("master: SIGTERM")
        master.send(signal.SIGTERM)
        # `hang` sleeps through its own handler, as an application may that imports for a minute.
        for pid in master.said("boots ."):
            os.kill(pid, signal.SIGKILL)
        assert master.ended() == 0


def test_a_worker_that_dies_is_replaced(how: Path) -> None:
    with running(how, 2) as master:
        first, other = master.wait_for("ready . one", 2)
        os.kill(first, signal.SIGKILL)
        third = master.wait_for("ready . one", 3)[2]
        assert third not in (first, other)
        assert "has ended by SIGKILL, perhaps for want of memory: another one starts in 0.5 s" in master.log
        master.send(signal.SIGTERM)
        assert master.ended() == 0
        assert sorted(master.said("ends SIGTERM")) == sorted([other, third])


def test_a_worker_that_ends_by_a_signal_without_a_name_is_replaced_too(how: Path) -> None:
    with running(how, 1) as master:
        (worker,) = master.wait_for("ready .*")
        os.kill(worker, signal.SIGRTMIN + 9)
        master.wait_for("ready .*", 2)
        assert f"has ended by signal {signal.SIGRTMIN + 9}" in master.log
        master.send(signal.SIGTERM)
        assert master.ended() == 0


def test_the_entry_of_a_worker_that_has_ended_is_free_for_the_next(how: Path) -> None:
    with running(how, 2, TEST_SETTLED="0") as master:
        first, other = master.wait_for("ready . one", 2)
        for times in range(1, 6):
            os.kill(first, signal.SIGKILL)
            first = master.wait_for("ready . one", 2 + times)[-1]
        pids = sorted([first, other])
        wait_until(lambda: any(f"{first} among {pids} at 1" in line or f"{first} among {pids} at 2" in line for line in master.lines))
        master.send(signal.SIGTERM)
        assert master.ended() == 0


def test_failures_in_a_row_are_followed_by_longer_delays(how: Path) -> None:
    with running(how, 1) as master:
        master.wait_for("ready . one")
        master.wait_for_log("1 worker is ready")
        tell(how, "fail")
        os.kill(master.said("ready . one")[0], signal.SIGKILL)
        master.wait_for_log("starts in 2.0 s")
        delays = re.findall(r"another one starts in ([\d.]+) s", master.log)
        assert delays == ["0.5", "1.0", "2.0"]
        tell(how, "well")
        master.wait_for("ready 0 well")
        master.send(signal.SIGTERM)
        assert master.ended() == 0


def test_a_reload_starts_new_workers_before_the_old_ones_end(how: Path) -> None:
    with running(how, 2) as master:
        old = master.wait_for("ready . one", 2)
        tell(how, "two slow")
        master.send(signal.SIGHUP)
        new = master.wait_for("ready . two slow", 2)
        assert sorted(master.wait_for("ends SIGUSR2", 2)) == sorted(old)
        lines = list(master.lines)
        last_loaded = max(index for index, line in enumerate(lines) if "loaded" in line)
        assert last_loaded < min(index for index, line in enumerate(lines) if "ends" in line)
        master.send(signal.SIGTERM)
        assert master.ended() == 0
        assert sorted(master.said("ends SIGTERM")) == sorted(new)


def test_a_reload_that_fails_leaves_what_serves(how: Path) -> None:
    with running(how, 2) as master:
        old = master.wait_for("ready . one", 2)
        tell(how, "fail-1 slow")
        master.send(signal.SIGHUP)
        master.wait_for_log("the reload failed, and what served before goes on: ")
        tell(how, "unreadable")
        master.send(signal.SIGHUP)
        master.wait_for_log("master: SIGHUP", 2)
        assert not set(master.said("ends .*")) & set(old)
        tell(how, "three")
        master.send(signal.SIGHUP)
        new = master.wait_for("ready . three", 2)
        assert sorted(master.wait_for("ends SIGUSR2", 2)) == sorted(old)
        master.send(signal.SIGTERM)
        assert master.ended() == 0
        assert set(new) <= set(master.said("ends SIGTERM"))


def test_a_worker_that_ends_while_a_reload_boots_is_replaced_at_once_by_one_of_its_generation(how: Path) -> None:
    with running(how, 2) as master:
        old = master.wait_for("ready . one", 2)
        tell(how, "two slower")
        master.send(signal.SIGHUP)
        master.wait_for("boots .", 4)
        tell(how, "three")
        os.kill(old[0], signal.SIGKILL)
        (replacement,) = master.wait_for("ready . three")
        assert master.said("reloaded True") == [master.process.pid], "the reload is still under way"
        master.wait_for("ready . two slower", 2)
        assert sorted(master.wait_for("ends SIGUSR2", 2)) == sorted([old[1], replacement])


def test_workers_that_cannot_start_tell_the_master_why_and_it_reports_one(how: Path) -> None:
    tell(how, "say-and-fail")
    with running(how, 4) as master:
        assert master.ended() == 3
        line, _, detail = master.said_failure().partition("\n")
        assert line == "no database \udcff".encode("utf-8", "backslashreplace").decode() and len(detail) < 40_000
        assert detail.endswith("the end") and not detail.startswith("the beginning"), "of a long traceback the end is told"
        assert "no database" not in master.log


def test_a_reload_whose_workers_say_why_they_cannot_start_reports_it_once(how: Path) -> None:
    with running(how, 4) as master:
        master.wait_for("ready . one", 4)
        tell(how, "say-and-fail")
        master.send(signal.SIGHUP)
        master.wait_for_log("the reload failed, and what served before goes on: no database")
        master.wait_for_log("has ended", 3)
        assert master.log.count("no database") == 1


def test_a_replacement_that_cannot_start_says_why_and_is_tried_again(how: Path) -> None:
    with running(how, 1) as master:
        (first,) = master.wait_for("ready . one")
        tell(how, "say-and-fail")
        os.kill(first, signal.SIGKILL)
        master.wait_for_log("before it was ready with status 3: another one starts in 1.0 s. no database")
        tell(how, "two")
        master.wait_for("ready . two")


def test_a_graceful_timeout_of_0_is_told_by_sigterm_and_does_not_cut_a_worker_that_boots(how: Path) -> None:
    """SIGQUIT would be logged as a cut that nobody asked for, and writes a core file if the worker does not handle it yet."""
    tell(how, "slow")
    with running(how, 2, TEST_GRACEFUL="0") as master:
        master.wait_for("ready .*", 2)
        master.send(signal.SIGTERM)
        assert master.ended() == 0
        assert len(master.said("ends SIGTERM")) == 2


def test_a_start_that_fails_dumps_no_core_of_workers_that_boot(how: Path) -> None:
    tell(how, "late fail-0 hang")
    with running(how, 3, TEST_KILL="0.5") as master:
        assert master.ended() == 7
        assert "SIGQUIT" not in master.log


def test_a_reload_to_fewer_workers_that_fails_leaves_all_that_serve(how: Path) -> None:
    with running(how, 3) as master:
        old = master.wait_for("ready . one", 3)
        tell(how, "workers=1 fail-0 slow")
        master.send(signal.SIGHUP)
        master.wait_for_log("the reload failed, and what served before goes on: ")
        tell(how, "two")
        time.sleep(0.3)
        assert master.said("ends .*") == []
        os.kill(old[0], signal.SIGKILL)
        assert len(master.wait_for("ready . two")) == 1
        tell(how, "workers=1 three")
        master.send(signal.SIGHUP)
        master.wait_for("ends SIGUSR2", 3)
        assert len(master.wait_for("ready . workers=1 three")) == 1  # the old ones may end before it has said so


def test_a_start_for_which_the_machine_has_no_process_left_ends(how: Path) -> None:
    with running(how, 3, TEST_NO_PROCESS="1-1") as master:
        assert master.ended() == 1
        assert master.said_failure() == "no worker can be started: Resource temporarily unavailable"
        assert len(master.said("boots .")) <= 1, "the third one is not begun"


def test_a_reload_for_which_the_machine_has_no_process_left_leaves_what_serves(how: Path) -> None:
    with running(how, 3, TEST_NO_PROCESS="2-1") as master:
        old = master.wait_for("ready . one", 3)
        master.wait_for_log("3 workers are ready")
        tell(how, "two")
        master.send(signal.SIGHUP)
        master.wait_for_log("the reload failed, and what served before goes on: ")
        master.wait_for_log(" has ended")
        assert "perhaps" not in master.log and len(master.said("boots .")) <= 4
        tell(how, "three")
        master.send(signal.SIGHUP)
        new = master.wait_for("ready . three", 3)
        assert sorted(master.wait_for("ends SIGUSR2", 3)) == sorted(old)
        master.send(signal.SIGTERM)
        assert master.ended() == 0
        assert set(new) <= set(master.said("ends SIGTERM"))


def test_reloads_that_come_while_one_runs_become_one(how: Path) -> None:
    tell(how, "slow")
    with running(how, 2) as master:
        master.wait_for("ready .*", 2)
        for times in range(1, 6):
            master.send(signal.SIGHUP)
            master.wait_for_log("master: SIGHUP", times)
        master.wait_for("ends SIGUSR2", 4)
        master.send(signal.SIGTERM)
        assert master.ended() == 0
        started = len(master.said("boots ."))
        assert 6 <= started <= 8, "two workers at first, and two for each of two or three reloads"


def test_ttin_and_ttou_change_how_many_serve(how: Path) -> None:
    with running(how, 1) as master:
        master.wait_for("ready .*")
        master.send(signal.SIGTTIN)
        master.wait_for("ready 1 .*")
        master.send(signal.SIGTTOU)
        assert master.wait_for("ends SIGUSR2") == master.said("ready 1 .*")
        master.send(signal.SIGTTOU)
        master.wait_for_log("master: SIGTTOU", 2)
        assert len(master.said("ends SIGUSR2")) == 1, "one stays"
        master.send(signal.SIGTERM)
        assert master.ended() == 0


def test_a_storm_of_ttin_and_ttou_in_a_reload_ends_with_what_they_say(how: Path) -> None:
    with running(how, 2) as master:
        master.wait_for("ready . one", 2)
        tell(how, "two slow")
        master.send(signal.SIGHUP)
        master.wait_for("boots .", 3)
        for _ in range(20):
            for number in (signal.SIGTTIN, signal.SIGTTOU, signal.SIGTTIN, signal.SIGTTOU):
                master.send(number)
                time.sleep(0.005)
        master.wait_for("reloaded True", 2)
        master.send(signal.SIGUSR1)
        master.wait_for("reopens")
        size = 2
        for name in re.findall("^master: SIG(TTIN|TTOU)", master.log, re.M):  # the kernel delivers one of several that wait
            size = size + 1 if name == "TTIN" else max(1, size - 1)
        children = Path(f"/proc/{master.process.pid}/task/{master.process.pid}/children")
        wait_until(lambda: len(children.read_text().split()) == size, lambda: f"{size}: {children.read_text()} {master.log}")
        assert "fail" not in master.log
        master.send(signal.SIGTERM)
        assert master.ended() == 0


def test_winch_ends_the_workers_of_a_master_without_a_terminal(how: Path) -> None:
    with running(how, 2) as master:
        master.wait_for("ready .*", 2)
        master.send(signal.SIGWINCH)
        master.wait_for("ends SIGUSR2", 2)
        assert master.process.poll() is None
        master.send(signal.SIGTTIN)
        master.wait_for("ready .*", 3)
        master.send(signal.SIGTERM)
        assert master.ended() == 0


def test_winch_during_the_first_boot_waits_for_it(how: Path) -> None:
    tell(how, "slow")
    with running(how, 2) as master:
        master.wait_for("boots .", 2)
        master.send(signal.SIGWINCH)
        master.wait_for("ready .*", 2)
        master.wait_for("ends SIGUSR2", 2)
        master.send(signal.SIGTTIN)
        master.wait_for("ready .*", 3)
        master.send(signal.SIGTERM)
        assert master.ended() == 0


def test_usr1_reaches_every_worker(how: Path) -> None:
    with running(how, 2) as master:
        pids = master.wait_for("ready .*", 2)
        master.send(signal.SIGUSR1)
        assert sorted(master.wait_for("usr1", 2)) == sorted(pids)


def test_a_blocked_worker_is_reported_with_its_request_and_replaced(how: Path) -> None:
    with running(how, 2, TEST_TIMEOUT="0.5") as master:
        first, other = master.wait_for("ready . one", 2)
        tell(how, f"python {first}")
        third = master.wait_for("ready . python .*", 1)[0]
        master.wait_for_log(f"worker {first} is killed: its event loop is still blocked")
        master.wait_for_log(f"worker {first} has ended by SIGKILL")
        assert "It serves GET '/slow' from 192.0.2.1" in master.log and "in in_python" in master.log
        master.send(signal.SIGTERM)
        assert master.ended() == 0
        assert sorted(master.said("ends SIGTERM")) == sorted([other, third])


def test_a_worker_that_is_blocked_in_c_is_reported_with_its_stack(how: Path) -> None:
    with running(how, 1, TEST_TIMEOUT="0.5") as master:
        (first,) = master.wait_for("ready . one")
        tell(how, f"c {first}")
        master.wait_for("ready . c .*")
        master.wait_for_log(f"worker {first} has ended by SIGKILL")
        assert "in in_c" in master.log
        master.send(signal.SIGTERM)
        assert master.ended() == 0


def test_an_answer_that_came_too_late_is_not_reported_as_what_blocks_now(how: Path) -> None:
    with running(how, 1, TEST_TIMEOUT="0.5") as master:
        (first,) = master.wait_for("ready . one")
        os.kill(first, ASK)  # as the master does just before the worker runs again
        time.sleep(0.2)
        tell(how, f"python {first}")
        master.wait_for_log("It serves ")
        master.send(signal.SIGQUIT)
        assert "It serves GET '/slow' from 192.0.2.1" in master.log


def test_a_long_request_target_leaves_room_for_the_stack() -> None:
    page = SharedPage(entries=1)
    heartbeat = Heartbeat(page.take(0, 1))

    def serve(environ: dict[str, object]) -> None:
        heartbeat._say(0, sys._getframe())

    serve({"muxwsgi.connection": None, "REQUEST_METHOD": "GET", "RAW_URI": "/" + "a" * 8000, "REMOTE_ADDR": "192.0.2.1"})
    first, _, stack = heartbeat.answer().partition("\n")
    heartbeat.close()
    page.close()
    assert first == f"GET '/{'a' * 499}'... from 192.0.2.1"
    assert "in serve" in stack


def test_a_worker_that_was_blocked_and_runs_again_ends_as_others_do(how: Path) -> None:
    with running(how, 1, TEST_TIMEOUT="0.5") as master:
        (first,) = master.wait_for("ready . one")
        tell(how, f"python {first} slower")  # the replacement takes its time
        master.wait_for("boots .", 2)
        tell(how, "well")
        master.wait_for_log(f"worker {first} runs again: it ends its connections")
        assert master.wait_for("ends SIGUSR2") == [first]


@pytest.mark.slow
def test_a_master_that_was_late_does_not_take_a_blocked_worker_for_one_that_runs(how: Path) -> None:
    with running(how, 1, TEST_TIMEOUT="0.5") as master:
        (first,) = master.wait_for("ready . one")
        tell(how, f"python {first} slower")
        master.wait_for("boots .", 2)
        master.send(signal.SIGSTOP)
        time.sleep(STOOD_STILL + 2)  # beyond the next look
        master.send(signal.SIGCONT)
        master.wait_for_log(f"worker {first} is killed: its event loop is still blocked")
        assert "runs again" not in master.log


def test_a_worker_that_leaves_is_replaced_first(how: Path) -> None:
    with running(how, 2) as master:
        first, other = master.wait_for("ready . one", 2)
        tell(how, f"leave {first}")
        (third,) = master.wait_for("ready . leave .*")
        assert master.wait_for("ends SIGUSR2") == [first]
        lines = list(master.lines)
        assert lines.index(f"{third} loaded") < lines.index(f"{first} ends SIGUSR2")
        master.send(signal.SIGTERM)
        assert master.ended() == 0
        assert sorted(master.said("ends SIGTERM")) == sorted([other, third])


def test_a_slot_has_one_process_that_ends_however_often_its_workers_leave(how: Path) -> None:
    """Clients choose how often: they send `max_requests`, and keep connections open."""
    tell(how, "stubborn")
    with running(how, 1) as master:
        (first,) = master.wait_for("ready . stubborn")
        tell(how, f"leave {first}")
        (second,) = master.wait_for("ready . leave .*")
        master.wait_for_log(f"worker {first} leaves")
        tell(how, f"leave {second}")
        master.wait_for_log(f"worker {second} leaves")
        before = master.cpu_seconds()
        time.sleep(0.5)
        assert len(master.said("boots .")) == 2, "a third process starts while the first one ends"
        assert master.cpu_seconds() - before < 0.1, "the master waits and does not turn"
        os.kill(first, signal.SIGKILL)
        third = master.wait_for("ready . leave .*", 2)[1]
        assert master.wait_for("told SIGUSR2", 2) == [first, second]
        master.wait_for("ends SIGUSR2")
        master.send(signal.SIGTERM)
        assert master.ended() == 0
        assert master.said("ends SIGUSR2") == [second] and master.said("ends SIGTERM") == [third]


def test_a_process_that_a_worker_has_forked_does_not_hold_the_master_up(how: Path) -> None:
    tell(how, "forks")
    with running(how, 1) as master:
        (forked,) = master.wait_for("was forked")
        try:
            (first,) = master.wait_for("ready . forks")
            tell(how, "well")
            os.kill(first, signal.SIGKILL)
            master.wait_for("ready . well")
            master.send(signal.SIGTERM)
            assert master.process.wait(20) == 0
        finally:
            os.kill(forked, signal.SIGKILL)


def test_a_master_may_have_more_than_a_thousand_descriptors(how: Path) -> None:
    with running(how, 2, TEST_DESCRIPTORS="1100") as master:
        master.wait_for("ready . one", 2)
        master.send(signal.SIGTERM)
        assert master.ended() == 0


def test_workers_end_with_a_master_that_is_killed(how: Path) -> None:
    with running(how, 2) as master:
        pids = master.wait_for("ready .*", 2)
        master.process.kill()
        master.process.wait()
        wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), "they go on")


def test_orphans_that_a_master_inherits_are_reaped_without_a_word(how: Path) -> None:
    """As the first process of a container does: it is the parent of every process whose parent has ended."""
    unshare = ("unshare", "--pid", "--fork", "--kill-child", "--map-root-user", "--user")
    if subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("this machine allows no PID namespaces")
    script = (
        "import os, sys, time\n"
        "if os.fork() == 0:\n"
        "    if os.fork() == 0: time.sleep(0.3)\n"  # its parent ends first
        "    os._exit(0)\n"
        "os.wait()\n"
        "sys.argv = ['master', '1']\n"
        "import runpy; runpy.run_module('tests.server.master_program', run_name='__main__')\n"
    )
    process = subprocess.Popen(
        [*unshare, sys.executable, "-c", script],
        cwd=ROOT,
        env={**os.environ, "TEST_HOW": str(how)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert any(" ready " in process.stdout.readline() for _ in range(5))
        inside = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[0]
        children = Path(f"/proc/{inside}/task/{inside}/children")
        wait_until(lambda: len(children.read_text().split()) == 1, lambda: f"one child in {children.read_text()}")
        os.kill(int(inside), signal.SIGTERM)
        _, log = process.communicate(timeout=20)
        assert process.returncode == 0 and "Traceback" not in log
    finally:
        process.kill()
        process.wait()


def test_four_generations_may_retire_at_a_time_and_all_end_at_the_stop(how: Path) -> None:
    tell(how, "stubborn")
    with running(how, 1) as master:
        (first,) = master.wait_for("ready .*")
        for retiring in range(1, 5):
            assert master.said("told SIGTERM") == []
            master.send(signal.SIGHUP)
            master.wait_for("told SIGUSR2", retiring)
        assert master.wait_for("told SIGTERM") == [first]
        master.send(signal.SIGTERM)
        assert sorted(master.wait_for("told SIGTERM", 5)) == sorted(master.said("ready .*"))
        master.send(signal.SIGTERM)
        assert master.ended() == 0


def test_processes_that_were_all_stopped_go_on_as_before(how: Path) -> None:
    with running(how, 2, TEST_TIMEOUT="1") as master:
        pids = master.wait_for("ready .*", 2)
        everybody = [*pids, master.process.pid]
        for pid in everybody:
            os.kill(pid, signal.SIGSTOP)
        time.sleep(5)
        os.kill(master.process.pid, signal.SIGCONT)  # it looks first
        time.sleep(0.3)
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
        time.sleep(1.5)
        assert "blocked" not in master.log and len(master.said("boots .")) == 2
        master.send(signal.SIGTERM)
        assert master.ended() == 0
        assert sorted(master.said("ends SIGTERM")) == sorted(pids)


def test_a_worker_that_is_blocked_does_not_hold_up_a_cut(how: Path) -> None:
    with running(how, 2) as master:
        first, _ = master.wait_for("ready . one", 2)
        os.kill(first, signal.SIGSTOP)
        time.sleep(3.5)
        began = time.monotonic()
        master.send(signal.SIGQUIT)
        assert master.ended() == 0
        assert time.monotonic() - began < 5, "otherwise it is killed 10 s later"


def test_a_signal_that_has_come_before_the_master_takes_signals_counts(how: Path) -> None:
    with running(how, 2, TEST_EARLY="SIGTERM") as master:
        assert master.ended() == 0
        assert "master: SIGTERM" in master.log and master.said("boots .") == []


def test_signals_that_a_worker_takes_late_do_not_end_it(how: Path) -> None:
    tell(how, "late")
    with running(how, 1) as master:
        (pid,) = master.wait_for("forked .")
        for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP, signal.SIGTTIN, signal.SIGTTOU):
            os.kill(pid, number)
        assert master.wait_for("ready .*") == [pid]
        master.send(signal.SIGTERM)
        assert master.ended() == 0


def test_a_master_that_gets_a_signal_without_a_meaning_goes_on(how: Path) -> None:
    with running(how, 1) as master:
        master.wait_for("ready .*")
        master.send(signal.SIGUSR2)
        master.wait_for_log("master: SIGUSR2")
        master.send(signal.SIGTERM)
        assert master.ended() == 0
        assert len(master.said("ends .*")) == 1


def test_the_master_imports_no_gevent() -> None:
    program = "import sys, muxwsgi.server.master, muxwsgi.cli.workers; print([name for name in sys.modules if name.startswith('gevent')])"
    ran = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    assert ran.stdout.strip() == "[]"
