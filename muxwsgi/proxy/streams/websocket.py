"""A relay for WebSockets (RFC 6455) that shows each frame to a hook on its way.

Without a hook nothing here looks at a byte. With one, both directions are parsed and held to the protocol, as a peer would: what one side
may not say is not passed on to the other. Frames that the hook leaves alone are sent on as they came, masking key included.

A caller whose hook reads payloads takes the offer of extensions out of the handshake, see `handshake.without_extensions`: otherwise
payloads are compressed.
"""

from collections.abc import Callable

import gevent

from muxwsgi.errors import Cut, Expired
from muxwsgi.http.websocket.frame import PIECE, BrokenFrame, Frame, FrameParser, Opcode, encode_frame
from muxwsgi.http.websocket.messages import close_payload
from muxwsgi.proxy.rules.actions import Refused
from muxwsgi.proxy.streams.turns import frames_in_turns
from muxwsgi.wire.connection import Connection
from muxwsgi.wire.lingering_close import linger
from muxwsgi.wire.relay import Relayed, cut_both, relay

__all__ = ["FrameHook", "relay_frames"]

#: Seconds that both sides have to read why the relay ends, before their connections are closed.
GOODBYE = 2.0

#: Close codes (RFC 6455 section 7.4.1).
GOING_AWAY = 1001
POLICY_VIOLATION = 1008
INTERNAL_ERROR = 1011

#: Returns what is sent on in place of the frame, the same one to leave it alone, None to drop it.
FrameHook = Callable[[Frame], Frame | None]


class _BothClosed(Exception):
    """A Close has been passed on in either direction."""


