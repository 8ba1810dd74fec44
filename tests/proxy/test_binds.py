"""What is served on a proxy's binds beside the proxy, and to whom; and that the proxy's own ways in are on its binds alone."""

from typing import Any

import gevent.socket
import pytest

from muxwsgi import hijack
from muxwsgi.mux.matchers import prefix
from muxwsgi.mux.registry import discover
from muxwsgi.mux.route import Route
from muxwsgi.proxy.doors.access import Access, one_user
from muxwsgi.settings import HTTPSettings, ServerSettings
from muxwsgi.wire.connection import Connection
from tests.proxy.accounts import clean_process, frozen_heap, nothing_left, until  # noqa: F401
from tests.proxy.conftest import PATIENCE, Lab, read_head
from tests.proxy.dialogue import Upstream, read_answer, read_exactly

pytestmark = pytest.mark.usefixtures("nothing_left")

INSIDER, OUTSIDER = "127.0.0.2", "127.0.0.1"


def come_from(lab: Lab, host: str, port: int) -> Any:
    sock = gevent.socket.create_connection(("127.0.0.1", port), PATIENCE, source_address=(host, 0))
    lab.clients.append(sock)
    lab._stack.callback(sock.close)
    return sock


@hijack(match=prefix(b"ECHO "), limit=1)
def echo(connection: Connection) -> None:
    connection.sendall(connection.recv().upper())


def end_of(sock: Any) -> bytes:
    """All that comes until the end, which may be a reset."""
    data = b""
    try:
        while more := sock.recv(1000):
            data += more
    except ConnectionResetError:
        pass
    return data


# The proxy's doors


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
@pytest.mark.parametrize(
    "hello", [b"\x05\x01\x00", b"\x05\x02\x00\x02", b"\x04\x01\x00\x50\x7f\x00\x00\x01\x00"], ids=["SOCKS 5", "SOCKS 5 with a password", "SOCKS 4"]
)
def test_a_socks_client_in_a_tunnel_is_answered_by_the_server_that_it_means(lab: Lab, hello: bytes, tls: bool) -> None:
    def foreign(sock: Any) -> None:
        read_exactly(sock, len(hello))
        sock.sendall(b"\x05\x77 the foreign server")

    proxy = lab.proxy(record=True)
    proxy.on_connect().mitm()
    destination = lab.serve_raw(foreign, tls=tls)
    port = lab.serve_proxy(proxy)
    sock = lab.tunnel(port, f"localhost:{destination}")
    if tls:
        sock = lab.wrap(sock)
    sock.sendall(hello)
    assert read_exactly(sock, 21) == b"\x05\x77 the foreign server"
    outside = lab.connect(port)  # where the door is
    outside.sendall(b"\x05\x01\x00")
    assert read_exactly(outside, 2) == b"\x05\x00"


@pytest.mark.parametrize("given", ["a callable", "a route"])
def test_hijackers_are_in_tunnels_as_on_the_bind_with_one_limit_for_both(lab: Lab, given: str) -> None:
    inside: list[Connection] = []

    def wait(connection: Connection) -> None:
        inside.append(connection)
        connection.sendall(connection.recv())
        connection.recv()

    matcher = prefix(b"WAIT ")
    waiting = hijack(match=matcher, limit=1)(wait) if given == "a callable" else Route("wait", matcher, wait, limit=1)
    proxy = lab.proxy()
    proxy.on_connect().mitm()
    port = lab.serve_proxy(proxy, hijackers=[waiting])
    tunnel = lab.tunnel(port, "127.0.0.1:9")
    tunnel.sendall(b"WAIT 1")
    assert read_exactly(tunnel, 6) == b"WAIT 1"
    assert inside[0].destination == ("127.0.0.1", 9)
    front = lab.connect(port)
    front.sendall(b"WAIT 2")
    assert end_of(front) == b""
    tunnel.close()
    until(lambda: not any(line for line in lab.server._lines), "the first one has ended")  # type: ignore[union-attr]
    front = lab.connect(port)
    front.sendall(b"WAIT 3")
    assert read_exactly(front, 6) == b"WAIT 3"
    if isinstance(waiting, Route):
        assert waiting.slots.taken == 1


