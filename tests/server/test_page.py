"""The page of memory that a master, its workers and its other children share, with real processes."""

import contextlib
import os
import random
import signal
import time
from array import array
from collections.abc import Callable, Iterator
from typing import cast

import pytest

from muxwsgi.server.page import BINDS, WORDS, SharedPage, State


@pytest.fixture
def page() -> Iterator[SharedPage]:
    page = SharedPage(gauges=(1,), entries=8)
    yield page
    page.close()


@contextlib.contextmanager
def process(work: Callable[[], object]) -> Iterator[int]:
    """A child that does `work`, and is killed at the end unless it has ended."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def answer(ask: Callable[[], bytes]) -> bytes:
    """What `ask` returns in a child."""
    read_end, write_end = os.pipe()
    with process(lambda: os.write(write_end, ask())):
        os.close(write_end)
        found = os.read(read_end, 4096)
        os.close(read_end)
        return found


def forever(work: Callable[[int], object]) -> Callable[[], None]:
    def run() -> None:
        give_up = time.monotonic() + 60
        number = 0
        while time.monotonic() < give_up:
            number += 1
            work(number)

    return run


def test_every_process_sees_what_a_worker_and_the_master_write(page: SharedPage) -> None:
    entry = page.take(3, 7)
    entry.pid, entry.state = 4711, State.LEAVING
    assert (entry.heartbeat, entry.connections, entry.accepts, entry.accepted, entry.read()) == (None, 0, False, 0, [])
    before = time.monotonic()

    def write() -> bytes:
        entry.beat()
        entry.connections, entry.accepts, entry.accepted, entry.binds = 12, True, 2**40, {5, 2**64 - 1}
        entry.write([1, 2, 2**64 - 1])
        return b"done"

    def read() -> bytes:
        (found,) = page.entries()
        assert found.heartbeat is not None and before - 0.001 < found.heartbeat <= time.monotonic()
        assert before - 1 < found.started <= before
        master = (found.pid, found.number, found.generation, found.state.value)
        return repr((master, found.connections, found.accepts, found.accepted, sorted(found.binds), found.read())).encode()

    assert answer(write) == b"done"
    expected = b"((4711, 3, 7, 'leaving'), 12, True, 1099511627776, [5, 18446744073709551615], [1, 2, 18446744073709551615])"
    assert answer(read) == expected == (read())


def test_a_read_never_has_words_of_two_writes(page: SharedPage) -> None:
    entry = page.take(0, 1)
    with process(forever(lambda number: entry.write([number << 32 | number] * (1 + number % WORDS)))):
        give_up = time.monotonic() + 20
        last = reads = lost = 0
        while reads < 1000 and time.monotonic() < give_up:
            words = entry.read()
            if words is None:
                lost += 1  # the writer, which never rests here, was faster in each attempt
            elif words:
                reads += 1
                assert len(set(words)) == 1, "words of two writes"
                number = words[0] & 0xFFFFFFFF
                assert len(words) == 1 + number % WORDS and number >= last
                last = number
        assert reads > 100 and lost == 0


class HalfWritten:
    """The words of a page for a process that is killed in the middle of its next write."""

    def __init__(self, words: memoryview) -> None:
        self._words = words

    def __getitem__(self, at: int) -> int:
        return self._words[at]

    def __setitem__(self, at: slice, words: "array[int]") -> None:
        half = len(words) // 2
        self._words[at.start : at.start + half] = words[:half]
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_is_killed_in_the_middle_of_a_write_leaves_the_words_before(page: SharedPage) -> None:
    entry = page.take(0, 1)
    for number in range(1, 4):
        entry.write([number] * WORDS)
        killed = page.entries()[0]
        killed._words = cast(memoryview, HalfWritten(killed._words))
        with process(lambda killed=killed: killed.write([99] * WORDS)) as pid:
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        assert entry.read() == [number] * WORDS
        assert page.totals()[0] == number


def test_a_worker_that_is_killed_at_any_time_leaves_whole_words(page: SharedPage) -> None:
    for _ in range(20):
        entry = page.take(0, 1)
        with process(forever(lambda number, entry=entry: entry.write([number] * WORDS))):
            while not entry.read():
                pass
            time.sleep(random.uniform(0, 0.003))
        words = entry.read()
        assert words is not None and len(words) == WORDS and len(set(words)) == 1
        page.retire(entry)


def test_sums_never_decrease_while_workers_end_and_others_begin(page: SharedPage) -> None:
    """The master is the parent: it retires, takes and forks. Another child reads all the time."""
    stop_read, stop = os.pipe()
    os.set_blocking(stop_read, False)

    def read() -> bytes:
        last = reads = 0
        give_up = time.monotonic() + 60
        while time.monotonic() < give_up:
            total = (page.totals() or [0])[0]
            if total < last:
                return f"{last} became {total}".encode()
            last, reads = total, reads + 1
            with contextlib.suppress(BlockingIOError):
                if os.read(stop_read, 1):
                    break
        return f"{last} after {reads > 100}".encode()

    read_end, write_end = os.pipe()
    expected = 0
    with process(lambda: os.write(write_end, read())):
        for number in range(100):
            entry = page.take(number, 1)
            with process(forever(lambda number, entry=entry: entry.write([number, 5]))):
                time.sleep(0.003)
            last = entry.read()
            assert last is not None
            expected += last[0] if last else 0
            page.retire(entry)
        os.write(stop, b"s")
        assert os.read(read_end, 100).decode() == f"{expected} after True"
    assert expected > 0
    for fd in (stop_read, stop, read_end, write_end):
        os.close(fd)


def test_sums_have_the_counters_of_all_and_the_gauges_of_the_living(page: SharedPage) -> None:
    first, second = page.take(0, 1), page.take(1, 1)
    first.write([10, 3])
    second.write([1, 4, 100])
    assert page.totals() == [11, 7, 100]
    page.retire(second)
    assert page.totals() == [11, 3, 100]
    assert [entry.number for entry in page.entries()] == [0]
    third = page.take(1, 2)
    assert third.read() == [] and third.index == second.index
    third.write([2**64 - 10])
    assert page.totals() == [1, 3, 100], "it begins again at 0, as it does in Prometheus"
    page.retire(first)
    page.retire(third)
    assert page.totals() == [1, 0, 100] and page.entries() == []


def test_the_version_changes_with_the_entries_in_use(page: SharedPage) -> None:
    versions = [page.version]
    entry = page.take(0, 1)
    versions.append(page.version)
    entry.write([1])
    assert page.version == versions[-1]
    page.retire(entry)
    versions.append(page.version)
    assert versions == sorted(set(versions)) and all(version % 2 == 0 for version in versions)


def test_a_page_without_a_free_entry_and_counters_without_room_are_refused(page: SharedPage) -> None:
    taken = [page.take(number, 1) for number in range(8)]
    with pytest.raises(OSError, match="there are 8 workers already"):
        page.take(8, 1)
    page.retire(taken[3])
    entry = page.take(8, 1)
    entry.write([7] * WORDS)
    with pytest.raises(ValueError, match=f"{WORDS + 1} counters"):
        entry.write([0] * (WORDS + 1))
    with pytest.raises(OverflowError):
        entry.write([-1])
    assert entry.read() == [7] * WORDS
    assert taken[4].read() == [], "no word of an entry reaches the next one"
    entry.binds = range(1, 100)
    assert entry.binds == set(range(1, BINDS + 1)) and taken[4].binds == set()


def test_counters_that_code_of_a_worker_has_destroyed_cost_only_them(page: SharedPage, caplog: pytest.LogCaptureFixture) -> None:
    good, bad = page.take(0, 1), page.take(1, 1)
    bad.pid = 4712
    for entry in (good, bad):
        entry.write([1, 2, 3])
    for at in range(bad._at + 32, bad._at + 2048):
        bad._words[at] = 2**64 - 1
    assert bad.read() is None and page.totals() == [1, 2, 3]
    page.retire(bad)
    assert caplog.messages == ["worker 4712 has destroyed its counters: they are not in the sums"]
    page.retire(good)
    assert page.totals() == [1, 0, 3]
