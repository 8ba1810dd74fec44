"""That greenlets which follow each other share the memory of their frames, in the compiled build."""

import resource
import subprocess
import sys

from greenlet import getcurrent, greenlet

from muxwsgi.wire.frames import keep_frames
from tests.gate.test_build import EXPECTED
from tests.system.server_process import ROOT


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


def test_a_server_in_a_program_of_somebody_else_leaves_the_allocator_alone() -> None:
    program = (
        "import ctypes, muxwsgi\n"
        "from muxwsgi.wire.frames import keep_frames\n"
        "def allocator():\n"
        "    found = (ctypes.c_void_p * 3)()\n"
        "    ctypes.pythonapi.PyObject_GetArenaAllocator(found)\n"
        "    return list(found)\n"
        "seen = [allocator()]\n"
        "server = muxwsgi.Server(lambda environ, start_response: [], binds=['127.0.0.1:0'])\n"
        "server.start()\n"
        "seen.append(allocator())\n"
        "server.stop()\n"
        "keep_frames()\n"
        "print(seen[0] == seen[1], seen[0] == allocator())\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["True", str(EXPECTED != "compiled")]
