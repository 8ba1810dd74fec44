"""`Link`: the output of one connection. What others publish never waits for it, and never fails because of it.

Packets are collected, and `flush` sends them together at the end of a batch. A plain connection takes them at once, without a greenlet.
What it does not take, and what goes through TLS or a WebSocket, is sent by a greenlet that lives until nothing waits.
"""


from typing import Protocol

import gevent
from gevent.event import Event

from muxwsgi_iot.mqtt import Disconnect, Property, Reason, Version, encode

__all__ = ["READ_ON_BELOW", "Link", "Stream", "flush_all"]

#: Bytes that wait for a client before its own packets are read on: a client that sends and does not receive waits for itself.
READ_ON_BELOW = 1 << 18

#: Bytes that are sent by one write.
_BLOCK = 1 << 18

#: Seconds that a client has to take the last packets.
_LAST_WORDS = 5.0


class Stream(Protocol):
    """The bytes of a connection: TCP, TLS or a WebSocket."""

    def read(self) -> bytes:
        """As they come; b"" at the end. Raises `OSError`."""

    def write(self, data: bytes) -> None:
        """All of it; may wait. Raises `OSError`."""

    def write_now(self, data: bytes) -> int:
        """As many bytes as can be sent without waiting; 0 for a stream that cannot tell. Raises `OSError`."""

    def close(self) -> None:
        """Wakes whoever reads or writes, with an `OSError`."""

    def set_deadline(self, deadline: float) -> None:
        """Seconds of `time.monotonic()` after which `read` and `write` raise `Expired`."""

    def set_resting(self, resting: bool) -> None:
        """Whether `read` may raise `Draining`."""


class Link:
    """behind      bytes that wait
    max_packet  bytes of a packet that the client takes
    ended       no more packets are taken: the connection is closed, or is being closed
    """

    __slots__ = (
        "_aliases",
        "_dirty",
        "_is_dirty",
        "_max_aliases",
        "_out",
        "_room",
        "_stream",
        "_writer",
        "behind",
        "ended",
        "is_v5",
        "max_behind",
        "max_packet",
        "reason",
        "version",
    )

    def __init__(self, stream: Stream, version: Version, dirty: list["Link"], max_behind: int) -> None:
        """`dirty` is the list that the links to flush are put in."""
        self._stream = stream
        self._dirty = dirty
        self._is_dirty = False
        self._out: list[bytes] = []
        self._writer: gevent.Greenlet[[], None] | None = None
        self._room: Event | None = None
        self._aliases: dict[str, int] = {}
        self._max_aliases = 0
        self.version = version
        self.is_v5 = version is Version.V5
        self.max_packet = 0xFFFFFFFF
        self.max_behind = max_behind
        self.behind = 0
        self.ended = False
        self.reason: Reason | None = None

    def allow_aliases(self, most: int) -> None:
        """The client takes so many topic aliases [MQTT-3.1.2-26]."""
        self._max_aliases = most

    @property
    def uses_aliases(self) -> bool:
        return self._max_aliases > 0

    def alias_of(self, topic: str) -> tuple[int, bool]:
        """The alias for `topic`, and whether the client knows it. 0 if there is none for it."""
        known = self._aliases.get(topic)
        if known is not None:
            return known, True
        if len(self._aliases) < self._max_aliases:
            return len(self._aliases) + 1, False
        return 0, False

    def alias_was_sent(self, topic: str, alias: int) -> None:
        self._aliases[topic] = alias

    def put(self, data: bytes) -> None:
        """Have a packet sent at the next `flush`. A packet that the client does not take ends the connection [MQTT-3.1.2-24]."""
        if self.ended:
            return
        if len(data) > self.max_packet:
            self.end(Reason.PACKET_TOO_LARGE, "an answer is larger than the client's maximum packet size")
            return
        self._out.append(data)
        self.behind += len(data)
        if not self._is_dirty:
            self._is_dirty = True
            self._dirty.append(self)

    def has_room(self, size: int) -> bool:
        """Whether a message of so many bytes may be put. One is always taken by a client that keeps up."""
        return self.behind == 0 or self.behind + size <= self.max_behind

    def flush(self) -> None:
        """Send what waits, without waiting. Errors are left for the greenlet that reads."""
        self._is_dirty = False
        if self._writer is not None or not self._out:
            return
        data = self._out[0] if len(self._out) == 1 else b"".join(self._out)
        self._out = []
        try:
            sent = self._stream.write_now(data)
        except OSError:
            self._fail()
            return
        self.behind -= sent
        if sent < len(data):
            self._out.insert(0, data[sent:] if sent else data)
            self._writer = gevent.spawn(self._write)

    def wait_for_room(self) -> None:
        """Wait while too much waits. For the greenlet of the client."""
        while self.behind > READ_ON_BELOW and not self.ended:
            if self._room is None:
                self._room = Event()
            self._room.clear()
            self._room.wait(1.0)

    def end(self, reason: Reason | None = None, text: str = "") -> None:
        """Close the connection, after what waits and, in version 5, a DISCONNECT with `reason`. Neither waits nor raises. Idempotent."""
        if self.ended:
            return
        self.ended = True
        self.reason = reason
        if reason is not None and self.is_v5:
            packet = encode(Disconnect(reason, {Property.REASON_STRING: text} if text else {}), self.version)
            if len(packet) > self.max_packet:  # [MQTT-3.14.2-3]
                packet = encode(Disconnect(reason), self.version)
            if len(packet) <= self.max_packet:
                self._out.append(packet)
                self.behind += len(packet)
        self.flush()
        if self._writer is None:
            self._stream.close()
        else:
            gevent.spawn(self._close_after, self._writer)

    def abandon(self) -> None:
        """The connection is gone: nothing is sent any more."""
        self.ended = True
        self._out = []
        self.behind = 0
        if self._writer is not None:
            self._writer.kill(block=False)

    def finish(self) -> None:
        """Wait until the last packets are sent, for a few seconds."""
        writer = self._writer
        if writer is not None:
            writer.join(_LAST_WORDS)

    def _close_after(self, writer: "gevent.Greenlet[[], None]") -> None:
        writer.join(_LAST_WORDS)
        self._stream.close()

    def _fail(self) -> None:
        self._out = []
        self.behind = 0
        self.ended = True
        self._stream.close()

    def _write(self) -> None:
        try:
            while self._out:
                block: list[bytes] = []
                size = 0
                for packet in self._out:
                    block.append(packet)
                    size += len(packet)
                    if size >= _BLOCK:
                        break
                del self._out[: len(block)]
                self._stream.write(block[0] if len(block) == 1 else b"".join(block))
                self.behind -= size
                if self._room is not None:
                    self._room.set()
        except OSError:
            self._fail()
        finally:
            self._writer = None
            if self._room is not None:
                self._room.set()


def flush_all(dirty: list[Link]) -> None:
    """Flush each link in the list, and empty it."""
    while dirty:
        dirty.pop().flush()


