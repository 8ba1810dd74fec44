"""`Sender`: the frames that one connection sends, until its greenlets write them, and the windows of the peer (RFC 9113 section 6.9).

Heads of responses are much alike. The last one is kept whole, and of others the part that the application gave. Both are valid for as long
as the encoder's table does not change (see `encoder`).
"""

import os

from muxwsgi.http.date import http_date
from muxwsgi.http.h2.encoder import Encoder, Pair
from muxwsgi.http.h2.field import OF_CONNECTIONS
from muxwsgi.http.h2.frames import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    FRAME_AT_MOST,
    HEADERS,
    PREFACE,
    WINDOW_WITHOUT_SETTINGS,
    data_head,
    frame,
    head_and_data,
)
from muxwsgi.http.h2.stream import Stream
from muxwsgi.wire.syscalls import second

__all__ = ["OwnFields", "Sender", "spelled"]

#: Encoded heads that a connection keeps.
KEPT_AT_MOST = 32


class OwnFields:
    """The fields that the server adds to responses: the same for all connections of an engine.

    server      value of Server, b"" for none
    date        value of Date, of the second of the last `refresh`
    closing     whether connections end, because the server drains
    """

    __slots__ = ("_second", "closing", "date", "server")

    def __init__(self, server: str) -> None:
        self.server = server.encode("ascii")
        self.date = b""
        self.closing = False
        self._second = -1

    def refresh(self) -> int:
        """Make `date` of this second, and return the second."""
        now = second()
        if now != self._second:
            self._second = now
            self.date = http_date(now).encode("ascii")
        return now


def spelled(status: str, fields: list[tuple[str, str]]) -> bytes:
    """Status and fields as `Sender.head` takes them: a line for each. No field can have a line break in it. Fields that describe a
    connection, such as Upgrade of a 426, are left out: with one a client takes the response for malformed (section 8.2.2)."""
    lines = [status[:3]]
    for name, value in fields:
        lower = name.lower()
        if lower not in OF_CONNECTIONS:
            lines.append(lower)
            lines.append(value)
    return "\n".join(lines).encode("latin-1")


def _pairs(block: bytes) -> list[Pair]:
    status, *lines = block.split(b"\n")
    return [(b":status", status), *zip(lines[::2], (value.strip(b" \t") for value in lines[1::2]), strict=True)]


