"""What servers do wrong in each phase of an exchange, and we. Somebody is told, nobody else notices, and nothing is left of it."""

import fcntl
import logging
import sys
import termios
from pathlib import Path
from typing import Any

import gevent
import gevent.socket
import pytest
from gevent.event import Event

from muxwsgi.dial.errors import DialError, DialTimeout
from muxwsgi.dial.upstream_choice import UpstreamChoice
from muxwsgi.errors import OperatorError
from muxwsgi.proxy.certificates.leaves import Leaves, MintingFailed
from muxwsgi.proxy.fault import Fault, Phase
from muxwsgi.proxy.proxy import Proxy
from muxwsgi.proxy.settings import ProxySettings
from muxwsgi.records.flow import Flow
from tests.ports import free_port
from tests.proxy.accounts import clean_process, frozen_heap, later, nothing_left, settle, until  # noqa: F401
from tests.proxy.conftest import Lab, read_head
from tests.proxy.dialogue import OK, WAYS, Road, Upstream, read_answer, read_exactly, reset

pytestmark = pytest.mark.usefixtures("nothing_left")

every_way = pytest.mark.parametrize("way", WAYS)


def broken(sock: Any, method: str = "GET") -> bool:
    """Whether the response is visibly cut."""
    try:
        read_answer(sock, method)
    except (EOFError, OSError):
        return True
    return False


def test_each_error_of_a_dial_has_a_phase_that_clients_are_told() -> None:
    def kinds(kind: type[DialError]) -> list[type[DialError]]:
        return [each for child in kind.__subclasses__() for each in (child, *kinds(child))]

    for kind in kinds(DialError):
        # One of the phases of `DialTimeout` is raised. The errors of several upstreams are those of `forward`, which no proxy dials.
        if kind is not DialTimeout and not kind.__module__.startswith("muxwsgi.upstreams."):
            fault = Fault.of_dial(kind("why"))
            assert fault.reason == "why"
            assert (fault.phase is Phase.TIMEOUT) == issubclass(kind, DialTimeout)
            assert kind.phase


# Servers: the head

BAD_HEADS = {
    "nothing": (b"", "without a response"),
    "half a head": (b"HTTP/1.1 200 OK\r\nContent-", "in the response head"),
    "no HTTP": (b"SSH-2.0-OpenSSH_9.6\r\n", "not an HTTP response"),
    "another version": (b"HTTP/2.0 200 OK\r\n\r\n", "another version"),
    "bare line feeds": (b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok", "bare CR or LF"),
    "two lengths": (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok", "Content-Length"),
    "length and chunks": (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "Content-Length"),
    "another coding": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", "not chunked"),
    "a fold": (b"HTTP/1.1 200 OK\r\nX-A: 1\r\n 2\r\nContent-Length: 2\r\n\r\nok", "malformed"),
    "endless": (b"HTTP/1.1 200 OK\r\n" + b"X-Filler: " + b"y" * 200_000, "longer than"),
    "too many fields": (b"HTTP/1.1 200 OK\r\n" + b"X: 1\r\n" * 1000 + b"\r\n", "more than 256"),
    "a flood of interim responses": (b"HTTP/1.1 102 Processing\r\n\r\n" * 1000, "interim responses"),
    "a control character": (b"HTTP/1.1 200 O\x00K\r\nContent-Length: 2\r\n\r\nok", "malformed"),
}


@every_way
@pytest.mark.parametrize("name", BAD_HEADS)
def test_a_server_without_a_proper_head_is_502(lab: Lab, way: str, name: str) -> None:
    sent, reason = BAD_HEADS[name]

    def respond(asked: Any, sock: Any) -> None:
        sock.sendall(sent)

    upstream = Upstream(lab, respond, tls=way == "tls")
    road = Road(lab, way, upstream.port)
    client = road.client()
    for _ in range(2):
        client.sendall(road.request())
        while (head := read_head(client)).startswith(b"HTTP/1.1 102"):
            pass
        assert head.startswith(b"HTTP/1.1 502 Bad Gateway\r\n") and b"Proxy-Status: muxwsgi; error=http_protocol_error" in head
        body = read_exactly(client, int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]))
        assert reason in body.decode() and road.authority in body.decode()
    assert road.proxy.pool.idle == 0 and all(flow.error for flow in lab.flows)


