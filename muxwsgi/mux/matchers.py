"""Matchers, and what makes them: bytes (`prefix`, `regex`) and combinators. Those of protocols are in `muxwsgi.protocols`.

A matcher is a callable from the first bytes of a stream to a `Match`. Four laws hold for each, and for
the results of the combinators:

- **pure**: the answer depends on the bytes alone; no I/O, no gevent, no memory of earlier calls;
- **monotonic**: after `YES` or `NO`, more bytes of the same stream never change the answer;
- **total**: no byte string makes it raise;
- **frugal**: `MORE` only while more bytes could make it `YES`, because an earlier `MORE` holds back every
  later route.

At the end of the stream, at the peek limit and at the sniff deadline the mux takes `MORE` for `NO`.

`repr` of a matcher is what listings and `muxwsgi explain` show: the expression that makes it.
"""

from collections.abc import Callable
from typing import Protocol

from muxwsgi.mux.match import Match, check_answers
from muxwsgi.mux.pattern import Automaton

__all__ = [
    "Matcher",
    "Prompt",
    "all_of",
    "any_of",
    "expression",
    "more_of",
    "looks_into",
    "named",
    "never",
    "not_",
    "prefix",
    "prompt_of",
    "regex",
    "shown",
]

YES, NO, MORE = Match.YES, Match.NO, Match.MORE

Matcher = Callable[[bytes], Match]


class Prompt(Protocol):
    """What a client may be waiting for before it sends the bytes that decide."""

    def said_to(self, data: bytes) -> bytes:
        """What to send to a client from which `data` has come; b"" where it is not waiting for anything."""

    def without_answer(self, data: bytes) -> bytes | None:
        """`data` without the client's answer to that, which the handler has not asked for; None while the answer has not come."""


class _Named:
    """A matcher whose `repr` is the expression that made it.

    bare        the matcher alone, which a mux calls for speed
    prompt      what a client may be waiting for before it sends the bytes that decide. None for most protocols
    looks_into  ids of ALPN whose streams the matcher looks into, so that agreeing on one does not decide
    """

    def __init__(self, name: str, ask: Matcher, parts: tuple[Matcher, ...] = ()) -> None:
        """`parts` are the matchers that it is made of."""
        self.name = name
        self.bare: Matcher = getattr(ask, "bare", ask)
        self.prompt: Prompt | None = next((found for part in parts if (found := prompt_of(part)) is not None), None)
        self.looks_into: frozenset[str] = frozenset().union(*map(looks_into, parts))
        self.__doc__ = ask.__doc__

    def __call__(self, data: bytes) -> Match:
        return self.bare(data)

    def __repr__(self) -> str:
        return self.name


def prompt_of(matcher: Matcher) -> Prompt | None:
    """See `prompt` of `_Named`."""
    found: Prompt | None = getattr(matcher, "prompt", None)
    return found


def looks_into(matcher: Matcher) -> frozenset[str]:
    """See `looks_into` of `_Named`."""
    found: frozenset[str] = getattr(matcher, "looks_into", frozenset())
    return found


def named(name: str, *, prompt: Prompt | None = None, into: frozenset[str] = frozenset()) -> Callable[[Matcher], Matcher]:
    """A decorator that makes `name` the `repr` of a matcher, and gives it a `prompt` and what it `looks_into`."""

    def name_it(ask: Matcher) -> Matcher:
        made = _Named(name, ask, (ask,))
        made.prompt = prompt or made.prompt
        made.looks_into |= into
        return made

    return name_it


def expression(name: str, arguments: tuple[object, ...]) -> str:
    """The call of `name` with `arguments`, as code."""
    return f"{name}({', '.join(map(shown, arguments))})"


def shown(argument: object) -> str:
    """`argument` as code. An ordinary function, such as a matcher of a plugin, is shown by its name."""
    if isinstance(argument, (bytes, str, _Named)):
        return repr(argument)
    return getattr(argument, "__name__", None) or repr(argument)


