"""The matchers: examples as a table, the laws as properties."""

import re

import pytest
from hypothesis import given, settings

from muxwsgi import Match
from muxwsgi.mux.matchers import Matcher, all_of, any_of, never, not_, prefix, regex
from muxwsgi.protocols.http1 import LEADING_CRLFS, http1, http1_line, http_last
from muxwsgi.protocols.http2 import http2_preface
from muxwsgi.protocols.tls import alpn_is, sni_is, tls
from muxwsgi.testing import verdicts

from .first_bytes import any_matcher, client_hello, first_bytes, ignore, in_records, least

YES, NO, MORE = Match.YES, Match.NO, Match.MORE


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", MORE),
        (b"G", MORE),
        (b"GET", MORE),
        (b"GET ", MORE),
        (b"GET /", YES),
        (b"GET /\r\n", YES),  # HTTP/0.9: the engine says 400
        (b"GET / HTTP/2.0\r\n", YES),  # likewise
        (b"GET /\0", YES),
        (b"GET http:/", MORE),
        (b"GET http://", YES),
        (b"GET HTTPS://", YES),
        (b"GET ftp://", NO),
        (b"GET k", NO),
        (b"GET key\r\n", NO),
        (b"GET\r\n", NO),
        (b"GET  /", NO),
        (b"UPDATEREDIRECTREF /", YES),
        (b"OPTIONS *", MORE),
        (b"OPTIONS * HTTP/1", MORE),
        (b"OPTIONS * HTTP/1.1\r\n", YES),
        (b"OPTIONS * RTSP/1.0\r\n", NO),
        (b"OPTIONS rtsp://a/", NO),
        (b"OPTIONS sip:a@b", NO),
        (b"OPTIONS *a", NO),
        (b"get /", NO),
        (b"get / HTTP/1.1", NO),
        (b"BREW /a", NO),
        (b"BREW /a\r\n", NO),
        (b"BREW /a HTCPCP/1.0", NO),
        (b"BREW /a HTTP/2.0", NO),
        (b"BREW /a HTTP/1.", NO),
        (b"BREW https://a/ HTTP/1.1", NO),
        (b"SOURCE /a ICE/1.0", NO),
        (b"A", MORE),
        (b"AC", MORE),
        (b"AB", NO),
        (b"A" * 33, NO),
        (b"GET *", NO),
        (b"A" * 32 + b" / HTTP/1.1", NO),
        (b"BREW /" + b"a" * 9000, NO),
        (b"CONNECT a:1", MORE),
        (b"CONNECT a:1 HTTP/1.1", YES),
        (b"CONNECT [::1]:443 HTTP/1.0", YES),
        (b"CONNECT a HTTP/1.1", NO),  # no port: nothing but an error
        (b"CONNECT {", NO),
        (b"CONNECT\n", NO),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", NO),
        (b"PRI * HTTP/1.1\r\n", NO),
        (b"\r", MORE),
        (b"\r\n", MORE),
        (b"\rG", NO),
        (b"\nGET /", NO),
        (b"\r\n" * LEADING_CRLFS + b"GET /", YES),
        (b"\r\n" * LEADING_CRLFS + b"G", MORE),
        (b"\r\n" * LEADING_CRLFS + b"AB", NO),
        (b"\r\n" * LEADING_CRLFS + b"\r", NO),
        (b"\r\n" * LEADING_CRLFS + b"\r\nGET /", NO),
        (b" GET /", NO),
        (b"*1\r\n$4\r\nPING\r\n", NO),
        (b"PING\r\n", NO),
        (b"SSH-2.0-OpenSSH_9.9 x", NO),
        (b"EHLO there\r\n", NO),
        (b"\x16\x03\x01", NO),
    ],
)
def test_http_is_what_a_registered_method_begins(data: bytes, expected: Match) -> None:
    assert http1(data) is expected


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", MORE),
        (b"A", MORE),
        (b"AB", MORE),
        (b"BREW /a HTTP/1", MORE),
        (b"BREW /a HTTP/1.", YES),  # in order: not a byte later than it has to be
        (b"BREW https://a/ HTTP/1.", YES),
        (b"M-SEARCH * HTTP/1.", YES),
        (b"A" * 40 + b" / HTTP/1.", YES),
        (b"\r\n" * LEADING_CRLFS + b"BREW / HTTP/1.", YES),
        (b"\r\n" * 5 + b"GET / HTTP/1.", MORE),
        (b"\r\n" * 5 + b"GET / HTTP/1.1\r\n", YES),
        (b"\n\t \r\r\nGET / HTTP/1.1\n", YES),
        (b"GET foo/bar HTTP/1.1\r\n", YES),
        (b"GET foo/bar HTTP/1.1", MORE),
        (b"GET foo HTTP/1.1 is what I say\r\n", NO),
        (b"GET foo HTTP/1.x\r\n", NO),
        (b"GET foo\r\nHTTP/1.1\r\n", NO),
        (b" GET / HTTP/1.1\r\n", YES),
        (b"GET  / HTTP/1.1\r\n", YES),
        (b"GET HTTP/1.1\r\n", YES),
        (b" HTTP/1.1\r\n", YES),
        (b"HTTP/1.1\r\n", NO),
        (b"HTTP/1.1 200 OK\r\n", NO),
        (b"FOO / HTTP/2.0\r\n", YES),
        (b"PRI * HTTP/2.0\r\n", YES),
        (b"junk GET / HTTP/1.1\r\n", YES),
        (b"GET /\tHTTP/1.1 \r\n", YES),
        (b'"{<\xc3\xa4 HTTP/1.1\r\n', YES),
        (b"GET ftp://h/x HTTP/1.1\r\n", YES),
        (b"GET ws://h/x HTTP/1.1\r\n", YES),
        (b"GET urn:x HTTP/1.1\r\n", YES),
        (b"OPTIONS * RTSP/1.0\r\n", NO),
        (b"DESCRIBE rtsp://a/b RTSP/1.0\r\n", NO),
        (b"OPTIONS sip:a@b SIP/2.0\r\n", NO),
        (b"SOURCE /a ICE/1.0\r\n", NO),
        (b"BREW /a HTCPCP/1.0\r\n", NO),
        (b"GET key\r\n", NO),
        (b"PING\r\n", NO),
        (b"SSH-2.0-OpenSSH_9.9 x\r\n", NO),
        (b"get / http/1.1\r\n", NO),
        (b"GET\x00/ HTTP/1.1\r\n", NO),
        (b"\x10\x0c", NO),
        (b"\x16\x03", NO),
        (b"BREW /" + b"a" * 8185, YES),  # too long for anybody: 414
        (b"say " + b"a" * 8187, NO),
        (b"\r\n " * 90, YES),
    ],
)
def test_what_ends_its_first_line_in_http_and_a_digit_is_http(data: bytes, expected: Match) -> None:
    assert http1_line(data) is expected


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", MORE),
        (b"\x16", MORE),
        (b"\x16\x03\x01\x02\x00", MORE),
        (b"\x16\x03\x01\x02\x00\x01", YES),
        (b"\x16\x03\x03\x00\x01\x01", YES),
        (b"\x16\x03\x05", MORE),
        (b"\x16\x03\xff\x02\x00\x01", YES),
        (b"\x16\x02", NO),
        (b"\x15", NO),
        (b"\x80\x2e\x01\x03\x01", NO),  # an SSL 2 hello
        (b"\x16\x03\x01\x00\x00", NO),
        (b"\x16\x03\x01\x40\x01", NO),
        (b"\x16\x03\x01\x02\x00\x02", NO),
    ],
)
def test_tls_is_a_record_with_a_client_hello(data: bytes, expected: Match) -> None:
    assert tls(data) is expected


