"""Filter expressions: what they mean, and where they mean nothing."""

import gzip
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muxwsgi.errors import OperatorError
from muxwsgi.records.flow_filter import And, Code, Filter, Is, Not, Or, Search, parse_filter
from tests.records.flows import any_flow, http_flow, message, raw_flow, websocket_flow

POST = http_flow(
    "POST",
    "https://shop.example.com:8443/cart?id=7&x=(1)",
    503,
    request_fields=[("Host", "shop.example.com:8443"), ("Content-Type", "application/json"), ("X-Trace", "aaa")],
    response_fields=[("Content-Type", "text/html; charset=utf-8"), ("Set-Cookie", "session=42")],
    request_body=b'{"name": "M\xc3\xbcller"}',
    response_body=b"\x89PNG busy",
)


@pytest.mark.parametrize(
    "expression",
    [
        "~m POST", "~m post", "~m ^PO", "~d shop", r"~d ^shop\.example\.com$", "~d '^(shop|www)'", "~u cart", "cart", "~u https", "id=7&x", "a|cart",
        "~h x-trace", "~h 'x-trace: AAA$'", "~h session=", "~hq x-trace", "~hs session=", "~b Müller", "~b PNG", "~bq name", "~bs ^.PNG", "~c 503", "~c 5xx",
        "~t json", "~t html", "~tq json", "~ts html", "~src 127", r"~src :50000$", "~dst example.com:443", r"~dst 192\.0\.2\.1", "~http", "~tls",
        "~id ann", "~door connect", "~tag seen", "!~e", "!!~http", "~m POST & ~c 503", "~m POST ~c 503", "~m GET | ~c 503", "~m GET & ~c 200 | ~c 503",
        "~c 503 | ~m GET & ~c 200", "!~m GET & !(~c 200 | ~ws)", "(cart)", "((~http))", "!(!(cart))", '~u "cart"', "~u 'cart'", r'~u "\(1\)"', "~http&~tls|~ws",
        "(~ws)|(~http)", "~d\tshop\n", r"~h '(?-i:X-Trace)'", '""',
    ],
)  # fmt: skip
def test_an_expression_means_a_flow_that_is_so(expression: str) -> None:
    assert parse_filter(expression)(POST), expression
    assert not parse_filter(f"!({expression})")(POST), expression


@pytest.mark.parametrize(
    "expression",
    ["~m GET", "~d ^hop", "~u ^cart", "no-such", "~hq session", "~hs x-trace", "~bq PNG", "~bs name", "~c 500", "~c 4xx", "~tq html", "~ts json", "~src 8443",
     "~dst shop", "~raw", "~ws", "~connect", "~e", "~id ^nn", "~door socks", "~tag unseen", r"~h '(?-i:x-trace)'", "~m POST & ~c 200", "~m GET | ~c 200",
     "~http & (~c 200 | ~ws)"],
)  # fmt: skip
def test_an_expression_does_not_mean_a_flow_that_is_not_so(expression: str) -> None:
    assert not parse_filter(expression)(POST), expression


def test_a_raw_stream_has_a_host_and_no_url() -> None:
    flow = raw_flow(b"SSH-2.0-x", b"SSH-2.0-y", "[2001:db8::1]:22")
    for expression in ("~raw", "~d ^2001:db8::1$", "~bq -x$", "~bs -y$", r"~dst '\]:22'", "~door socks5"):
        assert parse_filter(expression)(flow), expression
    for expression in ("~u .", "~m .", "~c 2xx", "~h .", "~t .", "~tls", "~id ."):
        assert not parse_filter(expression)(flow), expression


def test_the_host_of_a_flow_is_that_of_its_url_its_tunnel_or_its_client_hello() -> None:
    """A client that was redirected here knows only an address; one of the names says where it wanted to go."""
    flow = http_flow(url="https://in-url.example/")
    flow.destination = "192.0.2.9:443"
    for host in ("in-url.example", r"192\.0\.2\.9", r"^example\.com$"):
        assert parse_filter(f"~d {host}")(flow), host


