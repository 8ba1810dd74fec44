"""The titles that `ps` shows."""

import signal
import subprocess
import sys
from pathlib import Path

from tests.system.server_process import ROOT, ServerProcess
from tests.waiting import wait_for


def title(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").decode()


def titles(server: ServerProcess) -> list[str]:
    return sorted(title(pid) for pid in (server.pid, *server.child_pids))


def test_ps_shows_the_role_of_each_process_and_a_reload_takes_another_name(tmp_path: Path) -> None:
    (tmp_path / "conf.py").write_text('proc_name = "shop"\nworkers = 2\n')
    environment = {"MUXWSGI_CONFIG": str(tmp_path / "conf.py")}
    with ServerProcess("tests.server.applications:wsgi", "--control-socket", str(tmp_path / "ctl"), environment=environment, cold=True) as server:
        expected = ["muxwsgi: admin [shop]", "muxwsgi: master [shop]", "muxwsgi: worker 0 [shop]", "muxwsgi: worker 1 [shop]"]
        wait_for(lambda: titles(server) == expected, lambda: f"{titles(server)}\n{server.log}")
        assert Path(f"/proc/{server.pid}/comm").read_text() == "muxwsgi: master\n"
        (tmp_path / "conf.py").write_text("workers = 1\n")
        server.send_signal(signal.SIGHUP)
        name = "[tests.server.applications:wsgi]"
        expected = [f"muxwsgi: admin {name}", f"muxwsgi: master {name}", f"muxwsgi: worker 0 {name}"]
        wait_for(lambda: titles(server) == expected, lambda: f"{titles(server)}\n{server.log}")
        assert server.stop() == 0


def test_a_long_title_is_cut_and_leaves_the_environment_alone() -> None:
    program = """
import ctypes, os, sys
from muxwsgi.server.process_title import ProcessTitle
before = open("/proc/self/cmdline", "rb").read()
title = ProcessTitle()
title.show("worker 1", "\\0\\n" + "n" * 5000)
after = open("/proc/self/cmdline", "rb").read()
assert len(after) == len(before) and after.startswith(b"muxwsgi: worker 1 [??nn") and after.endswith(b"n\\0"), after
getenv = ctypes.CDLL(None).getenv
getenv.restype = ctypes.c_char_p
assert getenv(b"FIRST") == b"one", getenv(b"FIRST")
title.show("x", "y")
assert open("/proc/self/cmdline", "rb").read().rstrip(b"\\0") == b"muxwsgi: x [y]"
"""
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, env={"FIRST": "one"}, check=True)
