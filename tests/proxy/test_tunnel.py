"""Tunnels: which way the bytes in them go, that none is lost, and who decides."""

import socket
import ssl
import struct
from base64 import b64encode
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import gevent
import gevent.socket
import pytest
from gevent.event import Event
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from muxwsgi.proxy import Accept, Hijack, Mitm, Reject
from muxwsgi.proxy.doors.access import Access
from muxwsgi.proxy.fault import Fault, Phase
from muxwsgi.proxy.proxy import Proxy
from muxwsgi.proxy.rules.actions import CONTINUE
from muxwsgi.proxy.rules.message import Response
from muxwsgi.proxy.settings import ProxySettings
from muxwsgi.settings import HTTPSettings, ServerSettings, TLSSettings
from muxwsgi.wire.connection import Connection
from muxwsgi.wire.tls.client_context import ClientContext
from muxwsgi.wire.tls.server_context import ServerContext
from tests.ports import free_port
from tests.proxy.accounts import clean_process, frozen_heap, nothing_left, settle, until  # noqa: F401
from tests.proxy.conftest import Lab, read_head
from tests.proxy.dialogue import OK, Upstream, read_answer, read_exactly
from tests.tls.authority import Authority

both_kinds = pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
pytestmark = pytest.mark.usefixtures("nothing_left")


def shout(sock: Any) -> None:
    """A protocol of its own: what comes goes back in upper case."""
    while data := sock.recv(1000):
        sock.sendall(data.upper())


def mitm(lab: Lab, **more: Any) -> tuple[Proxy, int]:
    proxy = lab.proxy(settings=ProxySettings(**more), record=True)
    proxy.on_connect().mitm()
    return proxy, lab.serve_proxy(proxy)


def connect(destination: str, *fields: str) -> bytes:
    return "\r\n".join([f"CONNECT {destination} HTTP/1.1", f"Host: {destination}", *fields, "", ""]).encode()


def flows(lab: Lab, count: int) -> list[Any]:
    until(lambda: len(lab.flows) >= count, f"{count} flows")
    assert len(lab.flows) == count
    return lab.flows


# Bytes


@pytest.mark.parametrize("action", ["accept", "mitm", "hijack"])
def test_what_is_sent_together_with_connect_is_not_lost(lab: Lab, action: str) -> None:
    proxy = lab.proxy(record=True)
    if action == "hijack":
        proxy.on_connect().hijack(lambda connection, ctx: shout(connection))
    else:
        getattr(proxy.on_connect(), action)()
    destination = f"127.0.0.1:{lab.serve_raw(shout)}"
    client = lab.connect(lab.serve_proxy(proxy))
    client.sendall(connect(destination) + b"\x00early ")
    assert read_head(client) == b"HTTP/1.1 200 Connection established\r\n\r\n"
    client.sendall(b"late")
    assert read_exactly(client, 11) == b"\x00EARLY LATE"


@pytest.mark.parametrize("action", ["accept", "mitm"])
def test_a_request_that_is_sent_together_with_connect_is_answered(lab: Lab, action: str) -> None:
    proxy = lab.proxy(record=True)
    getattr(proxy.on_connect(), action)()
    upstream = Upstream(lab)
    client = lab.connect(lab.serve_proxy(proxy))
    client.sendall(connect(f"127.0.0.1:{upstream.port}") + b"GET /1 HTTP/1.1\r\nHost: x\r\n\r\nGET /2 HTTP/1.1\r\nHost: x\r\n\r\n")
    assert read_head(client).startswith(b"HTTP/1.1 200 ")
    assert [read_answer(client).body for _ in range(2)] == [b"ok", b"ok"]
    assert [asked.line for asked in upstream.asked] == [b"GET /1 HTTP/1.1", b"GET /2 HTTP/1.1"]


