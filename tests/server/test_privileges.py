"""`--user`, `--group`, `--initgroups`, `--umask`: real processes of root, whose workers are somebody else."""

import contextlib
import http.client
import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from muxwsgi.errors import OperatorError
from muxwsgi.server.privileges import identity_of
from muxwsgi.settings import SystemSettings
from tests.ports import reserved_port
from tests.system.other_user import NOBODY, NOGROUP, interpreter
from tests.system.server_process import ROOT, insecure_context
from tests.waiting import wait_for

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="giving workers another user takes root")

APPLICATION = """
import json, os

def app(environ, start_response):
    open("made-by-worker", "w").close()
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    told = {
        "ids": [os.getresuid(), os.getresgid()], "groups": os.getgroups(), "umask": status["Umask"].strip(),
        "capabilities": status["CapEff"].strip() + status["CapPrm"].strip() + status["CapAmb"].strip(), "pid": os.getpid(),
    }
    body = json.dumps(told).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""


class Running:
    def __init__(self, process: "subprocess.Popen[str]", port: int, folder: Path) -> None:
        self.process, self.port, self.folder = process, port, folder

    def ask(self, tls: bool = False) -> dict[str, object]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        if tls:
            connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=20, context=insecure_context())
        try:
            connection.request("GET", "/")
        except ConnectionRefusedError:
            raise AssertionError(self.log) from None
        told: dict[str, object] = json.loads(connection.getresponse().read())
        connection.close()
        return told

    @property
    def log(self) -> str:
        return (self.folder / "stderr").read_text()


@contextlib.contextmanager
def serving(*options: str, prepare: Callable[[Path], None] = lambda folder: None) -> Iterator[Running]:
    """A server whose folder is everybody's, with an application that tells who it is. `prepare` puts further files into the folder."""
    python, variables = interpreter()
    with tempfile.TemporaryDirectory() as name, reserved_port() as reserved:
        folder, port = Path(name), reserved.getsockname()[1]
        folder.chmod(0o777)
        (folder / "who.py").write_text(APPLICATION)
        (folder / "secret.toml").touch(0o600)
        prepare(folder)
        environment = {**os.environ, **variables, "PYTHONPATH": variables.get("PYTHONPATH", str(ROOT))}
        filled = [option.format(folder) for option in options]
        with open(folder / "stderr", "wb") as stderr:
            process = subprocess.Popen(
                [python, "-m", "muxwsgi", "run", "who:app", "-b", f"127.0.0.1:{port}", *filled], cwd=folder, env=environment, stderr=stderr, text=True
            )
        running = Running(process, port, folder)
        try:
            wait_for(lambda: " ready" in running.log or process.poll() is not None, lambda: running.log)
            yield running
        finally:
            process.terminate()
            process.wait(30)


def test_workers_are_the_user_with_one_group_and_no_capability() -> None:
    with serving("--user", "nobody", "-w", "2", "--umask", "027") as server:
        told = server.ask()
        assert told["ids"] == [[NOBODY] * 3, [NOGROUP] * 3] and told["groups"] == [NOGROUP]
        assert set(str(told["capabilities"])) == {"0"} and told["umask"] == "0027"
        made = (server.folder / "made-by-worker").stat()
        assert (made.st_uid, made.st_mode & 0o777) == (NOBODY, 0o640)
        assert os.stat(f"/proc/{server.process.pid}").st_uid == 0
    assert server.process.returncode == 0


def test_initgroups_gives_the_groups_of_the_user() -> None:
    wanted = {int(each) for each in subprocess.run(["id", "-G", "postgres"], capture_output=True, text=True, check=True).stdout.split()}
    assert len(wanted) > 1  # Debian's postgres is in ssl-cert too
    with serving("--user", "postgres", "--initgroups") as server:
        assert set(server.ask()["groups"]) == wanted  # type: ignore[call-overload]
    with serving("--user", "postgres", "--group", "www-data") as server:
        assert server.ask()["groups"] == [33]


@pytest.mark.parametrize("preload", [(), ("--preload",)], ids=["plain", "preload"])
def test_workers_of_a_master_that_is_killed_end_although_their_user_has_changed(preload: tuple[str, ...]) -> None:
    with serving("--user", "nobody", "-w", "2", *preload) as server:
        pids = [int(pid) for pid in Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()]
        assert len(pids) == 2 + len(preload)
        assert {os.stat(f"/proc/{pid}").st_uid for pid in pids} == {NOBODY}, "a preloader runs the application, so it is not root"
        assert server.ask()["groups"] == [NOGROUP]
        server.process.send_signal(signal.SIGKILL)
        wait_for(lambda: not any(os.path.exists(f"/proc/{pid}/exe") and is_running(pid) for pid in pids), lambda: server.log)


