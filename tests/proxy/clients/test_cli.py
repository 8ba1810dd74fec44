"""`muxwsgi proxy` as an operator meets it: what it refuses to do, and what its options do."""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.dial.squid import PASSWORD, USER, Squid
from tests.proxy.clients.conftest import StartProxy, muxwsgi
from tests.proxy.clients.proxy_process import PATIENCE, ProxyProcess, Trust, curl, environment, run
from tests.system.server_process import ROOT, ServerProcess
from tests.waiting import wait_for


@pytest.fixture
def passwords(tmp_path: Path) -> Path:
    path = tmp_path / "htpasswd"
    made = run("htpasswd", "-cbB", "-C", "4", path, "ann", "pw")
    assert made.returncode == 0, made.stderr
    return path


# Who may use it. The processes that bind to every address do so in a network namespace with nothing in it.


@pytest.mark.parametrize("bind", ["0.0.0.0:0", "[::]:0", "0.0.0.0:0,transparent=redirect"])
def test_a_proxy_for_everybody_does_not_start_by_accident(bind: str) -> None:
    done = run("unshare", "--net", sys.executable, "-m", "muxwsgi", "proxy", "-b", bind, cwd=ROOT)
    assert done.returncode == 2, done
    assert re.fullmatch(r"muxwsgi: .*every host that reaches it.*\n", done.stderr), done.stderr


