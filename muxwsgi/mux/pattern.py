"""A bytes pattern that can also say "not yet": a regular expression run as a deterministic automaton.

`re` answers whether a pattern matches the bytes that are there. A mux must know more: whether bytes that are
*not* there yet could still make it match, else a route that waits for `SSH-` would hold back every HTTP
request until the deadline. So the pattern is read by the parser of `re` (its syntax, flags and error messages
hold), turned into an automaton, and run byte by byte:

    a state that accepts   -> YES, and stays so: what follows is not looked at
    no state left          -> NO: no continuation could match
    otherwise              -> MORE

This makes the laws of matchers hold by construction, costs one dictionary look-up a byte at most, and cannot
backtrack, so that no pattern takes exponential time. What a finite automaton cannot do, or what looks at
bytes that have not come yet (`$`, `\\Z`, `\\b`, look-ahead, look-behind, back-references, atomic groups), is
refused when the pattern is built.
"""

import re

# The parser has no public name since `sre_parse` was deprecated in 3.11. Writing another would mean a second
# dialect of patterns.
from re import _constants, _parser  # type: ignore[attr-defined]
from typing import Any

from muxwsgi.mux.match import Match

__all__ = ["Automaton"]

#: Nodes at most, so that `(a{1000}){1000}` is an error and not a memory fault.
MAX_NODES = 10_000

#: States kept between runs at most. Real patterns have a few dozen; the cache starts anew where somebody
#: sends what makes more.
MAX_STATES = 4096

#: After so many bytes in a row that change nothing, those that follow are skipped by `re`. A mux asks again at each packet, and a client
#: may send each byte of a long line in a packet.
STAYS = 32

_EVERY_BYTE = frozenset(range(256))
_EVERY_BYTE_BUT_NEWLINE = _EVERY_BYTE - {10}

_CATEGORIES = {
    _constants.CATEGORY_DIGIT: rb"\d",
    _constants.CATEGORY_NOT_DIGIT: rb"\D",
    _constants.CATEGORY_SPACE: rb"\s",
    _constants.CATEGORY_NOT_SPACE: rb"\S",
    _constants.CATEGORY_WORD: rb"\w",
    _constants.CATEGORY_NOT_WORD: rb"\W",
}

_REFUSED = {
    _constants.AT: "an anchor inside, or a word boundary",
    _constants.ASSERT: "look-ahead or look-behind",
    _constants.ASSERT_NOT: "negative look-ahead or look-behind",
    _constants.GROUPREF: "a back-reference",
    _constants.GROUPREF_EXISTS: "a conditional group",
    _constants.ATOMIC_GROUP: "an atomic group",
    _constants.POSSESSIVE_REPEAT: "a possessive quantifier",
}

State = frozenset[int]


