"""What holds for every file of muxwsgi/protocols/: a new one is tested here without another line."""

import subprocess
import sys
from pathlib import Path

import pytest

import muxwsgi.protocols
from muxwsgi import Match
from muxwsgi.protocols import Protocol, known, markdown, recognised
from tests.mux.first_bytes import verdicts

YES, NO, MORE = Match.YES, Match.NO, Match.MORE

PAGE = Path(__file__).parents[2] / "docs" / "writing-hijackers.md"
NAMES = [protocol.name for protocol in known()]
BEGINS = [(protocol, data) for protocol in known() for data in protocol.begins]
NOT_BEGINS = [(protocol, data) for protocol in known() for data in protocol.not_begins]


def name_of(value: object) -> str | None:
    return value.name if isinstance(value, Protocol) else None


def test_every_module_is_one_protocol_with_a_name_of_its_own() -> None:
    modules = {path.stem for path in Path(muxwsgi.protocols.__file__).parent.glob("*.py")} - {"__init__"}
    assert len(NAMES) == len(set(NAMES)) == len(modules)


@pytest.mark.parametrize("protocol", known(), ids=NAMES)
def test_a_protocol_says_where_it_is_defined_and_how_it_begins(protocol: Protocol) -> None:
    assert protocol.name
    assert protocol.defined_in
    assert protocol.begins
    assert protocol.not_begins, "what begins alike and is something else?"
    assert not isinstance(protocol.alpn, str)


@pytest.mark.parametrize(("protocol", "data"), BEGINS, ids=name_of)
def test_first_bytes_are_more_until_they_are_yes_at_every_cut(protocol: Protocol, data: bytes) -> None:
    for matcher in (protocol.match, protocol.loose or protocol.match):
        said = verdicts(matcher, data)
        more = said.count(MORE)
        assert more > 0
        assert said == [MORE] * more + [YES] * (len(said) - more)
        assert said[-1] is YES


@pytest.mark.parametrize(("protocol", "data"), NOT_BEGINS, ids=name_of)
def test_what_begins_alike_is_refused_and_at_no_cut_taken(protocol: Protocol, data: bytes) -> None:
    said = verdicts(protocol.match, data)
    assert YES not in said
    assert said[-1] is NO


@pytest.mark.parametrize(("protocol", "data"), BEGINS, ids=name_of)
def test_first_bytes_are_those_of_one_protocol_alone(protocol: Protocol, data: bytes) -> None:
    assert [other.name for other in known() if other.match(data) is YES] == [protocol.name]
    assert [other.name for other in known() if (other.loose or other.match)(data) is YES] == [protocol.name]
    assert recognised(data) is protocol


def test_an_alpn_id_belongs_to_one_protocol() -> None:
    ids = [each for protocol in known() for each in protocol.alpn]
    assert len(ids) == len(set(ids))


def test_the_page_has_the_table() -> None:
    expected, page = markdown().splitlines(), PAGE.read_text().splitlines()
    start = page.index(expected[0])
    assert page[start : page.index("", start)] == expected, "docs/writing-hijackers.md is out of date: see muxwsgi.protocols.markdown"


def test_a_package_that_imports_a_matcher_needs_no_gevent() -> None:
    script = "import sys; from muxwsgi.protocols import known; known(); sys.exit('gevent' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
