"""The path of one connection through a mux."""

import gc
import math
import re
import socket
from collections.abc import Callable
from time import monotonic

import gevent
import pytest
from gevent.event import Event
from hypothesis import given, settings
from hypothesis import strategies as st

from muxwsgi import Connection, Match, Mux, PeerError, Route
from muxwsgi.events import Refusal
from muxwsgi.hijackers.tls_route import tls_route
from muxwsgi.mux import matchers
from muxwsgi.mux.matchers import never, prefix
from muxwsgi.mux.mux import MAX_DEPTH, Decision, Reason
from muxwsgi.protocols.http1 import http1
from muxwsgi.testing import pieces
from muxwsgi.wire.tls.client_context import ClientContext
from muxwsgi.wire.tls.server_context import ServerContext
from tests.subscribed import subscribed

from .conftest import MAKERS, Pair
from .first_bytes import SHIPPED, any_mux, decide_in_pieces, first_bytes, ignore

YES, NO, MORE = Match.YES, Match.NO, Match.MORE

marks = st.lists(st.integers(0, 5000), max_size=8)
Swept = Callable[..., None]
Contexts = Callable[..., ServerContext]
ClientContexts = Callable[..., ClientContext]


class Recorder:
    """Makes routes, and remembers which got a connection and what it read to the end."""

    def __init__(self) -> None:
        self.got: list[tuple[str, bytes]] = []

    def route(self, name: str, match: matchers.Matcher = never, **terms: object) -> Route:
        def handler(connection: Connection) -> None:
            received = b""
            while data := connection.recv():
                received += data
            self.got.append((name, received))

        return Route(name, match, handler, **terms)  # type: ignore[arg-type]


def send_in_pieces(connection: Connection, pieces: list[bytes]) -> None:
    for piece in pieces:
        connection.sendall(piece)
        gevent.sleep(0)
    connection.shutdown(socket.SHUT_WR)


def serve(mux: Mux, pair: Pair, pieces: list[bytes]) -> Connection:
    """Let `mux` serve what the client sends in pieces; the server's end, when it is done."""
    server, client = pair
    sender = gevent.spawn(send_in_pieces, client, pieces)
    mux(server)
    sender.get(timeout=5)
    return server


# Law 1: a decision depends on the bytes, never on how they were cut


@given(any_mux(), first_bytes, marks)
@settings(max_examples=500, deadline=None)
def test_any_cut_of_any_bytes_gives_the_same_route(mux: Mux, data: bytes, marks: list[int]) -> None:
    whole = decide_in_pieces(mux, [data])
    in_pieces = decide_in_pieces(mux, pieces(data, *marks))
    byte_by_byte = decide_in_pieces(mux, [data[n : n + 1] for n in range(len(data))])
    if not data:
        assert whole is in_pieces is byte_by_byte is None
        return
    assert whole is not None
    assert in_pieces is not None
    assert byte_by_byte is not None
    assert whole.route is in_pieces.route is byte_by_byte.route
    assert whole.reason is in_pieces.reason is byte_by_byte.reason


@pytest.mark.parametrize("kind", [*MAKERS, "tls"])
def test_over_a_connection_any_cut_gives_the_same_handler_the_same_bytes(
    kind: str, make_server_context: Contexts, make_client_context: ClientContexts
) -> None:
    contexts = make_server_context(), make_client_context()

    def connect() -> Pair:
        if kind != "tls":
            return MAKERS[kind]()
        server, client = MAKERS["tcp"]()
        shaking = gevent.spawn(client.start_tls, contexts[1], server_hostname="localhost")
        return server.start_tls(contexts[0]), shaking.get(timeout=5)

    @given(st.permutations(SHIPPED), first_bytes, marks, st.sampled_from([3, 30, 16384]))
    @settings(max_examples=60, deadline=None)
    def check(order: list[matchers.Matcher], data: bytes, marks: list[int], peek_limit: int) -> None:
        recorder = Recorder()
        routes = [recorder.route(str(number), matcher) for number, matcher in enumerate(order)]
        mux = Mux(routes, fallback=recorder.route("fallback"), peek_limit=peek_limit)
        expected = decide_in_pieces(mux, [data])
        pair = connect()
        try:
            server = serve(mux, pair, pieces(data, *marks))
            if expected is None or expected.route is None:
                assert recorder.got == []
                assert server.trace == ["mux 'mux': the stream ended before its first byte: closed"]
            else:
                assert recorder.got == [(expected.route.name, data)]
                assert len(server.trace) == 1
        finally:
            for end in pair:
                end.finish()

    check()


