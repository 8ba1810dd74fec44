"""What clients do wrong, or merely differently: they leave in each phase, end one direction, or stop reading. Their servers are let go or
held back, and nothing is left of it."""

import socket
from collections.abc import Callable
from typing import Any

import gevent
import gevent.socket
import pytest
from gevent.event import Event

from tests.proxy.accounts import clean_process, frozen_heap, nothing_left, settle, until  # noqa: F401
from tests.proxy.conftest import Lab, read_head
from tests.proxy.dialogue import OK, WAYS, Road, Upstream, read_answer, reset

pytestmark = pytest.mark.usefixtures("nothing_left")

every_way = pytest.mark.parametrize("way", WAYS)


def leave(client: Any, how: str) -> None:
    if how == "reset":
        reset(client)
    else:
        client.close()


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("part", ["CONNECT", "CONNECT the.example:443 HTTP/1.1\r\n", "GET http://x/", "GET http://x/ HTTP/1.1\r\nHost: x\r\n"])
def test_a_client_leaves_in_a_head(lab: Lab, part: str, how: str) -> None:
    road = Road(lab, "plain", 9)
    client = lab.connect(road.port)
    client.sendall(part.encode())
    gevent.sleep(0.02)
    leave(client, how)


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("sent", [0, 1, 5, 6, 100, 10_000], ids=lambda count: f"after {count} bytes")
def test_a_client_leaves_in_its_hello(lab: Lab, sent: int, how: str) -> None:
    import ssl

    hello, incoming = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.create_default_context()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(incoming, hello, server_hostname="localhost").do_handshake()
    upstream = Upstream(lab)
    road = Road(lab, "tunnel", upstream.port)
    client = road.client()
    client.sendall(hello.read()[:sent])
    gevent.sleep(0.05)
    leave(client, how)


@every_way
@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("framing", ["short", "long", "chunks"])
def test_a_client_leaves_in_its_body(lab: Lab, way: str, framing: str, how: str) -> None:
    upstream = Upstream(lab, tls=way == "tls")
    road = Road(lab, way, upstream.port)
    client = road.client()
    fields = {"short": "Content-Length: 1000", "long": "Content-Length: 1000000", "chunks": "Transfer-Encoding: chunked"}
    client.sendall(road.request("/", fields[framing], method="POST") + b"10\r\nhalf of it")
    gevent.sleep(0.05)
    leave(client, how)
    until(lambda: len(lab.flows) == 1)
    assert lab.flows[0].error
    assert upstream.asked == [], "half a request is none"


@every_way
@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_client_leaves_while_the_server_thinks(lab: Lab, way: str, how: str) -> None:
    gone = Event()

    def respond(asked: Any, sock: Any) -> None:
        assert sock.recv(1) == b""  # the proxy has let go
        gone.set()

    upstream = Upstream(lab, respond, tls=way == "tls")
    road = Road(lab, way, upstream.port)
    client = road.client()
    client.sendall(road.request())
    until(lambda: upstream.asked)
    gevent.sleep(0.02)
    leave(client, how)
    settle(lab)
    assert gone.wait(5)
    assert lab.flows[0].error == "the client went away"


@every_way
@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("busy", [False, True], ids=["silent", "busy"])
@pytest.mark.parametrize("rules", [False, True], ids=["no rules", "rules"])
def test_a_client_leaves_in_the_response(lab: Lab, way: str, how: str, busy: bool, rules: bool) -> None:
    gone = Event()

    def respond(asked: Any, sock: Any) -> None:
        sock.sendall(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 100)
        try:
            while busy:
                sock.sendall(b"x" * 10_000)
                gevent.sleep(0.001)
            sock.recv(1)
        finally:
            gone.set()

    upstream = Upstream(lab, respond, tls=way == "tls")
    road = Road(lab, way, upstream.port)
    if rules:
        road.proxy.on_response().do(lambda response, ctx: None)
    client = road.client()
    client.sendall(road.request())
    assert read_head(client)
    leave(client, how)
    settle(lab)
    assert gone.wait(5)
    assert lab.flows[0].error


@every_way
@pytest.mark.parametrize("rules", [False, True], ids=["no rules", "rules"])
def test_a_client_leaves_before_the_head_that_does_not_wait_for_its_body(lab: Lab, way: str, rules: bool) -> None:
    go_on, gone = Event(), Event()

    def respond(asked: Any, sock: Any) -> None:
        go_on.wait()
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
        sock.recv(1)
        gone.set()

    upstream = Upstream(lab, respond, tls=way == "tls")
    road = Road(lab, way, upstream.port)
    if rules:
        road.proxy.on_response().do(lambda response, ctx: None)
    client = road.client()
    client.sendall(road.request())
    until(lambda: upstream.asked)
    reset(client)
    gevent.sleep(0.02)
    go_on.set()
    assert gone.wait(5)
    until(lambda: len(lab.flows) == 1)
    assert road.proxy._client_watch.waiting == {}


