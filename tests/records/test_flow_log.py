"""The flow log: what is in it, what becomes of it under a full or slow disk, and that the traffic does not notice."""

import contextlib
import json
import logging
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import gevent
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muxwsgi.records.flow import Flow
from muxwsgi.records.flow_filter import parse_filter
from muxwsgi.records.flow_log import FlowLog
from muxwsgi.records.flow_record import flow_host, flow_of, flow_url, record_of
from muxwsgi.records.flow_spool import FLOW_SIZE
from tests.records.flows import any_flow, bodies, http_flow, message, raw_flow, websocket_flow

ROOT = Path(__file__).parents[2]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("ascii").splitlines()]


@pytest.fixture
def log(tmp_path: Path) -> FlowLog:
    return FlowLog(str(tmp_path / "flows"))


@settings(deadline=None)
@given(any_flow())
def test_a_flow_that_was_written_can_be_read_again(flow: Flow) -> None:
    read = flow_of(json.loads(json.dumps(record_of(flow, ()))))
    for name in Flow.__slots__:
        if name not in ("began", "capture_limit", "from_client", "from_server", "websocket"):
            assert getattr(read, name) == getattr(flow, name), name
    captured = [(flow.from_client, read.from_client), (flow.from_server, read.from_server)]
    assert (flow.websocket is None) is (read.websocket is None)
    if flow.websocket is not None and read.websocket is not None:
        for name in ("count", "close", "stopped"):
            assert getattr(read.websocket, name) == getattr(flow.websocket, name), name
        for told, heard in zip(flow.websocket.messages, read.websocket.messages, strict=True):
            assert all(getattr(told, name) == getattr(heard, name) for name in ("from_client", "opcode", "time", "complete"))
            captured.append((told.content, heard.content))
    for before, after in captured:
        assert after.size == before.size
        if before.truncated:  # the character that the cut went through is left out
            assert before.data.startswith(after.data) and len(before.data) - len(after.data) < 4 and after.truncated
        else:
            assert after.data == before.data and not after.truncated


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(deadline=None)
@given(any_flow(), st.data())
def test_what_is_no_flow_is_a_value_error(flow: Flow, data: st.DataObject) -> None:
    """One part of a good record, at any depth, is replaced by anything: it is read, or it is said to be none."""
    record: Any = json.loads(json.dumps(record_of(flow)))
    inside = record
    while isinstance(inside, dict | list) and inside:
        key = data.draw(st.sampled_from(sorted(inside) if isinstance(inside, dict) else range(len(inside))))
        if not isinstance(inside[key], dict | list) or data.draw(st.booleans()):
            inside[key] = data.draw(values)
            break
        inside = inside[key]
    try:
        assert isinstance(flow_of(record), Flow)
    except ValueError as error:
        assert str(error)


@pytest.mark.parametrize("nothing", [None, [], 1, "x", {}, {"schema": 1}, {"schema": 2, "kind": "raw"}])
def test_no_record_at_all_is_a_value_error(nothing: object) -> None:
    with pytest.raises(ValueError):
        flow_of(nothing)


@settings(deadline=None)
@given(bodies)
def test_a_body_is_text_only_where_text_says_all(body: bytes) -> None:
    record = record_of(http_flow(response_body=body))["from_server"]
    assert record["size"] == len(body) and record["truncated"] is False
    if "text" in record:
        assert record["text"].encode() == body
    else:
        assert "base64" in record
    assert len(json.dumps(record)) < 80 + 3 * len(body), "a record does not grow beyond measure, whatever the bytes"


def test_a_line_holds_all_that_is_known_of_a_flow(log: FlowLog, tmp_path: Path) -> None:
    flow = http_flow("POST", request_body=b"caf\xc3\xa9", response_body=b"\x00\xff")
    log(flow)
    log.close()
    (line,) = lines(tmp_path / "flows")
    assert line["schema"] == 1 and line["kind"] == "http" and line["door"] == "connect" and line["identity"] == "ann"
    assert line["request"] == {
        "method": "POST", "url": "https://example.com/path?a=1&b=2", "target": "https://example.com/path?a=1&b=2", "version": "HTTP/1.1",
        "fields": [["Host", "example.com"], ["User-Agent", "test"]],
    }  # fmt: skip
    assert line["response"] == {"version": "HTTP/1.1", "status": 200, "reason": "OK", "fields": [["Content-Type", "text/plain"]]}
    assert line["from_client"] == {"size": 5, "truncated": False, "text": "café"}
    assert line["from_server"] == {"size": 2, "truncated": False, "base64": "AP8="}
    assert line["timings"] == {"dialling": 0.005, "resolved": 0.01, "connected": 0.03, "secured": 0.06, "sent": 0.07, "first_byte": 0.17, "ended": 0.2}
    assert line["client_tls"]["sni"] == "example.com" and line["upstream_tls"]["peer_certificate"] == "ab" * 32
    assert line["trace"] == ["http1: YES"] and line["tags"] == ["seen"] and line["error"] is None


