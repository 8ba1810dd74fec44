"""curl: every way in that it knows, through a proxy that inspects, to a real server."""

import hashlib
import json
import os
from pathlib import Path

import pytest

from tests.proxy.clients.conftest import StartProxy
from tests.proxy.clients.origin import block
from tests.proxy.clients.proxy_process import ProxyProcess, Trust, curl, requested, run
from tests.system.server_process import ServerProcess

USER, PASSWORD = "ann", "pass word: 100%"


@pytest.fixture
def password_file(tmp_path: Path) -> Path:
    path = tmp_path / "htpasswd"
    made = run("htpasswd", "-cbB", "-C", "4", path, USER, PASSWORD)
    assert made.returncode == 0, made.stderr
    return path


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("way", ["http", "socks4", "socks4a", "socks5", "socks5h"])
def test_a_page_by_every_way_in(way: str, scheme: str, proxy: ProxyProcess, origin: ServerProcess) -> None:
    url = f"{scheme}://localhost:{origin.port}/seen?{way}"
    done = curl(f"{way}://{proxy.address}", "-4", url, ca=proxy.trust.ca)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["scheme"] == scheme
    host = "host" if scheme == "https" else "Host"  # inside of the tunnel curl speaks HTTP/2, whose names are in lower case
    version = "HTTP/2.0" if scheme == "https" else "HTTP/1.1"
    assert told["head"][:2] == [f"GET /seen?{way} {version}", f"{host}: localhost:{origin.port}"]
    door = way[:6] if way != "http" else "connect" if scheme == "https" else "http"
    flow = proxy.flows.first(requested(url))
    assert (flow["kind"], flow["door"], flow["response"]["status"]) == ("http", door, 200)


def test_a_server_that_is_seen_through_has_its_own_certificate_and_ours_is_shown_where_it_is_not(
    start_proxy: StartProxy, proxy: ProxyProcess, origin: ServerProcess
) -> None:
    url = f"https://localhost:{origin.port}/"
    assert curl(proxy.url, url, ca=proxy.trust.root).returncode == 60  # CURLE_PEER_FAILED_VERIFICATION
    relaying = start_proxy(mitm=False)
    assert curl(relaying.url, url, ca=relaying.trust.root).stdout == f"the page of localhost:{origin.port}\n"
    assert curl(relaying.url, url, ca=relaying.trust.ca).returncode == 60


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("framing", [[], ["-H", "Transfer-Encoding: chunked"], ["-H", "Expect: 100-continue"]], ids=["length", "chunks", "expect"])
def test_a_body_arrives_as_it_was_sent(scheme: str, framing: list[str], proxy: ProxyProcess, origin: ServerProcess, tmp_path: Path) -> None:
    body = os.urandom(300_000)
    (tmp_path / "body").write_bytes(body)
    done = curl(proxy.url, *framing, "--data-binary", f"@{tmp_path / 'body'}", f"{scheme}://localhost:{origin.port}/seen", ca=proxy.trust.ca)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["head"][0] == f"POST /seen {'HTTP/2.0' if scheme == 'https' else 'HTTP/1.1'}"
    assert (told["size"], told["sha256"]) == (len(body), hashlib.sha256(body).hexdigest())


@pytest.mark.slow
def test_a_hundred_megabytes_go_up_and_come_down(proxy: ProxyProcess, origin: ServerProcess, tmp_path: Path) -> None:
    body, expected = tmp_path / "body", hashlib.sha256()
    with body.open("wb") as file:
        for number in range(1600):
            file.write(block(number))
            expected.update(block(number))
    done = curl(proxy.url, "-T", body, f"https://localhost:{origin.port}/seen", ca=proxy.trust.ca)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["size"], told["sha256"]) == (1600 * 65536, expected.hexdigest())
    done = curl(proxy.url, "-o", tmp_path / "back", f"https://localhost:{origin.port}/blocks?1600", ca=proxy.trust.ca)
    assert done.returncode == 0, done.stderr
    assert hashlib.sha256((tmp_path / "back").read_bytes()).digest() == expected.digest()


def test_one_tunnel_carries_many_requests_and_one_upstream_connection_answers_them(proxy: ProxyProcess, origin: ServerProcess) -> None:
    urls = [f"https://localhost:{origin.port}/seen?many={number}" for number in range(20)]
    done = curl(proxy.url, "-w", "\n%{num_connects}\n", *urls, ca=proxy.trust.ca)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [int(count) for count in lines[1::2]] == [1] + [0] * 19
    assert len({json.loads(told)["connection"] for told in lines[::2]}) == 1


