"""Content codings off, while the body streams (RFC 9110 section 8.4.1): gzip and deflate always, br and zstd where their packages are.

Every step's output is bounded, because a few bytes of input can become very many. So a decoder must be able to stop in the middle. That is
why brotli counts from 1.2 on only (before, one call could return gigabytes), and zstd by the interface of Python 3.14's `compression.zstd`,
which `backports.zstd` has for the versions before. What bounds the whole is `DecodeLimits`.

Nothing is encoded again here: a body that was only read goes on in its coding, and another one in its place is sent plain. `compression`
encodes the responses of applications.
"""

import importlib
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Protocol

from muxwsgi.wire.ready import give_turn

__all__ = ["DecodeLimits", "Undecodable", "brotli_module", "decodable", "decoded", "zstd_module"]

#: Bytes that one step of a decoder gives at most.
STEP = 1 << 16

#: Pieces after which others have their turn: where reading and sending need not wait, nothing else would give them one.
PIECES_PER_TURN = 64

#: gzip members and zstd frames with nothing in them that a body may have. Some writers end with one; more of them only take time.
EMPTY_AT_MOST = 100

#: Codings applied one after the other, at most. Real messages have one.
LAYERS_AT_MOST = 3

#: A zstd decoder keeps this window at most: 8 MiB, which is what RFC 9659 lets a server use.
ZSTD_WINDOW_LOG = 23

#: Codings that clients decode (the IANA registry). Any other word there is a mistake of the server, and clients show the body as it is.
_CODINGS = frozenset({"gzip", "x-gzip", "deflate", "compress", "x-compress", "br", "zstd", "dcb", "dcz"})


class Undecodable(Exception):
    """A body cannot be decoded. `reason` is one line for the peer and the logs."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeLimits:
    """What a body may become.

    ratio           times its encoded size that a body may be; gzip can do 1032, honest text rarely 30
    ratio_from      decoded bytes from which that counts, so that a small page of blanks may pass
    size            decoded bytes in all, which bounds the time that one body costs
    """

    ratio: int = 200
    ratio_from: int = 16 << 20
    size: int = 16 << 30


class _Decoder(Protocol):
    """`feed` gives what `data` decodes to, in pieces of at most about `STEP` bytes. `complete` is whether the coding has ended."""

    complete: bool

    def feed(self, data: bytes) -> Iterator[bytes]: ...


class _Zlib:
    """gzip (RFC 1952), of several members too, and deflate: zlib (RFC 1950) as it is written, or raw (RFC 1951) as some servers read it."""

    def __init__(self, *, gzip: bool) -> None:
        self._gzip = gzip
        self._start = b""
        self._stream = zlib.decompressobj(wbits=31) if gzip else None
        self._given = False  # whether the member has had anything in it
        self._empty = 0
        self.complete = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        if self._stream is None:
            data = self._start + data
            if len(data) < 2:
                self._start = data
                return
            self._start = b""
            zlib_header = data[0] & 0x0F == 8 and (data[0] << 8 | data[1]) % 31 == 0
            self._stream = zlib.decompressobj(wbits=15 if zlib_header else -15)
        if self._start:
            data, self._start = self._start + data, b""
        while data:
            if self.complete:
                # Another member, or padding, which gunzip ignores as well.
                if len(data) < 2:
                    self._start = data
                    return
                if not self._gzip or data[:2] != b"\x1f\x8b":
                    return
                self._empty = _another_empty(self._empty, self._given)
                self._stream = zlib.decompressobj(wbits=31)
                self._given = self.complete = False
            piece = self._stream.decompress(data, STEP)
            if piece:
                self._given = True
                yield piece
            data = self._stream.unconsumed_tail
            if self._stream.eof:
                self.complete = True
                data = self._stream.unused_data
            elif not data and len(piece) == STEP:
                # All input is inside, and there may be more output in there.
                while piece := self._stream.decompress(b"", STEP):
                    yield piece
                self.complete = self._stream.eof
                data = self._stream.unused_data


class _Brotli:
    def __init__(self, brotli: ModuleType) -> None:
        self._stream = brotli.Decompressor()
        self.complete = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        stream = self._stream
        if self.complete:
            return
        while True:
            piece = stream.process(data, output_buffer_limit=STEP)
            data = b""
            if piece:
                yield piece
            if stream.is_finished():
                self.complete = True
                return
            if stream.can_accept_more_data() and len(piece) < STEP:
                return


class _Zstd:
    """Of several frames too."""

    def __init__(self, zstd: ModuleType) -> None:
        self._zstd = zstd
        self._stream = self._new()
        self._given = False  # whether the frame has had anything in it
        self._empty = 0
        self.complete = False

    def _new(self) -> Any:
        return self._zstd.ZstdDecompressor(options={self._zstd.DecompressionParameter.window_log_max: ZSTD_WINDOW_LOG})

    def feed(self, data: bytes) -> Iterator[bytes]:
        while data or not self._stream.needs_input:
            if self._stream.eof:
                if not data:
                    return
                self._empty = _another_empty(self._empty, self._given)
                self._stream = self._new()
                self._given = self.complete = False
            piece = self._stream.decompress(data, STEP)
            if piece:
                self._given = True
                yield piece
            data = b""
            if self._stream.eof:
                self.complete = True
                data = self._stream.unused_data
                if not data:
                    return


def _another_empty(count: int, given: bool) -> int:
    """How many empty parts there were, when one has ended. Raises `ValueError` for too many."""
    if given:
        return count
    if count >= EMPTY_AT_MOST:
        raise ValueError(f"more than {EMPTY_AT_MOST} parts of it are empty")
    return count + 1


def _found(*names: str) -> ModuleType | None:
    for name in names:
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    return None


def brotli_module() -> ModuleType | None:
    """The package brotli, None if it is missing or too old."""
    brotli = _found("brotli")
    return brotli if brotli is not None and hasattr(brotli.Decompressor, "can_accept_more_data") else None


def zstd_module() -> ModuleType | None:
    """Python's module for zstd, or the package that has it for earlier versions; None if both are missing."""
    return _found("compression.zstd", "backports.zstd")


