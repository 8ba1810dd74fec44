"""`Lifeline`: the deadlines and limits of one descriptor, and the sweep that enforces them.

All connections that are layered on a descriptor share one. Handlers and engines set its limits, and never start a timer: about once a
second the sweeper looks at all lifelines and calls `fail` of the `Ready` that a late greenlet waits on. What a sweep does, in this order:

- `deadline` is over: both directions fail with `Expired`. The greenlet that catches it to send an answer sets another deadline first.
- a blocked write is slower than `min_rate` for longer than `rate_grace`: it fails with `Expired` (`check_writer`, see `pace.py`).
- no byte has moved for `idle_timeout`: both directions fail with `Expired` (`check_idle`).

A greenlet that does not wait is not disturbed: the limits hold at its next wait. `drain` does the same at shutdown, with `Draining`, for a
greenlet that rests between two messages.
"""

import logging
import math
from collections.abc import Iterable
from typing import Any, Protocol, cast

from muxwsgi.errors import Draining, Expired
from muxwsgi.wire.pace import SendQueue, WritePace
from muxwsgi.wire.ready import DescriptorReady, Ready

__all__ = ["IDLE", "TOO_SLOW", "Lifeline", "sweep"]

log = logging.getLogger("muxwsgi.error")

#: The text of the error of a write that is too slow, and how that of an idle stream begins. Counters tell them apart.
TOO_SLOW = "the peer takes the data more slowly than allowed"
IDLE = "no byte in either direction"


class Stream(Protocol):
    """The parts of the outermost connection that a `Lifeline` uses."""

    @property
    def bytes_received(self) -> int: ...
    @property
    def bytes_sent(self) -> int: ...
    @property
    def route(self) -> str | None: ...
    def forsake(self) -> None: ...


class Swept(Protocol):
    """What is swept with a descriptor."""

    def sweep(self, now: float) -> None:
        """`now` is `time.monotonic()`. Must not wait."""

    def drain(self) -> None:
        """As `Lifeline.drain`."""