@every_way
def test_a_server_that_resets_is_502(lab: Lab, way: str) -> None:
    def respond(asked: Any, sock: Any) -> None:
        sock.sendall(b"HTTP/1.1 200 OK\r\n")
        reset(sock)

    upstream = Upstream(lab, respond, tls=way == "tls")
    road = Road(lab, way, upstream.port)
    assert road.ask(road.client()).status == 502


@pytest.mark.parametrize("way", ["plain", "tunnel"])
def test_a_server_that_is_not_there_is_502(lab: Lab, way: str) -> None:
    road = Road(lab, way, free_port())
    client = road.client()
    for _ in range(2):
        answer = road.ask(client)
        assert answer.status == 502 and road.authority.encode() in answer.body and b"refused" in answer.body.lower()


def test_a_server_whose_certificate_is_not_to_be_believed_is_502(lab: Lab) -> None:
    upstream = Upstream(lab, tls=True)
    road = Road(lab, "tls", upstream.port, settings=ProxySettings(upstream_ca=str(lab.ca_file)))
    answer = road.ask(road.client())
    assert answer.status == 502 and b"certificate" in answer.body and b"tls_protocol_error" in answer.head
    assert upstream.asked == []


def test_a_server_that_speaks_no_tls_is_502(lab: Lab) -> None:
    road = Road(lab, "tls", lab.serve_raw(lambda sock: sock.sendall(b"220 mail.example\r\n") or sock.recv(1)))
    answer = road.ask(road.client())
    assert answer.status == 502 and b"TLS" in answer.body


# Servers: the body

CUT_BODIES = {
    "length": b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n",
    "chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
    "end of the connection": b"HTTP/1.1 200 OK\r\n\r\n",
}


@pytest.mark.parametrize("rules", [False, True], ids=["no rules", "rules"])
@pytest.mark.parametrize(
    ("way", "name", "end"),
    [(way, name, end) for way in WAYS for name in ("length", "chunks") for end in ("close", "reset")]
    # A close is the regular end of the third kind, and under TLS OpenSSL takes the reset for one.
    + [(way, "end of the connection", "reset") for way in ("plain", "tunnel")],
)
def test_a_body_that_breaks_off_is_cut_for_the_client_too(lab: Lab, way: str, name: str, end: str, rules: bool) -> None:
    go_on = Event()

    def respond(asked: Any, sock: Any) -> None:
        sock.sendall(CUT_BODIES[name] + (b"400\r\n" if name == "chunks" else b"") + b"x" * 1000)
        go_on.wait()
        if end == "reset":
            reset(sock)

    upstream = Upstream(lab, respond, tls=way == "tls")
    road = Road(lab, way, upstream.port)
    if rules:
        road.proxy.on_response().do(lambda response, ctx: None)
    client = road.client()
    client.sendall(road.request())
    assert read_head(client).startswith(b"HTTP/1.1 200 OK")
    assert b"x" in client.recv(100)
    go_on.set()
    received = b""
    try:
        while data := client.recv(65536):
            received += data
    except OSError:
        pass
    assert received.count(b"x") <= 1000 and not received.endswith(b"0\r\n\r\n")
    until(lambda: len(lab.flows) == 1)
    assert lab.flows[0].error and "broke off" in lab.flows[0].error


def test_a_body_that_breaks_off_is_a_reset_for_who_could_take_it_for_whole(lab: Lab) -> None:
    go_on = Event()

    def respond(asked: Any, sock: Any) -> None:
        sock.sendall(CUT_BODIES["chunks"] + b"400\r\nxxx")
        go_on.wait()

    road = Road(lab, "plain", Upstream(lab, respond).port)
    client = road.client()
    client.sendall(road.request(version="1.0"))
    assert read_head(client).startswith(b"HTTP/1.1 200 OK")
    assert client.recv(100) == b"xxx"
    go_on.set()
    with pytest.raises(ConnectionResetError):
        client.recv(1)


