"""HAR 1.2, against the specification written a second time, and valid at every moment."""

import base64
import gzip
import json
import os
import re
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings

from muxwsgi.errors import OperatorError
from muxwsgi.records.flow import Flow
from muxwsgi.records.flow_content import CONTENT_LIMIT
from muxwsgi.records.flow_filter import parse_filter
from muxwsgi.records.har import HARFile, har_entry
from tests.records.flows import any_flow, http_flow, message, raw_flow, websocket_flow

#: What the specification says that each object has, and of which type; a "?" marks what may be missing.
PAIR = {"name": str, "value": str}
COOKIE = {**PAIR, "path?": str, "domain?": str, "expires?": str, "httpOnly?": bool, "secure?": bool}
MILLISECONDS = (int, float)
ENTRY = {
    "startedDateTime": str, "time": MILLISECONDS, "serverIPAddress?": str, "connection?": str, "cache": {},
    "comment?": str,
    "request": {
        "method": str, "url": str, "httpVersion": str, "cookies": [COOKIE], "headers": [PAIR], "queryString": [PAIR],
        "postData?": {"mimeType": str, "params": [PAIR], "text": str, "comment?": str}, "headersSize": int, "bodySize": int,
    },
    "response": {
        "status": int, "statusText": str, "httpVersion": str, "cookies": [COOKIE], "headers": [PAIR], "redirectURL": str,
        "content": {"size": int, "compression?": int, "mimeType": str, "text?": str, "encoding?": str, "comment?": str}, "headersSize": int, "bodySize": int,
    },
    "timings": dict.fromkeys(("blocked", "dns", "connect", "send", "wait", "receive", "ssl"), MILLISECONDS),
}  # fmt: skip
ARCHIVE = {"log": {"version": str, "creator": {"name": str, "version": str}, "pages?": [{}], "entries": [ENTRY]}}


def conform(value: Any, form: Any, where: str = "") -> None:
    """Fields whose names begin with `_` are free."""
    if isinstance(form, dict):
        assert isinstance(value, dict), where
        known = {name.rstrip("?"): kind for name, kind in form.items()}
        assert {name for name in form if not name.endswith("?")} <= set(value), f"{where}: {sorted(value)}"
        for name in value:
            if not name.startswith("_"):
                assert name in known, f"{where}: {name}"
                conform(value[name], known[name], f"{where}.{name}")
    elif isinstance(form, list):
        assert isinstance(value, list), where
        for item in value:
            conform(item, form[0], f"{where}[]")
    else:
        assert isinstance(value, form) and (form is bool or not isinstance(value, bool)), f"{where}: {value!r}"


def read(path: Path) -> list[dict[str, Any]]:
    archive = json.loads(path.read_text("ascii"))
    conform(archive, ARCHIVE)
    assert archive["log"]["version"] == "1.2"
    entries: list[dict[str, Any]] = archive["log"]["entries"]
    return entries


@settings(deadline=None)
@given(any_flow())
def test_every_flow_is_an_entry_as_the_specification_says(flow: Flow) -> None:
    entry = json.loads(json.dumps(har_entry(flow)))
    conform(entry, ENTRY)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", entry["startedDateTime"])
    assert abs(datetime.fromisoformat(entry["startedDateTime"]).timestamp() - flow.started) < 0.002
    timings = entry["timings"]
    assert all(value >= 0 or value == -1 for value in timings.values()) and min(timings[name] for name in ("send", "wait", "receive")) >= 0
    whole = sum(value for name, value in timings.items() if name != "ssl" and value >= 0)
    assert (entry["time"] == pytest.approx(whole, abs=0.002) and timings["ssl"] <= timings["connect"] + 0.002) or timings["connect"] == -1
    marks = [getattr(flow, name) or 0.0 for name in ("resolved", "connected", "secured", "sent", "first_byte", "ended")]
    assert entry["time"] == pytest.approx(max(marks) * 1e3, abs=0.01), "it lasts until the last thing that happened"
    if flow.websocket is not None:
        conform(entry["_webSocketMessages"], [{"type": str, "time": float, "opcode": int, "data": str, "comment?": str}])
        assert "postData" not in entry["request"] and "text" not in entry["response"]["content"]
        return
    for captured, text in (
        (flow.from_client, entry["request"].get("postData", {"text": ""})),
        (flow.from_server, entry["response"]["content"]),
    ):
        encoded = text.get("encoding", text.get("_encoding")) == "base64"
        data = base64.b64decode(text["text"]) if encoded else text.get("text", "").encode()
        assert captured.data.startswith(data) and (len(captured.data) - len(data)) < 4
        assert data == captured.data or captured.truncated
        assert ("comment" in text) is captured.truncated