def test_an_earlier_more_holds_back_a_later_yes() -> None:
    mux = Mux([Route("long", prefix(b"abcdef"), ignore), Route("short", prefix(b"ab"), ignore)])
    assert mux.decide(b"abc") is None
    assert decided(mux.decide(b"abcdef")) == "long"
    assert decided(mux.decide(b"abcx")) == "short"
    assert decided(mux.decide(b"abc", final=True)) == "short"


def test_a_later_more_does_not_hold_back_an_earlier_yes() -> None:
    mux = Mux([Route("short", prefix(b"ab"), ignore), Route("long", prefix(b"abcdef"), ignore)])
    assert decided(mux.decide(b"ab")) == "short"


def test_what_is_beyond_the_peek_limit_does_not_count_even_when_it_is_there() -> None:
    mux = Mux([Route("late", prefix(b"abcdef"), ignore), Route("early", prefix(b"ab"), ignore)], peek_limit=4)
    assert decided(mux.decide(b"abcdefgh")) == "early"
    assert mux.decide(b"abc") is None


def test_higher_priority_is_asked_first_and_equal_ones_in_the_order_given() -> None:
    routes = [
        Route(name, never, ignore, priority=priority)
        for name, priority in [("a", 0), ("b", 5), ("c", 0), ("d", 5)]
    ]
    assert [route.name for route in Mux(routes).routes] == ["b", "d", "a", "c"]


def decided(decision: Decision | None) -> str | None:
    assert decision is not None
    return decision.route.name if decision.route else None


# On a connection


def test_a_handler_reads_the_bytes_that_were_looked_at(pair: Pair) -> None:
    recorder = Recorder()
    server = serve(Mux([recorder.route("http", http1)], name="front"), pair, [b"GET / HT", b"TP/1.1\r\n\r\n"])
    assert recorder.got == [("http", b"GET / HTTP/1.1\r\n\r\n")]
    # How many bytes were there by then is the network's affair, and nothing but the trace depends on it.
    assert re.fullmatch(r"mux 'front': route 'http' said YES to (8|18) bytes", server.trace[0])
    assert server.deadline == math.inf
    assert server.depth == 1


def test_what_nobody_wants_goes_to_the_fallback(pair: Pair) -> None:
    recorder = Recorder()
    server = serve(Mux([recorder.route("http", http1)], fallback=recorder.route("other")), pair, [b"\0\1"])
    assert recorder.got == [("other", b"\0\1")]
    assert server.trace == ["mux 'mux': no route said YES to 2 bytes: fallback 'other'"]


def test_without_a_fallback_the_mux_returns_and_the_connection_can_be_closed(pair: Pair) -> None:
    server = serve(Mux([]), pair, [b"hello"])
    assert server.trace == ["mux 'mux': no route said YES to 5 bytes: closed"]


def test_more_at_the_end_of_the_stream_is_no(pair: Pair) -> None:
    recorder = Recorder()
    serve(Mux([recorder.route("http", http1)], fallback=recorder.route("other")), pair, [b"GE"])
    assert recorder.got == [("other", b"GE")]


