"""WebSocket frames, and the relay that shows them to a hook: against wsproto, which knows the RFC by itself."""

import os
import socket
import tracemalloc
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Any

import gevent
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wsproto.connection import Connection as Endpoint
from wsproto.connection import ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, Pong, TextMessage
from wsproto.extensions import PerMessageDeflate

from muxwsgi.errors import Expired
from muxwsgi.http.websocket.frame import BrokenFrame, Frame, FrameParser, Opcode, encode_frame, mask
from muxwsgi.http.websocket.handshake import without_extensions
from muxwsgi.proxy.rules.actions import Refused
from muxwsgi.proxy.streams import websocket
from muxwsgi.proxy.streams.websocket import relay_frames
from muxwsgi.testing import connection_pair
from muxwsgi.wire.connection import Connection
from muxwsgi.wire.relay import Relayed
from tests.pairs import tcp_pair

DATA = [Opcode.TEXT, Opcode.BINARY]
CONTROL = [Opcode.PING, Opcode.PONG]


@pytest.fixture(autouse=True)
def patience() -> Iterator[None]:
    """No test may hang."""
    with gevent.Timeout(20):
        yield


# Frames


def frames_of(parser: FrameParser, data: bytes, step: int = 1 << 30) -> Iterator[Frame]:
    """Each frame, and then what is wrong behind it."""
    for at in range(0, len(data), step):
        yield from parser.feed(data[at : at + step])
        if parser.fault is not None:
            raise parser.fault


def parse(parser: FrameParser, data: bytes, step: int = 1 << 30) -> list[Frame]:
    return list(frames_of(parser, data, step))


@st.composite
def messages(draw: Any, from_client: bool) -> list[Frame]:
    """A legal run of frames: fragmented messages with control frames in between."""
    frames = []
    for _ in range(draw(st.integers(0, 4))):
        pieces = draw(st.lists(st.binary(max_size=40) | st.integers(0, 70000).map(bytes), min_size=1, max_size=3))
        for at, piece in enumerate(pieces):
            if draw(st.integers(0, 3)) == 0:
                frames.append(Frame(draw(st.sampled_from(CONTROL)), draw(st.binary(max_size=125)), True, 0, from_client))
            opcode = Opcode.CONTINUATION if at else draw(st.sampled_from(DATA))
            frames.append(Frame(opcode, piece, at == len(pieces) - 1, 0, from_client))
    return frames