def test_a_body_that_was_cut_says_so_and_is_cut_between_characters(log: FlowLog, tmp_path: Path) -> None:
    log(http_flow(response_body="abcdé".encode() * 9, capture_limit=5))
    log.close()
    assert lines(tmp_path / "flows")[0]["from_server"] == {"size": 54, "truncated": True, "text": "abcd"}


def test_secrets_are_left_out_and_filters_see_them(tmp_path: Path) -> None:
    def flow() -> Flow:
        return http_flow(
            request_fields=[("AUTHORIZATION", "Basic c2VjcmV0"), ("cookie", "a=secret"), ("X-Key", "secret"), ("Accept", "*/*")],
            response_fields=[("Set-Cookie", "a=secret"), ("Set-Cookie", "b=secret"), ("Server", "x")],
        )

    usual = FlowLog(str(tmp_path / "usual"), flow_filter=parse_filter("~hq 'cookie: a=secret'"))
    own = FlowLog(str(tmp_path / "own"), redact=["x-KEY"])
    none = FlowLog(str(tmp_path / "none"), redact=())
    for log in (usual, own, none):
        log(flow())
        log.close()
    line = lines(tmp_path / "usual")[0]
    assert line["request"]["fields"] == [
        ["AUTHORIZATION", "[redacted]"], ["cookie", "[redacted]"], ["X-Key", "secret"], ["Accept", "*/*"]
    ]  # fmt: skip
    assert line["response"]["fields"] == [["Set-Cookie", "[redacted]"], ["Set-Cookie", "[redacted]"], ["Server", "x"]]
    assert lines(tmp_path / "own")[0]["request"]["fields"][1:3] == [["cookie", "a=secret"], ["X-Key", "[redacted]"]]
    assert "[redacted]" not in (tmp_path / "none").read_text()


def test_only_the_flows_that_the_filter_means_are_written(tmp_path: Path) -> None:
    log = FlowLog(str(tmp_path / "flows"), flow_filter=parse_filter("~c 404 | ~raw"))
    for flow in (http_flow(), http_flow(status=404), raw_flow(b"a"), http_flow(status=None)):
        log(flow)
    log.close()
    assert [line["kind"] for line in lines(tmp_path / "flows")] == ["http", "raw"]
    assert (log.written, log.lost) == (2, 0)


def test_they_are_written_in_their_order_without_being_asked(log: FlowLog, tmp_path: Path) -> None:
    flows = [http_flow(response_body=os.urandom(1000)) for _ in range(3000)]
    for flow in flows:
        log(flow)
    deadline = time.monotonic() + 30
    while log.written < 3000 and time.monotonic() < deadline:
        gevent.sleep(0.05)
    assert [line["id"] for line in lines(tmp_path / "flows")] == [flow.id for flow in flows]
    log.close()


def test_what_passed_through_cannot_steer_the_terminal_of_who_reads_it(log: FlowLog, tmp_path: Path) -> None:
    log(http_flow(url="http://h/\x1b[2J\x9b2J\u202e", response_body=b"\x1b[2J", response_fields=[("X", "\x1b]0;x\x07\n")]))
    log.close()
    text = (tmp_path / "flows").read_bytes()
    assert text.count(b"\n") == 1 and set(text) <= {10, *range(32, 127)}


def test_a_full_disk_loses_flows_which_are_counted_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    log = FlowLog("/dev/full")
    with caplog.at_level(logging.WARNING, "muxwsgi.error"):
        for _ in range(5):
            log(http_flow())
            assert log.flush()
        assert (log.written, log.lost) == (0, 5)
        assert [record.getMessage() for record in caplog.records] == [
            "/dev/full: No space left on device; flows are lost (1 so far), the traffic goes on"
        ]
        log.close()
    assert caplog.records[-1].getMessage() == "/dev/full: 5 flows were lost, 0 written"


