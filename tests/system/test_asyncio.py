"""asyncio within requests: many at the same time, each with an event loop of its own in the one thread that serves."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from tests.system.asyncio_app import COROUTINES, PLAIN
from tests.system.server_process import ROOT, ServerProcess

EXPECTED = {f"/{way}/{name}": expected for way in ("plain", "flask", "django") for name, (_, expected) in COROUTINES.items()} | {
    f"/plain/{name}": expected for name, (_, expected) in PLAIN.items()
}

pytestmark = pytest.mark.skipif(sys.version_info >= (3, 14), reason="asyncio keeps its loop in C alone")


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with ServerProcess("tests.system.asyncio_app", cold=True) as running:
        yield running


@pytest.mark.parametrize("path", EXPECTED)
def test_a_view_uses_asyncio(server: ServerProcess, path: str) -> None:
    status, body = server.get(path, timeout=60)
    assert status == 200, server.log
    assert json.loads(body) == EXPECTED[path]


def test_all_of_them_at_the_same_time(server: ServerProcess) -> None:
    found: dict[tuple[str, int], object] = {}

    def ask(path: str, turn: int) -> None:
        status, body = server.get(path, timeout=120)
        found[path, turn] = json.loads(body) if status == 200 else status

    threads = [threading.Thread(target=ask, args=(path, turn)) for path in EXPECTED for turn in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert found == {(path, turn): expected for path, expected in EXPECTED.items() for turn in range(2)}, server.log
    assert server.tracebacks() == []


def test_a_loop_that_waits_lets_others_run(server: ServerProcess) -> None:
    found: list[bytes] = []
    threads = [threading.Thread(target=lambda: found.append(server.get("/plain/meet", timeout=90)[1])) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(90)
    assert found == [b"2", b"2"]


# The patch itself


def output_of(program: str) -> str:
    return subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True, timeout=120).stdout


def test_the_private_names_of_asyncio_are_there() -> None:
    assert output_of("from muxwsgi.patch import patch_all, patch_asyncio as p; patch_all(); print(p())") == "True\n"


@pytest.mark.parametrize("name", ["_running_loop", "_py__get_running_loop", "_py_get_event_loop", "BaseDefaultEventLoopPolicy"])
def test_asyncio_stays_as_it_is_where_a_private_name_is_gone(name: str) -> None:
    program = (
        "import asyncio, asyncio.events as e\n"
        f"before = asyncio.get_running_loop, e.get_event_loop; del e.{name}\n"
        "from muxwsgi.patch import patch_asyncio as p; from muxwsgi.patch.running_loop import is_patched\n"
        "print(p(), is_patched(), before == (asyncio.get_running_loop, e.get_event_loop), asyncio.run(asyncio.sleep(0, 5)))"
    )
    assert output_of(program) == "False False True 5\n"


def test_asyncio_that_was_imported_before_is_patched_too() -> None:
    program = (
        "import asyncio; asyncio.get_event_loop_policy()\n"
        "from muxwsgi.patch import patch_all; patch_all()\n"
        "import gevent, threading\n"
        "async def nap(): await asyncio.sleep(0.05); return asyncio.current_task() is not None\n"
        "print([g.get() for g in [gevent.spawn(asyncio.run, nap()) for _ in range(3)]], asyncio.run(nap()))"
    )
    assert output_of(program) == "[True, True, True] True\n"
