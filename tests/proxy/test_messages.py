"""The messages of a WebSocket as a flow records them: against wsproto, zlib and whatever cuts there are."""

import json
import tracemalloc
import zlib
from collections.abc import Iterator
from typing import Any

import gevent
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wsproto.connection import Connection as Endpoint
from wsproto.connection import ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping, TextMessage
from wsproto.extensions import PerMessageDeflate

from muxwsgi.http.websocket.deflate import BLOCK, Deflate, Inflater, agreed_deflate
from muxwsgi.http.websocket.frame import BrokenFrame, Frame, Opcode, encode_frame
from muxwsgi.proxy.streams import messages as messages_module
from muxwsgi.proxy.streams.messages import CONTENT_PER_MESSAGE, MessageRecorder
from muxwsgi.records.flow import Close, Flow, WebSocketRecord
from muxwsgi.records.flow_record import flow_of, record_of
from muxwsgi.records.har import har_entry

DEFLATE = [("Sec-WebSocket-Extensions", "permessage-deflate")]
TAIL = b"\x00\x00\xff\xff"


@pytest.fixture(autouse=True)
def patience() -> Iterator[None]:
    """No test may hang."""
    with gevent.Timeout(60):
        yield


def recorder(fields: Any = (), *, capture_limit: int = 1 << 20, message_limit: int = 1000) -> tuple[MessageRecorder, WebSocketRecord]:
    flow = Flow("websocket", "127.0.0.1:1", "127.0.0.1:2", "connect", 1, 1, capture_limit)
    recording = MessageRecorder(flow, fields, message_limit)
    assert flow.websocket is not None
    return recording, flow.websocket


def said(record: WebSocketRecord) -> list[tuple[bool, int, bytes]]:
    assert all(message.complete and not message.content.truncated for message in record.messages)
    return [(message.from_client, message.opcode, bytes(message.content.data)) for message in record.messages]


def compressed(data: bytes, compressor: Any = None) -> bytes:
    compressor = compressor or zlib.compressobj(wbits=-15)
    return bytes((compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH)).removesuffix(TAIL))


def on_wire(data: bytes, *, opcode: Opcode = Opcode.TEXT, rsv: int = 0, from_client: bool = True, fin: bool = True) -> bytes:
    return encode_frame(Frame(opcode, data, fin, rsv, from_client), masked=from_client)


# What was agreed on


@pytest.mark.parametrize(
    ("header", "meant"),
    [
        ("permessage-deflate", Deflate(True, True)),
        ("Permessage-Deflate; SERVER_no_context_takeover", Deflate(True, False)),
        ("permessage-deflate;client_no_context_takeover", Deflate(False, True)),
        ("permessage-deflate; client_max_window_bits=9; server_no_context_takeover ; client_no_context_takeover", Deflate(False, False)),
        ('permessage-deflate; server_max_window_bits="15"', Deflate(True, True)),
        ("", None),
        (" , ", None),
    ],
)
def test_what_a_handshake_agreed_on_is_read(header: str, meant: Deflate | None) -> None:
    assert agreed_deflate([("X", "y"), ("sec-websocket-extensions", header)]) == meant


@pytest.mark.parametrize(
    "header",
    [
        "x-webkit-deflate-frame", "permessage-deflate, permessage-bzip2", "permessage-deflate, permessage-deflate", "permessage-deflate; unknown",
        "permessage-deflate; server_no_context_takeover=1", "permessage-deflate; server_no_context_takeover; server_no_context_takeover",
        "permessage-deflate; client_max_window_bits", "permessage-deflate; server_max_window_bits=7", "permessage-deflate; server_max_window_bits=16",
        "permessage-deflate; server_max_window_bits=08", "permessage-deflate; server_max_window_bits=1500", "permessage-deflate;", ";",
    ],
)  # fmt: skip
def test_where_it_cannot_be_said_what_payloads_mean_that_is_said_and_nothing_is_read(header: str) -> None:
    fields = [("Sec-WebSocket-Extensions", header)]
    with pytest.raises(ValueError, match="agreed on"):
        agreed_deflate(fields)
    recording, record = recorder(fields)
    recording.add_bytes(on_wire(b"hello"), True)
    recording.add_frame(Frame(Opcode.TEXT, b"hello", from_client=False))
    recording.end()
    assert record.messages == [] and record.count == 0 and "agreed on" in str(record.stopped)


