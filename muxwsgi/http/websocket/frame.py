"""WebSocket frames as bytes (RFC 6455 section 5): a parser for one direction, and an encoder. No I/O.

This module handles frames, not messages. The parser returns each fragment, and `messages` joins them. Compressed payloads stay compressed:
see `deflate`. The compiled build masks eight bytes at a time, see `frame.pxd`.

The file is long because it ends with the functions of `frame.pxd` in plain Python.
"""

import os
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

__all__ = [
    "COMPRESSED",
    "CONTROL_AT_MOST",
    "INVALID_PAYLOAD",
    "PIECE",
    "TOO_BIG",
    "WHOLE_FROM",
    "BrokenFrame",
    "Frame",
    "FrameParser",
    "Opcode",
    "encode_frame",
    "encode_message",
    "mask",
    "message_head",
]

#: Bytes of payload. A longer frame is returned in fragments.
PIECE = 1 << 20

#: A payload from this size on gets its memory when its head has come: see `FrameParser.room`.
WHOLE_FROM = 1 << 14

#: Bytes of payload in a control frame at most (section 5.5).
CONTROL_AT_MOST = 125

#: Close codes (section 7.4.1): for a frame that is malformed or not allowed at its place; for a text that is not UTF-8 or a payload that
#: cannot be inflated; and for a frame that is longer than its reader accepts.
PROTOCOL_ERROR = 1002
INVALID_PAYLOAD = 1007
TOO_BIG = 1009

#: The longest payload that a frame can have.
LONGEST = (1 << 63) - 1

#: RSV1 in `Frame.rsv`: it marks a compressed message (RFC 7692 section 6).
COMPRESSED = 4

#: Codes below 3000 that a Close frame may carry (IANA "WebSocket Close Code Number Registry"). All others are reserved (section 7.4.2).
_CODES = frozenset({1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014})


class Opcode(IntEnum):
    """The type of a frame. Types from `CLOSE` on are control frames: whole, short, and allowed between the fragments of a message."""

    CONTINUATION = 0
    TEXT = 1
    BINARY = 2
    CLOSE = 8
    PING = 9
    PONG = 10


#: By number, None for those that are reserved.
_OPCODES: list[Any] = [next((opcode for opcode in Opcode if opcode == number), None) for number in range(16)]
_CONTINUATION = Opcode.CONTINUATION


@dataclass(frozen=True)
class Frame:
    """One frame, unmasked.

    opcode          `CONTINUATION` for each fragment of a message but its first
    data            the payload; a fragment of text may end within a character
    fin             whether it is the last of its message
    rsv             the three reserved bits, `COMPRESSED` (4) for RSV1
    from_client     the direction
    key             the masking key of the received frame; None for a frame that was not masked, is part of a longer one, or does not come
                    from a parser
    """

    opcode: Opcode
    data: bytes
    fin: bool = True
    rsv: int = 0
    from_client: bool = True
    key: bytes | None = field(default=None, init=False, compare=False, repr=False)


class BrokenFrame(OSError):
    """One side violates the protocol. `code` and `reason` (one line) are for the Close frame that reports it."""

    def __init__(self, reason: str, code: int = PROTOCOL_ERROR) -> None:
        super().__init__(reason)
        self.reason = reason
        self.code = code


