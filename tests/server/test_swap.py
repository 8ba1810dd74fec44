"""`Server.swap`: new connections get the new composition, those that are open end with the one they were begun with."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any

import gevent
import gevent.socket
import gevent.ssl
import pytest

import muxwsgi
from muxwsgi.dial.upstream_choice import UpstreamChoice
from muxwsgi.errors import Draining, Expired, OperatorError
from muxwsgi.mux.matchers import prefix
from muxwsgi.proxy.certificates.authority import Authority
from muxwsgi.proxy.proxy import Proxy
from muxwsgi.proxy.rules.message import Response
from muxwsgi.proxy.settings import ProxySettings
from muxwsgi.settings import CertificateFiles, HTTPSettings, ServerSettings
from muxwsgi.wire.connection import Connection
from tests.waiting import until

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


def answering(text: bytes) -> Any:
    """An application that answers `text`."""

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [("Content-Length", str(len(text)))])
        return [text]

    return app


@muxwsgi.hijack(match=prefix(b"LINES\n"))
def lines(connection: Connection) -> None:
    """Answers each chunk, until the client ends or the server drains."""
    connection.on_drain(lambda: connection.sendall(b"draining\n"))
    while data := connection.recv():
        connection.sendall(data.upper())


@contextmanager
def running(app: Any, *hijackers: Any, binds: list[str] | None = None, **settings: Any) -> Iterator[muxwsgi.Server]:
    server = muxwsgi.Server(app, binds or ["127.0.0.1:0"], hijackers, settings=ServerSettings(**settings))
    server.start()
    try:
        with gevent.Timeout(30):
            yield server
    finally:
        server.stop(0)


def connect(server: muxwsgi.Server) -> Any:
    host, _, port = server.addresses[0].rpartition(":")
    return gevent.socket.create_connection((host, int(port)), timeout=10)


def read_until(sock: Any, end: bytes) -> bytes:
    data = b""
    while not data.endswith(end):
        more = sock.recv(65536)
        assert more, data
        data += more
    return bytes(data)


def test_new_connections_get_the_new_application_and_open_ones_end_with_the_old() -> None:
    asked, answer = gevent.event.Event(), gevent.event.Event()

    def slow(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        asked.set()
        answer.wait()
        start_response("200 OK", [("Content-Length", "3")])
        return [b"old"]

    with running(slow) as server:
        with connect(server) as begun, connect(server) as new:
            begun.sendall(GET)
            asked.wait()
            server.swap(answering(b"new"))
            new.close()
            with connect(server) as later:
                later.sendall(GET)
                head = read_until(later, b"new")
                assert b"Connection: close" not in head
                answer.set()
                head = read_until(begun, b"old")
                assert b"Connection: close" in head
                assert begun.recv(1) == b""
                later.sendall(GET)
                read_until(later, b"new")  # it stays open
        until(lambda: not server.connections)


def test_a_connection_that_rests_and_one_that_has_sent_nothing_get_one_more_answer_from_the_old() -> None:
    with running(answering(b"old")) as server, connect(server) as resting, connect(server) as silent:
        resting.sendall(GET)
        read_until(resting, b"old")
        until(lambda: server.connections == 2)
        server.swap(answering(b"new"))
        gevent.sleep(1.2)  # longer than a stop would wait for either
        for sock in (resting, silent):
            sock.sendall(GET)
            assert b"Connection: close" in read_until(sock, b"old")
            assert sock.recv(1) == b""
        until(lambda: not server.connections)


def test_a_connection_that_rests_is_closed_at_its_own_deadline_after_a_swap() -> None:
    with running(answering(b"old"), http=HTTPSettings(keep_alive=0.2)) as server, connect(server) as resting:
        resting.sendall(GET)
        read_until(resting, b"old")
        server.swap(answering(b"new"))
        began = monotonic()
        assert resting.recv(1) == b""
        assert monotonic() - began < 5


def test_a_connection_that_still_rests_shortly_before_the_graceful_timeout_is_closed_and_not_cut(caplog: pytest.LogCaptureFixture) -> None:
    with running(answering(b"old"), graceful_timeout=1) as server, connect(server) as resting:
        resting.sendall(GET)
        read_until(resting, b"old")
        server.swap(answering(b"new"))
        assert resting.recv(1) == b""
        until(lambda: not server.connections)
    assert "were cut" not in caplog.text


def test_a_hijackers_connection_that_rests_is_closed_by_a_swap() -> None:
    @muxwsgi.hijack(match=prefix(b"REST\n"))
    def rests(connection: Connection) -> None:
        connection.recv()
        connection.sendall(b"resting\n")
        connection.resting = True
        connection.recv()

    with running(answering(b"http"), rests) as server, connect(server) as held:
        held.sendall(b"REST\n")
        read_until(held, b"resting\n")
        gevent.sleep(0.05)
        server.swap(answering(b"http"))
        assert held.recv(1) == b""


@pytest.mark.parametrize("error", [Expired("late"), Draining("late")])
def test_a_request_that_comes_when_the_wait_for_it_is_ended_is_answered(error: OSError) -> None:
    with running(answering(b"yes")) as server, connect(server) as sock:
        sock.sendall(GET)
        read_until(sock, b"yes")
        until(lambda: next(iter(server._lines)).resting)
        sock.sendall(GET)
        next(iter(server._lines)).fail(error)  # before the loop has seen that there are bytes
        read_until(sock, b"yes")


@pytest.mark.parametrize("stop_again", [False, True])
def test_a_server_that_retires_waits_for_one_more_request_until_it_is_stopped(stop_again: bool) -> None:
    server = muxwsgi.Server(answering(b"old"), ["127.0.0.1:0"])
    ended = gevent.spawn(server.serve_forever)
    until(lambda: server._listeners != {})
    with connect(server) as resting:
        resting.sendall(GET)
        read_until(resting, b"old")
        server.request_stop(grace=True)
        server.request_stop(grace=True)
        gevent.sleep(0.3)
        assert server.connections == 1
        if stop_again:
            server.request_stop()
        else:
            resting.sendall(GET)
            assert b"Connection: close" in read_until(resting, b"old")
        assert resting.recv(1) == b""
    ended.get(timeout=5)


def test_hijackers_are_swapped_too_and_those_at_work_are_told_to_drain() -> None:
    with running(answering(b"http"), lines) as server:
        with connect(server) as held:
            held.sendall(b"LINES\n")
            read_until(held, b"LINES\n")
            server.swap(answering(b"http"))
            assert read_until(held, b"draining\n") == b"draining\n"
            held.sendall(b"more\n")
            read_until(held, b"MORE\n")
            with connect(server) as refused:
                refused.sendall(b"LINES\n")
                try:
                    assert refused.recv(1) == b""
                except ConnectionResetError:
                    pass  # bytes were left unread
            assert server.turned_away.counts["unmatched"] == 1 and [route.name for route in server.routes] == ["http", "http2"]
        until(lambda: not server.connections)


def test_a_limit_counts_connections_that_were_begun_before() -> None:
    """Otherwise clients that stay would have as many more places as there are reloads within the graceful timeout."""

    @muxwsgi.hijack(match=prefix(b"!"), limit=2)
    def few(connection: Connection) -> None:
        connection.sendall(b"in")
        while connection.recv():
            pass

    def entered() -> Any:
        """A connection that the hijacker serves; None where it is at its limit."""
        sock = connect(server)
        sock.sendall(b"!")
        try:
            if sock.recv(2) == b"in":
                return sock
        except ConnectionResetError:
            pass
        sock.close()
        return None

    with running(answering(b"old"), few) as server:
        first = entered()
        server.swap(answering(b"new"), [few])
        second = entered()
        server.swap(answering(b"newer"), [few])
        assert first and second and not entered()
        first.close()
        until(lambda: server.connections == 1)
        third = entered()
        assert third
        second.close()
        third.close()


def test_what_lasts_longer_than_the_graceful_timeout_is_cut(caplog: pytest.LogCaptureFixture) -> None:
    with running(answering(b"http"), lines, graceful_timeout=0.2) as server, connect(server) as held, connect(server) as other:
        held.sendall(b"LINES\n")
        read_until(held, b"LINES\n")
        server.swap(answering(b"http"), [lines])
        other.close()
        with connect(server) as later:
            later.sendall(b"LINES\n")
            read_until(later, b"LINES\n")
            read_until(held, b"draining\n")
            with pytest.raises(ConnectionResetError):
                held.recv(1)
            later.sendall(b"on\n")
            assert read_until(later, b"ON\n") == b"ON\n"
    assert "1 connections were cut: they were begun before the reload" in caplog.text


def test_a_composition_that_cannot_be_made_changes_nothing() -> None:
    with running(answering(b"old")) as server, connect(server) as begun:
        begun.sendall(GET)
        read_until(begun, b"old")
        with pytest.raises(OperatorError, match="not decorated"):
            server.swap(answering(b"new"), [lambda connection: None])
        begun.sendall(GET)
        assert b"Connection: close" not in read_until(begun, b"old")
        with connect(server) as later:
            later.sendall(GET)
            read_until(later, b"old")


def test_a_server_that_stops_after_a_swap_leaves_nothing_behind(caplog: pytest.LogCaptureFixture) -> None:
    with running(answering(b"http"), lines) as server, connect(server) as held:
        held.sendall(b"LINES\n")
        read_until(held, b"LINES\n")
        server.swap(answering(b"http"), [lines])
        server.swap(answering(b"http"), [lines])
        server.stop(0.2)
        assert server.connections == 0 and all(greenlet.dead for greenlet in server._retiring)
    assert "1 connections were cut at shutdown" in caplog.text


def test_tls_sessions_are_resumed_after_a_swap_that_leaves_tls_alone(make_certificate: Callable[[], CertificateFiles]) -> None:
    files = make_certificate()
    context = gevent.ssl.SSLContext(gevent.ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(files.certfile)
    context.maximum_version = gevent.ssl.TLSVersion.TLSv1_2  # its session is there with the handshake

    def ask(session: Any) -> tuple[bool, Any]:
        """Whether `session` was resumed, and the session that there is then."""
        with context.wrap_socket(connect(server), server_hostname="localhost", session=session) as sock:
            sock.sendall(GET)
            read_until(sock, b"d")
            return sock.session_reused, sock.session

    bind = f"127.0.0.1:0,certfile={files.certfile}"
    with running(answering(b"old"), binds=[bind]) as server:
        _, session = ask(None)
        server.swap(answering(b"red"))
        assert ask(session)[0]
        server.swap(answering(b"red"), settings=ServerSettings(unknown_alpn="ignore"))
        assert not ask(session)[0]


def test_a_tunnel_goes_on_with_the_proxy_that_it_was_begun_with(tmp_path: Any) -> None:
    authority = Authority.create(tmp_path / "ca")

    def proxy(text: str) -> Proxy:
        made = Proxy(ProxySettings(default_action="mitm"), authority=authority, upstreams=UpstreamChoice())

        made.on_request().do(lambda request, ctx: Response(text))
        return made

    old, new = proxy("old"), proxy("new")
    with running(old) as server, connect(server) as tunnel:
        tunnel.sendall(b"CONNECT a.example:80 HTTP/1.1\r\nHost: a.example:80\r\n\r\n")
        read_until(tunnel, b"\r\n\r\n")
        tunnel.sendall(b"GET / HTTP/1.1\r\nHost: a.example\r\n")  # half a head
        gevent.sleep(0.05)
        server.swap(new)
        with connect(server) as later:
            later.sendall(b"GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n")
            read_until(later, b"new")
            tunnel.sendall(b"\r\n")
            assert read_until(tunnel, b"old")
            assert tunnel.recv(1) == b""
            until(lambda: old._served == [] and len(new._served) == 1)
            later.sendall(b"GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n")
            read_until(later, b"new")
