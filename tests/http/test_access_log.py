"""The access log: lines that nothing can break, of exchanges that went well, were cut, or were refused."""

import json
import logging
import re
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest
from hypothesis import given
from hypothesis import strategies as st

from muxwsgi.errors import OperatorError
from muxwsgi.http.exchange import Exchange
from muxwsgi.http.h1.h1 import HTTP1
from muxwsgi.http.h1.refused import refused_request
from muxwsgi.observe.access_format import DEFAULT_FORMAT, compile_format
from muxwsgi.settings import HTTPSettings
from muxwsgi.testing import connection_pair
from muxwsgi.wire.memory import CAPACITY
from tests.http.conftest import Talk, hello
from tests.subscribed import subscribed
from tests.system.server_process import ServerProcess, read_until_closed
from tests.waiting import wait_for

GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"

REQUEST = {
    "REMOTE_ADDR": "127.0.0.1",
    "REQUEST_METHOD": "GET",
    "RAW_URI": "/",
    "PATH_INFO": "/",
    "QUERY_STRING": "",
    "SERVER_PROTOCOL": "HTTP/1.1",
    "wsgi.url_scheme": "http",
}


def exchange(request: dict[str, Any] | None = None, environ: dict[str, Any] | None = None, **more: Any) -> Exchange:
    asked = REQUEST | (request or {})
    said: dict[str, Any] = {"status": "200 OK", "headers": [], "body_bytes": 5, "seconds": 0.25} | more
    return Exchange(asked, asked if environ is None else environ, **said)


# What a line is


@given(st.dictionaries(st.sampled_from([*REQUEST, "HTTP_HOST", "HTTP_REFERER", "HTTP_USER_AGENT", "REMOTE_USER"]), st.binary(max_size=20)))
def test_any_bytes_in_any_field_come_back_from_json(fields: dict[str, bytes]) -> None:
    line = compile_format("json")(exchange({key: value.decode("latin-1") for key, value in fields.items()}))
    assert line.isascii() and "\n" not in line
    assert not re.search(r"(?<!\\)(?:\\\\)*\\ud[89a-f]..(?!\\ud[c-f])(?<!\\ud[c-f]..)", line)  # a lone surrogate is no text elsewhere
    read = json.loads(line)
    names = {"REMOTE_ADDR": "remote_addr", "REQUEST_METHOD": "method", "PATH_INFO": "path", "QUERY_STRING": "query", "HTTP_HOST": "host"}
    names |= {"HTTP_REFERER": "referer", "HTTP_USER_AGENT": "user_agent", "REMOTE_USER": "remote_user", "SERVER_PROTOCOL": "protocol"}
    for key, name in names.items():
        if key in fields:
            assert (read[name] or "") == fields[key].decode("utf-8", "backslashreplace")


@given(st.text(max_size=20), st.text(max_size=20))
def test_any_text_in_a_format_that_looks_like_json_stays_json(asked: str, answered: str) -> None:
    line = compile_format('{"a": "%({x-a}i)s", "b": "%({X-B}o)s", "c": "%({key}e)s"}')(
        exchange({"HTTP_X_A": asked}, {"key": answered}, headers=[("x-b", answered)])
    )
    assert line.isascii() and line.isprintable()
    assert set(json.loads(line)) == {"a", "b", "c"}


@given(st.binary(max_size=200))
def test_any_bytes_that_were_refused_make_a_line(head: bytes) -> None:
    request, line = refused_request({"REMOTE_ADDR": "::1", "REQUEST_METHOD": "", "RAW_URI": "", "SERVER_PROTOCOL": ""}, head, 100)
    refused = Exchange(request, request, "400 Bad Request", [], 9, 0.0, "no", line)
    assert json.loads(compile_format("json")(refused))["status"] == 400
    assert re.fullmatch(r'::1 - - \[[^\]]+\] "[^"]*" 400 9 "[^"]*" "[^"]*"', compile_format(DEFAULT_FORMAT)(refused))


class Stubborn:
    def __str__(self) -> str:
        raise ValueError("no")


@pytest.mark.parametrize("value", [Stubborn(), 5, None, b"x", object, "\ud800", "\U0001f600 \u202e \x00", ("a", 1)])
def test_whatever_an_application_leaves_in_its_environ_makes_a_line(value: object) -> None:
    environ = {"REMOTE_USER": value, "key": value}
    for text in (DEFAULT_FORMAT, "%({key}e)s", "json"):
        line = compile_format(text)(exchange({}, environ, headers=[("a", value), value, ("b",)]))
        assert line.isascii() and line.isprintable()


