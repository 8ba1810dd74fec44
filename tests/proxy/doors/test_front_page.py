"""The proxy's own pages, and the PAC script in a JavaScript engine."""

import json
import ssl
from collections.abc import Callable, Iterator
from http.client import HTTPConnection, HTTPSConnection
from typing import Any

import gevent
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pypac.parser import PACFile
from werkzeug.test import Client, TestResponse

from muxwsgi import Server
from muxwsgi.errors import OperatorError
from muxwsgi.proxy.doors.front_page import FrontPage, pac
from muxwsgi.settings import BindSettings, CertificateFiles

DIRECT = ["www.example.com", "*.below.test", ".both.test", "10.0.0.0/8", "192.0.2.7", "2001:db8::7", "Upper.Example."]


def ask(page: FrontPage, path: str, method: str = "GET", **environ: Any) -> TestResponse:
    return Client(page).open(path, method=method, environ_overrides={"SERVER_NAME": "192.0.2.1", "SERVER_PORT": "8080", **environ})


def proxy_for(script: str, host: str, scheme: str = "https") -> str:
    literal = f"[{host}]" if ":" in host else host
    return PACFile(script).find_proxy_for_url(f"{scheme}://{literal}/", host)


@pytest.mark.parametrize(
    ("host", "direct"),
    [
        ("example.org", False),
        ("www.example.com", True),
        ("WWW.Example.COM", True),
        ("www.example.com.", True),
        ("upper.example", True),
        ("example.com", False),
        ("a.www.example.com", False),
        ("notwww.example.com", False),
        ("a.below.test", True),
        ("a.b.below.test", True),
        ("below.test", False),
        ("notbelow.test", False),
        ("both.test", True),
        ("a.both.test", True),
        ("notboth.test", False),
        ("10.1.2.3", True),
        ("11.1.2.3", False),
        ("10.1.2.3.example.org", False),
        ("192.0.2.7", True),
        ("192.0.2.8", False),
        ("2001:db8::7", True),
        ("2001:db8::8", False),
        ("localhost", True),
        ("a.localhost", True),
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("intranet", True),
    ],
)
def test_a_browser_goes_through_the_proxy_or_not(host: str, direct: bool) -> None:
    script = pac("PROXY proxy.test:8080", DIRECT)
    assert proxy_for(script, host) == proxy_for(script, host, "http") == ("DIRECT" if direct else "PROXY proxy.test:8080")


def test_an_ipv6_address_in_brackets_is_understood_too() -> None:
    script = PACFile(pac("PROXY proxy.test:8080"))
    assert script.find_proxy_for_url("https://[::1]/", "[::1]") == "DIRECT"
    assert script.find_proxy_for_url("https://[2001:db8::1]/", "[2001:db8::1]") == "PROXY proxy.test:8080"


@settings(deadline=None)
@given(st.text())
def test_whatever_the_proxy_is_called_the_script_stays_a_script(proxy: str) -> None:
    script = pac(proxy)
    assert json.dumps(proxy) in script
    assert script.isascii()


@pytest.mark.parametrize("entry", ["", "*", "a b", "http://example.com", "10.0.0.1/8", "2001:db8::/32", 'x"; evil()', "a..b", "*.*.test", "example.com:80"])
def test_what_is_no_host_is_the_operators_error(entry: str) -> None:
    with pytest.raises(OperatorError, match="direct: "):
        FrontPage(direct=[entry])


@pytest.mark.parametrize(
    ("host", "scheme", "proxy"),
    [
        ("proxy.test:3128", "http", "PROXY proxy.test:3128"),
        ("proxy.test:3128", "https", "HTTPS proxy.test:3128"),
        ("wpad", "http", "PROXY wpad:80"),
        ("proxy.test", "https", "HTTPS proxy.test:443"),
        ("proxy.test:", "http", "PROXY proxy.test:80"),
        ("[2001:db8::1]:3128", "http", "PROXY [2001:db8::1]:3128"),
        ("", "http", "PROXY 192.0.2.1:8080"),
        ('a";evil();"', "http", "PROXY 192.0.2.1:8080"),
        ("proxy.test:99999", "http", "PROXY 192.0.2.1:8080"),
        ("proxy.test:0", "http", "PROXY 192.0.2.1:8080"),
        ("user@proxy.test", "http", "PROXY 192.0.2.1:8080"),
    ],
)
@pytest.mark.parametrize("path", ["/proxy.pac", "/wpad.dat"])
def test_the_script_names_the_proxy_as_the_browser_has_reached_it(path: str, host: str, scheme: str, proxy: str) -> None:
    response = ask(FrontPage(), path, HTTP_HOST=host, **{"wsgi.url_scheme": scheme})
    assert response.headers["Content-Type"] == "application/x-ns-proxy-autoconfig"
    assert proxy_for(response.text, "example.org") == proxy