@pytest.mark.parametrize("rules", [False, True], ids=["no rules", "rules"])
def test_a_body_that_breaks_off_before_it_begins_is_502(lab: Lab, rules: bool) -> None:
    upstream = Upstream(lab, lambda asked, sock: sock.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"))
    road = Road(lab, "plain", upstream.port)
    if rules:
        road.proxy.on_response().do(lambda response, ctx: None)
    answer = road.ask(road.client())
    assert answer.status == 502 and b"broke off" in answer.body
    assert lab.flows[0].response is not None and lab.flows[0].response.line[1] == "502"


def unacknowledged(sock: Any) -> int:
    """Bytes that the kernel of the other side has not taken yet (SIOCOUTQ)."""
    return int.from_bytes(fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4)), sys.byteorder)


@every_way
@pytest.mark.parametrize("surplus", [b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged", b"garbage"], ids=["a response", "garbage"])
@pytest.mark.parametrize("late", [False, True], ids=["at once", "later"])
def test_what_a_server_sends_beyond_its_response_reaches_nobody(lab: Lab, way: str, surplus: bytes, late: bool) -> None:
    sent = Event()

    def respond(asked: Any, sock: Any) -> bytes:
        if not late:
            return OK + surplus
        sock.sendall(OK)
        gevent.sleep(0.01)
        sock.sendall(surplus)
        until(lambda: unacknowledged(sock) == 0)  # a busy kernel delivers later than it says
        sent.set()
        return b""

    upstream = Upstream(lab, respond, tls=way == "tls")
    road = Road(lab, way, upstream.port)
    ann, bob = road.client(), road.client()
    for client in (ann, bob, ann):
        assert road.ask(client).body == b"ok"
        if late:
            assert sent.wait(10)
            sent.clear()
            gevent.sleep(0.01)
    assert upstream.connections == 3


@every_way
@pytest.mark.parametrize("framing", ["length", "chunks"])
def test_a_server_may_answer_before_it_has_the_request(lab: Lab, way: str, framing: str) -> None:
    def respond(sock: Any) -> None:
        while head := read_head(sock):
            if b"POST" not in head:
                sock.sendall(OK)
                continue
            sock.sendall(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\r\nbig")
            gevent.sleep(0.05)
            return

    port = lab.serve_raw(respond, tls=way == "tls")
    road = Road(lab, way, port)
    client = road.client()
    how = "Content-Length: 50000000" if framing == "length" else "Transfer-Encoding: chunked"
    client.sendall(road.request("/", how, method="POST"))
    sending = gevent.spawn(keep_sending, client, b"x" * 65536 if framing == "length" else b"10000\r\n" + b"x" * 65536 + b"\r\n")
    answer = read_answer(client, "POST")
    assert answer.status == 413 and answer.body == b"big"
    sending.kill()
    assert road.proxy.pool.idle == 0
    assert road.ask(road.client()).body == b"ok"


def keep_sending(sock: Any, data: bytes) -> None:
    try:
        for _ in range(700):
            sock.sendall(data)
    except OSError:
        pass


# Servers: silence


@every_way
def test_a_server_that_does_not_answer_is_504(lab: Lab, way: str) -> None:
    quiet = Event()
    upstream = Upstream(lab, lambda asked, sock: quiet.wait(), tls=way == "tls")
    road = Road(lab, way, upstream.port)
    client = road.client()
    client.sendall(road.request())
    until(lambda: upstream.asked)
    gevent.sleep(0.01)
    later(road.proxy, 119)
    later(road.proxy, 121)
    answer = read_answer(client)
    quiet.set()
    assert answer.status == 504 and b"no response in time" in answer.body


def test_a_server_that_stops_in_its_handshake_is_504(lab: Lab) -> None:
    accepted = Event()

    def quiet(sock: Any) -> None:
        accepted.set()
        while sock.recv(1000):
            pass

    road = Road(lab, "tls", lab.serve_raw(quiet))
    client = road.client()
    client.sendall(road.request())
    accepted.wait()
    gevent.sleep(0.02)
    later(road.proxy, 11)
    answer = read_answer(client)
    assert answer.status == 504 and b"handshake" in answer.body


@pytest.mark.parametrize("begun", [False, True], ids=["before the first byte", "after it"])
def test_a_server_that_stops_in_its_body_is_given_up(lab: Lab, begun: bool) -> None:
    quiet = Event()

    def respond(asked: Any, sock: Any) -> None:
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + (b"x" if begun else b""))
        quiet.wait()

    upstream = Upstream(lab, respond)
    road = Road(lab, "plain", upstream.port)
    client = road.client()
    client.sendall(road.request())
    if begun:
        assert read_head(client).startswith(b"HTTP/1.1 200 OK") and client.recv(10) == b"x"
    else:
        until(lambda: upstream.asked)
        gevent.sleep(0.02)
    later(road.proxy, 301)
    if begun:
        with pytest.raises((ConnectionError, EOFError)):
            read_exactly(client, 1)
    else:
        assert read_answer(client).status == 504
    quiet.set()
    until(lambda: len(lab.flows) == 1)
    assert "no byte in time" in str(lab.flows[0].error)


def test_a_connection_that_a_rule_made_has_its_deadlines_too(lab: Lab) -> None:
    quiet = Event()
    upstream = Upstream(lab, lambda asked, sock: quiet.wait())
    road = Road(lab, "plain", upstream.port)

    @road.proxy.on_request()
    def own(request: Any, ctx: Any) -> None:
        from muxwsgi.wire.connection import Connection

        ctx.dial = lambda host, port: Connection.from_socket(gevent.socket.create_connection((host, port)))

    client = road.client()
    client.sendall(road.request())
    until(lambda: upstream.asked)
    gevent.sleep(0.01)
    later(road.proxy, 121)
    assert read_answer(client).status == 504
    quiet.set()


# Connections that were kept


@every_way
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "POST", "PATCH"])
def test_a_request_is_sent_again_once_where_that_does_no_harm(lab: Lab, way: str, method: str) -> None:
    def respond(asked: Any, sock: Any) -> bytes | None:
        first = [other.connection for other in upstream.asked].count(asked.connection) == 1
        return OK if first else None  # tired of it, without a word

    upstream = Upstream(lab, respond, tls=way == "tls")
    road = Road(lab, way, upstream.port)
    client = road.client()
    assert road.ask(client, "/1", method=method, body=b"x").status == 200
    answer = road.ask(client, "/2", method=method, body=b"x")
    again = method in ("GET", "PUT", "DELETE")
    assert answer.status == (200 if again else 502)
    assert [asked.line.split()[1].rpartition(b"/")[2] for asked in upstream.asked] == [b"1", b"2", b"2"][: 3 if again else 2]


