"""`Mux`: asks a connection "what are your first bytes?" and calls the handler that the answer names.

The path of one connection is `Mux.__call__`, from top to bottom. What it decides by is `Mux.decide`, which is
pure: the decision depends on the bytes, never on how they were cut into packets.

This module knows no protocol. A handler may do anything with the connection, TLS included. When it returns or
raises, the caller of the outermost mux closes the connection.
"""

import math
from collections.abc import Iterable
from enum import Enum
from typing import TYPE_CHECKING, Literal, NamedTuple

from muxwsgi.errors import Draining, Expired, PeerError
from muxwsgi.events import Events, Refusal, tell
from muxwsgi.mux.match import Match
from muxwsgi.mux.matchers import looks_into, prompt_of
from muxwsgi.mux.route import Route
from muxwsgi.mux.turns import awaited, has_waited
from muxwsgi.wire.syscalls import clock

if TYPE_CHECKING:
    from muxwsgi.mux.matchers import Matcher, Prompt
    from muxwsgi.wire.connection import Connection

__all__ = ["MAX_DEPTH", "Decision", "Mux", "Reason"]

_YES, _MORE = Match.YES, Match.MORE

#: Questions asked of one stream at most, over all its layers. A loop of tunnels or upgrades ends here.
MAX_DEPTH = 8


class Reason(Enum):
    """Why a connection goes where it goes."""

    MATCHED = "matched"  # the first route in order that said YES
    ALPN = "alpn"  # the TLS handshake agreed on an id that the route owns
    SILENT = "silent"  # no byte came in time
    UNMATCHED = "unmatched"  # every route said NO, or MORE when there was no more to come
    LATE = "late"  # the bytes could become one route's protocol only, and no more of them came
    ENDED = "ended"  # the stream ended before its first byte
    ONLY = "only"  # the mux asks nothing, because all connections go to one route
    DRAINED = "drained"  # no byte had come when the server was shut down


#: Decisions that a mux keeps for each route, by the number of bytes that it said YES to. Most of their cost is the text for the trace.
REMEMBERED = 256

#: If the first byte leaves more routes than a few, the first six bytes decide which are asked, and 512 different ones are remembered. Six
#: tell `GET /a` from requests of RTSP and SIP, and there are few different ones: paths of HTTP have one byte in them.
_FEW = 3
_START = 6
_STARTS = 512

#: Seconds that stand for 0 in a wait for a first byte: a timeout of 0 means that nothing waits.
_AT_ONCE = 0.001

#: As globals: looking them up on the class costs more than the comparison.
_MATCHED = Reason.MATCHED
_LATE = Reason.LATE


#: How a connection that no route takes is reported.
_UNSERVED: dict[Reason, Literal["unmatched", "silent", "ended", "drained"]] = {
    Reason.UNMATCHED: "unmatched",
    Reason.SILENT: "silent",
    Reason.ENDED: "ended",
    Reason.DRAINED: "drained",
}


class Decision(NamedTuple):
    """Where a connection goes. It is closed where `route` is None. `text` is the line in its trace."""

    route: Route | None
    reason: Reason
    text: str


