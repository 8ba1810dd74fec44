"""The body of a request in HTTP/2: DATA frames of one stream, in the order in which the connection brings them.

The greenlet that reads the connection adds to a body, and the application's greenlet takes from it. What the application has taken is given
back to the peer's windows (RFC 9113 section 6.9). So a body that nobody reads holds at most one window in memory, and does not keep the
others from moving: the window of the connection has room for the windows of all streams.
"""

from time import monotonic
from typing import TYPE_CHECKING, Protocol

from muxwsgi.errors import Expired, PeerError
from muxwsgi.http.body import Body, BrokenBody
from muxwsgi.settings import HTTPSettings
from muxwsgi.wire.pace import Pace
from muxwsgi.wire.ready import Ready

if TYPE_CHECKING:
    from muxwsgi.http.h2.field import Field

__all__ = ["NoBody", "Reader", "StreamBody"]


class Reader(Protocol):
    """What a body and the engine need of their connection."""

    def taken(self, body: "StreamBody", count: int) -> None:
        """The application has taken `count` bytes, or they are dropped."""

    def continue_(self, body: "StreamBody") -> None:
        """Send 100 (Continue)."""

    def wait_for(self, body: "StreamBody") -> None:
        """Note that a greenlet begins to wait for the body, until `waits` is False."""

    def malformed(self, fields: "list[Field]", reason: str) -> None:
        """Note that a request with these fields was reset."""


class NoBody(Body):
    """The body of a request that ended with its head. One object serves all of them on a connection."""

    __slots__ = ()

    def __init__(self, settings: HTTPSettings) -> None:
        self._set_up(settings, False)
        self.done = True
        self.direct = True

    def _read(self, most: int) -> bytes:
        return b""

    @property
    def ready(self) -> bool:
        return True

    def fail(self, fault: PeerError) -> None:
        """Not here, since it is the fault of one request."""

    def check_hand_over(self) -> None:
        raise _not_taken()


class StreamBody(Body):
    """The body of the request on one stream.

    stream      the number of the stream
    length      its Content-Length, -1 without
    left        bytes that the peer may still send
    window      bytes that it may have in flight: `left` returns to that
    grown       by how much that has grown
    untaken     bytes that have come, and that the application has not taken
    waits       whether a greenlet waits for it
    deadline    until when, `time.monotonic()` seconds
    """

    __slots__ = (
        "_ended",
        "_error",
        "_first",
        "_pace",
        "_ready",
        "_reader",
        "_rest",
        "came",
        "deadline",
        "grown",
        "left",
        "length",
        "stream",
        "untaken",
        "waits",
        "window",
    )

    def __init__(
        self, reader: Reader, settings: HTTPSettings, stream: int, expects_continue: bool, length: int, window: int, left: int
    ) -> None:
        self._set_up(settings, expects_continue)
        self.direct = True
        self.stream = stream
        self.length = length
        self.window = window
        self.left = left
        self.grown = 0
        self.untaken = 0
        self.came = 0
        self.waits = False
        self.deadline = 0.0
        self._reader = reader
        self._ended = False
        self._error: OSError | None = None
        self._first = b""  # the data of one frame, as long as no more have come: most bodies are small, and are not copied
        self._rest = bytearray()  # what came behind it
        self._pace: Pace | None = None
        self._ready: Ready | None = None

    # The connection's side

    def add(self, data: bytes) -> None:
        """More of the body."""
        self.withheld = False  # the peer sends it without waiting
        count = len(data)
        self.came += count
        self.untaken += count
        if self.untaken == count:
            self._first = data
        else:
            self._rest += data
        if self.waits:
            self.wake()

    def end(self) -> None:
        """The peer has ended its side."""
        self._ended = True
        self.withheld = False
        if not self.untaken:
            self.done = True
        if self.waits:
            self.wake()

    def break_off(self, error: OSError) -> None:
        """The rest will not come: reads raise `error`, and a response cannot be begun."""
        self._error = error
        if self.fault is None:
            self.fault = error
        if self.waits:
            self.wake()

    def wake(self) -> None:
        """Wake the greenlet that waits for the body."""
        if self._ready is not None:
            self._ready.notify()

    def expire(self) -> None:
        """End the wait: its deadline is over."""
        if self._ready is not None:
            self._ready.fail(Expired("the body comes too slowly"))

    def trailer(self, name: str, value: str) -> None:
        """A field behind the body."""
        self._add_trailer(name.encode("latin-1"), value.encode("latin-1"))

    # The side of an application that has taken the stream over

    def readiness(self) -> Ready:
        """What a greenlet that waits for more is woken by."""
        if self._ready is None:
            self._ready = Ready()
        return self._ready

    def take(self, most: int, timeout: float | None) -> bytes:
        """As `Transport.recv`: no minimum rate holds, and no limit."""
        ready = self.readiness()
        while not self.untaken:
            if self._error is not None:
                raise self._error
            if self._ended:
                return b""
            self.waits = True
            try:
                ready.wait(timeout)
            finally:
                self.waits = False
        return self._first_bytes(most)

    # The application's side

    @property
    def ready(self) -> bool:
        return self.untaken > 0 or self._ended or self._error is not None

    def check_hand_over(self) -> None:
        raise _not_taken()

    def _read(self, most: int) -> bytes:
        if self.done or most <= 0:
            return b""
        while not self.untaken:
            if self._error is not None:
                raise self._error
            if self._ended:
                self.done = True
                return b""
            if self.withheld:
                self.withheld = False
                self._reader.continue_(self)
            self._wait()
        data = self._first_bytes(most)
        self._count(len(data))
        if self._ended and not self.untaken:
            self.done = True
        return data

    def _first_bytes(self, most: int) -> bytes:
        """Take some of what has come."""
        if self._first:
            data = self._first
            self._first = b""
            if len(data) > most:
                self._rest[:0] = data[most:]
                data = data[:most]
        else:
            data = bytes(self._rest[:most])
            del self._rest[:most]
        count = len(data)
        self.untaken -= count
        self._reader.taken(self, count)
        return data

    def _wait(self) -> None:
        """Wait until more has come. The minimum rate holds while the application waits."""
        settings = self._settings
        if self._ready is None:
            self._ready = Ready()
        pace = self._pace
        if pace is None and settings.body_min_rate:
            pace = self._pace = Pace(settings.body_min_rate, settings.body_rate_grace)
        began = monotonic()
        before = self.came
        if pace is not None:
            self.deadline = began + pace.patience
        self.waits = True
        if pace is not None:
            self._reader.wait_for(self)
        try:
            self._ready.wait()
        except Expired:
            raise BrokenBody(408, "the body comes too slowly") from None
        finally:
            self.waits = False
            if pace is not None:
                pace.moved(self.came - before, monotonic() - began)


def _not_taken() -> RuntimeError:
    return RuntimeError("the connection cannot be taken over: other requests are on it (HTTP/2)")