@settings(max_examples=150, deadline=None)
@given(st.data(), st.booleans(), st.integers(1, 100000))
def test_frames_come_out_as_they_went_in_whatever_the_cuts(data: Any, from_client: bool, step: int) -> None:
    frames = data.draw(messages(from_client))
    wire = b"".join(encode_frame(frame, masked=from_client) for frame in frames)
    step = max(step, len(wire) // 500 + 1)
    parser = FrameParser(from_client)
    found = parse(parser, wire, step)
    assert found == frames
    assert b"".join(encode_frame(frame, masked=from_client, key=frame.key) for frame in found) == wire


@settings(max_examples=100, deadline=None)
@given(st.data(), st.booleans(), st.integers(1, 100000), st.integers(125, 3000))
def test_a_frame_that_is_too_long_comes_as_fragments_of_its_message(data: Any, from_client: bool, step: int, piece: int) -> None:
    frames = data.draw(messages(from_client))
    wire = b"".join(encode_frame(frame, masked=from_client) for frame in frames)
    step = max(step, len(wire) // 500 + 1)
    found = parse(FrameParser(from_client, piece=piece), wire, step)
    assert joined(found) == joined(frames)
    again = b"".join(encode_frame(frame, masked=from_client) for frame in found)
    assert joined(parse(FrameParser(from_client), again)) == joined(frames)


def joined(frames: list[Frame]) -> list[tuple[Opcode, bytes]]:
    """The messages that frames make up; control frames apart, as their place in a message may move."""
    whole: list[tuple[Opcode, bytes]] = []
    control: list[tuple[Opcode, bytes]] = []
    parts: list[Frame] = []
    for frame in frames:
        if frame.opcode >= Opcode.CLOSE:
            control.append((frame.opcode, frame.data))
            continue
        assert (frame.opcode == Opcode.CONTINUATION) == bool(parts)
        parts.append(frame)
        if frame.fin:
            whole.append((parts[0].opcode, b"".join(part.data for part in parts)))
            parts = []
    assert not parts
    return whole + control


def test_only_the_first_fragment_has_the_reserved_bits() -> None:
    wire = encode_frame(Frame(Opcode.BINARY, bytes(1000), True, 4), masked=True)
    frames = parse(FrameParser(True, piece=125, extensions=True), wire, 300)
    assert [(frame.opcode, frame.rsv, frame.fin) for frame in frames] == [
        (Opcode.BINARY, 4, False),
        (Opcode.CONTINUATION, 0, False),
        (Opcode.CONTINUATION, 0, False),
        (Opcode.CONTINUATION, 0, True),
    ]


@settings(deadline=None)
@given(st.binary(max_size=300), st.binary(min_size=4, max_size=4))
def test_masking_is_an_exclusive_or_with_the_key_repeated(data: bytes, key: bytes) -> None:
    assert mask(data, key) == bytes(byte ^ key[at % 4] for at, byte in enumerate(data))


def test_wsproto_reads_what_we_write_and_we_read_what_it_writes() -> None:
    for kind, from_client in ((ConnectionType.CLIENT, True), (ConnectionType.SERVER, False)):
        writer = Endpoint(kind)
        reader = Endpoint(ConnectionType.SERVER if from_client else ConnectionType.CLIENT)
        sent: list[Event] = [TextMessage(data="häh"), BytesMessage(data=bytes(70000)), BytesMessage(data=bytes(200)), Ping(payload=b"p")]
        wire = b"".join(writer.send(event) for event in [*sent, CloseConnection(code=1000, reason="bye")])
        parser = FrameParser(from_client)
        frames = parse(parser, wire, 1000)
        assert [frame.opcode for frame in frames] == [Opcode.TEXT, Opcode.BINARY, Opcode.BINARY, Opcode.PING, Opcode.CLOSE]
        assert frames[0].data == "häh".encode() and frames[4].data == b"\x03\xe8bye" and parser.closed
        reader.receive_data(b"".join(encode_frame(frame, masked=from_client) for frame in frames))
        assert [event for event in reader.events() if not isinstance(event, CloseConnection)] == sent


def masked(*head: int, data: bytes = b"") -> bytes:
    return bytes((head[0], head[1] | 0x80, *head[2:])) + bytes(4) + data


BROKEN = {
    "reserved opcode": masked(0x83, 0),
    "reserved control opcode": masked(0x8B, 0),
    "reserved bit": masked(0xC1, 0),
    "not masked": b"\x81\x01x",
    "fragmented ping": masked(0x09, 0),
    "long ping": masked(0x89, 126, 0, 126, data=bytes(126)),
    "continuation of nothing": masked(0x80, 0),
    "message in a message": masked(0x01, 1, data=b"x") + masked(0x81, 1, data=b"x"),
    "continuation of what has ended": masked(0x01, 0) + masked(0x80, 0) + masked(0x80, 0),
    "length of 16 bits that needs 7": masked(0x82, 126, 0, 125, data=bytes(125)),
    "length of 64 bits that needs 16": masked(0x82, 127, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF),
    "length of 64 bits and all of them": masked(0x82, 127, *[0xFF] * 8),
    "close with half a code": masked(0x88, 1, data=b"\x03"),
    "close 1005": masked(0x88, 2, data=b"\x03\xed"),
    "close 999": masked(0x88, 2, data=b"\x03\xe7"),
    "close 1016": masked(0x88, 2, data=b"\x03\xf8"),
    "close 2999": masked(0x88, 2, data=b"\x0b\xb7"),
    "close 5000": masked(0x88, 2, data=b"\x13\x88"),
}


@pytest.mark.parametrize("what", BROKEN)
@pytest.mark.parametrize("step", [1, 1 << 20])
def test_what_is_no_frame_is_refused_behind_those_that_are(what: str, step: int) -> None:
    parser = FrameParser(True)
    good = Frame(Opcode.TEXT, b"good")
    found: list[Frame] = []
    wire = encode_frame(good, masked=True) + BROKEN[what]
    with pytest.raises(BrokenFrame) as caught:
        for frame in frames_of(parser, wire, step):
            found.append(frame)
    assert caught.value.code == 1002
    assert found[0] == good and len(found) <= 3


def test_a_server_masks_nothing() -> None:
    with pytest.raises(BrokenFrame, match="masked"):
        parse(FrameParser(False), masked(0x81, 1, data=b"x"))


def test_nothing_follows_a_close() -> None:
    parser = FrameParser(False)
    close = encode_frame(Frame(Opcode.CLOSE, b"\x03\xe8"), masked=False)
    assert len(parse(parser, close + b"\x81\x01x\xff\xff")) == 1
    tracemalloc.start()
    for _ in range(100):
        assert parse(parser, bytes(65536)) == []
    kept = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert kept < 65536


def test_a_frame_that_cannot_be_is_not_written() -> None:
    for frame in (Frame(Opcode.PING, bytes(126)), Frame(Opcode.PONG, b"", fin=False), Frame(Opcode.TEXT, b"", rsv=8)):
        with pytest.raises(ValueError):
            encode_frame(frame, masked=False)
    with pytest.raises(ValueError):
        FrameParser(True, piece=124)


def test_extensions_are_taken_out_of_a_handshake() -> None:
    fields = [("Host", "x"), ("sec-websocket-EXTENSIONS", "permessage-deflate"), ("Sec-WebSocket-Key", "k")]
    assert without_extensions(fields) == [("Host", "x"), ("Sec-WebSocket-Key", "k")]


# The relay


class Peer:
    """A WebSocket endpoint over a connection, after the handshake."""

    def __init__(self, connection: Connection, kind: ConnectionType, **more: Any) -> None:
        self.connection = connection
        self.protocol = Endpoint(kind, **more)
        self.events: list[Event] = []
        self.raw = b""

    def send(self, event: Event) -> None:
        self.connection.sendall(self.protocol.send(event))

    def say(self, text: str) -> None:
        self.send(TextMessage(data=text))

    def next(self) -> Event | None:
        """The next event, with the fragments of a message in one; None at the end of the stream."""
        parts: list[Any] = []
        while True:
            while not self.events:
                try:
                    data = self.connection.recv()
                except ConnectionResetError:
                    data = b""
                if not data:
                    return None
                self.raw += data
                self.protocol.receive_data(data)
                self.events += self.protocol.events()
            event = self.events.pop(0)
            if not isinstance(event, (TextMessage, BytesMessage)):
                return event
            parts.append(event.data)
            if event.message_finished:
                return type(event)(data=parts[0][:0].join(parts))

    def close(self) -> None:
        self.connection.finish()


class Tunnel:
    """A client, a server, and the relay between them."""

    def __init__(self, on_frame: Callable[[Frame], Frame | None] | None, make_pair: Any, extended: bool = False, **more: Any) -> None:
        near, client = make_pair()
        server, far = make_pair()
        self.middle = (near, far)
        agreed: dict[str, Any] = {}
        if extended:
            agreed = {"extensions": [PerMessageDeflate()]}
            agreed["extensions"][0]._enabled = True
        self.client = Peer(client, ConnectionType.CLIENT, **agreed)
        if extended:
            agreed = {"extensions": [PerMessageDeflate()]}
            agreed["extensions"][0]._enabled = True
        self.server = Peer(server, ConnectionType.SERVER, **agreed)
        self.seen: list[Frame] = []

        def look(frame: Frame) -> Frame | None:
            self.seen.append(frame)
            assert on_frame is not None
            return on_frame(frame)

        self.running = gevent.spawn(relay_frames, near, far, look if on_frame else None, extensions=extended, **more)

    def result(self) -> Relayed:
        result: Relayed = self.running.get()
        return result

    def close(self) -> None:
        self.running.kill()
        for one in self.middle:
            one.finish()
        self.client.close()
        self.server.close()


@pytest.fixture(params=["memory", "tcp"])
def make_tunnel(request: pytest.FixtureRequest) -> Iterator[Callable[..., Tunnel]]:
    made = []

    def make(on_frame: Callable[[Frame], Frame | None] | None, **more: Any) -> Tunnel:
        made.append(Tunnel(on_frame, connection_pair if request.param == "memory" else tcp_pair, **more))
        return made[-1]

    yield make
    for tunnel in made:
        tunnel.close()


def leave(frame: Frame) -> Frame:
    return frame


@pytest.mark.parametrize("on_frame", [None, leave])
def test_messages_pass_both_ways_and_so_does_the_close(make_tunnel: Any, on_frame: Any) -> None:
    tunnel = make_tunnel(on_frame)
    client, server = tunnel.client, tunnel.server
    client.say("hello")
    assert server.next() == TextMessage(data="hello")
    sending = gevent.spawn(server.send, BytesMessage(data=bytes(300000)))
    assert client.next() == BytesMessage(data=bytes(300000))
    sending.get()
    client.send(Ping(payload=b"x"))
    assert server.next() == Ping(payload=b"x")
    server.send(Pong(payload=b"x"))
    assert client.next() == Pong(payload=b"x")
    client.send(CloseConnection(code=3001, reason="done"))
    closing = server.next()
    assert closing == CloseConnection(code=3001, reason="done")
    server.send(closing.response())
    assert client.next() == closing
    server.close()
    client.close()
    result = tunnel.result()
    assert result.error is None
    assert result.from_left > 5 and result.from_right > 300000
    if on_frame:
        assert [frame.data for frame in tunnel.seen if frame.from_client] == [b"hello", b"x", b"\x0b\xb9done"]


def test_what_the_hook_leaves_alone_is_sent_as_it_came(make_tunnel: Any) -> None:
    tunnel = make_tunnel(leave)
    wire = tunnel.client.protocol.send(TextMessage(data="hello"))
    tunnel.client.connection.sendall(wire)
    assert tunnel.server.next() == TextMessage(data="hello")
    assert tunnel.server.raw == wire


def test_a_hook_changes_and_drops_frames(make_tunnel: Any) -> None:
    def on_frame(frame: Frame) -> Frame | None:
        if b"secret" in frame.data or frame.opcode == Opcode.PING:
            return None
        if frame.opcode == Opcode.TEXT:
            return Frame(Opcode.TEXT, frame.data.upper(), frame.fin, frame.rsv, frame.from_client)
        return frame

    tunnel = make_tunnel(on_frame)
    for one, other in ((tunnel.client, tunnel.server), (tunnel.server, tunnel.client)):
        one.send(Ping())
        one.say("a secret")
        one.say("hello")
        assert other.next() == TextMessage(data="HELLO")


def test_a_message_of_fragments_stays_one_whichever_is_dropped(make_tunnel: Any) -> None:
    tunnel = make_tunnel(lambda frame: None if b"no" in frame.data else frame)

    def fragments(*texts: str) -> None:
        for at, text in enumerate(texts):
            tunnel.client.send(TextMessage(data=text, message_finished=at == len(texts) - 1))

    fragments("no 1", "2", "3")
    fragments("1", "no 2", "3")
    fragments("1", "2", "no 3")
    fragments("all", " of", " it")
    assert [tunnel.server.next() for _ in range(3)] == [TextMessage(data="13"), TextMessage(data="12"), TextMessage(data="all of it")]
    assert [frame.data for frame in tunnel.seen][:2] == [b"no 1", b"1"]  # the rest of a message that is gone is not shown


def test_a_close_cannot_be_dropped(make_tunnel: Any) -> None:
    tunnel = make_tunnel(lambda frame: None)
    tunnel.client.send(CloseConnection(code=1000))
    assert tunnel.server.next() == CloseConnection(code=1000, reason="")


def test_the_relay_ends_when_both_have_said_close_though_neither_ends(make_tunnel: Any) -> None:
    tunnel = make_tunnel(leave)
    tunnel.server.send(CloseConnection(code=1001, reason="away"))
    closing = tunnel.client.next()
    assert isinstance(closing, CloseConnection)
    tunnel.client.send(closing.response())
    assert tunnel.result().error is None
    assert isinstance(tunnel.server.next(), CloseConnection)


def test_a_side_that_only_ends_ends_the_other(make_tunnel: Any) -> None:
    tunnel = make_tunnel(leave)
    tunnel.client.say("hello")
    tunnel.client.connection.shutdown(socket.SHUT_WR)
    assert tunnel.server.next() == TextMessage(data="hello") and tunnel.server.next() is None
    tunnel.server.close()
    assert tunnel.client.next() is None
    assert tunnel.result().error is None


def test_a_broken_frame_closes_both_sides_behind_what_was_in_order(make_tunnel: Any) -> None:
    tunnel = make_tunnel(leave)
    tunnel.client.connection.sendall(tunnel.client.protocol.send(TextMessage(data="hello")) + b"\x81\x01x" + b"more of it")
    assert tunnel.server.next() == TextMessage(data="hello")
    for peer in (tunnel.server, tunnel.client):
        closing = peer.next()
        assert isinstance(closing, CloseConnection) and closing.code == 1002 and "not masked" in (closing.reason or "")
        assert peer.next() is None
        peer.close()
    error = tunnel.result().error
    assert isinstance(error, BrokenFrame) and error.code == 1002


def test_who_breaks_the_protocol_can_read_so_whatever_else_it_sent(make_tunnel: Any) -> None:
    tunnel = make_tunnel(leave)

    def speak() -> None:
        tunnel.client.connection.sendall(b"\x81\x01x" + bytes(1 << 20))
        tunnel.client.connection.shutdown(socket.SHUT_WR)

    def listen() -> Event | None:
        closing = tunnel.server.next()
        tunnel.server.close()
        return closing

    speaking, ending = gevent.spawn(speak), gevent.spawn(listen)
    assert isinstance(tunnel.result().error, BrokenFrame)
    for connection in tunnel.middle:
        connection.finish()
    closing = tunnel.client.next()
    assert isinstance(closing, CloseConnection) and closing.code == 1002
    assert isinstance(ending.get(), CloseConnection)
    speaking.get()


def test_nobody_is_told_twice_that_it_ends(make_tunnel: Any) -> None:
    tunnel = make_tunnel(leave)
    tunnel.server.send(CloseConnection(code=1000))
    assert tunnel.client.next() == CloseConnection(code=1000, reason="")
    tunnel.client.connection.sendall(b"\x81\x01x")
    assert tunnel.client.next() is None
    assert tunnel.client.raw == encode_frame(Frame(Opcode.CLOSE, b"\x03\xe8"), masked=False)
    answer = tunnel.server.next()
    assert isinstance(answer, CloseConnection) and answer.code == 1002


def test_no_close_lands_in_the_middle_of_a_frame(make_tunnel: Any) -> None:
    tunnel = make_tunnel(leave, piece=1 << 23)
    wire = encode_frame(Frame(Opcode.BINARY, bytes(1 << 23)), masked=False)
    sending = gevent.spawn(tunnel.server.connection.sendall, wire)
    while len(tunnel.seen) < 1:
        gevent.sleep(0)
    gevent.sleep(0)
    tunnel.client.connection.sendall(b"\x81\x01x")
    received = tunnel.client.connection.recv()
    while block := tunnel.client.connection.recv():
        received += block
    assert received == wire[: len(received)] and len(received) < len(wire)
    sending.get()
    tunnel.client.close()
    tunnel.server.close()
    assert isinstance(tunnel.result().error, BrokenFrame)


def test_garbage_from_the_server_closes_both_sides(make_tunnel: Any) -> None:
    tunnel = make_tunnel(leave)
    tunnel.server.connection.sendall(b"HTTP/1.1 500 Oops\r\n\r\n")
    for peer in (tunnel.client, tunnel.server):
        closing = peer.next()
        assert isinstance(closing, CloseConnection) and closing.code == 1002
        peer.close()
    assert isinstance(tunnel.result().error, BrokenFrame)


@pytest.mark.parametrize(("error", "code", "reason"), [(Refused("no secrets"), 1008, "no secrets"), (OSError("disk"), 1011, "")])
def test_what_a_hook_raises_ends_both_sides_and_is_raised(make_tunnel: Any, error: Exception, code: int, reason: str) -> None:
    def on_frame(frame: Frame) -> Frame:
        if frame.data == b"bad":
            raise error
        return frame

    tunnel = make_tunnel(on_frame)
    tunnel.client.say("good")
    tunnel.client.say("bad")
    assert tunnel.server.next() == TextMessage(data="good")
    for peer in (tunnel.server, tunnel.client):
        closing = peer.next()
        assert isinstance(closing, CloseConnection) and (closing.code, closing.reason or "") == (code, reason)
        peer.close()
    with pytest.raises(type(error)) as caught:
        tunnel.result()
    assert caught.value is error


def test_a_frame_that_is_no_frame_is_the_hooks_fault(make_tunnel: Any) -> None:
    tunnel = make_tunnel(lambda frame: Frame(Opcode.PING, bytes(200)))
    tunnel.client.say("hello")
    for peer in (tunnel.server, tunnel.client):
        closing = peer.next()
        assert isinstance(closing, CloseConnection) and closing.code == 1011
        peer.close()
    with pytest.raises(ValueError):
        tunnel.result()


def test_idleness_ends_both_sides(make_tunnel: Any) -> None:
    tunnel = make_tunnel(leave, idle_timeout=0.02)
    for peer in (tunnel.server, tunnel.client):
        closing = peer.next()
        assert isinstance(closing, CloseConnection) and closing.code == 1001
        peer.close()
    assert isinstance(tunnel.result().error, Expired)


def test_who_does_not_read_why_it_ends_is_not_waited_for_long(make_tunnel: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket, "GOODBYE", 0.05)
    tunnel = make_tunnel(leave)
    tunnel.client.connection.sendall(b"\x81\x01x")
    began = monotonic()
    assert isinstance(tunnel.result().error, BrokenFrame)
    assert monotonic() - began < 10


def test_a_reset_is_the_result_and_leaves_no_greenlet(make_tunnel: Any) -> None:
    tunnel = make_tunnel(leave)
    tunnel.client.say("hello")
    assert tunnel.server.next() == TextMessage(data="hello")
    tunnel.middle[0].lifeline.fail(ConnectionResetError("reset"))
    assert isinstance(tunnel.result().error, ConnectionResetError)
    assert not any(connection.lifeline.reader.waiting for connection in tunnel.middle)


def test_nothing_is_left_when_the_relay_is_killed(make_tunnel: Any) -> None:
    tunnel = make_tunnel(leave)
    tunnel.client.say("hello")
    assert tunnel.server.next() == TextMessage(data="hello")
    tunnel.running.kill()
    assert not any(connection.lifeline.reader.waiting for connection in tunnel.middle)


def test_compressed_messages_pass_and_are_shown_as_such(make_tunnel: Any) -> None:
    tunnel = make_tunnel(leave, extended=True, piece=1000)
    text = os.urandom(4000).hex()
    wire = tunnel.client.protocol.send(TextMessage(data=text))
    for at in range(0, len(wire), 1500):
        tunnel.client.connection.sendall(wire[at : at + 1500])
        while sum(len(frame.data) for frame in tunnel.seen) < min(at + 1500, len(wire)) - 8:
            gevent.sleep(0)
    assert tunnel.server.next() == TextMessage(data=text)
    tunnel.server.say(text)
    assert tunnel.client.next() == TextMessage(data=text)
    assert [frame.rsv for frame in tunnel.seen if frame.opcode == Opcode.TEXT] == [4, 4]
    assert len(tunnel.seen) > 3


@settings(max_examples=40, deadline=None)
@given(st.data(), st.integers(1, 5000), st.booleans())
def test_both_ways_at_once_nothing_is_lost_or_moved(data: Any, step: int, change: bool) -> None:
    """`change` makes an equal frame of each, which is written anew."""

    def hook(frame: Frame) -> Frame:
        return Frame(frame.opcode, frame.data, frame.fin, frame.rsv, frame.from_client) if change else frame

    near, client = connection_pair()
    server, far = connection_pair()
    sent = [data.draw(messages(True)), data.draw(messages(False))]
    running = gevent.spawn(relay_frames, near, far, hook, piece=20000)

    def say(peer: Connection, frames: list[Frame], from_client: bool) -> None:
        wire = b"".join(encode_frame(frame, masked=from_client) for frame in frames)
        for at in range(0, len(wire), max(step, len(wire) // 200 + 1)):
            peer.sendall(wire[at : at + max(step, len(wire) // 200 + 1)])
            gevent.sleep(0)
        peer.shutdown(socket.SHUT_WR)

    def hear(peer: Connection, from_client: bool) -> list[Frame]:
        parser = FrameParser(from_client)
        frames: list[Frame] = []
        while block := peer.recv():
            frames += parse(parser, block)
        return frames

    hearing = [gevent.spawn(hear, server, True), gevent.spawn(hear, client, False)]
    speaking = [gevent.spawn(say, client, sent[0], True), gevent.spawn(say, server, sent[1], False)]
    gevent.joinall(speaking + hearing)
    assert [joined(one.get()) for one in hearing] == [joined(frames) for frames in sent]
    assert running.get().error is None
    for connection in (near, far, client, server):
        connection.finish()
