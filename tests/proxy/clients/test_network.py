"""Clients that know of no proxy, in a network of their own: the router sends what they say to `muxwsgi proxy`."""

import json
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import gevent
import gevent.server
import gevent.socket
import pytest

from tests.proxy.clients.proxy_process import PATIENCE, FlowReader, Trust, environment, requested
from tests.proxy.doors.netns import CLIENT, SERVER, Lab, Namespace
from tests.system.server_process import ROOT

PORT = 8081

families = pytest.mark.parametrize("family", [pytest.param(socket.AF_INET, id="IPv4"), pytest.param(socket.AF_INET6, id="IPv6")])


class Network:
    """A client, a router with the proxy on it, and a server of HTTP (80), HTTPS (443) and a greeting (25).

    flows   what the proxy has logged
    """

    def __init__(self, lab: Lab, stack: ExitStack, way: str, trust: Trust, folder: Path) -> None:
        self.way = way
        self.lab = lab
        self.trust = trust
        self.flows = FlowReader(folder / "flows.jsonl")
        (folder / "blocked").write_text("blocked.test\n")
        binds = [part for host in ("0.0.0.0", "[::]") for part in ("-b", f"{host}:{PORT},transparent={way}")]
        serves = [
            part
            for host in (SERVER[socket.AF_INET], f"[{SERVER[socket.AF_INET6]}]")
            for bind in (f"{host}:80", f"{host}:443,certfile={trust.leaf.certfile},keyfile={trust.leaf.keyfile}")
            for part in ("-b", bind)
        ]
        self._start(lab.server, folder / "server.log", "run", "tests.proxy.clients.origin", *serves, "--graceful-timeout=1")
        self._start(
            lab.router,
            folder / "proxy.log",
            *("proxy", *binds, "--allow=10.77.1.0/24", "--allow=fd77:1::/64", "--allow-private", "--mitm", "--tunnel-sniff-timeout=0.3"),
            *(f"--ca-folder={trust.ca_folder}", f"--upstream-ca={trust.root}", f"--flows={folder / 'flows.jsonl'}"),
            *(f"--block={folder / 'blocked'}", "--graceful-timeout=1"),
        )
        (lab.redirect if way == "redirect" else lab.tproxy)(PORT)
        for host in SERVER.values():
            listening = gevent.socket.socket(fileno=lab.server.listen(host, 25).detach())
            greeter = gevent.server.StreamServer(listening, self._greet)
            greeter.start()
            stack.callback(greeter.stop, 1)

    def _start(self, machine: Namespace, log: Path, *arguments: str) -> None:
        """Run muxwsgi there, until it listens. It ends with the lab."""
        with log.open("wb") as file:
            process = machine.popen(sys.executable, "-m", "muxwsgi", *arguments, stderr=file, cwd=ROOT, env=environment())
        give_up = time.monotonic() + PATIENCE
        binds = arguments.count("-b")
        while log.read_text().count("listening on ") < binds:
            assert process.poll() is None and time.monotonic() < give_up, log.read_text()
            gevent.sleep(0.05)

    @staticmethod
    def _greet(sock: Any, address: Any) -> None:
        sock.sendall(b"220 the server speaks first\r\n")
        sock.sendall(sock.recv(100).upper())
        sock.close()

    def curl(self, *arguments: str | Path) -> Any:
        """curl on the client's machine, which is told of no proxy."""
        command = ("curl", "-sS", "-m", "20", "-g", "--cacert", self.trust.ca, *arguments)
        return self.lab.client.run(*map(str, command))


@pytest.fixture(scope="module", params=["redirect", "tproxy"])
def network(request: pytest.FixtureRequest, trust: Trust, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    with ExitStack() as stack:
        lab = stack.enter_context(Lab())
        yield Network(lab, stack, request.param, trust, tmp_path_factory.mktemp("network"))


def in_url(family: int) -> str:
    return SERVER[family] if family == socket.AF_INET else f"[{SERVER[family]}]"


@families
def test_http_and_https_are_looked_into(network: Network, family: int) -> None:
    for scheme, port in (("http", 80), ("https", 443)):
        done = network.curl(f"{scheme}://{in_url(family)}/seen")
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)
        assert told["scheme"] == scheme and f"host: {in_url(family)}" in [line.lower() for line in told["head"]]
        flow = network.flows.first(requested(f"{scheme}://{in_url(family)}/seen"))
        assert flow["door"] == network.way
        assert flow["client"].startswith((CLIENT[family], f"[{CLIENT[family]}]"))
        assert flow["destination"] == flow["address"] == f"{in_url(family)}:{port}"


@families
def test_a_server_is_known_by_the_name_that_tls_says_and_a_list_may_block_it(network: Network, family: int) -> None:
    def resolve(name: str, port: int) -> tuple[str, str]:
        return "--resolve", f"{name}:{port}:{in_url(family)}"

    url = f"https://site.test/?{family}"
    done = network.curl(*resolve("site.test", 443), url)
    assert done.stdout == "the page of site.test\n", done.stderr
    flow = network.flows.first(requested(url))
    assert flow["destination"] == f"{in_url(family)}:443" and flow["client_tls"]["sni"] == "site.test"

    refused = network.curl(*resolve("blocked.test", 443), "-k", "https://blocked.test/")
    assert refused.returncode in (35, 56), refused  # CURLE_SSL_CONNECT_ERROR, CURLE_RECV_ERROR
    refused = network.curl(*resolve("blocked.test", 80), "-w", "%{http_code}", "http://blocked.test/")
    assert refused.stdout == "blocked: blocked.test\n403", refused


@families
def test_what_is_no_http_is_relayed_whoever_speaks_first(network: Network, family: int) -> None:
    host = SERVER[family]
    with network.lab.client.connect(host, 25) as sock:
        assert sock.recv(100) == b"220 the server speaks first\r\n"  # after a look for the client's bytes, in vain
        sock.sendall(b"helo")
        assert sock.recv(100) == b"HELO"
    flow = network.flows.first(lambda flow: flow["destination"] == f"{in_url(family)}:25")
    assert (flow["kind"], flow["door"]) == ("raw", network.way)
    assert (flow["from_client"]["text"], flow["from_server"]["text"]) == ("helo", "220 the server speaks first\r\nHELO")


def test_what_nobody_serves_is_a_reset(network: Network) -> None:
    with pytest.raises(ConnectionResetError), network.lab.client.connect(SERVER[socket.AF_INET], 81) as sock:
        sock.sendall(b"\x00\x01")
        while sock.recv(100):
            pass
        raise AssertionError("an empty answer looks whole")
