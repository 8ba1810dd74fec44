"""The WebSocket codec against wsproto and websockets, which know the RFCs by themselves: any frames, any cuts, both directions."""

import os
import tracemalloc
import zlib
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import gevent
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from websockets.exceptions import ProtocolError
from websockets.extensions.permessage_deflate import PerMessageDeflate as TheirDeflate
from websockets.frames import Frame as TheirFrame
from websockets.frames import Opcode as TheirOpcode
from websockets.protocol import Protocol, Side, State
from websockets.utils import accept_key
from wsproto.connection import Connection as Endpoint
from wsproto.connection import ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping, Pong, TextMessage

from muxwsgi.http.websocket.deflate import BLOCK, Inflater
from muxwsgi.http.websocket.frame import PIECE, BrokenFrame, Frame, FrameParser, Opcode, encode_frame
from muxwsgi.http.websocket.handshake import accept_of, asks_for_websocket, extensions, is_key, is_websocket, subprotocols
from muxwsgi.http.websocket.messages import Fragments, Messages, close_payload, close_reason

CLOSES = [b"", *(code.to_bytes(2) + b"bye" for code in (1000, 1001, 1011, 1012, 1013, 3000, 4999))]
BROKEN_CLOSES = [b"\x03", *(code.to_bytes(2) for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 1999, 2000, 2999, 5000, 65535))]


@pytest.fixture(autouse=True)
def patience() -> Iterator[None]:
    """No test may hang."""
    with gevent.Timeout(120):
        yield


def cuts_of(data: bytes, cuts: list[int]) -> Iterator[bytes]:
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return (data[one:other] for one, other in pairwise(places))


def raw_frame(first: int, data: bytes, *, masked: bool, size: int = 0) -> bytes:
    """A frame as no writer of ours would write it. `size` are the bytes of its length, 0 for the fewest."""
    count = len(data)
    size = max(size, 0 if count < 126 else 2 if count < 65536 else 8)
    length = bytes((count,)) if not size else bytes((126 if size == 2 else 127,)) + count.to_bytes(size)
    head = bytes((first, length[0] | (0x80 if masked else 0))) + length[1:]
    if not masked:
        return head + data
    key = os.urandom(4)
    return head + key + bytes(byte ^ key[at % 4] for at, byte in enumerate(data))


PAYLOADS = st.binary(max_size=40) | st.sampled_from([125, 126, 127, 300, 65535, 65536, 70000]).map(bytes) | st.text(max_size=20).map(str.encode)


@st.composite
def wires(draw: Any, from_client: bool, lengths: bool, ends: bool) -> bytes:
    """Frames as they may come from anybody. Many are in order. `lengths`: some have a longer length than they need. `ends`: the last may
    be cut off."""
    wire = b""
    within = False
    for _ in range(draw(st.integers(1, 6))):
        kind = draw(st.sampled_from(["data"] * 8 + ["control"] * 4 + ["close", "any", "unmasked"]))
        fin = draw(st.booleans())
        size = draw(st.sampled_from([0] * 8 + [2, 8])) if lengths else 0
        if kind == "data":
            opcode = 0 if within else draw(st.sampled_from([1, 2]))
            wire += raw_frame(fin << 7 | opcode, draw(PAYLOADS), masked=from_client, size=size)
            within = not fin
        elif kind == "control":
            wire += raw_frame(0x80 | draw(st.sampled_from([9, 10])), draw(st.binary(max_size=125)), masked=from_client)
        elif kind == "close":
            wire += raw_frame(0x88, draw(st.sampled_from(CLOSES + BROKEN_CLOSES)), masked=from_client)
        else:
            data = draw(st.sampled_from([b"", b"\x03\xe8", bytes(126)]))
            wire += raw_frame(draw(st.integers(0, 255)), data, masked=from_client == (kind == "any"))
    return wire[: len(wire) - (draw(st.sampled_from([0, 0, 1, 3])) if ends else 0)]


def read_frames(wire: bytes, cuts: list[int], from_client: bool, **more: Any) -> tuple[list[Frame], int | None]:
    """The frames in order, and the code of what is wrong behind them."""
    parser = FrameParser(from_client, **more)
    frames: list[Frame] = []
    for block in cuts_of(wire, cuts):
        frames += parser.feed(block)
        if parser.fault is not None:
            with pytest.raises(BrokenFrame) as caught:
                parser.feed(b"\x81\x00")
            assert caught.value is parser.fault
            return frames, parser.fault.code
    return frames, None


