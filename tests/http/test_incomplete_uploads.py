"""Uploads that stop short, are reset, broken, late or too large: what Flask, werkzeug, Django and others are told of them."""

import errno
import logging
import subprocess
import sys
from pathlib import Path
from time import monotonic
from typing import Any

import flask
import gevent
import pytest
from django.http import UnreadablePostError
from werkzeug.exceptions import ClientDisconnected, HTTPException, RequestEntityTooLarge, RequestTimeout

import muxwsgi
from muxwsgi.http.h1.h1 import HTTP1
from muxwsgi.settings import HTTPSettings
from muxwsgi.testing import connection_pair
from muxwsgi.wire.lifeline import sweep
from tests.http import django_echo
from tests.http.conftest import Talk, statuses
from tests.pairs import tcp_pair
from tests.waiting import until

CHUNKED = b"POST /%b HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"

#: Heads of a body of about 1 MB, of which less comes.
FRAMINGS = [b"Content-Length: 1000000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\nfffff\r\n"]


def complaints(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def reset_in_upload(app: Any, framing: bytes) -> None:
    """A client that sends the begin of a body, and resets the connection."""
    server, client = tcp_pair()
    serving = gevent.spawn(HTTP1(app, HTTPSettings()), server)
    client.sendall(b"POST / HTTP/1.1\r\nHost: a\r\n" + framing + b"x" * 2000)
    until(lambda: server.lifeline.reader.waiting and server.bytes_received > 2000)
    client.abort()
    serving.join(10)
    assert serving.ready()
    server.finish()


@pytest.mark.parametrize("way", ["form", "data", "stream"])
@pytest.mark.parametrize("kind", [b"application/x-www-form-urlencoded", b"multipart/form-data; boundary=x"])
def test_a_client_that_leaves_in_its_upload_is_no_error_of_a_flask_application(
    talk: Talk, caplog: pytest.LogCaptureFixture, way: str, kind: bytes
) -> None:
    app = flask.Flask("uploads")

    @app.post("/")
    def upload() -> str:
        match way:
            case "form":
                return str(len(flask.request.form) + len(flask.request.files))
            case "data":
                return str(len(flask.request.get_data()))
            case _:
                return str(len(flask.request.stream.read()))

    head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Type: %b\r\n" % kind
    counted = head + b"Content-Length: 100000\r\n\r\na=b&c=" + b"x" * 2000
    chunked = head + b"Transfer-Encoding: chunked\r\n\r\n6\r\na=b&c=\r\n1000\r\n" + b"x" * 2000
    for half in (counted, chunked):
        assert statuses(talk(app.wsgi_app, half)) == [400]
        assert complaints(caplog) == []


@pytest.mark.parametrize("framing", FRAMINGS, ids=["length", "chunked"])
def test_a_client_that_resets_its_upload_is_no_error_of_a_flask_application(framing: bytes, caplog: pytest.LogCaptureFixture) -> None:
    app = flask.Flask("uploads")
    seen: list[BaseException] = []

    @app.post("/")
    def upload() -> str:
        try:
            return str(len(flask.request.get_data()))
        except Exception as error:
            seen.append(error)
            raise

    reset_in_upload(app.wsgi_app, framing)
    assert isinstance(seen[0], ClientDisconnected)
    if b"chunked" in framing:
        assert isinstance(seen[0], ConnectionResetError) and seen[0].errno == errno.ECONNRESET
        assert "reset" in str(seen[0])
    assert complaints(caplog) == []


def test_flask_has_its_own_handler_for_each_thing_that_is_wrong_with_a_body(talk: Talk, caplog: pytest.LogCaptureFixture) -> None:
    app = flask.Flask("uploads")
    handled: list[tuple[int, type]] = []

    for status in (400, 408, 413):

        @app.errorhandler(status)
        def handle(error: HTTPException, status: int = status) -> tuple[str, int]:
            handled.append((status, type(error)))
            return str(error), status

    @app.post("/<way>")
    def upload(way: str) -> str:
        stream = flask.request.stream
        match way:
            case "lines":
                return str(len(list(stream)))
            case "read1":
                while stream.read1(100):
                    pass
                return ""
            case _:
                return str(len(stream.read(1 << 30)))

    for way in (b"lines", b"read1", b"read"):
        head = CHUNKED % way
        few = HTTPSettings(limit_request_body=10, linger=0.05)
        slow = HTTPSettings(body_min_rate=1000, body_rate_grace=0.001, linger=0.05)
        assert statuses(talk(app.wsgi_app, head + b"5\r\nabc")) == [400]
        assert statuses(talk(app.wsgi_app, head + b"no chunk\r\n")) == [400]
        assert statuses(talk(app.wsgi_app, head + b"14\r\n" + b"x" * 20 + b"\r\n0\r\n\r\n", settings=few)) == [413]
        assert _late(app.wsgi_app, head + b"5\r\nabc", slow) == [408]
    assert [status for status, _ in handled] == 3 * [400, 400, 413, 408]
    kinds = {400: ClientDisconnected, 408: RequestTimeout, 413: RequestEntityTooLarge}
    assert all(issubclass(kind, kinds[status]) and issubclass(kind, OSError) for status, kind in handled)
    assert complaints(caplog) == []


def _late(app: Any, sent: bytes, settings: HTTPSettings) -> list[int]:
    server, client = connection_pair()
    serving = gevent.spawn(HTTP1(app, settings), server)
    client.sendall(sent)
    reading = gevent.spawn(client.recv)

    def answered() -> bool:
        sweep([server.lifeline], monotonic())
        return bool(reading.ready())

    until(answered)
    client.finish()
    serving.join(10)
    server.finish()
    return statuses(reading.get())


def test_an_application_without_werkzeug_gets_the_plain_error() -> None:
    program = """
import sys
from muxwsgi.errors import PeerError
from muxwsgi.http.h1.h1 import HTTP1
from muxwsgi.settings import HTTPSettings
from muxwsgi.testing import connection_pair

def app(environ, start_response):
    try:
        environ["wsgi.input"].read()
    except PeerError as error:
        print(type(error).__name__, isinstance(error, OSError), error, "werkzeug" in sys.modules)
        raise

server, client = connection_pair()
client.sendall(b"POST / HTTP/1.1\\r\\nHost: a\\r\\nContent-Length: 9\\r\\n\\r\\nabc")
client.shutdown(1)
HTTP1(app, HTTPSettings())(server)
print(client.recv()[:12])
client.finish()
server.finish()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, cwd=str(Path(muxwsgi.__file__).parents[1]))
    assert done.stdout == "BrokenBody True 400: the body ended before its time False\nb'HTTP/1.1 400'\n", done.stderr


@pytest.mark.parametrize("how", ["ends", "resets"])
def test_django_takes_it_for_an_unreadable_post(talk: Talk, how: str) -> None:
    seen: list[BaseException] = []

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        request = django_echo.application.request_class(environ)
        try:
            return [request.body]
        except Exception as error:
            seen.append(error)
            raise

    if how == "resets":
        reset_in_upload(app, FRAMINGS[0])
    else:
        assert statuses(talk(app, b"POST / HTTP/1.1\r\nHost: a\r\n" + FRAMINGS[0] + b"x" * 2000)) == [400]
    assert isinstance(seen[0], UnreadablePostError)
