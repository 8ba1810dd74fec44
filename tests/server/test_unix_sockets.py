"""Mode and owner of unix sockets."""

import os
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from muxwsgi.errors import OperatorError
from muxwsgi.server.bind_text import parse_bind
from muxwsgi.server.binds import listen_on
from tests.system.server_process import ROOT

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="changing an owner takes root")


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_the_mode_is_that_of_the_bind_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    path = tmp_path / "socket"
    before = os.umask(umask)
    try:
        (listening,) = listen_on([parse_bind(f"unix:{path},mode=660,user=1234,group=www-data")], 1)
    finally:
        os.umask(before)
    information = path.stat()
    listening.close()
    assert (stat.S_IMODE(information.st_mode), information.st_uid) == (0o660, 1234)
    assert information.st_gid == int(subprocess.run(["id", "-g", "www-data"], capture_output=True, check=True).stdout)


def test_nobody_connects_before_the_mode_is_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "socket"
    seen: list[object] = []

    def slow_chown(*arguments: object) -> None:
        with socket.socket(socket.AF_UNIX) as client:
            try:
                client.connect(str(path))
                seen.append("connected")
            except ConnectionRefusedError:
                seen.append("refused")
        seen.append(mode_of(path) & 0o007)

    monkeypatch.setattr(os, "chown", slow_chown)
    listen_on([parse_bind(f"unix:{path},mode=660,group=0")], 1)[0].close()
    assert seen == ["refused", 0]


def test_a_name_that_another_file_has_taken_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, victim = tmp_path / "socket", tmp_path / "shadow"
    victim.write_text("")
    victim.chmod(0o600)
    real = os.lstat

    def swap(name: str) -> os.stat_result:
        found = real(name)
        os.unlink(name)
        os.symlink(victim, name)
        return found

    monkeypatch.setattr(os, "lstat", swap)
    with pytest.raises(OperatorError, match="another file has taken the socket's name"):
        listen_on([parse_bind(f"unix:{path},mode=666,user=1234")], 1)
    assert (mode_of(victim), victim.stat().st_uid) == (0o600, 0)


def test_a_reload_sets_the_new_mode_on_the_open_socket(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    first = listen_on([parse_bind(f"unix:{path},mode=600")], 1)
    second = listen_on([parse_bind(f"unix:{path},mode=666")], 1, kept=first)
    assert second[0].socket is first[0].socket and mode_of(path) == 0o666
    second[0].close()


def test_a_socket_whose_queue_is_full_is_in_use(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as listening, socket.socket(socket.AF_UNIX) as client, socket.socket(socket.AF_UNIX) as another:
        listening.bind(str(path))
        listening.listen(0)
        client.connect(str(path))
        another.setblocking(False)
        with pytest.raises(BlockingIOError):
            another.connect(str(path))
        with pytest.raises(OperatorError, match="Address already in use"):
            listen_on([parse_bind(f"unix:{path}")], 10)
        assert path.exists()


def test_the_umask_of_a_program_s_other_threads_is_not_changed(tmp_path: Path) -> None:
    stop, modes = threading.Event(), set()

    def make() -> None:
        number = 0
        while not stop.is_set():
            number = (number + 1) % 50
            name = tmp_path / f"file{number}"
            name.unlink(missing_ok=True)
            os.close(os.open(name, os.O_CREAT, 0o666))
            modes.add(mode_of(name))

    thread = threading.Thread(target=make)
    thread.start()
    try:
        for _ in range(200):
            listen_on([parse_bind(f"unix:{tmp_path / 'socket'},mode=666")], 1)[0].close()
    finally:
        stop.set()
        thread.join()
    assert len(modes) == 1


@pytest.mark.parametrize(
    ("bind", "says"),
    [
        ("unix:{},mode=888", r"'mode=888' is not tls=off.*for a unix socket mode=660"),
        ("unix:{},user=no-such-user", r"bind unix:.*: user: there is no user 'no-such-user'"),
        ("unix:{},group=no-such-group", r"bind unix:.*: group: there is no group 'no-such-group'"),
        ("127.0.0.1:0,mode=660", r"bind 127.0.0.1:0: mode, user and group are for unix sockets"),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path: Path, bind: str, says: str) -> None:
    path = tmp_path / "socket"
    with pytest.raises(OperatorError, match=says):
        listen_on([parse_bind(bind.format(path))], 1)
    assert not path.exists()


def test_a_user_without_the_right_is_told() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o777)
        program = f"""
import os
from muxwsgi.server.bind_text import parse_bind
from muxwsgi.server.binds import listen_on
os.setgroups([]); os.setgid(65534); os.setuid(65534)
listen_on([parse_bind("unix:{folder}/socket,group=0")], 1)
"""
        ran = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert "Operation not permitted" in ran.stderr and not os.path.exists(f"{folder}/socket")