def test_an_ipv6_address_of_ours_is_written_in_brackets() -> None:
    response = ask(FrontPage(), "/proxy.pac", HTTP_HOST="", SERVER_NAME="2001:db8::1")
    assert proxy_for(response.text, "example.org") == "PROXY [2001:db8::1]:8080"


def test_the_certificate_is_handed_out() -> None:
    page = FrontPage(ca_pem=lambda: b"-----BEGIN", ca_der=lambda: b"\x30\x82")
    for path, body in (("/ca.pem", b"-----BEGIN"), ("/ca.der", b"\x30\x82")):
        response = ask(page, path)
        assert (response.status_code, response.data, response.headers["Content-Type"]) == (200, body, "application/x-x509-ca-cert")
        assert f"muxwsgi-ca{path[3:]}" in response.headers["Content-Disposition"]
        assert path in ask(page, "/").text


def test_without_a_certificate_there_is_no_page_for_it() -> None:
    assert [ask(FrontPage(), path).status_code for path in ("/ca.pem", "/ca.der")] == [404, 404]
    assert "ca.pem" not in ask(FrontPage(), "/").text


def test_a_certificate_that_cannot_be_read_is_an_error_of_ours() -> None:
    def fails() -> bytes:
        raise PermissionError("ca.pem")

    with pytest.raises(PermissionError):
        ask(FrontPage(ca_pem=fails), "/ca.pem")


def test_the_first_page_says_how_to_use_the_proxy() -> None:
    text = ask(FrontPage(), "/", HTTP_HOST="proxy.test:3128").text
    assert "curl --proxy http://proxy.test:3128 " in text
    assert "http://proxy.test:3128/proxy.pac" in text


def test_other_paths_and_other_methods_are_refused() -> None:
    page = FrontPage()
    for path in ("/index.html", "/proxy.pac/", "//", "", "*", "/CA.PEM"):
        for method in ("GET", "POST"):
            assert ask(page, "/", method, PATH_INFO=path).status_code == 404
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "TRACE"):
        response = ask(page, "/proxy.pac", method)
        assert (response.status_code, response.headers["Allow"]) == (405, "GET, HEAD")


def test_head_says_the_length_and_nothing_else() -> None:
    got, head = ask(FrontPage(), "/proxy.pac"), ask(FrontPage(), "/proxy.pac", "HEAD")
    assert (head.data, head.headers["Content-Length"]) == (b"", str(len(got.data)))


@pytest.fixture
def served(make_certificate: Callable[[], CertificateFiles]) -> Iterator[Callable[..., Any]]:
    """Asks the page of a real server, plain or in TLS, in a thread as any client."""
    certificate = make_certificate()
    server = Server(FrontPage(), [BindSettings(host="127.0.0.1", tls="optional", certificates=(certificate,))])
    server.start()
    port = int(server.addresses[0].rpartition(":")[2])
    context = ssl.create_default_context(cafile=certificate.certfile)

    def ask(secure: bool) -> str:
        connection = HTTPSConnection("localhost", port, context=context, timeout=20) if secure else HTTPConnection("127.0.0.1", port, timeout=20)
        connection.request("GET", "/proxy.pac")
        return connection.getresponse().read().decode()

    yield lambda secure: (port, gevent.get_hub().threadpool.apply(ask, (secure,)))
    server.stop(0)


def test_over_the_wire_the_script_leads_back_to_the_same_door(served: Callable[..., Any]) -> None:
    port, script = served(False)
    assert proxy_for(script, "example.org") == f"PROXY 127.0.0.1:{port}"
    port, script = served(True)
    assert proxy_for(script, "example.org") == f"HTTPS localhost:{port}"