def _decoders() -> dict[str, Callable[[], _Decoder]]:
    decoders: dict[str, Callable[[], _Decoder]] = {
        "gzip": lambda: _Zlib(gzip=True),
        "x-gzip": lambda: _Zlib(gzip=True),
        "deflate": lambda: _Zlib(gzip=False),
    }
    brotli = brotli_module()
    if brotli is not None:
        decoders["br"] = lambda: _Brotli(brotli)
    zstd = zstd_module()
    if zstd is not None:
        decoders["zstd"] = lambda: _Zstd(zstd)
    return decoders


_DECODERS = _decoders()


def decodable() -> frozenset[str]:
    """The codings that can be taken off here."""
    return frozenset(_DECODERS)


def decoded(pieces: Iterable[bytes], content_encoding: str, limits: DecodeLimits = DecodeLimits()) -> Iterator[bytes] | None:
    """`pieces` decoded according to Content-Encoding; None for a coding that a client would not decode either.

    Raises `Undecodable` at once for a coding that exists and cannot be taken off here, and while iterating for a body that is malformed,
    cut off or larger than `limits`.
    """
    codings = [coding.strip().lower() for coding in content_encoding.split(",")]
    codings = [coding for coding in codings if coding in _CODINGS]
    if not codings:
        return None
    if len(codings) > LAYERS_AT_MOST:
        raise Undecodable(f"the body is encoded {len(codings)} times")
    for coding in codings:
        if coding not in _DECODERS:
            raise Undecodable(f"the body is encoded with {coding!r}, which cannot be decoded here")
    source = _Counted(pieces)
    steps: Iterator[bytes] = iter(source)
    for coding in reversed(codings):
        # Each by itself: what one makes a thousand times as large, the next may make nothing of, and take as long.
        steps = _limited(_decode(steps, coding), source, limits)
    return steps


class _Counted:
    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = pieces
        self.size = 0

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._pieces:
            self.size += len(piece)
            yield piece


def _decode(pieces: Iterator[bytes], coding: str) -> Iterator[bytes]:
    decoder = _DECODERS[coding]()
    began = False
    for piece in pieces:
        began = began or bool(piece)
        try:
            yield from decoder.feed(piece)
        except Exception as error:  # each package has its own class for bad input
            raise Undecodable(f"the body is not {coding}: {error}")
    if began and not decoder.complete:
        raise Undecodable(f"the body ends in the middle of its {coding} coding")


def _limited(pieces: Iterator[bytes], source: _Counted, limits: DecodeLimits) -> Iterator[bytes]:
    size = 0
    for count, piece in enumerate(pieces, 1):
        size += len(piece)
        if count % PIECES_PER_TURN == 0:
            give_turn()
        if size > limits.size or (size > limits.ratio_from and size > limits.ratio * source.size):
            raise Undecodable(f"the body of {source.size} bytes decodes to more than {size}, which is too much")
        yield piece