class Automaton:
    """A compiled pattern. Immutable but for its caches of states."""

    def __init__(self, pattern: bytes) -> None:
        """Raises `re.error` when `re` cannot read `pattern`, `ValueError` when it is not one for a matcher.
        """
        tree = _parser.parse(pattern, 0)
        if tree.state.flags & re.LOCALE:
            raise ValueError(
                f"pattern {pattern!r}: the locale flag makes the answer depend on more than the bytes"
            )
        self._edges: list[tuple[frozenset[int], int] | None] = []  # for a node that takes a byte: which ones, and the node after it
        self._silent: list[tuple[int, ...]] = []  # nodes reached without a byte
        self._pattern = pattern
        self._accept = self._node()
        items = list(tree)
        while (
            items
            and items[0][0] is _constants.AT
            and items[0][1]
            in (
                _constants.AT_BEGINNING,
                _constants.AT_BEGINNING_STRING,
            )
        ):
            del items[0]
        start = self._sequence(items, tree.state.flags, self._accept)
        self._start = self._closure([start])
        if self._accept in self._start:
            raise ValueError(f"pattern {pattern!r} matches no bytes at all, so it would match everything")
        self._moves: dict[State, dict[int, State]] = {}
        self._loops: dict[State, re.Pattern[bytes]] = {}

    def verdict(self, data: bytes) -> Match:
        """What the pattern says of `data`, which begins at the first byte of the stream."""
        if len(self._moves) > MAX_STATES:
            self._moves = {}
            self._loops = {}
        moves = self._moves
        state = self._start
        at, end = 0, len(data)
        stayed = 0
        while at < end:
            byte = data[at]
            at += 1
            known = moves.get(state)
            if known is None:
                known = moves[state] = {}
            after = known.get(byte)
            if after is None:
                after = known[byte] = self._step(state, byte)
            if self._accept in after:
                return Match.YES
            if not after:
                return Match.NO
            if after != state:
                state = after
                stayed = 0
                continue
            stayed += 1
            if stayed > STAYS:
                loop = self._loop(state).match(data, at)
                at = loop.end() if loop else at
                stayed = 0
        return Match.MORE

    def _loop(self, state: State) -> "re.Pattern[bytes]":
        """Any number of bytes that leave `state` as it is."""
        loop = self._loops.get(state)
        if loop is None:
            stays = b"".join(b"\\x%02x" % byte for byte in range(256) if self._step(state, byte) == state)
            loop = self._loops[state] = re.compile(b"[%b]*+" % stays)
        return loop

    def _step(self, state: State, byte: int) -> State:
        taken = []
        for node in state:
            edge = self._edges[node]
            if edge is not None and byte in edge[0]:
                taken.append(edge[1])
        return self._closure(taken)

    def _closure(self, nodes: list[int]) -> State:
        reached = set(nodes)
        todo = list(nodes)
        while todo:
            for node in self._silent[todo.pop()]:
                if node not in reached:
                    reached.add(node)
                    todo.append(node)
        return frozenset(reached)

    # Building, from the end of the pattern to its start: each part is told the node that follows it

    def _node(self, *silent: int, edge: tuple[frozenset[int], int] | None = None) -> int:
        if len(self._edges) >= MAX_NODES:
            raise ValueError(f"pattern {self._pattern!r} is too large: its counted repeats are unrolled")
        self._edges.append(edge)
        self._silent.append(silent)
        return len(self._edges) - 1

    def _sequence(self, items: Any, flags: int, after: int) -> int:
        for operation, argument in reversed(list(items)):
            after = self._part(operation, argument, flags, after)
        return after

    def _part(self, operation: Any, argument: Any, flags: int, after: int) -> int:
        if operation in (_constants.MAX_REPEAT, _constants.MIN_REPEAT):
            least, most, items = argument
            return self._repeat(least, most, items, flags, after)
        if operation is _constants.BRANCH:
            return self._node(*(self._sequence(items, flags, after) for items in argument[1]))
        if operation is _constants.SUBPATTERN:
            _, added, removed, items = argument
            return self._sequence(items, (flags | added) & ~removed, after)
        if operation in _REFUSED:
            raise ValueError(f"pattern {self._pattern!r} has {_REFUSED[operation]}, not for a matcher")
        taken = self._bytes(operation, argument, flags)
        if not taken:
            raise ValueError(f"pattern {self._pattern!r} has a class that no byte is in")
        return self._node(edge=(taken, after))

    def _repeat(self, least: int, most: Any, items: Any, flags: int, after: int) -> int:
        if most is _constants.MAXREPEAT:
            loop = self._node()
            self._silent[loop] = (self._sequence(items, flags, loop), after)
            after = loop
        else:
            leave = after
            for _ in range(most - least):
                after = self._node(self._sequence(items, flags, after), leave)
        for _ in range(least):
            after = self._sequence(items, flags, after)
        return after

    def _bytes(self, operation: Any, argument: Any, flags: int) -> frozenset[int]:
        """The bytes that a part of one byte takes."""
        if operation is _constants.LITERAL:
            return _both_cases({argument}, flags)
        if operation is _constants.NOT_LITERAL:
            return _EVERY_BYTE - _both_cases({argument}, flags)
        if operation is _constants.ANY:
            return _EVERY_BYTE if flags & re.DOTALL else _EVERY_BYTE_BUT_NEWLINE
        if operation is not _constants.IN:
            raise ValueError(f"pattern {self._pattern!r} has {operation}, which matchers do not know")
        negated = argument[0][0] is _constants.NEGATE
        found: set[int] = set()
        for kind, value in argument[negated:]:
            if kind is _constants.RANGE:
                found.update(range(value[0], value[1] + 1))
            elif kind is _constants.CATEGORY:
                found.update(b"".join(re.findall(_CATEGORIES[value], bytes(range(256)))))
            else:
                found.add(value)
        taken = _both_cases(found, flags)
        return _EVERY_BYTE - taken if negated else taken


def _both_cases(found: set[int], flags: int) -> frozenset[int]:
    if not flags & re.IGNORECASE:
        return frozenset(found)
    return frozenset(found).union(bytes(found).lower(), bytes(found).upper())