def test_the_http2_preface_is_all_of_its_24_bytes() -> None:
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    assert verdicts(http2_preface, preface + b"x") == [MORE] * 24 + [YES, YES]
    assert http2_preface(b"PRI * HTTP/2.0\r\n\r\nX") is NO


@given(any_matcher, first_bytes)
@settings(max_examples=400, deadline=None)
def test_no_matcher_ever_changes_a_yes_or_a_no(matcher: Matcher, data: bytes) -> None:
    said = verdicts(matcher, data)
    decided = [verdict for verdict in said if verdict is not MORE]
    assert said[len(said) - len(decided) :] == decided
    assert len(set(decided)) <= 1


@given(first_bytes)
@settings(max_examples=300, deadline=None)
def test_nothing_is_both_http1_and_http2_and_tls(data: bytes) -> None:
    assert [http1(data), http2_preface(data), tls(data)].count(YES) <= 1


def test_sni_is_asks_for_a_name_or_for_one_label_below() -> None:
    hello = client_hello(b"WWW.Example.com")
    assert sni_is("www.example.com")(hello) is YES
    assert sni_is("other", "*.Example.COM")(hello) is YES
    assert sni_is("example.com", "*.com", "*.www.example.com")(hello) is NO
    assert sni_is("www.example.com")(client_hello(None)) is NO
    assert sni_is("www.example.com")(hello[:-1]) is MORE
    assert sni_is("www.example.com")(b"GET / HTTP/1.1\r\n") is NO