def test_the_file_is_an_archive_before_during_and_after(tmp_path: Path) -> None:
    har = HARFile(str(tmp_path / "flows.har"))
    assert read(tmp_path / "flows.har") == []
    for number in range(1, 6):
        for _ in range(number):
            har(http_flow("POST", request_body=b"a=1", response_body=b"\x00"))
        assert har.flush()
        assert len(read(tmp_path / "flows.har")) == number * (number + 1) / 2
    har.close()
    again = HARFile(str(tmp_path / "flows.har"))
    again(raw_flow(b"x"))
    again.close()
    assert [entry["_resourceType"] for entry in read(tmp_path / "flows.har")] == ["other"] * 15 + ["raw"]


def test_it_is_rotated_and_each_file_is_an_archive(tmp_path: Path) -> None:
    har = HARFile(str(tmp_path / "h"), max_bytes=8000, keep=20, flow_filter=parse_filter("~c 200"))
    flows = [http_flow(status=200 + number % 2) for number in range(30)]
    for flow in flows:
        har(flow)
    har.close()
    files = sorted(tmp_path.iterdir(), key=lambda path: -int(path.suffix[1:] or 0))
    assert len(files) > 2 and all(path.stat().st_size <= 8000 for path in files)
    assert [entry["_id"] for path in files for entry in read(path)] == [flow.id for flow in flows[::2]]


def test_an_exchange_is_what_a_browser_would_write(tmp_path: Path) -> None:
    flow = http_flow(
        "POST",
        "https://example.com/a?x=1&y=%C3%BC&z",
        302,
        request_fields=[("Content-Type", "text/x"), ("Cookie", 'a=1; b="2;x=y')],
        response_fields=[("Location", "/b"), ("Set-Cookie", "s=1=2; Path=/; HttpOnly; Secure; Domain=example.com"), ("Set-Cookie", "t=")],
        request_body=b"hello",
    )
    entry = har_entry(flow, ())
    request, response = entry["request"], entry["response"]
    assert (request["method"], request["url"], request["bodySize"]) == ("POST", "https://example.com/a?x=1&y=%C3%BC&z", 5)
    assert request["queryString"] == [{"name": "x", "value": "1"}, {"name": "y", "value": "ü"}, {"name": "z", "value": ""}]
    assert request["postData"] == {"mimeType": "text/x", "params": [], "text": "hello"}
    assert request["cookies"] == [{"name": "a", "value": "1"}, {"name": "b", "value": '"2'}, {"name": "x", "value": "y"}]
    assert (response["status"], response["statusText"], response["redirectURL"]) == (302, "OK", "/b")
    assert response["cookies"] == [
        {"name": "s", "value": "1=2", "path": "/", "domain": "example.com", "httpOnly": True, "secure": True},
        {"name": "t", "value": "", "httpOnly": False, "secure": False},
    ]
    assert entry["timings"] == {"blocked": 5, "dns": 5, "connect": 50, "ssl": 30, "send": 10, "wait": 100, "receive": 30}
    assert (entry["time"], entry["serverIPAddress"], entry["connection"]) == (200, "192.0.2.1", "3")
    assert (entry["_door"], entry["_identity"], entry["_clientTLS"]["sni"]) == ("connect", "ann", "example.com")


def test_a_reused_connection_took_no_time_to_make() -> None:
    flow = http_flow()
    flow.dialling = flow.resolved = flow.connected = flow.secured = None
    assert har_entry(flow)["timings"] == {"blocked": -1, "dns": -1, "connect": -1, "ssl": -1, "send": 70, "wait": 100, "receive": 30}


def test_without_a_response_the_status_is_0_and_the_error_is_said() -> None:
    flow = http_flow(status=None)
    flow.error, flow.first_byte, flow.ended = "192.0.2.1:443: Connection refused", None, 3.0
    entry = har_entry(flow)
    assert (entry["response"]["status"], entry["response"]["_error"], entry["response"]["bodySize"]) == (
        0,
        "192.0.2.1:443: Connection refused",
        -1,
    )
    assert (entry["timings"]["wait"], entry["timings"]["receive"]) == (2930, 0)


def test_a_raw_stream_is_the_connect_that_led_to_it() -> None:
    entry = har_entry(raw_flow(b"SSH-2.0-a\r\n", b"\x00\x01"))
    assert (entry["request"]["method"], entry["request"]["url"], entry["_resourceType"]) == ("CONNECT", "tcp://example.com:22", "raw")
    assert entry["request"]["postData"]["text"] == "SSH-2.0-a\r\n"
    assert (entry["response"]["content"]["text"], entry["response"]["content"]["encoding"]) == ("AAE=", "base64")


