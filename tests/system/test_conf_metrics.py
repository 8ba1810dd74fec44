"""conf/prometheus: scrape configuration, alerts and dashboard name metrics, labels and values that there are."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from muxwsgi.observe.metrics import METRICS
from tests.system.server_process import ROOT

FOLDER = ROOT / "conf/prometheus"
BY_NAME = {metric.name: metric for metric in METRICS}


def promtool(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(["promtool", *arguments], cwd=FOLDER, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("arguments", [("check", "config", "prometheus.yml"), ("check", "rules", "muxwsgi.rules.yml")], ids=" ".join)
def test_prometheus_takes_the_file(arguments: tuple[str, ...]) -> None:
    checked = promtool(*arguments)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_each_alert_fires_for_what_it_is_for_and_for_nothing_else() -> None:
    checked = promtool("test", "rules", "muxwsgi.rules.test.yml")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    names = {rule["alert"] for group in yaml.safe_load((FOLDER / "muxwsgi.rules.yml").read_text())["groups"] for rule in group["rules"]}
    tested = {case["alertname"] for each in yaml.safe_load((FOLDER / "muxwsgi.rules.test.yml").read_text())["tests"] for case in each["alert_rule_test"]}
    assert names == tested


def expressions() -> Iterator[tuple[str, str]]:
    """Where, and PromQL."""
    for group in yaml.safe_load((FOLDER / "muxwsgi.rules.yml").read_text())["groups"]:
        for rule in group["rules"]:
            yield rule["alert"], rule["expr"]
    for panel in json.loads((FOLDER / "grafana.json").read_text())["panels"]:
        for target in panel["targets"]:
            yield f"{panel['title']} {target['refId']}", target["expr"].replace("$__rate_interval", "5m").replace("$instance", "a")


@pytest.mark.parametrize(("where", "text"), list(expressions()), ids=lambda value: value[:40])
def test_an_expression_names_what_there_is(where: str, text: str) -> None:
    used = re.findall(r"\b(muxwsgi_\w+?)(?:_bucket|_count|_sum)?\b(?:\{([^}]*)\})?", text)
    assert used or text.startswith("up{")
    labels = {"instance", "le"}
    for name, selectors in used:
        metric = BY_NAME[name]
        labels |= {*metric.labels, *(("worker",) if metric.source == "each" else ())}
        for label, operator, value in re.findall(r'(\w+)(=~|=)"([^"]*)"', selectors):
            if label in ("instance", "le"):
                continue
            values = {row[metric.labels.index(label)] for row in metric.series}
            assert any(re.fullmatch(value, each) if operator == "=~" else value == each for each in values), (label, value)
    for names in re.findall(r"(?:by|on) \(([^)]*)\)", text):
        assert {each.strip() for each in names.split(",")} <= labels


@pytest.mark.parametrize(("where", "text"), [each for each in expressions() if " " in each[0]], ids=lambda value: value[:40])
def test_promql_of_the_dashboard_is_read_by_prometheus(where: str, text: str, tmp_path: Path) -> None:
    rules = {"groups": [{"name": "dashboard", "rules": [{"record": "checked", "expr": text}]}]}
    (tmp_path / "rules.yml").write_text(yaml.safe_dump(rules))
    checked = promtool("check", "rules", str(tmp_path / "rules.yml"))
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_the_dashboard_is_whole() -> None:
    dashboard = json.loads((FOLDER / "grafana.json").read_text())
    assert [panel["id"] for panel in dashboard["panels"]] == list(range(1, len(dashboard["panels"]) + 1))
    places = [tuple(panel["gridPos"][key] for key in "xy") for panel in dashboard["panels"]]
    assert len(set(places)) == len(places)
    assert {variable["name"] for variable in dashboard["templating"]["list"]} == {"datasource", "instance"}
    assert all(panel["datasource"]["uid"] == "${datasource}" for panel in dashboard["panels"])
