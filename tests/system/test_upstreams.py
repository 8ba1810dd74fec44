"""Upstreams of a service with two workers: what `ctl`, /status and /metrics say of them, and the operator's word through a reload."""

import json
import signal
import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.system.test_admin import Service, answers, folder, serving
from tests.waiting import wait_for

__all__ = ["folder"]


class Echo(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        while data := self.request.recv(4096):
            self.request.sendall(self.server.name + data)  # type: ignore[attr-defined]


class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True


@contextmanager
def echo(name: bytes, port: int = 0) -> Iterator[int]:
    """A server that says its name and what it received. Its port."""
    server = Server(("127.0.0.1", port), Echo)
    server.name = name  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def configuration(folder: Path, *ports: int) -> Path:
    servers = [{"name": f"s{number}", "address": f"127.0.0.1:{port}"} for number, port in enumerate(ports, 1)]
    file = folder / "up.toml"
    listed = ", ".join("{" + ", ".join(f"{key} = {json.dumps(value)}" for key, value in each.items()) + "}" for each in servers)
    file.write_text(
        'hijack = ["none"]\n[[route]]\nmatch = {prefix = "ECHO"}\nto = "forward:shop"\n'
        f"[upstream.shop]\nserver = [{listed}]\ncheck = true\ninter = 0.05\nrise = 1\nfall = 2\n"
    )
    return file


def said(service: Service) -> bytes:
    with socket.create_connection(("127.0.0.1", service.server.port), timeout=20) as client:
        received = b""
        with suppress(OSError):  # a connection that is closed at once may be reset
            client.sendall(b"ECHO")
            client.shutdown(socket.SHUT_WR)
            while data := client.recv(4096):
                received += data
        return received


def listed(service: Service) -> dict[str, Any]:
    done = service.ctl("upstreams", json_wanted=True)
    assert done.returncode == 0, done.stderr
    return {each["id"]: each for each in json.loads(done.stdout)}


@pytest.mark.slow
def test_ctl_shows_servers_and_takes_them_out_of_the_choice_also_in_new_workers(folder: Path) -> None:
    with echo(b"a") as one, echo(b"b") as two, serving(folder, "-c", str(configuration(folder, one, two))) as service:
        assert {said(service) for _ in range(20)} == {b"aECHO", b"bECHO"}
        found = listed(service)
        assert list(found) == ["shop/s1", "shop/s2"]
        assert [each["up"] for each in found.values()] == [2, 2]
        assert sum(each["connected"] for each in found.values()) == 20

        assert service.ctl("upstream", "drain", "shop/s1").returncode == 0
        assert {said(service) for _ in range(20)} == {b"bECHO"}
        assert listed(service)["shop/s1"]["readiness"] == "drain"

        assert service.ctl("reload").returncode == 0
        assert {said(service) for _ in range(20)} == {b"bECHO"}
        wait_for(lambda: answers(service))
        assert service.ctl("upstream", "ready", "shop/s1").returncode == 0
        wait_for(lambda: {said(service) for _ in range(20)} == {b"aECHO", b"bECHO"})

        table = service.ctl("upstreams").stdout.splitlines()
        assert table[0].split()[:3] == ["server", "up", "readiness"]
        assert table[1].split()[0] == "shop/s1" and "ready" in table[1]
        unknown = service.ctl("upstream", "drain", "shop/s9")
        assert unknown.returncode == 1 and "no server of an upstream is named 'shop/s9'" in unknown.stderr
        status, text = service.ask("/status/upstreams")
        assert status == 200 and len(json.loads(text)["workers"]) == 2


@pytest.mark.slow
def test_a_server_that_goes_down_is_seen_in_ctl_metrics_and_the_log(folder: Path) -> None:
    with echo(b"a") as one, serving(folder, "-c", str(configuration(folder, one, 1))) as service:
        wait_for(lambda: listed(service)["shop/s2"]["up"] == 0)
        found = listed(service)["shop/s2"]
        assert (found["workers"], found["downs"]) == (2, 2)
        assert found["last_failure"] == "connect: 127.0.0.1: Connection refused"
        assert service.server.log.count("upstream shop: server s2 is down") == 2  # one line of each worker
        assert {said(service) for _ in range(10)} == {b"aECHO"}

        def samples() -> dict[str, float]:
            return {name: value for name, value in service.samples().items() if name.startswith("muxwsgi_upstream")}

        wait_for(lambda: samples().get("muxwsgi_upstream_connections_total{server=shop/s1}") == 10)
        assert samples()["muxwsgi_upstream_usable{server=shop/s1}"] == 2
        assert samples()["muxwsgi_upstream_usable{server=shop/s2}"] == 0
        assert samples()["muxwsgi_upstream_downs_total{server=shop/s2}"] == 2
        assert samples()["muxwsgi_upstream_check_failures_total{server=shop/s2}"] >= 4

        assert service.ctl("upstream", "maint", "shop/s1").returncode == 0
        assert said(service) == b""
        wait_for(lambda: samples()["muxwsgi_upstream_refusals_total{reason=down}"] == 1)
        assert "no server can be used: s2 is down (connect: 127.0.0.1: Connection refused); s1 is in maint" in service.server.log


@pytest.mark.slow
def test_a_reload_takes_new_servers_and_a_fault_leaves_the_old_ones(folder: Path) -> None:
    with echo(b"a") as one, echo(b"b") as two, serving(folder, "-c", str(configuration(folder, one))) as service:
        assert {said(service) for _ in range(10)} == {b"aECHO"}
        configuration(folder, two)
        service.server.send_signal(signal.SIGHUP)
        wait_for(lambda: {said(service) for _ in range(10)} == {b"bECHO"})
        (folder / "up.toml").write_text('[upstream.shop]\nservr = ["127.0.0.1:1"]\n')
        assert service.ctl("reload").returncode == 1
        assert "upstream.shop: there is no key 'servr' in an upstream" in service.server.log
        assert said(service) == b"bECHO"


@pytest.mark.slow
def test_a_server_that_is_down_is_down_for_new_workers_unless_its_settings_have_changed(folder: Path) -> None:
    with echo(b"a") as one, serving(folder, "-c", str(configuration(folder, one, 1))) as service:
        wait_for(lambda: listed(service)["shop/s2"]["up"] == 0)
        wait_for(lambda: service.samples()["muxwsgi_upstream_usable{server=shop/s2}"] == 0)
        assert service.ctl("reload").returncode == 0
        wait_for(lambda: answers(service) and listed(service)["shop/s2"]["workers"] == 2)
        assert service.server.log.count("server s2 is down, as before the reload; 1 of 2 can be used") == 2
        before = service.server.log.count("server s2 is down: connect")
        (folder / "up.toml").write_text((folder / "up.toml").read_text() + "check_timeout = 1.5\n")
        assert service.ctl("reload").returncode == 0
        wait_for(lambda: service.server.log.count("server s2 is down: connect") == before + 2)
        assert service.server.log.count("as before the reload") == 2
