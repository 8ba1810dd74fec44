"""The matchers of SOCKS 4 and 5."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from muxwsgi.mux.match import Match
from muxwsgi.protocols.http1 import http1
from muxwsgi.protocols.socks import socks4, socks5
from muxwsgi.protocols.tls import tls
from tests.proxy.doors.socks_client import GREETING, request4

hosts = st.sampled_from(["192.0.2.1", "example.com", "a" * 255])
beginnings = st.one_of(
    st.binary(max_size=30),
    st.binary(max_size=30).map(lambda rest: b"\x05" + rest),
    st.binary(max_size=600).map(lambda rest: b"\x04\x01" + rest),
    st.builds(request4, hosts, st.integers(0, 65535), st.binary(max_size=300)),
    st.binary(max_size=12).map(lambda methods: bytes((5, len(methods))) + methods),
)


@settings(deadline=None)
@given(beginnings, st.data())
def test_the_matchers_never_change_their_mind(data: bytes, draw: Any) -> None:
    cut = draw.draw(st.integers(0, len(data)))
    for matcher in (socks4, socks5):
        before = matcher(data[:cut])
        assert before is Match.MORE or matcher(data) is before


@settings(deadline=None)
@given(beginnings)
def test_more_is_said_only_where_more_could_make_it_yes(data: bytes) -> None:
    if socks5(data) is Match.MORE:
        assert socks5(data + b"\x05\x01"[len(data) :] + bytes(255)) is Match.YES
    if socks4(data) is Match.MORE:
        assert socks4(data + b"\x04\x01\x00\x50\xc0\x00\x02\x01"[len(data) :] + b"\0\0") is Match.YES


@settings(deadline=None)
@given(st.sampled_from([GREETING, b"\x05\x02\x00\x02", request4("192.0.2.1", 80, b"ann"), request4("example.com", 80)]))
def test_a_whole_message_is_yes_and_any_part_of_it_more(message: bytes) -> None:
    matcher = socks5 if message[0] == 5 else socks4
    assert matcher(message) is matcher(message + b"\x16\x03\x01") is Match.YES
    assert {matcher(message[:n]) for n in range(len(message))} == {Match.MORE}


def test_other_protocols_are_not_taken_for_socks() -> None:
    others = [
        b"GET / HTTP/1.1\r\n",
        b"\x16\x03\x01\x00\x05\x01",
        b"\x05\x00",
        b"\x05\x01\xff",
        b"\x04\x03",
        b"\x04\x01" + b"\1" * 6 + b"x" * 256,
        b"SSH-2.0",
    ]
    assert {matcher(data) for data in others for matcher in (socks4, socks5)} == {Match.NO}
    assert (repr(socks4), repr(socks5)) == ("socks4", "socks5")


def test_socks_and_http_and_tls_never_contend() -> None:
    for first in range(256):
        assert sum(matcher(bytes((first,))) is not Match.NO for matcher in (socks4, socks5, tls, http1)) <= 1
