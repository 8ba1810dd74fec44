"""What the README and the pages say is run as it stands there."""

import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from muxwsgi.mux.hijack import hijacker_of
from muxwsgi.mux.match import Match
from tests.http.conftest import Talk, statuses

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "apps").glob("*/README.md"))]


def blocks(page: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(), re.M | re.S)


def test_the_hijacker_of_the_readme_is_one() -> None:
    namespace: dict[str, Any] = {}
    exec(blocks("README.md")[0], namespace)
    hijacker = hijacker_of(namespace["echo"])
    assert hijacker is not None and hijacker.name == "echo" and hijacker.match(b"ECHO hi") is Match.YES
    assert 'entry_points={"muxwsgi.hijack": ["echo = muxwsgi_echo:echo"]}' in (ROOT / "apps/hijack-echo/setup.py").read_text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_server_of_the_readme_serves_and_ends(number: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    code = next(block for block in blocks("README.md") if "serve_forever" in block).replace("127.0.0.1:8000", f"127.0.0.1:{port}")
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.PIPE)
    try:
        give_up = time.monotonic() + 20
        while True:
            try:
                with socket.create_connection(("127.0.0.1", port), timeout=5) as sock:
                    sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                    assert b"hello" in sock.recv(1000)
                break
            except ConnectionRefusedError:
                assert time.monotonic() < give_up
                time.sleep(0.05)
        process.send_signal(number)
        assert process.communicate(timeout=30)[1] == b""
        assert process.returncode == 0
    finally:
        process.kill()
        process.communicate()


def test_the_application_that_leaves_http_does(talk: Talk) -> None:
    namespace: dict[str, Any] = {}
    exec(blocks("docs/http.md")[0], namespace)
    request = b"GET / HTTP/1.1\r\nHost: a\r\n"
    answer = talk(namespace["application"], request + b"Connection: upgrade\r\nUpgrade: chat\r\n\r\nto and fro")
    assert statuses(answer) == [101] and answer.endswith(b"\r\n\r\nto and fro")
    assert b"hello" in talk(namespace["application"], request + b"\r\n")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_file_of_the_map_is_there() -> None:
    for path in re.findall(r"`([a-z_/]+/[a-z_0-9]*\.py)`", (ROOT / "docs/architecture.md").read_text()):
        assert (ROOT / "muxwsgi" / path).exists() or (ROOT / path).exists(), path


def test_no_file_is_missing_from_the_map() -> None:
    text = (ROOT / "docs/architecture.md").read_text()
    for folder in ("wire", "mux", "http"):
        for path in (ROOT / "muxwsgi" / folder).glob("[a-z]*.py"):
            assert f"`{folder}/{path.name}`" in text, f"docs/architecture.md says nothing of {folder}/{path.name}"