@pytest.mark.parametrize("option", ["--allow=10.0.0.0/8", "--proxy-auth=FILE", "--open-proxy"])
def test_it_starts_when_told_who_may_use_it(option: str, passwords: Path) -> None:
    option = option.replace("FILE", str(passwords))
    command = ["unshare", "--net", sys.executable, "-m", "muxwsgi", "proxy", "-b", "0.0.0.0:0", option]
    with subprocess.Popen(command, cwd=ROOT, env=environment(), stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert "listening on 0.0.0.0:" in process.stderr.readline()
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--mitm", "--ca-folder=/no/such/folder"], r"/no/such/folder.*muxwsgi ca init"),
        (["--proxy-auth=/no/such/file"], r"/no/such/file"),
        (["--allow=everybody"], r"everybody"),
        (["--allow-destination=nowhere"], r"nowhere"),
        (["--upstream-proxy=ftp://x"], r"upstream proxy: the scheme is none of http"),
        (["--upstream-ca=/no/such/file"], r"/no/such/file"),
        (["--block=/no/such/file"], r"/no/such/file"),
        (["--passthrough=/(/"], r"passthrough|/\(/"),
        (["--rules=no_such_module:f"], r"no_such_module"),
        (["--rules=tests.proxy.clients.filters:nothing"], r"nothing"),
        (["--flows=/no/such/folder/x"], r"/no/such/folder/x"),
        (["--har=/no/such/folder/x"], r"/no/such/folder/x"),
        (["--keylog=/no/such/folder/x"], r"/no/such/folder/x"),
        (["--flow-filter=~d"], r"~d"),
        (["--source-address=here"], r"here"),
        (["--mount=/x=y:z"], r"mount"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(options: list[str], says: str) -> None:
    done = muxwsgi("proxy", "-b", "127.0.0.1:0", *options)
    assert done.returncode == 2, done
    assert re.search(says, done.stderr) and done.stderr.count("\n") == 1, done.stderr


# What the options do


def test_a_block_list_is_read_again_when_it_changes(start_proxy: StartProxy, origin: ServerProcess, tmp_path: Path) -> None:
    path = tmp_path / "blocked"
    path.write_text("blocked.test\n")
    proxy = start_proxy(f"--block={path}")
    url = f"https://localhost:{origin.port}/"
    assert curl(proxy.url, url, ca=proxy.trust.ca).returncode == 0
    assert curl(proxy.url, "https://blocked.test/", ca=proxy.trust.ca).returncode == 56  # CURLE_RECV_ERROR: 403 for CONNECT
    refused = curl(proxy.url, "-w", "%{http_code}", "http://BLOCKED.test./")
    assert refused.stdout == "blocked: blocked.test\n403"
    path.write_text("*.test\nlocalhost\n")
    wait_for(lambda: curl(proxy.url, url, ca=proxy.trust.ca).returncode != 0, "the list was never read again", PATIENCE)


def test_flows_and_a_har_file_hold_what_a_filter_lets_through(start_proxy: StartProxy, origin: ServerProcess, tmp_path: Path) -> None:
    har = tmp_path / "flows.har"
    proxy = start_proxy(f"--har={har}", "--flow-filter=~m POST")
    url = f"https://localhost:{origin.port}/seen"
    (tmp_path / "large").write_text("x" * 200_000)
    for arguments in ((), ("-d", "the body"), ("-d", f"@{tmp_path / 'large'}")):
        done = curl(proxy.url, *arguments, url, ca=proxy.trust.ca)
        assert done.returncode == 0, done.stderr
    large = proxy.flows.first(lambda flow: flow["from_client"]["size"] == 200_000)
    assert large["from_client"]["truncated"] and len(large["from_client"]["text"]) == 64 << 10
    assert [flow["request"]["method"] for flow in proxy.flows()] == ["POST", "POST"]
    assert proxy.flows()[0]["from_client"]["text"] == "the body"
    assert proxy.stop() == 0
    entries = json.loads(har.read_text())["log"]["entries"]
    assert [(entry["request"]["method"], entry["request"]["url"], entry["response"]["status"]) for entry in entries] == [("POST", url, 200)] * 2
    assert entries[0]["request"]["postData"]["text"] == "the body"
    assert har.stat().st_mode & 0o777 == 0o600


def test_what_was_recorded_can_be_sent_again(start_proxy: StartProxy, origin: ServerProcess, tmp_path: Path) -> None:
    proxy = start_proxy()
    for path in ("", "seen"):
        assert curl(proxy.url, "-d", "body", f"http://localhost:{origin.port}/{path}").returncode == 0
    proxy.flows.first(lambda flow: flow["request"]["url"].endswith("/seen"))
    done = muxwsgi("replay", tmp_path / "proxy-0" / "flows.jsonl")
    assert done.returncode == 0, done.stderr
    assert "2 answered as then" in done.stdout + done.stderr


def test_logs_are_reopened_for_who_moves_them_away(start_proxy: StartProxy, origin: ServerProcess, tmp_path: Path) -> None:
    proxy = start_proxy()
    for name in ("before", "after"):
        assert curl(proxy.url, f"http://localhost:{origin.port}/?{name}").returncode == 0
        proxy.flows.first(lambda flow, name=name: flow["request"]["url"].endswith(name))  # type: ignore[misc]
        if name == "before":
            (tmp_path / "proxy-0" / "flows.jsonl").rename(tmp_path / "old")
            proxy.send_signal(signal.SIGUSR1)
            proxy.wait_for_log("logs reopened")
    assert len(proxy.flows()) == 1 and len((tmp_path / "old").read_text().splitlines()) == 1


@pytest.mark.parametrize("version", ["--tls-max=1.2", "--tlsv1.3"])
def test_the_key_log_says_what_the_client_knows(version: str, start_proxy: StartProxy, origin: ServerProcess, tmp_path: Path) -> None:
    ours, clients = tmp_path / "proxy.keys", tmp_path / "client.keys"
    proxy = start_proxy(f"--keylog={ours}")
    options = ("--tls-max", "1.2") if "1.2" in version else (version,)
    done = curl(proxy.url, *options, f"https://localhost:{origin.port}/", ca=proxy.trust.ca, env=environment(SSLKEYLOGFILE=str(clients)))
    assert done.returncode == 0, done.stderr
    expected = {line for line in clients.read_text().splitlines() if line}
    assert expected and expected <= set(ours.read_text().splitlines())
    assert ours.stat().st_mode & 0o777 == 0o600


def test_rules_of_a_module(start_proxy: StartProxy, origin: ServerProcess) -> None:
    proxy = start_proxy("--rules=tests.proxy.clients.filters:add_rules")
    url = f"https://localhost:{origin.port}"
    assert curl(proxy.url, f"{url}/answered", ca=proxy.trust.ca).stdout == f"answered for {url}/answered\n"
    assert "<title>as it was rewritten</title>" in curl(proxy.url, f"{url}/page", ca=proxy.trust.ca).stdout


def test_what_is_passed_through_has_its_own_certificate(start_proxy: StartProxy, origin: ServerProcess) -> None:
    proxy = start_proxy("--passthrough=localhost")
    assert curl(proxy.url, f"https://localhost:{origin.port}/", ca=proxy.trust.root).returncode == 0
    assert curl(proxy.url, f"https://127.0.0.1:{origin.port}/", ca=proxy.trust.ca).returncode == 0
    flow = proxy.flows.first(lambda flow: flow["kind"] == "raw")
    assert flow["destination"] == f"localhost:{origin.port}" and flow["client_tls"]["sni"] == "localhost"


def test_a_host_whose_clients_refuse_our_leaf_is_passed_through_after_a_while(start_proxy: StartProxy, origin: ServerProcess) -> None:
    proxy = start_proxy("--passthrough-after=2")
    url = f"https://localhost:{origin.port}/"
    assert [curl(proxy.url, url, ca=proxy.trust.root).returncode for _ in range(3)] == [60, 60, 0]  # CURLE_PEER_FAILED_VERIFICATION
    proxy.wait_for_log("passed through from now on")


def test_a_leaf_may_have_the_names_of_the_server(start_proxy: StartProxy, origin: ServerProcess) -> None:
    for options, names in (((), {"localhost"}), (("--mimic",), {"localhost", "site.test", "127.0.0.1", "10.77.2.2", "FD77:2:0:0:0:0:0:2"})):
        proxy = start_proxy(*options)
        done = run("openssl", "s_client", "-proxy", proxy.address, "-connect", f"localhost:{origin.port}", "-servername", "localhost", input="")
        shown = run("openssl", "x509", "-noout", "-ext", "subjectAltName", input=done.stdout)
        assert set(re.findall(r"(?:DNS|IP Address):(\S+?)(?:,|\s)", shown.stdout)) == names, (done.stderr, shown)


# Further proxies


@pytest.fixture
def squid(trust: Trust, tmp_path: Path) -> Iterator[Squid]:
    folder = tmp_path / "squid"
    folder.mkdir()
    squid = Squid(folder, trust.leaf)
    yield squid
    squid.stop()


def quoted(password: str) -> str:
    return password.replace("%", "%25").replace(" ", "%20").replace(":", "%3A")


@pytest.mark.parametrize("way", ["plain", "secure"])
def test_through_squid(way: str, squid: Squid, trust: Trust, start_proxy: StartProxy, origin: ServerProcess) -> None:
    to_squid = f"localhost:{squid.secure}" if way == "secure" else f"127.0.0.1:{squid.plain}"
    scheme = "https" if way == "secure" else "http"
    proxy = start_proxy(f"--upstream-proxy={scheme}://{USER}:{quoted(PASSWORD)}@{to_squid}")
    http = curl(proxy.url, f"http://localhost:{origin.port}/seen")
    assert any(line.startswith("Via: ") and "squid" in line for line in json.loads(http.stdout)["head"]), http
    https = curl(proxy.url, f"https://localhost:{origin.port}/seen", ca=trust.ca)
    assert json.loads(https.stdout)["scheme"] == "https", https
    forbidden = curl(proxy.url, "-w", "%{http_code}", "https://127.0.0.99/", ca=trust.ca)
    assert "answered 403" in forbidden.stdout and forbidden.stdout.endswith("502"), forbidden
    assert PASSWORD not in proxy.log

    unknown = start_proxy(f"--upstream-proxy={scheme}://{USER}:wrong@{to_squid}")
    refused = curl(unknown.url, "-w", "%{http_code}", f"https://localhost:{origin.port}/", ca=trust.ca)
    assert "answered 407" in refused.stdout and refused.stdout.endswith("502"), refused


@pytest.mark.parametrize("way", ["http", "socks5", "socks5h", "socks4a"])
def test_through_a_second_one_of_ours(way: str, start_proxy: StartProxy, origin: ServerProcess, passwords: Path) -> None:
    far = start_proxy(*([] if way == "socks4a" else [f"--proxy-auth={passwords}"]), mitm=False)
    credentials = "" if way == "socks4a" else "ann:pw@"
    near = start_proxy(f"--upstream-proxy={way}://{credentials}{far.address}")
    url = f"https://localhost:{origin.port}/"
    assert curl(near.url, url, ca=near.trust.ca).stdout == f"the page of localhost:{origin.port}\n"
    seen = near.flows.first(lambda flow: flow["kind"] == "http")
    assert seen["request"]["url"] == url
    assert near.stop() == 0  # it keeps the connection to the far one, whose flow ends with it
    relayed = far.flows.first(lambda flow: flow["kind"] == "raw")
    assert relayed["door"] == ("connect" if way == "http" else way[:6])
    assert relayed["identity"] == (None if way == "socks4a" else "ann")
    name = "localhost" if way != "socks5" else "127.0.0.1"  # which resolves names on our side
    assert relayed["destination"] == f"{name}:{origin.port}"


def test_the_environment_says_which_proxy(trust: Trust, start_proxy: StartProxy, origin: ServerProcess) -> None:
    far = start_proxy(mitm=False)
    variables = {"HTTPS_PROXY": far.url, "https_proxy": "", "NO_PROXY": "127.0.0.1", "no_proxy": "", "http_proxy": "", "ALL_PROXY": "", "all_proxy": ""}
    options = ("--mitm", f"--ca-folder={trust.ca_folder}", f"--upstream-ca={trust.root}", "--graceful-timeout=1")
    with ServerProcess(None, *options, environment=variables) as near:
        for name in ("127.0.0.1", "localhost"):
            assert curl(f"http://{near.address}", f"https://{name}:{origin.port}/", ca=trust.ca).returncode == 0
        assert near.stop() == 0
    assert far.stop() == 0
    assert [flow["destination"] for flow in far.flows()] == [f"localhost:{origin.port}"]


# The end


def tunnelled(proxy: ProxyProcess, origin: ServerProcess, path: str) -> "subprocess.Popen[str]":
    """curl, whose output can be read as it comes."""
    command = ["curl", "-sSN", "-m", "30", "--noproxy", "", "--proxy", proxy.url, "--cacert", str(proxy.trust.ca)]
    return subprocess.Popen([*command, f"https://localhost:{origin.port}{path}"], env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def refuses(proxy: ServerProcess) -> bool:
    try:
        proxy.connect().close()
    except ConnectionRefusedError:
        return True
    return False


def test_sigterm_lets_what_runs_end(start_proxy: StartProxy, origin: ServerProcess) -> None:
    proxy = start_proxy("--graceful-timeout=20")
    with tunnelled(proxy, origin, "/events?drain") as client:
        assert client.stdout is not None
        assert client.stdout.readline() == "data: first\n"
        proxy.send_signal(signal.SIGTERM)
        proxy.wait_for_log("stopping")
        wait_for(lambda: refuses(proxy), "it still accepts")
        assert origin.get("/confirm?drain")[0] == 204
        assert client.stdout.read() == "\ndata: second\n\n"
        assert client.wait(20) == 0
    assert proxy.stop() == 0
    (flow,) = (flow for flow in proxy.flows() if flow["request"] is not None)
    assert flow["request"]["url"].endswith("/events?drain") and flow["error"] is None


def test_what_lasts_longer_is_cut_and_recorded(start_proxy: StartProxy, origin: ServerProcess) -> None:
    proxy = start_proxy("--graceful-timeout=0.5")
    with tunnelled(proxy, origin, "/events?cut") as client:
        assert client.stdout is not None
        assert client.stdout.readline() == "data: first\n"
        assert proxy.stop() == 0
        assert client.wait(20) != 0  # what came does not look whole
    assert origin.get("/confirm?cut")[0] == 204
    (flow,) = (flow for flow in proxy.flows() if flow["request"] is not None)
    assert flow["request"]["url"].endswith("/events?cut") and flow["error"] is not None