class FrameParser:
    """Turns the bytes of one direction into frames. Does no I/O.

    A frame with more than `piece` bytes is not collected. Its parts are returned as fragments of its message when they arrive, which RFC
    6455 section 5.4 allows for intermediaries. So a frame of any size takes no more memory than `piece`.

    Bytes are given to `feed`. If `room` returns memory, the next bytes may instead be read into it, and `filled` says how many: a long
    payload is then not copied.

    closed      whether a Close frame came. Bytes after it are dropped
    fault       the error after the frames that `feed` returned last; None if there is none
    """

    __slots__ = (
        "_at_most",
        "_buffer",
        "_compresses",
        "_filled",
        "_fin",
        "_first",
        "_from_client",
        "_in_message",
        "_key",
        "_left",
        "_memory",
        "_missing",
        "_needed",
        "_opcode",
        "_piece",
        "_rsv",
        "closed",
        "fault",
    )

    def __init__(self, from_client: bool, *, piece: int = PIECE, at_most: int = LONGEST, extensions: bool = False) -> None:
        """Frames `from_client` are masked. A frame that announces more than `at_most` bytes is a fault. `extensions` means that
        permessage-deflate was negotiated.
        """
        if piece < CONTROL_AT_MOST or at_most < CONTROL_AT_MOST:
            raise ValueError(f"a piece of {piece} bytes, or a frame of {at_most}, is shorter than a control frame may be")
        self._from_client = bool(from_client)
        self._piece = piece
        self._at_most = at_most
        self._compresses = extensions
        self._buffer = bytearray()  # the incomplete beginning of the next frame
        self._needed = 0  # bytes that the buffer must have before parsing can go on
        self._in_message = False
        self._memory: Any = None  # payload of a long frame: the bytes that have come are unmasked already
        self._first = 0  # its first byte
        self._filled = 0  # bytes of it that have come
        self._missing = 0  # bytes of it that have not
        self._left = 0  # missing bytes of a frame that comes in pieces
        self._key: bytes | None = None  # masking key of the long frame; of one in pieces, rotated to the next byte
        self._opcode = _CONTINUATION  # opcode of its next piece
        self._rsv = 0
        self._fin = True
        self.closed = False
        self.fault: BrokenFrame | None = None

    def feed(self, data: bytes | bytearray | memoryview, begin: int = 0, end: int = LONGEST) -> list[Frame]:
        """The frames that `data[begin:end]` completes. An error after them is `fault`, and the next call raises it."""
        if self.fault is not None:
            raise self.fault
        frames: list[Frame] = []
        buffer = self._buffer
        end = min(end, len(data))
        if not buffer and (type(data) is bytes or type(data) is bytearray):
            at = self._read(data, begin, end, frames)
            if at < end:
                buffer += data[at:end]
            return frames
        buffer += data[begin:end]
        if len(buffer) >= self._needed:
            del buffer[: self._read(buffer, 0, len(buffer), frames)]
        return frames

    def room(self) -> memoryview | None:
        """Memory for the missing bytes of a long payload, to be filled before another method is called; None if there is none."""
        if self._missing == 0:
            return None
        return _room(self._memory, self._filled, self._missing)  # type: ignore[name-defined, no-any-return]  # noqa: F821

    def filled(self, count: int) -> list[Frame]:
        """`count` bytes were written to the beginning of `room`. Returns the frame that they complete."""
        if not 0 <= count <= self._missing:
            raise ValueError(f"{count} bytes are not within the room of {self._missing}")
        _unmask(self._memory, self._filled, count, self._key)  # type: ignore[name-defined]  # noqa: F821
        frames: list[Frame] = []
        self._note_filled(count, frames)
        return frames

    @property
    def within_frame(self) -> bool:
        """Whether a frame has begun and not ended."""
        return self._left > 0 or self._missing > 0 or len(self._buffer) > 0

    def _note_filled(self, count: int, frames: list[Frame]) -> None:
        """`count` further bytes are in the memory of a long payload, unmasked."""
        self._filled += count
        self._missing -= count
        if self._missing == 0:
            first = self._first
            self._in_message = first < 128
            data = _whole(self._memory)  # type: ignore[name-defined]  # noqa: F821
            self._memory = None
            frames.append(_frame(_OPCODES[first & 15], data, first >= 128, first >> 4 & 7, self._from_client, self._key))  # type: ignore[name-defined]  # noqa: F821

    def _read(self, source: bytes | bytearray, begin: int, end: int, frames: list[Frame]) -> int:
        """Append the frames in `source[begin:end]` to `frames`, and return the place behind the bytes that were consumed."""
        text = source
        at = begin
        self._needed = 0
        while not self.closed:
            # 0. The payload of a long frame.
            if self._missing > 0:
                count = min(self._missing, end - at)
                if count == 0:
                    return end
                _fill(self._memory, self._filled, source, at, count, self._key)  # type: ignore[name-defined]  # noqa: F821
                at += count
                self._note_filled(count, frames)
                continue

            # 1. The payload of a frame that comes in pieces.
            if self._left > 0:
                count = min(self._left, end - at)
                if count == 0:
                    return end
                frames.append(self._next_piece(source, at, count))
                at += count
                continue

            # 2. The first two bytes of a frame (section 5.2).
            if end - at < 2:
                self._needed = 2
                return at
            first, second = text[at], text[at + 1]
            wrong = self._wrong(first, second)
            if wrong is not None:
                self.fault = BrokenFrame(wrong)
                return end

            # 3. The length, in the fewest possible bytes (section 5.2). Readers disagree about longer forms, so these are refused.
            length = second & 127
            size = 2
            if length >= 126:
                size = 4 if length == 126 else 10
                if end - at < size:
                    self._needed = size
                    return at
                if size == 10 and text[at + 2] >= 128:
                    self.fault = BrokenFrame("a length is beyond 63 bits")
                    return end
                length = 0
                for place in range(at + 2, at + size):
                    length = length << 8 | text[place]
                if length < (126 if size == 4 else 65536):
                    self.fault = BrokenFrame("a length is not in its shortest form")
                    return end

            if length > self._at_most:
                self.fault = BrokenFrame(f"a frame is longer than {self._at_most} bytes", TOO_BIG)
                return end

            # 4. The key.
            key = None
            if self._from_client:
                size += 4
                if end - at < size:
                    self._needed = size
                    return at
                key = _masked(source, at + size - 4, 4, None)  # type: ignore[name-defined]  # noqa: F821

            # 5. The payload.
            number = first & 15
            if length > self._piece:
                self._opcode, self._fin, self._rsv = _OPCODES[number], first >= 128, first >> 4 & 7
                self._left, self._key = length, key
                self._in_message = first < 128
                at += size
                continue
            if length > end - at - size:
                if length >= WHOLE_FROM:
                    self._memory = _blank(length)  # type: ignore[name-defined]  # noqa: F821
                    self._first, self._key, self._filled, self._missing = first, key, 0, length
                    at += size
                    continue
                self._needed = size + length
                return at
            data = _masked(source, at + size, length, key)  # type: ignore[name-defined]  # noqa: F821
            at += size + length
            if number < 8:
                self._in_message = first < 128
            elif number == 8:
                if length > 0:
                    self.fault = _close_fault(data)
                    if self.fault is not None:
                        return end
                self.closed = True
            frames.append(_frame(_OPCODES[number], data, first >= 128, first >> 4 & 7, self._from_client, key))  # type: ignore[name-defined]  # noqa: F821
        return end

    def _wrong(self, first: int, second: int) -> str | None:
        """The fault in the first two bytes of a frame; None if they are valid."""
        number = first & 15
        if _OPCODES[number] is None:
            return f"the opcode {number} is reserved"
        if first & 0x70:
            if not self._compresses:
                return "a reserved bit is set, and no extension was agreed on"
            if first & 0x30 or number == 0 or number >= 8:
                return "a reserved bit is set where it means nothing"
        if (second >= 128) != self._from_client:
            return "a frame from the client is not masked" if self._from_client else "a frame from the server is masked"
        if number >= 8:
            if first < 128:
                return "a control frame is fragmented"
            if second & 127 > CONTROL_AT_MOST:
                return f"a control frame is longer than {CONTROL_AT_MOST} bytes"
        elif (number == 0) != self._in_message:
            return "a message begins within another" if self._in_message else "a continuation continues nothing"
        return None

    def _next_piece(self, source: bytes | bytearray, at: int, count: int) -> Frame:
        """A fragment of the frame that comes in pieces."""
        data = _masked(source, at, count, self._key)  # type: ignore[name-defined]  # noqa: F821
        opcode, rsv, key = self._opcode, self._rsv, self._key
        self._opcode, self._rsv = _CONTINUATION, 0
        self._left -= count
        if key is not None:
            turn = count % 4
            self._key = key[turn:] + key[:turn]
        made: Frame = _frame(opcode, data, self._fin and self._left == 0, rsv, self._from_client, None)  # type: ignore[name-defined]  # noqa: F821
        return made