class Sender:
    """What one connection sends.

    encoder         the tables of HPACK
    window          bytes of DATA that the peer lets us send on the connection
    initial         the window of a new stream
    frame_at_most   bytes of a frame that the peer takes
    size            bytes of the frames that wait to be written
    due             a greenlet will write them soon, and has not begun
    """

    __slots__ = (
        "_dated",
        "_head",
        "_head_block",
        "_head_changes",
        "_head_second",
        "_head_total",
        "_kept",
        "_out",
        "_own",
        "_served",
        "due",
        "encoder",
        "frame_at_most",
        "initial",
        "size",
        "window",
    )

    def __init__(self, own: OwnFields, names: frozenset[bytes] | None = None) -> None:
        """`names` as of `Encoder`."""
        self._own = own
        self._out: list[bytes | memoryview] = []
        self.encoder = Encoder(names)
        self.window = WINDOW_WITHOUT_SETTINGS
        self.initial = WINDOW_WITHOUT_SETTINGS
        self.frame_at_most = FRAME_AT_MOST
        self.size = 0
        self.due = False
        self._kept: dict[bytes, tuple[int, bytes]] = {}  # the encoder's changes, and the application's part of a head
        self._head = b""  # the last head, and what it was made of
        self._head_block: bytes | None = None
        self._head_total = -1
        self._head_second = -1
        self._head_changes = -1
        self._dated = False
        self._served = False

    def take(self) -> bytes | memoryview:
        """All frames that wait, in the order in which they have to be sent. b"" if there are none."""
        out = self._out
        if not out:
            return b""
        self._out = []
        self.size = 0
        if len(out) == 1:
            return out[0]
        return b"".join(out)

    def preface(self) -> None:
        """What a client sends first."""
        self._out.append(PREFACE)
        self.size += len(PREFACE)

    def control(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        """A frame that is not part of a response."""
        self._out.append(frame(kind, flags, stream, payload))
        self.size += len(payload) + 9

    def head(self, block: bytes, total: int, dated: bool, served: bool) -> bytes:
        """The encoded head of `block`, which `spelled` has made. It has to be sent, and before any other.

        `total` is a Content-Length that is added, -1 for none. Date and Server are added unless the application gave them.
        """
        now = self._own.refresh()
        encoder = self.encoder
        if (
            block is self._head_block
            and total == self._head_total
            and now == self._head_second
            and encoder.changes == self._head_changes
            and dated == self._dated
            and served == self._served
        ):
            return self._head
        before = encoder.changes
        kept = self._kept.get(block)
        if kept is not None and kept[0] == before:
            part = kept[1]
            settled = True
        else:
            part = encoder.encode(_pairs(block))
            settled = not encoder.differs
            if settled and encoder.changes == before:
                if len(self._kept) >= KEPT_AT_MOST:
                    self._kept.clear()
                self._kept[block] = (before, part)
        added: list[Pair] = []
        if total >= 0:
            added.append((b"content-length", b"%d" % total))
        if not dated:
            added.append((b"date", self._own.date))
        if not served and self._own.server:
            added.append((b"server", self._own.server))
        head = part + encoder.encode(added)
        if settled and encoder.changes == before and not encoder.differs:
            self._head = head
            self._head_block = block
            self._head_total = total
            self._head_second = now
            self._head_changes = before
            self._dated = dated
            self._served = served
        return head

    def respond(self, stream: Stream, block: bytes, data: bytes, end: bool) -> None:
        """An encoded head, and `data` behind it, which the windows and a frame have room for. `end`: they are the whole response."""
        size = len(data)
        if len(block) > self.frame_at_most:
            self._put_block(stream.id, block, END_STREAM if end and not size else 0)
            if not size:
                return
            made = frame(DATA, END_STREAM if end else 0, stream.id, data)
        elif size:
            made = head_and_data(stream.id, block, data, end)
        else:
            made = frame(HEADERS, END_HEADERS | (END_STREAM if end else 0), stream.id, block)
        stream.window -= size
        stream.sent += size
        self.window -= size
        self._out.append(made)
        self.size += len(made)

    def fields(self, stream: Stream, pairs: list[Pair], end: bool) -> None:
        """A field block that is not the head of a final response: interim, or trailers."""
        self._put_block(stream.id, self.encoder.encode(pairs), END_STREAM if end else 0)

    def data(self, stream: Stream, data: bytes | memoryview, end: bool) -> None:
        """A DATA frame, which the windows have room for. `data` is not copied here."""
        size = len(data)
        self._out.append(data_head(size, END_STREAM if end else 0, stream.id))
        if size:
            self._out.append(data)
        stream.window -= size
        stream.sent += size
        self.window -= size
        self.size += size + 9

    def file(self, stream: Stream, fd: int, offset: int, room: int, end: bool, memory: bytearray) -> int:
        """DATA frames with up to `room` bytes of the file `fd` from `offset`, which the windows have room for. Returns how many bytes they
        have: fewer if the file ends before. `end`: END_STREAM if they are all of them.

        They are read to their places in `memory`, which must not be changed until it is sent, and is large enough for the heads too.
        """
        most = self.frame_at_most
        whole = memoryview(memory)
        parts = []
        place = 0
        left = room
        while left > 0:
            size = min(left, most)
            parts.append(whole[place + 9 : place + 9 + size])
            place += 9 + size
            left -= size
        count = os.preadv(fd, parts, offset)
        if not count:
            return 0
        place = 0
        left = count
        while left > 0:
            size = min(left, most)
            left -= size
            memory[place : place + 9] = data_head(size, END_STREAM if end and left == 0 and count == room else 0, stream.id)
            place += 9 + size
        stream.window -= count
        stream.sent += count
        self.window -= count
        self._out.append(whole[:place])
        self.size += place
        return count

    def _put_block(self, stream: int, block: bytes, flags: int) -> None:
        """HEADERS, and CONTINUATION for a block that is larger than a frame (section 6.10)."""
        most = self.frame_at_most
        self.control(HEADERS, flags | (END_HEADERS if len(block) <= most else 0), stream, block[:most])
        at = most
        while at < len(block):
            self.control(CONTINUATION, END_HEADERS if at + most >= len(block) else 0, stream, block[at : at + most])
            at += most
