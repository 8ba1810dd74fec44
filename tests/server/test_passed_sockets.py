"""Sockets that systemd passes: LISTEN_FDS, LISTEN_PID, LISTEN_FDNAMES."""

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from muxwsgi.errors import OperatorError
from muxwsgi.server.passed import PassedSocket, expand_binds, take_passed
from tests.ports import reserved_port
from tests.system.server_process import ROOT

APP = "tests.system.counted_app"

#: What systemd does between fork and exec: the sockets are 3 and up, and the variables name this process.
LAUNCHER = """
import os, sys
names, pid = sys.argv[1:3]
os.environ |= {"LISTEN_FDS": str(len(names.split(":"))), "LISTEN_FDNAMES": names, "LISTEN_PID": pid or str(os.getpid())}
os.execv(sys.executable, [sys.executable, "-m", "muxwsgi", *sys.argv[3:]])
"""

SHOWS_ENVIRONMENT = """
import os, subprocess

def app(environ, start_response):
    child = subprocess.run(["ls", "/proc/self/fd"], capture_output=True, text=True).stdout.split()
    body = repr([sorted(name for name in os.environ if name.startswith("LISTEN_")), len(child)]).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""


def ask(address: object, family: int = socket.AF_INET) -> bytes:
    with socket.socket(family) as sock:
        sock.settimeout(20)
        sock.connect(address)  # type: ignore[arg-type]
        sock.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        answer = b""
        while part := sock.recv(65536):
            answer += part
    return answer


@contextlib.contextmanager
def launched(names: str, sockets: list[socket.socket], *command: str, pid: str = "") -> "Iterator[subprocess.Popen[str]]":
    """The command, with the sockets as descriptors 3 and up."""

    def place() -> None:
        copies = [os.dup(os.dup2(each.fileno(), 100 + number)) for number, each in enumerate(sockets)]
        for number, copy in enumerate(copies):
            os.dup2(copy, 3 + number)

    process = subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, names, pid, *command],
        cwd=ROOT, preexec_fn=place, close_fds=False, stderr=subprocess.PIPE, text=True,
    )
    try:
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=30)


def test_all_sockets_are_served_if_no_bind_is_given(tmp_path: Path) -> None:
    (tmp_path / "shows_environment.py").write_text(SHOWS_ENVIRONMENT)
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        with launched("web:web", [one, two], "run", "shows_environment:app", "--pythonpath", str(tmp_path)) as process:
            for each in (one, two):
                answer = ask(each.getsockname())
                assert answer.startswith(b"HTTP/1.1 200")
                left, open_in_child = eval(answer.partition(b"\r\n\r\n")[2])
                assert left == [] and open_in_child == 4  # standard streams, and the folder that `ls` reads
        assert process.returncode == 0


def test_the_sockets_of_a_name_are_one_bind_with_options_of_its_own() -> None:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        with launched("admin:web", [one, two], "run", APP, "-b", "fd://web") as process:
            assert ask(two.getsockname()).startswith(b"HTTP/1.1 200")
            process.terminate()
            log = process.communicate(timeout=30)[1]
        host, port = two.getsockname()
        assert f"{host}:{port}" in log and f":{one.getsockname()[1]}" not in log


def test_a_name_that_no_socket_has_is_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as one, launched("web", [one], "run", APP, "-b", "fd://wbe") as process:
        assert process.communicate(timeout=30)[1] == (
            "muxwsgi: error: bind 'fd://wbe': no socket of that name was passed to this process; passed: web\n"
        )
        assert process.returncode == 2


def test_sockets_for_another_process_are_left_alone() -> None:
    with socket.create_server(("127.0.0.1", 0)) as one, launched("web", [one], "run", APP, "-b", "fd://web", pid="1") as process:
        assert "no socket of that name was passed" in process.communicate(timeout=30)[1]


def test_a_socket_that_was_dropped_by_a_reload_can_be_served_again(tmp_path: Path) -> None:
    config = tmp_path / "app.toml"
    config.write_text('bind = ["fd://one", "fd://two"]\n')
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        with launched("one:two", [one, two], "run", APP, "-w", "2", "-c", str(config)) as process:
            assert process.stderr is not None
            for binds, said in (('["fd://two"]', "no longer listening on"), ('["fd://one", "fd://two"]', "")):
                assert ask(two.getsockname()).startswith(b"HTTP/1.1 200")
                while "workers are ready" not in process.stderr.readline():
                    pass
                config.write_text(f"bind = {binds}\n")
                process.send_signal(1)
                while said and said not in process.stderr.readline():
                    pass
            while "workers are ready" not in process.stderr.readline():
                pass
            assert ask(one.getsockname()).startswith(b"HTTP/1.1 200")


def test_systemd_s_own_program_passes_sockets() -> None:
    with reserved_port() as reserved:
        address = reserved.getsockname()
        command = [sys.executable, "-m", "muxwsgi", "run", APP, "-b", "fd://web"]
        process = subprocess.Popen(
            ["systemd-socket-activate", "-l", f"127.0.0.1:{address[1]}", "--fdname=web", "-E", f"PATH={os.environ['PATH']}", *command],
            cwd=ROOT, stderr=subprocess.PIPE, text=True,
        )
        try:
            assert process.stderr is not None
            while "Listening on" not in process.stderr.readline():
                assert process.poll() is None
            assert ask(address).startswith(b"HTTP/1.1 200")
        finally:
            process.terminate()
            process.communicate(timeout=30)
        assert process.returncode == 0


@pytest.mark.parametrize(
    ("environ", "says"),
    [
        ({"LISTEN_FDS": "two"}, "LISTEN_FDS: 'two' is not a number"),
        ({"LISTEN_FDS": "2", "LISTEN_FDNAMES": "a"}, "LISTEN_FDNAMES has 1 names, and LISTEN_FDS is 2"),
        ({"LISTEN_FDS": "5000"}, "descriptor [0-9]+: Bad file descriptor"),
    ],
)
def test_variables_that_are_wrong_are_said(environ: dict[str, str], says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("muxwsgi.server.passed.FIRST", 2000)  # no descriptor of this process
    with pytest.raises(OperatorError, match=says):
        take_passed(environ | {"LISTEN_PID": str(os.getpid())})


def test_a_number_stays_a_number() -> None:
    passed = (PassedSocket(3, "web"), PassedSocket(4, "web"), PassedSocket(5, "admin"))
    assert expand_binds(["fd://7", "fd://web,tls=off", ":80", "unix:/a"], passed) == ["fd://7", "fd://3,tls=off", "fd://4,tls=off", ":80", "unix:/a"]