def test_a_client_leaves_before_an_interim_response(lab: Lab) -> None:
    go_on = Event()

    def respond(asked: Any, sock: Any) -> bytes:
        go_on.wait()
        for _ in range(20):
            sock.sendall(b"HTTP/1.1 102 Processing\r\n\r\n")
            gevent.sleep(0.002)
        return OK

    upstream = Upstream(lab, respond)
    road = Road(lab, "plain", upstream.port)
    client = road.client()
    client.sendall(road.request())
    until(lambda: upstream.asked)
    reset(client)
    gevent.sleep(0.01)
    go_on.set()
    until(lambda: len(lab.flows) == 1)
    assert road.proxy.pool.idle == 0


@pytest.mark.parametrize("way", ["plain", "tunnel"])
def test_a_client_that_ends_its_direction_gets_its_answer(lab: Lab, way: str) -> None:
    go_on = Event()

    def respond(asked: Any, sock: Any) -> bytes:
        go_on.wait()
        return OK

    upstream = Upstream(lab, respond)
    road = Road(lab, way, upstream.port)
    client = road.client()
    client.sendall(road.request())
    client.shutdown(socket.SHUT_WR)
    until(lambda: upstream.asked)
    road.proxy._client_watch.look(1000.0)
    road.proxy._client_watch.look(1009.0)
    go_on.set()
    assert read_answer(client).body == b"ok"


def test_a_client_that_ends_its_direction_gets_what_flows_however_long(lab: Lab) -> None:
    steps = [Event() for _ in range(5)]

    def respond(asked: Any, sock: Any) -> None:
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")
        for step in steps:
            step.wait()
            sock.sendall(b"x")

    road = Road(lab, "plain", Upstream(lab, respond).port)
    client = road.client()
    client.sendall(road.request())
    client.shutdown(socket.SHUT_WR)
    now = 1000.0
    for number, step in enumerate(steps):
        step.set()
        if number == 0:
            read_head(client)
        assert client.recv(1) == b"x"
        gevent.sleep(0.005)
        now += 9
        road.proxy._client_watch.look(now)


@pytest.mark.parametrize("poll", ["the kernel's", "gevent's"])
def test_a_client_that_leaves_is_noticed_in_a_patched_process_too(lab: Lab, monkeypatch: pytest.MonkeyPatch, poll: str) -> None:
    import select

    import gevent.select

    if poll == "gevent's":
        monkeypatch.setattr(select, "poll", gevent.select.poll)
    gone = Event()

    def respond(asked: Any, sock: Any) -> None:
        sock.recv(1)
        gone.set()

    upstream = Upstream(lab, respond)
    road = Road(lab, "plain", upstream.port)
    client = road.client()
    client.sendall(road.request())
    until(lambda: upstream.asked)
    reset(client)
    assert gone.wait(5), "within two looks"


# Back-pressure


@every_way
@pytest.mark.parametrize("rules", [False, True], ids=["no rules", "rules"])
def test_a_client_that_does_not_read_holds_its_server_back(lab: Lab, way: str, rules: bool) -> None:
    size = 100 << 20
    sent = 0

    def respond(asked: Any, sock: Any) -> None:
        nonlocal sent
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        while sent < size:
            sock.sendall(bytes(1 << 18))
            sent += 1 << 18

    upstream = Upstream(lab, respond, tls=way == "tls")
    road = Road(lab, way, upstream.port)
    if rules:
        road.proxy.on_response().do(lambda response, ctx: None)
    client = road.client()
    client.sendall(road.request())
    read_head(client)
    assert stalls_at(lambda: sent) < 32 << 20  # what the kernel holds on four sockets
    left = size
    while left:
        left -= len(client.recv(min(left, 1 << 20)))
    assert road.proxy.pool.idle == 1 or upstream.connections == 1


@every_way
@pytest.mark.parametrize("framing", ["length", "chunks"])
def test_a_server_that_does_not_read_holds_its_client_back(lab: Lab, way: str, framing: str) -> None:
    size = 100 << 20
    read_on = Event()

    def respond(sock: Any) -> None:
        read_head(sock)
        read_on.wait()
        left = size
        while left > 0 and (data := sock.recv(1 << 20)):
            left -= data.count(0)
        sock.sendall(OK)

    road = Road(lab, way, lab.serve_raw(respond, tls=way == "tls"))
    client = road.client()
    sent = 0

    def send() -> None:
        nonlocal sent
        block = bytes(1 << 18)
        while sent < size:
            client.sendall(block if framing == "length" else b"%x\r\n%b\r\n" % (len(block), block))
            sent += len(block)
        if framing == "chunks":
            client.sendall(b"0\r\n\r\n")

    client.sendall(road.request("/", f"Content-Length: {size}" if framing == "length" else "Transfer-Encoding: chunked", method="PUT"))
    sending = gevent.spawn(send)
    assert stalls_at(lambda: sent) < 32 << 20
    read_on.set()
    assert read_answer(client).body == b"ok"
    sending.get(timeout=10)


def stalls_at(count: Callable[[], int]) -> int:
    """Where it stops growing."""
    last = -1
    while (now := count()) != last:
        last = now
        gevent.sleep(0.1)
    return last