def test_alpn_is_asks_for_any_offered_id() -> None:
    hello = in_records(client_hello(alpn=(b"h2", b"http/1.1")), 300)
    assert alpn_is("http/1.1")(hello) is YES
    assert alpn_is("h3", "h2")(hello) is YES
    assert alpn_is("h3")(hello) is NO
    assert alpn_is("h2")(client_hello(alpn=())) is NO


def test_prefix_is_decided_by_the_shortest_that_fits() -> None:
    matcher = prefix(b"ab", b"abcd", b"x")
    assert [matcher(data) for data in (b"", b"a", b"ab", b"abz", b"x", b"az")] == [
        MORE,
        MORE,
        YES,
        YES,
        YES,
        NO,
    ]


def test_combinators_decide_as_early_as_they_can() -> None:
    a, ab, abc = prefix(b"a"), prefix(b"ab"), prefix(b"abc")
    assert any_of(abc, a)(b"a") is YES
    assert any_of(abc, ab)(b"a") is MORE
    assert all_of(abc, not_(a))(b"a") is NO
    assert all_of(a, abc)(b"a") is MORE
    assert not_(a)(b"b") is YES
    assert not_(ab)(b"a") is MORE
    assert not_(never)(b"") is YES


def test_a_matcher_shows_the_expression_that_makes_it() -> None:
    def speaks_fancy(data: bytes) -> Match:
        return NO

    matcher = any_of(http1, all_of(not_(prefix(b"a", b"b")), sni_is("*.b")), regex(b"x+y", 9), speaks_fancy)
    assert repr(matcher) == (
        "any_of(http1, all_of(not_(prefix(b'a', b'b')), sni_is('*.b')), regex(b'x+y', 9), speaks_fancy)"
    )


def test_what_would_match_everything_is_refused() -> None:
    for make in (prefix, any_of, all_of, sni_is, alpn_is):
        with pytest.raises(ValueError, match="at least one"):
            make()
    with pytest.raises(ValueError, match="none may be empty"):
        prefix(b"a", b"")
    with pytest.raises(ValueError, match="limit"):
        regex(b"a", 0)


@pytest.mark.parametrize("data", [b"a" * 16000, b" " * 16000, b"\r\n" * 4000 + b"a" * 8000, b"GET " + b"/" * 8000])
@pytest.mark.parametrize("fallback", [False, True])
def test_http_is_asked_at_the_speed_of_c_since_each_byte_that_comes_alone_asks_anew(data: bytes, fallback: bool) -> None:
    look = re.compile(rb"[ \r\n!-~]*").fullmatch
    assert least(http_last(ignore, fallback=fallback).match, data) < 25 * least(look, data)
