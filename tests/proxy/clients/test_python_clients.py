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

LIBRARIES = ["requests", "httpx", "urllib3"]

Told = dict[str, Any]


def ask(library: str, proxy: str, ca: Path, origin: ServerProcess, tasks: str) -> Any:
    """What came of the tasks, by scheme."""
    origins = [f"{scheme}://localhost:{origin.port}" for scheme in ("http", "https")]
    done = run(sys.executable, "-m", "tests.proxy.clients.python_client", library, proxy, ca, ",".join(origins), tasks, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return {each.partition(":")[0]: told for each, told in json.loads(done.stdout).items()}


@pytest.fixture(scope="module", params=LIBRARIES)
def by_scheme(request: pytest.FixtureRequest, proxy: ProxyProcess, origin: ServerProcess) -> Any:
    return ask(request.param, proxy.url, proxy.trust.ca, origin, "keep-alive,stream,events,upload")


@pytest.fixture(params=["http", "https"])
def told(request: pytest.FixtureRequest, by_scheme: dict[str, Told]) -> Told:
    """What a library was told by a server behind the proxy, task by task."""
    return by_scheme[request.param]


def test_a_session_keeps_its_connection(told: Told) -> None:
    answers = told["keep-alive"]
    version = answers[0]["head"][0].rpartition(" ")[2]
    assert version == ("HTTP/2.0" if answers[0]["scheme"] == "https" else "HTTP/1.1")  # the server's choice
    assert [each["head"][0] for each in answers] == [f"GET /seen?{number} {version}" for number in range(10)]
    assert len({each["connection"] for each in answers}) == 1


def test_a_download_streams(told: Told) -> None:
    assert told["stream"] == {"size": 200 * 65536, "sha256": hashlib.sha256(b"".join(map(block, range(200)))).hexdigest()}


def test_events_come_when_they_happen(told: Told) -> None:
    assert told["events"] == "data: first\n\ndata: second\n\n"


def test_a_generator_is_sent_without_a_length(told: Told) -> None:
    arrived = told["upload"]
    assert (arrived["size"], arrived["sha256"]) == (sum(map(len, BODY)), hashlib.sha256(b"".join(BODY)).hexdigest())
    assert ("transfer-encoding: chunked" in [line.lower() for line in arrived["head"]]) == (arrived["scheme"] == "http")  # HTTP/2 has no chunks
    assert not [line for line in arrived["head"] if line.lower().startswith("content-length")]


@pytest.mark.parametrize("library", LIBRARIES)
def test_who_says_nothing_is_told_407_and_who_says_the_password_is_served(
    library: str, start_proxy: StartProxy, origin: ServerProcess, tmp_path: Path
) -> None:
    made = run("htpasswd", "-cbB", "-C", "4", tmp_path / "htpasswd", "ann", "secret word")
    assert made.returncode == 0, made.stderr
    proxy = start_proxy(f"--proxy-auth={tmp_path / 'htpasswd'}")

    password = "secret word" if library == "urllib3" else "secret%20word"  # its users give it as it is
    for user, status in (("", 407), ("ann:wrong@", 407), (f"ann:{password}@", 200)):
        told = ask(library, f"http://{user}{proxy.address}", proxy.trust.ca, origin, "refused")
        assert told["http"]["refused"] == status
        https = told["https"]["refused"]
        assert https == status if status == 200 else "407" in https, https  # without a tunnel there is no response, but an exception