# Joined, whatever the cuts


@st.composite
def dialogues(draw: Any) -> tuple[list[tuple[bool, int, list[bytes]]], int]:
    pieces = st.lists(st.binary(max_size=60) | st.integers(0, 70000).map(lambda count: (b"abcdefgh" * 8750)[:count]), min_size=1, max_size=3)
    return draw(st.lists(st.tuples(st.booleans(), st.sampled_from([1, 2]), pieces), max_size=6)), draw(st.integers(1, 40000))


def endpoints(deflate: dict[str, Any] | None) -> dict[bool, Endpoint]:
    """What writes each direction, by `from_client`."""
    made = {}
    for from_client, kind in ((True, ConnectionType.CLIENT), (False, ConnectionType.SERVER)):
        extensions = []
        if deflate is not None:
            extension = PerMessageDeflate(**deflate)
            extension._enabled = True
            extensions.append(extension)
        made[from_client] = Endpoint(kind, extensions=extensions)
    return made


@settings(max_examples=150, deadline=None)
@given(dialogues(), st.none() | st.fixed_dictionaries({"client_no_context_takeover": st.booleans(), "server_no_context_takeover": st.booleans(),
                                                      "client_max_window_bits": st.integers(9, 15)}))  # fmt: skip
def test_messages_come_out_as_they_were_said_whatever_the_cuts(dialogue: Any, deflate: dict[str, Any] | None) -> None:
    messages, step = dialogue
    fields = []
    if deflate is not None:
        options = "".join(f"; {name}" for name in ("client_no_context_takeover", "server_no_context_takeover") if deflate[name])
        fields = [("Sec-WebSocket-Extensions", f"permessage-deflate; client_max_window_bits={deflate['client_max_window_bits']}{options}")]
    writers = endpoints(deflate)
    recording, record = recorder(fields, message_limit=100)
    for from_client, opcode, pieces in messages:
        wire = b""
        for at, piece in enumerate(pieces):
            event: Any = BytesMessage if opcode == 2 else TextMessage
            data: Any = piece if opcode == 2 else piece.decode("latin-1")
            wire += writers[from_client].send(event(data=data, message_finished=at == len(pieces) - 1)) + writers[from_client].send(Ping(b"p"))
        for at in range(0, len(wire), max(step, len(wire) // 300 + 1)):
            recording.add_bytes(wire[at : at + max(step, len(wire) // 300 + 1)], from_client)
    recording.add_bytes(writers[False].send(CloseConnection(code=1001, reason="bye")), False)
    recording.add_bytes(writers[True].send(CloseConnection(code=1000)), True)
    recording.end()
    expected = [
        (from_client, opcode, b"".join(piece if opcode == 2 else piece.decode("latin-1").encode() for piece in pieces))
        for from_client, opcode, pieces in messages
    ]
    assert said(record) == expected and record.count == len(expected)
    assert record.close == Close(False, 1001, "bye") and record.stopped is None


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.binary(max_size=40)), max_size=12), st.booleans())
def test_any_bytes_at_all_are_no_error_and_a_flow_that_can_be_written(blocks: list[tuple[bool, bytes]], deflate: bool) -> None:
    flow = Flow("websocket", "127.0.0.1:1", "127.0.0.1:2", "connect", 1, 1, 20)
    recording = MessageRecorder(flow, DEFLATE if deflate else [], 3)
    for from_client, block in blocks:
        recording.add_bytes(block, from_client)
    recording.end()
    assert flow.websocket is not None and len(flow.websocket.messages) <= min(3, flow.websocket.count)
    assert all(len(message.content.data) <= 20 for message in flow.websocket.messages)
    assert flow_of(json.loads(json.dumps(record_of(flow)))).websocket is not None
    har_entry(flow)


# permessage-deflate


def test_a_final_block_ends_a_message_and_not_the_context() -> None:
    inflater = Inflater(keeps_context=True)
    hello = bytes.fromhex("f348cdc9c9070000")  # RFC 7692 section 7.2.3.4
    assert b"".join(inflater.inflate(hello, fin=True)) == b"Hello"
    again = bytes.fromhex("f200110000")  # section 7.2.3.2: refers to the message before
    assert b"".join(inflater.inflate(again, fin=True)) == b"Hello"
    assert b"".join(inflater.inflate(hello, fin=True)) == b"Hello"
    two_blocks = bytes.fromhex("f248050000 00ffffcac9c90700".replace(" ", ""))  # section 7.2.3.5
    assert b"".join(inflater.inflate(two_blocks, fin=True)) == b"Hello"


def test_without_the_context_no_message_refers_to_another() -> None:
    inflater = Inflater(keeps_context=False)
    assert b"".join(inflater.inflate(bytes.fromhex("f248cdc9c90700"), fin=True)) == b"Hello"
    with pytest.raises(BrokenFrame, match="cannot be inflated"):
        b"".join(inflater.inflate(bytes.fromhex("f200110000"), fin=True))


def test_final_blocks_without_end_are_refused() -> None:
    empty = zlib.compressobj(wbits=-15).flush()
    with pytest.raises(BrokenFrame, match="too many final blocks"):
        b"".join(Inflater(True).inflate(empty * 1000, fin=True))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.binary(max_size=300) | st.integers(0, 3 * BLOCK).map(bytes), max_size=4), st.booleans(), st.integers(1, 500))