def test_a_file_that_cannot_be_rotated_grows_on_and_is_rotated_when_it_can(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("muxwsgi").propagate = True
    log = FlowLog(str(tmp_path / "flows"), max_bytes=2000, keep=1)
    log(http_flow())
    log.flush()
    (tmp_path / "flows.1").mkdir()
    (tmp_path / "flows.1" / "in the way").touch()
    for _ in range(2):
        log(http_flow())
        log.flush()
    (tmp_path / "flows.1" / "in the way").unlink()
    (tmp_path / "flows.1").rmdir()
    log(last := http_flow())
    log.close()
    assert (log.written, log.lost) == (4, 0)
    assert [line["id"] for line in lines(tmp_path / "flows")] == [last.id]
    assert len(lines(tmp_path / "flows.1")) == 3
    assert caplog.text.count("cannot be rotated, and grows on") == 1, "once, not with every batch"


def test_a_disk_that_stalls_costs_flows_and_no_memory_and_nobody_waits(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A pipe that nobody reads stands for a file server that is gone."""
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    size = 200_000  # more than a pipe holds: the first flow is stuck already
    log = FlowLog(str(tmp_path / "pipe"), max_queued=10 * (size + FLOW_SIZE))
    started = time.monotonic()
    for _ in range(100):
        log(http_flow(response_body=b"x" * size))
        gevent.sleep(0.003)
    assert log.lost == 90 and log.written == 0 and log._queued <= 10 * (size + FLOW_SIZE)
    assert not log.flush(0.05)
    log.close(timeout=0.1)
    assert time.monotonic() - started < 20
    assert (log.written, log.lost) == (0, 100), "those that are stuck within the write are lost too"
    assert "flows wait; flows are lost (1 so far)" in caplog.text and "100 flows were lost, 0 written" in caplog.text
    pool = gevent.get_hub().threadpool
    while len(pool) and time.monotonic() - started < 40:  # the thread is let go
        with contextlib.suppress(BlockingIOError):
            os.read(reader, 1 << 16)
        gevent.sleep(0)
    assert len(pool) == 0
    os.close(reader)


def test_the_messages_of_a_websocket_count_as_memory_that_waits(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log = FlowLog(str(tmp_path / "flows"), max_queued=100_000)
    for _ in range(3):
        log(websocket_flow(message(True, bytes(60_000))))
    assert log.lost == 2 and "flows are lost" in caplog.text
    log.close()
    assert len(lines(tmp_path / "flows")) == 1


def test_a_flow_larger_than_the_queue_is_written_when_nothing_else_waits(tmp_path: Path) -> None:
    log = FlowLog(str(tmp_path / "flows"), max_queued=1000)
    for _ in range(3):
        log(http_flow(response_body=b"x" * 100_000))
        log.flush()
    log.close()
    assert (log.written, log.lost) == (3, 0)


def test_nothing_is_written_after_close_and_that_is_counted(log: FlowLog, tmp_path: Path) -> None:
    log.close()
    log.close()
    log(http_flow())
    assert log.lost == 1 and lines(tmp_path / "flows") == []


def test_a_program_that_ends_without_closing_it_loses_nothing(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from muxwsgi.records.flow_log import FlowLog\n"
        "from tests.records.flows import http_flow\n"
        "log = FlowLog(sys.argv[1])\n"
        "log(http_flow())\n"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "flows")], cwd=ROOT, check=True, timeout=30)
    assert [line["kind"] for line in lines(tmp_path / "flows")] == ["http"]


def test_a_log_that_others_rotate_goes_on_in_the_new_file(log: FlowLog, tmp_path: Path) -> None:
    flows = [http_flow() for _ in range(4)]
    log(flows[0])
    log.flush()
    (tmp_path / "flows").rename(tmp_path / "moved")
    log(flows[1])
    log.reopen()
    log(flows[2])
    log.flush()
    log(flows[3])
    log.close()
    assert [line["id"] for line in lines(tmp_path / "moved")] == [flow.id for flow in flows[:2]]
    assert [line["id"] for line in lines(tmp_path / "flows")] == [flow.id for flow in flows[2:]]


def test_rotation_keeps_the_newest_flows_and_every_file_within_its_size(tmp_path: Path) -> None:
    log = FlowLog(str(tmp_path / "flows"), max_bytes=10_000, keep=3)
    flows = [http_flow(response_body=b"x" * (number % 7) * 500) for number in range(100)]
    for flow in flows:
        log(flow)
    log.close()
    names = ["flows.3", "flows.2", "flows.1", "flows"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
    assert all((tmp_path / name).stat().st_size <= 10_000 for name in names)
    kept = [line["id"] for name in names for line in lines(tmp_path / name)]
    assert kept == [flow.id for flow in flows[-len(kept) :]] and log.written == 100


def test_a_flow_that_cannot_be_a_record_costs_itself_alone(log: FlowLog, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    broken = http_flow()
    broken.tags = [object()]  # type: ignore[list-item]
    for flow in (http_flow(), broken, http_flow()):
        log(flow)
    log.close()
    assert (log.written, log.lost) == (2, 1) and len(lines(tmp_path / "flows")) == 2
    assert f"flow {broken.id} cannot be written" in caplog.text and "Traceback" in caplog.text


def test_a_flow_knows_its_url_and_host_however_the_target_was_spelt() -> None:
    cases = {
        ("/a?u=http://x/", "h:8443", True): ("https://h:8443/a?u=http://x/", "h"),
        ("/a", None, False): ("http://example.com:443/a", "example.com"),
        ("http://[2001:db8::1]:80/a", "h", True): ("http://[2001:db8::1]:80/a", "2001:db8::1"),
        ("*", "H", False): ("http://H", "h"),
        ("http://[half/", "h", False): ("http://[half/", None),
    }
    for (target, host, tls), (url, name) in cases.items():
        flow = http_flow(url=target, request_fields=[("host", host)] if host else [])
        if not tls:
            flow.client_tls = flow.upstream_tls = None
        assert (flow_url(flow), flow_host(flow)) == (url, name), target
    assert (flow_url(raw_flow()), flow_host(raw_flow())) == (None, "example.com")
