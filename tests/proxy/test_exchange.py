"""Exchanges through the proxy, by every way, as RFC 9110 and RFC 9112 want them: what the server was sent and what the client got, to the
byte."""

from time import monotonic
from typing import Any

import gevent
import pytest
from gevent.event import Event

import muxwsgi.proxy.exchange.forward as forward
from muxwsgi.proxy.rules.message import Response
from muxwsgi.proxy.settings import ProxySettings
from muxwsgi.wire.lifeline import sweep
from tests.ports import free_port
from tests.proxy.accounts import clean_process, frozen_heap, nothing_left, until  # noqa: F401
from tests.proxy.conftest import Lab, read_head
from tests.proxy.dialogue import OK, WAYS, Road, Upstream, field, read_answer, read_chunks, read_exactly

pytestmark = pytest.mark.usefixtures("nothing_left")

every_way = pytest.mark.parametrize("way", WAYS)
with_rules = pytest.mark.parametrize("rules", [False, True], ids=["no rules", "rules"])


def road(lab: Lab, way: str, upstream: Upstream, *, rules: bool = False, **settings: Any) -> Road:
    made = Road(lab, way, upstream.port, settings=ProxySettings(**settings))
    if rules:  # which look and leave all as it is
        made.proxy.on_request().do(lambda request, ctx: None)
        made.proxy.on_response().do(lambda response, ctx: None)
    return made


def echo(asked: Any, sock: Any) -> bytes:
    body = asked.line + b"|" + asked.body
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


# Connections


@every_way
def test_a_kept_connection_serves_one_request_after_the_other(lab: Lab, way: str) -> None:
    upstream = Upstream(lab, echo, tls=way == "tls")
    way_there = road(lab, way, upstream)
    client = way_there.client()
    bodies = [way_there.ask(client, f"/{n}").body for n in range(5)]
    assert bodies == [b"GET /%d HTTP/1.1|" % n for n in range(5)]
    assert upstream.connections == 1 and way_there.proxy.pool.reused == 4


@every_way
def test_pipelined_requests_are_answered_in_their_order(lab: Lab, way: str) -> None:
    upstream = Upstream(lab, echo, tls=way == "tls")
    way_there = road(lab, way, upstream)
    client = way_there.client()
    requests = [way_there.request(f"/{n}", f"Content-Length: {n}", method="POST") + b"x" * n for n in range(20)]
    client.sendall(b"".join(requests))
    assert [read_answer(client).body for _ in requests] == [b"POST /%d HTTP/1.1|%b" % (n, b"x" * n) for n in range(20)]


@every_way
def test_a_client_that_says_close_ends_its_own_connection_only(lab: Lab, way: str) -> None:
    upstream = Upstream(lab, echo, tls=way == "tls")
    way_there = road(lab, way, upstream)
    client = way_there.client()
    answer = way_there.ask(client, "/", "Connection: close")
    assert answer.status == 200 and field(answer.head, "Connection") == ["close"]
    assert client.recv(1) == b""
    assert upstream.asked[0].field("Connection") == [] and way_there.proxy.pool.idle == 1


