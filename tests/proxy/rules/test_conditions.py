"""Conditions: what each says of a request, a response and a tunnel, in any spelling that means the same."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muxwsgi.names import comparable, split_host_port
from muxwsgi.proxy.context import Context
from muxwsgi.proxy.rules import conditions
from muxwsgi.proxy.rules.conditions import (
    Condition,
    all_of,
    any_of,
    condition,
    content_type_is,
    dst_host_is,
    header_matches,
    is_localhost,
    method_is,
    not_,
    port_is,
    protocol_is,
    req_host_is,
    req_host_matches,
    src_ip_is,
    status_code_is,
    url_has_prefix,
    url_is,
    url_matches,
)
from muxwsgi.proxy.rules.message import Request, Response
from muxwsgi.proxy.rules.rules import Rules

from .conftest import MakeContext, MakeEnviron, MakeRequest

# URLs


@pytest.mark.parametrize(
    ("asked", "url", "answer"),
    [
        (url_is("/a"), "http://example.com/a", True),
        (url_is("/a"), "https://other.example:8443/a?b", True),
        (url_is("/a"), "http://example.com/a/", False),
        (url_is("example.com/a"), "http://example.com/a", True),
        (url_is("example.com/a"), "https://EXAMPLE.com.:443/a?b", True),
        (url_is("EXAMPLE.com/a"), "http://example.com/a", True),
        (url_is("example.com/a"), "http://example.com:8080/a", False),
        (url_is("example.com:8080/a"), "http://example.com:8080/a", True),
        (url_is("example.com:80/a"), "http://example.com/a", True),
        (url_is("example.com:80/a"), "https://example.com/a", False),
        (url_is("example.com"), "http://example.com/", True),
        (url_is("https://example.com/a"), "http://example.com/a", False),
        (url_is("HTTPS://example.com/a"), "https://example.com/a", True),
        (url_is("/a b"), "http://example.com/a%20b", True),
        (url_is("/a%20b"), "http://example.com/a%20b", True),
        (url_is("/admin"), "http://example.com/%61dmin", True),
        (url_is("/a?b=1"), "http://example.com/a?b=1", True),
        (url_is("/a?b=1"), "http://example.com/a?b=2", False),
        (url_is("/a?"), "http://example.com/a?b", False),
        (url_is("/x", "/y"), "http://example.com/y", True),
        (url_is("[::1]/a"), "http://[0:0::1]:80/a", True),
        (url_has_prefix("/a"), "http://example.com/abc", True),
        (url_has_prefix("/a"), "http://example.com/b/a", False),
        (url_has_prefix("example.com"), "http://example.com/abc", True),
        (url_has_prefix("example.com"), "http://example.com.evil.test/", False),
        (url_has_prefix("example.com/a"), "http://Example.COM:80/%61bc?x", True),
        (url_has_prefix("http://example.com/a"), "https://example.com/abc", False),
        (url_has_prefix("/b", "https://example.com/a"), "https://example.com/abc", True),
        (url_has_prefix("/a?b"), "http://example.com/a?bc", True),
        (url_has_prefix("/a?b"), "http://example.com/ab?bc", False),
        (url_matches(r"\.gif$"), "http://example.com/a.gif?b", True),
        (url_matches(r"^example\.com/a"), "http://example.com/a", True),
        (url_matches(r"^https://example\.com/"), "https://EXAMPLE.com:443/", True),
        (url_matches(r"^/$"), "http://example.com/", True),
        (url_matches(r"example\.com:8080/"), "http://example.com:8080/", True),
        (url_matches(r"secret"), "http://example.com/?secret", False),
        (url_matches(r"secret", query=True), "http://example.com/?secret", True),
        (url_matches(re.compile("SECRET", re.I)), "http://example.com/secret", True),
        (url_matches("a", "b$"), "http://xxxxxxx.xxx/b", True),
    ],
)
def test_urls(make_request: MakeRequest, make_context: MakeContext, asked: Condition, url: str, answer: bool) -> None:
    request = make_request(url)
    assert asked(request, make_context(request=request)) is answer


def test_a_tunnel_has_no_path(make_context: MakeContext) -> None:
    for asked in (url_is("example.com"), url_has_prefix("example.com"), url_matches("")):
        assert asked("example.com:443", make_context()) is False


# Hosts


@pytest.mark.parametrize(
    ("asked", "url", "answer"),
    [
        (req_host_is("example.com"), "http://example.com/", True),
        (req_host_is("example.com"), "https://Example.Com.:443/", True),
        (req_host_is("example.com"), "https://example.com:80/", False),
        (req_host_is("example.com"), "http://example.com:8080/", False),
        (req_host_is("example.com:8080"), "http://example.com:8080/", True),
        (req_host_is("example.com:443"), "https://example.com/", True),
        (req_host_is("example.com:443"), "http://example.com/", False),
        (req_host_is("example.com"), "http://www.example.com/", False),
        (req_host_is("a.example", "b.example"), "http://b.example/", True),
        (req_host_is("bücher.example"), "http://xn--bcher-kva.example/", True),
        (req_host_is("127.0.0.1"), "http://2130706433/", True),
        (req_host_is("127.0.0.1"), "http://0x7f.1/", True),
        (req_host_is("127.0.0.1"), "http://[::ffff:7f00:1]/", True),
        (req_host_is("::1"), "http://[0:0:0:0:0:0:0:1]/", True),
        (req_host_is("[::1]:8080"), "http://[::1]:8080/", True),
        (req_host_matches(r"^.*\.example\.com$"), "http://www.EXAMPLE.com/", True),
        (req_host_matches(r":443$"), "https://example.com/", True),
        (req_host_matches(r":443$"), "http://example.com/", False),
        (req_host_matches(r"^\[::1\]:80$"), "http://[::1]/", True),
        (req_host_matches(r"\.gif$"), "http://example.com/a.gif", False),
        (dst_host_is("example.com"), "http://EXAMPLE.com:8080/", True),
        (dst_host_is("example.com:443"), "http://example.com:8080/", False),
        (port_is(443, 8443), "https://example.com/", True),
        (port_is(443, 8443), "http://example.com/", False),
        (is_localhost, "http://localhost/", True),
        (is_localhost, "http://a.LOCALHOST.:8080/", True),
        (is_localhost, "http://127.9.9.9/", True),
        (is_localhost, "http://[::1]/", True),
        (is_localhost, "http://0/", True),
        (is_localhost, "http://[::ffff:127.0.0.1]/", True),
        (is_localhost, "http://localhost.example.com/", False),
        (is_localhost, "http://192.0.2.1/", False),
    ],
)
def test_hosts(make_request: MakeRequest, make_context: MakeContext, asked: Condition, url: str, answer: bool) -> None:
    request = make_request(url)
    assert asked(request, make_context(request=request)) is answer


@pytest.mark.parametrize(
    ("asked", "host", "answer"),
    [
        (req_host_is("example.com"), "EXAMPLE.com.:443", True),
        (req_host_is("example.com"), "example.com:80", True),
        (req_host_is("example.com"), "example.com:8443", False),
        (req_host_is("example.com:8443"), "example.com:8443", True),
        (req_host_matches(r"^example\.com$"), "example.com:8443", True),
        (req_host_matches(r":8443$"), "example.com:8443", True),
        (dst_host_is("example.com"), "Example.com:8443", True),
        (dst_host_is("example.com:443"), "example.com:8443", False),
        (dst_host_is("::1"), "[::1]:8443", True),
        (port_is(8443), "[::1]:8443", True),
        (is_localhost, "localhost:22", True),
        (is_localhost, "[::1]:22", True),
        (is_localhost, "example.com:22", False),
        (method_is("connect"), "example.com:22", True),
        (method_is("GET"), "example.com:22", False),
        (protocol_is("tcp"), "example.com:22", True),
        (protocol_is("tls", "https"), "example.com:443", False),
        (~url_is("/a"), "example.com:443", True),
        (port_is(443) & ~dst_host_is("example.com"), "other.example:443", True),
    ],
)
def test_tunnels(make_context: MakeContext, asked: Condition, host: str, answer: bool) -> None:
    assert asked(host, make_context()) is answer


def test_inside_of_a_tunnel_its_destination_counts_and_not_what_requests_name(make_request: MakeRequest, make_context: MakeContext) -> None:
    request = make_request("https://innocent.example/")
    ctx = make_context(("evil.example", 8443), request=request)
    assert dst_host_is("evil.example")(request, ctx) and not dst_host_is("innocent.example")(request, ctx)
    assert req_host_is("innocent.example")(request, ctx) and not req_host_is("evil.example")(request, ctx)
    assert port_is(8443)(request, ctx) and not port_is(443)(request, ctx)
    assert is_localhost(request, make_context(("127.0.0.1", 80)))


def test_where_a_rule_has_sent_a_request_counts_from_then_on(make_request: MakeRequest, make_context: MakeContext) -> None:
    request = make_request("https://example.com/")
    ctx = make_context(("example.com", 443), request=request)
    request.url = "https://other.example:8443/"
    assert dst_host_is("other.example:8443")(request, ctx) and port_is(8443)(request, ctx)


labels = st.text("abcxyz0189-", min_size=1, max_size=10).filter(lambda label: label[0] not in "-0123456789" and label[-1] != "-")


@given(st.lists(labels, min_size=1, max_size=4), st.booleans(), st.data())
def test_any_spelling_of_a_host_is_the_host(parts: list[str], dot: bool, data: st.DataObject) -> None:
    host = ".".join(parts)
    flips = data.draw(st.lists(st.booleans(), min_size=len(host), max_size=len(host)))
    spelled = "".join(char.upper() if flip else char for char, flip in zip(host, flips, strict=True)) + "." * dot
    assert comparable(spelled) == host
    assert split_host_port(f"{spelled}:81") == (spelled, 81)


@given(st.ip_addresses(v=4))
def test_any_spelling_of_an_ipv4_address_is_the_address(address: Any) -> None:
    number = int(address)
    high, low = number >> 24, number & 0xFFFFFF
    for spelled in (str(address), str(number), hex(number), f"{high}.{low}", f"{high:#o}.{low:#x}".replace("0o", "0"), f"::ffff:{address}", f"{address}."):
        assert comparable(spelled) == str(address), spelled


@given(st.ip_addresses(v=6).filter(lambda address: address.ipv4_mapped is None))
def test_any_spelling_of_an_ipv6_address_is_the_address(address: Any) -> None:
    for spelled in (str(address), address.exploded, address.exploded.upper()):
        assert comparable(spelled) == str(address)
        assert split_host_port(f"[{spelled}]:81") == (spelled, 81)
        assert split_host_port(f"[{spelled}]") == split_host_port(spelled) == (spelled, None)


@given(st.text(max_size=40))
def test_no_host_is_too_strange_to_be_compared(text: str) -> None:
    assert isinstance(comparable(text), str)
    assert split_host_port(text)


# The client


@pytest.mark.parametrize(
    ("client", "network", "answer"),
    [
        (("192.0.2.7", 1), "192.0.2.7", True),
        (("192.0.2.77", 1), "192.0.2.7", False),
        (("192.0.2.77", 1), "192.0.2.0/24", True),
        (("::ffff:192.0.2.7", 1, 0, 0), "192.0.2.0/24", True),
        (("2001:db8::1", 1, 0, 0), "2001:db8::/32", True),
        (("fe80::1%eth0", 1, 0, 2), "fe80::/10", True),
        (("192.0.2.7", 1), "::/0", False),
        ("/run/socket", "0.0.0.0/0", False),
        (("memory", 1), "0.0.0.0/0", False),
    ],
)
def test_clients(make_request: MakeRequest, make_context: MakeContext, client: Any, network: str, answer: bool) -> None:
    ctx = make_context(client=client)
    assert src_ip_is("198.51.100.1", network)(make_request(), ctx) is answer
    assert src_ip_is(network)("example.com:443", ctx) is answer


# Messages


def test_methods_and_fields(make_request: MakeRequest, make_context: MakeContext) -> None:
    request = make_request(method="POST", fields="X-A: one\nX-a: two\nEmpty:")
    ctx = make_context(request=request)
    assert method_is("get", "post")(request, ctx) and not method_is("GET")(request, ctx)
    assert header_matches("x-a", "^two$")(request, ctx) and not header_matches("x-a", "three")(request, ctx)
    assert header_matches("Empty")(request, ctx) and not header_matches("Missing")(request, ctx)
    assert header_matches("X-A")("example.com:443", ctx)
    assert not header_matches("X-A")("example.com:443", make_context())


def test_responses(make_request: MakeRequest, make_context: MakeContext) -> None:
    ctx = make_context(request=make_request("http://example.com/a", fields="X: request"))
    response = Response("", 404, headers={"Content-Type": "Text/HTML; charset=utf-8", "X": "response"})
    assert content_type_is("text/plain", "text/html")(response, ctx) and not content_type_is("text/htm")(response, ctx)
    assert status_code_is(404, 410)(response, ctx) and not status_code_is(200)(response, ctx)
    assert header_matches("X", "^response$")(response, ctx) and not header_matches("X", "request")(response, ctx)
    bare = Response()
    del bare.headers["Content-Type"]
    assert not content_type_is("text/html")(bare, ctx)


def test_what_is_about_requests_looks_at_the_request_that_a_response_answers(make_request: MakeRequest, make_context: MakeContext) -> None:
    response = Response()
    ctx = make_context(request=make_request("http://example.com/a"))
    assert url_is("/a")(response, ctx) and (url_is("/a") & status_code_is(200))(response, ctx)
    assert not url_is("/b")(response, ctx)
    assert not url_is("/a")(response, make_context())


@pytest.mark.parametrize(
    ("url", "fields", "protocols"),
    [
        ("http://example.com/", "", {"http"}),
        ("https://example.com/", "", {"https"}),
        ("https://example.com/", "Upgrade: WebSocket\nConnection: upgrade", {"https", "websocket"}),
        ("http://example.com/", "Upgrade: h2c\nConnection: upgrade", {"http"}),
    ],
)
def test_protocols_of_requests(make_request: MakeRequest, make_context: MakeContext, url: str, fields: str, protocols: set[str]) -> None:
    request = make_request(url, fields=fields)
    ctx = make_context(("example.com", 443), request=request, tls=True)
    assert {name for name in ("http", "https", "websocket", "tls", "tcp") if protocol_is(name)(request, ctx)} == protocols


def test_a_tunnel_with_tls_that_carries_no_http_is_tls(make_context: MakeContext) -> None:
    assert protocol_is("tls")("example.com:443", make_context(tls=True))
    assert not protocol_is("tcp")("example.com:443", make_context(tls=True))


# Together


def always(subject: object, ctx: Context) -> bool:
    return True


def never(subject: object, ctx: Context) -> bool:
    return False


@given(st.lists(st.booleans(), max_size=4), st.booleans())
def test_conditions_combine_as_logic_does(truths: list[bool], other: bool) -> None:
    tests = [always if truth else never for truth in truths]
    last = condition(always if other else never)
    ctx: Any = None
    for subject in ("example.com:443", Response(), object.__new__(Request)):
        assert all_of(*tests)(subject, ctx) is all(truths)
        assert any_of(*tests)(subject, ctx) is any(truths)
        assert not_(last)(subject, ctx) is (~last)(subject, ctx) is (not other)
        for test, truth in zip(tests, truths, strict=True):
            assert (test & last)(subject, ctx) is (last & test)(subject, ctx) is (truth and other)
            assert (test | last)(subject, ctx) is (last | test)(subject, ctx) is (truth or other)


def test_a_condition_shows_how_it_was_written() -> None:
    asked = (url_is("example.com/a", "/b") | ~method_is("get")) & src_ip_is("192.0.2.0/24") & never & is_localhost
    assert repr(asked) == "((((url_is('example.com/a', '/b') | ~method_is('get')) & src_ip_is('192.0.2.0/24')) & never) & is_localhost)"
    assert repr(url_matches("a", re.compile("b"), query=True)) == "url_matches('a', 'b', query=True)"
    assert repr(req_host_matches(re.compile("b"))) == "req_host_matches('b')"
    assert repr(all_of()) == "all_of()"


def test_the_second_condition_is_not_asked_where_the_first_has_decided(make_context: MakeContext) -> None:
    def fails(subject: object, ctx: Context) -> bool:
        raise AssertionError("asked")

    ctx = make_context()
    assert (condition(always) | fails)("a:1", ctx) and not (condition(never) & fails)("a:1", ctx)


@pytest.mark.parametrize(
    "make",
    [
        lambda: url_is(""),
        lambda: url_is("http:///a"),
        lambda: req_host_is("http://example.com"),
        lambda: req_host_is("example.com/a"),
        lambda: dst_host_is(""),
        lambda: src_ip_is("192.0.2.1/24"),
        lambda: src_ip_is("example.com"),
        lambda: protocol_is("ftp"),
    ],
)
def test_what_could_never_be_true_is_refused_where_it_is_written(make: Any) -> None:
    with pytest.raises(ValueError, match=r"'|192\.0\.2\.1/24"):
        make()


def test_only_conditions_and_functions_are_conditions() -> None:
    with pytest.raises(TypeError, match="neither a condition"):
        condition("example.com")


def test_everything_that_is_offered_is_there(make_environ: MakeEnviron) -> None:
    assert all(hasattr(conditions, name) for name in conditions.__all__)


@pytest.mark.parametrize("forgotten", [conditions.req_host_is, conditions.url_is, conditions.method_is])
def test_a_condition_that_was_not_called_is_noticed_when_the_rule_is_written(forgotten: Any) -> None:
    with pytest.raises(TypeError, match=f"{forgotten.__name__} returns a condition: call it with arguments"):
        Rules().on_request(forgotten)
