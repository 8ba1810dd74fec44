"""`Stream`: one request and its response on a connection of HTTP/2 (RFC 9113 section 5.1).

A stream is open from its HEADERS until both sides have ended it, or one has reset it. It counts against the limit of streams for longer:
until the application has returned. Otherwise a client could start any number of applications by resetting their streams.
"""

import math
from typing import TYPE_CHECKING, Any

from muxwsgi.http.h2.priority import URGENCY

if TYPE_CHECKING:
    from collections.abc import Callable

    from muxwsgi.errors import PeerError
    from muxwsgi.http.h2.body import StreamBody
    from muxwsgi.wire.pace import Pace
    from muxwsgi.wire.ready import Ready

__all__ = ["Stream"]

_NEVER = math.inf


class Stream:
    """The state of one stream.

    id              its number
    environ         of the request, complete but for the keys of the exchange
    method, target  of the request
    body            the request's body; None if the request ended with its head
    ended           the peer has ended its side
    finished        our side is ended
    code            with which either side has reset it, -1 if none has
    protocol        what a CONNECT makes of it, see `Requests`; None for any other request
    refusal         the error with which the request is answered in place of the application, None if it is in order
    window          bytes that the peer lets us send on it (section 6.9)
    urgency         of its response (RFC 9218)
    sequential      whether the response is of use only when it is complete, as the client has said
    patient         whether its greenlet waits for the peer without a minimum rate, since it was taken over
    give_up         until when its greenlet waits to send, `time.monotonic()` seconds
    turn            when it has last had its turn to send
    sent            bytes of the response's body
    gone            called once either side has reset it, or the connection has ended before it; None for nothing
    writer          what its greenlet waits on until it may send more, None until it has waited
    pace            of a peer that its greenlet waits for, to send
    waits_since     when it was last looked whether that peer moves, in that wait
    moved           `sent` at that time, and `others` the bytes sent on the connection
    held_back       whether the window of the stream was closed then, and not that of the connection
    """

    __slots__ = (
        "body",
        "code",
        "ended",
        "environ",
        "finished",
        "give_up",
        "gone",
        "held_back",
        "id",
        "method",
        "moved",
        "others",
        "pace",
        "patient",
        "protocol",
        "refusal",
        "sent",
        "sequential",
        "target",
        "turn",
        "urgency",
        "waits_since",
        "window",
        "writer",
    )

    def begin(self, number: int, window: int) -> None:
        """A method and not `__init__`, for the same reason as `Response._set_up`."""
        self.id = number
        self.window = window
        self.environ: dict[str, Any] | None = None
        self.method = ""
        self.target = ""
        self.body: "StreamBody | None" = None
        self.ended = False
        self.finished = False
        self.code = -1
        self.protocol: str | None = None
        self.refusal: "PeerError | None" = None
        self.urgency = URGENCY
        self.sequential = False
        self.turn = 0
        self.sent = 0
        self.gone: "Callable[[], None] | None" = None
        self.writer: "Ready | None" = None
        self.pace: "Pace | None" = None
        self.waits_since = 0.0
        self.moved = 0
        self.others = 0
        self.held_back = False
        self.patient = False
        self.give_up = _NEVER

    def wake(self) -> None:
        """Wake the greenlets that wait for something of this stream."""
        if self.writer is not None:
            self.writer.notify()
        if self.body is not None:
            self.body.wake()