@pytest.mark.parametrize("action", ["accept", "mitm"])
@pytest.mark.parametrize("split", [1, 5, 6, 100, 10_000], ids=lambda split: f"{split} bytes of it")
def test_a_hello_that_is_sent_together_with_connect_is_heard(lab: Lab, action: str, split: int) -> None:
    proxy = lab.proxy(record=True)
    getattr(proxy.on_connect(), action)()
    upstream = Upstream(lab, tls=True)
    client = lab.connect(lab.serve_proxy(proxy))
    context = ssl.create_default_context(cafile=str(lab.ca_file if action == "mitm" else lab.certificate.certfile))
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    inside = context.wrap_bio(incoming, outgoing, server_hostname="localhost")

    with pytest.raises(ssl.SSLWantReadError):
        inside.do_handshake()
    hello = outgoing.read()
    client.sendall(connect(f"localhost:{upstream.port}") + hello[:split])
    assert read_head(client).startswith(b"HTTP/1.1 200 ")
    client.sendall(hello[split:])

    def until_done(call: Any) -> Any:
        while True:
            try:
                return call()
            except ssl.SSLWantReadError:
                client.sendall(outgoing.read())
                incoming.write(client.recv(65536))

    until_done(inside.do_handshake)
    inside.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert until_done(lambda: inside.read(15)) == b"HTTP/1.1 200 OK"


STREAMS = {
    "HTTP": b"GET /x HTTP/1.1\r\nHost: x\r\n\r\n",
    "HTTP with a body": b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody",
    "Redis that begins like HTTP": b"SET key value\r\n",
    "no protocol": b"\x00\x01\x02 hello\r\n",
    "nearly TLS": b"\x16\x03\x09\x00\x05hello",
    "a method that is none": b"HELO mail.example\r\n",
}


@pytest.mark.parametrize("name", STREAMS)
def test_any_cut_of_the_bytes_goes_the_same_way(name: str, authority: Any, make_certificate: Any) -> None:
    stream = STREAMS[name]
    with ExitStack() as stack:
        lab = Lab(stack, authority, make_certificate())
        proxy, port = mitm(lab)
        upstream = lab.serve_raw(shout)
        proxy.on_request().do(lambda request, ctx: Response(b"HTTP:" + request.get_data(), 200))
        destination = f"127.0.0.1:{upstream}"
        whole = connect(destination) + stream
        expected = b"HTTP:" + stream.partition(b"\r\n\r\n")[2] if name.startswith("HTTP") else stream.upper()

        @settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
        @given(cuts=st.lists(st.integers(1, len(whole) - 1), max_size=6).map(lambda cuts: sorted(set(cuts))))
        def run(cuts: list[int]) -> None:
            client = lab.connect(port)
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True):
                client.sendall(whole[start:end])
                gevent.sleep(0.001)
            assert read_head(client).startswith(b"HTTP/1.1 200 Connection")
            if name.startswith("HTTP"):
                assert read_answer(client).body == expected
            else:
                assert read_exactly(client, len(expected)) == expected
            client.close()

        run()
        settle(lab)


@both_kinds
def test_a_server_that_speaks_first_is_heard(lab: Lab, tls: bool) -> None:
    def smtp(sock: Any) -> None:
        sock.sendall(b"220 mail.example ESMTP\r\n")
        shout(sock)

    proxy, port = mitm(lab, sniff_timeout=0.1)
    seen = []
    proxy.on_chunk().do(lambda chunk, ctx: seen.append((chunk.from_client, chunk.data)))
    client = lab.tunnel(port, f"localhost:{lab.serve_raw(smtp, tls=tls)}")
    if tls:
        client = lab.wrap(client)
    assert read_exactly(client, 24) == b"220 mail.example ESMTP\r\n"
    client.sendall(b"ehlo x\r\n")
    assert read_exactly(client, 8) == b"EHLO X\r\n"
    assert seen == [(False, b"220 mail.example ESMTP\r\n"), (True, b"ehlo x\r\n"), (False, b"EHLO X\r\n")]


@both_kinds
@pytest.mark.parametrize("action", ["accept", "mitm"])
def test_the_end_of_one_direction_is_passed_on(lab: Lab, tls: bool, action: str) -> None:
    def count(sock: Any) -> None:
        size = 0
        while data := sock.recv(65536):
            size += len(data)
        sock.sendall(b"%d" % size)

    proxy = lab.proxy(record=True)
    getattr(proxy.on_connect(), action)()
    # Python's ssl cannot end one direction of TLS, so this end is ours.
    server_context = ServerContext(TLSSettings(certificates=(lab.certificate,)))

    def serve(sock: Any) -> None:
        connection = Connection.from_socket(sock)
        with connection.start_tls(server_context) if tls else connection as inside:
            count(inside)

    client = Connection.from_socket(lab.tunnel(lab.serve_proxy(proxy), f"localhost:{lab.serve_raw(serve)}"))
    if tls:
        client = client.start_tls(ClientContext(ca_file=str(lab.ca_file if action == "mitm" else lab.certificate.certfile)), server_hostname="localhost")
    lab.clients.append(client)
    client.sendall(b"\x00" * 300_000)
    client.shutdown(socket.SHUT_WR)
    answer = b""
    while data := client.recv():
        answer += data
    assert answer == b"300000"
    client.close()


