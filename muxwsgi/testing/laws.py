"""What holds for each matcher and each hijacker, as tests.

```python
from muxwsgi.testing.laws import hijacker_laws, matcher_laws

TestFramed = matcher_laws(framed, begins=[b"\\0\\x10\\1"], not_begins=[b"SSH-2.0-x"])
TestShout = hijacker_laws(shout, dialogues=[(b"SHOUT a\\n", b"SHOUT A\\n")])
```

pytest finds the classes by their names. hypothesis (`pip install 'muxwsgi[testing]'`) chooses bytes and cuts. It shows the shortest
example that breaks a law.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from muxwsgi.errors import PeerError
from muxwsgi.mux.match import Match
from muxwsgi.protocols import known
from muxwsgi.testing.feeding import feed, pieces, verdicts

try:
    from hypothesis import given, settings
    from hypothesis import strategies as st
except ImportError as error:
    raise ImportError("muxwsgi.testing.laws needs hypothesis: pip install 'muxwsgi[testing]'") from error

if TYPE_CHECKING:
    from muxwsgi.mux.hijack import Hijacker
    from muxwsgi.mux.matchers import Matcher
    from muxwsgi.mux.route import Handler, Route

__all__ = ["changed", "hijacker_laws", "matcher_laws"]

#: What a hijacker may raise without a traceback in the log: the peer's fault.
FAULTS_OF_PEERS = (ConnectionError, TimeoutError, PeerError)

#: Where bytes are cut. The remainder by the length is taken.
_POSITIONS = st.integers(0, 1 << 16)

_tries = settings(max_examples=100, deadline=None)


def changed(examples: Iterable[bytes]) -> st.SearchStrategy[bytes]:
    """Examples that were cut and continued with other bytes, or of which some bytes were changed; and bytes that are like none of them."""
    sources = st.sampled_from(sorted({*examples, b""}))
    continued = st.builds(lambda data, at, rest: data[: at % (len(data) + 1)] + rest, sources, _POSITIONS, st.binary(max_size=40))
    return st.one_of(sources, continued, st.builds(_with_other_bytes, sources, st.lists(st.integers(0, (1 << 24) - 1), max_size=3)))


def _with_other_bytes(data: bytes, changes: Sequence[int]) -> bytes:
    made = bytearray(data)
    for change in changes:
        if made:
            made[(change >> 8) % len(made)] = change & 0xFF
    return bytes(made)


def matcher_laws(matcher: "Matcher", *, begins: Sequence[bytes], not_begins: Sequence[bytes] = (), also: Iterable[str] = ()) -> type:
    """A class of tests that hold `matcher` to the laws of docs/writing-hijackers.md.

    begins      what clients of the protocol send first. The matcher says YES to each, and MORE until then
    not_begins  what begins alike and is another protocol: the matcher says NO, and at no cut YES
    also        names of protocols, as in docs/protocols.md, whose first bytes the matcher also takes, because it is meant to. All others it
                has to leave alone
    """
    if not begins:
        raise ValueError("begins: give at least one example of what a client sends first")
    bytes_to_try = changed([*begins, *not_begins])
    taken = frozenset(also)

    class MatcherLaws:
        @_tries
        @given(bytes_to_try)
        def test_it_never_raises_and_answers_with_a_match(self, data: bytes) -> None:
            assert all(isinstance(answer, Match) for answer in verdicts(matcher, data))

        @_tries
        @given(bytes_to_try)
        def test_the_same_bytes_get_the_same_answer(self, data: bytes) -> None:
            assert verdicts(matcher, data) == verdicts(matcher, data)

        @_tries
        @given(bytes_to_try)
        def test_after_yes_or_no_more_bytes_change_nothing(self, data: bytes) -> None:
            answers = verdicts(matcher, data)
            decided = [answer for answer in answers if answer is not Match.MORE]
            assert answers[len(answers) - len(decided) :] == decided, f"MORE after a decision: {answers}"
            assert len(set(decided)) <= 1, f"it changed its mind: {answers}"

        def test_what_begins_it_is_taken_and_more_is_waited_for_until_then(self) -> None:
            for data in begins:
                answers = verdicts(matcher, data)
                assert answers[-1] is Match.YES, f"{answers[-1]} to {data!r}"
                assert Match.NO not in answers, f"NO to the first {answers.index(Match.NO)} bytes of {data!r}"

        def test_what_begins_something_else_is_refused(self) -> None:
            for data in not_begins:
                answers = verdicts(matcher, data)
                assert answers[-1] is Match.NO, f"{answers[-1]} to {data!r}"

        def test_it_takes_no_other_protocol_from_its_hijacker(self) -> None:
            for protocol in known():
                if protocol.name not in taken:
                    for data in protocol.begins:
                        assert Match.YES not in verdicts(matcher, data[:1024]), f"this begins {protocol.name}: {data[:80]!r}"

    return MatcherLaws


def hijacker_laws(hijacker: "Handler | Hijacker | Route", *, dialogues: Sequence[tuple[bytes, bytes]], timeout: float = 5.0) -> type:
    """A class of tests that hold `hijacker` to what every server of a protocol has to do.

    dialogues  pairs: all that a client sends before it ends its direction, and all that it is answered. The answer may not contain what
               differs each time, such as a date
    timeout    seconds after which a hijacker counts as one that hangs
    """
    if not dialogues:
        raise ValueError("dialogues: give at least one")
    asked = [said for said, _ in dialogues]

    class HijackerLaws:
        def test_it_answers(self) -> None:
            for said, answer in dialogues:
                assert feed(hijacker, said, timeout=timeout) == answer

        @_tries
        @given(st.sampled_from(dialogues), st.lists(_POSITIONS, max_size=8))
        def test_the_answer_does_not_depend_on_how_the_bytes_were_cut(self, dialogue: tuple[bytes, bytes], cuts: list[int]) -> None:
            said, answer = dialogue
            assert feed(hijacker, pieces(said, *cuts), timeout=timeout) == answer

        def test_it_also_answers_byte_by_byte(self) -> None:
            for said, answer in dialogues:
                assert feed(hijacker, pieces(said, *range(len(said))), timeout=timeout) == answer

        @_tries
        @given(st.sampled_from(asked), _POSITIONS)
        def test_it_ends_when_the_client_ends_early(self, said: bytes, at: int) -> None:
            _feed_what_may_fail(hijacker, said[: at % (len(said) + 1)], timeout)

        @_tries
        @given(st.sampled_from(asked), _POSITIONS)
        def test_it_ends_when_the_client_resets_the_connection(self, said: bytes, at: int) -> None:
            _feed_what_may_fail(hijacker, said[: at % (len(said) + 1)], timeout, reset=True)

        @_tries
        @given(changed(asked))
        def test_no_bytes_make_it_fail_or_hang(self, data: bytes) -> None:
            _feed_what_may_fail(hijacker, data, timeout)

    return HijackerLaws


def _feed_what_may_fail(hijacker: "Handler | Hijacker | Route", said: bytes, timeout: float, *, reset: bool = False) -> None:
    """Raises what would be a traceback in the log, and `AssertionError` if the hijacker hangs."""
    try:
        feed(hijacker, said, reset=reset, timeout=timeout)
    except FAULTS_OF_PEERS as error:
        # `feed` raises a plain `TimeoutError` if the hijacker has not returned; deadlines of a connection are subclasses.
        assert type(error) is not TimeoutError, f"it does not end: {error}"
