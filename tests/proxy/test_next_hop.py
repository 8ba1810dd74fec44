"""Who is asked next, and what that one may learn: further proxies, their credentials, and connections that are logged in."""

from base64 import b64encode
from time import monotonic
from typing import Any

import gevent
import gevent.socket
import pytest

from muxwsgi.dial.dialer import DialSettings
from muxwsgi.dial.upstream_choice import UpstreamChoice
from muxwsgi.dial.upstream_proxy import UpstreamProxy
from muxwsgi.proxy.context import Context
from muxwsgi.proxy.settings import ProxySettings
from muxwsgi.wire.connection import Connection
from tests.proxy.accounts import clean_process, frozen_heap, nothing_left  # noqa: F401
from tests.proxy.conftest import Lab, read_head
from tests.proxy.dialogue import OK, WAYS, Road, Upstream, carry_both_ways, read_answer

pytestmark = pytest.mark.usefixtures("nothing_left")


def through(road: Road, proxy_port: int) -> None:
    road.proxy.on_request().do(
        lambda request, ctx: setattr(ctx, "upstream", UpstreamProxy("http", "127.0.0.1", proxy_port, "us", "secret"))
    )


@pytest.mark.parametrize("way", ["plain", "tunnel"])
def test_the_next_proxy_is_asked_in_absolute_form_with_our_credentials(lab: Lab, way: str) -> None:
    other = Upstream(lab)
    road = Road(lab, way, 9)
    through(road, other.port)
    client = road.client()
    for _ in range(2):
        answer = road.ask(client, "/a?b", "Proxy-Authorization: Basic Zm9yOmhlcmU=")
        assert answer.body == b"ok"
    assert other.connections == 1
    assert other.asked[0].line == f"GET http://{road.authority}/a?b HTTP/1.1".encode()
    assert other.asked[0].field("Proxy-Authorization") == ["Basic " + b64encode(b"us:secret").decode()]
    assert lab.flows[0].request is not None and lab.flows[0].request.line[1] == f"http://{road.authority}/a?b"
    assert lab.flows[0].address == f"127.0.0.1:{other.port}"


@pytest.mark.parametrize("rules", [False, True], ids=["no rules", "rules"])
def test_an_absolute_target_in_a_tunnel_is_for_its_destination_and_never_for_the_next_proxy(lab: Lab, rules: bool) -> None:
    other = Upstream(lab, lambda asked, sock: b"HTTP/1.1 200 OK\r\n\r\n" if asked.line.startswith(b"CONNECT") else OK)
    through = UpstreamProxy("http", "127.0.0.1", other.port)
    proxy = lab.proxy(upstreams=UpstreamChoice(http=through, tunnel=through))
    proxy.on_connect().mitm()
    if rules:
        proxy.on_request().do(lambda request, ctx: None)
    port = lab.serve_proxy(proxy)
    for target in (b"http://elsewhere.example/x", b"/x", b"http://elsewhere.example/x", b"/x"):
        client = lab.connect(port)
        client.sendall(b"CONNECT allowed.example:80 HTTP/1.1\r\nHost: allowed.example:80\r\n\r\n")
        client.sendall(b"GET " + target + b" HTTP/1.1\r\nHost: elsewhere.example\r\n\r\n")
        assert read_head(client).startswith(b"HTTP/1.1 200 ")
        assert read_answer(client).body == b"ok"
    asked = [(request.line.removesuffix(b" HTTP/1.1"), request.connection) for request in other.asked]
    stream, requests = asked[0][1], asked[2][1]
    assert stream != requests
    assert asked == [
        (b"CONNECT allowed.example:80", stream),
        (b"GET http://elsewhere.example/x", stream),
        (b"GET http://allowed.example/x", requests),
        (b"GET http://elsewhere.example/x", stream),
        (b"GET http://allowed.example/x", requests),
    ]


@pytest.mark.parametrize("way", WAYS)
def test_a_client_cannot_take_away_what_a_rule_has_set_by_naming_it_in_connection(lab: Lab, way: str) -> None:
    upstream = Upstream(lab, tls=way == "tls")
    road = Road(lab, way, upstream.port)
    road.proxy.on_request().do(lambda request, ctx: request.headers.set("X-Client", "real"))
    for said in ("forged", "real"):
        road.ask(road.client(), "/", "Connection: keep-alive, X-Client, x-other", f"X-Client: {said}", "X-Other: 1", "X-End: 2")
        assert [upstream.asked[-1].field(name) for name in ("X-Client", "X-Other", "X-End", "Connection")] == [["real"], [], ["2"], []]