class Mux:
    """An ordered set of routes, itself a handler.

    Attributes:
        routes: in the order they are asked: by priority, equal ones as given.
        alpn: the ids that the routes own, in that order: what a TLS layer in front of this mux should offer.
        fallback: takes what no route matched; None closes it.
        silence: takes connections on which no byte comes in time; None closes them.
    """

    may_leave = True  # see `Route`

    def __init__(
        self,
        routes: Iterable[Route],
        *,
        name: str = "mux",
        fallback: Route | None = None,
        silence: Route | None = None,
        sniff_timeout: float = 3.0,
        patience: float | None = None,
        peek_limit: int = 16384,
        events: Events | None = None,
        silence_after: float | None = None,
        only: Route | None = None,
    ) -> None:
        """`sniff_timeout` are the seconds from the question to the decision where a fallback, a silence route, or
        a route that is held back, would get the connection then. Where it would be closed it has `patience` seconds
        (None: as many). `peek_limit` are the bytes looked at, at most.

        `silence_after` are the seconds that the first byte has where silence has a route (None: `sniff_timeout`). `only` is the route of
        all connections: none is asked for its first bytes.

        `silence` defaults to the route that takes silence. `events` hears of decisions, refusals and streams.

        Raises `ValueError` for two routes of one name, and for two that take silence while `silence` is None.
        """
        self.name = name
        self.routes = tuple(sorted(routes, key=lambda route: -route.priority))
        names = [route.name for route in self.routes]
        for route_name in names:
            if names.count(route_name) > 1:
                raise ValueError(f"mux {name!r} has two routes named {route_name!r}")
        if sniff_timeout <= 0 or peek_limit < 1:
            raise ValueError(f"mux {name!r}: sniff_timeout and peek_limit must be more than 0")
        self._matchers = tuple(getattr(route.match, "bare", route.match) for route in self.routes)
        self._by_first: list[list[tuple[int, Matcher]] | None] = [None] * 256
        self._by_start: dict[bytes, list[tuple[int, Matcher]]] = {}
        self._said: tuple[dict[int, Decision], ...] = tuple({} for _ in self.routes)
        looked_into = frozenset[str]().union(*(looks_into(route.match) for route in self.routes))
        self._by_alpn = {protocol: route for route in reversed(self.routes) for protocol in route.alpn if protocol not in looked_into}
        self._prompts = tuple(prompt for route in self.routes if (prompt := prompt_of(route.match)) is not None)
        self.alpn = tuple(dict.fromkeys(protocol for route in self.routes for protocol in route.alpn))
        self.fallback = fallback
        takers = [route for route in self.routes if route.takes_silence]
        if silence is None and len(takers) > 1:
            raise ValueError(f"mux {name!r}: {takers[0].name!r} and {takers[1].name!r} both take silence")
        self.silence = silence or (takers[0] if takers else None)
        self.sniff_timeout = sniff_timeout
        self.patience = sniff_timeout if patience is None or patience < sniff_timeout else patience
        self.peek_limit = peek_limit
        self._events = Events() if events is None else events
        self._silence_after = -1.0 if silence_after is None or self.silence is None else silence_after
        self._only = None if only is None else self._decided(only, Reason.ONLY, f"all connections go to route {only.name!r}")

    def __repr__(self) -> str:
        return f"<Mux {self.name!r}: {', '.join(route.name for route in self.routes)}>"

    @property
    def only(self) -> Route | None:
        """The route of all connections, None where their first bytes decide."""
        return None if self._only is None else self._only.route

    def __call__(self, connection: "Connection") -> None:
        """Serve `connection`: decide, and call the handler. Returns when it is to be closed.

        Raises `PeerError` when it has been asked too often already, what the handler raises, and the
        connection's errors.
        """
        # 1. Is this question allowed?
        if connection.depth >= MAX_DEPTH:
            raise PeerError(
                400, f"mux {self.name!r}: more than {MAX_DEPTH} questions were asked of one connection"
            )
        agreed = _agreed_protocol(connection)
        connection.depth += 1
        line = connection.lifeline
        may_leave = line.may_leave
        line.may_leave = False

        # 2. ALPN has answered it already, or the first bytes do.
        decision = self._only or self.decide_by_alpn(agreed) or self._look(connection)
        connection.trace.append(decision.text)
        events = self._events
        if events.decided:
            tell(events.decided, connection, decision)

        # 3. No route takes it: it is closed.
        route = decision.route
        if route is None:
            if events.refused:
                tell(events.refused, connection, Refusal(_UNSERVED[decision.reason], decision.text))
            return

        # 4. A route takes it, if there is room.
        slots = route.slots
        if slots.quota is not None and (why := awaited(connection, slots.quota, route.limit_wait)) is not None:
            self._refuse(connection, route, why)
            return
        if not slots.take() and not has_waited(connection, route):
            self._refuse(connection, route, f"{route.name} serves {route.limit} connections already, which is its limit")
            return

        # 5. The handler owns it until it returns, or until its relay is over.
        began = clock() if events.stream and route.is_stream else -1.0
        try:
            if route.idle_timeout is not None:
                connection.idle_timeout = route.idle_timeout
            connection.route = route.name
            if may_leave and route.may_leave:
                line.may_leave = True
            route.handler(connection)
        finally:
            if line.afterwards is None:
                self.over(connection, None, route, began)
            else:
                line.afterwards.append((self, route, began))

    def _refuse(self, connection: "Connection", route: Route, why: str) -> None:
        route.slots.refused += 1
        connection.trace.append(f"mux {self.name!r}: {why}: closed")
        if self._events.refused:
            tell(self._events.refused, connection, Refusal("limit", why, route=route.name))

    def over(self, connection: "Connection", error: BaseException | None, route: Route, began: float) -> None:
        """The handler of `route` does not own `connection` any more. See `Lifeline.afterwards`."""
        route.slots.free()
        if route.slots.quota is not None:
            route.slots.quota.free(connection.client)
        if began >= 0.0:
            tell(self._events.stream, connection, clock() - began)

    def _look(self, connection: "Connection") -> Decision:
        """Peek until the first bytes decide, or no more of them may come. Nothing is consumed."""
        seen = b""
        began = clock()
        connection.deadline = deadline = began + self.sniff_timeout
        at_most = 0.0  # the later deadline, once it holds
        line = connection.lifeline
        line.resting = True  # until the first byte nothing would be lost if it closed here
        decision: Decision | None = None
        prompt: Prompt | None = None
        try:
            if self._silence_after >= 0.0 and self._silent(connection):
                decision = self.decide_silence()
                return decision
            while True:
                # 2a. More bytes, the end of the stream, or the deadline (the sweeper's, or passed by a client
                # that drips).
                ended = late = False
                try:
                    data = connection.peek_beyond(len(seen), self.peek_limit)
                    ended = len(data) <= len(seen)
                    if ended and not data:
                        return self._decided(None, Reason.ENDED, "the stream ended before its first byte: closed")
                    seen = data
                    line.resting = False
                except Expired:
                    late = True
                except Draining:
                    return self._decided(None, Reason.DRAINED, "the server shuts down, and no byte has come: closed")

                # 2b. Do they decide?
                decision = self.decide(seen, final=ended)
                if decision is None:
                    if prompt is None and self._prompts:
                        prompt = self._prompt(connection, seen)
                elif prompt is None or ended or prompt.without_answer(seen) is not None:
                    return decision

                # 2c. Is the time up? There is more time where the connection would be closed, or only one protocol is possible.
                if late or clock() > deadline:
                    decision = self.decide(seen, final=True) or self.decide_silence()
                    at_most = began + self.patience
                    if (decision.route is not None and decision.reason is not _LATE) or clock() >= at_most:
                        return decision
                    connection.deadline = at_most
        finally:
            connection.settle()
            if prompt is not None and decision is not None and (rest := prompt.without_answer(seen)) is not None:
                connection.recv(len(seen))
                connection.unread(rest)
            connection.deadline = math.inf
            line.resting = False
            if at_most and decision is not None and decision.route is not None and decision.route.takes_late:
                connection.deadline = at_most  # a message that began late is not given its time anew

    def _prompt(self, connection: "Connection", seen: bytes) -> "Prompt | None":
        """Send a client what it may be waiting for. Returns what was sent, or None."""
        for prompt in self._prompts:
            if said := prompt.said_to(seen):
                connection.sendall(said)
                return prompt
        return None

    def _silent(self, connection: "Connection") -> bool:
        """Whether no byte comes in the short time for the first one."""
        timeout = connection.gettimeout()
        connection.settimeout(max(self._silence_after, _AT_ONCE))
        try:
            connection.peek_beyond(0, self.peek_limit)
        except TimeoutError:
            return True
        except Draining:
            return False  # it is raised again, where it is decided on
        finally:
            connection.settimeout(timeout)
        return False

    def decide(self, data: bytes, final: bool = False) -> Decision | None:
        """Where a stream goes that starts with `data`; None while that is open. `final`: no more bytes will
        come.

        Pure. Only the first `peek_limit` bytes count, and there `data` is final in any case. Without a byte
        nothing is decided here, see `decide_silence`.
        """
        if not data:
            return None
        if len(data) >= self.peek_limit:
            data = data[: self.peek_limit]
            final = True
        could = -1  # the first route that said MORE
        late = self.fallback is None
        asked = self._by_first[data[0]]
        if asked is None:
            asked = self._asked(data[0])
        if len(asked) > _FEW and len(data) >= _START:
            asked = self._still_asked(asked, data[:_START])
        for at, matcher in asked:
            verdict = self._ask(at, matcher, data)
            if verdict is _YES:
                return self._matched(at, len(data))
            # An earlier MORE holds back every later YES, else the cut of the packets would decide.
            if verdict is _MORE:
                if not final:
                    return None
                late = late and self.routes[at].takes_late
                if could < 0:
                    could = at
        if late and could >= 0:
            route = self.routes[could]
            return self._decided(route, _LATE, f"{_count(len(data))}, of which only route {route.name!r} could make something, and no more")
        why = f"no route said YES to {_count(len(data))}: {_fate('fallback', self.fallback)}"
        return self._decided(self.fallback, Reason.UNMATCHED, why)

    def _asked(self, first: int) -> "list[tuple[int, Matcher]]":
        """The routes that bytes which begin with `first` may belong to, each by its place. A matcher that says NO to one byte says it to
        all that follows, so what a connection costs does not grow with the routes of other protocols.
        """
        asked = _not_denied(list(enumerate(self._matchers)), bytes((first,)))
        self._by_first[first] = asked
        return asked

    def _still_asked(self, asked: "list[tuple[int, Matcher]]", start: bytes) -> "list[tuple[int, Matcher]]":
        """The same by the first bytes `start`, out of `asked`. Some protocols begin with any byte, such as those with a length in front."""
        kept = self._by_start.get(start)
        if kept is None:
            if len(self._by_start) >= _STARTS:
                self._by_start.clear()
            kept = self._by_start[start] = _not_denied(asked, start)
        return kept

    def _matched(self, at: int, count: int) -> Decision:
        said = self._said[at]
        decision = said.get(count)
        if decision is None:
            if len(said) >= REMEMBERED:
                said.clear()
            route = self.routes[at]
            decision = said[count] = self._decided(route, _MATCHED, f"route {route.name!r} said YES to {_count(count)}")
        return decision

    def _ask(self, at: int, matcher: "Matcher", data: bytes) -> Match:
        try:
            verdict = matcher(data)
        except Exception as error:
            error.add_note(f"raised by the matcher of route {self.routes[at].name!r}, given {_count(len(data))}")
            raise
        if not isinstance(verdict, Match):
            raise TypeError(
                f"the matcher of route {self.routes[at].name!r} returned {verdict!r}: it has to be Match.YES, NO or MORE"
            )
        return verdict

    def decide_by_alpn(self, protocol: str | None) -> Decision | None:
        """Where a TLS connection goes that agreed on `protocol`; None when no route owns it."""
        route = None if protocol is None else self._by_alpn.get(protocol)
        if route is None:
            return None
        return self._decided(route, Reason.ALPN, f"route {route.name!r} owns ALPN {protocol!r}")

    def decide_silence(self) -> Decision:
        """Where a stream goes on which no byte came in time."""
        seconds = self.patience if self.silence is None else self.sniff_timeout if self._silence_after < 0.0 else self._silence_after
        why = f"no byte within {seconds:g} s: {_fate('silence route', self.silence)}"
        return self._decided(self.silence, Reason.SILENT, why)

    def _decided(self, route: Route | None, reason: Reason, why: str) -> Decision:
        return Decision(route, reason, f"mux {self.name!r}: {why}")


def _not_denied(asked: "list[tuple[int, Matcher]]", start: bytes) -> "list[tuple[int, Matcher]]":
    """Those of `asked` that do not say NO to `start`."""
    found: list[tuple[int, Matcher]] = []
    for at, matcher in asked:
        try:
            if matcher(start) is Match.NO:
                continue
        except Exception:  # raised again where it is asked about a connection, and logged with it
            pass
        found.append((at, matcher))
    return found


def _agreed_protocol(connection: "Connection") -> str | None:
    """The ALPN id that TLS agreed on, at the first question inside a TLS layer; None at later ones.

    Later questions are asked of streams inside of that protocol, such as a CONNECT tunnel through `http/1.1`.
    """
    if connection.tls is None or connection.parent is None or connection.depth != connection.parent.depth:
        return None
    agreed: str | None = connection.tls.alpn
    return agreed


def _count(n: int) -> str:
    return "1 byte" if n == 1 else f"{n} bytes"


def _fate(what: str, route: Route | None) -> str:
    return "closed" if route is None else f"{what} {route.name!r}"
