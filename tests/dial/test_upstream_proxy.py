"""How the next proxy is written."""

import base64
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muxwsgi.dial.upstream_proxy import DIRECT, UpstreamProxy
from muxwsgi.errors import OperatorError

words = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=40)


@pytest.mark.parametrize(
    ("url", "proxy"),
    [
        ("http://proxy.example:3128", UpstreamProxy("http", "proxy.example", 3128)),
        ("http://proxy.example:3128/", UpstreamProxy("http", "proxy.example", 3128)),
        ("HTTP://Proxy.Example.", UpstreamProxy("http", "proxy.example", 80)),
        ("proxy.example:3128", UpstreamProxy("http", "proxy.example", 3128)),
        ("user:secret@proxy.example:3128", UpstreamProxy("http", "proxy.example", 3128, "user", "secret")),
        ("https://proxy.example", UpstreamProxy("https", "proxy.example", 443)),
        ("socks5://127.0.0.1", UpstreamProxy("socks5", "127.0.0.1", 1080)),
        ("socks5h://[::1]:9050", UpstreamProxy("socks5h", "::1", 9050)),
        ("socks4a://user@192.0.2.1", UpstreamProxy("socks4a", "192.0.2.1", 1080, "user")),
        ("http://user@h", UpstreamProxy("http", "h", 80, "user")),
        ("http://user:@h", UpstreamProxy("http", "h", 80, "user", "")),
        ("http://us%40er:p%3Aw%2F@h", UpstreamProxy("http", "h", 80, "us@er", "p:w/")),
        ("http://user:p@ss:w/rd@h:1", UpstreamProxy("http", "h", 1, "user", "p@ss:w/rd")),
        ("http://bücher.example", UpstreamProxy("http", "xn--bcher-kva.example", 80)),
        (" http://h ", UpstreamProxy("http", "h", 80)),
    ],
)
def test_a_url_says_which_proxy(url: str, proxy: UpstreamProxy) -> None:
    assert UpstreamProxy.parse(url) == proxy


@settings(deadline=None)
@given(st.sampled_from(["http", "https", "socks5", "socks5h"]), words, words, st.ip_addresses(), st.integers(1, 65535))
def test_any_credentials_come_through_percent_encoded(scheme: str, user: str, password: str, ip: object, port: int) -> None:
    user = user.replace(":", ";")
    host = f"[{ip}]" if ":" in str(ip) else str(ip)
    proxy = UpstreamProxy.parse(f"{scheme}://{quote(user, safe='')}:{quote(password, safe='')}@{host}:{port}")
    assert (proxy.scheme, proxy.username, proxy.password, proxy.port) == (scheme, user, password, port)
    assert proxy.authorization == "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
    assert UpstreamProxy.parse(str(proxy)) == UpstreamProxy(proxy.scheme, proxy.host, port)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("", "'' is neither a host name nor an address"),
        ("http://", "'' is neither"),
        ("ftp://h", "the scheme is none of http, https, socks4a, socks5, socks5h"),
        ("socks://h", "the scheme is none of"),
        ("direct://", "the scheme is none of"),
        ("http://h:0", "0 is not a port"),
        ("http://h:65536", "65536 is not a port"),
        ("http://h:port", r"expected http://\[USER"),
        ("http://::1", r"expected http://\[USER"),
        ("http://[1.2.3.4]:80", "'1.2.3.4' is not an IPv6 address"),
        ("http://[h]:80", "'h' is not an IPv6 address"),
        ("http://h/path", "'h/path' is neither"),
        ("http://h?query", "is neither"),
        ("http://a b:80", "'a b' is neither"),
        ("http://a%3Ab:c@h", "a user name with a colon cannot be sent"),
        ("http://user:a%0Ab@h", "the password has control characters"),
        ("http://us%00er@h", "the user name has control characters"),
        ("http://user:%ff@h", "the password is not UTF-8"),
        (f"socks5://user:{'x' * 256}@h", "no room for credentials of more than 255 bytes"),
        ("socks4a://user:password@h", "SOCKS4a has no passwords"),
    ],
)
def test_nonsense_is_one_line_for_the_operator(url: str, why: str) -> None:
    with pytest.raises(OperatorError, match=why) as caught:
        UpstreamProxy.parse(url)
    assert str(caught.value).startswith("upstream proxy")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "http://user:hunter2@",
        "http://user:hunter2",
        "http://user:hunter2@h:0",
        "http://user:hunter2@h:port",
        "http://user:hunter2@h/path",
        "ftp://user:hunter2@h",
        "user:hunter2@h://x",
        "http://user:hunter2%00@h",
        "socks4a://user:hunter2@h",
        "http://user:hunter2@[::1",
    ],
)
def test_no_error_gives_the_password_away(url: str) -> None:
    with pytest.raises(OperatorError) as caught:
        UpstreamProxy.parse(url)
    assert "hunter2" not in str(caught.value)


def test_the_password_is_in_no_text() -> None:
    proxy = UpstreamProxy.parse("http://user:hunter2@h:3128")
    assert str(proxy) == "http://h:3128"
    assert "hunter2" not in repr(proxy)
    assert "hunter2" not in f"{proxy} {proxy!r} {[proxy]}"


def test_other_credentials_make_another_proxy() -> None:
    urls = ["http://h", "http://user@h", "http://user:a@h", "http://user:b@h", "https://h:80"]
    assert len({UpstreamProxy.parse(url) for url in urls}) == len(urls)


def test_only_http_proxies_take_requests() -> None:
    assert {scheme: UpstreamProxy.parse(f"{scheme}://h").speaks_http for scheme in ("http", "https", "socks4a", "socks5", "socks5h")} == {
        "http": True,
        "https": True,
        "socks4a": False,
        "socks5": False,
        "socks5h": False,
    }
    assert not DIRECT.speaks_http
    assert DIRECT.authorization is None
