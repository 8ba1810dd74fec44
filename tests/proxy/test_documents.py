"""docs/proxy.md, and the README's word on the proxy, run as they stand there."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from muxwsgi.cli.options import ALL
from muxwsgi.proxy import Proxy, Reject
from muxwsgi.proxy.rules.actions import Accept, Mitm

PAGE = (Path(__file__).parents[2] / "docs" / "proxy.md").read_text()


def test_the_rules_of_the_page_do_what_it_says() -> None:
    namespace: dict[str, Any] = {}
    exec(re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)[0], namespace)
    proxy = namespace["proxy"]
    assert isinstance(proxy, Proxy) and proxy.rules.has_request_rules
    assert isinstance(proxy.rules.connect("bank.example:443", None)[0], Accept)
    assert isinstance(proxy.rules.connect("other.example:443", None)[0], Mitm)
    assert not isinstance(proxy.rules.connect("other.example:443", None)[0], Reject)


def test_the_proxy_of_the_readme_is_one() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    block = next(block for block in re.findall(r"^```python\n(.*?)^```", readme, re.M | re.S) if "Proxy()" in block)
    namespace: dict[str, Any] = {}
    exec(block, namespace)
    assert isinstance(namespace["proxy"].rules.connect("any.example:443", None)[0], Mitm)
    assert namespace["proxy"].rules.has_request_rules


def test_the_inspector_of_its_page_records_flows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(__file__).parents[2] / "apps" / "inspector-rules"
    for name in ("policy.toml", "deny.txt"):
        shutil.copy(folder / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {}
    exec(re.findall(r"^```python\n(.*?)^```", (folder / "README.md").read_text(), re.M | re.S)[0], namespace)
    assert isinstance(namespace["proxy"], Proxy) and namespace["proxy"].may_intercept
    assert (tmp_path / "flows.jsonl").exists()


def test_every_option_of_the_page_is_one() -> None:
    known = {option.flag for option in ALL}
    written = set(re.findall(r"`(--[a-z0-9-]+)", PAGE))
    assert written and written <= known, written - known
