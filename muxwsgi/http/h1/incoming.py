"""A connection's bytes as HTTP/1.1 reads them, on either side: one head or body after the other, and what lies behind in a buffer."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from muxwsgi.wire.connection import Connection

__all__ = ["BLOCK", "Incoming"]

#: Bytes read from the connection at once.
BLOCK = 65536


class Incoming:
    """A connection's bytes as the engine reads them: `buffer` is what came and is not consumed yet."""

    __slots__ = ("buffer", "connection")

    def __init__(self, connection: "Connection") -> None:
        self.connection = connection
        self.buffer = b""

    def take(self) -> bytes:
        """What is there, else the next bytes; b"" at the end of the stream."""
        data, self.buffer = self.buffer, b""
        return data or self.connection.recv(BLOCK)

    def give_back(self) -> None:
        """Make the buffer the connection's read-ahead, for another reader."""
        self.connection.unread(self.buffer)
        self.buffer = b""