@pytest.mark.parametrize(
    ("expression", "column", "says"),
    [
        ("", 1, "a condition is missing"), ("  ", 3, "a condition is missing"), ("a &", 4, "a condition is missing"), ("a & | b", 5, "a condition is missing"),
        ("| a", 1, "a condition is missing"), ("()", 2, "a condition is missing"), ("!", 2, "a condition is missing"), ("(a", 1, "never closed"),
        ("a (b | (c)", 3, "never closed"), ("a)", 2, "has no ("), ("~d", 3, "~d needs a regex"), ("~d & a", 4, "~d needs a regex"),
        ("~d ~m", 4, "~d needs a regex"), ("~domain x", 1, "unknown operator ~domain"), ("a ~hostt x", 3, "unknown operator ~hostt"), ("~", 1, "unknown operator ~"),
        ("~tsl", 1, "did you mean ~t"), ("~c", 3, "~c needs a status"), ("~c 40", 4, "is not a status"), ("~c OK", 4, "is not a status"), ("~c 4x4", 4, "is not a status"),
        ("~u 'a(b'", 6, "regex"), ("~u [b-a]", 5, "regex"), ("~b a{99999999999}", 4, "regex"), ('~u "a', 4, "quote is never closed"), ("'", 1, "never closed"),
        ("(" * 60 + "a" + ")" * 60, 51, "nested"), ("!" * 60 + "a", 61, "nested"), ("~b \udcff", 4, "regex"),
    ],
)  # fmt: skip
def test_what_means_nothing_is_said_with_its_column(expression: str, column: int, says: str) -> None:
    with pytest.raises(OperatorError) as caught:
        parse_filter(expression)
    assert re.search(rf", column {column}: .*{re.escape(says)}", str(caught.value), re.S), caught.value


regexes = st.text(st.sampled_from(list("ab.*\\'\"()[]|&!~ \n#ü0")), max_size=9) | st.text(max_size=9)


@st.composite
def searches(draw: st.DrawFn) -> Filter:
    operator = draw(st.sampled_from(["~d", "~u", "~h", "~b", "~bs", "~tag", "~src", "~id"]))
    regex = draw(regexes)
    try:
        return Search(operator, regex)
    except (re.error, ValueError):
        return Search(operator, re.escape(regex.encode("utf-8", "replace").decode()))


terms = (
    searches()
    | st.sampled_from([Is("~http"), Is("~ws"), Is("~e"), Is("~raw"), Is("~tls"), Is("~connect")])
    | st.from_regex(r"[1-9]([0-9]{2}|xx)", fullmatch=True).filter(str.isascii).map(Code)
)
filters = st.recursive(
    terms,
    lambda inner: (
        inner.map(Not) | st.lists(inner, min_size=2, max_size=4).map(tuple).flatmap(lambda parts: st.sampled_from([And(parts), Or(parts)]))
    ),
    max_leaves=8,
)


@settings(deadline=None)
@given(filters)
def test_the_text_of_a_filter_is_an_expression_that_means_the_same(wanted: Filter) -> None:
    assert parse_filter(str(wanted)) == wanted


@settings(deadline=None)
@given(filters, any_flow())
def test_a_filter_has_an_answer_for_any_flow(wanted: Filter, flow: object) -> None:
    assert wanted(flow) is not Not(wanted)(flow)  # type: ignore[arg-type]


@settings(deadline=None)
@given(st.text(st.sampled_from(list("~abcduhet &|!()\"'\\5x")), max_size=25))
def test_any_text_is_a_filter_or_an_operators_fault(text: str) -> None:
    try:
        found = parse_filter(text)
    except OperatorError as error:
        column = re.search(r"column (\d+):", str(error))
        assert column and 1 <= int(column[1]) <= len(text) + 1
    else:
        assert parse_filter(str(found)) == found


def test_bodies_are_searched_without_their_coding() -> None:
    flow = http_flow(response_fields=[("Content-Encoding", "gzip")], response_body=gzip.compress(b"the password is here"))
    for operator in ("~b", "~bs"):
        assert parse_filter(f"{operator} PASSWORD")(flow)
    assert not parse_filter("~bq password")(flow)


def test_of_a_websocket_the_messages_are_searched_and_not_its_frames() -> None:
    flow = websocket_flow(message(True, b"ask: 1"), message(False, b"answer: 1"), message(True, b"\x00\xff", opcode=2))
    for expression in ("~b ask", "~b answer", "~bq ask", "~bs answer", "~bq '^\\x00\\xff$'", "!(~bq answer)", "!(~bs ask)", "!(~b masked)", "!(~b deflated)"):
        assert parse_filter(expression)(flow), expression
    flow.websocket = None  # none were read
    assert parse_filter("~bq masked & ~bs deflated")(flow)