def test_a_websocket_is_what_a_browser_would_write() -> None:
    said = [
        message(True, "grüß".encode(), time=0.25),
        message(False, b"\x00\xff", opcode=2),
        message(False, "grüß".encode(), limit=3),
        message(True, b"no \xff text"),
        message(True, "grü".encode()[:-1], complete=False),
    ]
    flow = websocket_flow(*said)
    flow.started = 1_700_000_000.5
    entry = har_entry(flow)
    assert entry["_resourceType"] == "websocket" and entry["request"]["url"] == "wss://example.com/chat"
    assert entry["_webSocketMessages"] == [
        {"type": "send", "time": 1_700_000_000.75, "opcode": 1, "data": "grüß"},
        {"type": "receive", "time": 1_700_000_001.0, "opcode": 2, "data": "AP8="},
        {"type": "receive", "time": 1_700_000_001.0, "opcode": 1, "data": "gr", "comment": "the first 3 of 6 bytes"},
        {"type": "send", "time": 1_700_000_001.0, "opcode": 1, "data": "no \ufffd text"},
        {"type": "send", "time": 1_700_000_001.0, "opcode": 1, "data": "gr", "comment": "its end was not recorded"},
    ]
    assert entry["_webSocketClose"] == {"type": "send", "code": 1000, "reason": "bye"} and "comment" not in entry
    assert entry["request"]["bodySize"] == 0 and entry["response"]["content"] == {"size": 0, "mimeType": "text/plain"}
    flow = websocket_flow(*said, stopped="the limit of 5 messages is reached", count=12)
    assert har_entry(flow)["comment"] == "5 of 12 messages: the limit of 5 messages is reached"


def test_secrets_are_left_out() -> None:
    flow = http_flow(request_fields=[("Cookie", "a=secret"), ("Authorization", "secret")], response_fields=[("Set-Cookie", "b=secret")])
    assert "secret" not in json.dumps(har_entry(flow))
    assert json.dumps(har_entry(flow, ())).count("secret") == 5


def test_an_archive_is_a_file(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="it is not a regular file"):
        HARFile("-")


def test_an_archive_of_somebody_else_is_moved_aside_and_that_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    theirs = json.dumps({"log": {"version": "1.2", "creator": {"name": "a", "version": "1"}, "entries": []}}, indent=2)
    (tmp_path / "h").write_text(theirs)
    HARFile(str(tmp_path / "h")).close()
    assert read(tmp_path / "h") == [] and (tmp_path / "h.1").read_text() == theirs
    assert f"renamed to {tmp_path / 'h.1'}" in caplog.text


def test_content_is_shown_without_its_coding() -> None:
    page = b"<p>" + b"hello " * 1000
    flow = http_flow(response_fields=[("Content-Encoding", "gzip"), ("Content-Type", "text/html")], response_body=gzip.compress(page))
    response = har_entry(flow)["response"]
    assert (response["content"]["text"], response["content"]["size"]) == (page.decode(), len(page))
    assert response["bodySize"] == flow.from_server.size == len(page) - response["content"]["compression"]


def test_of_a_coded_body_that_was_cut_there_is_what_can_be_decoded() -> None:
    page = b"<p>" + os.urandom(4000).hex().encode()
    flow = http_flow(response_fields=[("Content-Encoding", "gzip")], response_body=gzip.compress(page), capture_limit=2000)
    content = har_entry(flow)["response"]["content"]
    assert len(content["text"]) > 1000 and page.startswith(content["text"].encode()) and content["comment"].startswith("the first")
    assert content["size"] == flow.from_server.size and "compression" not in content


@pytest.mark.parametrize("coding", ["gzip", "br", "no-such", "gzip, gzip, gzip, gzip"])
def test_a_body_that_cannot_be_decoded_is_its_own_content(coding: str) -> None:
    flow = http_flow(response_fields=[("Content-Encoding", coding)], response_body=b"\xffno coding")
    content = har_entry(flow)["response"]["content"]
    assert (base64.b64decode(content["text"]), content["encoding"], content["size"]) == (b"\xffno coding", "base64", 10)


def test_a_bomb_is_looked_at_as_far_as_content_is() -> None:
    flow = http_flow(response_fields=[("Content-Encoding", "gzip")], response_body=gzip.compress(bytes(20 << 20)))
    content = har_entry(flow)["response"]["content"]
    assert len(base64.b64decode(content["text"])) == CONTENT_LIMIT and content["comment"] == f"the first {CONTENT_LIMIT} bytes"
