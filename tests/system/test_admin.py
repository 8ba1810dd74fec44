"""The admin bind, the control socket, `muxwsgi ctl` and `muxwsgi top`: real processes, real clients."""

import http.client
import json
import os
import pty
import resource
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from muxwsgi.cli.control import Control, Unreachable
from tests import warm
from tests.ports import reserved_port
from tests.system.server_process import ROOT, ServerProcess
from tests.waiting import wait_for

APPLICATION = """
import os, time

def app(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/spin":
        give_up = time.monotonic() + 60
        while time.monotonic() < give_up and not os.path.exists(environ["QUERY_STRING"]):
            pass
    if path == "/slow":
        while not os.path.exists(environ["QUERY_STRING"]):
            time.sleep(0.05)
    if path == "/take":
        environ["muxwsgi.hijack"]().sendall(b"taken")
        return []
    body = environ["wsgi.input"].read()
    start_response("404 Not Found" if path == "/missing" else "200 OK", [("Content-Length", str(len(body) + 5))])
    return [b"hello" + body]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "admin_app.py").write_text(APPLICATION)
    return tmp_path


class Service:
    """A server with an admin bind on a unix socket, and a control socket."""

    def __init__(self, server: ServerProcess, folder: Path) -> None:
        self.server = server
        self.folder = folder
        self.control = Control(str(folder / "ctl"))

    def ask(self, path: str, **headers: str) -> tuple[int, str]:
        """Status and text of a page of the admin bind."""
        with closing(socket.socket(socket.AF_UNIX)) as client:
            client.settimeout(20)
            client.connect(str(self.folder / "admin"))
            return answer(client, path, **headers)

    def samples(self) -> dict[str, float]:
        status, text = self.ask("/metrics")
        assert status == 200, text
        return samples_of(text)

    def status(self) -> Any:
        return self.control.get("/status")

    def workers(self) -> list[Any]:
        return [each for each in self.status()["workers"] if each["state"] == "serving"]

    def ready(self) -> bool:
        try:
            return self.ask("/readyz")[0] == 200
        except OSError:  # the process that answers is being replaced
            return False

    def ctl(self, *arguments: str, json_wanted: bool = False) -> subprocess.CompletedProcess[str]:
        more = ["--json"] if json_wanted else []
        return warm.run(
            [sys.executable, "-m", "muxwsgi", "ctl", "-s", self.control.path, *more, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=90
        )


def answer(client: socket.socket, path: str, method: str = "GET", **headers: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("localhost")
    connection.sock = client
    connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
    response = connection.getresponse()
    return response.status, response.read().decode()


def samples_of(text: str) -> dict[str, float]:
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


@contextmanager
def serving(folder: Path, *options: str, workers: int = 2, admin: str | None = None) -> Iterator[Service]:
    admin_bind = f"unix:{folder}/admin" if admin is None else admin
    more = ["-w", str(workers), "--pythonpath", str(folder), "--admin-bind", admin_bind, "--control-socket", f"{folder}/ctl", *options]
    with ServerProcess("admin_app:app", *more, environment={"XDG_DATA_HOME": str(folder)}) as server:
        service = Service(server, folder)
        wait_for(lambda: answers(service))
        yield service


def children_of(server: ServerProcess) -> list[int]:
    """The processes of a master: its workers, and its admin process."""
    return [int(pid) for pid in Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()]


def answers(service: Service) -> bool:
    """Whether all is up: the admin process, and its streams to all workers."""
    try:
        return bool(service.status()["ready"]) and not service.control.get("/status/routes")["unanswered"]
    except Unreachable:
        return False


# Metrics


def test_one_scrape_has_the_exact_sums_of_all_workers_also_after_one_was_killed_and_after_a_reload(folder: Path) -> None:
    with serving(folder, workers=4) as service:
        sent = {"GET": 0, "POST": 0, "bytes": 0}

        def load(times: int) -> None:
            """Each request on a connection of its own, so that all workers get some."""

            def client() -> None:
                for number in range(times):
                    connection = http.client.HTTPConnection("127.0.0.1", service.server.port, timeout=20)
                    if number % 3:
                        connection.request("GET", "/")
                    else:
                        connection.request("POST", "/missing", b"x" * 100)
                    connection.getresponse().read()
                    connection.close()

            clients = [threading.Thread(target=client) for _ in range(4)]
            for each in clients:
                each.start()
            for each in clients:
                each.join()
            posts = len(range(0, times, 3))
            sent["GET"] += 4 * (times - posts)
            sent["POST"] += 4 * posts
            sent["bytes"] += 4 * posts * 100

        def sums() -> tuple[float, ...]:
            samples = service.samples()
            return (
                samples.get("muxwsgi_http_requests_total{method=GET,status=200}", 0),
                samples.get("muxwsgi_http_requests_total{method=POST,status=404}", 0),
                samples["muxwsgi_http_request_body_bytes_total"],
                samples["muxwsgi_http_request_duration_seconds_count"],
                samples["muxwsgi_sniff_results_total{result=matched}"],
                samples["muxwsgi_route_connections_total{route=http}"],
                samples["muxwsgi_connections_accepted_total"] - samples["muxwsgi_connections_closed_total{reason=ok}"],
            )

        def expected() -> tuple[int, ...]:
            total = sent["GET"] + sent["POST"]
            return (sent["GET"], sent["POST"], sent["bytes"], total, total, total, 0)

        def settle() -> None:
            """Workers write once a second."""
            wait_for(lambda: sums() == expected(), lambda: f"{sums()} instead of {expected()}")

        load(60)
        settle()
        assert len([each for each in service.workers() if each["requests"]]) > 1, "only one worker had anything to do"
        assert sum(each["requests"] for each in service.workers()) == sent["GET"] + sent["POST"]

        victim = max(service.workers(), key=lambda each: int(each["requests"]))
        os.kill(victim["pid"], signal.SIGKILL)
        wait_for(lambda: len(service.workers()) == 4 and victim["pid"] not in [each["pid"] for each in service.workers()])
        assert sums() == expected()
        load(30)
        settle()
        assert service.samples()["muxwsgi_worker_failures_total{reason=signal}"] == 1

        assert service.ctl("reload").returncode == 0
        wait_for(lambda: answers(service) and {each["generation"] for each in service.status()["workers"]} == {2})
        assert sums() == expected()
        load(30)
        settle()
        samples = service.samples()
        assert samples["muxwsgi_reloads_total{result=ok}"] == 1
        assert samples["muxwsgi_generation"] == 2
        assert samples["muxwsgi_workers{state=serving}"] == samples["muxwsgi_workers_wanted"] == 4
        assert samples["muxwsgi_worker_starts_total"] == 9


def test_the_text_is_openmetrics_on_request(folder: Path) -> None:
    with serving(folder, workers=1) as service:
        status, text = service.ask("/metrics", Accept="application/openmetrics-text;version=1.0.0")
        assert status == 200 and text.endswith("# EOF\n")


def test_a_proxy_has_its_metrics(folder: Path) -> None:
    options = ["--admin-bind", f"unix:{folder}/admin", "--control-socket", f"{folder}/ctl"]
    with ServerProcess(None, *options, environment={"XDG_DATA_HOME": str(folder)}) as server:
        service = Service(server, folder)
        wait_for(lambda: answers(service))
        assert service.samples()["muxwsgi_proxy_upstream_connections_total{event=opened}"] == 0


# Health


def test_readyz_is_red_while_drained_and_while_stopping(folder: Path) -> None:
    with serving(folder, "--health-path", "/health", workers=2) as service:
        assert service.ask("/healthz") == (200, "ok\n")
        assert service.ask("/readyz") == (200, "ready\n")
        assert service.server.get("/health") == (200, b"ok\n")
        assert service.server.get("/healthy") == (200, b"hello")

        assert service.ctl("drain").returncode == 0
        assert service.ask("/readyz") == (503, "draining\n")
        assert service.server.get("/health") == (503, b"draining\n")
        assert service.server.get("/") == (200, b"hello")  # it serves all the same
        assert service.ctl("status").returncode == 1
        assert service.ctl("undrain").returncode == 0
        assert service.ready()

        with closing(service.server.connect()) as client:
            done = service.folder / "done"
            client.sendall(f"GET /slow?{done} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            wait_for(lambda: [each for each in service.control.get("/status/connections")["connections"] if each["state"] == "active"])
            assert service.ctl("stop").returncode == 0
            wait_for(lambda: "stopping" in service.ask("/readyz")[1])
            service.server.send_signal(signal.SIGUSR1)  # logrotate comes at any time
            service.server.wait_for_log("logs reopened")
            assert "stopping" in service.ask("/readyz")[1]
            done.touch()
            assert client.recv(1000).startswith(b"HTTP/1.1 200 ")
        assert service.server.ended() == 0
    assert not (folder / "admin").exists() and not (folder / "ctl").exists()


# The process


def test_the_admin_process_is_started_again_and_holds_up_no_stop(folder: Path) -> None:
    with serving(folder, workers=1) as service:
        workers = {each["pid"] for each in service.status()["workers"]}
        (admin,) = set(children_of(service.server)) - workers
        for sig in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            os.kill(admin, sig)
        assert admin in children_of(service.server)
        os.kill(admin, signal.SIGKILL)
        service.server.wait_for_log("the admin process has ended")
        wait_for(lambda: answers(service))
        assert admin not in children_of(service.server)
        (admin,) = set(children_of(service.server)) - workers
        os.kill(admin, signal.SIGSTOP)  # it does not answer any more
        assert service.server.stop() == 0
        assert not Path(f"/proc/{admin}").exists()


def test_the_admin_process_dies_with_its_master(folder: Path) -> None:
    with serving(folder, workers=1) as service:
        children = children_of(service.server)
        assert len(children) == 2
        os.kill(service.server.pid, signal.SIGKILL)
        wait_for(lambda: not any(alive(pid) for pid in children))


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_new_master_takes_the_admin_bind_and_the_control_socket_over(folder: Path) -> None:
    with serving(folder, workers=1) as service:
        old = service.status()["pid"]
        service.server.send_signal(signal.SIGUSR2)
        try:
            assert service.server.ended(timeout=60) == 0
            wait_for(lambda: answers(service))
            assert service.status()["pid"] != old
            assert service.ask("/readyz") == (200, "ready\n")
        finally:
            new = service.status()["pid"]
            assert service.ctl("stop", "--now").returncode == 0
        wait_for(lambda: not alive(new))
    assert not (folder / "admin").exists() and not (folder / "ctl").exists()


def test_the_admin_process_keeps_no_port_of_the_service_open(folder: Path) -> None:
    with serving(folder, workers=1) as service, closing(reserved_port()) as other:
        workers = {each["pid"] for each in service.status()["workers"]}
        (admin,) = set(children_of(service.server)) - workers
        assert other.getsockname()[1]
        inodes = {line.split()[9] for line in Path("/proc/net/tcp").read_text().splitlines() if line.split()[1].endswith(f":{service.server.port:04X}")}
        held = {os.readlink(link) for link in Path(f"/proc/{admin}/fd").iterdir() if link.is_symlink()}
        assert inodes and not held & {f"socket:[{inode}]" for inode in inodes}


def test_a_blocked_worker_is_counted_and_its_report_is_shown(folder: Path) -> None:
    go_on = folder / "go"
    with serving(folder, "--timeout", "3", workers=2) as service, closing(service.server.connect()) as client:
        client.sendall(f"GET /spin?{go_on} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        try:
            service.server.wait_for_log("its event loop is blocked", patience=30)
            wait_for(lambda: service.samples()["muxwsgi_worker_blocked_total"] >= 1)
        finally:
            go_on.touch()
        wait_for(lambda: answers(service))


def test_what_blocks_a_worker_is_shown_and_others_answer(folder: Path) -> None:
    go_on = folder / "go"
    with serving(folder, workers=2) as service, closing(service.server.connect()) as client, closing(service.server.connect()) as other:
        other.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert other.recv(1000).startswith(b"HTTP/1.1 200 ")
        client.sendall(f"GET /spin?{go_on} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        wait_for(lambda: not all(each["ready"] for each in service.status()["workers"]))
        assert service.ready(), "the other worker runs"
        listed = service.ctl("connections")
        assert listed.returncode == 4 and "no answer from" in listed.stderr
        assert service.ctl("workers").returncode == 0
        go_on.touch()
        wait_for(lambda: service.ctl("connections").returncode == 0)


# ctl


def test_ctl_lists_workers_connections_routes_and_certificates(folder: Path) -> None:
    with ServerProcess(
        "admin_app:app", "--pythonpath", str(folder), "--control-socket", f"{folder}/ctl", tls=True, environment={"XDG_DATA_HOME": str(folder)}
    ) as server:
        service = Service(server, folder)
        wait_for(lambda: answers(service))
        with closing(server.open()) as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            client.recv(1000)
            listed = service.ctl("connections", "--trace")
            assert listed.returncode == 0
            assert "TLSv1.3 localhost" in listed.stdout and "said YES" in listed.stdout
            (connection,) = json.loads(service.ctl("connections", json_wanted=True).stdout)["connections"]
            assert connection["route"] == "http" and connection["state"] == "idle" and connection["tls"]["sni"] == "localhost"
            assert service.ctl("close", connection["id"]).returncode == 0
            assert client.recv(1000) == b""
        assert service.ctl("close", connection["id"]).returncode == 1
        assert service.ctl("close", "nonsense").returncode == 1
        workers = json.loads(service.ctl("workers", json_wanted=True).stdout)
        assert [each["state"] for each in workers] == ["serving"]
        assert f"{workers[0]['pid']}" in service.ctl("workers").stdout
        routes = json.loads(service.ctl("routes", json_wanted=True).stdout)
        assert {"tls", "plain-http"} <= {each["name"] for each in routes} or {"tls", "http"} <= {each["name"] for each in routes}
        (certificate,) = json.loads(service.ctl("certs", json_wanted=True).stdout)
        assert certificate["bind"] == server.address and certificate["not_after"] > "2026"
        shown = service.ctl("status")
        assert shown.returncode == 0 and "tls_dev = True" in shown.stdout and "ready" in shown.stdout
        # Workers write them once a second.
        (told,) = wait_for(lambda: json.loads(service.ctl("status", json_wanted=True).stdout)["certificates"])
        assert told == {"bind": server.address, "name": "localhost", "not_after": certificate["not_after"]}


def test_ctl_changes_the_number_of_workers_and_the_log_level_and_stops(folder: Path) -> None:
    with serving(folder, workers=1) as service:
        assert service.ctl("add-worker").returncode == 0
        wait_for(lambda: len(service.workers()) == 2)
        wait_for(lambda: answers(service))
        assert service.ctl("log-level", "debug").returncode == 0
        assert service.ctl("remove-worker").returncode == 0
        wait_for(lambda: len(service.status()["workers"]) == 1)
        service.server.wait_for_log("[DEBUG] this worker")
        assert service.ctl("log-level", "loud").returncode == 2
        assert service.ctl("stop", "--now").returncode == 0
        assert service.server.ended() == 0
        assert service.ctl("status").returncode == 3


def test_ctl_says_that_a_reload_has_failed(folder: Path) -> None:
    with serving(folder, workers=1) as service:
        (folder / "admin_app.py").write_text("import nowhere_to_be_found")
        failed = service.ctl("reload")
        assert failed.returncode == 1 and "the reload failed" in failed.stderr
        assert service.samples()["muxwsgi_reloads_total{result=failed}"] == 1
        assert service.server.get("/") == (200, b"hello")


def test_ctl_without_a_server_or_a_socket(folder: Path) -> None:
    run = [sys.executable, "-m", "muxwsgi"]
    environment = {name: value for name, value in os.environ.items() if name != "MUXWSGI_CONTROL_SOCKET"}
    for command in (["ctl", "status"], ["top"]):
        done = warm.run([*run, *command], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 2 and "name the control socket" in done.stderr
    for command in (["ctl", "-s", f"{folder}/none", "status"], ["top", "-s", f"{folder}/none"]):
        done = warm.run([*run, *command], cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert done.returncode == 3 and done.stderr.count("\n") == 1 and "No such file" in done.stderr


def test_top_prints_one_picture_if_its_output_is_no_terminal(folder: Path) -> None:
    with serving(folder, workers=1) as service:
        assert service.server.get("/missing")[0] == 404
        wait_for(lambda: service.samples().get("muxwsgi_http_requests_total{method=GET,status=404}") == 1)
        done = warm.run(
            [sys.executable, "-m", "muxwsgi", "top", "-s", service.control.path, "-d", "0.2"], cwd=ROOT, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        assert "ready" in done.stdout and "404" in done.stdout and "http" in done.stdout and "\x1b" not in done.stdout


def test_top_is_live_in_a_terminal_until_ctrl_c(folder: Path) -> None:
    with serving(folder, workers=1) as service:
        pid, terminal = pty.fork()
        if pid == 0:
            os.chdir(ROOT)
            os.environ["TERM"] = "xterm"
            os.execv(sys.executable, [sys.executable, "-m", "muxwsgi", "top", "-s", service.control.path, "-d", "0.2"])
        shown = b""
        with closing(os.fdopen(terminal, "r+b", buffering=0)) as screen:
            while shown.count(b"generation 1") < 2:  # it was shown again
                shown += screen.read(65536)
            screen.write(b"\x03")
            with suppress(OSError):  # EIO at the end, when nobody has the terminal open any more
                while data := screen.read(65536):
                    shown += data
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert b"\x1b[?1049h" in shown and b"\x1b[?1049l" in shown  # the other screen, and back


def test_the_control_socket_is_for_its_user_alone(folder: Path) -> None:
    with serving(folder, workers=1) as service:
        assert (folder / "ctl").stat().st_mode & 0o777 == 0o600
        assert (folder / "admin").stat().st_mode & 0o777 == 0o600
        assert service.ask("/control/stop")[0] == 404  # the admin bind controls nothing
        with closing(socket.socket(socket.AF_UNIX)) as client:
            client.connect(f"{folder}/ctl")
            assert answer(client, "/control/stop")[0] == 405
        (folder / "ctl").chmod(0o666)
        folder.chmod(0o755)
        for parent in list(folder.parents)[:3]:
            if parent.stat().st_uid == os.geteuid() and parent != Path("/tmp"):
                parent.chmod(parent.stat().st_mode | 0o011)
        if os.geteuid() == 0:
            program = (
                "import os, sys; from muxwsgi.cli.control import Control; os.setgid(65534); os.setuid(65534); Control(sys.argv[1]).get('/status')"
            )
            done = subprocess.run([sys.executable, "-c", program, f"{folder}/ctl"], cwd=ROOT, capture_output=True, text=True, timeout=60)
            assert "for root and the server's user" in done.stderr


# The admin port and clients that nobody asked for


def test_the_admin_port_refuses_other_hosts_and_methods(folder: Path) -> None:
    with closing(reserved_port()) as reserved:
        port = reserved.getsockname()[1]
        with serving(folder, workers=1, admin=f"127.0.0.1:{port}"):

            def ask(path: str, method: str = "GET", **headers: str) -> int:
                with closing(socket.create_connection(("127.0.0.1", port), timeout=20)) as client:
                    return answer(client, path, method, **headers)[0]

            assert ask("/metrics", Host=f"127.0.0.1:{port}") == 200
            assert ask("/status", Host=f"localhost:{port}") == 200
            assert ask("/status", Host=f"[::1]:{port}") == 200
            for host in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", "localhost.evil.example", ""):
                assert ask("/status", Host=host) in (400, 421), host
            assert ask("/readyz", Host="evil.example") == 200  # says nothing that is worth hiding
            assert ask("/status", "POST") == 405
            assert ask("/nothing") == 404


def test_another_address_needs_a_token(folder: Path) -> None:
    token = folder / "token"
    token.write_text("a-long-secret-token-of-the-operator\n")
    token.chmod(0o600)
    with closing(reserved_port()) as reserved:
        port = reserved.getsockname()[1]
        with serving(folder, "--admin-token-file", str(token), workers=1, admin=f"127.0.0.1:{port}") as service:

            def ask(path: str, **headers: str) -> int:
                with closing(socket.create_connection(("127.0.0.1", port), timeout=20)) as client:
                    return answer(client, path, **headers)[0]

            assert ask("/metrics") == ask("/metrics", Authorization="Bearer wrong") == ask("/status", Authorization="Basic eDp5") == 401
            assert ask("/metrics", Authorization="Bearer a-long-secret-token-of-the-operator") == 200
            assert ask("/readyz") == ask("/healthz") == 200
            assert "a-long-secret" not in json.dumps(service.status())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--admin-bind", "0.0.0.0:0"], "admin_bind: 0.0.0.0:0: without --admin-token-file"),
        (["--admin-bind", "127.0.0.1:0", "--admin-token-file", "{folder}/open"], "every user may read it"),
        (["--admin-bind", "127.0.0.1:0", "--admin-token-file", "{folder}/short"], "a token has at least 16 characters"),
        (["--admin-bind", "127.0.0.1:0", "--admin-token-file", "{folder}/none"], "No such file"),
        (["--admin-token-file", "{folder}/good"], "there is no --admin-bind"),
        (["--control-socket", "{folder}/none/ctl"], "No such file"),
        (["--health-path", "health"], "does not begin with /"),
    ],
)
def test_faults_of_the_operator_are_one_line(folder: Path, options: list[str], said: str) -> None:
    for name, mode in (("open", 0o644), ("short", 0o600), ("good", 0o600)):
        (folder / name).write_text("short" if name == "short" else "a-long-enough-token")
        (folder / name).chmod(mode)
    more = [option.replace("{folder}", str(folder)) for option in options]
    command = [sys.executable, "-m", "muxwsgi", "run", "admin_app:app", "--pythonpath", str(folder), "-b", "127.0.0.1:0", *more]
    done = warm.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and said in done.stderr
    assert done.stderr.count("\n") == 1
    if "control_socket" not in said and "No such file" not in said:
        checked = warm.run([*command[:3], "check", *command[4:]], cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert checked.returncode == 2 and said in checked.stderr


@pytest.mark.slow
def test_ten_thousand_connects_to_the_admin_port_harm_nothing_else(folder: Path) -> None:
    with closing(reserved_port()) as reserved:
        port = reserved.getsockname()[1]
        with serving(folder, workers=1, admin=f"127.0.0.1:{port}") as service, ExitStack() as stack:
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 12000) if hard != resource.RLIM_INFINITY else 12000, hard))
            stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
            for _ in range(10_000):
                client = stack.enter_context(closing(socket.socket()))
                client.setblocking(False)
                client.connect_ex(("127.0.0.1", port))
            assert service.ctl("status").returncode == 0
            assert service.server.get("/") == (200, b"hello")
            wait_for(lambda: is_answered(port), patience=120)


def is_answered(port: int) -> bool:
    try:
        with closing(socket.create_connection(("127.0.0.1", port), timeout=5)) as client:
            return answer(client, "/readyz", Host="localhost")[0] == 200
    except OSError:
        return False


def test_slow_and_silent_clients_cost_the_admin_port_nothing_for_long(folder: Path) -> None:
    with closing(reserved_port()) as reserved:
        port = reserved.getsockname()[1]
        with serving(folder, workers=1, admin=f"127.0.0.1:{port}") as service, ExitStack() as stack:
            clients = [stack.enter_context(closing(socket.create_connection(("127.0.0.1", port), timeout=60))) for _ in range(600)]
            for client in clients[::2]:
                client.sendall(b"GET /metrics HTTP/1.1\r\nHost:")
            with closing(socket.create_connection(("127.0.0.1", port), timeout=60)) as client:
                assert answer(client, "/readyz", Host="localhost")[0] == 200
            assert service.ctl("status").returncode == 0
            assert service.server.get("/") == (200, b"hello")
