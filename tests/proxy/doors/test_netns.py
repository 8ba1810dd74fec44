"""The lab itself: it leaves nothing behind, whatever happens to it."""

import os
import signal
import socket
import subprocess
import sys

import pytest

from tests.proxy.doors.netns import FOLDER, SERVER, Lab, interfaces, sweep


def test_the_server_is_reached_through_the_router_while_no_proxy_is_there(lab: Lab) -> None:
    for family, host in SERVER.items():
        with lab.server.listen(host, 80), lab.client.connect(host, 80) as sock:
            assert sock.family == family


def test_a_lab_leaves_nothing_behind() -> None:
    before = interfaces()
    with Lab() as lab:
        names = [namespace.name for namespace in (lab.client, lab.router, lab.server)]
        assert interfaces(lab.router.name) == ["lo", "to-client", "to-server"]
        assert interfaces() == before
        sleeper = lab.server.popen("sleep", "1000")
    assert sleeper.poll() is not None
    assert not any((FOLDER / name).exists() for name in names)


def test_a_lab_that_could_not_be_wired_is_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(self: Lab) -> None:
        raise OSError("no cable")

    before = set(FOLDER.iterdir())
    monkeypatch.setattr(Lab, "_wire", fails)
    with pytest.raises(OSError, match="no cable"):
        Lab()
    assert set(FOLDER.iterdir()) == before


def test_what_a_killed_process_left_is_removed_by_the_next_lab() -> None:
    program = "import time; from tests.proxy.doors.netns import Lab; lab = Lab(); lab.server.popen('sleep', '1000'); print(lab.server.name, flush=True); time.sleep(1000)"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as killed:
        assert killed.stdout is not None
        name = killed.stdout.readline().strip()
        assert (FOLDER / name).exists()
        sweep()
        assert (FOLDER / name).exists()  # it lives
        os.kill(killed.pid, signal.SIGKILL)
    assert name in sweep()
    assert not (FOLDER / name).exists()


def test_entering_is_left_again_also_after_an_error(lab: Lab) -> None:
    here = os.readlink("/proc/thread-self/ns/net")
    with pytest.raises(KeyError), lab.client.entered():
        assert os.readlink("/proc/thread-self/ns/net") != here
        raise KeyError
    assert os.readlink("/proc/thread-self/ns/net") == here


def test_a_program_inside_sees_the_network_inside(lab: Lab) -> None:
    with lab.server.listen(SERVER[socket.AF_INET], 80):
        done = lab.client.run(sys.executable, "-c", f"import socket; print(socket.create_connection(('{SERVER[socket.AF_INET]}', 80), 10).getsockname()[0])")
    assert done.stdout == "10.77.1.2\n", done.stderr
