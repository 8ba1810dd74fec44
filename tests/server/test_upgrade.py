"""SIGUSR2: a new master in place of the old one, on the same sockets."""

import contextlib
import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from muxwsgi.errors import OperatorError
from muxwsgi.server.upgrade import VARIABLE, take_inherited
from tests import warm
from tests.ports import reserved_port
from tests.server.test_handover_processes import read_answer
from tests.system.server_process import ROOT
from tests.waiting import wait_for

APPLICATION = """
import os

def app(environ, start_response):
    body = f"VERSION {os.getpid()} {os.getppid()} {len(environ['wsgi.input'].read())}".encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""


class Service:
    """A server with a pid file, whose masters follow each other."""

    def __init__(self, folder: Path, port: int, process: "subprocess.Popen[bytes]") -> None:
        self.folder, self.port, self.process = folder, port, process
        self.pid_file = folder / "app.pid"

    @property
    def master(self) -> int:
        return int(self.pid_file.read_text())

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    def ask(self, connection: http.client.HTTPConnection | None = None, method: str = "GET") -> list[str]:
        """Version, worker, master, length of the body."""
        used = connection or http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        used.request(method, "/", body="x" * 10_000 if method == "POST" else None)
        told = used.getresponse().read().decode().split()
        if connection is None:
            used.close()
        return told

    def upgrade(self) -> int:
        """Send USR2, and wait until the pid file names a new master. Returns the pid of the old one."""
        old = self.master
        os.kill(old, signal.SIGUSR2)
        wait_for(lambda: self.pid_file.exists() and self.master != old, lambda: self.log)
        return old


def ended(pid: int) -> bool:
    try:
        return re.search(r"^State:\s+Z", Path(f"/proc/{pid}/status").read_text(), re.M) is not None
    except (FileNotFoundError, ProcessLookupError):
        return True


def children_of(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


@contextlib.contextmanager
def service(folder: Path, *options: str, bind: str | None = None, application: str = APPLICATION) -> Iterator[Service]:
    (folder / "upgraded_app.py").write_text(application.replace("VERSION", "first"))
    with reserved_port() as reserved, open(folder / "log", "wb") as log:
        port = reserved.getsockname()[1]
        command = [sys.executable, "-m", "muxwsgi", "run", "upgraded_app:app", "-b", bind or f"127.0.0.1:{port}", "--pid", "app.pid", *options]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", "PWD": str(folder)}
        process = warm.Popen(command, cwd=folder, env=environment, stderr=log)
        found = Service(folder, port, process)
        try:
            wait_for(lambda: " ready" in found.log or process.poll() is not None, lambda: found.log)
            yield found
        finally:
            pids = {process.pid} | {int(each.read_text()) for each in folder.glob("app.pid*")}
            for pid in pids:
                if not ended(pid):
                    os.kill(pid, signal.SIGTERM)
            for pid in pids:
                wait_for(lambda pid=pid: process.poll() is not None if pid == process.pid else ended(pid), lambda: found.log)


def test_a_new_master_takes_the_place_of_the_old_one_with_new_code_and_the_same_socket(tmp_path: Path) -> None:
    with service(tmp_path, "-w", "2") as server:
        assert server.ask()[::2] == ["first", str(server.process.pid)]
        (tmp_path / "upgraded_app.py").write_text(APPLICATION.replace("VERSION", "second"))
        assert server.upgrade() == server.process.pid
        assert server.process.wait(30) == 0
        assert server.ask()[::2] == ["second", str(server.master)]
        assert not (tmp_path / "app.pid.2").exists()
        second = server.master
        assert server.upgrade() == second
        wait_for(lambda: ended(second), lambda: server.log)
        os.kill(server.master, signal.SIGHUP)
        wait_for(lambda: server.log.count("workers are ready") == 4, lambda: server.log)
        assert "Traceback" not in server.log
    assert not (tmp_path / "app.pid").exists()


class KeptConnection:
    """A connection that its client keeps. `ask` is `Service.ask` on it, and raises if the server has closed it."""

    def __init__(self, server: Service) -> None:
        self._sock = socket.create_connection(("127.0.0.1", server.port), timeout=20)
        self.head = b""

    def ask(self) -> list[str]:
        self._sock.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        self.head, body = read_answer(self._sock)
        return body.decode().split()

    def close(self) -> None:
        self._sock.close()


def test_connections_at_rest_are_handed_over_to_the_new_master_s_workers(tmp_path: Path) -> None:
    with service(tmp_path, "-w", "2") as server, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(contextlib.closing(KeptConnection(server))) for _ in range(20)]
        assert {client.ask()[2] for client in clients} == {str(server.process.pid)}
        for _ in range(2):  # the second time by a master that has a queue of the first one
            old = server.upgrade()
            wait_for(lambda old=old: server.process.poll() is not None if old == server.process.pid else ended(old), lambda: server.log)
            for client in clients:
                assert client.ask()[2] == str(server.master)
                assert b"connection: close" not in client.head.lower()


def test_connections_of_a_bind_that_the_new_master_has_with_other_settings_get_one_more_answer(tmp_path: Path) -> None:
    options = tmp_path / "options.toml"
    options.write_text("")
    with service(tmp_path, "-c", "options.toml") as server, contextlib.closing(KeptConnection(server)) as client:
        client.ask()
        options.write_text('proxy_protocol = "v1"\n')
        old = server.upgrade()

        def is_told_to_leave() -> bool:
            assert client.ask()[2] == str(old)
            return b"Connection: close" in client.head

        wait_for(is_told_to_leave)  # the pid file names the new master before the old worker retires
        assert server.process.wait(30) == 0


@pytest.mark.parametrize("times", [2, pytest.param(10, marks=pytest.mark.slow)])
def test_nothing_is_lost_in_upgrades_under_load(tmp_path: Path, times: int) -> None:
    stop, failed, served = threading.Event(), [], []
    with service(tmp_path, "-w", "2") as server:

        def client(method: str) -> None:
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
            while not stop.is_set():
                try:
                    served.append(server.ask(connection, method)[2])
                except Exception as error:
                    failed.append(repr(error))
                    connection.close()

        clients = [threading.Thread(target=client, args=(method,), daemon=True) for method in ("GET", "POST") * 2]
        for each in clients:
            each.start()
        wrk = subprocess.Popen(["wrk", "-t1", "-c8", "-d120", f"http://127.0.0.1:{server.port}/"], stdout=subprocess.PIPE, text=True)
        try:
            for _ in range(times):
                server.upgrade()
                wait_for(lambda: served[-1:] == [str(server.master)], lambda: server.log)
        finally:
            stop.set()
            for each in clients:
                each.join(30)
            wrk.send_signal(signal.SIGINT)
            report = wrk.communicate(timeout=30)[0]
        assert failed == [] and len(set(served)) == times + 1, failed
        assert "Non-2xx" not in report and "Socket errors" not in report, report
        assert int(re.findall(r"(\d+) requests in", report)[0]) > 100


def test_code_that_cannot_be_loaded_leaves_the_old_master(tmp_path: Path) -> None:
    with service(tmp_path, bind=f"unix:{tmp_path}/socket") as server:
        (tmp_path / "upgraded_app.py").write_text("def")
        os.kill(server.process.pid, signal.SIGUSR2)
        wait_for(lambda: "has ended: this one goes on" in server.log, lambda: server.log)
        assert "SyntaxError" in server.log
        assert server.master == server.process.pid and not (tmp_path / "app.pid.2").exists()
        with socket.socket(socket.AF_UNIX) as sock:  # the new one has not removed it
            sock.connect(f"{tmp_path}/socket")
        (tmp_path / "upgraded_app.py").write_text(APPLICATION)
        server.upgrade()
        assert server.process.wait(30) == 0
        with socket.socket(socket.AF_UNIX) as sock:  # the old one has not removed it
            sock.connect(f"{tmp_path}/socket")
    assert not (tmp_path / "socket").exists()


def test_gunicorn_s_procedure_by_hand(tmp_path: Path) -> None:
    """USR2; then WINCH and TERM to the old master, or HUP to the old one and TERM to the new one."""
    with service(tmp_path, "--manual-upgrade", "-w", "2") as server:
        old = server.process.pid
        second = tmp_path / "app.pid.2"
        for go_back in (True, False):
            os.kill(old, signal.SIGUSR2)
            wait_for(lambda: second.exists() and "this master serves beside" in server.log.rpartition("a new master starts")[2], lambda: server.log)
            new = int(second.read_text())
            wait_for(lambda new=new: {server.ask()[2] for _ in range(4)} == {str(old), str(new)}, lambda: server.log)
            kept = KeptConnection(server)
            kept.ask()
            os.kill(old, signal.SIGWINCH)
            wait_for(lambda new=new: children_of(old) == [str(new)], lambda: server.log)
            assert kept.ask()[2] == str(new) and b"connection: close" not in kept.head.lower()
            kept.close()
            if go_back:
                os.kill(old, signal.SIGHUP)
                wait_for(lambda: str(old) in {server.ask()[2] for _ in range(4)}, lambda: server.log)
                os.kill(new, signal.SIGTERM)
                wait_for(lambda: not second.exists() and "has ended: this one goes on" in server.log, lambda: server.log)
                assert server.ask()[2] == str(old) == server.pid_file.read_text().strip()
            else:
                os.kill(old, signal.SIGTERM)
                assert server.process.wait(30) == 0
                wait_for(lambda new=new: server.pid_file.exists() and server.master == new and not second.exists(), lambda: server.log)
                assert server.ask()[2] == str(new)


def test_a_script_that_ends_the_old_master_by_hand_cuts_nothing(tmp_path: Path) -> None:
    with service(tmp_path) as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as slow:
            slow.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nab")
            time.sleep(0.5)
            old = server.upgrade()
            os.kill(old, signal.SIGWINCH)
            os.kill(old, signal.SIGTERM)
            time.sleep(1)
            slow.sendall(b"cd")
            assert slow.recv(1000).endswith(f" {old} 4".encode())
        assert server.process.wait(30) == 0


def test_a_stop_while_the_new_master_starts_ends_both(tmp_path: Path) -> None:
    with service(tmp_path) as server:
        (tmp_path / "upgraded_app.py").write_text("import time; time.sleep(20)\n" + APPLICATION)
        os.kill(server.process.pid, signal.SIGUSR2)
        second = tmp_path / "app.pid.2"
        wait_for(second.exists, lambda: server.log)
        new = int(second.read_text())
        os.kill(server.process.pid, signal.SIGTERM)
        assert server.process.wait(30) == 0
        wait_for(lambda: ended(new), lambda: server.log)


def test_an_old_master_that_is_killed_leaves_its_place(tmp_path: Path) -> None:
    with service(tmp_path, "--manual-upgrade") as server:
        os.kill(server.process.pid, signal.SIGUSR2)
        wait_for(lambda: "this master serves beside" in server.log, lambda: server.log)
        new = int((tmp_path / "app.pid.2").read_text())
        os.kill(server.process.pid, signal.SIGKILL)
        wait_for(lambda: server.master == new, lambda: server.log)
        wait_for(lambda: server.ask()[2] == str(new), lambda: server.log)  # workers of the other one notice its end, and accept no more


def test_reloads_in_the_middle_of_an_upgrade_lose_nothing(tmp_path: Path) -> None:
    with service(tmp_path) as server:
        failed: list[BaseException] = []
        done = threading.Event()

        def ask() -> None:
            while not done.is_set():
                try:
                    server.ask()
                except BaseException as error:
                    failed.append(error)

        asking = threading.Thread(target=ask)
        asking.start()
        try:
            (tmp_path / "upgraded_app.py").write_text("import time\ntime.sleep(1.5)\n" + APPLICATION.replace("VERSION", "second"))
            os.kill(server.process.pid, signal.SIGUSR2)
            wait_for(lambda: (tmp_path / "app.pid.2").exists() and (tmp_path / "app.pid.2").read_text() != "", lambda: server.log)
            new = int((tmp_path / "app.pid.2").read_text())
            os.kill(server.process.pid, signal.SIGHUP)
            os.kill(server.process.pid, signal.SIGUSR2)
            assert server.process.wait(30) == 0
            os.kill(new, signal.SIGHUP)
            wait_for(lambda: server.log.count("worker is ready") >= 3, lambda: server.log)
        finally:
            done.set()
            asking.join()
        assert not failed and server.master == new and server.ask()[::2] == ["second", str(new)]
        assert "there is a new master already" in server.log and "Traceback" not in server.log


def test_an_address_that_the_new_master_does_not_have_is_closed_in_all_its_processes(tmp_path: Path) -> None:
    options = tmp_path / "options.toml"
    with reserved_port() as reserved:
        address = reserved.getsockname()
        options.write_text(f'admin_bind = "127.0.0.1:{address[1]}"\n')
        with service(tmp_path, "-c", "options.toml") as server:
            socket.create_connection(address, timeout=5).close()
            options.write_text("")
            server.upgrade()
            assert server.process.wait(30) == 0
            assert server.ask()[0] == "first"
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(address, timeout=5).close()


def test_a_link_that_is_changed_leads_to_the_new_folder(tmp_path: Path) -> None:
    for version in ("one", "two"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "linked_app.py").write_text(APPLICATION.replace("VERSION", version))
    current = tmp_path / "current"
    current.symlink_to(tmp_path / "one")
    with reserved_port() as reserved:
        port = reserved.getsockname()[1]
        command = ["sh", "-c", f"cd {current} && exec {sys.executable} -m muxwsgi run linked_app:app -b 127.0.0.1:{port}"]
        process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE, text=True)
        try:
            assert process.stderr is not None
            server = Service(tmp_path, port, process)  # type: ignore[arg-type]
            while " ready" not in process.stderr.readline():
                assert process.poll() is None
            assert server.ask()[0] == "one"
            current.unlink()
            current.symlink_to(tmp_path / "two")
            process.send_signal(signal.SIGHUP)
            while " ready" not in process.stderr.readline():
                pass
            wait_for(lambda: server.ask()[0] == "two")  # the old worker may accept until it is told
        finally:
            process.terminate()
            process.communicate(timeout=30)


def test_a_socket_of_systemd_and_its_manager_go_with_the_new_master(tmp_path: Path) -> None:
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    manager.bind(str(tmp_path / "notify"))
    manager.settimeout(30)
    (tmp_path / "upgraded_app.py").write_text(APPLICATION)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        launcher = "import os, sys; os.dup2(int(sys.argv[1]), 3); os.environ['LISTEN_PID'] = str(os.getpid()); os.execv(sys.executable, [sys.executable, '-m', 'muxwsgi', 'run', 'upgraded_app:app', '-b', 'fd://web', '--pid', 'app.pid'])"
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "LISTEN_FDS": "1", "LISTEN_FDNAMES": "web", "NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "1000000"}
        with open(tmp_path / "log", "wb") as log:
            process = subprocess.Popen([sys.executable, "-c", launcher, str(listening.fileno())], cwd=tmp_path, env=environment, pass_fds=[listening.fileno()], stderr=log)
        server = Service(tmp_path, listening.getsockname()[1], process)
        try:
            while b"READY=1" not in manager.recv(4096):
                pass
            server.upgrade()
            while (told := manager.recv(4096)) != b"MAINPID=%d" % server.master:
                assert not told.startswith(b"STOPPING")
            assert process.wait(30) == 0
            while b"WATCHDOG=1" not in manager.recv(4096):  # of the new one: the old one has ended
                pass
            assert server.ask()[2] == str(server.master)
        finally:
            os.kill(server.master, signal.SIGTERM)
            wait_for(lambda: not server.pid_file.exists(), lambda: server.log)


@pytest.mark.skipif(os.geteuid() != 0, reason="process ids of a container take root")
def test_the_first_process_of_a_container_stays(tmp_path: Path) -> None:
    (tmp_path / "upgraded_app.py").write_text(APPLICATION)
    with reserved_port() as reserved, open(tmp_path / "log", "wb") as log:
        port = reserved.getsockname()[1]
        command = ["unshare", "--pid", "--fork", "--kill-child", sys.executable, "-m", "muxwsgi", "run", "upgraded_app:app", "-b", f"127.0.0.1:{port}"]
        process = subprocess.Popen(command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=log)
        try:
            server = Service(tmp_path, port, process)
            wait_for(lambda: " ready" in server.log)
            (first,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            os.kill(int(first), signal.SIGUSR2)
            wait_for(lambda: "replace the container instead" in server.log, lambda: server.log)
            assert server.ask()[2] == "1"
        finally:
            os.kill(int(first), signal.SIGTERM)
            assert process.wait(30) == 0


def test_no_descriptor_is_left_over_by_upgrades(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        launcher = "import os, sys; os.dup2(int(sys.argv[1]), 3); os.environ['LISTEN_PID'] = str(os.getpid()); os.execv(sys.executable, [sys.executable, '-m', 'muxwsgi', 'run', 'upgraded_app:app', '-b', 'fd://web', '-b', 'unix:socket', '--pid', 'app.pid'])"
        (tmp_path / "upgraded_app.py").write_text(APPLICATION)
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "LISTEN_FDS": "1", "LISTEN_FDNAMES": "web"}
        with open(tmp_path / "log", "wb") as log:
            process = subprocess.Popen([sys.executable, "-c", launcher, str(listening.fileno())], cwd=tmp_path, env=environment, pass_fds=[listening.fileno()], stderr=log)
        server = Service(tmp_path, listening.getsockname()[1], process)
        counts = []
        try:
            wait_for(lambda: " ready" in server.log)
            for number in range(4):
                old = server.upgrade()
                wait_for(lambda old=old: process.poll() is not None if old == process.pid else ended(old), lambda: server.log)
                wait_for(lambda number=number: server.log.count(" ready") == number + 2)
                counts.append(len(os.listdir(f"/proc/{server.master}/fd")))
                inheritable = [fd for fd in os.listdir(f"/proc/{server.master}/fd") if int(fd) > 2 and not int(re.findall(r"flags:\s+(\d+)", Path(f"/proc/{server.master}/fdinfo/{fd}").read_text())[0], 8) & os.O_CLOEXEC]
                assert inheritable == []
        finally:
            os.kill(server.master, signal.SIGTERM)
            wait_for(lambda: not server.pid_file.exists(), lambda: server.log)
        assert len(set(counts)) == 1, counts


def test_a_variable_that_somebody_else_has_set_is_an_error() -> None:
    for text in ("", "{}", '{"control": 9999, "sockets": [], "passed": [], "handover": []}'):
        environ = {VARIABLE: text}
        with pytest.raises(OperatorError, match="is for the process that SIGUSR2 starts"):
            take_inherited(environ)
        assert environ == {}
