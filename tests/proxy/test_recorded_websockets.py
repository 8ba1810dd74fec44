"""A WebSocket through the proxy while its messages are recorded: what is relayed is what was sent, whatever the record makes of it."""

import os
import zlib
from typing import Any

import gevent
import pytest

from muxwsgi.http.websocket.frame import Frame, Opcode, encode_frame
from muxwsgi.proxy.exchange import exchange
from muxwsgi.proxy.rules.actions import DROP
from muxwsgi.proxy.settings import ProxySettings
from tests.proxy.accounts import clean_process, frozen_heap, nothing_left, until  # noqa: F401
from tests.proxy.conftest import Lab, read_head
from tests.proxy.dialogue import WAYS, Road, Upstream

pytestmark = pytest.mark.usefixtures("nothing_left")


class Talk:
    """A client and a server of which each sends what it is given and keeps what came, to the other's end."""

    def __init__(self, lab: Lab, from_server: bytes, *, way: str = "plain", extensions: str = "", protocol: str = "websocket", **more: Any) -> None:
        self._lab = lab
        self._from_server = from_server
        self._head = f"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: {protocol}\r\n"
        if extensions:
            self._head += f"Sec-WebSocket-Extensions: {extensions}\r\n"
        self._protocol = protocol
        self.upstream = Upstream(lab, self._respond, tls=way == "tls")
        self.road = Road(lab, way, self.upstream.port, **more)
        self.at_server = b""
        self.at_client = b""

    def _respond(self, asked: Any, sock: Any) -> None:
        sock.sendall(self._head.encode() + b"\r\n")
        sending = gevent.spawn(sock.sendall, self._from_server)
        self.at_server = read_to(sock, self._wanted)
        sending.get()

    def run(self, from_client: bytes, *, at_server: int | None = None, at_client: int | None = None) -> None:
        """Until that many bytes are there, all of them unless said."""
        self._wanted = len(from_client) if at_server is None else at_server
        client = self.road.client()
        fields = ("Connection: Upgrade", f"Upgrade: {self._protocol}", "Sec-WebSocket-Extensions: permessage-deflate")
        client.sendall(self.road.request("/", *fields))
        assert read_head(client).startswith(b"HTTP/1.1 101")
        sending = gevent.spawn(client.sendall, from_client)
        self.at_client = read_to(client, len(self._from_server) if at_client is None else at_client)
        sending.get()
        until(lambda: len(self.at_server) == self._wanted)
        client.close()

    @property
    def flow(self) -> Any:
        until(lambda: self._lab.flows)
        (flow,) = self._lab.flows
        return flow


def read_to(sock: Any, count: int) -> bytes:
    data = b""
    while len(data) < count and (more := sock.recv(65536)):
        data += more
    return data


def text(data: bytes, from_client: bool, *, opcode: Opcode = Opcode.TEXT, fin: bool = True, rsv: int = 0) -> bytes:
    return encode_frame(Frame(opcode, data, fin, rsv, from_client), masked=from_client)


