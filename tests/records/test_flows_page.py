"""docs/flows.md: its program runs, its expressions parse, and its tables name what there is."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from muxwsgi.records.flow_filter import _IS, _SEARCHED, parse_filter
from muxwsgi.records.flow_record import record_of
from muxwsgi.records.har import har_entry
from tests.records.flows import http_flow, message, websocket_flow

PAGE = (Path(__file__).parents[2] / "docs/flows.md").read_text()


def section(title: str) -> str:
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S)
    assert found, title
    return found[1]


def test_its_program_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    (program,) = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    names: dict[str, Any] = {}
    exec(program.replace("\n...\n", "\nfor sink in proxy._recorder.sinks:\n    sink(flow)\n"), names | {"flow": http_flow(status=502)})
    assert capsys.readouterr().out == "http example.com:443\n"
    assert json.loads((tmp_path / "flows.jsonl").read_text())["response"]["status"] == 502
    assert len(json.loads((tmp_path / "flows.har").read_text())["log"]["entries"]) == 1


def test_its_expressions_are_expressions() -> None:
    quoted = re.findall(r"filter '(.*?)'\s", PAGE) + re.findall(r"`((?:~|/search)[^`]*)`", section("Filter expressions"))
    assert len(quoted) > 25
    for expression in quoted:
        if expression.split()[0] in _SEARCHED and len(expression.split()) == 1:  # named without its regex
            expression += " x"
        parse_filter(expression)


def test_its_operators_are_those_that_there_are() -> None:
    named = set(re.findall(r"`(~[a-z]+)", section("Filter expressions")))
    assert named == {*_SEARCHED, *_IS, "~c"}


def test_its_keys_are_those_of_a_record() -> None:
    rows = re.findall(r"^\| (`.*?) \|", section("The flow log"), re.M)
    assert {key for row in rows for key in re.findall(r"`(\w+)`", row)} == set(record_of(http_flow()))


def test_what_it_says_of_websockets_is_what_there_is() -> None:
    record = record_of(websocket_flow(message(True, b"text"), message(True, b"\xff")))["websocket"]
    keys = set(record) | set(record["close"]) | {key for each in record["messages"] for key in each}
    assert keys <= set(re.findall(r"`(\w+)`", section("The flow log")))


def test_its_own_keys_of_har_are_those_of_an_entry() -> None:
    flow = http_flow(status=None)
    flow.error = "x"
    entries = [har_entry(flow), har_entry(websocket_flow())]
    written = {key for entry in entries for part in (entry, entry["request"], entry["response"]) for key in part if key.startswith("_")}
    assert set(re.findall(r"`(_\w+)`", section("HAR"))) - {"_encoding"} == written
