"""WebSocket frames as bytes (RFC 6455 section 5): a parser for one direction, and the other way around. No I/O, and no connection.

What is on this floor is the frame, not the message: fragments come out one by one, and `messages` joins them. Extensions change what a
payload means and are not undone here: see `deflate`.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

__all__ = [
    "CONTROL_AT_MOST",
    "FRAMES_PER_TURN",
    "PIECE",
    "PROTOCOL_ERROR",
    "BrokenFrame",
    "Frame",
    "FrameParser",
    "Opcode",
    "encode_frame",
    "mask",
]

#: Payload of a frame that comes out in one piece; what is longer comes in fragments.
PIECE = 1 << 20

#: Frames of one read after which others have their turn: 64 KiB may be 32,000 frames, and half a second.
FRAMES_PER_TURN = 200

#: Payload of a control frame (section 5.5).
CONTROL_AT_MOST = 125

#: The Close code for what is no frame, or stands where it may not (section 7.4.1).
PROTOCOL_ERROR = 1002

#: Codes that no Close frame may carry: they say that there was none, or are kept free (section 7.4.1).
_NO_CODES = frozenset({1004, 1005, 1006, 1015})


class Opcode(IntEnum):
    """What a frame is. Those from `CLOSE` on are control frames: whole, short, and allowed between the fragments of a message."""

    CONTINUATION = 0
    TEXT = 1
    BINARY = 2
    CLOSE = 8
    PING = 9
    PONG = 10


_OPCODES = {int(opcode): opcode for opcode in Opcode}


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame, unmasked.

    opcode          `CONTINUATION` for each fragment of a message but its first
    data            the payload; a fragment of text may end within a character
    fin             whether it is the last of its message
    rsv             the three reserved bits, 4 for RSV1: compressed, where permessage-deflate was agreed on
    from_client     the direction
    """

    opcode: Opcode
    data: bytes
    fin: bool = True
    rsv: int = 0
    from_client: bool = True


class BrokenFrame(OSError):
    """One side breaks the protocol. `code` is what a Close frame says of it, `reason` one line."""

    def __init__(self, reason: str, code: int = PROTOCOL_ERROR) -> None:
        super().__init__(reason)
        self.reason = reason
        self.code = code