CUTS = st.lists(st.integers(0, 1 << 20), max_size=12) | st.just(list(range(300)))


@settings(max_examples=300, deadline=None)
@given(st.data(), st.booleans(), CUTS, st.booleans())
def test_any_frames_are_taken_or_refused_as_websockets_does(data: Any, from_client: bool, cuts: list[int], ends: bool) -> None:
    wire = data.draw(wires(from_client, lengths=False, ends=ends))
    frames, code = read_frames(wire, cuts, from_client)
    data_frames = [frame for frame in frames if frame.opcode < Opcode.CLOSE]
    # websockets wants a message to end before a Close. The RFC does not say so.
    assume(not frames or frames[-1].opcode != Opcode.CLOSE or not data_frames or data_frames[-1].fin)
    their = Protocol(Side.SERVER if from_client else Side.CLIENT, state=State.OPEN, max_size=None)
    their.receive_data(wire)
    assert [(frame.opcode, frame.fin, frame.data) for frame in frames] == [
        (int(frame.opcode), frame.fin, bytes(frame.data)) for frame in their.events_received()
    ]
    refused = isinstance(their.parser_exc, ProtocolError)
    assert code in (None, 1002) and (code is not None) >= refused
    if not ends:  # websockets looks at the order of frames when their payload is there, we before
        assert (code is not None) == refused


def read_messages(wire: bytes, cuts: list[int], from_client: bool, messages: Messages, **more: Any) -> tuple[list[Any], int | None]:
    """What an endpoint makes of it, and the code that it closes with, where something is wrong."""
    frames, code = read_frames(wire, cuts, from_client, **more)
    found: list[Any] = []
    for frame in frames:
        if frame.opcode >= Opcode.CLOSE:
            found.append((frame.opcode, close_reason(frame.data)[0] if frame.opcode == Opcode.CLOSE else frame.data))
            continue
        try:
            message = messages.add(frame)
        except BrokenFrame as fault:
            return found, fault.code
        if message is not None:
            found.append(message)
    return found, code


@settings(max_examples=300, deadline=None)
@given(st.data(), st.booleans(), CUTS)
def test_any_messages_are_taken_or_refused_as_wsproto_does(data: Any, from_client: bool, cuts: list[int]) -> None:
    wire = data.draw(wires(from_client, lengths=True, ends=False))
    their = Endpoint(ConnectionType.SERVER if from_client else ConnectionType.CLIENT)
    their.receive_data(wire)
    expected: list[Any] = []
    code = None
    parts: list[Any] = []
    for event in their.events():
        if isinstance(event, (TextMessage, BytesMessage)):
            parts.append(event.data)
            if event.message_finished:
                expected.append(parts[0][:0].join(parts) if isinstance(event, TextMessage) else b"".join(parts))
                parts = []
        elif isinstance(event, (Ping, Pong)):
            expected.append((Opcode.PING if isinstance(event, Ping) else Opcode.PONG, bytes(event.payload)))
        elif isinstance(event, CloseConnection):
            if event.code in (1002, 1007):
                code = int(event.code)
            else:
                expected.append((Opcode.CLOSE, None if event.code == 1005 else int(event.code)))
            break
    assert read_messages(wire, cuts, from_client, Messages(1 << 30)) == (expected, code)


def test_a_close_may_have_a_code_that_was_registered_after_wsproto_was_written() -> None:
    wire = encode_frame(Frame(Opcode.CLOSE, (1014).to_bytes(2)), masked=False)
    assert read_messages(wire, [], False, Messages(1 << 30)) == ([(Opcode.CLOSE, 1014)], None)
    their = Protocol(Side.CLIENT, state=State.OPEN, max_size=None)
    their.receive_data(wire)
    assert their.parser_exc is None


def test_the_reason_of_a_close_is_utf8() -> None:
    wire = encode_frame(Frame(Opcode.CLOSE, b"\x03\xe8bye \xff"), masked=False)
    assert read_messages(wire, [], False, Messages(1 << 30)) == ([], 1007)
    their = Protocol(Side.CLIENT, state=State.OPEN, max_size=None)
    their.receive_data(wire)
    assert isinstance(their.parser_exc, UnicodeDecodeError)


