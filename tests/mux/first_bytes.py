"""First bytes to decide on: what real clients send, and what hypothesis makes of it."""

import time
from collections.abc import Callable
from functools import cache

from hypothesis import strategies as st
from OpenSSL import SSL

from muxwsgi import Mux, Route
from muxwsgi.mux import matchers
from muxwsgi.mux.matchers import Matcher
from muxwsgi.mux.mux import Decision
from muxwsgi.protocols import known
from muxwsgi.protocols.http1 import http1_line, nearly_http, word
from muxwsgi.protocols.tls import alpn_is, nearly_tls, sni_is


@cache
def client_hello(
    server_name: bytes | None = b"www.example.com", alpn: tuple[bytes, ...] = (b"h2", b"http/1.1")
) -> bytes:
    """What OpenSSL sends first."""
    context = SSL.Context(SSL.TLS_METHOD)
    connection = SSL.Connection(context, None)
    if server_name is not None:
        connection.set_tlsext_host_name(server_name)
    if alpn:
        connection.set_alpn_protos(list(alpn))
    connection.set_connect_state()
    try:
        connection.do_handshake()
    except SSL.WantReadError:
        return connection.bio_read(65536)
    raise AssertionError("a handshake without a peer")


def in_records(hello: bytes, size: int) -> bytes:
    """A ClientHello in one record, split over records of `size` bytes."""
    body = hello[5:]
    parts = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(hello[:3] + len(part).to_bytes(2, "big") + part for part in parts)


SAMPLES = [
    *(data for protocol in known() for data in (*protocol.begins, *protocol.not_begins)),
    client_hello(),
    client_hello(None, ()),
    in_records(client_hello(), 500),
    in_records(client_hello(), 64),
]

_words = st.sampled_from(
    [
        *(
            b"GET",
            b"CONNECT",
            b"OPTIONS",
            b"PRI",
            b"BREW",
            b" ",
            b"/",
            b"*",
            b"http://",
            b"a:1",
            b" HTTP/1.1",
            b"\t",
            b" HTTP/1.1\r\n",
        ),
        *(b" HTTP/2.0", b"\r\n", b"\r", b"\n", b"SSH-", b"\x16\x03", b"\x01", b"\0", b"x", b"EHLO", b"PING"),
    ]
)


@st.composite
def _mutated(draw: st.DrawFn) -> bytes:
    sample = bytearray(draw(st.sampled_from(SAMPLES)))
    for _ in range(draw(st.integers(1, 3))):
        sample[draw(st.integers(0, min(len(sample), 100) - 1))] = draw(st.integers(0, 255))
    return bytes(sample)


first_bytes = st.one_of(
    st.sampled_from(SAMPLES),
    st.lists(_words, max_size=8).map(b"".join),
    st.builds(
        lambda sample, n, rest: sample[:n] + rest,
        st.sampled_from(SAMPLES),
        st.integers(0, 60),
        st.binary(max_size=20),
    ),
    _mutated(),
    st.binary(max_size=40),
)

#: Every matcher that is shipped.
SHIPPED: list[Matcher] = [
    *(protocol.match for protocol in known()),
    *(protocol.loose for protocol in known() if protocol.loose is not None),
    http1_line,
    word,
    nearly_http,
    nearly_tls,
    sni_is("*.example.com"),
    alpn_is("http/1.1"),
    matchers.never,
    matchers.prefix(b"SSH-", b"*", b"SSH-2.0-OpenSSH"),
    matchers.regex(rb"(?i)(?:EHLO|HELO) [^\r\n]*\r?\n", 64),
    matchers.regex(rb"(?:\*\d+|PING)\r\n", 8),
]

any_matcher = st.recursive(
    st.sampled_from(SHIPPED),
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(lambda some: matchers.any_of(*some)),
        st.lists(inner, min_size=1, max_size=3).map(lambda some: matchers.all_of(*some)),
        inner.map(matchers.not_),
    ),
    max_leaves=5,
)


def ignore(connection: object) -> None:
    """A handler."""


@st.composite
def any_mux(draw: st.DrawFn) -> Mux:
    """A mux of any matchers in any order, small peek limits included."""
    routes = [
        Route(str(number), matcher, ignore, priority=draw(st.integers(0, 2)), takes_late=draw(st.booleans()))
        for number, matcher in enumerate(draw(st.lists(any_matcher, max_size=5)))
    ]
    fallback = Route("fallback", matchers.never, ignore) if draw(st.booleans()) else None
    return Mux(routes, fallback=fallback, peek_limit=draw(st.sampled_from([1, 5, 20, 16384])))


def decide_in_pieces(mux: Mux, pieces: list[bytes]) -> Decision | None:
    """What the mux decides when the pieces come one after the other, and then no more."""
    seen = b""
    for piece in pieces:
        seen += piece
        decision = mux.decide(seen)
        if decision is not None:
            return decision
    return mux.decide(seen, final=True)


def least(ask: Callable[[bytes], object], data: bytes) -> float:
    """Seconds, the least of many."""
    spent = []
    for _ in range(30):
        began = time.perf_counter()
        ask(data)
        spent.append(time.perf_counter() - began)
    return min(spent)
