"""`muxwsgi proxy --flows --har` as a process of its own: what really passed is what is in the files, and their disk is nobody's concern."""

import base64
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import warm
from tests.records.test_har import read as read_har
from tests.waiting import wait_for

ROOT = Path(__file__).parents[2]
PATIENCE = 30.0


class RecordingProxy:
    """`muxwsgi proxy` on a free port; ended by its own process id."""

    def __init__(self, *options: str) -> None:
        self._process = warm.Popen(
            [sys.executable, "-m", "muxwsgi", "proxy", "-b", "127.0.0.1:0", *options], cwd=ROOT, stderr=subprocess.PIPE, text=True
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.port = int(self.said(r"listening on 127\.0\.0\.1:(\d+)")[1])

    def _read(self) -> None:
        assert self._process.stderr is not None
        self.lines.extend(iter(self._process.stderr.readline, ""))

    def said(self, pattern: str) -> "re.Match[str]":
        """Wait until it has logged that."""
        return wait_for(lambda: re.search(pattern, "".join(self.lines)), f"there is no {pattern!r} in its log", PATIENCE)

    def get(self, url: str, *, method: str = "GET", body: bytes | None = None, **fields: str) -> tuple[int, bytes]:
        client = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        client.request(method, url, body, fields)
        response = client.getresponse()
        data = response.read()
        client.close()
        return response.status, data

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def end(self) -> int:
        self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(PATIENCE)
        finally:
            self._process.kill()
            self._reader.join(PATIENCE)
            assert self._process.stderr is not None
            self._process.stderr.close()


@pytest.fixture
def recording() -> Iterator[Callable[..., RecordingProxy]]:
    proxies = []

    def start(*options: str) -> RecordingProxy:
        proxies.append(RecordingProxy(*options))
        return proxies[-1]

    yield start
    for proxy in proxies:
        if proxy._process.poll() is None:
            proxy.end()


@pytest.fixture
def origin() -> Iterator[int]:
    """Answers each connection with what it got, once, in base64."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            with sock:
                sock.settimeout(PATIENCE)
                text = base64.b64encode(sock.recv(65536))
                sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (len(text), text))

    thread = threading.Thread(target=serve)
    thread.start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join(PATIENCE)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_what_passed_is_in_both_files_when_the_proxy_has_ended(
    recording: Callable[..., RecordingProxy], origin: int, tmp_path: Path
) -> None:
    proxy = recording("--flows", str(tmp_path / "flows"), "--har", str(tmp_path / "har"))
    status, body = proxy.get(f"http://127.0.0.1:{origin}/a?b", method="POST", body=b"posted", Cookie="secret=1")
    tunnel = socket.create_connection(("127.0.0.1", proxy.port), PATIENCE)
    tunnel.sendall(b"CONNECT 127.0.0.1:%d HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" % origin)
    assert tunnel.recv(1000).startswith(b"HTTP/1.1 200")
    tunnel.sendall(b"\x00not HTTP\xff")
    answer = tunnel.makefile("rb").read()
    tunnel.close()
    proxy.get("http://127.0.0.1:1/nobody")
    assert proxy.end() == 0
    flows = {flow["kind"]: flow for flow in lines(tmp_path / "flows") if flow["error"] is None}
    assert status == 200 and flows["http"]["from_client"]["text"] == "posted" and flows["http"]["from_server"]["text"].encode() == body
    assert flows["http"]["request"]["url"] == f"http://127.0.0.1:{origin}/a?b" and flows["http"]["door"] == "http"
    assert flows["raw"]["from_client"]["base64"] == base64.b64encode(b"\x00not HTTP\xff").decode() and flows["raw"]["door"] == "connect"
    assert flows["raw"]["from_server"]["text"].encode() == answer and flows["raw"]["destination"] == f"127.0.0.1:{origin}"
    (refused,) = (flow for flow in lines(tmp_path / "flows") if flow["error"] is not None)
    assert "refused" in refused["error"] and refused["request"]["url"] == "http://127.0.0.1:1/nobody"
    entries = read_har(tmp_path / "har")
    assert sorted(entry["request"]["url"] for entry in entries) == sorted(
        [f"http://127.0.0.1:{origin}/a?b", f"tcp://127.0.0.1:{origin}", "http://127.0.0.1:1/nobody"]
    )
    assert "secret=1" not in (tmp_path / "flows").read_text().replace(flows["http"]["from_server"]["text"], "")
    for flow in lines(tmp_path / "flows"):
        marks = [flow["timings"][name] for name in ("connected", "sent", "first_byte", "ended") if flow["timings"][name] is not None]
        assert marks == sorted(marks) and marks and marks[0] >= 0, flow["timings"]


def test_both_files_go_on_through_a_reload(recording: Callable[..., RecordingProxy], origin: int, tmp_path: Path) -> None:
    proxy = recording("--flows", str(tmp_path / "flows"), "--har", str(tmp_path / "har"))
    proxy.get(f"http://127.0.0.1:{origin}/before")
    proxy.signal(signal.SIGHUP)
    proxy.said(r"has ended")  # the worker before
    proxy.get(f"http://127.0.0.1:{origin}/after")
    assert proxy.end() == 0
    urls = [f"http://127.0.0.1:{origin}/{path}" for path in ("before", "after")]
    assert [flow["request"]["url"] for flow in lines(tmp_path / "flows")] == urls
    assert [entry["request"]["url"] for entry in read_har(tmp_path / "har")] == urls


def test_the_log_can_be_followed_while_the_proxy_runs_and_moved_away(
    recording: Callable[..., RecordingProxy], origin: int, tmp_path: Path
) -> None:
    proxy = recording("--flows", str(tmp_path / "flows"), "--flow-filter", "~u /kept")
    for path in ("kept/1", "other", "kept/2"):
        proxy.get(f"http://127.0.0.1:{origin}/{path}")
    wait_for(lambda: len(lines(tmp_path / "flows")) == 2, "there is no second flow", PATIENCE)
    (tmp_path / "flows").rename(tmp_path / "moved")
    proxy.signal(signal.SIGUSR1)
    wait_for(lambda: (tmp_path / "flows").exists(), "there is no new file", PATIENCE)
    proxy.get(f"http://127.0.0.1:{origin}/kept/3")
    assert proxy.end() == 0
    kept = [flow["request"]["url"].rpartition("/")[2] for name in ("moved", "flows") for flow in lines(tmp_path / name)]
    assert kept == ["1", "2", "3"] and len(lines(tmp_path / "flows")) == 1


def test_a_full_disk_is_not_the_traffics_concern(recording: Callable[..., RecordingProxy], origin: int) -> None:
    proxy = recording("--flows", "/dev/full")
    for number in range(3):
        assert proxy.get(f"http://127.0.0.1:{origin}/{number}")[0] == 200
        proxy.said(r"/dev/full: No space left on device; flows are lost \(\d so far\), the traffic goes on")
    assert proxy.end() == 0
    log = "".join(proxy.lines)
    assert log.count("No space left") == 1 and "/dev/full: 3 flows were lost, 0 written" in log and "Traceback" not in log


def test_a_log_that_nobody_reads_does_not_hold_up_the_traffic_or_the_end(
    recording: Callable[..., RecordingProxy], origin: int, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "pipe")
    proxy = recording("--flows", str(tmp_path / "pipe"))
    for _ in range(12):
        assert proxy.get(f"http://127.0.0.1:{origin}/", method="POST", body=b"x" * 40_000)[0] == 200
    assert proxy.end() == 0
    assert re.search(r"pipe: \d+ flows were lost", "".join(proxy.lines)), proxy.lines
