"""Which matchers a mux asks: those that can still say YES. What it decides is what asking all of them would decide."""

import gc
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muxwsgi import Match, Mux, Route
from muxwsgi.mux.matchers import Matcher, never
from muxwsgi.mux.mux import Decision, Reason
from muxwsgi.protocols import by_name
from muxwsgi.protocols.http1 import http_last, http_route

from .first_bytes import SHIPPED, first_bytes, ignore


def asking_all(mux: Mux, data: bytes, final: bool) -> tuple[Route | None, Reason] | None:
    """Law 1 of docs/architecture.md, with every matcher asked."""
    if not data:
        return None
    data, final = data[: mux.peek_limit], final or len(data) >= mux.peek_limit
    more = []
    for route in mux.routes:
        verdict = route.match(data)
        if verdict is Match.YES:
            return route, Reason.MATCHED
        if verdict is Match.MORE:
            if not final:
                return None
            more.append(route)
    if mux.fallback is None and more and all(route.takes_late for route in more):
        return more[0], Reason.LATE
    return mux.fallback, Reason.UNMATCHED


def plain(decision: Decision | None) -> tuple[Route | None, Reason] | None:
    return None if decision is None else (decision.route, decision.reason)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(SHIPPED), max_size=40), st.booleans(), st.booleans(), st.lists(first_bytes, min_size=1, max_size=6))
def test_a_decision_is_the_one_of_asking_all(chosen: list[Matcher], late: bool, has_fallback: bool, samples: list[bytes]) -> None:
    routes = [Route(str(number), matcher, ignore, takes_late=late) for number, matcher in enumerate(chosen)]
    mux = Mux(routes, fallback=Route("fallback", never, ignore) if has_fallback else None)
    for data in samples * 2:
        for end in {1, 2, 5, 6, 7, len(data)}:
            for final in (False, True):
                assert plain(mux.decide(data[:end], final)) == asking_all(mux, data[:end], final)


SAMPLES = {
    "http": b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "post": b"POST /form HTTP/1.1\r\nHost: a\r\n\r\n",
    "ssh": b"SSH-2.0-OpenSSH_9.9\r\n",
    "redis": b"*1\r\n$4\r\nPING\r\n",
    "postgresql": b"\0\0\0\x08\x04\xd2\x16\x2f",
    "mqtt": b"\x10\x10\0\4MQTT\4\2\0\x3c\0\4abcd",
}


@pytest.mark.parametrize("sample", SAMPLES)
def test_the_matchers_that_a_connection_pays_for_do_not_grow_with_the_routes(sample: str) -> None:
    asked: Counter[str] = Counter()

    def counted(name: str, matcher: Matcher) -> Matcher:
        def ask(data: bytes) -> Match:
            asked[name] += 1
            return matcher(data)

        return ask

    routes = [Route(name, counted(name, protocol.match), ignore) for name, protocol in by_name().items() if name not in ("http1", "http2")]
    mux = Mux([*routes, http_route(ignore), http_last(ignore, fallback=False)])
    assert len(mux.routes) > 40
    mux.decide(SAMPLES[sample])
    asked.clear()
    decision = mux.decide(SAMPLES[sample])
    assert decision is not None
    assert decision.route is not None
    assert asked.total() <= 3, asked


def test_what_is_remembered_of_first_bytes_is_bounded() -> None:
    """A client that sends other bytes each time takes no memory: the routes are found anew."""
    mux = Mux([Route(name, protocol.match, ignore) for name, protocol in by_name().items()])
    expected = mux.decide(SAMPLES["ssh"])
    for number in range(3000):
        mux.decide(b"\0\0" + number.to_bytes(4, "big") + b"x" * 20)
    remembered = [each for each in gc.get_referents(mux) if isinstance(each, dict) and any(isinstance(key, bytes) for key in each)]
    assert [0 < len(each) <= 512 for each in remembered] == [True]
    assert mux.decide(SAMPLES["ssh"]) == expected