def test_more_at_the_deadline_is_no(pair: Pair, swept: Swept) -> None:
    server, client = pair
    swept(server)
    recorder = Recorder()
    mux = Mux([recorder.route("http", http1)], fallback=recorder.route("other"), sniff_timeout=0.05)
    client.sendall(b"GE")
    serving = gevent.spawn(mux, server)
    gevent.sleep(0.2)
    client.sendall(b"T / HTTP/1.1\r\n")
    client.shutdown(socket.SHUT_WR)
    serving.get(timeout=5)
    assert recorder.got == [("other", b"GET / HTTP/1.1\r\n")]


def test_dripping_bytes_does_not_move_the_deadline_even_between_two_sweeps(pair: Pair) -> None:
    server, client = pair
    decisions: list[float] = []
    started = monotonic()
    mux = Mux(
        [Route("long", prefix(b"a" * 16000), ignore)],
        sniff_timeout=0.1,
        events=subscribed(decided=lambda connection, decision: decisions.append(monotonic() - started)),
    )
    serving = gevent.spawn(mux, server)
    while not serving.ready() and monotonic() - started < 5:
        client.sendall(b"a")
        gevent.sleep(0.003)
    serving.get(timeout=1)
    assert 0.1 <= decisions[0] < 4


def test_a_client_that_waits_for_the_server_reaches_the_silence_route(pair: Pair, swept: Swept) -> None:
    server, client = pair
    swept(server)

    def greet(connection: Connection) -> None:
        connection.sendall(b"220 hello\r\n" + connection.recv())

    smtp = Route("smtp", never, greet, takes_silence=True)
    mux = Mux([Route("http", http1, ignore), smtp], sniff_timeout=0.05)
    serving = gevent.spawn(mux, server)
    gevent.sleep(0.15)
    client.sendall(b"EHLO a")
    assert client.recv() == b"220 hello\r\nEHLO a"
    serving.get(timeout=5)
    assert server.trace == ["mux 'mux': no byte within 0.05 s: silence route 'smtp'"]


def test_silence_without_a_route_for_it_is_closed(pair: Pair, swept: Swept) -> None:
    server, _ = pair
    swept(server)
    fallback = Recorder()
    Mux([], fallback=fallback.route("fallback"), sniff_timeout=0.05)(server)
    assert fallback.got == []
    assert server.trace == ["mux 'mux': no byte within 0.05 s: closed"]


def test_a_named_silence_route_goes_before_one_that_takes_silence() -> None:
    named = Route("named", never, ignore)
    assert Mux([Route("smtp", never, ignore, takes_silence=True)], silence=named).silence is named


def test_a_reset_before_the_first_byte_is_the_peers_error() -> None:
    server, client = MAKERS["tcp"]()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.close()
    with pytest.raises(ConnectionResetError):
        Mux([Route("http", http1, ignore)])(server)
    server.close()


def test_a_single_byte_wakes_the_handler_after_a_long_first_question(pair: Pair) -> None:
    # The low-water mark that peeking sets must not outlive it.
    server, client = pair
    received: list[bytes] = []

    def handler(connection: Connection) -> None:
        while data := connection.recv():
            received.append(data)

    mux = Mux([Route("long", prefix(b"abcdef"), ignore)], fallback=Route("other", never, handler))
    serving = gevent.spawn(mux, server)
    for byte in (b"a", b"b", b"c", b"x"):
        client.sendall(byte)
        gevent.sleep(0.01)
    while not received:
        gevent.sleep(0.001)
    client.sendall(b"y")
    while len(received) < 2:
        gevent.sleep(0.001)
    assert received == [b"abcx", b"y"]
    client.shutdown(socket.SHUT_WR)
    serving.get(timeout=5)


def test_the_handlers_error_reaches_the_caller_and_its_slot_is_free_again(pair: Pair) -> None:
    server, client = pair

    def fail(connection: Connection) -> None:
        raise ZeroDivisionError

    route = Route("broken", prefix(b"x"), fail, limit=1)
    client.sendall(b"x")
    with pytest.raises(ZeroDivisionError):
        Mux([route])(server)
    assert route.slots.taken == 0