def is_running(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_reload_keeps_the_identity_and_reads_what_only_root_may_read() -> None:
    with serving("--user", "nobody", "-c", "{}/secret.toml") as server:
        first = server.ask()
        server.process.send_signal(signal.SIGHUP)
        wait_for(lambda: server.ask()["pid"] != first["pid"], lambda: server.log)
        assert server.ask()["ids"] == first["ids"]


def test_code_that_the_user_may_not_read_fails_with_the_reason_at_a_reload() -> None:
    with serving("--user", "nobody") as server:
        (server.folder / "who.py").chmod(0o600)
        server.process.send_signal(signal.SIGHUP)
        wait_for(lambda: "the reload failed, and what served before goes on" in server.log, lambda: server.log)
        assert "Permission denied" in server.log
        assert server.ask()["ids"] == [[NOBODY] * 3, [NOGROUP] * 3]


def test_the_user_need_not_read_the_key_at_the_start_and_at_a_reload() -> None:
    """The master reads it."""
    with serving("--user", "nobody", "--certfile", "{}/certificate.pem", "--keyfile", "{}/key.pem", prepare=make_certificate) as server:
        assert (server.folder / "key.pem").stat().st_mode & 0o777 == 0o600
        first = server.ask(tls=True)
        assert first["ids"] == [[NOBODY] * 3, [NOGROUP] * 3]
        make_certificate(server.folder)
        server.process.send_signal(signal.SIGHUP)
        wait_for(lambda: server.ask(tls=True)["pid"] != first["pid"], lambda: server.log)
        (server.folder / "key.pem").unlink()
        server.process.send_signal(signal.SIGHUP)
        wait_for(lambda: f"keyfile: {server.folder}/key.pem: No such file or directory" in server.log, lambda: server.log)
        assert server.ask(tls=True)["ids"] == first["ids"], "the workers before go on"


def make_certificate(folder: Path) -> None:
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=localhost -keyout key.pem -out certificate.pem"
    subprocess.run(command.split(), cwd=folder, check=True, capture_output=True)


def test_logs_that_root_creates_are_the_user_s_and_a_rotation_goes_on() -> None:
    python, variables = interpreter()
    with tempfile.TemporaryDirectory() as name, reserved_port() as reserved:
        folder = Path(name)
        folder.chmod(0o755)  # only root creates files here
        (folder / "who.py").write_text(APPLICATION.replace('    open("made-by-worker", "w").close()\n', ""))
        logs = [folder / "error.log", folder / "access.log"]
        process = subprocess.Popen(
            [python, "-m", "muxwsgi", "run", "who:app", "-b", f"127.0.0.1:{reserved.getsockname()[1]}", "--user", "nobody",
             "--error-logfile", str(logs[0]), "--access-logfile", str(logs[1])],
            cwd=folder, env={**os.environ, **variables, "PYTHONPATH": variables.get("PYTHONPATH", str(ROOT))},
        )
        try:
            running = Running(process, reserved.getsockname()[1], folder)
            wait_for(lambda: " ready" in logs[0].read_text())
            for each in logs:
                assert (each.stat().st_uid, each.stat().st_mode & 0o777) == (NOBODY, 0o640)
                each.rename(f"{each}.1")
            process.send_signal(signal.SIGUSR1)
            wait_for(lambda: all(each.stat().st_uid == NOBODY for each in logs))
            wait_for(lambda: "SIGUSR1" in logs[0].read_text())
            running.ask()
            wait_for(lambda: "GET / " in logs[1].read_text())
        finally:
            process.terminate()
            assert process.wait(30) == 0


def test_a_name_that_is_taken_is_not_given_away(tmp_path: Path) -> None:
    victim, link = tmp_path / "shadow", tmp_path / "error.log"
    victim.write_text("secret")
    identity = identity_of(SystemSettings(user="nobody"))
    assert identity is not None
    link.symlink_to(victim)
    identity.give_new_file(str(link))
    link.unlink()
    link.symlink_to(tmp_path / "new")
    identity.give_new_file(str(link))
    assert victim.stat().st_uid == 0 and not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"user": "no-such-user"}, "user: there is no user 'no-such-user'"),
        ({"group": "no-such-group"}, "group: there is no group 'no-such-group'"),
        ({"user": "54321"}, "group: the user 54321 has no entry in the user database, so name a group too"),
        ({"user": "54321", "group": "1", "initgroups": True}, "initgroups: the user 54321 has no entry"),
        ({"user": str(2**32 - 1), "group": "1"}, "user: 4294967295 is too large"),
        ({"initgroups": True}, "initgroups: it is for workers with another user"),
        ({"umask": "99"}, "umask: '99' is not an octal number, as 027"),
    ],
)
def test_what_is_wrong_is_said(settings: dict[str, object], says: str) -> None:
    with pytest.raises(OperatorError, match=says):
        identity_of(SystemSettings(**settings))  # type: ignore[arg-type]


def test_numbers_and_octal_masks() -> None:
    identity = identity_of(SystemSettings(user="54321", group="54322"))
    assert identity is not None and (identity.user, identity.group, identity.groups) == (54321, 54322, (54322,))
    assert SystemSettings(umask="27").mask == SystemSettings(umask="0o027").mask == 0o27
    assert identity_of(SystemSettings()) is None


@pytest.mark.parametrize(("options", "status"), [(["--user", "root"], 2), (["--user", "nobody"], 0), (["--group", "www-data"], 2)])
def test_somebody_who_is_not_root_can_only_be_himself(options: list[str], status: int) -> None:
    python, variables = interpreter()
    as_nobody = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOGROUP}", "--clear-groups", python, "-m", "muxwsgi", "run", "no_such_app"]
    ran = subprocess.run(
        [*as_nobody, "-b", "127.0.0.1:0", *options], cwd=ROOT, env={**os.environ, **variables}, capture_output=True, text=True, timeout=60
    )
    assert ran.returncode == 2
    refused = "only root can give workers another identity; this is nobody"
    assert (refused in ran.stderr) == (status == 2), ran.stderr
