"""That greenlets which follow each other share the memory of their frames, in the compiled build."""

import resource

from greenlet import getcurrent, greenlet

from muxwsgi.wire.frames import keep_frames
from tests.gate.test_build import EXPECTED


def test_greenlets_that_follow_each_other_use_the_same_memory() -> None:
    def fill(depth: int) -> int:
        return depth and 1 + fill(depth - 1)

    keep_frames()
    keep_frames()
    assert greenlet(fill).switch(10) == 10
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(1000):
        assert greenlet(fill).switch(10) == 10
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    assert faults < 500 or EXPECTED != "compiled", f"{faults} page faults: each greenlet had new memory"


def test_more_greenlets_at_once_than_blocks_are_kept_and_deep_ones() -> None:
    def wait_at(depth: int) -> int:
        return main.switch() if not depth else 1 + wait_at(depth - 1)

    main = getcurrent()
    keep_frames()
    for _ in range(3):
        crowd = [greenlet(wait_at) for _ in range(200)]
        for each in crowd:
            each.switch(300)
        assert [each.switch(7) for each in crowd] == [307] * 200