def test_a_request_is_not_sent_a_third_time(lab: Lab) -> None:
    tired = []
    hold = Event()

    def respond(asked: Any, sock: Any) -> bytes | None:
        if b"/hold" in asked.line:
            hold.wait()
        return None if tired else OK

    upstream = Upstream(lab, respond)
    road = Road(lab, "plain", upstream.port)
    clients = [road.client() for _ in range(4)]
    for client in clients:
        client.sendall(road.request("/hold"))
    until(lambda: len(upstream.asked) == 4)
    hold.set()
    assert [read_answer(client).status for client in clients] == [200] * 4
    assert road.proxy.pool.idle == 4
    tired.append(True)
    assert road.ask(clients[0], "/last").status == 502
    assert len([asked for asked in upstream.asked if b"/last" in asked.line]) == 2


def test_a_connection_that_the_server_has_closed_is_not_used(lab: Lab) -> None:
    def respond(asked: Any, sock: Any) -> None:
        sock.sendall(OK)  # and the connection ends

    upstream = Upstream(lab, respond)
    road = Road(lab, "plain", upstream.port)
    client = road.client()
    for _ in range(3):
        assert road.ask(client, method="POST", body=b"x").status == 200
        gevent.sleep(0.02)
    assert len(upstream.asked) == 3


