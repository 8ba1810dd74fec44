"""requests, httpx and urllib3, as their users set them up, through a proxy that inspects."""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.proxy.clients.conftest import StartProxy
from tests.proxy.clients.origin import block
from tests.proxy.clients.proxy_process import ProxyProcess, run
from tests.proxy.clients.python_client import BODY
from tests.system.server_process import ROOT, ServerProcess

libraries = pytest.mark.parametrize("library", ["requests", "httpx", "urllib3"])
schemes = pytest.mark.parametrize("scheme", ["http", "https"])


def ask(library: str, proxy: str, ca: Path, origin: str, task: str) -> Any:
    done = run(sys.executable, "-m", "tests.proxy.clients.python_client", library, proxy, ca, origin, task, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@schemes
@libraries
def test_a_session_keeps_its_connection(library: str, scheme: str, proxy: ProxyProcess, origin: ServerProcess) -> None:
    told = ask(library, proxy.url, proxy.trust.ca, f"{scheme}://localhost:{origin.port}", "keep-alive")
    assert [each["head"][0] for each in told] == [f"GET /seen?{number} HTTP/1.1" for number in range(10)]
    assert len({each["connection"] for each in told}) == 1


@schemes
@libraries
def test_a_download_streams(library: str, scheme: str, proxy: ProxyProcess, origin: ServerProcess) -> None:
    told = ask(library, proxy.url, proxy.trust.ca, f"{scheme}://localhost:{origin.port}", "stream")
    assert told == {"size": 200 * 65536, "sha256": hashlib.sha256(b"".join(map(block, range(200)))).hexdigest()}


@schemes
@libraries
def test_events_come_when_they_happen(library: str, scheme: str, proxy: ProxyProcess, origin: ServerProcess) -> None:
    told = ask(library, proxy.url, proxy.trust.ca, f"{scheme}://localhost:{origin.port}", "events")
    assert told == "data: first\n\ndata: second\n\n"


@schemes
@libraries
def test_a_generator_is_sent_in_chunks(library: str, scheme: str, proxy: ProxyProcess, origin: ServerProcess) -> None:
    told = ask(library, proxy.url, proxy.trust.ca, f"{scheme}://localhost:{origin.port}", "upload")
    assert (told["size"], told["sha256"]) == (sum(map(len, BODY)), hashlib.sha256(b"".join(BODY)).hexdigest())
    assert "transfer-encoding: chunked" in [line.lower() for line in told["head"]]


@libraries
def test_who_says_nothing_is_told_407_and_who_says_the_password_is_served(
    library: str, start_proxy: StartProxy, origin: ServerProcess, tmp_path: Path
) -> None:
    made = run("htpasswd", "-cbB", "-C", "4", tmp_path / "htpasswd", "ann", "secret word")
    assert made.returncode == 0, made.stderr
    proxy = start_proxy(f"--proxy-auth={tmp_path / 'htpasswd'}")

    def status(url: str, scheme: str) -> Any:
        return ask(library, url, proxy.trust.ca, f"{scheme}://localhost:{origin.port}", "refused")

    password = "secret word" if library == "urllib3" else "secret%20word"  # its users give it as it is
    for user, http, https in (("", 407, "407"), ("ann:wrong@", 407, "407"), (f"ann:{password}@", 200, 200)):
        url = f"http://{user}{proxy.address}"
        assert status(url, "http") == http
        told = status(url, "https")
        assert told == https or https in str(told), told
