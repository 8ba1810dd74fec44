"""Patterns that can say "not yet", held against `re`, which cannot."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muxwsgi import Match
from muxwsgi.mux.matchers import regex
from muxwsgi.mux.pattern import MAX_STATES, Automaton
from muxwsgi.testing import verdicts

from .first_bytes import least

YES, NO, MORE = Match.YES, Match.NO, Match.MORE

_leaves = st.sampled_from(
    [b"a", b"b", b"c", b".", b"[ab]", b"[^a]", rb"\d", rb"\W", rb"\x00", b"(?i:A)", b"(?s:.)", b"1"]
)
patterns = st.recursive(
    _leaves,
    lambda inner: st.one_of(
        st.tuples(inner, inner).map(b"".join),
        st.tuples(inner, inner).map(lambda two: b"(?:%s|%s)" % two),
        st.tuples(inner, st.sampled_from([b"*", b"+", b"?", b"{2}", b"{1,3}", b"*?", b"{2,}"])).map(
            lambda part: b"(?:%s)%s" % part
        ),
        inner.map(lambda part: b"(%s)" % part),
    ),
    max_leaves=6,
)
texts = st.text("abcA1\n\0-", max_size=8).map(str.encode)


@pytest.mark.parametrize("stays", [0, 1, 32])
@given(patterns, texts, texts)
@settings(max_examples=500, deadline=None)
def test_a_pattern_says_what_re_says_and_no_only_when_no_bytes_could_help(
    stays: int, pattern: bytes, data: bytes, rest: bytes
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("muxwsgi.mux.pattern.STAYS", stays)
        compare(pattern, data, rest)


def compare(pattern: bytes, data: bytes, rest: bytes) -> None:
    try:
        automaton = Automaton(pattern)
    except ValueError:
        assert re.fullmatch(pattern, b"") is not None
        return
    verdict = automaton.verdict(data)
    assert (verdict is YES) == (re.match(pattern, data) is not None)
    if verdict is NO:
        assert re.match(pattern, data + rest) is None


def test_yes_comes_at_the_first_byte_that_completes_the_pattern() -> None:
    assert verdicts(regex(rb"SSH-2\.0-.*?\n"), b"SSH-2.0-a\r\n..") == [MORE] * 11 + [YES] * 3


def test_no_comes_at_the_first_byte_that_no_continuation_can_mend() -> None:
    assert verdicts(regex(rb"SSH-(?:1|2)"), b"SSH-3") == [MORE] * 5 + [NO]


def test_a_pattern_gives_up_at_its_limit() -> None:
    assert verdicts(regex(rb"a+b", 3), b"aaab") == [MORE, MORE, MORE, NO, NO]
    assert regex(rb"a+b", 3)(b"aab") is YES


def test_a_leading_anchor_is_what_patterns_have_anyway() -> None:
    for pattern in (rb"^ab", rb"\Aab", rb"(?i)^AB"):
        assert regex(pattern)(b"ab") is YES
        assert regex(pattern)(b"xab") is NO


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        (rb"a$", "anchor"),
        (rb"a\Z", "anchor"),
        (rb"a\b", "boundary"),
        (rb"a^b", "anchor"),
        (rb"(?=a)a", "look-ahead"),
        (rb"a(?!b)", "look-ahead"),
        (rb"(a)\1", "back-reference"),
        (rb"(a)?(?(1)b|c)", "conditional"),
        (rb"(?>a+)b", "atomic"),
        (rb"a++b", "possessive"),
        (rb"(?L)a", "locale"),
        (rb"a*", "matches no bytes at all"),
        (rb"", "matches no bytes at all"),
        (rb"[^\x00-\xff]", "no byte"),
        (rb"(?:a{1000}){1000}", "too large"),
    ],
)
def test_a_pattern_that_cannot_keep_the_promise_is_refused(pattern: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        regex(pattern)


def test_a_wrong_pattern_gets_the_message_of_re() -> None:
    with pytest.raises(re.error, match="unterminated"):
        regex(rb"(a")


def test_nested_repeats_take_linear_time() -> None:
    # re.match() of this needs 2**40 steps.
    assert regex(rb"(?:a|a)+(?:a+)+b", 4000)(b"a" * 3999) is MORE


def test_a_long_line_is_read_at_the_speed_of_c_since_each_byte_that_comes_alone_asks_anew() -> None:
    line = b"EHLO " + b"a" * 16000
    ask, look = regex(rb"(?i)EHLO [^\r\n]*\r?\n", 1 << 16), re.compile(rb"[ !-~]*").fullmatch
    assert ask(line) is MORE and ask(line + b"\r\n") is YES and ask(line + b"\rx") is NO
    assert least(ask, line) < 25 * least(look, line)


def test_the_cache_of_states_is_bounded_whatever_comes() -> None:
    # The automaton of this has 2**13 states: one for each set of places where an `a` stood.
    automaton = Automaton(rb"(?:a|b)*a(?:a|b){12}c")
    for number in range(2**13):
        automaton.verdict(bin(number)[2:].zfill(13).replace("0", "a").replace("1", "b").encode())
        assert len(automaton._moves) <= MAX_STATES + 14
