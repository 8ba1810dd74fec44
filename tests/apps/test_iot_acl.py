"""The access list of apps/iot-gateway."""

import os
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from muxwsgi_iot import Gateway, Options
from muxwsgi_iot.acl import Acl
from muxwsgi_iot.broker import Broker

from muxwsgi.errors import OperatorError

PAGE = Path(__file__).parents[2] / "apps" / "iot-gateway" / "README.md"


def acl(folder: Path, text: str, **more: Any) -> Acl:
    path = folder / "acl"
    path.write_text(text)
    return Acl(str(path), **more)


def rights(made: Acl, topic: str, user: str | None, client_id: str = "c") -> str:
    return "".join(letter for letter, write in (("r", False), ("w", True)) if made.allows(topic, user, client_id, write=write))


def test_the_example_on_the_page(tmp_path: Path) -> None:
    (text,) = re.findall(r"^```\n(# before.*?)^```", PAGE.read_text(), re.M | re.S)
    made = acl(tmp_path, text)
    assert rights(made, "public/a", None) == "r"
    assert rights(made, "public/a", "ann") == ""
    assert rights(made, "house/a", "ann") == "rw"
    assert rights(made, "house/safe", "ann") == ""
    assert rights(made, "house/a", "bob") == ""
    assert rights(made, "devices/bob/x", "bob") == "rw"
    assert rights(made, "devices/bob/x", "ann") == ""
    assert rights(made, "devices//x", None) == ""


def test_a_deny_wins_wherever_it_stands_and_wildcards_do_not_reach_topics_of_the_broker(tmp_path: Path) -> None:
    made = acl(tmp_path, "pattern deny +/secret/%c\nuser ann\ntopic #\ntopic write $SYS/a\n")
    assert rights(made, "a/secret/c", "ann") == "" and rights(made, "a/secret/d", "ann") == "rw"
    assert rights(made, "$SYS/a", "ann") == "w" and rights(made, "$SYS/b", "ann") == ""


@given(st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=5), st.sampled_from(["%u", "%c", "+", "#", "a/#", "a/b", "%u%c"]))
def test_a_name_opens_no_other_level(tmp_path_factory: pytest.TempPathFactory, rest: str, name: str) -> None:
    """A name with wildcards or '/' matches no topic, and is not filled in again (CVE-2017-7650)."""
    made = _one_pattern(tmp_path_factory)
    for topic in ("d/a", "d/a/b", "d/x/b", "d/c", "e/a"):
        assert not made.allows(topic, rest + name, "c", write=True)
    assert made.allows("d/x", "x", "c", write=True)


_made: list[Acl] = []


def _one_pattern(factory: pytest.TempPathFactory) -> Acl:
    if not _made:
        _made.append(acl(factory.mktemp("acl"), "pattern d/%u\n"))
    return _made[0]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("topic a\nuser\n", "line 2: the user is missing"),
        ("\nallow a\n", "line 2: 'allow' is not user, topic or pattern"),
        ("topic read a#\n", "line 1: 'a#': '#' is not alone"),
        ("topic\n", "line 1: '': a topic filter is empty"),
        ("pattern read %u/#/a\n", "line 1:"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(OperatorError, match=re.escape(said)):
        acl(tmp_path, text)


def test_a_change_of_the_file_counts_and_a_broken_one_does_not(tmp_path: Path, caplog: Any) -> None:
    time = 0.0
    made = acl(tmp_path, "topic a\n", clock=lambda: time)
    for text, expected in (("topic b\n", ""), ("nonsense\n", ""), ("topic a\n", "rw")):
        (tmp_path / "new").write_text(text)
        os.replace(tmp_path / "new", tmp_path / "acl")
        time += 2
        assert rights(made, "a", None) == expected
    assert sum("the content that was read before stays valid" in line.message for line in caplog.records) == 1


def test_subscribers_lose_what_they_may_not_read_any_more(tmp_path: Path) -> None:
    path = tmp_path / "acl"
    path.write_text("topic a\n")
    gateway = Gateway(Options(allow_anonymous=True, acl_file=str(path)), Broker())
    found: list[Any] = []
    gateway.broker.subscribe("#", found.append, may_read=gateway.login.access_of(None).may_read)
    assert gateway.broker.publish("a", b"1") == 1
    path.write_text("topic b/c\n")
    assert gateway.login.acl is not None
    gateway.login.acl._look_at = 0.0
    gateway.broker.tick()
    assert gateway.broker.publish("a", b"2") == 0 and gateway.broker.publish("b/c", b"3") == 1