def test_tls_in_tls_is_encrypted_again_layer_by_layer(lab: Lab) -> None:
    server_context = ServerContext(TLSSettings(certificates=(lab.certificate,)))
    layers: list[Any] = []

    def serve(sock: Any) -> None:
        outer = Connection.from_socket(sock).start_tls(server_context)
        inner = outer.start_tls(server_context)
        layers.append([outer.tls.sni, inner.tls.sni])
        with inner:
            shout(inner)

    proxy, port = mitm(lab)
    seen = []
    proxy.on_chunk().do(lambda chunk, ctx: seen.append(chunk.data))
    connection = Connection.from_socket(lab.tunnel(port, f"localhost:{lab.serve_raw(serve)}"))
    lab.clients.append(connection)
    context = ClientContext(ca_file=str(lab.ca_file))
    for _ in range(2):
        connection = connection.start_tls(context, server_hostname="localhost")
        lab.clients.append(connection)
    connection.sendall(b"\x01 deep")
    assert read_exactly(connection, 6) == b"\x01 DEEP"
    assert layers == [["localhost", "localhost"]] and seen == [b"\x01 deep", b"\x01 DEEP"]
    connection.close()


def test_layers_have_an_end(lab: Lab) -> None:
    _, port = mitm(lab)
    connection = Connection.from_socket(lab.tunnel(port, "localhost:9"))
    lab.clients.append(connection)
    context = ClientContext(ca_file=str(lab.ca_file))
    depth = 0
    with pytest.raises(OSError):
        while depth < 20:
            connection = connection.start_tls(context, server_hostname="localhost")
            lab.clients.append(connection)
            depth += 1
    assert 5 <= depth <= 8


def test_connects_in_connects_have_an_end(lab: Lab) -> None:
    proxy = lab.proxy(record=True)
    proxy.on_connect().mitm()
    port = lab.serve_proxy(proxy)
    client = lab.connect(port)
    depth = 0
    while depth < 20:
        client.sendall(connect("a.example:1"))
        if not read_head(client).startswith(b"HTTP/1.1 200 "):
            break
        depth += 1
    assert 5 <= depth <= 8


# Who is not looked into


def test_a_host_on_the_list_is_passed_through(lab: Lab) -> None:
    upstream = Upstream(lab, tls=True)
    proxy, port = mitm(lab, passthrough=("localhost",))
    proxy.on_request().do(lambda request, ctx: Response("seen", 500))
    client = lab.wrap(lab.tunnel(port, f"127.0.0.1:{upstream.port}"), "localhost", trust=Path(lab.certificate.certfile))
    client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert read_answer(client).body == b"ok"


def test_a_host_whose_clients_refuse_our_leaf_is_passed_through_when_that_is_wanted(lab: Lab) -> None:
    upstream = Upstream(lab, tls=True)
    proxy, port = mitm(lab, learn_after=2)
    pinned = Path(lab.certificate.certfile)  # believes its own server, and not our CA
    for _ in range(2):
        with pytest.raises(ssl.SSLError):
            lab.wrap(lab.tunnel(port, f"localhost:{upstream.port}"), trust=pinned)
        gevent.sleep(0.02)
    assert proxy.passthrough.rejections == 2
    client = lab.wrap(lab.tunnel(port, f"localhost:{upstream.port}"), trust=pinned)
    client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert read_answer(client).body == b"ok"


@pytest.mark.parametrize(
    ("offered", "served", "agreed"),
    [
        (("mqtt", "imap"), ("imap", "http/1.1"), "imap"),
        (("imap",), ("imap",), "imap"),
        (("imap",), (), None),
        (("imap",), ("http/1.1",), None),
    ],
)
def test_a_client_agrees_with_its_server_on_what_we_do_not_speak(lab: Lab, offered: Any, served: Any, agreed: str | None) -> None:
    server_context = ServerContext(TLSSettings(certificates=(lab.certificate,)), alpn=served)
    upstreams: list[Any] = []

    def serve(sock: Any) -> None:
        with Connection.from_socket(sock).start_tls(server_context) as connection:
            data = connection.recv()
            if data:
                upstreams.append(connection.tls.alpn)
                connection.sendall(data.upper())

    proxy, port = mitm(lab)
    sizes = []
    proxy.on_chunk().do(lambda chunk, ctx: sizes.append(len(chunk.data)))
    client = lab.wrap(lab.tunnel(port, f"localhost:{lab.serve_raw(serve)}"), alpn=offered)
    assert client.selected_alpn_protocol() == agreed
    client.sendall(b"\0 24 bytes of somethin\r\n")
    assert read_exactly(client, 24) == b"\0 24 BYTES OF SOMETHIN\r\n"
    assert upstreams == [agreed] and sizes == [24, 24]


