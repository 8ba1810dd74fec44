"""`--debug`: werkzeug's debugger, and who gets it."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from muxwsgi.cli.debugger import Debugged
from muxwsgi.cli.local_client import is_local
from muxwsgi.errors import OperatorError
from tests import warm
from tests.system.server_process import ROOT, ServerProcess

APPLICATION = """
def app(environ, start_response):
    secret = "a value of the frame"
    if environ["PATH_INFO"] == "/begun":
        start_response("200 OK", [])
        raise RuntimeError("after it had begun")
    if environ["PATH_INFO"] == "/fails":
        raise RuntimeError("this goes wrong")
    if environ["PATH_INFO"] == "/generator":
        return parts(start_response)
    start_response("200 OK", [("Content-Length", "5")])
    return [b"hello"]

def parts(start_response):
    raise RuntimeError("in a generator")
    yield b""
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    (tmp_path / "debugged_app.py").write_text(APPLICATION)
    with ServerProcess("debugged_app:app", "--debug", "--pythonpath", str(tmp_path), "--hijack", "none") as server:
        yield server


def ask(server: ServerProcess, path: str, *fields: str, host: str = "localhost") -> str:
    with server.connect() as sock:
        sock.sendall("\r\n".join([f"GET {path} HTTP/1.1", f"Host: {host}", *fields, "Connection: close", "", ""]).encode())
        data = b""
        while part := sock.recv(65536):
            data += part
    return data.decode()


def test_an_error_is_shown_with_a_console_that_wants_the_pin(server: ServerProcess) -> None:
    assert server.get("/") == (200, b"hello")
    page = ask(server, "/fails")
    assert page.startswith("HTTP/1.1 500 ") and "RuntimeError: this goes wrong" in page and "EVALEX = true" in page
    for path, words in (("/begun", "after it had begun"), ("/generator", "in a generator")):
        assert words in ask(server, path)
    secret = re.search(r'SECRET = "(\w+)"', page)
    frame = re.search(r'id="frame-(\d+)"', page)
    assert secret is not None and frame is not None
    command = f"/?__debugger__=yes&cmd=%22q%22*9&frm={frame[1]}&s={secret[1]}"
    assert "qqqqqqqqq" not in ask(server, command).partition("\r\n\r\n")[2]  # the PIN was not given
    pin = re.search(r"Its PIN is (\S+)", server.log)
    assert pin is not None
    answer = ask(server, f"/?__debugger__=yes&cmd=pinauth&pin={pin[1]}&s={secret[1]}")
    assert '"auth": true' in answer
    cookie = re.search(r"Set-Cookie: ([^;]+)", answer)
    assert cookie is not None
    assert "qqqqqqqqq" in ask(server, command, f"Cookie: {cookie[1]}").partition("\r\n\r\n")[2]
    assert "this goes wrong" in server.log


@pytest.mark.parametrize(
    ("fields", "host"),
    [
        (["X-Forwarded-For: 192.0.2.7"], "localhost"),
        (["Forwarded: for=192.0.2.7"], "localhost"),
        (["X-Real-IP: 192.0.2.7"], "localhost"),
        (["CF-Connecting-IP: 192.0.2.7"], "localhost"),
        (["Via: 1.1 front"], "localhost"),
        (["X-Forwarded-Proto: https"], "localhost"),
        ([], "evil.example"),
    ],
)
def test_a_client_of_elsewhere_gets_no_debugger(server: ServerProcess, fields: list[str], host: str) -> None:
    page = ask(server, "/fails", *fields, host=host)
    assert page.startswith("HTTP/1.1 500 ") and page.endswith("Internal Server Error\n")
    assert "hello" in ask(server, "/console", *fields, host=host)
    assert "hello" in ask(server, "/?__debugger__=yes&cmd=resource&f=style.css", *fields, host=host)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["-b", "0.0.0.0:0"], r"debug: 0\.0\.0\.0:\d+: other machines can reach it, and the debugger runs any code; bind loopback, as in 127\.0\.0\.1:8000"),
        (["-b", "127.0.0.1:0", "-b", "[::]:0"], r"debug: \[::\]:\d+: other machines can reach it"),
        (["-b", "unix:{tmp}/socket"], r"debug: unix:.*: it is not known who connects to a unix socket"),
        (["-b", "127.0.0.1:0", "-w", "2"], r"debug: a traceback is in the worker that it happened in, so there can be only one \(--workers 1\)"),
    ],
)
def test_where_it_could_be_reached_from_elsewhere_nothing_is_served(tmp_path: Path, options: list[str], says: str) -> None:
    (tmp_path / "debugged_app.py").write_text(APPLICATION)
    binds = [option.format(tmp=tmp_path) for option in options]
    command = [sys.executable, "-m", "muxwsgi", "run", "debugged_app:app", "--debug", "--pythonpath", str(tmp_path), *binds]
    for further in ([], ["--check-config"]):
        done = warm.run([*command, *further], cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert done.returncode == 2 and re.search(f"^muxwsgi: error: {says}", done.stderr, re.M), done.stderr


def test_without_a_pin_there_is_no_debugger(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WERKZEUG_DEBUG_PIN", "off")
    with pytest.raises(OperatorError, match="WERKZEUG_DEBUG_PIN turns the PIN off"):
        Debugged(lambda environ, start_response: [])


def test_a_request_is_local_only_if_everything_says_so() -> None:
    class Connection:
        client: object = ("127.0.0.1", 4)

    local = {"muxwsgi.connection": Connection(), "REMOTE_ADDR": "127.0.0.1", "HTTP_HOST": "localhost:8000", "muxwsgi.fields": ()}
    assert is_local(local)
    assert is_local({**local, "HTTP_HOST": "[::1]:8000", "REMOTE_ADDR": "::1"}) and is_local({**local, "HTTP_HOST": "app.localhost"})
    assert is_local({**local, "muxwsgi.fields": (("forwarded", 'for="127.0.0.1:80";by=x, For=[::1]'), ("X-Forwarded-For", "127.0.0.1, ::1"))})
    assert not is_local({**local, "REMOTE_ADDR": "192.0.2.1"}) and not is_local({**local, "REMOTE_ADDR": ""})
    assert is_local({**local, "SERVER_PROTOCOL": "HTTP/1.1"})
    assert not is_local({**local, "SERVER_PROTOCOL": "HTTP/1.0"})  # nginx as it is without further words, for anybody
    assert not is_local({**local, "HTTP_HOST": ""}) and not is_local({**local, "HTTP_HOST": "127.0.0.1.evil.example"})
    for client in (("192.0.2.1", 4), "", None, ("::ffff:192.0.2.1", 4)):
        connection = Connection()
        connection.client = client
        assert not is_local({**local, "muxwsgi.connection": connection})
