"""Heads for the next hop: all that is end-to-end, as it was, and nothing that is not."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muxwsgi.http.h1.sent_fields import sent_fields
from muxwsgi.proxy.exchange.fields import RequestPlan, end_to_end

HOP = ("connection", "proxy-connection", "keep-alive", "te", "upgrade", "http2-settings")
#: What a Connection field cannot make hop-by-hop.
NEVER_NAMED = ("host", "content-length", "transfer-encoding", "authorization")

names = st.one_of(
    st.from_regex(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,12}", fullmatch=True),
    st.sampled_from(["Connection", "connection", "Keep-Alive", "TE", "X-A", "x-a", "Content-Length", "Host", "Authorization", "Upgrade", "Proxy-Authorization"]),
)
values = st.text(st.characters(codec="latin-1", exclude_characters="\r\n\0"), max_size=20).map(lambda text: text.strip(" \t"))
lists = st.lists(st.tuples(names, values), max_size=12)


def plan(fields: list[tuple[str, str]], **more: object) -> RequestPlan:
    made = RequestPlan("GET", "/", fields)
    for name, value in more.items():
        setattr(made, name, value)
    return made


def named(fields: list[tuple[str, str]]) -> set[str]:
    options = ",".join(value for name, value in fields if name.lower() == "connection").split(",")
    return {option.strip().lower() for option in options} - set(NEVER_NAMED)


@pytest.mark.parametrize("name", ["Transfer_Encoding", "transfer_encoding", "CONTENT_LENGTH", "Content_Length"])
@pytest.mark.parametrize("keep_hop", [False, True])
def test_what_is_framing_to_a_server_that_takes_an_underscore_for_a_hyphen_is_not_sent(name: str, keep_hop: bool) -> None:
    made = plan([("Host", "x"), (name, "chunked"), ("Content-Length", "3"), ("X_Other", "1")], length=3, keep_hop=keep_hop)
    assert made.head()[1] == [("Host", "x"), ("Content-Length", "3"), ("X_Other", "1")]


def as_sent(head: bytes) -> list[tuple[str, str]]:
    return list(sent_fields(head, head.index(b"\r\n") + 2))


@given(lists, st.booleans())
def test_what_is_end_to_end_arrives_in_its_order_case_and_number(fields: list[tuple[str, str]], in_tunnel: bool) -> None:
    head, sent = plan(fields, in_tunnel=in_tunnel).head()
    ours = {"host", "content-length", "transfer-encoding", "connection", "te"}
    expected = [
        (name, value)
        for name, value in fields
        if name.lower() not in {*HOP, *named(fields), *ours} and (in_tunnel or name.lower() != "proxy-authorization")
    ]
    assert [field for field in sent if field[0].lower() not in ours] == expected
    assert as_sent(head) == sent
    assert head.count(b"\r\n\r\n") == 1 and head.endswith(b"\r\n\r\n")


@given(lists)
def test_nothing_hop_by_hop_is_sent(fields: list[tuple[str, str]]) -> None:
    sent = {name.lower(): value for name, value in plan(fields).head()[1]}
    assert not sent.keys() & (set(HOP) - {"connection", "te"})
    assert (sent.get("connection"), sent.get("te")) in ((None, None), ("TE", "trailers"))
    assert not sent.keys() & (named(fields) - {"te", "connection"})


@given(lists, st.one_of(st.none(), st.integers(0, 10**12)), st.booleans())
def test_one_field_says_where_the_body_ends(fields: list[tuple[str, str]], length: int | None, chunked: bool) -> None:
    sent = plan(fields, length=None if chunked else length, chunked=chunked).head()[1]
    framing = [(name.lower(), value) for name, value in sent if name.lower() in ("content-length", "transfer-encoding")]
    assert framing == ([("transfer-encoding", "chunked")] if chunked else [] if length is None else [("content-length", str(length))])


@given(lists, st.sampled_from(["a.example", "[::1]:8080"]))
def test_one_field_says_whom_it_is_for(fields: list[tuple[str, str]], host: str) -> None:
    sent = plan(fields, host=host).head()[1]
    assert [value for name, value in sent if name.lower() == "host"] == [host]


@pytest.mark.parametrize("bad", ["a\r\nX: y", "a\nX: y", "a\rX: y", "a\0", "a\r\n\r\nGET / HTTP/1.1"])
def test_a_rule_cannot_put_a_line_break_into_a_head(bad: str) -> None:
    for broken in (plan([("X-A", bad)]), plan([(bad, "1")]), plan([], host=bad), plan([], extra=(("Via", bad),))):
        with pytest.raises(ValueError, match="line break or NUL"):
            broken.head()
    for method, target in ((bad, "/"), ("GET", "/" + bad.replace(" ", ""))):
        with pytest.raises(ValueError, match=r"line break or NUL|not a method"):
            RequestPlan(method, target, []).head()


@pytest.mark.parametrize(
    ("method", "target"), [("", "/"), ("GET /x", "/"), ("GE T", "/"), ("GET\t", "/"), ("GET", ""), ("GET", "/a /b"), ("GET", "/a\tb")]
)
def test_a_rule_cannot_move_the_parts_of_a_request_line(method: str, target: str) -> None:
    with pytest.raises(ValueError, match="is no"):
        RequestPlan(method, target, []).head()


def test_what_latin_1_has_no_room_for_is_refused() -> None:
    with pytest.raises(ValueError):
        plan([("X-A", "\u2028")]).head()


@given(lists)
def test_a_response_loses_what_is_hop_by_hop_and_nothing_else(fields: list[tuple[str, str]]) -> None:
    gone = {"connection", "proxy-connection", "keep-alive", "te", "upgrade", "transfer-encoding", *named(fields)}
    assert end_to_end(fields) == [field for field in fields if field[0].lower() not in gone]
    assert end_to_end(fields, keep=True) == [f for f in fields if f[0].lower() not in ("connection", "transfer-encoding")]


def test_fields_are_read_from_a_head_as_they_were_sent() -> None:
    head = b"GET / HTTP/1.1\r\nHost: a\r\nX-Space:  \t b c \t\r\nX-Empty:\r\nX-Colon: a:b: c\r\nX-\xe9: \xe9\r\n\r\n"
    assert as_sent(head) == [("Host", "a"), ("X-Space", "b c"), ("X-Empty", ""), ("X-Colon", "a:b: c"), ("X-\xe9", "\xe9")]
    assert re.fullmatch(rb"GET / HTTP/1\.1\r\n\r\n", RequestPlan("GET", "/", []).head()[0])