def test_a_path_is_shown_as_the_text_that_it_encodes() -> None:
    request = {"PATH_INFO": "/h\u00fctte/\u20ac".encode().decode("latin-1"), "RAW_URI": "/h%C3%BCtte/%E2%82%AC"}
    assert compile_format("%(U)s")(exchange(request)) == "/h\\u00fctte/\\u20ac"
    assert json.loads(compile_format("json")(exchange(request)))["path"] == "/h\u00fctte/\u20ac"


def test_an_atom_that_does_not_exist_is_the_operators_error() -> None:
    with pytest.raises(OperatorError, match=r"unknown atom '%\(Z\)s'"):
        compile_format("%(h)s %(Z)s")


# What an application does to its environ


@pytest.fixture
def errors(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[], list[str]]]:
    logger = logging.getLogger("muxwsgi")
    propagate, logger.propagate = logger.propagate, True
    yield lambda: [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    logger.propagate = propagate


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("logged", [False, True])
def test_an_application_that_empties_its_environ_keeps_its_connection_and_its_line(
    fails: bool, logged: bool, talk: Talk, errors: Callable[[], list[str]]
) -> None:
    lines: list[str] = []
    line = compile_format('%(h)s "%(r)s" %(m)s %(U)s %(q)s %(H)s %(s)s')

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        environ.clear()
        if fails:
            raise LookupError("lost")
        return hello(environ, start_response)

    more = {"events": subscribed(exchange=lambda each: lines.append(line(each)))} if logged else {}
    request = b"GET /a?b=c HTTP/1.1\r\nHost: a\r\n\r\n"
    answer = talk(app, request + request, **more)
    assert answer.count(b"HTTP/1.1 500 " if fails else b"HTTP/1.1 200 ") == 2
    assert [each.split(" ", 1)[1] for each in lines] == [
        '"GET /a?b=c HTTP/1.1" GET /a b=c HTTP/1.1 ' + ("500" if fails else "200")
    ] * 2 * logged
    assert errors() == ["application error in GET /a?b=c: answered with 500"] * 2 * fails


def test_an_address_that_the_application_believes_is_neither_the_peers_nor_a_forged_line(talk: Talk) -> None:
    lines: list[str] = []
    line = compile_format("%(h)s %({REMOTE_ADDR}e)s %(u)s")

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        environ["REMOTE_ADDR"] = 'x"\n127.0.0.1 - - [forged]'  # as a middleware does that trusts X-Forwarded-For
        environ["REMOTE_USER"] = "ann"
        return hello(environ, start_response)

    talk(app, GET, events=subscribed(exchange=lambda each: lines.append(line(each))))
    assert lines[0].endswith(" x\\u0022\\u000a127.0.0.1 - - [forged] ann") and "\n" not in lines[0]
    assert not lines[0].startswith("x")


def test_a_log_that_fails_costs_the_client_nothing(talk: Talk, errors: Callable[[], list[str]]) -> None:
    def fail(each: Exchange) -> None:
        raise LookupError

    assert talk(hello, GET + GET + b"GET  / HTTP/1.1\r\n\r\n", events=subscribed(exchange=fail)).count(b"HTTP/1.1 ") == 3
    assert errors() == [f"a subscriber of events failed: {fail!r}"] * 3


# What was sent


def cut_after(app: Any, wanted: int) -> tuple[int, int]:
    """Read `wanted` bytes of the response's head and body in memory, then leave: the bytes logged, and those of the body that were taken."""
    told: list[Exchange] = []
    engine = HTTP1(app, HTTPSettings(), events=subscribed(exchange=told.append))
    server, client = connection_pair()

    def serve() -> None:
        try:
            engine(server)
        except OSError:
            pass
        finally:
            server.finish()

    serving = gevent.spawn(serve)
    client.sendall(GET)
    got = b""
    while len(got) < wanted:
        got += client.recv(wanted - len(got))
    gevent.sleep(0.05)  # the server fills what room there is
    client.close()
    serving.get(timeout=30)
    return told[0].body_bytes, wanted + CAPACITY - got.index(b"\r\n\r\n") - 4


BIG = bytes(8 * CAPACITY)


def whole(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    start_response("200 OK", [])
    return [BIG]


def written(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    start_response("200 OK", [("Content-Length", str(len(BIG)))])(BIG)
    return []


def test_an_aborted_download_logs_the_bytes_that_were_sent() -> None:
    for app in (whole, written):
        logged, taken = cut_after(app, 3 * CAPACITY)
        assert logged == taken


def test_an_aborted_chunked_download_logs_the_bytes_of_its_body() -> None:
    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        while True:
            yield bytes(1000)

    logged, taken = cut_after(app, 3 * CAPACITY)
    chunks = taken // 1007  # "3e8" and two line ends
    assert 1000 * chunks <= logged <= 1000 * (chunks + 1)


@pytest.mark.parametrize("form", ["file", "list", "generator"])
@pytest.mark.parametrize("tls", [False, True])
def test_an_aborted_download_over_a_socket_logs_what_was_sent(form: str, tls: bool, tmp_path: Path) -> None:
    log = tmp_path / "access"
    flags = ["--access-logfile", str(log), "--access-logformat", "json", *(["--tls-dev"] if tls else [])]
    with ServerProcess("tests.http.downloads", *flags, environment={"XDG_DATA_HOME": str(tmp_path)}) as server:
        server.tls = tls
        sock = server.open()
        sock.sendall(f"GET /{form} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        got = 0
        while got < 1_000_000:
            got += len(sock.recv(65536))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()
        line = json.loads(waited_for(log))
    assert line["status"] == 200
    assert got - 1000 < line["bytes"] < 60_000_000


def waited_for(path: Path, lines: int = 1) -> str:
    wait_for(lambda: path.read_text().count("\n") >= lines, lambda: f"{path} has no {lines} lines: {path.read_text()}")
    return path.read_text()


# What was refused


def test_refused_requests_are_logged_with_what_is_known_of_them(tmp_path: Path) -> None:
    log = tmp_path / "access"
    field = b"x-a: " + b"a" * 500 + b"\r\n"
    refused = {
        400: b"GET /a HTTP/1.1\r\nHost: a\r\nUser-Agent: b\xffd\r\nContent-Length: x\r\n\r\n",
        408: b"GET /late HTTP/1.1\r\nUser-Agent: slow\r\n",
        413: b"POST /big HTTP/1.1\r\nHost: a\r\nUser-Agent: c\r\nContent-Length: 5000\r\n\r\n",
        414: b"GET /" + b"l" * 300 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
        417: b"POST /e HTTP/1.1\r\nHost: a\r\nExpect: wonders\r\nContent-Length: 1\r\n\r\n",
        431: b"GET /fields HTTP/1.1\r\nHost: a\r\n" + 4 * field + b"\r\n",
        501: b"POST /t HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n",
    }
    flags = ["--limit-request-body=100", "--limit-request-line=200", "--limit-request-head=1000", "--request-head-timeout=0.5"]
    with ServerProcess("tests.system.counted_app", *flags, "--access-logfile", str(log), "--access-logformat", "json") as server:
        for status, request in refused.items():
            with server.connect() as sock:
                sock.sendall(GET)
                assert sock.recv(1000).endswith(b"hello")
                sock.sendall(request)
                assert read_until_closed(sock).startswith(b"HTTP/1.1 %d " % status)
        with server.connect() as sock:  # as a first request, and with its body refused where the application reads it
            sock.sendall(b"POST /upload HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n")
            assert read_until_closed(sock).startswith(b"HTTP/1.1 400 ")
        lines = [json.loads(line) for line in waited_for(log, 2 * len(refused) + 1).splitlines()]
    seen = [line for line in lines if "refused" in line]
    assert [line["status"] for line in seen] == [*refused, 400]
    assert all(line["remote_addr"] == "127.0.0.1" and line["bytes"] == len(line["refused"]) + 1 for line in seen)
    assert [line["request"] for line in seen[:3]] == ["GET /a HTTP/1.1", "GET /late HTTP/1.1", "POST /big HTTP/1.1"]
    assert [line["user_agent"] for line in seen[:3]] == ["b\\xffd", "slow", "c"]
    assert seen[3]["request"].startswith("GET /lll") and len(seen[3]["request"]) == 200
    assert seen[7]["path"] == "/upload"


def test_plain_http_on_a_port_with_tls_is_logged(tmp_path: Path) -> None:
    log = tmp_path / "access"
    flags = ["--tls-dev", "--access-logfile", str(log)]
    with ServerProcess("tests.system.counted_app", *flags, environment={"XDG_DATA_HOME": str(tmp_path)}) as server:
        with server.connect() as sock:
            sock.sendall(GET)
            assert read_until_closed(sock).startswith(b"HTTP/1.1 400 ")
        assert '"GET / HTTP/1.1" 400 ' in waited_for(log)


# Where it goes


def test_a_stream_that_knows_only_ascii_loses_no_line(tmp_path: Path) -> None:
    written = tmp_path / "stdout"
    with written.open("w") as stream:
        flags = ["--access-logfile", "-", "--access-logformat", "%(a)s"]
        environment = {"PYTHONIOENCODING": "ascii:strict", "LC_ALL": "C"}
        with ServerProcess("tests.system.counted_app", *flags, environment=environment, stdout=stream.fileno()) as server:
            for agent in ("first", "\u00fc\u20ac", "last"):
                with server.connect() as sock:
                    sock.sendall(GET[:-2] + f"User-Agent: {agent}\r\n\r\n".encode())
                    assert sock.recv(1000).endswith(b"hello")
            assert waited_for(written, 3).splitlines() == ["first", "\\u00fc\\u20ac", "last"]
            assert server.tracebacks() == []
