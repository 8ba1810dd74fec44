"""A browser: a page over HTTPS with all that it loads, a WebSocket and an event stream, through a proxy that inspects."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.proxy.clients.chromium import Chromium
from tests.proxy.clients.conftest import StartProxy
from tests.proxy.clients.proxy_process import ProxyProcess, Trust
from tests.system.server_process import ServerProcess

#: What the page's script says when all has worked. The WebSocket's server answers in capitals.
WORKED = {
    "title": "as it was served",
    "style": "rgb(1, 2, 3)",
    "image": 1,
    "socket": ["HELLO", 100_000, 1000, True],
    "events": ["first", "second"],
}

#: Chromium goes past any proxy to this machine, unless told.
TO_LOOPBACK_TOO = "--proxy-bypass-list=<-loopback>"


def outcome(browser: Chromium, origin: ServerProcess, name: str) -> Any:
    """What the page has found out, straight from the server."""
    status, body = origin.get(f"/outcome?{name}", timeout=60)
    assert status == 200, f"the page has said nothing\n{browser.log}"
    return json.loads(body)


@pytest.fixture
def profile(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "browser"
    folder.mkdir()
    yield folder


def test_a_page_and_all_that_it_loads(trust: Trust, proxy: ProxyProcess, origin: ServerProcess, profile: Path) -> None:
    url = f"https://localhost:{origin.port}/page?whole"
    with Chromium(profile, trust.ca, url, f"--proxy-server={proxy.url}", TO_LOOPBACK_TOO) as browser:
        assert outcome(browser, origin, "whole") == WORKED
    socket = proxy.flows.first(lambda flow: flow["kind"] == "websocket")
    assert socket["response"]["status"] == 101 and socket["forth"]["size"] > 0
    page = proxy.flows.first(lambda flow: flow["request"] is not None and flow["request"]["url"] == url)
    assert page["client_tls"]["sni"] == "localhost" and page["response"]["status"] == 200


def test_rules_rewrite_the_page_and_what_its_websocket_says(trust: Trust, start_proxy: StartProxy, origin: ServerProcess, profile: Path) -> None:
    proxy = start_proxy(app=f"tests.proxy.clients.filters:create_proxy({str(trust.ca_folder)!r}, {str(trust.root)!r})")
    url = f"https://site.test:{origin.port}/page?rewritten"  # which the proxy alone can resolve
    with Chromium(profile, trust.ca, url, f"--proxy-server={proxy.url}") as browser:
        told = outcome(browser, origin, "rewritten")
    assert told == WORKED | {"title": "as it was rewritten", "socket": ["GOOD MORNING", 100_000, 1000, True]}


def test_the_pac_file_brings_it_here(trust: Trust, start_proxy: StartProxy, origin: ServerProcess, profile: Path) -> None:
    proxy = start_proxy(app=f"tests.proxy.clients.filters:create_proxy({str(trust.ca_folder)!r}, {str(trust.root)!r})")
    url = f"https://site.test:{origin.port}/page?pac"
    with Chromium(profile, trust.ca, url, f"--proxy-pac-url={proxy.url}/proxy.pac") as browser:
        assert outcome(browser, origin, "pac")["title"] == "as it was rewritten"
