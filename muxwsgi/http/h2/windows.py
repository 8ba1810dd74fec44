"""`Windows`: how much a client may send (RFC 9113 section 5.2).

The window of the connection has room for the windows of all streams, and for what they may grow by. So a body that no application reads
keeps no other body waiting, and the window of the connection is also the limit of what is kept in memory.

A stream begins with a small window. If its application takes all that comes, and the client waits for more, the window doubles. All streams
of a connection share what windows may grow by.
"""

from muxwsgi.http.h2.body import StreamBody
from muxwsgi.http.h2.errors import FLOW_CONTROL_ERROR, ConnectionFault
from muxwsgi.http.h2.frames import WINDOW_AT_MOST, WINDOW_UPDATE, WINDOW_WITHOUT_SETTINGS
from muxwsgi.http.h2.sender import Sender

__all__ = ["GROWTH", "UPSTREAM_GROWTH", "Windows"]

#: Bytes that the windows of streams may grow by, together, and to which one may grow. An upstream is often far away, and many clients may
#: be loading from it, so these have room for eight.
GROWTH = 1 << 20
UPSTREAM_GROWTH = 8 << 20
WINDOW_GROWS_TO = 1 << 20


class Windows:
    """The windows of one connection, on the receiving side.

    initial     bytes that a client may send on a new stream. Until it has our SETTINGS it does not know ours
    window      the window of a new stream, to which it returns
    """

    __slots__ = ("_growth", "_left", "_owed", "_sender", "_stream_window", "_whole", "initial", "window")

    def __init__(self, sender: Sender, streams: int, stream_window: int, growth: int = GROWTH) -> None:
        """`streams` is the limit of streams, `growth` what their windows may grow by. Puts the WINDOW_UPDATE of the connection into
        `sender`."""
        self._sender = sender
        self._stream_window = stream_window
        self._growth = growth
        self.initial = WINDOW_WITHOUT_SETTINGS
        self.window = max(stream_window, WINDOW_WITHOUT_SETTINGS)
        self._whole = min(streams * self.window + growth, WINDOW_AT_MOST)
        self._left = self._whole  # may still come
        self._owed = 0  # is to be given back to the client
        sender.control(WINDOW_UPDATE, 0, 0, (self._whole - WINDOW_WITHOUT_SETTINGS).to_bytes(4, "big"))

    def came(self, count: int) -> None:
        """`count` bytes of DATA came, with their padding. Raises `ConnectionFault`."""
        self._left -= count
        if self._left < 0:
            raise ConnectionFault(FLOW_CONTROL_ERROR, "more DATA than the window of the connection has room for")

    def give_back(self, count: int) -> None:
        """`count` bytes are not in memory any more: the client may send as many again on the connection."""
        self._owed += count
        if self._owed * 4 >= self._whole:
            self._sender.control(WINDOW_UPDATE, 0, 0, self._owed.to_bytes(4, "big"))
            self._left += self._owed
            self._owed = 0

    def acknowledged(self) -> int:
        """The client has our SETTINGS. Returns by how much the windows of open streams change."""
        more = self._stream_window - self.initial
        self.initial = self._stream_window
        self.window = self._stream_window
        return more

    def taken(self, body: StreamBody) -> None:
        """The application has taken something of `body`, whose stream is open: the client may send more when half of its window is free."""
        room = body.window - body.left - body.untaken
        if room * 2 < body.window:
            return
        if body.left * 4 < body.window < WINDOW_GROWS_TO and not body.untaken:
            more = min(body.window, WINDOW_GROWS_TO - body.window, self._growth)
            self._growth -= more
            body.window += more
            body.grown += more
            room += more
        self._sender.control(WINDOW_UPDATE, 0, body.stream, room.to_bytes(4, "big"))
        body.left += room

    def ended(self, body: StreamBody) -> None:
        """The stream of `body` is closed, so others may grow."""
        self._growth += body.grown
        body.grown = 0
