"""Files over a `Connection`, and files that are sent over it: `makefile` and `sendfile`."""

import io
import socket as socket_module
from typing import IO, TYPE_CHECKING, Any, cast

from muxwsgi.wire.transport import SocketTransport, sent_before
from muxwsgi.wire.vocabulary import descriptor_of

if TYPE_CHECKING:
    from muxwsgi.wire.connection import Connection

__all__ = ["make_file", "send_file"]

#: Bytes of one read from a file that the kernel cannot send by itself.
FILE_BLOCK = 1 << 16


def send_file(connection: "Connection", file: IO[bytes], offset: int, count: int | None) -> int:
    """See `Connection.sendfile`."""
    if isinstance(file, io.TextIOBase):
        raise ValueError("sendfile() takes a file in binary mode")
    transport = connection._transport
    found = descriptor_of(file) if isinstance(transport, SocketTransport) else None
    if isinstance(transport, SocketTransport) and found is not None:
        fd, size = found
        try:
            sent = transport.sendfile(fd, offset, max(size - offset, 0) if count is None else count, connection._timeout)
        except BaseException as error:
            connection.bytes_sent += sent_before(error)
            raise
        connection.bytes_sent += sent
        return sent
    seekable = getattr(file, "seekable", None)
    if offset or (seekable is not None and seekable()):
        file.seek(offset)
    sent = 0
    while count is None or sent < count:
        block = file.read(FILE_BLOCK if count is None else min(FILE_BLOCK, count - sent))
        if not block:
            break
        connection.sendall(block)
        sent += len(block)
    return sent


def make_file(
    connection: "Connection", mode: str, buffering: int | None, encoding: str | None, errors: str | None, newline: str | None
) -> IO[Any]:
    """See `Connection.makefile`."""
    if not set(mode) <= set("rwb"):
        raise ValueError(f"invalid mode {mode!r} (only r, w, b allowed)")
    writing = "w" in mode
    reading = "r" in mode or not writing
    raw_mode = ("r" if reading else "") + ("w" if writing else "")
    raw = socket_module.SocketIO(cast(socket_module.socket, connection), cast(Any, raw_mode))
    connection._files += 1
    if buffering is None or buffering < 0:
        buffering = io.DEFAULT_BUFFER_SIZE
    if buffering == 0:
        if "b" not in mode:
            raise ValueError("unbuffered streams must be binary")
        return cast(IO[Any], raw)
    file = _file(raw, mode, reading, writing, buffering, encoding, errors, newline)
    connection._extras().note_file(file)
    return file


def _file(
    raw: socket_module.SocketIO,
    mode: str,
    reading: bool,
    writing: bool,
    buffering: int,
    encoding: str | None,
    errors: str | None,
    newline: str | None,
) -> IO[Any]:
    """`raw` with a buffer, for bytes or text."""
    stream: io.BufferedIOBase
    if reading and writing:
        stream = io.BufferedRWPair(raw, raw, buffering)
    elif reading:
        stream = io.BufferedReader(raw, buffering)
    else:
        stream = io.BufferedWriter(raw, buffering)
    if "b" in mode:
        return cast(IO[Any], stream)
    return io.TextIOWrapper(cast(IO[bytes], stream), encoding, errors, newline)