def _close_fault(data: bytes) -> BrokenFrame | None:
    """The fault in the payload of a Close frame, None without one. It must have an allowed code and a reason in UTF-8 (RFC 6455 sections
    5.5.1 and 7.4)."""
    code = int.from_bytes(data[:2]) if len(data) > 1 else 0
    if code not in _CODES and not 3000 <= code < 5000:
        return BrokenFrame("a Close frame has no code that may be sent")
    try:
        data[2:].decode()
    except UnicodeDecodeError:
        return BrokenFrame("the reason of a Close frame is not UTF-8", INVALID_PAYLOAD)
    return None


def mask(data: bytes, key: bytes) -> bytes:
    """Mask, or unmask, with the four bytes `key` (RFC 6455 section 5.3)."""
    if len(key) != 4:
        raise ValueError(f"a masking key has 4 bytes, not {len(key)}")
    return _masked(data, 0, len(data), key)  # type: ignore[name-defined, no-any-return]  # noqa: F821


def encode_frame(frame: Frame, *, masked: bool, key: bytes | None = None) -> bytes:
    """The frame as bytes. With `masked` it is masked with `key`, or with a new random key. Frames to a server must be masked.

    Raises `ValueError` for an impossible frame.
    """
    if not masked:
        return _encode(frame, None)
    if key is None:
        key = os.urandom(4)
    elif len(key) != 4:
        raise ValueError(f"a masking key has 4 bytes, not {len(key)}")
    return _encode(frame, key)