@every_way
def test_a_server_that_says_close_ends_its_own_connection_only(lab: Lab, way: str) -> None:
    upstream = Upstream(lab, b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok", tls=way == "tls")
    way_there = road(lab, way, upstream)
    client = way_there.client()
    for number in (1, 2):
        answer = way_there.ask(client)
        assert answer.body == b"ok" and field(answer.head, "Connection") == []
        assert way_there.proxy.pool.idle == 0 and upstream.asked[-1].connection == number


@every_way
def test_a_client_of_http_1_0_gets_what_it_can_read(lab: Lab, way: str) -> None:
    chunks = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    upstream = Upstream(lab, chunks, tls=way == "tls")
    way_there = road(lab, way, upstream)
    client = way_there.client()
    answer = way_there.ask(client, version="1.0")
    assert answer.body == b"abc" and field(answer.head, "Transfer-Encoding") == []
    assert field(answer.head, "Connection") == ["close"] and upstream.asked[0].line.endswith(b"HTTP/1.1")


def test_a_client_of_http_1_0_need_not_say_host(lab: Lab) -> None:
    upstream = Upstream(lab)
    way_there = road(lab, "tunnel", upstream)
    client = way_there.client()
    client.sendall(b"GET /x HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    answer = read_answer(client)
    assert answer.body == b"ok" and field(answer.head, "Connection") == ["keep-alive"]
    assert upstream.asked[0].fields == [b"Host: " + way_there.authority.encode()]


# Bodies


@every_way
@with_rules
@pytest.mark.parametrize(
    ("method", "response"),
    [
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"),
        ("HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n"),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 1000\r\n\r\n"),
        ("GET", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
    ],
    ids=["HEAD", "HEAD of chunks", "204", "304", "empty"],
)
def test_a_response_without_a_body_leaves_the_connection_in_order(lab: Lab, way: str, rules: bool, method: str, response: bytes) -> None:
    upstream = Upstream(lab, response, tls=way == "tls")
    way_there = road(lab, way, upstream, rules=rules)
    client = way_there.client()
    for _ in range(3):
        answer = way_there.ask(client, method=method)
        assert answer.head.partition(b"\r\n")[0] == response.partition(b"\r\n")[0] and answer.body == b""
        assert field(answer.head, "Content-Length") == field(response, "Content-Length")
    assert upstream.connections == 1


@every_way
@with_rules
def test_bodies_keep_their_framing_both_ways(lab: Lab, way: str, rules: bool) -> None:
    def respond(asked: Any, sock: Any) -> bytes:
        if asked.field("Transfer-Encoding"):
            return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(asked.body), asked.body)
        return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(asked.body), asked.body)

    upstream = Upstream(lab, respond, tls=way == "tls")
    way_there = road(lab, way, upstream, rules=rules)
    client = way_there.client()
    for body in (b"a", b"b" * 200_000):
        answer = way_there.ask(client, method="POST", body=body)
        assert answer.body == body and field(answer.head, "Content-Length") == [str(len(body))]
        assert upstream.asked[-1].field("content-length") == [str(len(body))]
        client.sendall(way_there.request("/", "Transfer-Encoding: chunked", method="POST") + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))
        answer = read_answer(client)
        assert answer.body == body  # a short one that was there at once has a length by now (RFC 9112 section 7.2)
        assert field(answer.head, "Transfer-Encoding") == ["chunked"] or field(answer.head, "Content-Length") == ["1"]
        assert upstream.asked[-1].body == body and upstream.asked[-1].field("Content-Length") == []
    assert upstream.connections == 1


@pytest.mark.parametrize("data", [b"", b"5\r\nhello\r\n"], ids=["without data", "with data"])
@pytest.mark.parametrize("rule", ["none", "looks", "buffers the request"])
def test_trailers_pass_both_ways(lab: Lab, rule: str, data: bytes) -> None:
    upstream = Upstream(
        lab, b"HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n" + data + b"0\r\nX-Sum: 7\r\n\r\n"
    )
    way_there = road(lab, "plain", upstream, rules=rule == "looks")
    if rule == "buffers the request":
        way_there.proxy.on_request().do(lambda request, ctx: setattr(ctx, "user_data", {"body": request.get_data()}))
    client = way_there.client()
    for _ in range(2):
        head = way_there.request("/", "Trailer: X-End", "Transfer-Encoding: chunked", method="POST")
        client.sendall(head + data + b"0\r\nX-End: yes\r\n\r\n")
        answer = read_answer(client)
        assert upstream.asked[-1].trailers == b"X-End: yes\r\n" and upstream.asked[-1].body == data[3:8]
        assert answer.trailers == b"X-Sum: 7\r\n" and answer.body == data[3:8]