def test_blocks_are_bounded_and_nothing_is_missing(texts: list[bytes], keeps_context: bool, step: int) -> None:
    compressor = zlib.compressobj(wbits=-15)
    inflater = Inflater(keeps_context)
    for text in texts:
        data = compressed(text, compressor if keeps_context else None)
        pieces = [data[at : at + step] for at in range(0, len(data), step)] or [b""]
        blocks = [block for at, piece in enumerate(pieces) for block in inflater.inflate(piece, fin=at == len(pieces) - 1)]
        assert b"".join(blocks) == text and all(0 < len(block) <= BLOCK for block in blocks)


def test_a_bomb_is_inflated_as_far_as_the_bound_and_what_came_after_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages_module, "INFLATED_AT_MOST", 1 << 20)
    recording, record = recorder(DEFLATE, capture_limit=1000)
    compressor = zlib.compressobj(wbits=-15)
    recording.add_bytes(on_wire(compressed(b"first", compressor), rsv=4), True)
    bomb = on_wire(compressed(bytes(50 << 20), compressor), rsv=4)
    tracemalloc.start()
    for at in range(0, len(bomb), 4000):
        recording.add_bytes(bomb[at : at + 4000], True)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20
    recording.add_bytes(on_wire(compressed(b"later", compressor), rsv=4) + on_wire(b"\x03\xe8", opcode=Opcode.CLOSE), True)
    recording.end()
    first, cut = record.messages
    assert first.content.data == b"first" and first.complete and record.count == 3 and record.close == Close(True, 1000, "")
    assert not cut.complete and cut.content.data == bytes(1000) and 1 << 20 <= cut.content.size < (1 << 20) + 2 * BLOCK
    assert record.stopped == "permessage-deflate made more than 1048576 bytes, which is the limit"


# What is kept


def test_a_message_is_kept_as_far_as_a_body_is() -> None:
    recording, record = recorder(capture_limit=10)
    recording.add_bytes(on_wire(b"x" * 9000) + on_wire(b"short"), True)
    recording.end()
    assert [(bytes(message.content.data), message.content.size) for message in record.messages] == [(b"x" * 10, 9000), (b"short", 5)]
    assert record.stopped is None


def test_a_number_of_messages_is_kept_and_all_are_counted() -> None:
    recording, record = recorder(message_limit=3)
    for number in range(3):
        recording.add_bytes(on_wire(b"%d" % number), True)
    assert record.stopped is None
    for _ in range(50):
        recording.add_bytes(on_wire(b"more", from_client=False), False)
    recording.end()
    assert [bytes(message.content.data) for message in record.messages] == [b"0", b"1", b"2"]
    assert record.count == 53 and record.stopped == "the limit of 3 messages is reached"


def test_what_messages_keep_together_is_bounded() -> None:
    recording, record = recorder(message_limit=10, capture_limit=30000)
    for number in range(4):
        recording.add_bytes(on_wire(bytes(18000), from_client=number % 2 == 0), number % 2 == 0)
    recording.end()
    assert [len(message.content.data) for message in record.messages] == [18000, 18000, 10 * CONTENT_PER_MESSAGE - 36000]
    assert record.count == 4 and record.messages[-1].content.truncated and record.messages[-1].complete
    assert record.stopped == f"the limit of {10 * CONTENT_PER_MESSAGE} bytes of messages is reached"