DEFLATES = st.fixed_dictionaries({"takeover": st.booleans(), "bits": st.integers(9, 15)})


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.booleans(), st.lists(st.text(max_size=60) | st.integers(0, 70000).map(lambda count: "abcdé" * (count // 5)), min_size=1, max_size=3)), max_size=5),
    DEFLATES,
    st.booleans(),
    CUTS,
    st.sampled_from([125, 1000, PIECE]),
)  # fmt: skip
def test_what_websockets_deflates_is_inflated(sent: Any, deflate: dict[str, Any], from_client: bool, cuts: list[int], piece: int) -> None:
    writer = Protocol(Side.CLIENT if from_client else Side.SERVER, state=State.OPEN, max_size=None)
    writer.extensions = [TheirDeflate(False, not deflate["takeover"], 15, deflate["bits"])]
    for binary, parts in sent:
        for at, part in enumerate(parts):
            opcode = TheirOpcode.CONT if at else TheirOpcode.BINARY if binary else TheirOpcode.TEXT
            writer.send_frame(TheirFrame(opcode, part.encode(), at == len(parts) - 1))
    wire = b"".join(writer.data_to_send())
    messages = Messages(1 << 20, Inflater(deflate["takeover"]))
    found, code = read_messages(wire, cuts, from_client, messages, extensions=True, piece=piece)
    assert code is None
    assert found == ["".join(parts).encode() if binary else "".join(parts) for binary, parts in sent]


@settings(max_examples=200, deadline=None)
@given(st.sampled_from([Opcode.TEXT, Opcode.BINARY, Opcode.PING]), st.binary(max_size=125) | st.sampled_from([126, 65535, 65536]).map(bytes), st.booleans(), st.booleans())
def test_what_we_write_is_what_websockets_writes(opcode: Opcode, data: bytes, fin: bool, masked: bool) -> None:
    if opcode >= Opcode.CLOSE:
        data, fin = data[:125], True
    wire = encode_frame(Frame(opcode, data, fin), masked=masked, key=b"key!" if masked else None)
    their = TheirFrame(TheirOpcode(opcode), data, fin).serialize(mask=False)
    assert len(wire) == len(their) + (4 if masked else 0) and wire[0] == their[0]
    if not masked:
        assert wire == their
    frames, code = read_frames(wire, [1, 2, 3], masked)
    assert code is None and frames == [Frame(opcode, data, fin, 0, masked)] and frames[0].key == (b"key!" if masked else None)


def test_each_frame_has_a_key_of_its_own_and_a_key_has_four_bytes() -> None:
    frame = Frame(Opcode.BINARY, bytes(8))
    assert len({encode_frame(frame, masked=True) for _ in range(50)}) == 50
    with pytest.raises(ValueError, match="4 bytes"):
        encode_frame(frame, masked=True, key=b"three"[:3])


def test_bytes_may_come_in_any_buffer_and_are_copied_out_of_it() -> None:
    wire = encode_frame(Frame(Opcode.TEXT, b"hello"), masked=True)
    for made in (bytearray, lambda data: memoryview(bytearray(data))):
        parser = FrameParser(True)
        buffer: Any = made(wire[:7])
        assert parser.feed(buffer) == []
        for at in range(7):
            buffer[at] = 0
        assert parser.within_frame
        assert parser.feed(made(wire[7:])) == [Frame(Opcode.TEXT, b"hello")]
        assert not parser.within_frame


# Hostile lengths


@settings(deadline=None, max_examples=40)
@given(st.data(), st.booleans(), st.lists(st.integers(min_value=1, max_value=40_000), min_size=1, max_size=12))
def test_a_long_payload_may_be_read_into_its_own_memory(data: Any, from_client: bool, steps: list[int]) -> None:
    sizes = data.draw(st.lists(st.sampled_from([0, 5, 126, 16_383, 16_384, 16_385, 70_001, PIECE]), min_size=1, max_size=4))
    sent = [Frame(Opcode.BINARY, os.urandom(size), from_client=from_client) for size in sizes]
    wire = b"".join(encode_frame(frame, masked=from_client) for frame in sent)
    parser = FrameParser(from_client=from_client)
    got: list[Frame] = []
    at = turn = 0
    while at < len(wire):
        room = parser.room()
        count = min(steps[turn % len(steps)], len(wire) - at)
        if room is not None and turn % 3:
            count = min(count, len(room))
            room[:count] = wire[at : at + count]
            got += parser.filled(count)
        else:
            got += parser.feed(wire, at, at + count)
        at += count
        turn += 1
    assert got == sent
    assert all(type(frame.data) is bytes for frame in got)
    assert parser.room() is None
    assert not parser.within_frame


def test_no_more_than_the_room_can_be_filled() -> None:
    parser = FrameParser(from_client=False)
    parser.feed(encode_frame(Frame(Opcode.BINARY, bytes(20_000), from_client=False), masked=False)[:100])
    assert parser.within_frame
    for count in (-1, 20_000):
        with pytest.raises(ValueError, match="not within the room"):
            parser.filled(count)


@pytest.mark.parametrize("from_client", [True, False])
def test_a_frame_of_any_announced_length_is_passed_on_as_it_arrives(from_client: bool) -> None:
    parser = FrameParser(from_client, piece=1000)
    mask = 0x80 if from_client else 0
    assert parser.feed(bytes((0x82, mask | 127)) + ((1 << 63) - 1).to_bytes(8) + (bytes(4) if from_client else b"")) == []
    tracemalloc.start()
    for number in range(200):
        (frame,) = parser.feed(bytes(65536))
        assert not frame.fin and len(frame.data) == 65536 and frame.opcode == (Opcode.CONTINUATION if number else Opcode.BINARY)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


@pytest.mark.parametrize("length", [1001, 65536, (1 << 63) - 1])
def test_a_frame_that_is_too_long_is_refused_before_its_payload_comes(length: int) -> None:
    parser = FrameParser(False, at_most=1000)
    size = 2 if length < 65536 else 8
    assert parser.feed(bytes((0x82, 126 if size == 2 else 127)) + length.to_bytes(size)) == []
    assert parser.fault is not None and parser.fault.code == 1009


def test_a_length_of_more_than_63_bits_is_no_length() -> None:
    for first in (0x80, 0xFF):
        _, code = read_frames(bytes((0x82, 127, first)) + b"\xff" * 7, [], False)
        assert code == 1002


# Messages


def fragments(*parts: bytes, opcode: Opcode = Opcode.TEXT) -> list[Frame]:
    return [Frame(Opcode.CONTINUATION if at else opcode, part, at == len(parts) - 1) for at, part in enumerate(parts)]


def add_all(messages: Messages, frames: list[Frame]) -> str | bytes | None:
    found = None
    for frame in frames:
        found = messages.add(frame)
    return found


TEXT = "aä€😀\u0000\ud7ff\ue000\U0010ffff"
NOT_UTF_8 = [b"\x80", b"\xc0\x80", b"\xc3", b"\xe2\x82", b"\xed\xa0\x80", b"\xf0\x9f\x98", b"\xf4\x90\x80\x80", b"\xff", b"a\xffb", b"\xc3\x28"]


@pytest.mark.parametrize("compressed", [False, True])
def test_a_text_may_be_cut_within_a_character(compressed: bool) -> None:
    whole = TEXT.encode()
    for at in range(len(whole) + 1):
        for other in range(at, len(whole) + 1):
            messages = Messages(1000, Inflater(False))
            frames = fragments(whole[:at], whole[at:other], whole[other:])
            if compressed:
                squeezed = deflated(whole)
                frames = fragments(squeezed[:at], squeezed[at:other], squeezed[other:])
                frames[0] = Frame(Opcode.TEXT, frames[0].data, False, 4)
            assert add_all(messages, frames) == TEXT


@pytest.mark.parametrize("wrong", NOT_UTF_8)
def test_a_text_that_is_not_utf_8_is_refused_whatever_the_cuts(wrong: bytes) -> None:
    whole = b"ok \xc3\xa4" + wrong
    for at in range(len(whole) + 1):
        for frames in (fragments(whole), fragments(whole[:at], whole[at:]), fragments(whole[:at], b"", whole[at:])):
            with pytest.raises(BrokenFrame) as caught:
                add_all(Messages(1000), frames)
            assert caught.value.code == 1007
        assert add_all(Messages(1000), fragments(whole[:at], whole[at:], opcode=Opcode.BINARY)) == whole


def test_a_text_is_refused_with_the_first_fragment_that_is_wrong() -> None:
    with pytest.raises(BrokenFrame):
        Messages(1000).add(Frame(Opcode.TEXT, b"\xff", fin=False))


@pytest.mark.parametrize("opcode", [Opcode.TEXT, Opcode.BINARY])
def test_a_message_has_a_size_in_one_frame_or_many(opcode: Opcode) -> None:
    for parts in ([bytes(1000)], [bytes(400), bytes(400), bytes(200)]):
        messages = Messages(1000)
        for _ in range(3):
            assert add_all(messages, fragments(*parts, opcode=opcode)) == (bytes(1000) if opcode == Opcode.BINARY else "\0" * 1000)
    for parts in ([bytes(1001)], [bytes(400), bytes(400), bytes(201)], [bytes(1001), b""]):
        with pytest.raises(BrokenFrame) as caught:
            add_all(Messages(1000), fragments(*parts, opcode=opcode))
        assert caught.value.code == 1009


def test_a_message_of_very_many_fragments_takes_no_more_memory_than_its_size() -> None:
    messages = Messages(1 << 20)
    messages.add(Frame(Opcode.TEXT, b"", fin=False))
    more = Frame(Opcode.CONTINUATION, b"ab", fin=False)
    tracemalloc.start()
    for _ in range(100_000):
        messages.add(more)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


def deflated(data: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-15)
    return (compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH)).removesuffix(b"\0\0\xff\xff")


@pytest.mark.parametrize("opcode", [Opcode.TEXT, Opcode.BINARY])
def test_a_bomb_is_inflated_as_far_as_a_message_may_go(opcode: Opcode) -> None:
    bomb = deflated(bytes(200 << 20))
    frames = [Frame(opcode, bomb[:1000], False, 4), Frame(Opcode.CONTINUATION, bomb[1000:])]
    tracemalloc.start()
    with pytest.raises(BrokenFrame) as caught:
        add_all(Messages(1 << 20, Inflater(True)), frames)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert caught.value.code == 1009 and peak < (3 << 20) + 4 * BLOCK


def test_fragments_are_held_to_their_order_where_a_rule_has_made_them() -> None:
    for frames in (
        [Frame(Opcode.CONTINUATION, b"")],
        [Frame(Opcode.TEXT, b"", fin=False), Frame(Opcode.TEXT, b"")],
        [Frame(Opcode.TEXT, b"", rsv=4)],
        [Frame(Opcode.TEXT, b"", rsv=1)],
    ):
        reader = Fragments()
        with pytest.raises(BrokenFrame) as caught:
            for frame in frames:
                reader.begins(frame)
        assert caught.value.code == 1002
    reader = Fragments(Inflater(True))
    assert reader.begins(Frame(Opcode.TEXT, b"", False, 4)) and reader.compressed and reader.under_way
    with pytest.raises(BrokenFrame):
        reader.begins(Frame(Opcode.CONTINUATION, b"", True, 4))


def test_a_close_has_a_code_and_as_much_of_its_reason_as_there_is_room_for() -> None:
    assert close_reason(close_payload(1000)) == (1000, "") and close_reason(b"") == (None, "")
    assert close_reason(close_payload(4000, "ä" * 100)) == (4000, "ä" * 61) and len(close_payload(4000, "ä" * 100)) <= 125


# The handshake


@given(st.binary(min_size=16, max_size=16))
def test_a_key_is_accepted_as_websockets_does(key: bytes) -> None:
    import base64

    text = base64.b64encode(key).decode()
    assert is_key(text) and accept_of(text) == accept_key(text)
    assert not is_key(text[:-4]) and not is_key(text + " ")


def test_the_handshake_of_the_rfc() -> None:
    assert accept_of("dGhlIHNhbXBsZSBub25jZQ==") == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    asked = {"HTTP_UPGRADE": "WebSocket", "HTTP_CONNECTION": "keep-alive, Upgrade", "REQUEST_METHOD": "GET", "SERVER_PROTOCOL": "HTTP/1.1"}
    assert asks_for_websocket(asked)
    for name, wrong in (("HTTP_UPGRADE", "h2c"), ("HTTP_CONNECTION", "close"), ("REQUEST_METHOD", "POST"), ("SERVER_PROTOCOL", "HTTP/1.0")):
        assert not asks_for_websocket(asked | {name: wrong})
        assert not asks_for_websocket({key: value for key, value in asked.items() if key != name} | ({} if name[0] == "H" else {name: wrong}))
    assert is_websocket([("upgrade", "WEBSOCKET")]) and not is_websocket([("Connection", "websocket"), ("Upgrade", "h2c")])
    assert subprotocols("chat, , superchat ") == ["chat", "superchat"] and subprotocols("") == []
    offered = [("Sec-WebSocket-Extensions", "permessage-deflate; client_max_window_bits, x"), ("sec-websocket-extensions", "foo; a=1; b")]
    assert list(extensions(offered)) == [("permessage-deflate", ["client_max_window_bits"]), ("x", []), ("foo", ["a=1", "b"])]