def test_the_head_of_an_event_stream_does_not_wait_for_an_event(lab: Lab) -> None:
    event = Event()

    def respond(asked: Any, sock: Any) -> None:
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
        event.wait()
        sock.sendall(b"data: 1\n\n")

    upstream = Upstream(lab, respond)
    for rules in (False, True):
        event.clear()
        way_there = road(lab, "plain", upstream, rules=rules)
        client = way_there.client()
        client.sendall(way_there.request())
        assert b"text/event-stream" in read_head(client)
        event.set()
        assert read_exactly(client, 12) == b"9\r\ndata: 1\n\n"
        assert read_exactly(client, 7) == b"\r\n0\r\n\r\n"


# Interim responses


@every_way
def test_interim_responses_pass(lab: Lab, way: str) -> None:
    early = b"HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\nConnection: x-hop\r\nX-Hop: 1\r\n\r\n"
    upstream = Upstream(lab, early + early + OK, tls=way == "tls")
    way_there = road(lab, way, upstream)
    client = way_there.client()
    client.sendall(way_there.request())
    for _ in range(2):
        assert read_head(client) == b"HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\n"
    assert read_answer(client).body == b"ok"
    assert way_there.ask(client, version="1.0").head.startswith(b"HTTP/1.1 200 OK")


def test_a_body_is_kept_back_until_the_server_asks_for_it(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forward, "CONTINUE_TIMEOUT", 1000.0)
    asked_for = Event()

    def respond(asked: Any, sock: Any) -> bytes:
        asked_for.wait()
        sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        return b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n" + read_exactly(sock, 5)

    upstream = Upstream(lab, respond)
    way_there = road(lab, "plain", upstream)
    client = way_there.client()
    client.sendall(way_there.request("/", "Content-Length: 5", "Expect: 100-continue", method="PUT"))
    until(lambda: upstream.asked)
    assert upstream.asked[0].field("Expect") == ["100-continue"]
    with pytest.raises(TimeoutError):
        client.settimeout(0.05)
        client.recv(1)
    client.settimeout(20)
    asked_for.set()
    assert read_head(client) == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.sendall(b"hello")
    assert read_answer(client).body == b"hello"
    assert way_there.proxy.pool.idle == 1


@pytest.mark.parametrize("body", [b"", b"no" * 50_000], ids=["short", "long"])
@pytest.mark.parametrize("status", ["413 Content Too Large", "417 Expectation Failed", "401 Unauthorized"])
def test_a_body_that_is_refused_is_never_sent(lab: Lab, monkeypatch: pytest.MonkeyPatch, status: str, body: bytes) -> None:
    monkeypatch.setattr(forward, "CONTINUE_TIMEOUT", 0.05)
    upstream = Upstream(lab, b"HTTP/1.1 %b\r\nContent-Length: %d\r\n\r\n%b" % (status.encode(), len(body), body))
    way_there = road(lab, "plain", upstream)
    client = way_there.client()
    client.sendall(way_there.request("/", "Content-Length: 5000000", "Expect: 100-continue", method="PUT"))
    answer = read_answer(client)
    assert answer.head.startswith(f"HTTP/1.1 {status}\r\n".encode()) and answer.body == body
    assert field(answer.head, "Connection") == ["close"], "the client may send the body or not: nobody knows what comes next"
    assert client.recv(1) == b""
    assert way_there.proxy.pool.idle == 0


def test_a_response_outlives_the_body_that_it_refused(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forward, "CONTINUE_TIMEOUT", 0.01)
    go_on = Event()

    def respond(asked: Any, sock: Any) -> bytes:
        sock.sendall(b"HTTP/1.1 401 Unauthorized\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n")
        go_on.wait()
        return b"4\r\nlast\r\n0\r\n\r\n"

    way_there = road(lab, "plain", Upstream(lab, respond))
    client = way_there.client()
    client.sendall(way_there.request("/", "Content-Length: 5", "Expect: 100-continue", method="PUT"))
    assert read_head(client).startswith(b"HTTP/1.1 401 ")
    gevent.sleep(0.05)
    sweep(list(lab.servers[-1]._lines), monotonic() + 25)  # longer than a body that was asked for may keep us waiting
    gevent.sleep(0.02)
    go_on.set()
    assert read_chunks(client)[0] == b"firstlast"


