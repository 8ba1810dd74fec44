"""conf/upstreams.toml as it is, with other addresses: redis-cli through two redis-servers, of which one ends."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.ports import free_port
from tests.proxy.clients.services import Redis
from tests.system.server_process import ServerProcess
from tests.tls.authority import Authority
from tests.waiting import wait_for

pytestmark = pytest.mark.slow

FILE = Path(__file__).parents[2] / "conf" / "upstreams.toml"


def adapted(folder: Path, authority: Authority, redis: list[int]) -> Path:
    """The file, with certificates of `authority` and these ports of redis-servers."""
    ours, front = authority.leaf("shop.example", "127.0.0.1"), authority.leaf("front.example")
    text = FILE.read_text()
    for number, port in enumerate(redis, 1):
        assert f"10.0.0.{number}:6379" in text
        text = text.replace(f"10.0.0.{number}:6379", f"127.0.0.1:{port}")
    for usual, path in {
        "/etc/muxwsgi/shop.example.pem": ours.certfile,
        "/etc/muxwsgi/shop.example.key": ours.keyfile,
        "/etc/muxwsgi/brokers-ca.pem": authority.root,
        "/etc/muxwsgi/front.pem": front.certfile,
        "/etc/muxwsgi/front.key": front.keyfile,
        "/run/muxwsgi/upstreams.sock": f"{folder}/control.sock",
    }.items():
        assert usual in text
        text = text.replace(usual, path)
    # Nothing leaves this machine: what is not tried here is at an address of the loopback where nobody listens.
    text = re.sub(r"10\.0\.0\.\d+", "127.0.0.1", text.replace("broker-1.shop.example:8883", f"127.0.0.1:{free_port()}"))
    text = text.replace("broker-2.shop.example:8883", f"127.0.0.1:{free_port()}").replace("127.0.0.1:22,127.0.0.1:22", "127.0.0.1:22,[::1]:22")
    file = folder / "upstreams.toml"
    file.write_text(text)
    return file


@contextmanager
def redis_server(folder: Path, authority: Authority) -> Iterator[Redis]:
    folder.mkdir()
    with Redis.start(folder, authority.leaf("127.0.0.1")) as redis:
        yield redis


def redis_cli(port: int, authority: Authority, *words: str) -> str:
    command = ("redis-cli", "-p", str(port), "--tls", "--cacert", authority.root, "--sni", "shop.example", *words)
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env={**os.environ}, check=False)
    return done.stdout.strip() or done.stderr.strip()


def test_redis_goes_on_when_one_server_ends(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    with ExitStack() as first, redis_server(tmp_path / "two", authority) as two:
        one = first.enter_context(redis_server(tmp_path / "one", authority))
        file = adapted(tmp_path, authority, [one.port, two.port, free_port()])
        with ServerProcess("tests.server.applications:wsgi", "-c", str(file), tls=False) as server:

            def run_id() -> str:
                found = re.search(r"tcp_port:(\d+)", redis_cli(server.port, authority, "info", "server"))
                return found[1] if found is not None else ""

            assert wait_for(lambda: {run_id() for _ in range(2)} == {str(one.port), str(two.port)})
            first.close()
            assert {run_id() for _ in range(4)} == {str(two.port)}
            wait_for(lambda: f"upstream redis: server 127.0.0.1:{one.port} is down" in server.log, lambda: server.log)


def test_the_upstreams_of_the_file_are_listed(tmp_path: Path) -> None:
    file = adapted(tmp_path, Authority(tmp_path), [1, 2, 3])
    command = (sys.executable, "-m", "muxwsgi", "routes", "-c", str(file))
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    lines = [re.sub(" +", " ", line) for line in done.stdout.splitlines()]
    assert "upstream redis (leastconn):" in lines and "upstream mqtt (source):" in lines
    assert " 127.0.0.1:3 127.0.0.1:3 (backup) 1 - - - every 2 s" in lines
    assert any(line.startswith(" main 127.0.0.1:5432 1 50 - v2 every 2 s") for line in lines)
