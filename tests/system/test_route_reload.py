"""Routes of a running service: the flag, the file, and what a reload makes of a new file and of a faulty one."""

import signal
import subprocess
import sys
from pathlib import Path

from tests.system.server_process import ServerProcess
from tests.waiting import wait_for

APP = "tests.server.applications:wsgi"


def answer(server: ServerProcess, data: bytes) -> bytes:
    with server.connect() as sock:
        sock.sendall(data)
        try:
            return sock.recv(100)
        except ConnectionError:
            return b""


def test_a_reload_takes_routes_and_a_faulty_file_leaves_the_old_ones(tmp_path: Path) -> None:
    file = tmp_path / "routes.toml"

    def write(prefix: str, to: str = "echo") -> None:
        file.write_text(f'[[route]]\nname = "mine"\nmatch = {{prefix = "{prefix}"}}\nto = "{to}"\n')

    write("ONE ")
    with ServerProcess(APP, "-c", str(file)) as server:
        assert answer(server, b"ONE x\n") == b"ONE x\n"
        assert answer(server, b"TWO \0\n") == b""
        write("TWO ")
        server.send_signal(signal.SIGHUP)
        wait_for(lambda: answer(server, b"TWO \0\n") == b"TWO \0\n", lambda: server.log)
        write("ONE ", "ecko")
        server.send_signal(signal.SIGHUP)
        server.wait_for_log("route 1: to: no route or hijacker is named 'ecko'; did you mean 'echo'?", 30)
        assert answer(server, b"TWO \0\n") == b"TWO \0\n"


def test_a_bind_for_one_route_is_counted_and_serves_it_alone() -> None:
    with ServerProcess(APP, "--route", "smtp=echo", bind_options=",only=smtp") as server:
        assert answer(server, b"GET / HTTP/1.1\r\n\r\n") == b"GET / HTTP/1.1\r\n\r\n"
        assert "Traceback" not in server.log
        assert "failed" not in server.log


def test_a_fault_is_one_line_with_its_place_and_the_status_is_2(tmp_path: Path) -> None:
    file = tmp_path / "routes.toml"
    file.write_text('[[route]]\nmatch = "ssh"\nto = "forward:127.0.0.1:22"\n\n[[route]]\nmatch = "sssh"\nto = "close"\n')
    for command in (("run", APP), ("check",), ("routes",)):
        done = subprocess.run(
            [sys.executable, "-m", "muxwsgi", *command, "-b", "127.0.0.1:0", "-c", str(file)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 2
        assert done.stderr.splitlines()[-1] == f"muxwsgi: error: {file}: route 2: match: no protocol is named 'sssh'; did you mean 'ssh'?"