# Our own


def test_a_leaf_that_cannot_be_minted_ends_that_tunnel(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    road = Road(lab, "tunnel", Upstream(lab, tls=True).port)

    def fail(*arguments: Any, **more: Any) -> None:
        raise MintingFailed("no entropy today")

    monkeypatch.setattr(Leaves, "get", fail)
    client = road.client()
    with pytest.raises(OSError):
        lab.wrap(client)


def test_a_ca_that_cannot_be_read_is_said_at_the_start_or_costs_tls_alone(
    lab: Lab, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = ProxySettings(ca_folder=str(tmp_path / "none"))
    upstream = Upstream(lab)

    # 1. Where it is known that it will be needed.
    early = Proxy(settings, upstreams=UpstreamChoice())
    early.on_connect().mitm()
    with pytest.raises(OperatorError):
        lab.serve_proxy(early)

    # 2. Where a rule decides later.
    from muxwsgi.proxy import Mitm

    late = Proxy(settings, upstreams=UpstreamChoice())
    late.on_connect().do(lambda host, ctx: Mitm())
    lab.proxies.append(late)
    road = Road(lab, "plain", upstream.port, proxy=late)
    road.way = "tunnel"
    assert road.ask(road.client()).body == b"ok"
    with pytest.raises(OSError):
        lab.wrap(road.client())
    errors = [record for record in caplog.get_records("call") if record.levelno >= logging.ERROR]
    assert len(errors) == 1 and "cannot be intercepted" in errors[0].getMessage() and errors[0].exc_info is None
    caplog.get_records("call").clear()


def test_a_flow_sink_that_fails_stops_no_traffic(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    def full(flow: Flow) -> None:
        raise OSError("disk full")

    upstream = Upstream(lab)
    road = Road(lab, "plain", upstream.port)
    road.proxy._recorder.sinks.insert(0, full)
    client = road.client()
    for _ in range(2):
        assert road.ask(client).body == b"ok"
    assert len(lab.flows) == 2
    assert ["flow sink" in record.getMessage() for record in caplog.get_records("call") if record.levelno >= logging.ERROR] == [True, True]
    caplog.get_records("call").clear()


def test_a_connect_with_a_body_is_refused(lab: Lab) -> None:
    road = Road(lab, "tunnel", 9)
    for framing in ("Content-Length: 5", "Transfer-Encoding: chunked"):
        client = lab.connect(road.port)
        client.sendall(f"CONNECT a.example:1 HTTP/1.1\r\nHost: a.example:1\r\n{framing}\r\n\r\nhello".encode())
        assert read_answer(client, "CONNECT").status == 400


@every_way
@pytest.mark.parametrize("phase", ["waiting", "in the request", "in the response"])
def test_a_server_that_stops_leaves_nothing_of_its_exchanges(lab: Lab, way: str, phase: str) -> None:
    quiet = Event()
    begun = Event()

    def respond(sock: Any) -> None:
        read_head(sock)
        if phase == "in the response":
            sock.sendall(b"HTTP/1.1 200 OK\r\n\r\nx")
        begun.set()
        quiet.wait()

    road = Road(lab, way, lab.serve_raw(respond, tls=way == "tls"))
    client = road.client()
    fields = ("Content-Length: 1000000",) if phase == "in the request" else ()
    client.sendall(road.request("/", *fields, method="POST" if fields else "GET"))
    begun.wait()
    gevent.sleep(0.02)
    lab.servers[-1].stop(0.0)
    quiet.set()
    assert road.proxy._client_watch.waiting == {}
    assert lab.flows[0].error