# Whom they are for


def test_a_hijacker_on_a_proxys_bind_is_for_those_who_may_use_the_proxy(lab: Lab) -> None:
    port = lab.serve_proxy(lab.proxy(access=Access(allow=[INSIDER])), hijackers=[echo])
    for host, answer in ((OUTSIDER, b""), (INSIDER, b"ECHO ME"), (OUTSIDER, b"")):
        sock = come_from(lab, host, port)
        sock.sendall(b"ECHO me")
        assert end_of(sock) == answer


@pytest.mark.parametrize(("option", "who"), [("fallback", "forward"), ("fallback", "served"), ("fallback", "installed"), ("silence", "forward"), ("silence", "served")])
def test_fallback_and_silence_on_a_proxys_bind_are_for_them_too(lab: Lab, option: str, who: str) -> None:
    def greet(sock: Any) -> None:
        sock.sendall(b"hello there")

    @hijack(match=prefix(b"\x00never"))
    def served(connection: Connection) -> None:
        connection.sendall(b"hello there")

    spec = {"forward": f"forward:127.0.0.1:{lab.serve_raw(greet)}", "served": "served", "installed": "resp"}[who]
    mux = ServerSettings().mux
    settings = ServerSettings(**{option: spec}, mux=type(mux)(sniff_timeout=0.1), http=HTTPSettings(linger=0.1))
    registered = discover() if who == "installed" else []
    port = lab.serve_proxy(lab.proxy(access=Access(allow=[INSIDER])), settings=settings, hijackers=[served], registered=registered)
    for host, answered in ((OUTSIDER, False), (INSIDER, True)):
        sock = come_from(lab, host, port)
        if option == "fallback":
            sock.sendall(b"PING\r\n\x01\x02\x03\r\n" if who == "installed" else b"\x01\x02\x03\r\n")
        if answered:
            assert sock.recv(5)
            sock.close()
        else:
            assert end_of(sock) == b""


@pytest.mark.parametrize("path", ["/", "/proxy.pac", "/ca.pem", "/else"])
@pytest.mark.parametrize("own", [False, True], ids=["ours", "an application"])
def test_the_front_page_is_for_them_too(lab: Lab, path: str, own: bool) -> None:
    def application(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [("Content-Length", "4")])
        return [b"here"]

    proxy = lab.proxy(access=Access(one_user("ann", "secret"), allow=[INSIDER]), nonproxy=application if own else None)
    port = lab.serve_proxy(proxy)
    for method in ("GET", "HEAD", "OPTIONS"):
        for host in (OUTSIDER, INSIDER):
            sock = come_from(lab, host, port)
            target = "*" if method == "OPTIONS" else path
            sock.sendall(f"{method} {target} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n".encode())
            answer = read_answer(sock, method)
            if host == OUTSIDER:
                assert answer.status == 403
                assert b"here" not in answer.body and b"muxwsgi" not in answer.body
            else:
                assert answer.status != 403


def test_who_is_not_allowed_gets_through_neither_http_nor_socks(lab: Lab) -> None:
    upstream = Upstream(lab)
    port = lab.serve_proxy(lab.proxy(access=Access(allow=[INSIDER])))
    sock = come_from(lab, OUTSIDER, port)
    sock.sendall(f"CONNECT 127.0.0.1:{upstream.port} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    assert read_head(sock).startswith(b"HTTP/1.1 403 ")
    sock = come_from(lab, OUTSIDER, port)
    sock.sendall(b"\x05\x01\x00")
    assert end_of(sock) == b"\x05\xff"
    assert upstream.connections == 0
