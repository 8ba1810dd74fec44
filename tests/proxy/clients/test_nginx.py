"""nginx behind the proxy: what a server of files says beside 200, and HTTP/2."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.proxy.clients.conftest import StartProxy
from tests.proxy.clients.proxy_process import ProxyProcess, Trust, curl
from tests.proxy.clients.services import Nginx

PAGE = "<html>" + "<p>the same again</p>\n" * 5000 + "</html>"

schemes = pytest.mark.parametrize("scheme", ["http", "https"])


@pytest.fixture(scope="module")
def nginx(trust: Trust, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    root = tmp_path_factory.mktemp("www")
    (root / "page.html").write_text(PAGE)
    (root / "large").write_bytes(bytes(range(256)) * 4096)
    with Nginx.start(tmp_path_factory.mktemp("nginx"), root, trust.leaf) as server:
        yield server


def ask(proxy: ProxyProcess, nginx: Nginx, scheme: str, path: str, *arguments: str | Path, **more: Any) -> Any:
    port = nginx.tls_port if scheme == "https" else nginx.port
    done = curl(proxy.url, *arguments, f"{scheme}://localhost:{port}/{path}", ca=proxy.trust.ca, **more)
    assert done.returncode == 0, done.stderr
    return done


@schemes
def test_the_answers_of_a_server_of_files(scheme: str, proxy: ProxyProcess, nginx: Nginx) -> None:
    head = ask(proxy, nginx, scheme, "page.html", "-I").stdout.lower()  # as names are in HTTP/2, which curl speaks inside of tunnels
    assert f"content-length: {len(PAGE)}" in head and "server: nginx" in head
    etag = re.search("etag: (.*)", head)
    assert etag is not None

    status = ("-o", "/dev/null", "-w", "%{http_code} %{size_download}")
    assert ask(proxy, nginx, scheme, "page.html", *status, "-H", f"If-None-Match: {etag[1].strip()}").stdout == "304 0"
    assert ask(proxy, nginx, scheme, "large", *status, "-r", "1000-1999").stdout == "206 1000"
    assert ask(proxy, nginx, scheme, "large", *status, "-r", "9999999-").stdout.startswith("416 ")
    assert ask(proxy, nginx, scheme, "none", *status).stdout.startswith("404 ")
    assert ask(proxy, nginx, scheme, "page.html", *status, "-d", "body").stdout.startswith("405 ")
    assert ask(proxy, nginx, scheme, "page.html", "-0", *status).stdout == f"200 {len(PAGE)}"  # HTTP/1.0


@schemes
def test_what_is_encoded_stays_encoded(scheme: str, proxy: ProxyProcess, nginx: Nginx) -> None:
    seen = ask(proxy, nginx, scheme, "page.html", "-H", "Accept-Encoding: gzip", "-o", "/dev/null", "-D", "-", "-w", "%{size_download}").stdout
    assert "content-encoding: gzip" in seen.lower() and int(seen.splitlines()[-1]) < len(PAGE) / 10
    assert ask(proxy, nginx, scheme, "page.html", "--compressed").stdout == PAGE


@schemes
def test_a_rule_sees_it_decoded(scheme: str, start_proxy: StartProxy, nginx: Nginx) -> None:
    proxy = start_proxy("--rules=tests.proxy.clients.filters:add_rules")
    assert ask(proxy, nginx, scheme, "page.html", "--compressed").stdout == PAGE
    flow = proxy.flows.first(lambda flow: flow["kind"] == "http")
    assert not any(name.lower() == "content-encoding" for name, _ in flow["response"]["fields"])


def test_a_download_goes_on_where_it_was_broken_off(proxy: ProxyProcess, nginx: Nginx, tmp_path: Path) -> None:
    whole = bytes(range(256)) * 4096
    (tmp_path / "part").write_bytes(whole[:123_456])
    ask(proxy, nginx, "https", "large", "-C", "-", "-o", tmp_path / "part")
    assert (tmp_path / "part").read_bytes() == whole


@pytest.mark.parametrize("version", ["1.1", "2"])
@pytest.mark.parametrize("upstream", ["on", "off"])
def test_both_sides_choose_their_version_of_http(version: str, upstream: str, start_proxy: StartProxy, nginx: Nginx) -> None:
    proxy = start_proxy(f"--upstream-http2={upstream}")
    done = ask(proxy, nginx, "https", "page.html", f"--http{version}", "-o", "/dev/null", "-w", "%{http_version} %{size_download}")
    assert done.stdout == f"{version} {len(PAGE)}"
    flow = proxy.flows.first(lambda flow: flow["kind"] == "http")
    assert flow["response"]["version"] == ("HTTP/2" if upstream == "on" else "HTTP/1.1")


def test_who_speaks_http_2_alone_gets_it_from_the_server_too(proxy: ProxyProcess, nginx: Nginx) -> None:
    url = f"http://localhost:{nginx.http2_port}/page.html"
    done = curl(proxy.url, "--proxytunnel", "--http2-prior-knowledge", "-o", "/dev/null", "-w", "%{http_version} %{size_download}", url)
    assert done.stdout == f"2 {len(PAGE)}", done.stderr
    flow = proxy.flows.first(lambda flow: flow["destination"] == f"localhost:{nginx.http2_port}")
    assert (flow["kind"], flow["response"]["version"]) == ("http", "HTTP/2")
