"""Leaving HTTP behind the proxy: 101, WebSockets, and who may not."""

import base64
import hashlib
from contextlib import suppress
from typing import Any

import pytest

from muxwsgi.http.websocket.frame import Frame, Opcode
from muxwsgi.proxy.rules.actions import DROP
from tests.proxy.accounts import clean_process, frozen_heap, nothing_left, until  # noqa: F401
from tests.proxy.conftest import Lab, read_head
from tests.proxy.dialogue import OK, WAYS, Road, Upstream, field, read_answer, read_exactly

pytestmark = pytest.mark.usefixtures("nothing_left")

KEY = base64.b64encode(b"0123456789abcdef").decode()
ACCEPT = base64.b64encode(hashlib.sha1(KEY.encode() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()).decode()


def switching(protocol: str, *, greeting: bytes = b"") -> Any:
    """Answers 101 and then sends back what comes, in upper case; WebSocket messages as text, without the mask."""

    def respond(asked: Any, sock: Any) -> None:
        fields = f"Connection: Upgrade\r\nUpgrade: {protocol}\r\nSec-WebSocket-Accept: {ACCEPT}\r\nX-Kept: 1"
        sock.sendall(f"HTTP/1.1 101 Switching Protocols\r\n{fields}\r\n\r\n".encode() + greeting)
        if protocol != "websocket":
            while data := sock.recv(1000):
                sock.sendall(data.upper())
            return
        while True:
            try:
                first, length = read_exactly(sock, 2)
                mask = read_exactly(sock, 4)
                data = bytes(byte ^ mask[at % 4] for at, byte in enumerate(read_exactly(sock, length & 127)))
            except EOFError:
                return
            sock.sendall(bytes([first, len(data)]) + data.upper())

    return respond


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("rules", [False, True], ids=["no rules", "rules"])
def test_another_protocol_passes_as_it_is(lab: Lab, way: str, rules: bool) -> None:
    upstream = Upstream(lab, switching("its-own/1", greeting=b"hello"), tls=way == "tls")
    road = Road(lab, way, upstream.port)
    if rules:
        road.proxy.on_request().do(lambda request, ctx: None)
        road.proxy.on_response().do(lambda response, ctx: None)
    client = road.client()
    client.sendall(road.request("/", "Connection: keep-alive, Upgrade", "Upgrade: its-own/1", "X-Kept: 1") + b"early ")
    head = read_head(client)
    assert head.startswith(b"HTTP/1.1 101 Switching Protocols\r\n")
    assert field(head, "Upgrade") == ["its-own/1"] and field(head, "Connection") == ["Upgrade"] and field(head, "X-Kept") == ["1"]
    client.sendall(b"late")
    assert read_exactly(client, 15) == b"helloEARLY LATE"
    assert upstream.asked[0].field("Upgrade") == ["its-own/1"] and upstream.asked[0].field("Connection") == ["Upgrade"]


@pytest.mark.parametrize("offer", ["websocket", "WebSocket", "other, websocket"])
def test_the_frames_of_a_websocket_pass_the_hook_however_it_was_offered(lab: Lab, offer: str) -> None:
    upstream = Upstream(lab, switching("websocket"))
    road = Road(lab, "plain", upstream.port)
    seen = []

    @road.proxy.on_frame()
    def look(frame: Frame, ctx: Any) -> Any:
        seen.append((frame.from_client, frame.data))
        return DROP if frame.data == b"DROP" else None

    client = road.client()
    client.sendall(
        road.request(
            "/",
            "Connection: Upgrade",
            f"Upgrade: {offer}",
            f"Sec-WebSocket-Key: {KEY}",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Extensions: permessage-deflate",
        )
    )
    assert read_head(client).startswith(b"HTTP/1.1 101")
    assert upstream.asked[0].field("Sec-WebSocket-Extensions") == []
    for text in (b"drop", b"pass"):
        client.sendall(bytes([0x80 | Opcode.TEXT, 0x80 | len(text), 0, 0, 0, 0]) + text)
    assert read_exactly(client, 6) == b"\x81\x04PASS"
    assert sorted(seen) == [(False, b"DROP"), (False, b"PASS"), (True, b"drop"), (True, b"pass")]


@pytest.mark.parametrize("protocol", ["websocket", "its-own/1"])
def test_the_record_of_a_stream_whose_hook_fails_ends_once(lab: Lab, protocol: str, caplog: pytest.LogCaptureFixture) -> None:
    upstream = Upstream(lab, switching(protocol))
    road = Road(lab, "plain", upstream.port)

    def fail(seen: Any, ctx: Any) -> None:
        raise LookupError("a bug of the rule's")

    road.proxy.on_frame().do(fail)
    road.proxy.on_chunk().do(fail)
    client = road.client()
    client.sendall(road.request("/", "Connection: Upgrade", f"Upgrade: {protocol}"))
    assert read_head(client).startswith(b"HTTP/1.1 101")
    client.sendall(b"\x81\x82\0\0\0\0hi")
    with suppress(ConnectionResetError):  # the stream was cut
        while client.recv(100):
            pass
    until(lambda: lab.flows)
    assert len(lab.flows) == 1 and "LookupError" in str(lab.flows[0].error) and "LookupError" in caplog.text
    caplog.get_records("call").clear()


@pytest.mark.parametrize(
    "fields",
    [(), ("Upgrade: its-own/1",), ("Connection: Upgrade",), ("Connection: close, Upgraded", "Upgrade: its-own/1")],
    ids=["nothing", "no Connection", "no Upgrade", "another option"],
)
def test_a_server_cannot_switch_unasked(lab: Lab, fields: tuple[str, ...]) -> None:
    upstream = Upstream(lab, switching("its-own/1"))
    road = Road(lab, "plain", upstream.port)
    client = road.client()
    client.sendall(road.request("/", *fields))
    answer = read_answer(client)
    assert answer.status == 502 and b"without a request for it" in answer.body
    assert road.proxy.pool.idle == 0


def test_a_rule_takes_the_wish_to_switch_away(lab: Lab) -> None:
    upstream = Upstream(lab, lambda asked, sock: OK)
    road = Road(lab, "plain", upstream.port)
    road.proxy.on_request().do(lambda request, ctx: request.headers.pop("Upgrade") and None)
    client = road.client()
    assert road.ask(client, "/", "Connection: Upgrade", "Upgrade: websocket").body == b"ok"
    assert upstream.asked[0].field("Connection") == upstream.asked[0].field("Upgrade") == []


def test_a_server_cannot_switch_before_it_has_the_body(lab: Lab) -> None:
    def respond(asked: Any, sock: Any) -> None:
        sock.sendall(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: its-own/1\r\n\r\n")
        sock.recv(1)

    upstream = Upstream(lab, respond)
    road = Road(lab, "plain", upstream.port)
    client = road.client()
    head = road.request("/", "Connection: Upgrade", "Upgrade: its-own/1", "Content-Length: 100000", "Expect: 100-continue", method="POST")
    client.sendall(head)
    answer = read_answer(client, "POST")
    assert answer.status == 502 and b"before it has the request's body" in answer.body


def test_a_switch_that_the_server_declines_is_an_exchange_like_any_other(lab: Lab) -> None:
    upstream = Upstream(lab)
    road = Road(lab, "tunnel", upstream.port)
    client = road.client()
    for _ in range(2):
        assert road.ask(client, "/", "Connection: Upgrade", "Upgrade: websocket").body == b"ok"
    assert upstream.connections == 1
