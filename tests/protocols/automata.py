"""Whether two patterns have bytes in common: both automata are run at once, over all that a next byte may be."""

import ast
import re
from collections import deque

from muxwsgi.mux.matchers import Matcher
from muxwsgi.mux.pattern import Automaton

__all__ = ["Table", "pattern_of", "taken_by_both"]

ACCEPTED, DEAD = -1, -2


def pattern_of(matcher: Matcher) -> bytes | None:
    """The pattern that `matcher` is, from the expression that it shows; None for one that is no pattern."""
    try:
        call = ast.parse(repr(matcher), mode="eval").body
    except SyntaxError:
        return None
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.func.id not in ("regex", "prefix"):
        return None
    values = [ast.literal_eval(each) for each in call.args]
    return values[0] if call.func.id == "regex" else b"|".join(map(re.escape, values))


class Table:
    """An automaton as rows: for each state, the state behind each byte."""

    def __init__(self, pattern: bytes) -> None:
        automaton = Automaton(pattern)
        states = [automaton._start]
        numbers = {automaton._start: 0}
        self._rows: list[list[int]] = []
        for state in states:  # grows meanwhile
            row = []
            for byte in range(256):
                after = automaton._step(state, byte)
                if not after or automaton._accept in after:
                    row.append(ACCEPTED if after else DEAD)
                    continue
                if after not in numbers:
                    numbers[after] = len(states)
                    states.append(after)
                row.append(numbers[after])
            self._rows.append(row)

    def row(self, state: int) -> list[int]:
        return [ACCEPTED] * 256 if state == ACCEPTED else self._rows[state]


def taken_by_both(one: Table, other: Table) -> bytes | None:
    """The shortest bytes that both accept, None if there are none."""
    came: dict[tuple[int, int], tuple[tuple[int, int], int] | None] = {(0, 0): None}
    waiting = deque([(0, 0)])
    while waiting:
        pair = waiting.popleft()
        for byte, after in enumerate(zip(one.row(pair[0]), other.row(pair[1]), strict=True)):
            if DEAD in after or after in came:
                continue
            came[after] = pair, byte
            if after != (ACCEPTED, ACCEPTED):
                waiting.append(after)
                continue
            found = bytearray()
            step = came[after]
            while step is not None:
                found.insert(0, step[1])
                step = came[step[0]]
            return bytes(found)
    return None