def test_credentials_for_us_go_no_further_and_those_inside_of_a_tunnel_do(lab: Lab) -> None:
    upstream = Upstream(lab)
    outside, inside = Road(lab, "plain", upstream.port), Road(lab, "tunnel", upstream.port)
    for road in (outside, inside):
        road.ask(road.client(), "/", "Proxy-Authorization: Basic eDp5")
    assert [asked.field("Proxy-Authorization") for asked in upstream.asked] == [[], ["Basic eDp5"]]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("scheme", ["NTLM", "Negotiate"])
def test_a_connection_that_a_client_has_logged_in_serves_no_other_client(lab: Lab, way: str, scheme: str) -> None:
    users: dict[int, str] = {}

    def respond(asked: Any, sock: Any) -> bytes:
        for value in asked.field("Authorization"):
            users[asked.connection] = value.split()[1]
        user = users.get(asked.connection, "nobody").encode()
        return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(user), user)

    upstream = Upstream(lab, respond, tls=way == "tls")
    road = Road(lab, way, upstream.port)
    ann, bob = road.client(), road.client()
    assert road.ask(bob).body == b"nobody"
    assert road.ask(ann, "/", f"Authorization: {scheme} ann").body == b"ann"
    assert road.ask(ann).body == b"ann", "the login holds for the client's connection"
    assert road.ask(bob).body == b"nobody"
    assert road.ask(road.client()).body == b"nobody"


@pytest.mark.parametrize("tls", [False, True], ids=["http proxy", "https proxy"])
@pytest.mark.parametrize("inner", ["accept", "mitm"])
def test_a_tunnel_in_a_tunnel_goes_through_the_proxy_that_the_client_means(lab: Lab, tls: bool, inner: str) -> None:
    upstream = Upstream(lab)
    seen = []

    def other_proxy(asked: Any, sock: Any) -> None:
        import gevent.socket

        seen.append(asked)
        if asked.field("Proxy-Authorization") != ["Digest whatever"]:
            sock.sendall(b"HTTP/1.1 407 Who?\r\nProxy-Authenticate: Digest realm=x\r\nContent-Length: 4\r\n\r\nwho?")
            return
        with gevent.socket.create_connection(("127.0.0.1", upstream.port)) as there:
            sock.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            carry_both_ways(sock, there)

    other = Upstream(lab, other_proxy, tls=tls)
    road = Road(lab, "tls" if tls else "tunnel", other.port)
    if inner == "accept":
        road.proxy.rules._connect = ()  # in place of the rule of `Road`

        @road.proxy.on_connect()
        def decide(host: str, ctx: Any) -> Any:
            from muxwsgi.proxy import Accept, Mitm

            return Accept() if ctx.tunnel is not None else Mitm()

    def tunnel(*fields: str) -> tuple[Any, bytes]:
        client = road.client()
        client.sendall("\r\n".join(["CONNECT inner.example:80 HTTP/1.1", "Host: inner.example:80", *fields, "", ""]).encode())
        return client, read_head(client)

    client, head = tunnel("Proxy-Authorization: Digest whatever", "X-Hop: 1", "Connection: x-hop")
    assert head.startswith(b"HTTP/1.1 200 ")
    client.sendall(b"GET /inside HTTP/1.1\r\nHost: inner.example\r\n\r\n")
    assert read_answer(client).body == b"ok"
    assert seen[0].line == b"CONNECT inner.example:80 HTTP/1.1"
    assert seen[0].fields == [b"Host: inner.example:80", b"Proxy-Authorization: Digest whatever"]
    assert upstream.asked[0].line == b"GET /inside HTTP/1.1"

    client, head = tunnel()
    if inner == "accept":
        assert head.startswith(b"HTTP/1.1 407 Who?\r\n") and b"Proxy-Authenticate: Digest realm=x\r\n" in head
    else:  # the tunnel is ours, and what is behind it shows with the first request
        client.sendall(b"GET /inside HTTP/1.1\r\nHost: inner.example\r\n\r\n")
        assert read_answer(client).status == 502


