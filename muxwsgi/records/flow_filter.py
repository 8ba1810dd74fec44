"""Filter expressions, which select flows. The operators are those of mitmproxy, which many users know: see docs/flows.md.

    or    = and *( "|" and )
    and   = not *( [ "&" ] not )
    not   = *"!" term
    term  = "(" or ")" / operator [ word ] / word
    word  = a string in quotes of either kind / 1*( any character but white space and parentheses )

A word alone is a regex for the URL. `&`, `|` and `!` are operators at the beginning and at the end of a term. Inside a word they belong to
the word, as the `&` of a query and the `|` of a regex. `str()` of a filter is an equivalent expression: `parse_filter(str(f)) == f`.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import partial
from typing import Any, NoReturn

from muxwsgi.errors import OperatorError
from muxwsgi.records.flow import Flow, Head
from muxwsgi.records.flow_content import content_of
from muxwsgi.records.flow_record import flow_host, flow_url

__all__ = ["And", "Code", "Filter", "Is", "Not", "Or", "Search", "parse_filter"]

#: Limit for nested ( and !. Deeper nesting would exhaust Python's stack.
DEEPEST = 50


class Filter:
    """Called with a flow that has ended. Returns whether the filter selects it. Immutable."""

    def __call__(self, flow: Flow) -> bool:
        raise NotImplementedError


def _texts(*texts: str | None) -> list[str]:
    return [text for text in texts if text is not None]


def _lines(*heads: Head | None) -> Iterator[str]:
    for head in heads:
        if head is not None:
            yield from (f"{name}: {value}" for name, value in head.fields)


def _values(wanted: str, *heads: Head | None) -> Iterator[str]:
    for head in heads:
        if head is not None:
            yield from (value for name, value in head.fields if name.lower() == wanted)


def _hosts(flow: Flow) -> list[str]:
    tunnel = (flow.destination or "").rpartition(":")[0].strip("[]")
    return _texts(flow_host(flow), tunnel or None, flow.client_tls.sni if flow.client_tls else None)


def _contents(flow: Flow, *, request: bool = True, response: bool = True) -> Iterator[bytes | bytearray]:
    """The content of a flow: the messages of a WebSocket, else the bodies."""
    if flow.websocket is not None:
        yield from (message.content.data for message in flow.websocket.messages if (request if message.from_client else response))
        return
    if request:
        yield content_of(flow.from_client, flow.request)[0]
    if response:
        yield content_of(flow.from_server, flow.response)[0]


#: Operators with a regex, and the texts in which it is searched. One match is enough. Of a body only the kept bytes are searched.
_SEARCHED: dict[str, Callable[[Flow], Iterable[str | bytes | bytearray]]] = {
    "~b": _contents,
    "~bq": partial(_contents, response=False),
    "~bs": partial(_contents, request=False),
    "~d": _hosts,
    "~door": lambda flow: [flow.door],
    "~dst": lambda flow: _texts(flow.destination, flow.address),
    "~h": lambda flow: _lines(flow.request, flow.response),
    "~hq": lambda flow: _lines(flow.request),
    "~hs": lambda flow: _lines(flow.response),
    "~id": lambda flow: _texts(flow.identity),
    "~m": lambda flow: [flow.request.line[0]] if flow.request else [],
    "~src": lambda flow: [flow.client],
    "~t": lambda flow: _values("content-type", flow.request, flow.response),
    "~tag": lambda flow: flow.tags,
    "~tq": lambda flow: _values("content-type", flow.request),
    "~ts": lambda flow: _values("content-type", flow.response),
    "~u": lambda flow: _texts(flow_url(flow)),
}

_IN_BYTES = ("~b", "~bq", "~bs")

#: Operators without an argument.
_IS: dict[str, Callable[[Flow], bool]] = {
    "~connect": lambda flow: flow.kind == "connect",
    "~e": lambda flow: flow.error is not None,
    "~http": lambda flow: flow.kind == "http",
    "~raw": lambda flow: flow.kind == "raw",
    "~tls": lambda flow: flow.client_tls is not None and flow.client_tls.version is not None,
    "~ws": lambda flow: flow.kind == "websocket",
}

_CODE = re.compile(r"[1-9](?:[0-9]{2}|xx)")
_PAIR = re.compile(r"\\.", re.S)
_PAIR_OR_QUOTE = re.compile(r"\\.|\"", re.S)

_OPERATOR = re.compile(r"~[a-z]+(?=[\s()&|!\"']|$)")
_QUOTED = re.compile(r"""(["'])((?:\\.|(?!\1)[^\\])*)\1""", re.S)
_WORD = re.compile(r"[^\s()]+")


@dataclass(frozen=True)
class Is(Filter):
    """One of the operators without an argument."""

    operator: str

    def __call__(self, flow: Flow) -> bool:
        return _IS[self.operator](flow)

    def __str__(self) -> str:
        return self.operator


@dataclass(frozen=True)
class Code(Filter):
    """`~c 404`, or `~c 4xx` for any of that class."""

    code: str

    def __call__(self, flow: Flow) -> bool:
        if flow.response is None:
            return False
        status = flow.response.line[1]
        return status == self.code or (self.code.endswith("xx") and len(status) == 3 and status[0] == self.code[0])

    def __str__(self) -> str:
        return f"~c {self.code}"


@dataclass(frozen=True)
class Search(Filter):
    """An operator with a regex. The search ignores case, except for parts in `(?-i:...)`."""

    operator: str
    regex: str
    _search: Callable[[Any], object] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Raises `re.error`."""
        # For `re`, a quote with a backslash equals one without. Equality of filters needs one form.
        object.__setattr__(self, "regex", _PAIR.sub(lambda pair: pair[0][1] if pair[0][1] in "\"'" else pair[0], self.regex))
        pattern = re.compile(self.regex.encode(), re.I) if self.operator in _IN_BYTES else re.compile(self.regex, re.I)
        object.__setattr__(self, "_search", pattern.search)

    def __call__(self, flow: Flow) -> bool:
        return any(self._search(text) for text in _SEARCHED[self.operator](flow))

    def __str__(self) -> str:
        quoted = _PAIR_OR_QUOTE.sub(lambda match: '\\"' if match[0] == '"' else match[0], self.regex)
        return f'{self.operator} "{quoted}"'


@dataclass(frozen=True)
class Not(Filter):
    part: Filter

    def __call__(self, flow: Flow) -> bool:
        return not self.part(flow)

    def __str__(self) -> str:
        return f"!{_grouped(self.part)}"


@dataclass(frozen=True)
class And(Filter):
    parts: tuple[Filter, ...]

    def __call__(self, flow: Flow) -> bool:
        return all(part(flow) for part in self.parts)

    def __str__(self) -> str:
        return " & ".join(map(_grouped, self.parts))


@dataclass(frozen=True)
class Or(Filter):
    parts: tuple[Filter, ...]

    def __call__(self, flow: Flow) -> bool:
        return any(part(flow) for part in self.parts)

    def __str__(self) -> str:
        return " | ".join(map(_grouped, self.parts))


def _grouped(part: Filter) -> str:
    return f"({part})" if isinstance(part, And | Or) else str(part)


def parse_filter(text: str) -> Filter:
    """The filter of an expression. Raises `OperatorError` with the column (from 1) of the first fault."""
    parser = _Parser(text)
    found = parser.alternatives()
    if parser.at < len(text):
        parser.fail("this ) has no (" if text[parser.at] == ")" else "nothing can follow here")
    return found


class _Parser:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self._depth = 0

    def fail(self, why: str, at: int | None = None) -> NoReturn:
        raise OperatorError(f"filter {self.text!r}, column {(self.at if at is None else at) + 1}: {why}")

    def alternatives(self) -> Filter:
        parts = [self._conjunction()]
        while self._next_is("|"):
            self.at += 1
            parts.append(self._conjunction())
        return parts[0] if len(parts) == 1 else Or(tuple(parts))

    def _conjunction(self) -> Filter:
        parts = [self._negation()]
        while self.at < len(self.text) and not self._next_is("|", ")"):
            if self._next_is("&"):
                self.at += 1
            parts.append(self._negation())
        return parts[0] if len(parts) == 1 else And(tuple(parts))

    def _negation(self) -> Filter:
        count = 0
        while self._next_is("!"):
            self.at += 1
            count += 1
        self._go_deeper(count)
        found = self._term()
        self._depth -= count
        for _ in range(count):
            found = Not(found)
        self._skip_space()
        return found

    def _term(self) -> Filter:
        if self._next_is("("):
            return self._group()
        start = self.at
        if self._next_is("~"):
            match = _OPERATOR.match(self.text, self.at)
            operator = match[0] if match else ""
            if operator in _IS:
                self.at += len(operator)
                return Is(operator)
            if operator == "~c":
                self.at += len(operator)
                return self._code()
            if operator not in _SEARCHED:
                word = _WORD.match(self.text, self.at)
                near = get_close_matches(word[0] if word else "", [*_SEARCHED, *_IS, "~c"], n=1)
                self.fail(f"unknown operator {word[0] if word else '~'}" + (f"; did you mean {near[0]}?" if near else ""))
            self.at += len(operator)
        else:
            operator = "~u"
        regex, at = self._word(f"{operator} needs a regex" if self.at > start else "here a condition is missing")
        try:
            return Search(operator, regex)
        except re.error as error:
            self.fail(f"the regex is none: {error.msg}", at + (error.pos or 0))
        except (ValueError, OverflowError, RecursionError) as error:  # a byte that is not text; {1,99999999999}; too many groups
            self.fail(f"the regex is none: {error}", at)

    def _group(self) -> Filter:
        start = self.at
        self._go_deeper(1)
        self.at += 1
        found = self.alternatives()
        if not self._next_is(")"):
            self.fail("this ( is never closed", start)
        self.at += 1
        self._depth -= 1
        return found

    def _go_deeper(self, levels: int) -> None:
        self._depth += levels
        if self._depth > DEEPEST:
            self.fail(f"( and ! are nested more than {DEEPEST} deep")

    def _code(self) -> Filter:
        code, at = self._word("~c needs a status, as 404 or 4xx")
        if not _CODE.fullmatch(code):
            self.fail(f"{code!r} is not a status: three digits, or a digit and xx", at)
        return Code(code)

    def _word(self, missing: str) -> tuple[str, int]:
        """A word, and the position where its text begins."""
        if self.at == len(self.text) or self._next_is("&", "|", "!", "~", "(", ")"):
            self.fail(missing + (" (put it in quotes if it is to begin so)" if self.at < len(self.text) else ""))
        quoted = self._next_is('"', "'")
        match = (_QUOTED if quoted else _WORD).match(self.text, self.at)
        if match is None:
            self.fail("this quote is never closed")
        self.at = match.end()
        return (match[2], match.start(2)) if quoted else (match[0], match.start())

    def _skip_space(self) -> None:
        while self.at < len(self.text) and self.text[self.at].isspace():
            self.at += 1

    def _next_is(self, *what: str) -> bool:
        self._skip_space()
        return self.text.startswith(what, self.at)
