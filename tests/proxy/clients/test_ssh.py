"""ssh with ProxyCommand: the server speaks first, nothing can be decrypted, and a rule knows it all the same."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.proxy.clients.conftest import StartProxy
from tests.proxy.clients.proxy_process import ProxyProcess, run
from tests.proxy.clients.services import SSH

#: How netcat is told, and what we call it.
DOORS = {"connect": "connect", "4": "socks4", "5": "socks5"}

ways = pytest.mark.parametrize("way", DOORS)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SSH]:
    with SSH.start(tmp_path_factory.mktemp("ssh")) as server:
        yield server


def ssh(server: SSH, proxy: ProxyProcess, way: str, *command: str, **more: Any) -> Any:
    # -F hands the connected socket over: a netcat that stays in between does not tell ssh when the connection is reset.
    connector = f"nc -F -X {way} -x {proxy.address} %h %p"
    return run(*server.client, "-o", f"ProxyCommand={connector}", "-o", "ProxyUseFdpass=yes", "127.0.0.1", *command, **more)


@ways
def test_ssh_passes(way: str, proxy: ProxyProcess, server: SSH) -> None:
    done = ssh(server, proxy, way, "cat; echo $((6 * 7))", input="said from here\n")
    assert (done.returncode, done.stdout) == (0, "said from here\n42\n"), done.stderr
    flow = proxy.flows.first(lambda flow: flow["door"] == DOORS[way] and flow["destination"] == f"127.0.0.1:{server.port}")
    assert flow["kind"] == "raw" and flow["from_server"]["size"] > 1000


def test_a_file_goes_through_whole(proxy: ProxyProcess, server: SSH, tmp_path: Path) -> None:
    content = "".join(f"line {number}\n" for number in range(500_000))
    done = ssh(server, proxy, "connect", f"cat > {tmp_path / 'copy'}; cat {tmp_path / 'copy'}", input=content)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "copy").read_text() == done.stdout == content


@ways
def test_a_rule_knows_it_by_what_it_says_and_refuses(way: str, start_proxy: StartProxy, server: SSH) -> None:
    proxy = start_proxy("--rules=muxwsgi_inspector:add_rules")
    done = ssh(server, proxy, way, "echo", "in")
    assert (done.returncode, done.stdout) == (255, ""), done
    flow = proxy.flows.first(lambda flow: flow["door"] == DOORS[way])
    assert flow["destination"] == f"127.0.0.1:{server.port}" and "SSH" in flow["error"]
