"""`muxwsgi replay`: recorded requests are sent again as they were, to real servers."""

import contextlib
import errno
import io
import json
import os
import pty
import re
import select
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from muxwsgi.cli import main
from muxwsgi.cli.replay import _Progress
from muxwsgi.records.flow import Flow, Head
from muxwsgi.records.flow_record import record_of
from muxwsgi.settings import CertificateFiles
from tests import warm
from tests.records.flows import http_flow, raw_flow

ROOT = Path(__file__).parents[2]


class Seen(BaseHTTPRequestHandler):
    """Keeps what it gets, and answers by the path: /status/404, /cut, /slow, else 200."""

    protocol_version = "HTTP/1.1"
    requests: list[tuple[str, list[tuple[str, str]], bytes]]

    def answer(self) -> None:
        self.close_connection = True
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.requests.append((self.requestline, list(self.headers.raw_items()), body))
        kind, _, argument = self.path.strip("/").partition("/")
        self.send_response(int(argument) if kind == "status" else 200)
        self.send_header("Content-Length", "5")
        self.end_headers()
        if kind == "slow":
            for _ in range(4):
                self.wfile.write(b"x")
                self.wfile.flush()
                if self.server.stalled.wait(30):  # type: ignore[attr-defined]
                    break
        elif self.command != "HEAD":
            self.wfile.write(b"he" if kind == "cut" else b"hello")

    do_GET = do_POST = do_PUT = do_HEAD = do_BREW = do_OPTIONS = answer

    def log_message(self, format: str, *args: Any) -> None:
        pass


def serving(server: ThreadingHTTPServer, requests: list[Any]) -> Iterator[None]:
    server.RequestHandlerClass.requests = requests  # type: ignore[attr-defined]
    server.stalled = threading.Event()  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield
    server.stalled.set()  # type: ignore[attr-defined]
    server.shutdown()
    server.server_close()
    thread.join(30)


@pytest.fixture
def got() -> list[tuple[str, list[tuple[str, str]], bytes]]:
    return []


@pytest.fixture
def origin(got: list[Any]) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Seen,), {}))
    for _ in serving(server, got):
        yield f"http://127.0.0.1:{server.server_port}"


@pytest.fixture
def tls_origin(got: list[Any], make_certificate: Callable[[], CertificateFiles]) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Seen,), {}))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    files = make_certificate()
    context.load_cert_chain(files.certfile, files.keyfile)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    for _ in serving(server, got):
        yield f"https://localhost:{server.server_port}"


@pytest.fixture
def recorded(tmp_path: Path) -> Callable[..., str]:
    def write(*flows: Flow | str, redact: tuple[str, ...] = ()) -> str:
        lines = [flow if isinstance(flow, str) else json.dumps(record_of(flow, redact)) for flow in flows]
        (tmp_path / "flows").write_text("".join(f"{line}\n" for line in lines))
        return str(tmp_path / "flows")

    return write


