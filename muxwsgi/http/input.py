"""`wsgi.input`: a body as the file that PEP 3333 describes, for every framing."""

from io import BytesIO

from muxwsgi.errors import PeerError
from muxwsgi.http.body import Body
from muxwsgi.http.unreadable import raise_unreadable

__all__ = ["Input"]

#: Bytes asked for at once.
BLOCK = 65536

#: Reads of less than this use a separate buffer, because each small read from the connection's buffer would copy the rest.
DIRECT_AT_LEAST = 8192


class Input:
    """`wsgi.input` (PEP 3333): a file that ends where the body ends, with every framing.

    If the body cannot be read to its end, each method raises the `OSError` of `Body.read_some`, through `raise_unreadable`.
    """

    __slots__ = ("_body", "_buffer", "closed")

    def __init__(self, body: Body) -> None:
        self._body = body
        self._buffer = bytearray()
        self.closed = False

    def read(self, size: int | None = -1) -> bytes:
        """`size` bytes, fewer at the end of the body only; all for -1 or None."""
        try:
            buffer = self._buffer
            everything = size is None or size < 0
            if not buffer and self._body.direct:
                # Without a copy: one read from the socket is one block for the application, and a small body is here whole.
                data = self._body.read_some(BLOCK if everything else max(size or 0, DIRECT_AT_LEAST))
                if self._body.done and (everything or len(data) <= (size or 0)):
                    return data
                if len(data) == size:
                    return data
                buffer += data
            if not everything and len(buffer) >= (size or 0):
                return self._cut(size or 0)
            return self._gather(-1 if everything else (size or 0))
        except (PeerError, OSError) as error:
            raise_unreadable(error)

    def _gather(self, size: int) -> bytes:
        """`size` bytes, more than there are in the buffer; -1 for all.

        `BytesIO.getvalue` gives its memory away and copies nothing, so a large body is in memory once.
        """
        gathered = BytesIO()
        count = gathered.write(self._buffer)
        self._buffer.clear()
        try:
            while size < 0 or count < size:
                data = self._body.read_some(BLOCK if size < 0 else max(size - count, DIRECT_AT_LEAST))
                if not data:
                    break
                count += gathered.write(data)
        except BaseException:  # a Timeout of the application's, which may read on
            self._buffer += gathered.getvalue()
            raise
        if 0 <= size < count:
            gathered.seek(size)
            self._buffer += gathered.read()
            gathered.truncate(size)
        return gathered.getvalue()

    def read1(self, size: int | None = -1) -> bytes:
        """At most `size` bytes, as soon as there are any; b"" at the end of the body. For gateways that stream a body."""
        try:
            most = BLOCK if size is None or size < 0 else size
            if self._buffer:
                return self._cut(most)
            return self._body.read_some(most)
        except (PeerError, OSError) as error:
            raise_unreadable(error)

    def readline(self, size: int | None = -1) -> bytes:
        """A line with its newline; at most `size` bytes of it; the rest at the end of the body."""
        try:
            most = -1 if size is None else size
            buffer = self._buffer
            searched = 0
            while True:
                end = buffer.find(b"\n", searched) + 1
                if end or 0 <= most <= len(buffer):
                    break
                searched = len(buffer)
                data = self._body.read_some(BLOCK)
                if not data:
                    end = len(buffer)
                    break
                buffer += data
            end = end or len(buffer)
            return self._cut(end if most < 0 else min(end, most))
        except (PeerError, OSError) as error:
            raise_unreadable(error)

    def readlines(self, hint: int | None = None) -> list[bytes]:
        """All lines; no more once they have `hint` bytes."""
        lines = []
        total = 0
        for line in self:
            lines.append(line)
            total += len(line)
            if hint and total >= hint:
                break
        return lines

    def __iter__(self) -> "Input":
        return self

    def __next__(self) -> bytes:
        line = self.readline()
        if not line:
            raise StopIteration
        return line

    def readable(self) -> bool:
        """Always: for `io` wrappers."""
        return True

    def close(self) -> None:
        """Does nothing, because the server closes the input (PEP 3333)."""

    def _cut(self, count: int) -> bytes:
        buffer = self._buffer
        if count >= len(buffer):
            data = bytes(buffer)
            buffer.clear()
            return data
        with memoryview(buffer) as view:
            data = bytes(view[:count])
        del buffer[:count]
        return data
