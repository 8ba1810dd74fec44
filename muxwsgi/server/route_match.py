"""The matcher that `match` of a route means.

    "ssh"                                       a protocol of docs/protocols.md
    {protocol = "postgresql", user = "ann", database = "shop"}, {protocol = "rdp", user = "ann"}
    {prefix = "HELLO "}, {regex = "[A-Z]+ "}    first bytes, as text of Latin-1
    {sni = "*.example.com"}, {alpn = "h2"}      a ClientHello that is not answered here
    {any = [...]}, {all = [...]}, {not = ...}   of these
"""

import re
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any

from muxwsgi.errors import OperatorError
from muxwsgi.mux.match import Match
from muxwsgi.mux.matchers import Matcher, all_of, any_of, named, not_, prefix, regex
from muxwsgi.protocols import Protocol, by_name
from muxwsgi.protocols.postgresql import startup_of
from muxwsgi.protocols.rdp import cookie_of
from muxwsgi.protocols.tls import alpn_is, sni_is

__all__ = ["anything", "matcher_of", "protocol_named", "sees_hello"]

#: What a route that passes TLS on as it is may look at, and no other.
_OF_HELLO = frozenset({"sni", "alpn"})
_KINDS = ("protocol", "prefix", "regex", "sni", "alpn", "any", "all", "not")


@named("anything")
def anything(data: bytes) -> Match:
    """Any bytes."""
    return Match.YES if data else Match.MORE


def protocol_named(name: str, where: str) -> Protocol:
    """Raises `OperatorError`, which begins with `where`."""
    known = by_name()
    if name not in known:
        near = get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "see docs/protocols.md"
        raise OperatorError(f"{where}: no protocol is named {name!r}; {hint}")
    return known[name]


def sees_hello(match: Any) -> bool:
    """Whether `match` looks at a ClientHello."""
    if isinstance(match, Mapping):
        return any(key in _OF_HELLO or sees_hello(value) for key, value in match.items())
    return isinstance(match, list) and any(sees_hello(each) for each in match)


def matcher_of(match: Any, where: str) -> Matcher:
    """Raises `OperatorError`, which begins with `where`."""
    if isinstance(match, str):
        return named(match)(protocol_named(match, where).match)
    if not isinstance(match, Mapping):
        raise OperatorError(f"{where}: {match!r} is neither the name of a protocol nor a table")
    kinds = [key for key in match if key in _KINDS]
    if len(kinds) != 1:
        raise OperatorError(f"{where}: a table has one of {', '.join(_KINDS)}")
    kind = kinds[0]
    value = match[kind]
    others = {key: _texts(each, f"{where}: {key}") for key, each in match.items() if key != kind}
    if kind == "protocol":
        return _protocol(value, others, where)
    if others:
        raise OperatorError(f"{where}: {next(iter(others))!r} does not belong to {kind!r}")
    inside = f"{where}: {kind}"
    try:
        match kind:
            case "any" | "all":
                if not isinstance(value, list) or not value:
                    raise OperatorError(f"{inside}: {value!r} is not a list")
                return (any_of if kind == "any" else all_of)(*[matcher_of(each, inside) for each in value])
            case "not":
                return not_(matcher_of(value, inside))
            case "regex":
                if not isinstance(value, str):
                    raise OperatorError(f"{inside}: {value!r} is not a text")
                return regex(_bytes(value, inside))
            case "prefix":
                return prefix(*[_bytes(each, inside) for each in _texts(value, inside)])
            case "sni":
                return sni_is(*_texts(value, inside))
            case _:
                return alpn_is(*_texts(value, inside))
    except (ValueError, re.error) as error:
        raise OperatorError(f"{inside}: {error}") from None


def _protocol(name: Any, others: Mapping[str, tuple[str, ...]], where: str) -> Matcher:
    if not isinstance(name, str):
        raise OperatorError(f"{where}: protocol: {name!r} is not a text")
    found = protocol_named(name, f"{where}: protocol")
    if not others:
        return found.match
    keys, make = _NARROWER.get(name, (frozenset(), None))
    for key in others:
        if key not in keys:
            raise OperatorError(f"{where}: {key!r} says nothing about {name}")
    assert make is not None
    return make(others)


#: What a table may say of a protocol, and the matcher that is made of it.
_NARROWER: dict[str, tuple[frozenset[str], Callable[[Mapping[str, tuple[str, ...]]], Matcher]]] = {
    "postgresql": (
        frozenset({"user", "database"}),
        lambda said: startup_of(users=said.get("user", ()), databases=said.get("database", ())),
    ),
    "rdp": (frozenset({"user"}), lambda said: cookie_of(*said["user"])),
}


def _bytes(text: str, where: str) -> bytes:
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        raise OperatorError(f"{where}: {text!r} has characters above U+00FF, which are no bytes") from None


def _texts(value: Any, where: str) -> tuple[str, ...]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not texts or not all(isinstance(each, str) and each for each in texts):
        raise OperatorError(f"{where}: {value!r} is not a text or a list of texts")
    return tuple(texts)