def test_a_matcher_that_raises_is_named(pair: Pair) -> None:
    server, client = pair

    def broken(data: bytes) -> Match:
        raise IndexError

    client.sendall(b"x")
    with pytest.raises(IndexError) as caught:
        Mux([Route("plugin", broken, ignore)])(server)
    assert caught.value.__notes__ == ["raised by the matcher of route 'plugin', given 1 byte"]


def test_a_matcher_that_returns_a_bool_is_told_what_to_return() -> None:
    # One that is found at its declaration answers so to any bytes.
    mux = Mux([Route("plugin", lambda data: data == b"x" or Match.MORE, ignore)])  # type: ignore[arg-type, return-value]
    with pytest.raises(TypeError, match=r"route 'plugin' returned True: it has to be Match\.YES"):
        mux.decide(b"x")


def test_two_routes_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="two routes named 'a'"):
        Mux([Route("a", never, ignore), Route("a", never, ignore)])


# Muxes in muxes


def test_questions_have_an_end() -> None:
    server, client = MAKERS["memory"]()
    client.sendall(b"x")
    loop = Route("loop", prefix(b"x"), lambda connection: mux(connection))
    mux = Mux([loop])
    with pytest.raises(PeerError, match="more than 8 questions") as caught:
        mux(server)
    assert caught.value.status == 400
    assert len(server.trace) == MAX_DEPTH
    assert loop.slots.taken == 0
    server.close()
    client.close()


def test_an_inner_mux_sees_what_the_handler_left(pair: Pair) -> None:
    recorder = Recorder()
    inner = Mux([recorder.route("http", http1)], name="inner")

    def peel(connection: Connection) -> None:
        assert connection.recv(6) == b"LAYER\n"
        inner(connection)

    server = serve(
        Mux([Route("layer", prefix(b"LAYER\n"), peel)], name="outer"), pair, [b"LAYER\nGET / HTTP/1.1\r\n"]
    )
    assert recorder.got == [("http", b"GET / HTTP/1.1\r\n")]
    assert server.trace[1] == "mux 'inner': route 'http' said YES to 16 bytes"


def tls_client(client: Connection, context: ClientContext, data: bytes) -> None:
    inside = client.start_tls(context, server_hostname="localhost")
    inside.sendall(data)
    inside.shutdown(socket.SHUT_WR)
    inside.recv()
    inside.close()


def test_the_tls_route_asks_again_at_the_decrypted_bytes(
    pair: Pair, make_server_context: Contexts, make_client_context: ClientContexts
) -> None:
    server, client = pair
    recorder = Recorder()
    inner = Mux([recorder.route("redis", prefix(b"*")), recorder.route("http", http1)], name="inside")
    front = Mux(
        [tls_route(make_server_context(), inner), recorder.route("plain", prefix(b"*"))], name="front"
    )
    sender = gevent.spawn(tls_client, client, make_client_context(), b"*1\r\n")
    front(server)
    server.finish()
    sender.get(timeout=5)
    assert recorder.got == [("redis", b"*1\r\n")]
    assert server.trace[0].startswith("mux 'front': route 'tls' said YES to ")
    assert server.trace[1] == "TLSv1.3, server name localhost, ALPN none"
    assert server.trace[2] == "mux 'inside': route 'redis' said YES to 4 bytes"


def test_an_agreed_alpn_id_decides_before_any_byte(
    pair: Pair, make_server_context: Contexts, make_client_context: ClientContexts
) -> None:
    server, client = pair
    recorder = Recorder()
    inner = Mux([recorder.route("redis", prefix(b"*")), recorder.route("fancy", alpn=("fancy/1", "fancy/2"))])
    assert inner.alpn == ("fancy/1", "fancy/2")
    front = Mux([tls_route(make_server_context(*inner.alpn), inner)])
    sender = gevent.spawn(tls_client, client, make_client_context("other", "fancy/2"), b"*1\r\n")
    front(server)
    server.finish()
    sender.get(timeout=5)
    assert recorder.got == [("fancy", b"*1\r\n")]
    assert server.trace[-1] == "mux 'mux': route 'fancy' owns ALPN 'fancy/2'"


