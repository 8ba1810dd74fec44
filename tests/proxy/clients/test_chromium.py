"""A browser: a page over HTTPS with all that it loads, a WebSocket and an event stream, through a proxy that inspects."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.proxy.clients.chromium import Chromium
from tests.proxy.clients.conftest import StartProxy
from tests.proxy.clients.proxy_process import ProxyProcess, Trust, requested
from tests.system.server_process import ServerProcess

#: What the page's script says when all has worked. The WebSocket's server answers in capitals.
WORKED = {
    "title": "as it was served",
    "style": "rgb(1, 2, 3)",
    "image": 1,
    "socket": ["HELLO", 100_000, 1000, True],
    "events": ["first", "second"],
    "upload": 300_000,
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


@pytest.mark.parametrize("way", ["http", "socks5"])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_page_and_all_that_it_loads(scheme: str, way: str, trust: Trust, proxy: ProxyProcess, origin: ServerProcess, profile: Path) -> None:
    name = f"{scheme}-{way}"
    url = f"{scheme}://localhost:{origin.port}/page?{name}"
    with Chromium(profile, trust, url, f"--proxy-server={way}://{proxy.address}", TO_LOOPBACK_TOO) as browser:
        assert outcome(browser, origin, name) == WORKED
    page = proxy.flows.first(requested(url))
    assert page["response"]["status"] == 200
    assert page["door"] == ("socks5" if way == "socks5" else "connect" if scheme == "https" else "http")
    assert (page["client_tls"] or {}).get("sni") == ("localhost" if scheme == "https" else None)
    door = way if way == "socks5" else "connect"  # browsers ask for a tunnel for every WebSocket
    fits = {"http": "ws", "https": "wss"}[scheme], scheme
    socket = proxy.flows.first(
        lambda flow: flow["kind"] == "websocket" and flow["door"] == door and flow["request"]["url"].partition(":")[0] in fits
    )
    assert socket["response"]["status"] == 101 and socket["from_client"]["size"] > 0
    assert "permessage-deflate" in str(socket["response"]["fields"]), "this browser compresses what it says"
    said = socket["websocket"]
    assert [(message["type"], message["opcode"], message["text"], message["size"]) for message in said["messages"]] == [
        ("send", 1, "hello", 5),
        ("receive", 1, "HELLO", 5),
        ("send", 1, "x" * 65536, 100_000),
        ("receive", 1, "X" * 65536, 100_000),
    ]
    assert said["count"] == 4 and said["close"] == {"type": "send", "code": 1000, "reason": ""} and said["stopped"] is None


def test_a_page_through_a_proxy_that_speaks_tls(trust: Trust, start_proxy: StartProxy, origin: ServerProcess, profile: Path) -> None:
    proxy = start_proxy(bind_options=f",certfile={trust.leaf.certfile},keyfile={trust.leaf.keyfile}")
    url = f"https://localhost:{origin.port}/page?secure"
    with Chromium(profile, trust, url, f"--proxy-server=https://localhost:{proxy.port}", TO_LOOPBACK_TOO) as browser:
        assert outcome(browser, origin, "secure") == WORKED


def test_rules_rewrite_the_page_and_what_its_websocket_says(trust: Trust, start_proxy: StartProxy, origin: ServerProcess, profile: Path) -> None:
    proxy = start_proxy(app=f"tests.proxy.clients.filters:create_proxy({str(trust.ca_folder)!r}, {str(trust.root)!r})")
    url = f"https://site.test:{origin.port}/page?rewritten"  # which the proxy alone can resolve
    with Chromium(profile, trust, url, f"--proxy-server={proxy.url}") as browser:
        told = outcome(browser, origin, "rewritten")
    assert told == WORKED | {"title": "as it was rewritten", "socket": ["GOOD MORNING", 100_000, 1000, True]}


def test_the_pac_file_brings_it_here(trust: Trust, start_proxy: StartProxy, origin: ServerProcess, profile: Path) -> None:
    proxy = start_proxy(app=f"tests.proxy.clients.filters:create_proxy({str(trust.ca_folder)!r}, {str(trust.root)!r})")
    url = f"https://site.test:{origin.port}/page?pac"
    with Chromium(profile, trust, url, f"--proxy-pac-url={proxy.url}/proxy.pac") as browser:
        assert outcome(browser, origin, "pac")["title"] == "as it was rewritten"
