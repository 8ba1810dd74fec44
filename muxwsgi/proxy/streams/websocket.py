"""A relay for WebSockets (RFC 6455) that passes each frame through a hook.

Without a hook, bytes are relayed unparsed. With a hook, both directions are parsed and checked as a peer does, and invalid frames are not
passed on. Frames that the hook does not change are sent on unchanged, with their masking key.

A caller whose hook reads payloads removes the offer of extensions from the handshake (`handshake.without_extensions`), because payloads
could be compressed otherwise.
"""

from collections.abc import Callable

import gevent

from muxwsgi.errors import Cut, Expired
from muxwsgi.http.websocket.frame import PIECE, BrokenFrame, Frame, FrameParser, Opcode, encode_frame
from muxwsgi.http.websocket.messages import close_payload
from muxwsgi.http.websocket.turns import frames_in_turns
from muxwsgi.proxy.rules.actions import Refused
from muxwsgi.wire.connection import Connection
from muxwsgi.wire.lingering_close import linger
from muxwsgi.wire.relay import Relayed, cut_both, relay

__all__ = ["FrameHook", "relay_frames"]

#: Seconds that both sides have to read the Close frame before their connections are closed.
GOODBYE = 2.0

#: Close codes (RFC 6455 section 7.4.1).
GOING_AWAY = 1001
POLICY_VIOLATION = 1008
INTERNAL_ERROR = 1011

#: Returns the frame to send on: the same one, another one, or None to drop it.
FrameHook = Callable[[Frame], Frame | None]


class _BothClosed(Exception):
    """A Close has been passed on in either direction."""


class _HookFailed(Exception):
    """Carries an exception of a hook through `relay`, which would take an `OSError` for an error of its streams."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


class _Side:
    """One side of the relay. Frames that are received from it go through the hook."""

    __slots__ = (
        "_dropping",
        "_fault",
        "_from_client",
        "_on_frame",
        "_on_passed",
        "_parser",
        "closed",
        "other",
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
        self._fault: Exception | None = None  # raised once the frames before it are sent
        self.closed = False  # it has sent a Close, which has been passed on
        self.sent = 0
        self.writing = False  # if it stays True, a frame to this side is half sent

    def recv(self, n: int, /) -> bytes:
        """The next frames to send to the other side, b"" at the end of the stream."""
        while True:
            # The frames that the last call returned have been sent.
            self.closed = self._parser.closed
            if self._fault is not None:
                raise self._fault
            if self.closed and self.other.closed:
                raise _BothClosed
            data = self.stream.recv(n)
            if not data:
                return b""
            passed = self._passed(data)
            if passed:
                return passed

    def _passed(self, data: bytes) -> bytes:
        parts = []
        # A fault is raised once the frames before it are sent, so the result does not depend on where packets are cut.
        try:
            for frame in frames_in_turns(self._parser, data):
                kept = self._kept(frame)
                if kept is None:
                    continue
                if self._on_passed is not None:
                    self._on_passed(kept)
                # With its own key, an unchanged frame is encoded to the bytes that were received, because a length has one form only.
                parts.append(encode_frame(kept, masked=self._from_client, key=frame.key if kept is frame else None))
        except BrokenFrame as fault:
            self._fault = fault
        except Cut:
            raise
        except BaseException as error:
            self._fault = _HookFailed(error)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _kept(self, frame: Frame) -> Frame | None:
        """The frame that the hook returns for `frame`, corrected so that the other side gets a valid sequence."""
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
                return Frame(Opcode.CONTINUATION, b"", True, 0, self._from_client)  # the message has begun, so it has to end
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
        """Send a Close, unless one was passed on already or a frame is half sent. Then read on, so that no reset destroys it."""
        try:
            if not self.writing and not self.other.closed:
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
    """Relay a WebSocket after its handshake, with each frame through `on_frame`, until it ends. Closes neither connection.

    The relay ends when:

    - both sides have sent a Close, or have ended;
    - no byte came for `idle_timeout` seconds (`fin_timeout`, once one side has ended). Both sides get a Close with 1001;
    - a side breaks the protocol. Both sides get a Close with 1002;
    - the hook raises. Both sides get a Close with 1008 for `Refused`, 1011 for anything else, and the exception is raised;
    - a stream breaks. Both are cut.

    The result has the numbers of bytes, and the error (`BrokenFrame`, `Expired`, another `OSError`) if there was one.

    Frames longer than `piece` bytes go through the hook, and are sent on, in fragments. If a hook drops the first fragment of a message,
    the whole message is dropped. If it drops a later fragment, only that one is missing. A Close is passed on even if the hook drops it.
    `on_passed` is called with each frame that is sent on. `extensions`: the handshake agreed on permessage-deflate. Without a hook nothing
    is parsed.
    """
    if on_frame is None:
        return relay(client, upstream, idle_timeout=idle_timeout, fin_timeout=fin_timeout)
    near = _Side(client, FrameParser(True, piece=piece, extensions=extensions), True, on_frame, on_passed)
    far = _Side(upstream, FrameParser(False, piece=piece, extensions=extensions), False, on_frame, on_passed)
    near.other, far.other = far, near
    error: BaseException | None = None
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
