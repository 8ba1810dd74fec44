"""What holds for every file of muxwsgi/protocols/: a new one is tested here without another line."""

import json
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import hpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import muxwsgi.protocols
from muxwsgi import Match
from muxwsgi.protocols import Ambiguity, Protocol, by_name, known, markdown, recognised
from muxwsgi.protocols.grpc import grpc
from muxwsgi.protocols.postgresql import startup_of
from muxwsgi.protocols.rdp import cookie_of
from muxwsgi.testing import verdicts
from tests.http2.frames import END_HEADERS, HEADERS, OPENING, frame
from tests.mux.first_bytes import first_bytes, least
from tests.protocols.automata import Table, pattern_of, taken_by_both
from tests.protocols.record import RECORDED as RECORDED_FILE

YES, NO, MORE = Match.YES, Match.NO, Match.MORE

PAGE = Path(__file__).parents[2] / "docs" / "protocols.md"
RECORDED = json.loads(RECORDED_FILE.read_text())
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
    for matcher_of in (lambda other: other.match, lambda other: other.loose or other.match):
        takers = {other.name for other in known() if matcher_of(other)(data) is YES}
        assert {protocol.name} <= takers <= {protocol.name, *protocol.refines}
    assert recognised(data) is protocol


@pytest.mark.parametrize("said", RECORDED, ids=lambda said: f"{said['protocol']} of {said['client']}")
def test_what_a_real_client_sent_first_is_of_its_protocol_alone_at_every_cut(said: dict[str, str]) -> None:
    own, data = by_name()[said["protocol"]], bytes.fromhex(said["bytes"])
    for protocol in known():
        answers = verdicts(protocol.match, data)
        if protocol is own:
            more = answers.count(MORE)
            assert answers == [MORE] * more + [YES] * (len(answers) - more)
            assert answers[-1] is YES
        elif protocol.name not in own.refines:
            assert YES not in answers
    assert recognised(data) is own


@pytest.mark.parametrize(("protocol", "each"), [(p, each) for p in known() for each in p.ambiguous], ids=name_of)
def test_an_ambiguity_that_is_written_down_is_one(protocol: Protocol, each: Ambiguity) -> None:
    other = next(other for other in known() if other.name == each.other)
    assert protocol.match(each.data) is other.match(each.data) is YES
    assert each.when


#: Pairs that may both say YES.
MAY_BOTH = {frozenset((p.name, other)) for p in known() for other in (*p.refines, *(each.other for each in p.ambiguous))}


def test_no_bytes_at_all_are_of_two_protocols_unless_it_is_written_down() -> None:
    """For the matchers that are patterns, this is no sample: both automata are run at once over all bytes that there are."""
    automata = {p.name: Table(pattern) for p in known() if (pattern := pattern_of(p.match)) is not None}
    assert len(automata) > 35
    for (one, a), (other, b) in combinations(automata.items(), 2):
        found = taken_by_both(a, b)
        assert found is None or {one, other} in MAY_BOTH, f"{one} and {other} both say YES to {found!r}"


@settings(max_examples=400, deadline=None)
@given(first_bytes)
def test_no_sample_is_of_two_protocols_unless_it_is_written_down(data: bytes) -> None:
    takers = [protocol.name for protocol in known() if protocol.match(data) is YES]
    for one, other in combinations(takers, 2):
        assert {one, other} in MAY_BOTH, f"{one} and {other} both say YES to {data!r}"


@pytest.mark.parametrize("protocol", known(), ids=NAMES)
def test_changed_and_cut_first_bytes_neither_raise_nor_change_an_answer_nor_take_long(protocol: Protocol) -> None:
    @settings(max_examples=40, deadline=None)
    @given(
        st.sampled_from(protocol.begins), st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=4), st.binary(max_size=40)
    )
    def hold(sample: bytes, changes: list[tuple[int, int]], rest: bytes) -> None:
        data = bytearray(sample)
        for at, byte in changes:
            data[at % len(data)] = byte
        for matcher in (protocol.match, protocol.loose or protocol.match):
            answers = verdicts(matcher, bytes(data) + rest)
            decided = [answer for answer in answers if answer is not MORE]
            assert answers == [MORE] * (len(answers) - len(decided)) + decided
            assert len(set(decided)) <= 1

    hold()
    for end in (b"a", b"\0", b" ", b"\xff", b"1"):
        long = protocol.begins[0][:-1] + end * 16384
        assert least(protocol.match, long) < 0.05


