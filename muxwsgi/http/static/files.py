"""One regular file as a response: validators, conditions, ranges, HEAD. The server sends it with sendfile(2) if it can.

A file is opened before anything is decided about it, and all facts are those of the descriptor: nobody can exchange the file in between.
"""

import io
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from time import monotonic
from typing import Any

from muxwsgi.http.environ import Environ
from muxwsgi.http.file_wrapper import FileWrapper
from muxwsgi.http.static.conditions import Validators, precondition, wanted_ranges
from muxwsgi.wire.plain_socket import close_now

__all__ = ["NotThere", "OpenFile", "answer", "respond"]

Fields = list[tuple[str, str]]

#: Files of up to so many bytes are read and sent with the head, in one write.
SMALL = 1 << 15

_BLOCK = 1 << 16


class NotThere(Exception):
    """There is no file of this name that may be served."""


class OpenFile:
    """A regular file below a folder, open for reading. Close it, or give it to `respond`.

    fd          the descriptor
    size        bytes
    validators  see `Validators`
    """

    __slots__ = ("fd", "size", "validators")

    def __init__(self, path: bytes, root: bytes) -> None:
        """Raises `NotThere` for what is no regular file, cannot be opened, or lies outside of `root` (an absolute path without symbolic
        links) because of a symbolic link. Raises `OSError` if the machine has no descriptor left."""
        try:
            # Without O_NONBLOCK, opening a FIFO would wait for its writer, and with it every connection.
            self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        except (FileNotFoundError, NotADirectoryError, PermissionError, ValueError) as error:
            raise NotThere from error
        except OSError as error:
            if error.errno in _NO_DESCRIPTORS:
                raise
            raise NotThere from error
        try:
            known = os.fstat(self.fd)
            if not stat.S_ISREG(known.st_mode) or not _is_below(self.fd, root, path, known):
                raise NotThere
        except BaseException:
            close_now(self.fd)
            raise
        self.size = known.st_size
        self.validators = Validators(f'"{known.st_mtime_ns:x}-{known.st_size:x}"', known.st_mtime_ns // 1_000_000_000)

    def close(self) -> None:
        """Close the descriptor, unless `file` has it. Idempotent."""
        if self.fd >= 0:
            close_now(self.fd)  # no watcher has this descriptor
            self.fd = -1

    def file(self) -> io.FileIO:
        """A file object, which owns the descriptor from now on."""
        fd, self.fd = self.fd, -1
        return io.FileIO(fd, "rb", closefd=True)


_NO_DESCRIPTORS = (23, 24)  # ENFILE, EMFILE


#: By path: root, device, inode and until when. This file was below the root when it was opened by this path a moment ago.
_seen_below: dict[bytes, tuple[bytes, int, int, float]] = {}
_REMEMBERED, _REMEMBERED_AT_MOST = 1.0, 1024


def _is_below(fd: int, root: bytes, path: bytes, known: os.stat_result) -> bool:
    """Whether the file of a descriptor lies below `root`: the kernel says where it is, after all symbolic links. `known` is of the
    descriptor, which `path` led to. It is asked again for the same file after a second, because this takes longer than opening it."""
    now = monotonic()
    seen = _seen_below.get(path)
    if seen is not None and seen[1] == known.st_dev and seen[2] == known.st_ino and seen[0] == root and now < seen[3]:
        return True
    real = os.readlink(b"/proc/self/fd/%d" % fd)
    if not real.startswith(root if root.endswith(b"/") else root + b"/"):
        return False
    if len(_seen_below) >= _REMEMBERED_AT_MOST:
        _seen_below.clear()
    _seen_below[path] = root, known.st_dev, known.st_ino, now + _REMEMBERED
    return True


def respond(environ: Environ, start_response: Callable[..., Any], file: OpenFile, fields: Fields) -> Iterable[bytes]:
    """Answer a GET or HEAD with `file`, which is closed in the end. `fields` are sent with it: its Content-Type and others.

    200, 206 for ranges (several are multipart/byteranges), 304, 412, or 416.
    """
    try:
        return _respond(environ, start_response, file, fields)
    finally:
        file.close()


def _respond(environ: Environ, start_response: Callable[..., Any], file: OpenFile, fields: Fields) -> Iterable[bytes]:
    now = file.validators
    fields = [*fields, ("ETag", now.tag), ("Last-Modified", now.last_modified), ("Accept-Ranges", "bytes")]
    reading = environ["REQUEST_METHOD"] in ("GET", "HEAD")
    ended = precondition(environ, now) if reading else None
    if ended == 304:
        kept = [field for field in fields if field[0].lower() not in ("content-type", "content-encoding", "accept-ranges")]
        start_response("304 Not Modified", kept)
        return []
    if ended == 412:
        return answer(start_response, "412 Precondition Failed", [])
    ranges = wanted_ranges(environ, now, file.size)
    if ranges is not None and not ranges:
        return answer(start_response, "416 Range Not Satisfiable", [("Content-Range", f"bytes */{file.size}")])
    if ranges is not None and len(ranges) > 1:
        return _several(start_response, file, fields, ranges)
    first, count = (0, file.size) if ranges is None else ranges[0]
    fields.append(("Content-Length", str(count)))
    if ranges is None:
        status = "200 OK"
    else:
        status = "206 Partial Content"
        fields.append(("Content-Range", f"bytes {first}-{first + count - 1}/{file.size}"))
    start_response(status, fields)
    if environ["REQUEST_METHOD"] == "HEAD":
        return []
    if count <= SMALL:
        return [os.pread(file.fd, count, first)]
    opened = file.file()
    opened.seek(first)
    return FileWrapper(opened)


def answer(start_response: Callable[..., Any], status: str, fields: Fields) -> list[bytes]:
    """Answer with `status` and its phrase as text, instead of a file."""
    start_response(status, [("Content-Type", "text/plain; charset=utf-8"), *fields])
    return [f"{status[4:]}\n".encode()]


def _several(start_response: Callable[..., Any], file: OpenFile, fields: Fields, ranges: list[tuple[int, int]]) -> Iterable[bytes]:
    """multipart/byteranges (RFC 9110 section 14.6)."""
    boundary = os.urandom(12).hex()
    kind = next((value for name, value in fields if name.lower() == "content-type"), "application/octet-stream")
    parts = [
        (
            f"\r\n--{boundary}\r\nContent-Type: {kind}\r\nContent-Range: bytes {first}-{first + count - 1}/{file.size}\r\n\r\n".encode(
                "latin-1"
            ),
            first,
            count,
        )
        for first, count in ranges
    ]
    end = f"\r\n--{boundary}--\r\n".encode()
    length = sum(len(head) + count for head, _, count in parts) + len(end)
    kept = [field for field in fields if field[0].lower() != "content-type"]
    start_response(
        "206 Partial Content", [*kept, ("Content-Type", f"multipart/byteranges; boundary={boundary}"), ("Content-Length", str(length))]
    )
    return _Parts(file.file(), parts, end)


class _Parts:
    """The iterable of several ranges. Closing it closes the file."""

    def __init__(self, file: io.FileIO, parts: list[tuple[bytes, int, int]], end: bytes) -> None:
        self._file = file
        self._pieces = self._read(parts, end)

    def __iter__(self) -> Iterator[bytes]:
        return self._pieces

    def _read(self, parts: list[tuple[bytes, int, int]], end: bytes) -> Iterator[bytes]:
        for head, first, count in parts:
            yield head
            self._file.seek(first)
            while count:
                block = self._file.read(min(count, _BLOCK))
                if not block:
                    return  # the file has become shorter: the response is cut, and the client can tell
                count -= len(block)
                yield block
        yield end

    def close(self) -> None:
        self._file.close()