BROKEN = {
    "no frame": b"\xff\xff\xff\xff" + os.urandom(200_000),
    "unmasked": b"\x81\x05hello" + b"x" * 1000,
    "beyond 63 bits": b"\x82\xff" + b"\xff" * 8 + bytes(4) + b"x" * 1000,
    "reserved bit": b"\xc1\x85\0\0\0\0hello" + b"x" * 1000,
    "two beginnings": text(b"one", True, fin=False) + text(b"two", True) + b"x" * 1000,
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
def test_a_broken_frame_is_relayed_as_it_came_and_ends_the_record(lab: Lab, way: str, broken: bytes) -> None:
    from_client = text(b"before", True) + broken
    from_server = text(b"answer", False) + text(b"more", False)
    talk = Talk(lab, from_server, way=way)
    talk.run(from_client)
    assert talk.at_server == from_client and talk.at_client == from_server
    record = talk.flow.websocket
    assert [bytes(message.content.data) for message in record.messages if message.complete and not message.from_client] == [b"answer", b"more"]
    assert [bytes(message.content.data) for message in record.messages if message.complete and message.from_client] == [b"before"]
    assert str(record.stopped).startswith("the frames from the client are broken: ")


@pytest.mark.parametrize("extensions", ["permessage-deflate", "x-of-its-own"])
def test_what_cannot_be_inflated_is_relayed_as_it_came(lab: Lab, extensions: str) -> None:
    from_server = text(b"\xff\xff\xff", False, rsv=4) + text(b"plain", False)
    talk = Talk(lab, from_server, extensions=extensions)
    talk.run(text(b"question", True))
    assert talk.at_client == from_server
    record = talk.flow.websocket
    if extensions == "permessage-deflate":
        assert "cannot be inflated" in record.stopped and [bytes(message.content.data) for message in record.messages if message.complete] == [b"question"]
    else:
        assert "x-of-its-own" in record.stopped and record.messages == []


def test_a_bomb_passes_as_it_came(lab: Lab) -> None:
    compressor = zlib.compressobj(wbits=-15)
    bomb = compressor.compress(bytes(200 << 20)) + compressor.flush(zlib.Z_SYNC_FLUSH)
    from_server = text(bomb[:-4], False, opcode=Opcode.BINARY, rsv=4)
    talk = Talk(lab, from_server, extensions="permessage-deflate")
    talk.run(text(b"question", True))
    assert talk.at_client == from_server
    (bombed,) = (message for message in talk.flow.websocket.messages if not message.from_client)
    assert not bombed.complete and len(bombed.content.data) == 65536 and bombed.content.size < 65 << 20


def test_messages_are_what_rules_have_left(lab: Lab) -> None:
    from_client = (
        text(b"keep", True)
        + text(b"drop", True)
        + text(b"one ", True, fin=False)
        + text(b"drop", True, opcode=Opcode.CONTINUATION)
        + text(b"change", True)
        + text(b"\x03\xe9drop", True, opcode=Opcode.CLOSE)
    )
    from_server = text(b"drop", False, fin=False) + text(b"never", False, opcode=Opcode.CONTINUATION) + text(b"kept", False)
    talk = Talk(lab, from_server)

    @talk.road.proxy.on_frame()
    def look(frame: Frame, ctx: Any) -> Any:
        if frame.data.endswith(b"drop"):
            return DROP
        return Frame(frame.opcode, b"changed", from_client=frame.from_client) if frame.data == b"change" else None

    passed = text(b"keep", True) + text(b"one ", True, fin=False) + text(b"", True, opcode=Opcode.CONTINUATION)
    passed += text(b"changed", True) + text(b"\x03\xe9drop", True, opcode=Opcode.CLOSE)
    talk.run(from_client, at_server=len(passed), at_client=len(text(b"kept", False)))
    record = talk.flow.websocket
    assert [bytes(message.content.data) for message in record.messages if message.from_client] == [b"keep", b"one ", b"changed"]
    assert [bytes(message.content.data) for message in record.messages if not message.from_client] == [b"kept"]
    assert all(message.complete for message in record.messages) and record.count == 4
    assert (record.close.code, record.close.reason) == (1001, "drop"), "a Close that is dropped is passed on all the same"


@pytest.mark.parametrize(
    ("record", "message_limit", "protocol"),
    [(False, 1000, "websocket"), (True, 0, "websocket"), (True, 1000, "its-own/1")],
    ids=["nobody listens", "none are wanted", "it is no WebSocket"],
)
def test_nothing_is_parsed_where(lab: Lab, record: bool, message_limit: int, protocol: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def make(*arguments: Any) -> None:
        raise AssertionError("a recorder is made")

    monkeypatch.setattr(exchange, "MessageRecorder", make)
    question, answer = text(b"question", True), text(b"answer", False)
    proxy = lab.proxy(record=record, settings=ProxySettings(message_limit=message_limit))
    talk = Talk(lab, answer, protocol=protocol, proxy=proxy)
    talk.run(question)
    assert talk.at_server == question and talk.at_client == answer
    if record:
        assert talk.flow.websocket is None and talk.flow.from_client.data == question and talk.flow.from_server.data == answer
