"""gRPC through the proxy: grpcio's client and server, with rules in between."""

import json
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.ports import free_ports
from tests.proxy.clients.proxy_process import ProxyProcess, Trust, environment, run
from tests.system.server_process import ROOT

PROGRAM = "tests.proxy.clients.grpc_program"


@pytest.fixture(scope="module")
def ports(trust: Trust) -> Iterator[tuple[int, int]]:
    """Of a server: plain, and in TLS."""
    plain, tls = free_ports(2)
    command = [sys.executable, "-m", PROGRAM, "serve", str(plain), str(tls), trust.leaf.certfile, trust.leaf.keyfile]
    server = subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n", server.communicate()[1]
        yield plain, tls
    finally:
        server.kill()
        server.communicate()


@pytest.mark.parametrize("secure", [True, False])
def test_calls_of_all_kinds_and_their_status_pass_and_flows_see_them(
    secure: bool, proxy: ProxyProcess, trust: Trust, ports: tuple[int, int]
) -> None:
    target = f"localhost:{ports[secure]}"
    done = run(sys.executable, "-m", PROGRAM, "call", target, trust.ca if secure else "", cwd=ROOT, env=environment(http_proxy=proxy.url))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "unary": ["HELLO", "of the call"],
        "failing": ["FAILED_PRECONDITION", "not now: ü"],
        "counting": 500,
        "summing": 2_000_000,
        "talking": ["ONE", "TWO", "THREE"],
        "parallel": 100,
    }
    base = f"{'https' if secure else 'http'}://{target}/test.Echo/"
    for name in ("Unary", "Failing", "Counting", "Summing", "Talking"):
        flow = proxy.flows.first(lambda flow, name=name: flow["kind"] == "http" and flow["request"]["target"] == base + name)
        assert (flow["response"]["status"], flow["response"]["version"], flow["error"]) == (200, "HTTP/2", None)