def test_a_proxy_in_a_tunnel_that_switches_protocols_in_place_of_an_answer_is_a_502(lab: Lab) -> None:
    other = Upstream(lab, lambda asked, sock: sock.sendall(b"HTTP/1.1 101 Other\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"))
    proxy = lab.proxy()
    proxy.on_connect(lambda subject, ctx: ctx.tunnel is None).mitm()
    client = lab.tunnel(lab.serve_proxy(proxy), f"127.0.0.1:{other.port}")
    client.sendall(b"CONNECT inner.example:80 HTTP/1.1\r\nHost: inner.example:80\r\n\r\n")
    answer = read_answer(client)
    assert answer.status == 502 and b"without a request for it" in answer.body


@pytest.mark.parametrize("tls", [False, True], ids=["http proxy", "https proxy"])
def test_a_tunnel_in_a_tunnel_keeps_what_rules_have_put_into_the_outer_one(lab: Lab, tls: bool) -> None:
    def other_proxy(asked: Any, sock: Any) -> bytes:
        return b"HTTP/1.1 200 OK\r\n\r\n" if asked.line.startswith(b"CONNECT") else OK

    other = Upstream(lab, other_proxy, tls=tls)
    road = Road(lab, "tls" if tls else "tunnel", other.port)
    dialled: list[tuple[str, int]] = []
    seen: list[tuple[str, Any, Any]] = []

    def dial(host: str, port: int) -> Connection:
        dialled.append((host, port))
        return Connection.from_socket(gevent.socket.create_connection(("127.0.0.1", other.port)))

    def on_connect(host: str, ctx: Context) -> None:
        if ctx.tunnel is None:
            ctx.user_data["who"] = "the outer one"
            ctx.dial = dial
        seen.append(("CONNECT", ctx.destination, ctx.user_data["who"]))

    road.proxy.rules._connect = ()  # ours comes before the rule of `Road`
    road.proxy.on_connect().do(on_connect)
    road.proxy.on_connect().mitm()
    road.proxy.on_request().do(lambda request, ctx: seen.append(("request", ctx.destination, ctx.user_data["who"])))
    client = road.client()
    for inner in ("one.example:80", "two.example:80"):  # the second in the first
        client.sendall(f"CONNECT {inner} HTTP/1.1\r\nHost: {inner}\r\n\r\n".encode())
        assert read_head(client).startswith(b"HTTP/1.1 200 ")
    client.sendall(b"GET /inside HTTP/1.1\r\nHost: two.example\r\n\r\n")
    assert read_answer(client).body == b"ok"
    outer = ("localhost" if tls else "127.0.0.1", other.port)
    assert [line.line for line in other.asked] == [b"CONNECT one.example:80 HTTP/1.1", b"CONNECT two.example:80 HTTP/1.1", b"GET /inside HTTP/1.1"]
    # If the client sends its first bytes late, the proxy has begun to dial. It gives that up when they come, and dials again.
    assert set(dialled) == {outer}
    assert seen == [
        ("CONNECT", outer, "the outer one"),
        ("CONNECT", ("one.example", 80), "the outer one"),
        ("CONNECT", ("two.example", 80), "the outer one"),
        ("request", ("two.example", 80), "the outer one"),
    ]


def test_the_time_for_a_dial_is_said_once_whatever_else_is_said_of_dialling(lab: Lab) -> None:
    def never(host: str, port: int) -> Any:
        gevent.sleep(60)

    choice = UpstreamChoice(http=(way := UpstreamProxy("http", "proxy.example", 3128)), tunnel=way)
    proxy = lab.proxy(settings=ProxySettings(connect_timeout=0.2), dialing=DialSettings(resolve_timeout=60), resolver=never, upstreams=choice)
    port = lab.serve_proxy(proxy)
    for request in (b"GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n", b"CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n"):
        client = lab.connect(port)
        begun = monotonic()
        client.sendall(request)
        assert read_answer(client).status == 504
        assert monotonic() - begun < 9  # ten seconds are the default
    with pytest.raises(TypeError, match="connect_timeout"):
        DialSettings(connect_timeout=1)  # type: ignore[call-arg]
