"""`wsgi.file_wrapper` (PEP 3333), and which files the kernel can send by itself."""

import io
import os
import stat
from typing import IO

__all__ = ["FileWrapper", "region"]


class FileWrapper:
    """`wsgi.file_wrapper`: an iterator over a file in blocks, which the server sends by itself where it can.

    It seeks and tells where the file does: werkzeug answers a Range by going to its first byte.
    """

    def __init__(self, file: IO[bytes], block_size: int = 65536) -> None:
        self.file = file
        self.block_size = block_size

    def __iter__(self) -> "FileWrapper":
        return self

    def __next__(self) -> bytes:
        block = self.file.read(self.block_size)
        if not block:
            raise StopIteration
        return block

    def seekable(self) -> bool:
        """Whether the file can be read from another place."""
        seekable = getattr(self.file, "seekable", None)
        return bool(seekable()) if seekable is not None else hasattr(self.file, "seek") and hasattr(self.file, "tell")

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """As the file's."""
        return self.file.seek(offset, whence)

    def tell(self) -> int:
        """As the file's."""
        return self.file.tell()

    def close(self) -> None:
        if hasattr(self.file, "close"):
            self.file.close()


def region(file: IO[bytes]) -> tuple[int, int] | None:
    """From where to where `file` would be read: an offset, and a number of bytes. None where its descriptor does not give just these bytes,
    so that the file has to be read."""
    if not _is_plain(file):
        return None
    try:
        file.flush()  # what was written to it and has not left Python
        information = os.fstat(file.fileno())
        offset = file.tell()
    except (OSError, ValueError):  # a pipe, a file that is closed: reading it raises the error
        return None
    # Files in /proc and /sys have no meaningful size, and no blocks. Other files without blocks (sparse, empty) are read too.
    if not stat.S_ISREG(information.st_mode) or not information.st_blocks:
        return None
    return offset, max(information.st_size - offset, 0)


def _is_plain(file: object) -> bool:
    """Whether `file` gives exactly the bytes of its descriptor. Others have a `fileno()` too, and change what they read: `gzip.open`, a
    `BufferedReader` over one, a class of the application's."""
    kind = type(file)
    if kind is io.BufferedReader or kind is io.BufferedRandom:
        kind = type(file.raw)  # type: ignore[attr-defined]
    return kind is io.FileIO
