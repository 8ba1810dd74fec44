"""Hosts: one spelling, one way to split and write them, and patterns whose breadth is said."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muxwsgi.names import (
    Breadth,
    HostPattern,
    HostPatterns,
    InvalidName,
    address_of,
    canonical,
    comparable,
    is_name,
    join_host_port,
    parse_host,
    parse_pattern,
    split_host_port,
)

SPELLINGS = {
    "example.com": ["EXAMPLE.com", "example.com.", "Example.Com."],
    "xn--bcher-kva.example": ["bücher.example", "BÜCHER.example.", "xn--bcher-kva.EXAMPLE"],
    "127.0.0.1": ["127.1", "0x7f000001", "2130706433", "0177.0.0.1", "127.0.0.1.", "::ffff:127.0.0.1", "[::ffff:7f00:1]", "\uff11\uff12\uff17.\uff10.\uff10.\uff11", "127\u30020\u30020\u30021"],
    "fe80::1": ["fe80::1%eth0", "FE80:0::1", "[fe80::1]"],
    "a_b.-c-.example": ["A_b.-c-.example."],
    "host-1": ["HOST-1"],
    "1.2.3.4.5": ["1.2.3.4.5."],
}


@pytest.mark.parametrize(("name", "spelled"), [(name, spelled) for name, all_ in SPELLINGS.items() for spelled in (name, *all_)])
def test_every_spelling_of_a_host_is_that_host(name: str, spelled: str) -> None:
    assert canonical(spelled) == comparable(spelled) == name
    assert str(parse_host(spelled)) == name
    address = address_of(spelled)
    assert address is None or str(address) == name


@pytest.mark.parametrize(
    "text",
    ["", ".", "a..b", "example.com..", "-a", "a b", "a\nb", "a/b", "a:80", "user@a", "[a]", "[127.0.0.1]", "::1%", "1::2::3", "256.1.1.1", "x" * 64, "x." * 130 + "x", "ü" * 200, "\udcff", "*.a"],
)
def test_what_is_not_a_host_is_refused_and_still_compared(text: str) -> None:
    with pytest.raises(InvalidName) as refused:
        canonical(text)
    assert str(refused.value).isprintable()
    assert isinstance(comparable(text), str)
    assert not is_name(text)


def test_rules_see_through_dots_that_nobody_could_resolve() -> None:
    assert comparable("Example.com..") == "example.com"


@given(st.text(max_size=300))
def test_the_canonical_spelling_is_its_own(text: str) -> None:
    try:
        name = canonical(text)
    except InvalidName:
        return
    assert canonical(name) == canonical(name.upper()) == comparable(text) == name
    assert name.isascii() and len(name) <= 253
    host, port = split_host_port(join_host_port(name, 81))
    assert (host, port) == (name, 81)


@pytest.mark.parametrize(
    ("breadth", "itself", "one", "two"),
    [(Breadth.ONE_LABEL, False, True, False), (Breadth.BELOW, False, True, True), (Breadth.WITH_ITSELF, True, True, True)],
)
def test_a_wildcard_is_as_broad_as_its_user_says(breadth: Breadth, itself: bool, one: bool, two: bool) -> None:
    pattern = parse_pattern("*.Example.com.", breadth)
    assert pattern == HostPattern("example.com", breadth)
    many = HostPatterns([pattern])
    for name, covered in {"example.com": itself, "a.example.com": one, "b.a.example.com": two, "badexample.com": False, ".example.com": False}.items():
        if name[0] != ".":
            assert pattern.covers(name) is covered
            assert many.find(name) == (pattern if covered else None)


def test_a_host_alone_covers_that_host_alone() -> None:
    pattern = parse_pattern("::FFFF:10.0.0.1", Breadth.BELOW)
    assert pattern == HostPattern("10.0.0.1", None) and pattern.covers("10.0.0.1") and not pattern.covers("a.10.0.0.1")


def test_nothing_is_below_an_address() -> None:
    with pytest.raises(InvalidName, match="below an address"):
        parse_pattern("*.127.1", Breadth.BELOW)


hosts = st.lists(st.sampled_from(["a", "b", "com"]), min_size=1, max_size=4).map(".".join)


@given(st.lists(st.builds(HostPattern, hosts, st.sampled_from([None, *Breadth])), max_size=6), hosts)
def test_many_patterns_find_what_one_after_the_other_would(patterns: list[HostPattern], name: str) -> None:
    found = HostPatterns(patterns).find(name)
    assert (found is not None) is any(pattern.covers(name) for pattern in patterns)
    assert found is None or (found in patterns and found.covers(name))