def more_of(start: bytes, wanted: tuple[bytes, ...]) -> Match:
    """`MORE` where `start` is the beginning of one of `wanted`, else `NO`."""
    for whole in wanted:
        if whole.startswith(start):
            return MORE
    return NO


# Bytes


def prefix(*prefixes: bytes) -> Matcher:
    """A stream that begins with one of the byte strings, as they are (for either case see `regex`)."""
    if not prefixes or b"" in prefixes:
        raise ValueError("prefix() needs at least one prefix, and none may be empty")

    firsts = bytes({each[0] for each in prefixes})

    def ask(data: bytes) -> Match:
        if data and data[0] not in firsts:  # most streams are another protocol's, and this is a fifth of the work
            return NO
        if data.startswith(prefixes):
            return YES
        return more_of(data, prefixes)

    return _Named(expression("prefix", prefixes), ask)


def regex(pattern: bytes, limit: int = 1024) -> Matcher:
    """A stream whose first bytes match `pattern`, from the first byte on, within the first `limit` bytes.

    `pattern` is in the syntax of `re`, flags as in `(?i)` included. The answer is

    - `YES` as soon as the bytes up to some point, at most `limit` of them, match the whole of `pattern`; what
      follows does not matter;
    - `NO` as soon as no continuation could match, and at `limit` bytes in any case;
    - `MORE` otherwise.

    So greedy and lazy repeats are the same here, and a pattern has to end with the bytes that must be there:
    `EHLO [^\\r\\n]+` is `YES` at `EHLO a`. What cannot keep this promise is refused with `ValueError`: `$`,
    `\\Z`, `\\b`, look-around, back-references, atomic groups and possessive repeats, and a pattern that
    matches no bytes at all. No pattern takes more than linear time.
    """
    if limit < 1:
        raise ValueError("regex() needs a limit of at least one byte")
    automaton = Automaton(pattern)

    def ask(data: bytes) -> Match:
        verdict = automaton.verdict(data[:limit])
        return NO if verdict is MORE and len(data) >= limit else verdict

    return _Named(f"regex({pattern!r}, {limit})", ask)



@named("never")
def never(data: bytes) -> Match:
    """`NO` to everything: for routes that are reached by ALPN, or as fallback or silence route, only."""
    return NO


# Combinators. The three verdicts under and, or and not are Kleene's logic, with MORE for unknown: monotonic
# in, monotonic out.


def any_of(*matchers: Matcher) -> Matcher:
    """`YES` as soon as one says `YES`, `NO` when all say `NO`."""
    if not matchers:
        raise ValueError("any_of() needs at least one matcher")
    for each in matchers:
        check_answers(each)

    def ask(data: bytes) -> Match:
        verdict = NO
        for matcher in matchers:
            said = matcher(data)
            if said is YES:
                return YES
            if said is MORE:
                verdict = MORE
        return verdict

    return _Named(expression("any_of", matchers), ask, matchers)


def all_of(*matchers: Matcher) -> Matcher:
    """`YES` when all say `YES`, `NO` as soon as one says `NO`."""
    if not matchers:
        raise ValueError("all_of() needs at least one matcher")
    for each in matchers:
        check_answers(each)

    def ask(data: bytes) -> Match:
        verdict = YES
        for matcher in matchers:
            said = matcher(data)
            if said is NO:
                return NO
            if said is MORE:
                verdict = MORE
        return verdict

    return _Named(expression("all_of", matchers), ask, matchers)


def not_(matcher: Matcher) -> Matcher:
    """`YES` where `matcher` says `NO` and the other way round. `MORE` stays `MORE`: what is undecided at the
    deadline is `NO` here too.
    """
    check_answers(matcher)

    def ask(data: bytes) -> Match:
        said = matcher(data)
        if said is MORE:
            return MORE
        return NO if said is YES else YES

    return _Named(expression("not_", (matcher,)), ask, (matcher,))