def test_alpn_says_nothing_of_what_a_tunnel_through_the_protocol_carries(
    pair: Pair, make_server_context: Contexts, make_client_context: ClientContexts
) -> None:
    server, client = pair
    recorder = Recorder()
    tunnel = Mux(
        [recorder.route("http", http1, alpn=("http/1.1",)), recorder.route("redis", prefix(b"*"))],
        name="tunnel",
    )

    def connect(connection: Connection) -> None:
        assert connection.recv(8) == b"CONNECT\n"
        tunnel(connection)

    inner = Mux([Route("http", http1, connect, alpn=("http/1.1",))])
    front = Mux([tls_route(make_server_context("http/1.1"), inner)])
    sender = gevent.spawn(tls_client, client, make_client_context("http/1.1"), b"CONNECT\n*1\r\n")
    front(server)
    server.finish()
    sender.get(timeout=5)
    assert recorder.got == [("redis", b"*1\r\n")]


def test_the_first_of_two_routes_that_own_an_alpn_id_gets_it() -> None:
    low, high = (
        Route("low", never, ignore, alpn=("x", "y")),
        Route("high", never, ignore, alpn=("x",), priority=1),
    )
    mux = Mux([low, high])
    assert mux.alpn == ("x", "y")
    assert decided(mux.decide_by_alpn("x")) == "high"
    assert decided(mux.decide_by_alpn("y")) == "low"
    assert mux.decide_by_alpn("z") is None
    assert mux.decide_by_alpn(None) is None


# Limits


class Busy:
    """A handler that holds its connection until told."""

    def __init__(self) -> None:
        self.release = Event()
        self.serving: list[Connection] = []

    def __call__(self, connection: Connection) -> None:
        self.serving.append(connection)
        self.release.wait(5)


def open_connections(mux: Mux, count: int) -> tuple[list[Pair], "list[gevent.Greenlet[[Connection], None]]"]:
    pairs = [MAKERS["memory"]() for _ in range(count)]
    serving = []
    for server, client in pairs:
        client.sendall(b"x")
        serving.append(gevent.spawn(mux, server))
        gevent.sleep(0)
    gevent.sleep(0.01)
    return pairs, serving


def close_all(pairs: list[Pair]) -> None:
    for server, client in pairs:
        server.close()
        client.close()


def test_above_its_limit_a_route_refuses_at_once_and_counts() -> None:
    busy = Busy()
    refused: list[tuple[Connection, Refusal]] = []
    route = Route("busy", prefix(b"x"), busy, limit=2)
    mux = Mux([route], events=subscribed(refused=lambda connection, refusal: refused.append((connection, refusal))))
    pairs, serving = open_connections(mux, 3)
    assert serving[2].ready()
    why = "busy serves 2 connections already, which is its limit"
    assert refused == [(pairs[2][0], Refusal("limit", why, route="busy"))]
    assert pairs[2][0].trace[-1] == f"mux 'mux': {why}: closed"
    assert (route.slots.taken, route.slots.refused) == (2, 1)
    busy.release.set()
    gevent.joinall(serving, timeout=5)
    assert route.slots.taken == 0
    close_all(pairs)


def test_one_route_in_two_muxes_has_one_limit() -> None:
    busy = Busy()
    route = Route("busy", prefix(b"x"), busy, limit=1)
    pairs, serving = open_connections(Mux([route]), 1)
    more_pairs, more_serving = open_connections(Mux([route]), 1)
    assert more_serving[0].ready()
    assert route.slots.refused == 1
    busy.release.set()
    gevent.joinall(serving, timeout=5)
    close_all(pairs + more_pairs)


