"""The security team's example: what the policy says holds, for requests, inside of tunnels, and for SSH wherever it hides."""

import gzip
import json
import logging
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from muxwsgi_inspector import Policy, SecretScanner, create_proxy
from muxwsgi_inspector.ssh import SSHWatch

from muxwsgi import OperatorError
from muxwsgi.proxy import ProxySettings, Refused, UpstreamChoice
from tests.proxy.conftest import Lab, read_response

KEY = b"AKIA" + b"Q" * 16
POLICY = """
deny = ["deny.txt"]
passthrough = ["*.bank.example"]
strip_request = ["X-Internal-User"]
strip_response = ["X-Powered-By"]

[secrets]
employee-number = 'EMP-[0-9]{6}'
"""


@pytest.fixture
def policy_file(tmp_path: Path) -> Path:
    (tmp_path / "deny.txt").write_text("ads.example\n*.tracker.example\n")
    (tmp_path / "policy.toml").write_text(POLICY)
    return tmp_path / "policy.toml"


@pytest.fixture
def findings(caplog: pytest.LogCaptureFixture) -> Any:
    logger = logging.getLogger("muxwsgi")
    propagate, logger.propagate = logger.propagate, True
    yield lambda: [json.loads(record.getMessage()) for record in caplog.records if record.name == "muxwsgi.inspector" and "{" in record.msg % record.args]
    logger.propagate = propagate


def inspector(lab: Lab, policy_file: Path) -> int:
    policy = Policy.load(policy_file)
    settings = ProxySettings(
        default_action="mitm", passthrough=policy.passthrough, upstream_ca=lab.certificate.certfile, sniff_timeout=0.2
    )
    proxy = create_proxy(
        policy_file, settings=settings, authority=lab.authority, upstreams=UpstreamChoice(), sinks=[lab.flows.append]
    )
    return lab.serve_proxy(proxy)


def test_what_is_denied_is_reached_in_no_way(lab: Lab, policy_file: Path) -> None:
    port = inspector(lab, policy_file)
    plain = lab.connect(port)
    plain.sendall(b"GET http://ads.example/x HTTP/1.1\r\nHost: ads.example\r\n\r\n")
    head, body = read_response(plain)
    assert head.startswith(b"HTTP/1.1 403 ") and body == b"blocked: ads.example\n"
    tunnel = lab.connect(port)
    tunnel.sendall(b"CONNECT a.tracker.example:443 HTTP/1.1\r\nHost: a.tracker.example:443\r\n\r\n")
    head, body = read_response(tunnel)
    assert head.startswith(b"HTTP/1.1 403 ") and body == b"blocked: *.tracker.example\n"


def test_fields_are_taken_out_and_secrets_reported_in_both_directions(lab: Lab, policy_file: Path, findings: Any) -> None:
    received: list[dict[str, Any]] = []

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        received.append({key: value for key, value in environ.items() if key.startswith("HTTP_")})
        body = environ["wsgi.input"].read()
        start_response(
            "200 OK", [("Content-Type", "application/json"), ("Content-Encoding", "gzip"), ("X-Powered-By", "steam")]
        )
        return [gzip.compress(b'{"got": %d, "key": "%s", "who": "EMP-123456"}' % (len(body), KEY))]

    upstream = lab.serve(app, tls=True)
    sock = lab.wrap(lab.tunnel(inspector(lab, policy_file), f"localhost:{upstream}"))
    body = b"comment=EMP-654321&key=" + KEY
    sock.sendall(
        b"POST /form HTTP/1.1\r\nHost: localhost\r\nX-Internal-User: me\r\nAccept-Encoding: gzip\r\n"
        b"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    )
    head, answer = read_response(sock)
    assert head.startswith(b"HTTP/1.1 200 ") and b"X-Powered-By" not in head
    assert b'"got": %d' % len(body) in gzip.decompress(answer)
    assert "HTTP_X_INTERNAL_USER" not in received[0]
    found = {(each["in"], each["found"]) for each in findings()}
    assert found == {
        ("request", "employee-number"),
        ("request", "aws-access-key"),
        ("response", "employee-number"),
        ("response", "aws-access-key"),
    }
    assert KEY.decode() not in json.dumps(findings())
    assert set(lab.flows[-1].tags) == {"secret:employee-number", "secret:aws-access-key"}


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "in TLS"])
@pytest.mark.parametrize("who_speaks_first", ["client", "server"])
def test_ssh_is_refused_in_tunnels(lab: Lab, policy_file: Path, tls: bool, who_speaks_first: str) -> None:
    def sshd(sock: Any) -> None:
        sock.sendall(b"welcome to this machine\r\nSSH-2.0-OpenSSH_9.2\r\n")
        sock.recv(1000)

    upstream = lab.serve_raw(sshd, tls=tls)
    sock = lab.tunnel(inspector(lab, policy_file), f"localhost:{upstream}")
    if tls:
        sock = lab.wrap(sock)
    if who_speaks_first == "client":
        sock.sendall(b"SSH-2.0-client\r\n")
    received = b""
    try:
        while more := sock.recv(1000):
            received += more
    except OSError:
        pass
    assert b"SSH-" not in received


@given(st.binary(max_size=600), st.lists(st.integers(0, 700), max_size=6), st.integers(0, 600))
def test_a_secret_is_found_however_the_body_is_cut_and_the_body_stays(filler: bytes, cuts: list[int], at: int) -> None:
    at = min(at, len(filler))
    body = filler[:at] + b" " + KEY + b" " + filler[at:]
    edges = sorted({0, len(body), *(min(cut, len(body)) for cut in cuts)})
    pieces = [body[a:b] for a, b in pairwise(edges)]
    found: list[Any] = []
    scanner = SecretScanner({})
    assert b"".join(scanner.watch(pieces, found.append)) == body
    assert [(each.kind, each.at) for each in found if each.kind == "aws-access-key"] == [("aws-access-key", at + 1)]


@pytest.mark.parametrize("data", [b"SSH-2.0-x", b"SSH-1.99-y"])
@pytest.mark.parametrize("from_client", [True, False])
def test_ssh_is_seen_byte_by_byte(data: bytes, from_client: bool) -> None:
    watch = SSHWatch()
    with pytest.raises(Refused):
        for byte in data:
            watch.see(bytes([byte]), from_client)


@pytest.mark.parametrize("data", [b"SSL-2.0", b"GET / HTTP/1.1\r\n\r\nSSH-", b"\x00SSH-2.0", b"\x16\x03\x01"])
def test_what_is_not_ssh_passes(data: bytes) -> None:
    watch = SSHWatch()
    for byte in data:
        watch.see(bytes([byte]), True)


@pytest.mark.parametrize(
    "text", ["deny = 3", "unknown = 1", "deny = [", "[secrets]\nx = '('", "strip_request = [1]", "secrets = 'x'"]
)
def test_a_broken_policy_is_one_line_with_the_files_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(text)
    with pytest.raises(OperatorError, match=re.escape(str(path))) as caught:
        Policy.load(path)
    assert "\n" not in str(caught.value)