class FrameParser:
    """Bytes of one direction in, frames out. Does no I/O.

    A frame with more than `piece` bytes is not collected: it comes out as fragments of its message, each as it arrives, which RFC 6455
    section 5.4 lets an intermediary do. So a frame of any size takes no more memory than that, and none passes unseen.

    `closed` once a Close frame came. Nothing may follow it: what does is dropped.
    """

    __slots__ = ("_begun", "_buffer", "_extensions", "_from_client", "_in_message", "_key", "_left", "_piece", "closed")

    def __init__(self, from_client: bool, *, piece: int = PIECE, extensions: bool = False) -> None:
        """`extensions` says that some were agreed on, so that reserved bits may be set."""
        if piece < CONTROL_AT_MOST:
            raise ValueError(f"a piece of {piece} bytes is shorter than a control frame may be")
        self._from_client = from_client
        self._piece = piece
        self._extensions = extensions
        self._buffer = bytearray()
        self._in_message = False
        self._begun = (Opcode.CONTINUATION, True, 0)  # the frame that comes in pieces: opcode and bits of the next one
        self._left = 0  # bytes of it still to come
        self._key = b""  # its masking key, turned to the next byte
        self.closed = False

    def feed(self, data: bytes) -> Iterator[tuple[Frame, bytes | None]]:
        """Each frame that `data` completes, with the bytes that it came as (None for a piece of a larger one). Exhaust it before the next.

        Raises `BrokenFrame` behind the frames that are in order.
        """
        buffer = self._buffer
        buffer += data
        at = 0
        try:
            while not self.closed:
                if self._left:
                    payload = bytes(buffer[at : at + self._left])
                    if not payload:
                        return
                    at += len(payload)
                    yield self._next_piece(payload), None
                    continue
                header = self._header(buffer, at)
                if header is None:
                    return
                opcode, fin, rsv, start, length, key = header
                if length > self._piece:
                    self._in_message = not fin
                    self._begun, self._left, self._key = (opcode, fin, rsv), length, key
                    at = start
                    continue
                end = start + length
                if end > len(buffer):
                    return
                payload = bytes(buffer[start:end])
                if key:
                    payload = mask(payload, key)
                if opcode < Opcode.CLOSE:
                    self._in_message = not fin
                elif opcode == Opcode.CLOSE:
                    _check_close(payload)
                    self.closed = True
                raw = bytes(buffer[at:end])
                at = end
                yield Frame(opcode, payload, fin, rsv, self._from_client), raw
            at = len(buffer)
        finally:
            del buffer[:at]

    @property
    def within_frame(self) -> bool:
        """Whether a frame has begun and not ended."""
        return self._left > 0 or (bool(self._buffer) and not self.closed)

    def _next_piece(self, payload: bytes) -> Frame:
        opcode, fin, rsv = self._begun
        self._begun = (Opcode.CONTINUATION, fin, 0)
        self._left -= len(payload)
        if self._key:
            turn = len(payload) % 4
            payload = mask(payload, self._key)
            self._key = self._key[turn:] + self._key[:turn]
        return Frame(opcode, payload, fin and not self._left, rsv, self._from_client)

    def _header(self, buffer: bytearray, at: int) -> tuple[Opcode, bool, int, int, int, bytes] | None:
        """Of the frame that begins at `at`: opcode, fin, reserved bits, where its payload begins, how long that is, and the key.

        None where too little has come (RFC 6455 section 5.2).
        """
        there = len(buffer) - at
        if there < 2:
            return None
        first, second = buffer[at], buffer[at + 1]
        fin = first >= 0x80
        rsv = first >> 4 & 7
        opcode = _OPCODES.get(first & 15)
        length = second & 127

        # 1. What two bytes can be wrong about.
        if opcode is None:
            raise BrokenFrame(f"the opcode {first & 15} is reserved")
        if rsv and not self._extensions:
            raise BrokenFrame("a reserved bit is set, and no extension was agreed on")
        if (second >= 0x80) != self._from_client:
            raise BrokenFrame("a frame from the client is not masked" if self._from_client else "a frame from the server is masked")
        if opcode >= Opcode.CLOSE:
            if not fin:
                raise BrokenFrame("a control frame is fragmented")
            if length > CONTROL_AT_MOST:
                raise BrokenFrame(f"a control frame is longer than {CONTROL_AT_MOST} bytes")
        elif (opcode == Opcode.CONTINUATION) != self._in_message:
            raise BrokenFrame("a message begins within another" if self._in_message else "a continuation continues nothing")

        # 2. The length, in as few bytes as hold it.
        size = 2
        if length >= 126:
            size = 4 if length == 126 else 10
            if there < size:
                return None
            length = int.from_bytes(buffer[at + 2 : at + size])
            if length < (126 if size == 4 else 65536):
                raise BrokenFrame("a length is not in its shortest form")
            if length >= 1 << 63:
                raise BrokenFrame("a length is beyond 63 bits")

        # 3. The key.
        key = b""
        if self._from_client:
            if there < size + 4:
                return None
            key = bytes(buffer[at + size : at + size + 4])
            size += 4
        return opcode, fin, rsv, at + size, length, key


def _check_close(data: bytes) -> None:
    """A Close frame's payload is empty, or a code that may be sent and a text (RFC 6455 sections 5.5.1 and 7.4)."""
    if not data:
        return
    code = int.from_bytes(data[:2]) if len(data) > 1 else 0
    if not 1000 <= code < 5000 or code in _NO_CODES:
        raise BrokenFrame("a Close frame has no code that may be sent")


def mask(data: bytes, key: bytes) -> bytes:
    """Mask, or unmask, with the four bytes `key` (RFC 6455 section 5.3)."""
    count = len(data)
    pattern = (key * ((count + 3) // 4))[:count]
    return (int.from_bytes(data, "little") ^ int.from_bytes(pattern, "little")).to_bytes(count, "little")


def encode_frame(frame: Frame, *, masked: bool) -> bytes:
    """The frame as bytes, with a fresh key where `masked`, as it must be towards a server. Raises `ValueError` for one that cannot be."""
    data = frame.data
    length = len(data)
    if not 0 <= frame.rsv <= 7:
        raise ValueError(f"rsv={frame.rsv} is not three bits")
    if frame.opcode >= Opcode.CLOSE and (length > CONTROL_AT_MOST or not frame.fin):
        raise ValueError(f"a control frame has at most {CONTROL_AT_MOST} bytes, in one piece")
    first = frame.fin << 7 | frame.rsv << 4 | frame.opcode
    bit = 0x80 if masked else 0
    if length < 126:
        head = bytes((first, bit | length))
    elif length < 65536:
        head = bytes((first, bit | 126)) + length.to_bytes(2)
    else:
        head = bytes((first, bit | 127)) + length.to_bytes(8)
    if not masked:
        return head + data
    key = os.urandom(4)
    return head + key + mask(data, key)