class _HookFailed(Exception):
    """Carries what a hook raised past `relay`, which takes every `OSError` for its streams'."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


class _Side:
    """One end of the relay: what is received from it has been shown to the hook."""

    __slots__ = (
        "_dropping",
        "_fault",
        "_from_client",
        "_on_frame",
        "_on_passed",
        "_parser",
        "other",
        "said_close",
        "sent",
        "stream",
        "writing",
    )

    other: "_Side"

    def __init__(
        self,
        stream: Connection,
        parser: FrameParser,
        from_client: bool,
        on_frame: FrameHook,
        on_passed: Callable[[Frame], None] | None,
    ) -> None:
        self.stream = stream
        self._parser = parser
        self._from_client = from_client
        self._on_frame = on_frame
        self._on_passed = on_passed
        self._dropping = False  # the rest of a message whose first fragment was dropped
        self._fault: Exception | None = None  # what is wrong behind the frames that were passed on last
        self.said_close = False  # and it has been passed on
        self.sent = 0
        self.writing = False  # where it stays so, the other side waits for the rest of a frame

    def recv(self, n: int, /) -> bytes:
        """The next frames to send to the other side, b"" at the end of the stream."""
        while True:
            # What was returned before is sent by now.
            self.said_close = self._parser.closed
            if self._fault is not None:
                raise self._fault
            if self.said_close and self.other.said_close:
                raise _BothClosed
            data = self.stream.recv(n)
            if not data:
                return b""
            passed = self._passed(data)
            if passed:
                return passed

    def _passed(self, data: bytes) -> bytes:
        parts = []
        # Faults are raised when what came before them is sent: cuts between packets make no difference then.
        try:
            for frame in frames_in_turns(self._parser, data):
                kept = self._kept(frame)
                if kept is None:
                    continue
                if self._on_passed is not None:
                    self._on_passed(kept)
                # With the key that it came with, a frame is the bytes that it came as: its length has one form only.
                parts.append(encode_frame(kept, masked=self._from_client, key=frame.key if kept is frame else None))
        except BrokenFrame as fault:
            self._fault = fault
        except Cut:
            raise
        except BaseException as error:
            self._fault = _HookFailed(error)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _kept(self, frame: Frame) -> Frame | None:
        """What the hook makes of `frame`, as far as the other side can make sense of the rest."""
        if frame.opcode >= Opcode.CLOSE:
            kept = self._on_frame(frame)
            return frame if kept is None and frame.opcode == Opcode.CLOSE else kept
        if self._dropping:
            self._dropping = not frame.fin
            return None
        kept = self._on_frame(frame)
        if kept is None:
            if frame.opcode != Opcode.CONTINUATION:
                self._dropping = not frame.fin
            elif frame.fin:
                return Frame(Opcode.CONTINUATION, b"", True, 0, self._from_client)  # the message was begun: it has to end
        return kept

    def sendall(self, data: bytes, /) -> None:
        self.writing = True
        self.stream.sendall(data)
        self.writing = False
        self.sent += len(data)

    def shutdown(self, how: int, /) -> None:
        self.stream.shutdown(how)

    @property
    def truncated(self) -> bool:
        return self.stream.truncated

    @property
    def bytes_sent(self) -> int:
        return self.stream.bytes_sent

    @property
    def bytes_unacknowledged(self) -> int:
        return self.stream.bytes_unacknowledged

    def cut(self, grace: float, /) -> None:
        self.stream.cut(grace)

    def say_goodbye(self, code: int, reason: str) -> None:
        """Send a Close, unless one was passed on already or a frame is half sent, and read on so that it is not lost to a reset."""
        try:
            if not self.writing and not self.other.said_close:
                close = Frame(Opcode.CLOSE, close_payload(code, reason))
                self.stream.sendall(encode_frame(close, masked=not self._from_client))
        except OSError:
            return  # the peer is gone
        linger(self.stream, None)


def relay_frames(
    client: Connection,
    upstream: Connection,
    on_frame: FrameHook | None,
    *,
    on_passed: Callable[[Frame], None] | None = None,
    idle_timeout: float | None = None,
    fin_timeout: float | None = None,
    piece: int = PIECE,
    extensions: bool = False,
) -> Relayed:
    """Relay a WebSocket, whose handshake is over, until it ends; each frame through `on_frame`. Closes neither connection.

    It ends when both sides have said Close, or ended, or one fails, or after `idle_timeout` seconds without a byte (`fin_timeout`, once
    one side has ended). A side that breaks the protocol ends it with 1002, idleness with 1001, both ways; a stream that breaks cuts both.
    Bytes, and what ended it before its time (`BrokenFrame`, `Expired`, another `OSError`), are in the result. What the hook raises ends it
    too, with 1008 for `Refused` and 1011 for anything else, and is raised.

    Frames longer than `piece` bytes are shown, and sent on, in fragments. A hook that drops the first fragment of a message drops all of
    it; if it drops a later one, the message lacks it. A Close that it drops is passed on all the same. `on_passed` is told of each frame
    that is sent on. `extensions` says that the handshake agreed on permessage-deflate. Without a hook nothing is parsed, and all of this is
    between the two sides.
    """
    if on_frame is None:
        return relay(client, upstream, idle_timeout=idle_timeout, fin_timeout=fin_timeout)
    near = _Side(client, FrameParser(True, piece=piece, extensions=extensions), True, on_frame, on_passed)
    far = _Side(upstream, FrameParser(False, piece=piece, extensions=extensions), False, on_frame, on_passed)
    near.other, far.other = far, near
    error: OSError | None = None
    try:
        error = relay(near, far, idle_timeout=idle_timeout, fin_timeout=fin_timeout, cut=False).error
    except _BothClosed:
        pass
    except _HookFailed as failed:
        if isinstance(failed.error, Refused):
            _end(near, far, POLICY_VIOLATION, failed.error.reason)
        else:
            _end(near, far, INTERNAL_ERROR, "")
        raise failed.error from None
    if isinstance(error, BrokenFrame):
        _end(near, far, error.code, error.reason)
    elif isinstance(error, Expired):
        _end(near, far, GOING_AWAY, str(error))
    elif error is not None:
        cut_both(near, far)
    return Relayed(far.sent, near.sent, error)


def _end(near: _Side, far: _Side, code: int, reason: str) -> None:
    """Tell both sides, within `GOODBYE` seconds."""
    speaking = [gevent.spawn(side.say_goodbye, code, reason) for side in (near, far)]
    try:
        gevent.joinall(speaking, timeout=GOODBYE)
    finally:
        gevent.killall(speaking)