class Lifeline:
    """The deadlines and limits of one descriptor, shared by every connection that is layered on it.

    deadline        absolute `time.monotonic()` seconds; a wait in either direction that is later than this fails with `Expired`
    write_pace      the pace of the blocked write; None without one, and without a minimum rate
    queue           the bytes that the peer has not taken yet; None until a write first blocks
    idle_timeout    seconds without a byte in either direction, `None` for no limit. A byte that the peer takes out of the kernel's buffer
                    counts too
    min_rate        bytes per second that a blocked send must move once `rate_grace` seconds are over; 0 for no minimum
    resting         set by a handler while it waits for a new message, so that closing loses nothing
    promised        set beside `resting` where the peer was told that it may send another message: it may be under way
    engine          the HTTP engine that serves the connection; None before one does
    reset_at_close  whether the stream is incomplete. Closing it is a reset then, without a close_notify under TLS
    service         the settings that all connections of a bind share (`Service`); None without a server
    top             the outermost connection: the one in use
    streams         what has deadlines of its own inside of this descriptor, such as the streams of HTTP/2: swept with it. None without
    relay           the `Pair` that moves the stream's bytes, None without. What ends waits ends it too
    may_leave       whether all callers of the handler know that it may return while its relay goes on: see `afterwards`
    afterwards      None, and a list once the stream goes on without its greenlet: who is told when it is over, instead of now. An entry
                    is an object with a method `over(connection, error)`, or a tuple of it and further arguments. `error` is the exception
                    that ended the stream, None without one
    under_way       bytes that moved, but are not counted in `top` yet: of writes that had to wait, and bytes read ahead
    """

    __slots__ = (
        "_active_at",
        "_moved",
        "_unsent",
        "_writer",
        "afterwards",
        "under_way",
        "deadline",
        "engine",
        "idle_timeout",
        "may_leave",
        "min_rate",
        "promised",
        "queue",
        "rate_grace",
        "reader",
        "relay",
        "reset_at_close",
        "resting",
        "service",
        "streams",
        "top",
        "write_pace",
    )

    def __init__(self, reader: Ready, writer: Ready | None = None) -> None:
        """`writer` is made from the reader, which is a descriptor's then, at its first use, where it is None: most connections never
        wait to write."""
        self.reader = reader
        self._writer = writer
        self.deadline = math.inf
        self.write_pace: WritePace | None = None
        self.queue: SendQueue | None = None
        self.idle_timeout: float | None = None
        self.min_rate = 0.0
        self.rate_grace = 0.0
        self.resting = False
        self.promised = False
        self.engine: Any = None
        self.reset_at_close = False
        self.service: Any = None
        self.top: Stream | None = None
        self.streams: Swept | None = None
        self.under_way = 0
        self.relay: Any = None
        self.may_leave = False
        self.afterwards: list[Any] | None = None
        self._moved = -1
        self._unsent = -1
        self._active_at = 0.0

    @property
    def writer(self) -> Ready:
        """Readiness to write."""
        if self._writer is None:
            self._writer = cast(DescriptorReady, self.reader).to_write()
        return self._writer

    def fail(self, error: BaseException) -> None:
        """Make the waits of both directions raise `error`, and end a relay with it."""
        if self.relay is not None:
            self.relay.fail(error)
        self.reader.fail(error)
        if self._writer is not None:
            self._writer.fail(error)

    def drain(self) -> None:
        """Wake a resting handler with `Draining`, unless bytes have come meanwhile: a message that is here already is
        read and answered. To be repeated while the server drains."""
        if self.resting and not self.reader.is_ready():
            self.reader.fail(Draining("the server is shutting down"))
        if self.streams is not None:
            self.streams.drain()

    def close(self) -> None:
        """End both directions, before the descriptor is closed or given away."""
        if self.relay is not None:
            self.relay.closing()
        self.reader.close()
        if self._writer is not None:
            self._writer.close()

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self.reader.closed

    def check_writer(self, now: float) -> None:
        """Fail the blocked write with `Expired` once the peer has taken less than the minimum rate for too long."""
        pace = self.write_pace
        if pace is not None:
            pace.look(now)
            if pace.patience < 0:
                self.writer.fail(Expired(TOO_SLOW))

    @property
    def broken(self) -> bool:
        """Whether the peer has reset the stream, where no descriptor can be asked for that."""
        return False

    @property
    def untouched(self) -> bool:
        """Whether no byte of the client was consumed yet. A handshake and peeking at first bytes do not count."""
        return self.top is not None and self.top.bytes_received == 0

    def check_idle(self, now: float) -> None:
        """Fail the waits with `Expired` once no byte has moved for `idle_timeout` seconds."""
        top = self.top
        if top is None or self.idle_timeout is None:
            return
        moved = top.bytes_received + top.bytes_sent + self.under_way
        if self.queue is not None:
            moved -= self.queue.size()  # what the peer has taken is movement, also of a write that goes on
        if moved != self._moved:
            self._moved = moved
            self._unsent = -1
            self._active_at = now
            return
        if self._unsent:  # asked once when bytes stop to move, and again for as long as the peer has not taken all
            unsent = self.reader.unsent()
            if self._unsent not in (unsent, -1):
                self._active_at = now
            self._unsent = unsent
        if now - self._active_at > self.idle_timeout:
            self.fail(Expired(f"{IDLE} for {self.idle_timeout:g} s"))

    def taken_by_peer(self) -> int:
        """A number that changes whenever the peer takes a byte."""
        top = self.top
        unsent = self.reader.unsent() if self.queue is None else self.queue.size()
        return (0 if top is None else top.bytes_sent) + self.under_way - unsent


def sweep(lifelines: Iterable[Lifeline], now: float) -> None:
    """Fail the waits whose deadline is over. `now` is `time.monotonic()`; called by the worker about once a second.

    No timer object is made for any deadline: 10,000 connections cost about 0.5 ms a sweep.
    """
    for line in lifelines:
        try:
            if line.deadline < now:
                line.fail(Expired("the deadline of this phase is over"))
                continue
            if line.write_pace is not None:
                line.check_writer(now)
            if line.idle_timeout is not None:
                line.check_idle(now)
            if line.streams is not None:
                line.streams.sweep(now)
        except Exception as error:  # of one connection: the others have deadlines too
            log.exception("a connection cannot be swept")
            line.fail(error)
