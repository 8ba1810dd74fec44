"""nghttpd behind the proxy: a server that speaks nothing but HTTP/2, and clients that do not."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.proxy.clients.proxy_process import ProxyProcess, Trust, curl
from tests.proxy.clients.services import Nghttpd

PAGE = "<p>the same again</p>\n" * 5000

versions = pytest.mark.parametrize("version", ["1.1", "2"])


@pytest.fixture(scope="module")
def nghttpd(trust: Trust, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nghttpd]:
    root = tmp_path_factory.mktemp("www")
    (root / "page.html").write_text(PAGE)
    with Nghttpd.start(tmp_path_factory.mktemp("nghttpd"), root, trust.leaf) as server:
        yield server


@versions
def test_a_page(version: str, proxy: ProxyProcess, nghttpd: Nghttpd) -> None:
    url = f"https://localhost:{nghttpd.port}/page.html"
    done = curl(proxy.url, f"--http{version}", "--suppress-connect-headers", "-D", "-", url, ca=proxy.trust.ca)
    assert done.returncode == 0, done.stderr
    head, _, page = done.stdout.replace("\r", "").partition("\n\n")
    assert head.startswith(f"HTTP/{version} 200") and page.startswith(PAGE)
    flow = proxy.flows.first(lambda flow: flow["destination"] == f"localhost:{nghttpd.port}" and flow["kind"] == "http")
    assert (flow["response"]["version"], flow["upstream_tls"]["alpn"]) == ("HTTP/2", "h2")


@versions
@pytest.mark.parametrize("framing", ["length", "chunks", "expect"])
def test_what_is_posted_comes_back(version: str, framing: str, proxy: ProxyProcess, nghttpd: Nghttpd, tmp_path: Path) -> None:
    body = os.urandom(500_000)
    (tmp_path / "body").write_bytes(body)
    fields = {"length": (), "chunks": ("-H", "Transfer-Encoding: chunked"), "expect": ("-H", "Expect: 100-continue")}[framing]
    url = f"https://localhost:{nghttpd.port}/echo"
    sent = ("--data-binary", f"@{tmp_path / 'body'}", "-o", tmp_path / "back")
    done = curl(proxy.url, f"--http{version}", *fields, *sent, url, ca=proxy.trust.ca)
    assert done.returncode == 0, done.stderr
    assert hashlib.sha256((tmp_path / "back").read_bytes()).digest() == hashlib.sha256(body).digest()


@versions
def test_head_304_and_404(version: str, proxy: ProxyProcess, nghttpd: Nghttpd) -> None:
    base = f"https://localhost:{nghttpd.port}"
    said = ("--suppress-connect-headers", "-w", "%{http_code}/%{num_connects} ")
    done = curl(proxy.url, f"--http{version}", *said, "-I", f"{base}/page.html", f"{base}/page.html", ca=proxy.trust.ca)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"HTTP/{version} 200") and done.stdout.endswith("200/0 ")  # one connection of the client serves both
    assert curl(proxy.url, f"--http{version}", *said, "-o", "/dev/null", f"{base}/none", ca=proxy.trust.ca).stdout == "404/1 "
    since = ("-H", "If-Modified-Since: Fri, 01 Jan 2100 00:00:00 GMT", "-w", "%{http_code}")
    assert curl(proxy.url, f"--http{version}", *since, f"{base}/page.html", ca=proxy.trust.ca).stdout == "304"
