"""The messages that frames make up (RFC 6455 section 5.4): fragments joined, inflated and held to UTF-8. No I/O.

`Fragments` takes the data frames of one direction, and yields what each adds to its message, in blocks. It collects nothing. `Messages` is
what an endpoint needs: it collects whole messages up to a size. Control frames are for the caller.
"""

import codecs
from collections.abc import Iterable

from muxwsgi.http.websocket.deflate import Inflater
from muxwsgi.http.websocket.frame import COMPRESSED, CONTROL_AT_MOST, INVALID_PAYLOAD, TOO_BIG, BrokenFrame, Frame, Opcode

__all__ = ["Fragments", "Messages", "close_payload", "close_reason"]


class Fragments:
    """The data frames of one direction, in their order. They may come from a parser, or from rules that changed them.

    under_way   whether a message has begun and not ended
    compressed  whether the last one that began is
    """

    __slots__ = ("_inflater", "compressed", "under_way")

    def __init__(self, inflater: Inflater | None = None) -> None:
        """`inflater` undoes permessage-deflate; None where that was not agreed on."""
        self._inflater = inflater
        self.compressed = False
        self.under_way = False

    def begins(self, frame: Frame) -> bool:
        """Whether a message begins with this data frame, which is the next one. Raises `BrokenFrame` where it cannot be the next."""
        continues = frame.opcode == Opcode.CONTINUATION
        if continues != self.under_way:
            raise BrokenFrame("a message begins within another" if self.under_way else "a continuation continues nothing")
        if frame.rsv and (frame.rsv != COMPRESSED or continues or self._inflater is None):
            raise BrokenFrame("a reserved bit is set that means nothing")
        if not continues:
            self.compressed = frame.rsv == COMPRESSED
        self.under_way = not frame.fin
        return not continues

    def content(self, frame: Frame) -> Iterable[bytes]:
        """What this frame, which `begins` has taken, adds to its message. Compressed content comes in blocks of up to `deflate.BLOCK`
        bytes: a reader counts them, since a frame of a thousand bytes may be a million. Exhaust it, or read no further message.

        Raises `BrokenFrame`.
        """
        if not self.compressed or self._inflater is None:
            return (frame.data,)
        return self._inflater.inflate(frame.data, frame.fin)


class Messages:
    """Whole messages of one direction, of up to `at_most` bytes each, however many frames they come in and however they are compressed."""

    __slots__ = ("_at_most", "_content", "_decoder", "_fragments")

    def __init__(self, at_most: int, inflater: Inflater | None = None) -> None:
        self._at_most = at_most
        self._fragments = Fragments(inflater)
        self._decoder: codecs.IncrementalDecoder | None = None  # of a text that is under way
        self._content = bytearray()

    def add(self, frame: Frame) -> str | bytes | None:
        """The message that this data frame completes, a text as str; None where it is not the last.

        Raises `BrokenFrame`, with `TOO_BIG` for a message that is too long, and with 1007 for a text that is not UTF-8, as soon as that is
        known.
        """
        if self._fragments.begins(frame):
            if frame.fin and not frame.rsv:
                return self._whole(frame)
            self._decoder = codecs.getincrementaldecoder("utf-8")() if frame.opcode == Opcode.TEXT else None
        for block in self._fragments.content(frame):
            self._check_size(len(self._content) + len(block))
            self._content += block
            self._check_text(block, False)
        if not frame.fin:
            return None
        self._check_text(b"", True)
        content, self._content = self._content, bytearray()
        return bytes(content) if self._decoder is None else content.decode()

    def _whole(self, frame: Frame) -> str | bytes:
        """A message of one frame that is not compressed."""
        self._check_size(len(frame.data))
        if frame.opcode != Opcode.TEXT:
            return frame.data
        try:
            return frame.data.decode()
        except UnicodeDecodeError:
            raise BrokenFrame("a text is not UTF-8", INVALID_PAYLOAD) from None

    def _check_size(self, size: int) -> None:
        if size > self._at_most:
            raise BrokenFrame(f"a message is longer than {self._at_most} bytes", TOO_BIG)

    def _check_text(self, block: bytes, final: bool) -> None:
        # What comes out is not kept: as strings, fragments of two characters would take twenty times their size.
        if self._decoder is not None:
            try:
                self._decoder.decode(block, final)
            except UnicodeDecodeError:
                raise BrokenFrame("a text is not UTF-8", INVALID_PAYLOAD) from None


def close_payload(code: int, reason: str = "") -> bytes:
    """The payload of a Close frame, of which `reason` has as many characters as there is room for."""
    return code.to_bytes(2) + reason.encode()[: CONTROL_AT_MOST - 2].decode(errors="ignore").encode()


def close_reason(data: bytes) -> tuple[int | None, str]:
    """The code and the reason in the payload of a Close frame that a parser has taken; None where there is no code (section 7.1.5)."""
    return (int.from_bytes(data[:2]) if data else None), data[2:].decode(errors="replace")
