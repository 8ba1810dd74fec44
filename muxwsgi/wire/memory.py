"""A stream in memory: two transports that are connected to each other, with the buffer limits, half-close and errors of a socket."""

import errno
import socket as socket_module

from muxwsgi.wire.lifeline import Lifeline
from muxwsgi.wire.ready import Ready
from muxwsgi.wire.transport import Buffer, WriteTurn

__all__ = ["MemoryTransport", "memory_pair"]

#: Bytes that one direction holds. When it is full, the writer waits.
CAPACITY = 1 << 16


class Channel:
    """One direction: the bytes that were written and not yet read, and the readiness of each end."""

    __slots__ = ("broken", "data", "ended", "readable", "reset", "writable")

    step = 0  # each read is noticed at once: see `SendQueue`

    def __init__(self) -> None:
        self.data = bytearray()
        self.ended = False  # the writer is done
        self.broken = False  # the writer has reset the stream; the bytes in `data` can still be read
        self.reset = False  # the reader is gone
        self.readable = Ready()
        self.writable = Ready()

    def size(self) -> int:
        return len(self.data)


class MemoryTransport:
    """One end of a pair."""

    __slots__ = ("_incoming", "_outgoing", "_turn", "lifeline")

    def __init__(self, incoming: Channel, outgoing: Channel) -> None:
        self._incoming = incoming
        self._outgoing = outgoing
        self.lifeline = Lifeline(incoming.readable, outgoing.writable)
        self.lifeline.queue = outgoing
        self._turn = WriteTurn(self.lifeline)

    def recv(self, n: int, timeout: float | None) -> bytes:
        channel = self._incoming
        while not channel.data:
            if channel.broken:
                raise ConnectionResetError(errno.ECONNRESET, "the other end has reset the connection")
            if channel.ended:
                return b""
            channel.readable.wait(timeout)
        data = bytes(channel.data[:n])
        del channel.data[:n]
        channel.writable.notify()
        return data

    def recv_into(self, view: memoryview, timeout: float | None) -> int:
        data = self.recv(len(view), timeout)
        view[: len(data)] = data
        return len(data)

    def sendall(self, data: Buffer, timeout: float | None) -> None:
        channel = self._outgoing
        view = memoryview(data)

        def send_more(done: int) -> int:
            if channel.ended or channel.reset:
                raise BrokenPipeError(errno.EPIPE, "the other end is closed")
            room = CAPACITY - len(channel.data)
            if room <= 0:
                raise BlockingIOError(errno.EAGAIN, "would block")
            part = view[done : done + room]
            channel.data += part
            channel.readable.notify()
            return len(part)

        self._turn.write(send_more, len(view), timeout)

    def send_now(self, view: memoryview) -> int:
        """Send as many bytes as there is room for, and return their number. Raises `BlockingIOError` if there is no room, or if another
        greenlet is sending."""
        channel = self._outgoing
        if channel.ended or channel.reset:
            raise BrokenPipeError(errno.EPIPE, "the other end is closed")
        part = view[: max(CAPACITY - len(channel.data), 0)]
        if view and (self._turn.taken or not part):
            raise BlockingIOError(errno.EAGAIN, "would block")
        channel.data += part
        channel.readable.notify()
        return len(part)

    def shutdown(self, how: int, timeout: float | None) -> None:
        if how != socket_module.SHUT_RD:
            self._outgoing.ended = True
            self._outgoing.readable.notify()
        if how != socket_module.SHUT_WR:
            self._incoming.ended = True
            self._incoming.readable.notify()

    def close(self) -> None:
        self.lifeline.close()
        self._outgoing.broken = self.lifeline.reset_at_close
        self._outgoing.ended = True
        self._outgoing.readable.notify()
        self._incoming.reset = True
        self._incoming.writable.notify()

    def socket(self) -> None:
        return None


def memory_pair() -> tuple[MemoryTransport, MemoryTransport]:
    """Two connected transports."""
    from_first, from_second = Channel(), Channel()
    return MemoryTransport(from_second, from_first), MemoryTransport(from_first, from_second)