def test_a_server_that_never_asks_gets_the_body_all_the_same(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forward, "CONTINUE_TIMEOUT", 0.01)
    upstream = Upstream(lab, lambda asked, sock: b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n" + read_exactly(sock, 5))
    way_there = road(lab, "plain", upstream)
    client = way_there.client()
    client.sendall(way_there.request("/", "Content-Length: 5", "Expect: 100-continue", method="PUT"))
    assert read_head(client) == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.sendall(b"hello")
    assert read_answer(client).body == b"hello"


# Fields


@pytest.mark.parametrize("way", ["tunnel", "tls"])
@with_rules
def test_a_head_arrives_in_a_tunnel_as_it_was_sent(lab: Lab, way: str, rules: bool) -> None:
    upstream = Upstream(lab, tls=way == "tls")
    way_there = road(lab, way, upstream, rules=rules)
    client = way_there.client()
    head = way_there.request(
        "/a%20b//../c?x=%zz&y=[]|",
        "x-LOWER-and-Upper: 1",
        "Accept: */*",
        "X-Twice: one",
        "Cookie: a=b",
        "x-twice: two",
        "Cookie: c=d",
        "X-Empty: ",
        "X-Latin: caf\xe9",
        "Accept-Encoding: gzip, br;q=0.5",
        "Proxy-Authorization: Basic Zm9yOnlvdQ==",
        "User-Agent: \"quoted, (odd)\"",
    )
    client.sendall(head)
    assert read_answer(client).body == b"ok"
    assert upstream.asked[0].head == head


@with_rules
def test_outside_of_a_tunnel_only_what_must_change_changes(lab: Lab, rules: bool) -> None:
    upstream = Upstream(lab)
    way_there = road(lab, "plain", upstream, rules=rules)
    client = way_there.client()
    answer = way_there.ask(
        client, "/p?q", "X-A: 1", "Proxy-Authorization: Basic Zm9yOnVz", "x-a: 2", "Proxy-Connection: keep-alive", "B: 3", host="wrong.example"
    )
    assert answer.body == b"ok"
    assert upstream.asked[0].head == (
        f"GET /p?q HTTP/1.1\r\nHost: {way_there.authority}\r\nX-A: 1\r\nx-a: 2\r\nB: 3\r\n\r\n".encode()
    )


@every_way
@with_rules
def test_the_fields_of_a_response_keep_order_case_and_number(lab: Lab, way: str, rules: bool) -> None:
    fields = [b"x-LOW: 1", b"Set-Cookie: a=1; Path=/", b"Location: //x/%zz y", b"set-cookie: b=2", b"X-Empty: ", b"Date: long ago", b"X-Latin: \xe9"]
    upstream = Upstream(lab, b"HTTP/1.1 299 Odd \xe9 Phrase\r\n" + b"\r\n".join(fields) + b"\r\nContent-Length: 2\r\n\r\nok", tls=way == "tls")
    way_there = road(lab, way, upstream, rules=rules)
    answer = way_there.ask(way_there.client())
    assert answer.head == b"HTTP/1.1 299 Odd \xe9 Phrase\r\n" + b"\r\n".join(fields) + b"\r\nContent-Length: 2\r\n\r\n"


@with_rules
def test_what_is_hop_by_hop_ends_here(lab: Lab, rules: bool) -> None:
    upstream = Upstream(
        lab,
        b"HTTP/1.1 200 OK\r\nConnection: x-mine, Content-Length, Set-Cookie2\r\nX-Mine: 1\r\nKeep-Alive: timeout=5\r\nX-Kept: 1\r\n"
        b"Content-Length: 2\r\n\r\nok",
    )
    way_there = road(lab, "plain", upstream, rules=rules)
    client = way_there.client()
    answer = way_there.ask(
        client,
        "/",
        "Connection: keep-alive, X-Private, Host, Content-Length, Authorization",
        "X-Private: secret",
        "Keep-Alive: timeout=5",
        "Authorization: Bearer t",
        "TE: gzip",
        "Upgrade: h2c",
        "X-Kept: 1",
        method="POST",
        body=b"hi",
    )
    assert upstream.asked[0].fields == [
        b"Host: " + way_there.authority.encode(),
        b"Authorization: Bearer t",
        b"X-Kept: 1",
        b"Content-Length: 2",
    ]
    assert upstream.asked[0].body == b"hi" and answer.body == b"ok"
    assert field(answer.head, "X-Kept") == ["1"] and field(answer.head, "X-Mine") == field(answer.head, "Keep-Alive") == []


@with_rules
def test_a_426_says_to_the_client_what_the_server_asks_for(lab: Lab, rules: bool) -> None:
    upstream = Upstream(lab, b"HTTP/1.1 426 Upgrade Required\r\nUpgrade: websocket\r\nConnection: upgrade\r\nContent-Length: 2\r\n\r\nno")
    way_there = road(lab, "plain", upstream, rules=rules)
    answer = way_there.ask(way_there.client())
    assert field(answer.head, "Upgrade") == ["websocket"] and field(answer.head, "Connection") == ["upgrade"]


def test_who_takes_trailers_is_said_to_the_server(lab: Lab) -> None:
    upstream = Upstream(lab)
    way_there = road(lab, "plain", upstream)
    way_there.ask(way_there.client(), "/", "Connection: TE", "TE: gzip;q=0.5, trailers")
    assert upstream.asked[0].field("TE") == ["trailers"] and upstream.asked[0].field("Connection") == ["TE"]


def test_fields_that_the_operator_keeps_are_kept(lab: Lab) -> None:
    upstream = Upstream(lab)
    way_there = road(lab, "plain", upstream, keep_header=True)
    way_there.ask(way_there.client(), "/", "Connection: keep-alive", "Keep-Alive: timeout=5", "Proxy-Authorization: Basic eDp5")
    assert upstream.asked[0].fields[1:] == [b"Connection: keep-alive", b"Keep-Alive: timeout=5"]


def test_a_request_that_was_here_before_is_a_loop(lab: Lab) -> None:
    upstream = Upstream(lab)
    way_there = road(lab, "plain", upstream, via="us")
    client = way_there.client()
    assert way_there.ask(client, "/", "Via: 1.1 other, 1.0 another").status == 200
    assert upstream.asked[0].field("Via") == ["1.1 other, 1.0 another", "1.1 us"]
    assert way_there.ask(client, "/", "Via: 1.1 other", "Via: 1.0 x, 1.1 us (comment)").status == 508
    assert len(upstream.asked) == 1


# Forms of the target


@with_rules
def test_the_absolute_form_in_a_tunnel_is_for_the_proxy_that_the_client_speaks_to(lab: Lab, rules: bool) -> None:
    upstream = Upstream(lab, tls=True)
    way_there = road(lab, "tls", upstream, rules=rules)
    client = way_there.client()
    client.sendall(b"GET http://elsewhere.example/x?y HTTP/1.1\r\nHost: elsewhere.example\r\nProxy-Authorization: Basic eDp5\r\n\r\n")
    assert read_answer(client).body == b"ok"
    assert upstream.asked[0].head == (
        b"GET http://elsewhere.example/x?y HTTP/1.1\r\nHost: elsewhere.example\r\nProxy-Authorization: Basic eDp5\r\n\r\n"
    )


@with_rules
def test_options_asks_about_the_server_as_a_whole(lab: Lab, rules: bool) -> None:
    upstream = Upstream(lab)
    outside = road(lab, "plain", upstream, rules=rules)
    assert outside.ask(outside.client(), "", method="OPTIONS").status == 200
    inside = road(lab, "tunnel", upstream, rules=rules)
    assert inside.ask(inside.client(), "*", method="OPTIONS").status == 200
    assert [asked.line for asked in upstream.asked] == [b"OPTIONS * HTTP/1.1"] * 2


@with_rules
def test_a_target_without_a_path_means_the_root(lab: Lab, rules: bool) -> None:
    upstream = Upstream(lab)
    way_there = road(lab, "plain", upstream, rules=rules)
    client = way_there.client()
    for given, sent in (("", "/"), ("?q=1", "/?q=1"), ("//x", "//x")):
        assert way_there.ask(client, given).status == 200
        assert upstream.asked[-1].line == f"GET {sent} HTTP/1.1".encode()


# Rules


def test_rules_change_where_and_what_is_asked(lab: Lab) -> None:
    there, elsewhere = Upstream(lab), Upstream(lab, echo)
    way_there = road(lab, "plain", there)

    @way_there.proxy.on_request()
    def change(request: Any, ctx: Any) -> None:
        request.method = "PUT"
        request.url = f"http://127.0.0.1:{elsewhere.port}/new?x=1"
        request.headers["X-Added"] = "1"
        request.headers.pop("X-Gone")
        request.set_data(b"another body")

    answer = way_there.ask(way_there.client(), "/old", "X-Gone: 1", "X-Kept: 1", method="POST", body=b"body")
    assert answer.body == b"PUT /new?x=1 HTTP/1.1|another body" and there.asked == []
    assert elsewhere.asked[0].field("Host") == [f"127.0.0.1:{elsewhere.port}"] and elsewhere.asked[0].field("X-Gone") == []
    assert elsewhere.asked[0].field("X-Added") == elsewhere.asked[0].field("X-Kept") == ["1"]


@pytest.mark.parametrize("length", [3, 5])
def test_a_body_of_a_rule_that_is_not_as_long_as_it_says_is_not_passed_on(
    lab: Lab, caplog: pytest.LogCaptureFixture, length: int
) -> None:
    upstream = Upstream(lab)
    way_there = road(lab, "plain", upstream)
    sizes = iter([1, 100_000])

    @way_there.proxy.on_request()
    def lie(request: Any, ctx: Any) -> None:
        factor = next(sizes)
        request.set_stream(iter([b"xxxx" * factor]), length * factor)

    client = way_there.client()
    assert way_there.ask(client, method="POST").status == 500
    assert way_there.ask(client, method="POST").status == 502
    assert way_there.proxy.pool.idle == 0 and "Content-Length" in caplog.text
    caplog.get_records("call").clear()


def test_a_rule_that_asks_for_the_head_alone_gives_the_client_no_length_of_a_body(lab: Lab) -> None:
    upstream = Upstream(lab, b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    way_there = road(lab, "plain", upstream)
    way_there.proxy.on_request().do(lambda request, ctx: setattr(request, "method", "HEAD"))
    client = way_there.client()
    for _ in range(2):
        assert way_there.ask(client).body == b""


def test_an_application_that_is_mounted_answers(lab: Lab) -> None:
    upstream = Upstream(lab)
    way_there = road(lab, "tunnel", upstream)

    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [("Content-Type", "text/plain")])
        yield environ["REQUEST_METHOD"].encode() + b" "
        yield environ["PATH_INFO"].encode()

    way_there.proxy.mount(lambda request, ctx: request.path == "/here", app)
    client = way_there.client()
    assert way_there.ask(client, "/here").body == b"GET /here"
    assert way_there.ask(client, "/there").body == b"ok"


@pytest.mark.parametrize("changed", [False, True])
def test_an_application_that_is_mounted_gets_the_fields_as_rules_leave_them(lab: Lab, changed: bool) -> None:
    way_there = road(lab, "plain", Upstream(lab))
    got: list[tuple[str, str]] = []

    def app(environ: Any, start_response: Any) -> Any:
        got.extend(environ["muxwsgi.fields"])
        start_response("200 OK", [])
        return [b"x"]

    @way_there.proxy.on_request()
    def change(request: Any, ctx: Any) -> None:
        if changed:
            request.headers["X-Rule"] = "set"

    way_there.proxy.mount(lambda request, ctx: True, app)
    fields = ("x-client: a", "Proxy-Authorization: Basic eDp5", "X-Client: b")
    assert way_there.ask(way_there.client(), "/", *fields).status == 200
    names = [name for name, _ in got]
    assert [pair for pair in got if pair[0].lower() == "x-client"] == [("x-client", "a"), ("X-Client", "b")]
    assert ("X-Rule", "set") in got if changed else "X-Rule" not in names
    assert "Proxy-Authorization" not in names


def test_an_application_that_is_mounted_is_closed_whatever_a_rule_does(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    way_there = road(lab, "plain", Upstream(lab))
    closed = []

    class Body:
        def __iter__(self) -> Any:
            return iter([b"a"])

        def close(self) -> None:
            closed.append(True)

    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [])
        return Body()

    way_there.proxy.mount(lambda request, ctx: True, app)

    @way_there.proxy.on_response()
    def fail(response: Any, ctx: Any) -> None:
        raise LookupError

    assert way_there.ask(way_there.client()).status == 500
    assert closed == [True]
    caplog.get_records("call").clear()


def test_an_error_rule_answers_for_the_server(lab: Lab) -> None:
    port = free_port()
    way_there = Road(lab, "plain", port)
    way_there.proxy.on_error().do(lambda fault, ctx: Response(f"sorry: {fault.phase.value}", 503))
    answer = way_there.ask(way_there.client())
    assert answer.status == 503 and answer.body == b"sorry: connect"
    assert lab.flows[0].error and lab.flows[0].response and lab.flows[0].response.line[1] == "503"


def test_the_record_holds_what_was_passed_on(lab: Lab) -> None:
    upstream = Upstream(lab, b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nX-Gone: 1\r\n\r\nlong")
    way_there = road(lab, "plain", upstream)

    @way_there.proxy.on_response()
    def change(response: Any, ctx: Any) -> None:
        response.headers.pop("X-Gone")
        response.set_data(response.get_data() + b"er")

    answer = way_there.ask(way_there.client(), "/a", method="POST", body=b"sent")
    assert answer.body == b"longer"
    (flow,) = lab.flows
    assert flow.request is not None and flow.request.line == ("POST", f"http://{way_there.authority}/a", "HTTP/1.1")
    assert bytes(flow.from_client.data) == b"sent" and bytes(flow.from_server.data) == b"longer"
    assert flow.response is not None and "X-Gone" not in dict(flow.response.fields)


def test_a_rule_connects_by_itself(lab: Lab) -> None:
    elsewhere = Upstream(lab, echo)
    way_there = road(lab, "plain", Upstream(lab))
    asked = []

    @way_there.proxy.on_request()
    def own(request: Any, ctx: Any) -> None:
        def dial(host: str, port: int) -> Any:
            from muxwsgi.wire.connection import Connection

            asked.append((host, port))
            return Connection.from_socket(gevent.socket.create_connection(("127.0.0.1", elsewhere.port)))

        ctx.dial = dial

    client = way_there.client()
    for n in range(2):
        assert way_there.ask(client, f"/{n}").body == b"GET /%d HTTP/1.1|" % n
    host, _, port = way_there.authority.partition(":")
    assert asked == [(host, int(port))] * 2, "what a rule dialled for one request is nobody else's"
    assert way_there.proxy.pool.idle == 0