@pytest.mark.parametrize("deflate", [False, True])
def test_a_websocket_that_lasts_takes_no_more_memory_than_one_that_does_not(deflate: bool) -> None:
    recording, record = recorder(DEFLATE if deflate else [], message_limit=100, capture_limit=1000)
    compressor = zlib.compressobj(wbits=-15)

    def exchange(count: int) -> None:
        for _ in range(count):
            data = compressed(b"some text to say " * 40, compressor) if deflate else b"some text to say " * 40
            recording.add_bytes(on_wire(data, rsv=4 if deflate else 0) + on_wire(b"", opcode=Opcode.PING), True)
            recording.add_bytes(on_wire(b"yes", from_client=False), False)

    exchange(200)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    exchange(5000)
    after = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    recording.end()
    assert len(record.messages) == 100 and record.count == 10400
    assert after - before < 20000, after - before


# What ends before its time


@pytest.mark.parametrize(
    ("wire", "why"),
    [
        (b"\x83\x80\0\0\0\0", "the opcode 3 is reserved"),
        (b"\x81\x02hi", "a frame from the client is not masked"),
        (on_wire(b"x", rsv=4), "a reserved bit is set"),
        (on_wire(b"x", opcode=Opcode.CONTINUATION), "a continuation continues nothing"),
    ],
    ids=["reserved opcode", "unmasked", "reserved bit", "continuation"],
)
def test_a_broken_frame_ends_the_record_of_its_direction(wire: bytes, why: str) -> None:
    recording, record = recorder()
    recording.add_bytes(on_wire(b"before") + wire + on_wire(b"never"), True)
    recording.add_bytes(on_wire(b"never"), True)
    recording.add_bytes(on_wire(b"answer", from_client=False) + on_wire(b"\x03\xea", opcode=Opcode.CLOSE, from_client=False), False)
    recording.end()
    assert said(record) == [(True, 1, b"before"), (False, 1, b"answer")] and record.close == Close(False, 1002, "")
    assert str(record.stopped).startswith("the frames from the client are broken: ") and why in str(record.stopped)


@pytest.mark.parametrize(
    ("frames", "why"),
    [
        ([Frame(Opcode.TEXT, b"\xff\xff", rsv=4)], "cannot be inflated"),
        ([Frame(Opcode.TEXT, b"a", fin=False), Frame(Opcode.CONTINUATION, b"b", rsv=4)], "reserved bit"),
        ([Frame(Opcode.TEXT, b"a", rsv=2)], "reserved bit"),
        ([Frame(Opcode.PING, b"a", rsv=4)], "reserved bit"),
    ],
)
def test_what_permessage_deflate_forbids_ends_the_record(frames: list[Frame], why: str) -> None:
    recording, record = recorder(DEFLATE)
    recording.add_bytes(b"".join(encode_frame(frame, masked=True) for frame in frames) + on_wire(b"never"), True)
    recording.end()
    assert all(not message.complete for message in record.messages) and why in str(record.stopped)


def test_a_message_that_never_ends_is_kept_and_does_not_look_whole() -> None:
    recording, record = recorder()
    recording.add_bytes(on_wire(b"the beginning", fin=False), True)
    recording.add_bytes(on_wire(b"x" * 9000, from_client=False)[:6000], False)
    recording.end()
    assert [(message.from_client, message.complete) for message in record.messages] == [(True, False), (False, False)]
    assert record.messages[0].content.data == b"the beginning" and len(record.messages[1].content.data) == 6000 - 4
    assert record.stopped == "the stream from the server ended within a frame"


def test_frames_that_a_rule_has_made_may_be_anything() -> None:
    recording, record = recorder()
    for frame in (Frame(Opcode.TEXT, b"a", fin=False), Frame(Opcode.TEXT, b"b"), Frame(Opcode.TEXT, b"c", from_client=False)):
        recording.add_frame(frame)
    recording.end()
    assert [(bytes(message.content.data), message.complete) for message in record.messages] == [(b"a", False), (b"c", True)]
    assert "a message begins within another" in str(record.stopped)
