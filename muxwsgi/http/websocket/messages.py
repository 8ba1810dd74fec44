"""Makes messages of frames (RFC 6455 section 5.4): joins and inflates fragments, and checks for UTF-8. No I/O.

`Fragments` takes the data frames of one direction, and yields the content of each, in blocks. It does not collect them. `Messages` is for
endpoints: it collects whole messages up to a size. The caller handles control frames.
"""

import codecs
from collections.abc import Iterable

from muxwsgi.http.websocket.deflate import Inflater
from muxwsgi.http.websocket.frame import COMPRESSED, CONTROL_AT_MOST, INVALID_PAYLOAD, TOO_BIG, BrokenFrame, Frame, Opcode

__all__ = ["Fragments", "Messages", "close_payload", "close_reason"]


class Fragments:
    """The data frames of one direction, in their order. They may come from a parser, or from rules that changed them.

    under_way   whether a message has begun and not ended
    compressed  whether the message that began last is compressed
    """

    __slots__ = ("_inflater", "compressed", "under_way")

    def __init__(self, inflater: Inflater | None = None) -> None:
        """`inflater` inflates messages; None if permessage-deflate was not negotiated."""
        self._inflater = inflater
        self.compressed = False
        self.under_way = False

    def begins(self, frame: Frame) -> bool:
        """Take the next data frame. Returns whether it begins a message. Raises `BrokenFrame` if it is not allowed at this place."""
        number: int = frame.opcode
        continues = number == 0
        if continues != self.under_way:
            raise BrokenFrame("a message begins within another" if self.under_way else "a continuation continues nothing")
        if frame.rsv and (frame.rsv != COMPRESSED or continues or self._inflater is None):
            raise BrokenFrame("a reserved bit is set that means nothing")
        if not continues:
            self.compressed = frame.rsv == COMPRESSED
        self.under_way = not frame.fin
        return not continues

    def content(self, frame: Frame) -> Iterable[bytes]:
        """The content of this frame, which `begins` has taken. Compressed content comes in blocks of up to `deflate.BLOCK` bytes. Count the
        bytes, because a frame of a thousand bytes may inflate to a million. Exhaust the iterable before the next message.

        Raises `BrokenFrame`.
        """
        if not self.compressed or self._inflater is None:
            return (frame.data,)
        return self._inflater.inflate(frame.data, frame.fin)


class Messages:
    """Collects whole messages of one direction, of up to `at_most` inflated bytes each, from any number of frames.

    inflated    bytes that compressed frames have become, up to a thousand times their own. The caller may set it to 0
    """

    __slots__ = ("_at_most", "_content", "_decoder", "_fragments", "inflated")

    def __init__(self, at_most: int, inflater: Inflater | None = None) -> None:
        self._at_most = at_most
        self._fragments = Fragments(inflater)
        self._decoder: codecs.IncrementalDecoder | None = None  # of an incomplete text
        self._content = bytearray()
        self.inflated = 0

    def add(self, frame: Frame) -> str | bytes | None:
        """The message that this data frame completes, a text as str; None if the frame is not the last.

        Raises `BrokenFrame` at the first faulty frame: with `TOO_BIG` for a message that is too long, and with 1007 for a text that is not
        UTF-8.
        """
        if self._fragments.begins(frame):
            if frame.fin and frame.rsv == 0:
                return self._whole(frame)
            self._decoder = codecs.getincrementaldecoder("utf-8")() if frame.opcode == Opcode.TEXT else None
        for block in self._fragments.content(frame):
            self._check_size(len(self._content) + len(block))
            self._content += block
            self._check_text(block, False)
            if self._fragments.compressed:
                self.inflated += len(block)
        if not frame.fin:
            return None
        self._check_text(b"", True)
        content, self._content = self._content, bytearray()
        return bytes(content) if self._decoder is None else content.decode()

    def _whole(self, frame: Frame) -> str | bytes:
        """A message of one frame that is not compressed."""
        self._check_size(len(frame.data))
        number: int = frame.opcode
        if number != 1:
            return frame.data
        try:
            return frame.data.decode()
        except UnicodeDecodeError:
            raise BrokenFrame("a text is not UTF-8", INVALID_PAYLOAD) from None

    def _check_size(self, size: int) -> None:
        if size > self._at_most:
            raise BrokenFrame(f"a message is longer than {self._at_most} bytes", TOO_BIG)

    def _check_text(self, block: bytes, final: bool) -> None:
        # The decoded strings are not kept. For fragments of two characters they would take twenty times the memory of the bytes.
        if self._decoder is not None:
            try:
                self._decoder.decode(block, final)
            except UnicodeDecodeError:
                raise BrokenFrame("a text is not UTF-8", INVALID_PAYLOAD) from None


def close_payload(code: int, reason: str = "") -> bytes:
    """The payload of a Close frame. It contains as many characters of `reason` as there is room for."""
    return code.to_bytes(2) + reason.encode()[: CONTROL_AT_MOST - 2].decode(errors="ignore").encode()


def close_reason(data: bytes) -> tuple[int | None, str]:
    """The code and the reason in the payload of a Close frame that a parser has accepted; None if there is no code (section 7.1.5)."""
    return (int.from_bytes(data[:2]) if data else None), data[2:].decode(errors="replace")
