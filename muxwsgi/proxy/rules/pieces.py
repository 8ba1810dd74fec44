"""A message's body as an iterable of bytes: pieces of a file, a file over pieces, and all pieces joined up to a limit."""

import io
from collections.abc import Callable, Iterable, Iterator
from typing import IO, Any

from muxwsgi.proxy.fault import Fault, Phase

__all__ = ["BUFFER_LIMIT", "OF_BYTES", "PieceFile", "Unread", "join", "pieces_of", "watched"]

#: Bytes of one body that a rule may have in memory, so that a rule that reads all bodies does not use up the memory.
BUFFER_LIMIT = 16 << 20

#: Fields that describe the exact bytes of a body. They are wrong for another body.
OF_BYTES = ("Transfer-Encoding", "Content-Encoding", "Content-Length", "Trailer", "Content-MD5", "Digest", "Content-Digest", "Repr-Digest")

BLOCK = 65536


class Unread:
    """The client's body for `Request.stream`. It notices when it is read."""

    __slots__ = ("_file", "touched")

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.touched = False

    def __getattr__(self, name: str) -> Any:
        if name.startswith("read") and name != "readable":
            self.touched = True
        return getattr(self._file, name)

    def __iter__(self) -> Iterator[bytes]:
        self.touched = True
        return iter(self._file)


class PieceFile(io.RawIOBase):
    """A file over an iterable."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = iter(pieces)
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._rest = piece
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count


def pieces_of(file: Any) -> Iterator[bytes]:
    """The bytes of a file as they come. It does not wait for full blocks if the file has `read1`."""
    read = file.read1 if hasattr(file, "read1") else file.read
    while piece := read(BLOCK):
        yield piece


def join(pieces: Iterable[bytes], limit: int, too_large: Callable[[], Exception]) -> bytes:
    """All of `pieces`. Raises what `too_large` makes once there are more than `limit` bytes."""
    parts = []
    size = 0
    for piece in pieces:
        size += len(piece)
        if size > limit:
            raise too_large()
        parts.append(piece)
    return parts[0] if len(parts) == 1 else b"".join(parts)


Pieces = Iterable[bytes]


def watched(pieces: Pieces, watch: Callable[[Pieces], Pieces], decode: Callable[[Pieces], Pieces | None] | None) -> Pieces:
    """`pieces`, each sent on after `watch` has got it, decoded by `decode`.

    Raises `Fault` while iterating if more than `BUFFER_LIMIT` bytes decode to nothing.
    """
    passed = bytearray()

    def noted() -> Iterator[bytes]:
        for piece in pieces:
            passed.extend(piece)
            if len(passed) > BUFFER_LIMIT:  # an endless name in gzip's header, empty blocks, padding behind the end
                raise Fault(Phase.BODY, f"{BUFFER_LIMIT} bytes of the body decode to nothing")
            yield piece

    shown = None if decode is None else decode(noted())
    return watch(pieces) if shown is None else _in_step(watch(shown), passed)


def _in_step(shown: Pieces, passed: bytearray) -> Iterator[bytes]:
    for _ in shown:
        if passed:
            yield _taken(passed)
    if passed:
        yield _taken(passed)


def _taken(buffer: bytearray) -> bytes:
    data = bytes(buffer)
    buffer.clear()
    return data
