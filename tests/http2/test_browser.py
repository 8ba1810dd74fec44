"""Chromium, and a server of muxwsgi with TLS: a page with all that it loads, an upload, an event stream and a WebSocket, on one connection."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.proxy.clients.chromium import Chromium
from tests.proxy.clients.conftest import origin, repositories, trust  # noqa: F401  # fixtures
from tests.proxy.clients.proxy_process import Trust
from tests.proxy.clients.test_chromium import WORKED, outcome
from tests.system.server_process import ServerProcess


def events_of(log: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Type and parameters of each event of a net log: an object with a line for its first member, and a line for each event."""
    first, _, *lines = log.read_text("utf-8").split("\n")[:-1]
    kinds = {number: name for name, number in json.loads(first.rstrip(",") + "}")["constants"]["logEventTypes"].items()}
    for line in lines:
        if not line.startswith("{"):
            break  # behind the events
        event, _ = json.JSONDecoder().raw_decode(line)
        yield kinds[event["type"]], event.get("params", {})


def test_a_page_and_its_websocket_are_on_one_connection_of_http_2(trust: Trust, origin: ServerProcess, tmp_path: Path) -> None:  # noqa: F811
    folder, log = tmp_path / "browser", tmp_path / "net.json"
    folder.mkdir()
    url = f"https://localhost:{origin.port}/page?direct"
    with Chromium(folder, trust, url, "--no-proxy-server", f"--log-net-log={log}") as browser:
        assert outcome(browser, origin, "direct") == WORKED
        browser.end()
    sent = [params["headers"] for kind, params in events_of(log) if kind == "HTTP2_SESSION_SEND_HEADERS"]
    asked = [dict(field.split(": ", 1) for field in head) for head in sent]
    here = [each for each in asked if each[":authority"] == f"localhost:{origin.port}"]
    paths = {each[":path"].partition("?")[0] for each in here}
    assert {"/page", "/style.css", "/script.js", "/pixel.png", "/socket", "/events", "/seen", "/outcome"} <= paths
    (socket,) = (each for each in here if each[":path"] == "/socket")
    assert (socket[":method"], socket[":protocol"]) == ("CONNECT", "websocket")
