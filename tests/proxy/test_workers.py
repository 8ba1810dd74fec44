"""`muxwsgi proxy --workers N`: the workers are one proxy to others, and their records are those of one."""

import contextlib
import http.client
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.server_process import ServerProcess


class FurtherProxy:
    """Answers each request with 200, and keeps its Via field."""

    def __init__(self) -> None:
        self.vias: list[str] = []
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                with client, client.makefile("rb") as stream:
                    fields = dict(line.decode().strip().split(": ", 1) for line in iter(stream.readline, b"\r\n") if b": " in line)
                    self.vias.append(fields["Via"])
                    client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")

    def close(self) -> None:
        self._listening.close()


@pytest.fixture
def further() -> Iterator[FurtherProxy]:
    proxy = FurtherProxy()
    yield proxy
    proxy.close()


def ask(client: http.client.HTTPConnection, **fields: str) -> int:
    client.request("GET", "http://192.0.2.1/", headers=fields)
    response = client.getresponse()
    response.read()
    return response.status


def test_workers_share_a_name_and_number_their_flows_apart(tmp_path: Path, further: FurtherProxy) -> None:
    flows, har, access = tmp_path / "flows", tmp_path / "har", tmp_path / "access"
    options = ["--workers", "2", "--upstream-proxy", f"http://127.0.0.1:{further.port}", "--flows", str(flows), "--har", str(har)]
    options += ["--access-logfile", str(access), "--access-logformat", "%(p)s %(s)s"]
    with ServerProcess(None, *options) as proxy:
        clients = [http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=10) for _ in range(8)]
        for client in clients:
            client.connect()  # all are open at once, so the workers share them
        assert [ask(client) for _ in range(5) for client in clients] == [200] * 40
        (via,) = set(further.vias)
        assert [ask(client, Via=via) for client in clients] == [508] * 8
        for client in clients:
            client.close()
        assert proxy.stop() == 0 and proxy.tracebacks() == []
    assert len(further.vias) == 40
    served = [line.split() for line in access.read_text().splitlines()]
    assert len({process for process, status in served if status == "200"}) == 2
    assert len({process for process, status in served if status == "508"}) == 2
    records = [json.loads(line) for line in flows.read_text().splitlines()]
    assert len(records) == len({record["id"] for record in records}) == len({record["session"] for record in records}) == 48
    assert len({record["connection"] for record in records}) == 8
    entries = json.loads(har.read_text())["log"]["entries"]
    assert sorted(entry["_id"] for entry in entries) == sorted(record["id"] for record in records)
