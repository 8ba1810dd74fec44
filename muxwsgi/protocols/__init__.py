"""One protocol, one file: what the first bytes of a connection say about the protocol that its client speaks.

Each module here is one protocol: a matcher, and `PROTOCOL`, which says what is known. `known` finds the modules by itself. The tests
hold every protocol to the laws of matchers (`muxwsgi.mux.matchers`) and to its own examples.

Nothing here imports gevent, because packages with hijackers import the matchers.
"""

from collections.abc import Iterator
from enum import Enum
from functools import cache
from importlib import import_module
from types import ModuleType

from muxwsgi.mux.match import Match
from muxwsgi.mux.matchers import Matcher
from muxwsgi.record import record

__all__ = ["Ambiguity", "Protocol", "Speaks", "by_name", "described", "known", "load", "looks_like", "markdown", "names", "recognised"]

#: Bytes that a message shows of an unknown protocol, and the table of an example.
_SHOWN = 24


class Speaks(Enum):
    """The side that sends the first bytes of a connection."""

    CLIENT = "the client"
    SERVER = "the server"
    EITHER = "either side"


@record()
class Ambiguity:
    """First bytes that two protocols say YES to. The route that is asked first gets them.

    other   name of the other protocol
    data    an example
    when    when it happens, in words
    """

    other: str
    data: bytes
    when: str


@record(kw_only=True)
class Protocol:
    """What is known about a protocol.

    name            as the error log and `muxwsgi explain` write it
    defined_in      the document that defines the first bytes
    speaks_first    the side that sends the first bytes
    match           YES to what a client of the protocol sends first. Routes may use it
    loose           YES to what is probably this protocol, for messages; None: the same as `match`
    refines         names of protocols that also say YES, because this one is a kind of them. Its routes are asked before theirs
    ambiguous       first bytes that a protocol of another kind says YES to as well; each pair stands in one of the two files
    alpn            ALPN ids of the protocol (IANA "TLS Application-Layer Protocol Negotiation (ALPN) Protocol IDs")
    begins          what clients send first. The first one is the example in the documentation
    not_begins      what begins alike or is often confused with it, and is not this protocol
    """

    name: str
    defined_in: str
    speaks_first: Speaks
    match: Matcher
    loose: Matcher | None = None
    refines: tuple[str, ...] = ()
    ambiguous: tuple[Ambiguity, ...] = ()
    alpn: tuple[str, ...] = ()
    begins: tuple[bytes, ...]
    not_begins: tuple[bytes, ...] = ()


def names() -> list[str]:
    """The names of the modules, sorted."""
    from pkgutil import iter_modules  # not needed at the start of a server

    return [found.name for found in iter_modules(__path__)]


def load(name: str) -> ModuleType:
    """The module of a protocol. The first time takes up to some milliseconds."""
    return import_module(f"{__name__}.{name}")


@cache
def _modules() -> tuple[ModuleType, ...]:
    return tuple(load(name) for name in names())


@cache
def known() -> tuple[Protocol, ...]:
    """All protocols, in the order of their modules' names. Raises `AttributeError` for a module without `PROTOCOL`."""
    return tuple(module.PROTOCOL for module in _modules())


@cache
def by_name() -> dict[str, Protocol]:
    """All protocols by their names in a configuration: those of their modules, with `-` for `_`."""
    return {module.__name__.rpartition(".")[2].replace("_", "-"): module.PROTOCOL for module in _modules()}


@cache
def _beginning_with(first: bytes) -> tuple[Protocol, ...]:
    """The protocols that may begin with this byte, those first that refine others."""
    order = sorted(known(), key=lambda protocol: not protocol.refines)
    return tuple(each for each in order if (each.loose or each.match)(first) is not Match.NO)


def recognised(data: bytes) -> Protocol | None:
    """The protocol that `data` probably begins. No route is chosen by it."""
    for protocol in _beginning_with(data[:1]) if data else ():
        if (protocol.loose or protocol.match)(data) is Match.YES:
            return protocol
    return None


def looks_like(data: bytes) -> str:
    """The name of the protocol that `data` probably begins, or the first bytes of `data`."""
    protocol = recognised(data)
    if protocol is not None:
        return protocol.name
    return f"no known protocol, {_shown(data)}"


def described(data: bytes) -> str | None:
    """The protocol that `data` probably begins, in words; None where no protocol is recognised."""
    protocol = recognised(data)
    return None if protocol is None else f"{protocol.name} ({protocol.defined_in}; {protocol.speaks_first.value} speaks first)"


def markdown() -> str:
    """The tables of docs/protocols.md."""
    head = ["| name | protocol | matcher | speaks first | ALPN | a client begins with | defined in |", "|---|---|---|---|---|---|---|"]
    protocols = [f"| {' | '.join(cells)} |" for cells in _rows()]
    pairs = [(each.name, ambiguity) for each in known() for ambiguity in each.ambiguous]
    ambiguities = [f"| {name} | {each.other} | `{_shown(each.data)}` | {each.when} |" for name, each in pairs]
    kinds = [f"| {each.name} | {', '.join(each.refines)} |" for each in known() if each.refines]
    return "\n".join(
        [
            *("## The protocols", "", *head, *protocols, ""),
            *("## Kinds of other protocols", "", "| protocol | is a kind of |", "|---|---|", *kinds, ""),
            *("## Ambiguities", "", "| one | the other | first bytes of both | when |", "|---|---|---|---|", *ambiguities),
        ]
    )


def _rows() -> Iterator[tuple[str, ...]]:
    for (name, protocol), module in zip(by_name().items(), _modules(), strict=True):
        matcher = next(attribute for attribute, value in vars(module).items() if value is protocol.match)
        place = module.__name__.rpartition(".")[2]
        example = _shown(protocol.begins[0]).replace("|", "\\|")
        alpn = ", ".join(protocol.alpn)
        yield f"`{name}`", protocol.name, f"`{place}.{matcher}`", protocol.speaks_first.value, alpn, f"`{example}`", protocol.defined_in


def _shown(data: bytes) -> str:
    return repr(data[:_SHOWN]) + ("..." if len(data) > _SHOWN else "")