def replay(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """The command in this process, which is as it would be in its own: it patches nothing, and there is no greenlet."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.setattr(sys, "argv", ["muxwsgi", "replay", *arguments])
        for name, value in environment.items():
            patch.setenv(name, value)
        status = 0
        try:
            status = main() or 0
        except SystemExit as error:
            assert isinstance(error.code, int)
            status = error.code
    return subprocess.CompletedProcess(arguments, status, out.getvalue(), err.getvalue())


def rows(done: "subprocess.CompletedProcess[str]") -> list[list[str]]:
    return [line.split(None, 8) for line in done.stdout.splitlines()[1:-1]]


def summary(done: "subprocess.CompletedProcess[str]") -> str:
    return done.stdout.splitlines()[-1]


def test_a_request_is_sent_as_it_was(origin: str, got: list[Any], recorded: Callable[..., str]) -> None:
    """Fields in their order and case, repeated ones too; what belonged to the connection is not sent again."""
    fields = [
        ("X-Last", "1"), ("HOST", "virtual.example"), ("x-UPPER-lower", "\xe4 b"), ("Transfer-Encoding", "chunked"), ("X-Last", "2"), ("Connection", "x-hop, close"),
        ("X-Hop", "1"), ("Expect", "100-continue"), ("Accept-Encoding", "gzip"), ("Cookie", "a=b"),
    ]  # fmt: skip
    flow = http_flow("POST", f"{origin}/a%20b?c=d&e=%FF", request_fields=fields, request_body=b"\x00\xff body", response_body=b"12345678")
    done = replay(recorded(flow))
    assert done.returncode == 0, done
    ((line, sent, body),) = got
    assert (line, body) == ("POST /a%20b?c=d&e=%FF HTTP/1.1", b"\x00\xff body")
    assert sent == [
        ("Host", "virtual.example"), ("X-Last", "1"), ("x-UPPER-lower", "\xe4 b"), ("X-Last", "2"), ("Accept-Encoding", "gzip"), ("Cookie", "a=b"),
        ("Content-Length", "7"), ("Connection", "close"),
    ]  # fmt: skip
    ((number, method, then, now, size_then, size_now, ms_then, ms_now, url),) = rows(done)
    assert (number, method, then, now, size_then, size_now, ms_then) == (str(flow.id), "POST", "200", "200", "8", "5", "200")
    assert int(ms_now) >= 0 and url == f"{origin}/a%20b?c=d&e=%FF" and summary(done) == "1 answered as then"


def test_methods_without_a_body_have_no_length_and_a_body_of_none_has(origin: str, got: list[Any], recorded: Callable[..., str]) -> None:
    flows = [
        http_flow(method, f"{origin}/", request_fields=fields)
        for method, fields in (("GET", []), ("HEAD", []), ("BREW", []), ("PUT", [("content-length", "0")]))
    ]
    done = replay(recorded(*flows))
    assert done.returncode == 0 and summary(done) == "4 answered as then"
    assert [dict(fields).get("Content-Length") for _, fields, _ in got] == [None, None, None, "0"]
    assert [line.split()[0] for line, _, _ in got] == ["GET", "HEAD", "BREW", "PUT"] and dict(got[0][1])["Host"] == origin.removeprefix(
        "http://"
    )


def test_the_target_of_a_question_about_the_whole_server_is_kept(origin: str, got: list[Any], recorded: Callable[..., str]) -> None:
    flow = http_flow("OPTIONS", "*", request_fields=[("Host", origin.removeprefix("http://"))])
    flow.client_tls = flow.upstream_tls = None
    assert replay(recorded(flow)).returncode == 0 and got[0][0] == "OPTIONS * HTTP/1.1"


def test_another_status_than_then_is_shown_and_is_status_1(origin: str, recorded: Callable[..., str]) -> None:
    done = replay(
        recorded(
            http_flow(url=f"{origin}/status/404"),
            http_flow(url=f"{origin}/status/404", status=404),
            http_flow(url=f"{origin}/", status=None),
        )
    )
    assert done.returncode == 1 and [row[2:4] for row in rows(done)] == [["200", "404"], ["404", "404"], ["-", "200"]]
    assert summary(done) == "1 answered as then, 2 with another status"


def test_only_the_flows_that_the_filter_means_are_sent(origin: str, got: list[Any], recorded: Callable[..., str]) -> None:
    file = recorded(*(http_flow(method, f"{origin}/{method}") for method in ("GET", "POST", "PUT")))
    done = replay(file, "--filter", "~m P & !~u PUT")
    assert done.returncode == 0 and [line for line, _, _ in got] == ["POST /POST HTTP/1.1"]
    done = replay(file, "--filter", "~m P & (")
    assert done.returncode == 2 and done.stderr == "muxwsgi: error: filter '~m P & (', column 9: here a condition is missing\n"


def test_all_can_be_sent_to_another_server(origin: str, got: list[Any], recorded: Callable[..., str]) -> None:
    urls = ["https://far.invalid/a?b", "https://far.invalid:9/", "http://[2001:db8::1]/c", "http://far.invalid?d"]
    file = recorded(*(http_flow(url=url) for url in urls))
    assert replay(file, "--target", origin).returncode == 0
    assert replay(file, "--target", f"{origin}/staging/").returncode == 0
    assert [line.split()[1] for line, _, _ in got] == [
        "/a?b", "/", "/c", "/?d", "/staging/a?b", "/staging/", "/staging/c", "/staging/?d"
    ]  # fmt: skip
    assert {dict(fields)["Host"] for _, fields, _ in got} == {origin.removeprefix("http://")}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--target", "far"], "--target: 'far' is not an http:// or https:// URL"), (["--target", "ftp://h"], "is not an http"), (["--target", "http://h:x"], "--target: "),
        (["--target", "http://h/?q"], "is more than"), (["--timeout", "0"], "--timeout"), (["--filter", "~c x"], "column 4"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_one_line(recorded: Callable[..., str], arguments: list[str], says: str) -> None:
    done = replay(recorded(http_flow()), *arguments)
    assert (
        done.returncode == 2 and done.stderr.startswith("muxwsgi: error: ") and len(done.stderr.splitlines()) == 1 and says in done.stderr
    ), done


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    done = replay(str(tmp_path / "none"))
    assert (done.returncode, done.stderr) == (2, f"muxwsgi: error: {tmp_path}/none: No such file or directory\n")


def test_what_cannot_be_sent_again_says_why(origin: str, got: list[Any], recorded: Callable[..., str]) -> None:
    cut = http_flow("POST", f"{origin}/", request_body=b"x" * 10, capture_limit=4)
    nothing = http_flow()
    nothing.request = None
    websocket = http_flow(url=f"{origin}/socket")
    websocket.kind = "websocket"
    blocked = http_flow(url=f"{origin}/blocked")
    blocked.answered_by = "rule"
    done = replay(recorded(cut, raw_flow(b"a"), nothing, websocket, blocked, "{", '{"schema": 9}', "[" * 100_000, http_flow(url=f"{origin}/")))
    assert done.returncode == 1 and len(got) == 1
    text = done.stdout
    for why in (
        "of its body's 10 bytes only 4 were kept",
        "it is not an HTTP exchange, but raw",
        "it has no request",
        "it is not an HTTP exchange, but websocket",
        "no upstream has answered it, but a rule",
    ):
        assert f"(not sent: {why})" in text, why
    assert [line.partition(": ")[0].rpartition(" ")[2] for line in done.stderr.splitlines()] == ["6", "7", "8"]
    assert summary(done) == "1 answered as then, 2 refused, 2 of other protocols, 1 that no upstream had answered, 3 lines that are not flows"


def test_fields_that_were_not_recorded_are_left_out_and_named(origin: str, got: list[Any], recorded: Callable[..., str]) -> None:
    fields = [("Cookie", "secret"), ("Accept", "*/*"), ("Authorization", "secret")]
    done = replay(recorded(http_flow(url=f"{origin}/", request_fields=fields), redact=("cookie", "authorization")))
    assert done.returncode == 0 and [name for name, _ in got[0][1]] == ["Host", "Accept", "Connection"]
    assert "(sent without Cookie, Authorization, which were not recorded)" in done.stdout


def test_counting_sends_nothing(origin: str, got: list[Any], recorded: Callable[..., str]) -> None:
    cut = http_flow("POST", f"{origin}/", request_body=b"x" * 10, capture_limit=4)
    done = replay(recorded(http_flow(url=f"{origin}/"), cut, raw_flow(), http_flow("PUT", f"{origin}/")), "--count")
    assert got == [] and summary(done) == "2 can be sent, 1 refused, 1 of other protocols"
    assert len(done.stdout.splitlines()) == 2 and "only 4 were kept" in done.stdout and done.returncode == 1
    assert replay(recorded(http_flow()), "--count").returncode == 0


def test_certificates_are_verified_unless_told_otherwise(
    tls_origin: str, got: list[Any], recorded: Callable[..., str], make_certificate: Callable[[], CertificateFiles]
) -> None:
    file = recorded(http_flow(url=f"{tls_origin}/"))
    done = replay(file)
    assert done.returncode == 1 and "CERTIFICATE_VERIFY_FAILED" in done.stdout and got == []
    assert replay(file, "--insecure").returncode == 0
    assert replay(file, SSL_CERT_FILE=make_certificate().certfile).returncode == 0 and len(got) == 2


def test_servers_are_verified_with_the_cas_that_are_given(
    tls_origin: str, recorded: Callable[..., str], make_certificate: Callable[[], CertificateFiles], tmp_path: Path
) -> None:
    file = recorded(http_flow(url=f"{tls_origin}/"))
    assert replay(file, "--upstream-ca", make_certificate().certfile).returncode == 0
    for name, text, why in (("none.pem", None, "No such file"), ("text.pem", "text", "does not hold CA certificates"), ("", "", "Is a directory")):
        path = tmp_path / name
        if text:
            path.write_text(text)
        done = replay(file, "--upstream-ca", str(path))
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith(f"muxwsgi: error: --upstream-ca: {path}") and why in done.stderr and done.stderr.count("\n") == 1


def test_a_server_that_fails_costs_its_flow_alone(origin: str, recorded: Callable[..., str]) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        refused = f"http://127.0.0.1:{nobody.getsockname()[1]}/"
        odd = http_flow(url=f"{origin}/")
        odd.request = Head(("GET X", f"{origin}/", "HTTP/1.1"), [])
        bad_field = http_flow(url=f"{origin}/", request_fields=[("X", "a\r\nInjected: 1")])
        flows = [
            http_flow(url=refused),
            http_flow(url=f"{origin}/cut"),
            http_flow(url=f"{origin}/slow"),
            odd,
            bad_field,
            http_flow(url=f"{origin}/"),
        ]
        done = replay(recorded(*flows), "--timeout", "0.3")
    assert done.returncode == 1 and summary(done) == "1 answered as then, 5 not answered"
    said = [line.partition("(no answer: ")[2] for line in done.stdout.splitlines()[1:6]]
    for words, text in zip(("refused", "broke off, 3 bytes", "timed out", "method", "header"), said, strict=True):
        assert words in text, said


def test_what_was_recorded_cannot_steer_the_terminal(origin: str, recorded: Callable[..., str]) -> None:
    done = replay(recorded(http_flow("G\x1b[2J", f"{origin}/\x1b[2J\x9b\u202e"), http_flow(url=f"{origin}/ö"), '{"schema": "\x1b"}'))
    assert "\x1b" not in done.stdout + done.stderr and "\x9b" not in done.stdout and "\u202e" not in done.stdout and "/ö" in done.stdout


def test_a_log_comes_from_standard_input_too(origin: str, recorded: Callable[..., str]) -> None:
    with open(recorded(http_flow(url=f"{origin}/"))) as log:
        command = [sys.executable, "-m", "muxwsgi", "replay", "-"]
        done = warm.run(command, cwd=ROOT, stdin=log, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0 and summary(done) == "1 answered as then", done


def test_progress_is_shown_on_a_terminal_where_nothing_else_moves(recorded: Callable[..., str]) -> None:
    """Lines come slowly, until it is shown that they come."""
    line = Path(recorded(raw_flow())).read_bytes()
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "muxwsgi", "replay", "-", "--count"], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=theirs
    )
    os.close(theirs)
    assert process.stdin is not None
    sent = 0
    deadline = time.monotonic() + 30
    while not select.select([ours], [], [], 0.05)[0] and time.monotonic() < deadline:
        process.stdin.write(line)
        process.stdin.flush()
        sent += 1
    assert process.communicate(timeout=30)[0] == f"0 can be sent, {sent} of other protocols\n".encode()
    shown = b""
    try:
        while piece := os.read(ours, 1000):
            shown += piece
    except OSError as error:  # how a terminal ends
        assert error.errno == errno.EIO
    os.close(ours)
    assert re.fullmatch(rb"(\r\d+ flows)+\r\x1b\[K", shown), shown


def test_progress_is_a_share_where_the_length_is_known(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "flows").write_bytes(b"x" * 200)
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with open(tmp_path / "flows", "rb") as stream:
        progress = _Progress(stream, shown=True)
        progress.at(50, 1)
        now = 1.5
        progress.at(50, 2)
        progress.at(50, 3)
        now = 3.0
        progress.at(50, 4)
        progress.end()
    assert capsys.readouterr().err == "\r 50%, 2 flows\r100%, 4 flows\r\x1b[K"