def test_a_leaf_has_the_names_of_its_server_where_that_is_wanted(lab: Lab) -> None:
    names = Authority(lab.ca_file.parent, "mimicked")
    files = names.leaf("localhost", "other.example")
    server_context = ServerContext(TLSSettings(certificates=(files,)))

    def serve(sock: Any) -> None:
        with Connection.from_socket(sock).start_tls(server_context) as connection:
            shout(connection)

    _, port = mitm(lab, mimic=True, upstream_ca=names.root)
    client = lab.wrap(lab.tunnel(port, f"localhost:{lab.serve_raw(serve)}"))
    assert ("DNS", "other.example") in client.getpeercert()["subjectAltName"]
    client.sendall(b"\x00a")
    assert read_exactly(client, 2) == b"\x00A"


def test_a_hello_that_nobody_can_read_is_not_passed_by(lab: Lab) -> None:
    accepted = []
    _, port = mitm(lab)
    client = lab.tunnel(port, f"localhost:{lab.serve_raw(accepted.append)}")
    client.sendall(b"\x16\x03\x01\x00\x08\x01\x00\x00\x04\x03\x03\xff\xff" + b"x" * 100)
    try:
        while client.recv(100):
            pass
    except ConnectionError:
        pass
    assert accepted == []


# Who decides


def test_the_rules_are_asked_again_about_the_name_in_the_hello(lab: Lab) -> None:
    upstream, elsewhere = Upstream(lab, tls=True), Upstream(lab, lambda asked, sock: OK.replace(b"ok", b"no"), tls=True)
    proxy = lab.proxy(record=True, resolver=lambda host, port: [(socket.AF_INET, "127.0.0.1")])
    asked = []

    @proxy.on_connect()
    def decide(host: str, ctx: Any) -> Any:
        asked.append(host)
        return {
            f"localhost:{upstream.port}": (Mitm(), f"127.0.0.1:{elsewhere.port}"),
            f"bad.example:{upstream.port}": Reject(),
            f"plain.example:{upstream.port}": Accept(),
            f"mine.example:{upstream.port}": Hijack(lambda connection, ctx: connection.sendall(b"mine")),
        }.get(host, Mitm())

    port = lab.serve_proxy(proxy)
    destination = f"127.0.0.1:{upstream.port}"

    client = lab.wrap(lab.tunnel(port, destination), "localhost")
    client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert read_answer(client).body == b"no" and upstream.asked == [] and len(elsewhere.asked) == 1
    assert asked == [destination, f"localhost:{upstream.port}"]

    with pytest.raises(OSError):
        lab.wrap(lab.tunnel(port, destination), "bad.example")
    with pytest.raises(ssl.SSLCertVerificationError, match="self-signed"):  # the server's own
        lab.wrap(lab.tunnel(port, destination), "plain.example")
    with pytest.raises(OSError):  # no TLS comes back
        lab.wrap(lab.tunnel(port, destination), "mine.example")


@both_kinds
@pytest.mark.parametrize("on", [True, False], ids=["goes on", "takes it"])
@pytest.mark.parametrize("where", ["before", "after"])
def test_somebody_looks_before_or_after_and_may_let_it_go_on(lab: Lab, tls: bool, where: str, on: bool) -> None:
    upstream = Upstream(lab, tls=tls)
    proxy = lab.proxy(record=True)
    looks = []

    def look(connection: Connection, ctx: Any) -> Any:
        looks.append((connection.peek(3), connection.tls is not None))
        if on:
            return CONTINUE
        connection.recv()
        connection.sendall(b"taken")
        return None

    proxy.on_connect().mitm(**{where: look})
    client: Any = lab.tunnel(lab.serve_proxy(proxy), f"localhost:{upstream.port}")
    if tls and not (where == "before" and not on):
        client = lab.wrap(client)
    client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    if where == "after" and not tls:  # there is no TLS to be behind of
        assert read_answer(client).body == b"ok" and looks == []
        return
    if on:
        assert read_answer(client).body == b"ok"
    else:
        assert read_exactly(client, 5) == b"taken" and upstream.asked == []
    ((first, in_tls),) = looks
    assert first == (b"\x16\x03\x01" if tls and where == "before" and on else b"GET")
    assert in_tls == (tls and where == "after")


