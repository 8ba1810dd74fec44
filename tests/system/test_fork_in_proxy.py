"""Rules and hijackers that start processes: the upstream's connections and the logs of flows are the parent's."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import httpx
import pytest

from tests.system.server_process import ROOT, ServerProcess
from tests.system.test_fork import APP, gone
from tests.waiting import wait_for


class ProxyProgram:
    """`tests.system.forking_proxy` as a process."""

    def __init__(self, folder: Path) -> None:
        command = [sys.executable, "-m", "tests.system.forking_proxy"]
        self.folder = folder
        self.process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "FLOWS": str(folder)}, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        host, _, port = self.process.stdout.readline().strip().rpartition(":")
        self.address = (host, int(port))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def stop(self, sig: signal.Signals = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(sig)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                raise
        if self.process.stdout is not None:
            self.process.stdout.close()
        return self.process.returncode

    def client(self) -> httpx.Client:
        return httpx.Client(proxy=f"http://127.0.0.1:{self.address[1]}", timeout=30, trust_env=False)

    def say(self, words: bytes) -> socket.socket:
        sock = socket.create_connection(self.address, timeout=20)
        sock.sendall(words)
        return sock


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[ProxyProgram]:
    with ProxyProgram(tmp_path) as running:
        yield running


def test_a_rule_starts_processes_while_connections_rest_in_the_pool(proxy: ProxyProgram) -> None:
    with ServerProcess(APP) as upstream, proxy.client() as client:
        for _ in range(3):
            assert client.get(f"http://{upstream.address}/hello").json()["result"] == "hello"
            assert client.get(f"http://{upstream.address}/in-rule").text == "0 0"
            assert client.get(f"http://{upstream.address}/fork-and-return").text == "0"
            assert client.get(f"http://{upstream.address}/hello").json()["result"] == "hello"
    assert proxy.stop() == 0
    flows = [json.loads(line) for line in (proxy.folder / "flows.jsonl").read_text().splitlines()]
    entries = json.loads((proxy.folder / "flows.har").read_text())["log"]["entries"]
    assert len(flows) == len(entries) == 12
    assert len({flow["id"] for flow in flows}) == 12


def test_a_child_of_a_rule_holds_neither_port_nor_upstream_nor_archive(proxy: ProxyProgram, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as upstream, proxy.client() as client:
        resting = proxy.say(b"GET http://127.0.0.1:%d/ HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" % upstream.getsockname()[1])
        upstream.settimeout(20)
        sent_on, _ = upstream.accept()
        sent_on.settimeout(20)
        assert sent_on.recv(1000).startswith(b"GET / ")
        child = int(client.get("http://127.0.0.1:1/stay").text)
        try:
            assert proxy.stop(signal.SIGKILL) == -signal.SIGKILL
            assert not gone(child)
            assert sent_on.recv(1) == b"" and resting.recv(1) == b""
            socket.create_server(proxy.address).close()
            with ProxyProgram(tmp_path) as again:  # the archive is locked by the process that writes it
                assert again.address[1]
        finally:
            os.kill(child, signal.SIGTERM)
            wait_for(lambda: gone(child), "the child ends")
            sent_on.close()
            resting.close()


@pytest.mark.parametrize(("word", "status"), [(b"exit", 5), (b"return", 0), (b"talk", 0)])
def test_a_hijacker_that_forks_keeps_its_connection_to_itself(proxy: ProxyProgram, word: bytes, status: int) -> None:
    with proxy.say(b"FORK " + word) as sock:
        sock.settimeout(20)
        assert sock.recv(100) == b"%s %d\n" % (word, status)
        sock.sendall(b"again")
        assert sock.recv(100) == b"again"
        assert sock.recv(100) == b""


def test_a_detached_socket_ends_though_a_child_lives(proxy: ProxyProgram) -> None:
    with proxy.say(b"PUMP x") as sock:
        sock.settimeout(20)
        assert sock.recv(100) == b"bye\n"
        assert sock.recv(100) == b""