def test_what_is_between_the_client_and_the_proxy_goes_no_further(start_proxy: StartProxy, origin: ServerProcess, password_file: Path) -> None:
    proxy = start_proxy(f"--proxy-auth={password_file}")
    for scheme in ("http", "https"):
        done = curl(
            proxy.url, "--proxy-user", f"{USER}:{PASSWORD}", "-H", "X-Own: Case", f"{scheme}://localhost:{origin.port}/seen", ca=proxy.trust.ca
        )
        assert done.returncode == 0, done.stderr
        names = [line.partition(":")[0] for line in json.loads(done.stdout)["head"][1:] if line]
        assert ("X-Own" if scheme == "http" else "x-own") in names  # inside of the tunnel curl speaks HTTP/2
        assert not {"proxy-authorization", "proxy-connection", "via", "x-forwarded-for"} & {name.lower() for name in names}


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_user_and_a_password_over_http(scheme: str, start_proxy: StartProxy, origin: ServerProcess, password_file: Path) -> None:
    proxy = start_proxy(f"--proxy-auth={password_file}", "--proxy-realm=the house")
    url = f"{scheme}://localhost:{origin.port}/"
    said = ("-w", "%{http_connect} %{http_code}", "-o", "/dev/null", "-D", "-")
    refused = curl(proxy.url, *said, url, ca=proxy.trust.ca)
    assert 'proxy-authenticate: basic realm="the house"' in refused.stdout.lower()
    assert "407" in refused.stdout.splitlines()[-1]
    assert refused.returncode == (56 if scheme == "https" else 0)  # CURLE_RECV_ERROR: there is no tunnel
    wrong = curl(proxy.url, *said, "--proxy-user", f"{USER}:wrong", url, ca=proxy.trust.ca)
    assert "407" in wrong.stdout.splitlines()[-1]
    asked = curl(proxy.url, "--proxy-anyauth", "--proxy-user", f"{USER}:{PASSWORD}", url, ca=proxy.trust.ca)  # waits for the 407
    assert asked.stdout == f"the page of localhost:{origin.port}\n", asked.stderr
    assert proxy.flows.first(lambda flow: flow["kind"] == "http" and flow["response"] is not None and flow["response"]["status"] == 200)["identity"] == USER


def test_a_user_and_a_password_over_socks(start_proxy: StartProxy, origin: ServerProcess, password_file: Path) -> None:
    proxy = start_proxy(f"--proxy-auth={password_file}")
    url = f"https://localhost:{origin.port}/"
    for credentials, status in ((f"{USER}:{PASSWORD}", 0), (f"{USER}:wrong", 97)):  # CURLE_PROXY
        assert curl(f"socks5h://{proxy.address}", "--proxy-user", credentials, url, ca=proxy.trust.ca).returncode == status
    assert curl(f"socks5h://{proxy.address}", url, ca=proxy.trust.ca).returncode == 97
    assert proxy.flows.first(lambda flow: flow["kind"] == "http")["identity"] == USER


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_tls_to_the_proxy_itself(scheme: str, trust: Trust, start_proxy: StartProxy, origin: ServerProcess) -> None:
    proxy = start_proxy(bind_options=f",certfile={trust.leaf.certfile},keyfile={trust.leaf.keyfile}")
    done = curl(f"https://localhost:{proxy.port}", "--proxy-cacert", trust.root, f"{scheme}://localhost:{origin.port}/seen", ca=trust.ca)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["scheme"] == scheme


def test_a_client_certificate_is_who_one_is(trust: Trust, start_proxy: StartProxy, origin: ServerProcess) -> None:
    proxy = start_proxy(
        "--client-certificates=required",
        f"--ca-certs={trust.root}",
        bind_options=f",certfile={trust.leaf.certfile},keyfile={trust.leaf.keyfile}",
    )
    to_proxy = f"https://localhost:{proxy.port}", "--proxy-cacert", trust.root
    url = f"https://localhost:{origin.port}/"
    shown = curl(*to_proxy, "--proxy-cert", trust.leaf.certfile, "--proxy-key", str(trust.leaf.keyfile), url, ca=trust.ca)
    assert shown.stdout == f"the page of localhost:{origin.port}\n", shown.stderr
    assert curl(*to_proxy, url, ca=trust.ca).returncode != 0
    assert proxy.flows.first(lambda flow: flow["kind"] == "http")["identity"] == "localhost"


def test_what_goes_wrong_is_a_status_that_curl_shows(proxy: ProxyProcess) -> None:
    for url, status in (
        ("http://localhost:1/", "502"),  # nobody answers there
        ("https://localhost:1/", "502"),
        (f"http://{proxy.address}/x", "508"),  # the proxy itself
        ("http://no-such-name.invalid/", "502"),
    ):
        done = curl(proxy.url, "-o", "/dev/null", "-w", "%{http_code}", url, ca=proxy.trust.ca)
        assert (done.returncode, done.stdout) == (0, status), (url, done.stderr)


def test_an_upstream_that_cannot_be_verified_is_not_spoken_to(trust: Trust, start_proxy: StartProxy, origin: ServerProcess) -> None:
    url = f"https://localhost:{origin.port}/"
    strange = f"--upstream-ca={trust.ca}"  # which has not signed it
    refused = curl(start_proxy(strange).url, "-w", "%{http_code}", url, ca=trust.ca)
    assert "certificate" in refused.stdout and refused.stdout.endswith("502"), refused
    believed = curl(start_proxy(strange, "--insecure-upstream").url, url, ca=trust.ca)
    assert believed.stdout == f"the page of localhost:{origin.port}\n", believed