def test_postgresql_is_told_apart_by_user_and_database() -> None:
    def startup(*words: bytes) -> bytes:
        body = b"\0\3\0\0" + b"".join(word + b"\0" for word in words) + b"\0"
        return (len(body) + 4).to_bytes(4, "big") + body

    ann = startup(b"user", b"ann", b"database", b"shop")
    for matcher, expected in (
        (startup_of(users=("ann",)), YES),
        (startup_of(databases=("shop", "other")), YES),
        (startup_of(users=("bob",)), NO),
        (startup_of(users=("ann",), databases=("other",)), NO),
    ):
        said = verdicts(matcher, ann + b"more")
        assert said == [MORE] * len(ann) + [expected] * 5
    assert startup_of(databases=("ann",))(startup(b"user", b"ann")) is YES  # the database of the user's name
    assert startup_of(users=("ann",))(startup(b"user", b"bob", b"", b"x", b"user", b"ann")) is NO  # the list ends with the empty name
    assert startup_of(users=("ann",))(b"\0\0\0\x08\4\xd2\x16\x2f") is NO
    assert startup_of(users=("ann",))(b"\0\0\xff\xff\0\3\0\0user\0") is NO
    assert repr(startup_of(users=("ann",))) == "startup_of(users=('ann',))"
    with pytest.raises(ValueError, match="needs a user or a database"):
        startup_of()


def test_rdp_is_told_apart_by_its_cookie() -> None:
    request = b"\3\0\0\x29\x24\xe0\0\0\0\0\0Cookie: mstshash=ann\r\n\1\0\x08\0\3\0\0\0"
    assert verdicts(cookie_of("Ann"), request)[-9:] == [YES] * 9
    assert YES not in verdicts(cookie_of("bob"), request)
    assert cookie_of("bob")(request) is NO
    assert cookie_of("ann")(b"\3\0\0\x13\x0e\xe0\0\0\0\0\0\1\0\x08\0\3\0\0\0") is NO
    assert cookie_of("administrator")(request.replace(b"ann", b"ADMINISTR").replace(b"\x29\x24", b"\x2f\x2a")) is YES
    with pytest.raises(ValueError, match="at least one user"):
        cookie_of()


@pytest.mark.parametrize("content_type", ["application/grpc", "application/grpc+proto", "application/grpc;x=1"])
@pytest.mark.parametrize("huffman", [True, False])
def test_grpc_is_found_in_what_another_encoder_writes(content_type: str, huffman: bool) -> None:
    def opening(value: str) -> bytes:
        fields = [(":method", "POST"), (":path", "/" + "a" * 300), (":scheme", "http"), ("te", "trailers"), ("content-type", value)]
        return OPENING + frame(HEADERS, END_HEADERS, 1, hpack.Encoder().encode(fields, huffman=huffman))

    data = opening(content_type)
    assert verdicts(grpc, data) == [MORE] * len(data) + [YES]
    for other in ("application/json", "application/grpc-web", "application/grp"):
        assert grpc(opening(other)) is NO


def test_an_alpn_id_belongs_to_one_protocol() -> None:
    ids = [each for protocol in known() for each in protocol.alpn]
    assert len(ids) == len(set(ids))


def test_the_page_has_the_tables() -> None:
    assert PAGE.read_text().endswith(f"\n{markdown()}\n"), "docs/protocols.md is out of date: see muxwsgi.protocols.markdown"


def test_a_package_that_imports_a_matcher_needs_no_gevent() -> None:
    script = "import sys; from muxwsgi.protocols import known; known(); sys.exit('gevent' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