def test_who_waits_for_a_slot_is_served_in_order_of_arrival() -> None:
    busy = Busy()
    route = Route("busy", prefix(b"x"), busy, limit=1, limit_wait=5.0)
    pairs, serving = open_connections(Mux([route]), 3)
    assert busy.serving == [pairs[0][0]]
    assert len(route.slots.waiting) == 2
    busy.release.set()
    gevent.joinall(serving, timeout=5)
    assert busy.serving == [server for server, _ in pairs]
    assert (route.slots.taken, route.slots.refused, len(route.slots.waiting)) == (0, 0, 0)
    close_all(pairs)


def test_who_waits_too_long_for_a_slot_is_refused() -> None:
    busy = Busy()
    route = Route("busy", prefix(b"x"), busy, limit=1, limit_wait=0.05)
    pairs, serving = open_connections(Mux([route]), 2)
    serving[1].get(timeout=5)
    assert busy.serving == [pairs[0][0]]
    assert (route.slots.taken, route.slots.refused, len(route.slots.waiting)) == (1, 1, 0)
    busy.release.set()
    gevent.joinall(serving, timeout=5)
    assert route.slots.taken == 0
    close_all(pairs)


def test_who_is_killed_in_line_takes_no_slot_along() -> None:
    busy = Busy()
    route = Route("busy", prefix(b"x"), busy, limit=1, limit_wait=5.0)
    pairs, serving = open_connections(Mux([route]), 3)
    serving[1].kill()
    # The first wakes, ends and passes its slot on to one whose kill is under way already.
    busy.release.set()
    serving[2].kill()
    serving[0].join(timeout=5)
    gevent.sleep(0.01)
    assert (route.slots.taken, len(route.slots.waiting)) == (0, 0)
    close_all(pairs)


def test_a_route_sets_its_idle_timeout_on_the_connection(pair: Pair) -> None:
    server, client = pair
    client.sendall(b"x")
    seen: list[float | None] = []
    Mux(
        [
            Route(
                "idle",
                prefix(b"x"),
                lambda connection: seen.append(connection.idle_timeout),
                idle_timeout=7.0,
            )
        ]
    )(server)
    assert seen == [7.0]


def test_each_decision_is_told_before_the_handler_runs(pair: Pair) -> None:
    server, client = pair
    client.sendall(b"x")
    told: list[object] = []
    route = Route("x", prefix(b"x"), lambda connection: told.append("handler"))
    Mux(
        [route],
        events=subscribed(decided=lambda connection, decision: told.append((connection, decision.reason, decision.route))),
    )(server)
    assert told == [(server, Reason.MATCHED, route), "handler"]


def test_a_served_connection_leaves_nothing_behind() -> None:
    mux = Mux([Route("x", prefix(b"x"), lambda connection: None)], fallback=Route("f", never, ignore))

    def once() -> None:
        server, client = MAKERS["tcp"]()
        client.sendall(b"x")
        mux(server)
        server.finish()
        client.finish()

    once()
    gc.collect()
    before = sum(isinstance(thing, Connection) for thing in gc.get_objects())
    gc.disable()
    try:
        for _ in range(20):
            once()
        assert sum(isinstance(thing, Connection) for thing in gc.get_objects()) <= before
    finally:
        gc.enable()


@pytest.mark.parametrize(
    ("terms", "why"),
    [
        ({"name": ""}, "needs a name"),
        ({"alpn": "h2"}, "sequence of ids"),
        ({"limit": 0}, "limit must be"),
        ({"limit_wait": -1.0}, "negative"),
        ({"idle_timeout": 0.0}, "idle_timeout must be"),
    ],
)
def test_a_route_that_cannot_be_is_refused(terms: dict[str, object], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Route(**({"name": "a", "match": never, "handler": ignore} | terms))  # type: ignore[arg-type]
