"""What a person is told."""

from hypothesis import given, settings

from muxwsgi import Match, Mux, Route
from muxwsgi.hijackers.tls_route import tls_route
from muxwsgi.mux.explain import explain
from muxwsgi.mux.matchers import never, prefix
from muxwsgi.protocols import described
from muxwsgi.protocols.http1 import http1
from muxwsgi.protocols.tls import alpn_is

from .first_bytes import any_mux, client_hello, decide_in_pieces, first_bytes, ignore

FRONT = Mux(
    [Route("redis", prefix(b"*"), ignore, priority=10), Route("http", http1, ignore)],
    name="front",
    fallback=Route("forward:127.0.0.1:22", never, ignore),
)


def test_a_decided_connection() -> None:
    assert str(explain(FRONT, b"GET / HTTP/1.1\r\n\r\n")).splitlines() == [
        "mux 'front', 18 bytes: b'GET / HTTP/1.1\\r\\n\\r\\n'",
        "",
        "  route  priority  matcher       whole  byte by byte",
        "  redis  10        prefix(b'*')  NO     NO at byte 1",
        "  http   0         http1         YES    YES at byte 5",
        "",
        "=> route 'http' gets it, decided by byte 5",
    ]


def test_an_open_question() -> None:
    assert str(explain(FRONT, b"GET")).splitlines()[-3:] == [
        "",
        "=> open: 'http' says MORE, which holds back the routes after it",
        "   if no more comes within 3 s: the fallback 'forward:127.0.0.1:22' gets it",
    ]


def test_what_nobody_wants() -> None:
    assert str(explain(FRONT, b"\0")).endswith(
        "=> the fallback 'forward:127.0.0.1:22' gets it, decided by byte 1"
    )
    assert str(explain(Mux([]), b"\0")).endswith("=> no route gets it: closed, decided by byte 1")


def test_the_protocol_of_bytes_that_no_route_takes_is_named() -> None:
    assert str(explain(FRONT, b"SSH-2.0-OpenSSH_9.9\r\n", described)).splitlines()[-2:] == [
        "=> the fallback 'forward:127.0.0.1:22' gets it, decided by byte 2",
        "   the bytes look like SSH (RFC 4253 section 4.2; either side speaks first)",
    ]
    for known_to_a_route in (b"*1\r\n", b"GET / HTTP/1.1\r\n", b""):
        assert "look like" not in str(explain(FRONT, known_to_a_route, described))
    assert "look like" not in str(explain(FRONT, b"\0", described))


def test_silence() -> None:
    mux = Mux([Route("smtp", never, ignore, takes_silence=True)])
    assert str(explain(mux, b"")).endswith("=> if no byte comes within 3 s: the silence route 'smtp' gets it")


def test_inside_tls_alpn_decides_or_the_bytes_that_cannot_be_seen() -> None:
    inner = Mux(
        [Route("redis", prefix(b"*"), ignore), Route("http", http1, ignore, alpn=("http/1.1",))],
        name="inside",
    )
    front = Mux([tls_route(None, inner)])  # type: ignore[arg-type]
    told = str(explain(front, client_hello(b"a.example", (b"h2", b"http/1.1"))))
    assert "ClientHello: server name a.example; ALPN h2, http/1.1; TLS 1.3, TLS 1.2" in told
    assert "Inside TLS the question goes to mux 'inside':\n" in told
    assert told.endswith("=> route 'http' gets it, because TLS would agree on ALPN 'http/1.1'")

    told = str(explain(front, client_hello(None, (b"h2",))))
    assert "ClientHello: server name none; ALPN h2; " in told
    assert told.endswith("cannot be seen from here: explain those by themselves")

    told = str(explain(front, client_hello()[:100]))
    assert "the bytes hold no complete ClientHello" in told


def test_a_matcher_that_breaks_its_promise_is_found_out() -> None:
    def fickle(data: bytes) -> Match:
        return Match.YES if len(data) == 2 else Match.NO

    told = str(explain(Mux([Route("plugin", fickle, ignore)]), b"abc"))
    assert "  plugin  0         fickle   NO     NO at byte 0, YES at byte 2, NO at byte 3" in told
    assert "! the matcher of 'plugin' breaks its promise" in told


def test_long_first_bytes_are_shown_in_part_and_looked_at_up_to_the_peek_limit() -> None:
    found = explain(Mux([Route("a", alpn_is("x"), ignore)], peek_limit=100), client_hello())
    assert len(found.shown) == 100
    assert "..." in str(found).splitlines()[0]
    assert found.decision is not None
    assert found.decision.route is None


@given(any_mux(), first_bytes)
@settings(max_examples=100, deadline=None)
def test_it_tells_what_would_happen(mux: Mux, data: bytes) -> None:
    found = explain(mux, data[:300])
    assert found.same or found.decision is None
    assert all(answer.lawful for answer in found.answers)
    happens = decide_in_pieces(mux, [data[:300]])
    if happens is not None:
        assert found.otherwise == happens
    assert str(found)


def test_the_time_that_is_told_is_the_one_that_holds() -> None:
    late = Route("http", http1, ignore, takes_late=True)
    assert "if no more comes within 30 s: route 'http' gets it, to say that it is incomplete" in str(explain(Mux([late], patience=30), b"GE"))
    assert "if no byte comes within 30 s: no route gets it: closed" in str(explain(Mux([late], patience=30), b""))
    other = Route("other", never, ignore)
    assert "if no more comes within 3 s: the fallback 'other' gets it" in str(explain(Mux([late], fallback=other, patience=30), b"GE"))
