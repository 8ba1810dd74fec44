"""`--pid`: two masters on one file, stale files, disks that cannot be written."""

import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from muxwsgi.errors import OperatorError
from muxwsgi.server.pid_file import PidFile
from tests import warm
from tests.system.server_process import ROOT, ServerProcess
from tests.waiting import wait_for

APP = "tests.system.counted_app"


def started(*options: str) -> "subprocess.CompletedProcess[str]":
    return warm.run(
        [sys.executable, "-m", "muxwsgi", "run", APP, "-b", "127.0.0.1:0", *options], cwd=ROOT, capture_output=True, text=True, timeout=60
    )


def test_the_file_has_the_master_s_id_while_it_runs(tmp_path: Path) -> None:
    path = tmp_path / "app.pid"
    with ServerProcess(APP, "-w", "2", "--pid", str(path)) as server:
        assert path.read_text() == f"{server.pid}\n"
        assert path.stat().st_mode & 0o777 == 0o644
        assert server.stop() == 0
    assert not path.exists()


def test_a_second_master_on_the_file_does_not_start(tmp_path: Path) -> None:
    path = tmp_path / "app.pid"
    with ServerProcess(APP, "--pid", str(path)) as server:
        second = started("--pid", str(path))
        assert (second.returncode, second.stderr) == (
            2, f"muxwsgi: error: pid: {path}: a server with the process id {server.pid} has it\n"
        )
        assert path.read_text() == f"{server.pid}\n"
        assert server.get("/")[0] == 200


def test_the_file_of_a_master_that_was_killed_is_used_again_also_if_its_id_is_another_process_s(tmp_path: Path) -> None:
    path = tmp_path / "app.pid"
    path.write_text(f"{os.getpid()}\n")  # a process that runs, and is no server
    with ServerProcess(APP, "--pid", str(path)) as server:
        assert path.read_text() == f"{server.pid}\n"
        assert f"the process {os.getpid()} has ended without removing the file" in server.log
        server.stop(signal.SIGKILL)
    assert path.exists()
    with ServerProcess(APP, "--pid", str(path)) as server:
        assert path.read_text() == f"{server.pid}\n"


def test_a_reload_moves_the_file(tmp_path: Path) -> None:
    one, two, config = tmp_path / "one.pid", tmp_path / "two.pid", tmp_path / "app.toml"
    config.write_text(f'pid = "{one}"\n')
    with ServerProcess(APP, "-c", str(config)) as server:
        server.wait_for_log("ready")
        config.write_text(f'pid = "{tmp_path}/no/such/folder"\n')
        server.send_signal(signal.SIGHUP)
        server.wait_for_log(f"the reload failed, and what served before goes on: pid: {tmp_path}/no/such/folder: No such file")
        assert one.read_text() == f"{server.pid}\n"
        config.write_text(f'pid = "{two}"\n')
        server.send_signal(signal.SIGHUP)
        wait_for(lambda: two.exists() and not one.exists(), lambda: server.log)
        assert two.read_text() == f"{server.pid}\n"
        assert server.stop() == 0
    assert not two.exists()


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("/no/such/folder/app.pid", "pid: /no/such/folder/app.pid: No such file or directory"),
        ("/dev/full", "pid: /dev/full: it is not a regular file"),
        ("/proc/app.pid", "pid: /proc/app.pid: No such file or directory"),
        ("/etc", "pid: /etc: Is a directory"),
    ],
)
def test_a_file_that_cannot_be_written_is_one_line(path: str, says: str) -> None:
    ran = started("--pid", path)
    assert (ran.returncode, ran.stderr) == (2, f"muxwsgi: error: {says}\n")


@pytest.mark.skipif(os.geteuid() != 0, reason="a file system is mounted, in a namespace")
@pytest.mark.parametrize(("options", "says"), [("size=4k", "No space left on device"), ("ro", "Read-only file system")])
def test_a_disk_that_is_full_or_read_only_is_one_line(tmp_path: Path, options: str, says: str) -> None:
    fill = "dd if=/dev/zero of=$1/fill bs=4k count=1 2>/dev/null; " if options != "ro" else ""
    script = f'mount -t tmpfs -o {options} none "$1" && {fill} {sys.executable} -m muxwsgi run {APP} -b 127.0.0.1:0 --pid "$1/app.pid"; s=$?; ls "$1"; exit $s'
    ran = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, "sh", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert (ran.returncode, ran.stderr) == (2, f"muxwsgi: error: pid: {tmp_path}/app.pid: {says}\n")
    assert "app.pid" not in ran.stdout


def test_a_file_with_other_contents_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "passwords"
    path.write_text("root:x:0:0\n")
    ran = started("--pid", str(path))
    assert ran.returncode == 2 and "the file has other contents than a process id, and is left as it is" in ran.stderr
    assert path.read_text() == "root:x:0:0\n"


def test_a_file_that_another_one_has_taken_over_stays(tmp_path: Path) -> None:
    path = tmp_path / "app.pid"
    old = PidFile(str(path))
    other = tmp_path / "other"
    other.write_text("7\n")
    other.rename(path)
    old.remove()
    assert path.read_text() == "7\n"


def test_a_file_that_its_owner_removes_between_open_and_lock_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "app.pid"
    real, calls = fcntl.lockf, []

    def remove_first(*arguments: int) -> None:
        calls.append(arguments)
        if len(calls) == 1:
            path.unlink()
        real(*arguments)

    monkeypatch.setattr(fcntl, "lockf", remove_first)
    made = PidFile(str(path))
    assert path.read_text() == f"{os.getpid()}\n" and len(calls) == 2
    made.remove()
    assert not path.exists()


def test_a_child_that_ends_keeps_the_file_and_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "app.pid"
    made = PidFile(str(path))
    if os.fork() == 0:
        made.remove()
        os._exit(0)
    os.wait()
    assert path.exists()
    try_it = subprocess.run(
        [sys.executable, "-c", f"from muxwsgi.server.pid_file import PidFile; PidFile({str(path)!r})"], cwd=ROOT, capture_output=True, text=True
    )
    assert "has it" in try_it.stderr
    made.remove()


def test_a_line_is_refused_to_an_operator_who_asks_for_a_daemon() -> None:
    ran = started("--daemon")
    assert ran.returncode == 2 and ran.stderr.startswith("muxwsgi: error: daemon: the server stays in the foreground") and ran.stderr.count("\n") == 1
    with pytest.raises(OperatorError):
        PidFile("/dev/null")
