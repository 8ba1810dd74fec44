"""permessage-deflate (RFC 7692) for a reader: its parameters in a handshake, and decompression of payloads. No I/O."""

import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from muxwsgi.http.websocket.frame import INVALID_PAYLOAD, BrokenFrame
from muxwsgi.http.websocket.handshake import extensions

__all__ = ["BLOCK", "Deflate", "Inflater", "agreed_deflate"]

#: Bytes of one block from an `Inflater`, at most.
BLOCK = 65536

#: The bytes that a sender removes from the end of each message (RFC 7692 section 7.2.1).
_TAIL = b"\x00\x00\xff\xff"

#: zlib's argument for the largest window of DEFLATE without a header. It also reads data that was written with a smaller window. So the
#: negotiated window sizes do not matter here.
_RAW = -15
_WINDOW = 1 << 15

#: Final blocks of DEFLATE in one frame at most. Each needs a new decompressor, so their number must be limited. Senders write at most one,
#: at the end of a message (RFC 7692 section 7.2.3.4).
_FINAL_BLOCKS = 8

#: Bits of the window that we compress with, and the fewest that zlib can.
_BITS_SENT = 12
_FEWEST_BITS = 9

_ALONE = ("server_no_context_takeover", "client_no_context_takeover")
_BITS = ("server_max_window_bits", "client_max_window_bits")


@dataclass(frozen=True, slots=True)
class Deflate:
    """The negotiated permessage-deflate: whether messages of the client and of the server may refer to earlier ones, and the largest window
    of the server's, in bits."""

    client_context: bool = True
    server_context: bool = True
    server_bits: int = 15


def answer_deflate(offers: str) -> tuple[Deflate | None, str]:
    """What a server agrees to of a request's Sec-WebSocket-Extensions, and its own field value; None and "" for nothing.

    No message refers to an earlier one, in both directions, so a connection that rests needs no memory for a window. An offer that is
    malformed, or that asks for a window of 256 bytes, which zlib cannot make, is declined (RFC 7692 section 7.1).
    """
    for name, parameters in extensions([("sec-websocket-extensions", offers)]):
        if name.lower() != "permessage-deflate":
            continue
        try:
            wanted = _deflate([each for each in parameters if each.lower() != "client_max_window_bits"])
        except ValueError:
            continue
        if wanted.server_bits < _FEWEST_BITS:
            continue
        bits = min(wanted.server_bits, _BITS_SENT)
        limited = f"; server_max_window_bits={bits}" if wanted.server_bits < 15 else ""
        return Deflate(False, False, bits), f"permessage-deflate; server_no_context_takeover; client_no_context_takeover{limited}"
    return None, ""


def deflated(data: bytes, bits: int) -> bytes:
    """The payload of a message that refers to no other, compressed with a window of `bits` (section 7.2.1)."""
    compressor = zlib.compressobj(wbits=-bits, memLevel=5)
    made = compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH)
    return made.removesuffix(_TAIL)


def agreed_deflate(fields: Iterable[tuple[str, str]]) -> Deflate | None:
    """permessage-deflate in the fields of a 101 response; None if it negotiates no extension.

    Raises `ValueError` if payloads cannot be decoded: another extension, or parameters that RFC 7692 section 7.1 forbids.
    """
    found: Deflate | None = None
    for name, parameters in extensions(fields):
        if name.lower() != "permessage-deflate":
            raise ValueError(f"the extension {name!r} was agreed on, which is not known here")
        if found is not None:
            raise ValueError("permessage-deflate was agreed on twice")
        found = _deflate(parameters)
    return found


def _deflate(parameters: list[str]) -> Deflate:
    values: dict[str, str] = {}
    for parameter in parameters:
        name, equals, value = (part.strip() for part in parameter.partition("="))
        name, value = name.lower(), value.strip('"')
        window = name in _BITS and value.isascii() and value.isdigit() and value[0] != "0" and 8 <= int(value[:3]) <= 15
        if name in values or not (window or (name in _ALONE and not equals)):
            raise ValueError(f"permessage-deflate was agreed on with {parameter!r}, which cannot be")
        values[name] = value
    bits = int(values.get("server_max_window_bits", "15"))
    return Deflate("client_no_context_takeover" not in values, "server_no_context_takeover" not in values, bits)


class Inflater:
    """Inflates the compressed messages of one direction, in their order. `keeps_context`: they share a window."""

    __slots__ = ("_keeps_context", "_window", "_zlib")

    def __init__(self, keeps_context: bool) -> None:
        self._keeps_context = keeps_context
        self._window = b""  # the last inflated bytes: zlib needs them after a final block
        self._zlib = zlib.decompressobj(_RAW)

    def inflate(self, data: bytes, fin: bool) -> Iterator[bytes]:
        """The decompressed payload of the next frame, in blocks. `fin` marks the last frame of a message. Raises `BrokenFrame`. Always
        exhaust the iterator."""
        if fin:
            data += _TAIL
        for _ in range(_FINAL_BLOCKS):
            while True:
                try:
                    block = self._zlib.decompress(data, BLOCK)
                except zlib.error as error:
                    raise BrokenFrame(f"a payload cannot be inflated: {error}", INVALID_PAYLOAD) from None
                data = self._zlib.unconsumed_tail
                if block:
                    self._window = (self._window + block)[-_WINDOW:] if len(block) < _WINDOW else block[-_WINDOW:]
                    yield block
                if self._zlib.eof or (not data and len(block) < BLOCK):
                    break
            if not self._zlib.eof:
                break
            data = self._zlib.unused_data
            self._zlib = zlib.decompressobj(_RAW, zdict=self._window)
        else:
            raise BrokenFrame("a frame has too many final blocks of DEFLATE", INVALID_PAYLOAD)
        if fin and not self._keeps_context:
            self._window = b""
            self._zlib = zlib.decompressobj(_RAW)
