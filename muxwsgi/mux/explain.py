"""Why a connection goes where it goes: what every route says of given first bytes, and which route gets the connection.

It asks the same `Mux.decide` that serves connections.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, runtime_checkable

from muxwsgi.mux.match import Match
from muxwsgi.mux.mux import Decision, Mux, Reason
from muxwsgi.mux.route import Route
from muxwsgi.record import record

__all__ = ["Answer", "Explanation", "LayerHandler", "Opening", "answer", "explain", "listed"]

#: First bytes shown.
_SHOWN = 60


@record()
class Opening:
    """What a client says at the beginning of a layer.

    layer   name of the layer, such as TLS
    text    what the client says, in one line for people
    alpn    the protocol ids that it offers, in its order
    """

    layer: str
    text: str
    alpn: tuple[str, ...] = ()


@runtime_checkable
class LayerHandler(Protocol):
    """A handler that removes a layer and gives the connection inside to `inner`. `explain` follows it."""

    inner: Mux

    def opening(self, data: bytes) -> Opening:
        """What a client says that begins with `data`."""


@record()
class Answer:
    """What the matcher of a route says of the bytes.

    whole   of all of them at once
    turns   (bytes seen, verdict) where the verdict changed, with the bytes given one by one
    """

    route: Route
    whole: Match
    turns: tuple[tuple[int, Match], ...]

    @property
    def lawful(self) -> bool:
        """Whether the matcher is monotonic: `YES` and `NO` never change."""
        return (
            all(verdict is Match.MORE for _, verdict in self.turns[:-1]) and self.turns[-1][1] is self.whole
        )


@record()
class Explanation:
    """What `explain` found. `str()` of it is for people.

    shown       the first bytes, as far as the mux looks at them
    answers     of every route, in the order that they are asked
    decision    for these bytes; None while more could come that decide
    decided_at  bytes after which it is decided, when they come one by one; None if it stays open
    otherwise   the decision if no more bytes come in time
    same        whether the bytes whole and one by one go to the same route
    opening     what the client says first, when the route leads into a layer
    inner       the mux inside the layer
    agreed      the ALPN id that the layer would agree on
    inside      where the connection inside the layer goes then; None when its bytes decide
    looks_like  the protocol that the bytes probably begin; None when a route takes them, or when it is not known
    """

    mux: Mux
    shown: bytes
    answers: tuple[Answer, ...]
    decision: Decision | None
    decided_at: int | None
    otherwise: Decision
    same: bool
    opening: Opening | None
    inner: Mux | None
    agreed: str | None
    inside: Decision | None
    looks_like: str | None

    def __str__(self) -> str:
        return "\n".join(_lines(self))


def answer(route: Route, data: bytes) -> Answer:
    """What `route` says of `data`, whole and byte by byte."""
    turns: list[tuple[int, Match]] = []
    for n in range(len(data) + 1):
        verdict = route.match(data[:n])
        if not turns or verdict is not turns[-1][1]:
            turns.append((n, verdict))
    return Answer(route, route.match(data), tuple(turns))


def explain(mux: Mux, data: bytes, describe: Callable[[bytes], str | None] | None = None) -> Explanation:
    """What `mux` does with a connection that begins with `data` (b"": the client waits for the server to
    speak).

    `describe` is asked which protocol the bytes probably begin where no route takes them.
    """
    shown = data[: mux.peek_limit]
    decision = mux.decide(shown)
    decided_at = None
    same = True
    for n in range(1, len(shown) + 1):
        stepwise = mux.decide(shown[:n])
        if stepwise is not None:
            decided_at = n
            same = decision is not None and stepwise.route is decision.route
            break
    otherwise = decision or mux.decide(shown, final=True) or mux.decide_silence()

    opening = inner = agreed = inside = None
    handler = None if otherwise.route is None else otherwise.route.handler
    if isinstance(handler, LayerHandler):
        inner = handler.inner
        opening = handler.opening(shown)
        agreed = next((protocol for protocol in inner.alpn if protocol in opening.alpn), None)
        inside = inner.decide_by_alpn(agreed)
    looks_like = None
    if describe is not None and otherwise.reason is Reason.UNMATCHED:
        looks_like = describe(shown)
    answers = tuple(answer(route, shown) for route in mux.routes)
    return Explanation(
        mux, shown, answers, decision, decided_at, otherwise, same, opening, inner, agreed, inside, looks_like
    )


def _lines(found: Explanation) -> Iterator[str]:
    mux, shown = found.mux, found.shown
    more = "..." if len(shown) > _SHOWN else ""
    yield f"mux {mux.name!r}, {_bytes(len(shown))}: {shown[:_SHOWN]!r}{more}"
    yield ""
    rows = [("route", "priority", "matcher", "whole", "byte by byte")]
    for a in found.answers:
        rows.append((a.route.name, str(a.route.priority), repr_of(a.route), a.whole.name, _turns(a)))
    yield from _table(rows)
    for conditional in (a.route for a in found.answers if a.route.when is not None):
        yield f"  {conditional.name!r} is asked only if: {conditional.when}"
    for broken in (a for a in found.answers if not a.lawful):
        yield f"  ! the matcher of {broken.route.name!r} breaks its promise: more bytes changed its answer"
    yield ""
    yield from _outcome(found)
    if found.inner is not None and found.opening is not None:
        yield ""
        yield from _inside(found, found.inner, found.opening)


def _outcome(found: Explanation) -> Iterator[str]:
    if found.decision is not None:
        yield f"=> {_goes(found.decision)}, decided by byte {found.decided_at}"
    elif found.shown:
        waiting = next(a.route.name for a in found.answers if a.whole is Match.MORE)
        yield f"=> open: {waiting!r} says MORE, which holds back the routes after it"
        yield f"   if no more comes within {_seconds(found):g} s: {_goes(found.otherwise)}"
    else:
        yield f"=> if no byte comes within {_seconds(found):g} s: {_goes(found.otherwise)}"
    if found.looks_like is not None:
        yield f"   the bytes look like {found.looks_like}"
    if not found.same:
        yield "   ! byte by byte it goes elsewhere: some matcher breaks its promise"


def _seconds(found: Explanation) -> float:
    """How long the mux waits: longer where the connection would be closed, or only one protocol is possible."""
    alone = found.otherwise.route is None or found.otherwise.reason is Reason.LATE
    return found.mux.patience if alone else found.mux.sniff_timeout


def _inside(found: Explanation, inner: Mux, opening: Opening) -> Iterator[str]:
    yield opening.text
    yield f"Inside {opening.layer} the question goes to mux {inner.name!r}:"
    rows = [("route", "priority", "matcher", "ALPN")]
    rows += [(r.name, str(r.priority), repr_of(r), listed(r.alpn)) for r in inner.routes]
    yield from _table(rows)
    for conditional in (route for route in inner.routes if route.when is not None):
        yield f"  {conditional.name!r} is asked only if: {conditional.when}"
    yield ""
    if found.inside is not None:
        yield f"=> {_goes(found.inside)}, because {opening.layer} would agree on ALPN {found.agreed!r}"
    else:
        yield "=> decided by the decrypted bytes, which cannot be seen from here: explain those by themselves"


def _goes(decision: Decision) -> str:
    if decision.route is None:
        return "no route gets it: closed"
    if decision.reason is Reason.UNMATCHED:
        return f"the fallback {decision.route.name!r} gets it"
    if decision.reason is Reason.SILENT:
        return f"the silence route {decision.route.name!r} gets it"
    if decision.reason is Reason.LATE:
        return f"route {decision.route.name!r} gets it, to say that it is incomplete"
    return f"route {decision.route.name!r} gets it"


def _turns(given: Answer) -> str:
    """`YES at byte 5`; each turn, where the promise was broken."""
    told = [turn for turn in given.turns if turn[1] is not Match.MORE or not given.lawful]
    return ", ".join(f"{verdict.name} at byte {n}" for n, verdict in told) or "MORE to the end"


def repr_of(route: Route) -> str:
    """The matcher of `route` as listings show it: its expression, or the name of the function that it is."""
    name: str | None = getattr(route.match, "__name__", None)
    return name or repr(route.match)


def _table(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield ("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))).rstrip()


def _bytes(n: int) -> str:
    return "1 byte" if n == 1 else f"{n} bytes"


def listed(items: Sequence[str]) -> str:
    return ", ".join(items) or "none"