@pytest.mark.parametrize("begin", [b"", b"\x00\x01\x02", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"], ids=["silence", "bytes", "HTTP"])
def test_who_looks_after_tls_is_not_asked_where_there_is_none(lab: Lab, begin: bytes) -> None:
    def banner(sock: Any) -> None:
        sock.sendall(b"220\r\n")
        shout(sock)

    proxy = lab.proxy(settings=ProxySettings(sniff_timeout=0.1), record=True)
    looks = []
    proxy.on_connect().mitm(after=lambda connection, ctx: looks.append(ctx.destination) or CONTINUE)
    port = lab.serve_raw(banner)
    client = lab.tunnel(lab.serve_proxy(proxy), f"127.0.0.1:{port}")
    client.sendall(begin)
    if begin[:1] == b"G":
        assert read_answer(client).status == 502  # of a server that speaks no HTTP
    else:
        assert read_exactly(client, 5) == b"220\r\n"
    assert looks == []


def test_who_looks_after_tls_is_asked_behind_each_layer_of_it(lab: Lab) -> None:
    proxy = lab.proxy(settings=ProxySettings(sniff_timeout=0.1), record=True)
    looks = []
    proxy.on_connect().mitm(after=lambda connection, ctx: looks.append((len(ctx.layers), connection.tls is not None)) or CONTINUE)
    client = lab.wrap(lab.tunnel(lab.serve_proxy(proxy), f"localhost:{lab.serve_raw(shout, tls=True)}"))
    client.sendall(b"\x00hello")
    assert read_exactly(client, 6) == b"\x00HELLO" and looks == [(1, True)]


def test_a_tunnel_that_is_refused_is_told_so(lab: Lab) -> None:
    proxy = lab.proxy(record=True)
    proxy.on_connect(lambda host, ctx: host.startswith("a.")).reject()
    proxy.on_connect().reject(Response("go away", 451, headers={"X-Why": "law"}))
    port = lab.serve_proxy(proxy)
    client = lab.connect(port)
    client.sendall(connect("a.example:1"))
    assert read_answer(client).status == 403
    client.sendall(connect("b.example:1"))
    answer = read_answer(client)
    assert answer.status == 451 and answer.body == b"go away" and b"X-Why: law" in answer.head
    assert [flow.kind for flow in flows(lab, 2)] == ["connect", "connect"]


def test_what_is_wrong_with_the_server_is_told_before_the_tunnel_stands(lab: Lab) -> None:
    proxy = lab.proxy(record=True)
    late = []

    @proxy.on_connect()
    def decide(host: str, ctx: Any) -> Accept:
        if host.startswith("late."):
            def dial(host: str, port: int) -> Connection:
                late.append(host)
                raise Fault(Phase.TIMEOUT, "nobody answers")

            ctx.dial = dial
        return Accept()

    client = lab.connect(lab.serve_proxy(proxy))
    client.sendall(connect(f"127.0.0.1:{free_port()}"))
    answer = read_answer(client)
    assert answer.status == 502 and b"refused" in answer.body.lower()
    client.sendall(connect("late.example:1"))
    assert read_answer(client).status == 504 and late == ["late.example"]
    assert all(flow.error for flow in flows(lab, 2))


@pytest.mark.parametrize("action", ["accept", "mitm"])
def test_a_client_leaves_while_its_tunnel_is_made(lab: Lab, action: str) -> None:
    asked, go_on = Event(), Event()

    def resolve(host: str, port: int) -> Any:
        asked.set()
        go_on.wait()
        return [(socket.AF_INET, "127.0.0.1")]

    proxy = lab.proxy(record=True, resolver=resolve)
    getattr(proxy.on_connect(), action)()
    upstream = Upstream(lab)
    client = lab.connect(lab.serve_proxy(proxy))
    client.sendall(connect(f"slow.example:{upstream.port}") + b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert asked.wait(5)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    gevent.sleep(0.02)
    go_on.set()
    assert flows(lab, 1)[0].destination == f"slow.example:{upstream.port}"


def test_a_tunnel_is_redirected(lab: Lab) -> None:
    proxy = lab.proxy(record=True)
    port = lab.serve_raw(shout)
    proxy.on_connect().do(lambda host, ctx: (Accept(), f"127.0.0.1:{port}"))
    client = lab.tunnel(lab.serve_proxy(proxy), "nowhere.example:1")
    client.sendall(b"a")
    assert read_exactly(client, 1) == b"A"


# Who the client is


def basic(user: str, password: str) -> str:
    return "Basic " + b64encode(f"{user}:{password}".encode()).decode()


@both_kinds
def test_a_password_is_said_once_and_is_known_in_every_request_inside(lab: Lab, tls: bool) -> None:
    asked = []

    def check(user: str, password: str) -> bool:
        asked.append(user)
        return password == "right"

    proxy = lab.proxy(record=True, access=Access(check))
    proxy.on_connect().mitm()
    proxy.on_request().do(lambda request, ctx: Response(f"{ctx.identity} {ctx.tunnel.identity} {request.path}"))
    port = lab.serve_proxy(proxy)
    client: Any = lab.connect(port)
    client.sendall(connect("localhost:9"))
    assert read_answer(client, "CONNECT").status == 407
    client.sendall(connect("localhost:9", f"Proxy-Authorization: {basic('ann', 'wrong')}"))
    assert read_answer(client, "CONNECT").status == 407
    client.sendall(connect("localhost:9", f"Proxy-Authorization: {basic('ann', 'right')}"))
    assert read_head(client).startswith(b"HTTP/1.1 200 ")
    if tls:
        client = lab.wrap(client)
    for path in (b"/1", b"/2"):
        client.sendall(b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n" % path)
        assert read_answer(client).body == b"ann ann " + path
    assert asked == ["ann", "ann"]
    assert [flow.identity for flow in flows(lab, 2)] == ["ann", "ann"]


def test_an_https_proxy_looks_into_tls_inside_of_its_own_and_knows_the_certificate(lab: Lab, tmp_path: Path) -> None:
    people = Authority(tmp_path, "people")
    proxy = lab.proxy(record=True, access=Access(client_certificates=True))
    proxy.on_connect().mitm()
    proxy.on_request().do(lambda request, ctx: Response(f"{ctx.identity} {request.url}"))
    http = HTTPSettings(linger=0.1)
    port = lab.serve(proxy, tls=True, settings=ServerSettings(http=http, client_certificates="required", client_ca=people.root))
    files = people.leaf("ann.example", common_name="ann")
    outer = ClientContext(ca_file=lab.certificate.certfile, certfile=files.certfile, keyfile=files.keyfile)
    connection = Connection.from_socket(lab.connect(port)).start_tls(outer, server_hostname="localhost")
    lab.clients.append(connection)
    connection.sendall(connect("localhost:9"))
    assert read_head(connection).startswith(b"HTTP/1.1 200 ")
    inside = connection.start_tls(ClientContext(ca_file=str(lab.ca_file)), server_hostname="localhost")
    lab.clients.append(inside)
    inside.sendall(b"GET /x HTTP/1.1\r\nHost: localhost:9\r\n\r\n")
    assert read_answer(inside).body == b"ann https://localhost:9/x"
    inside.close()


@both_kinds
def test_socks_is_a_door_to_the_same_rules(lab: Lab, tls: bool) -> None:
    upstream = Upstream(lab, tls=tls)
    proxy = lab.proxy(record=True)
    proxy.on_connect(lambda host, ctx: host.startswith("bad.")).reject()
    proxy.on_connect().mitm()
    seen = []
    proxy.on_request().do(lambda request, ctx: seen.append((ctx.door, request.path)))
    port = lab.serve_proxy(proxy)

    def socks(host: bytes) -> tuple[Any, int]:
        client = lab.connect(port)
        client.sendall(b"\x05\x01\x00")
        assert read_exactly(client, 2) == b"\x05\x00"
        client.sendall(b"\x05\x01\x00\x03" + bytes([len(host)]) + host + struct.pack("!H", upstream.port))
        return client, read_exactly(client, 10)[1]

    client, reply = socks(b"localhost")
    assert reply == 0
    if tls:
        client = lab.wrap(client)
    client.sendall(b"GET /x HTTP/1.1\r\nHost: x\r\n\r\n")
    assert read_answer(client).body == b"ok"
    assert seen == [("socks5", "/x")]
    assert socks(b"bad.example")[1] == 2


# Clients that misbehave in tunnels are no errors of ours


@pytest.mark.parametrize("sent", [b"\x16\x03\x01\x00\x05hello", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"x" * 600])
def test_what_is_no_tls_after_all_ends_the_tunnel_quietly(lab: Lab, sent: bytes) -> None:
    _, port = mitm(lab)
    client = lab.tunnel(port, f"127.0.0.1:{lab.serve_raw(shout)}")
    client.sendall(sent)
    client.shutdown(socket.SHUT_WR)
    try:
        while client.recv(100):
            pass
    except ConnectionError:
        pass


@pytest.mark.parametrize("where", ["CONNECT", "SNI"])
def test_a_host_that_can_have_no_leaf_is_refused_quietly(lab: Lab, where: str) -> None:
    """Before the 200 where CONNECT names it; a ClientHello that names it ends its tunnel. `nothing_left` looks into the error log."""
    _, port = mitm(lab)
    if where == "CONNECT":
        client = lab.connect(port)
        client.sendall(connect("x" * 64 + ".example:9"))  # a label has 63 bytes at most (RFC 1035 section 2.3.4)
        assert read_answer(client).status == 400
        return
    hello = ssl.MemoryBIO()
    name = b"x" * 63 + b".example"
    with pytest.raises(ssl.SSLWantReadError):
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).wrap_bio(ssl.MemoryBIO(), hello, server_hostname=name.decode()).do_handshake()
    spelled = hello.read()
    assert spelled.count(name) == 1
    spelled = spelled.replace(name, b"x" * len(name))  # Python's client would not say that
    client = lab.tunnel(port, "127.0.0.1:9")
    client.sendall(spelled)
    try:
        while client.recv(100):
            pass  # an alert
    except ConnectionResetError:
        pass  # the hello lies unread


def test_a_rule_refuses_a_stream_in_its_middle(lab: Lab) -> None:
    from muxwsgi.proxy import Refused

    proxy, port = mitm(lab)

    @proxy.on_chunk()
    def look(chunk: Any, ctx: Any) -> None:
        if b"secret" in chunk.data:
            raise Refused("a secret")

    client = lab.tunnel(port, f"127.0.0.1:{lab.serve_raw(shout)}")
    client.sendall(b"\x00a")
    assert read_exactly(client, 2) == b"\x00A"
    client.sendall(b"secret")
    with pytest.raises(ConnectionResetError):
        client.recv(10)
    assert flows(lab, 1)[0].error == "a secret"


def test_a_tunnel_ends_with_the_server_that_stops(lab: Lab) -> None:
    begun = Event()

    def serve(sock: Any) -> None:
        begun.set()
        shout(sock)

    _, port = mitm(lab)
    client = lab.tunnel(port, f"127.0.0.1:{lab.serve_raw(serve)}")
    client.sendall(b"\x00")
    begun.wait()
    gevent.sleep(0.02)
    lab.servers[-1].stop(0.0)
    assert flows(lab, 1)[0].error


@pytest.mark.parametrize("action", ["accept", "mitm"])
def test_tunnels_whose_clients_have_gone_do_not_wait_for_a_silent_server(lab: Lab, action: str) -> None:
    # The clients end in order: TCP cannot tell such a one from a client that goes on reading.
    proxy = lab.proxy(settings=ProxySettings(tunnel_fin_timeout=0.3), record=True)
    getattr(proxy.on_connect(), action)()
    port = lab.serve_proxy(proxy)

    def wait_for_ever(sock: Any) -> None:
        gevent.sleep(3600)

    def keep(sock: Any) -> None:
        held.append(gevent.spawn(wait_for_ever, sock))
        held[-1].join()

    held: list[Any] = []
    destination = f"127.0.0.1:{lab.serve_raw(keep)}"
    before = len(proxy._sweeper.lines)
    for _ in range(20):
        client = lab.tunnel(port, destination)
        client.sendall(b"\x00")
        client.close()
    flows(lab, 20)
    assert {flow.error for flow in lab.flows} == {"one side has ended, and no byte came from the other for 0.3 s"}
    until(lambda: all(line.closed for line in proxy._sweeper.lines), "closed upstream connections")
    assert before == 0
    gevent.killall(held)