def _encode(frame: Frame, key: bytes | None) -> bytes:
    data = frame.data
    opcode = frame.opcode
    if not 0 <= frame.rsv <= 7:
        raise ValueError(f"rsv={frame.rsv} is not three bits")
    if opcode >= 8 and (len(data) > CONTROL_AT_MOST or not frame.fin):
        raise ValueError(f"a control frame has at most {CONTROL_AT_MOST} bytes, in one piece")
    return _encoded((0x80 if frame.fin else 0) | frame.rsv << 4 | opcode, data, key)  # type: ignore[name-defined, no-any-return]  # noqa: F821


def encode_message(opcode: int, data: bytes, rsv: int) -> bytes:
    """A whole message of a server as one frame."""
    return _encoded(0x80 | rsv << 4 | opcode, data, None)  # type: ignore[name-defined, no-any-return]  # noqa: F821


def message_head(opcode: int, length: int, rsv: int) -> bytes:
    """The bytes before the payload of such a frame, if it has `length` bytes."""
    first = 0x80 | rsv << 4 | opcode
    if length < 126:
        return bytes((first, length))
    if length < 65536:
        return bytes((first, 126)) + length.to_bytes(2)
    return bytes((first, 127)) + length.to_bytes(8)


# In the compiled build these are C functions (frame.pxd), and the compiler refuses an assignment to one. So `globals()` sets them.

#: Bytes that are masked at a time, and a number whose every fourth byte is 1. The number times a key is the repeated key.
_BLOCK = 1 << 13
_ONES = int.from_bytes(b"\1\0\0\0" * (_BLOCK // 4), "little")


def _masked_in_python(source: bytes | bytearray, begin: int, count: int, key: bytes | None) -> bytes:
    """`count` bytes of `source` from `begin` on, masked or unmasked with `key`; unchanged if it is None."""
    if key is None:
        return bytes(source[begin : begin + count])
    if count <= _BLOCK:
        whole = (count + 3) // 4 * 4
        pattern = int.from_bytes(key, "little") * (_ONES >> 8 * (_BLOCK - whole))
        return (int.from_bytes(source[begin : begin + count], "little") ^ pattern).to_bytes(whole, "little")[:count]
    pattern = int.from_bytes(key, "little") * _ONES
    last = begin + count - count % _BLOCK
    blocks = [
        (int.from_bytes(source[at : at + _BLOCK], "little") ^ pattern).to_bytes(_BLOCK, "little") for at in range(begin, last, _BLOCK)
    ]
    blocks.append(_masked_in_python(source, last, count % _BLOCK, key))
    return b"".join(blocks)


def _frame_in_python(opcode: Opcode, data: bytes, fin: bool, rsv: int, from_client: bool, key: bytes | None) -> Frame:
    # Without `__init__`, which takes 1.5 us: a frozen dataclass assigns through `object.__setattr__`.
    made = object.__new__(Frame)
    made.__dict__.update(opcode=opcode, data=data, fin=fin, rsv=rsv, from_client=from_client, key=key)
    return made


def _encoded_in_python(first: int, data: bytes, key: bytes | None) -> bytes:
    """A frame whose first byte is `first`, with its length in the fewest possible bytes."""
    length = len(data)
    bit = 0 if key is None else 0x80
    if length < 126:
        head = bytes((first, bit | length))
    elif length < 65536:
        head = bytes((first, bit | 126)) + length.to_bytes(2)
    else:
        head = bytes((first, bit | 127)) + length.to_bytes(8)
    return head + data if key is None else b"".join((head, key, _masked_in_python(data, 0, length, key)))


def _fill_in_python(memory: bytearray, place: int, source: bytes | bytearray, begin: int, count: int, key: bytes | None) -> None:
    """Copy `count` bytes of `source` into `memory` at `place`, unmasked. The key belongs to the beginning of `memory`."""
    memory[place : place + count] = _masked_in_python(source, begin, count, _turned(key, place))


def _unmask_in_python(memory: bytearray, place: int, count: int, key: bytes | None) -> None:
    """Unmask `count` bytes of `memory` from `place` on, where they are."""
    if key is not None:
        memory[place : place + count] = _masked_in_python(memory, place, count, _turned(key, place))


def _turned(key: bytes | None, place: int) -> bytes | None:
    return None if key is None else key[place % 4 :] + key[: place % 4]


globals().update(
    _masked=_masked_in_python,
    _frame=_frame_in_python,
    _encoded=_encoded_in_python,
    _blank=bytearray,
    _room=lambda memory, place, count: memoryview(memory)[place : place + count],
    _fill=_fill_in_python,
    _unmask=_unmask_in_python,
    _whole=bytes,
)
