"""`WebSocket`: the server's side of one WebSocket, for applications: messages, pings, closing (RFC 6455). See `muxwsgi.websocket`.

No greenlet runs beside the application. Frames are read in `receive`, and what has come already is read in `send`, so that pings are
answered and a Close is noticed by an application that only sends. Memory is bounded: `send` reads no further while messages wait.
"""

import logging
from collections import deque
from collections.abc import Iterator
from time import monotonic
from typing import TYPE_CHECKING

from muxwsgi.errors import Expired
from muxwsgi.http.websocket.deflate import Deflate, Inflater, deflated
from muxwsgi.http.websocket.frame import COMPRESSED, BrokenFrame, Frame, FrameParser, Opcode, encode_frame
from muxwsgi.http.websocket.messages import Messages, close_payload, close_reason
from muxwsgi.http.websocket.turns import BYTES_AT_ONCE, BYTES_INFLATED_PER_TURN, FRAMES_PER_TURN
from muxwsgi.wire.ready import give_turn

if TYPE_CHECKING:
    from muxwsgi.wire.connection import Connection

__all__ = ["ConnectionClosed", "WebSocket"]

log = logging.getLogger("muxwsgi.error")

#: Close codes (section 7.4.1): all is done; the server goes away; never sent: there was no code, there
#: was no Close frame; the application has failed.
NORMAL, GOING_AWAY, NO_CODE, NO_CLOSE, INTERNAL_ERROR = 1000, 1001, 1005, 1006, 1011

#: Bytes that are read at once.
_BLOCK = 1 << 16

#: Messages of fewer bytes are not compressed: their frames would not become shorter.
_COMPRESSED_FROM = 64


class ConnectionClosed(ConnectionError):
    """The WebSocket is closed, by either side.

    code        of the first Close frame; 1005 if that had no code, 1006 if the connection broke without one
    reason      its text
    """

    def __init__(self, code: int, reason: str = "") -> None:
        super().__init__(f"the WebSocket is closed: {code}{' ' if reason else ''}{reason}")
        self.code = code
        self.reason = reason


class WebSocket:
    """One WebSocket, which `muxwsgi.websocket.accept` makes. One greenlet may receive while others send.

    Iteration yields messages. It ends after a Close with 1000, 1001 or no code, and raises `ConnectionClosed` otherwise.

    connection      the `Connection` below: for information, not to be read from or written to
    subprotocol     the one that was agreed on; None without one
    close_code      see `ConnectionClosed`; None while the WebSocket is open
    close_reason    text of the Close frame
    """

    __slots__ = (
        "_close_timeout",
        "_deflate",
        "_frames",
        "_messages",
        "_parser",
        "_ping_interval",
        "_ping_timeout",
        "_pinged",
        "_reading",
        "_received",
        "_sent_close",
        "_taken",
        "_waiting",
        "close_code",
        "close_reason",
        "connection",
        "subprotocol",
    )

    def __init__(
        self,
        connection: "Connection",
        *,
        subprotocol: str | None = None,
        deflate: Deflate | None = None,
        max_size: int = 1 << 20,
        ping_interval: float | None = 20.0,
        ping_timeout: float | None = 20.0,
        close_timeout: float = 10.0,
    ) -> None:
        """The parameters are those of `accept`. `deflate` is what both sides agreed on."""
        self.connection = connection
        self.subprotocol = subprotocol
        self.close_code: int | None = None
        self.close_reason = ""
        self._deflate = deflate
        self._parser = FrameParser(from_client=True, at_most=max_size, extensions=deflate is not None)
        self._messages = Messages(max_size, None if deflate is None else Inflater(deflate.client_context))
        self._frames: deque[Frame] = deque()  # received, and not looked at yet
        self._waiting: deque[str | bytes] = deque()  # messages that `send` has found
        self._received = b""  # what the parser has not seen yet
        self._taken = 0  # frames since others had a turn
        self._reading = False  # a greenlet is in `receive` or `close`
        self._sent_close = False
        self._pinged = False  # a ping is out, and nothing has come since
        self._ping_interval = ping_interval
        self._ping_timeout = ping_timeout
        self._close_timeout = close_timeout
        connection.idle_timeout = ping_interval
        connection.on_drain(self._go_away)

    def __repr__(self) -> str:
        state = "open" if self.close_code is None else f"closed with {self.close_code}"
        return f"<WebSocket of {self.connection!r}, {state}>"

    # Messages

    def receive(self, timeout: float | None = None) -> str | bytes:
        """The next message: `str` for a text, `bytes` for binary data. Answers pings while it waits.

        Raises `ConnectionClosed`, `TimeoutError` if no message is complete after `timeout` seconds, and `RuntimeError` if another greenlet
        receives.
        """
        with _Reading(self):
            give_up = None if timeout is None else monotonic() + timeout
            while not self._waiting:
                if self.close_code is not None:
                    raise ConnectionClosed(self.close_code, self.close_reason)
                self._take_frame(give_up)
            return self._waiting.popleft()

    def __iter__(self) -> Iterator[str | bytes]:
        while True:
            try:
                message = self.receive()
            except ConnectionClosed as closed:
                if closed.code in (NORMAL, GOING_AWAY, NO_CODE):
                    return
                raise
            yield message

    def send(self, message: str | bytes | bytearray | memoryview) -> None:
        """Send one message: a text for `str`, binary data for the others. Returns when the kernel has it.

        Raises `ConnectionClosed`, and `TypeError` for other objects.
        """
        if isinstance(message, str):
            opcode, data = Opcode.TEXT, message.encode()
        elif isinstance(message, bytes | bytearray | memoryview):
            opcode, data = Opcode.BINARY, bytes(message)
        else:
            raise TypeError(f"a message is str or bytes, not {type(message).__name__}")
        if not self._reading and not self._waiting:
            self._take_what_has_come()
        rsv = 0
        if self._deflate is not None and len(data) >= _COMPRESSED_FROM:
            data, rsv = deflated(data, self._deflate.server_bits), COMPRESSED
        self._send_frame(Frame(opcode, data, rsv=rsv, from_client=False))

    def ping(self, data: bytes = b"") -> None:
        """Send a ping with up to 125 bytes. The client's answer is not reported. Raises `ConnectionClosed`, `ValueError`."""
        self._send_frame(Frame(Opcode.PING, data, from_client=False))

    def close(self, code: int = NORMAL, reason: str = "") -> None:
        """Close the WebSocket: send a Close frame, wait up to `close_timeout` seconds for the client's, and close the connection. Messages
        that come meanwhile are dropped. Idempotent. `code` is 1000 to 1014 or 3000 to 4999 (section 7.4): `ValueError` otherwise."""
        if code != NORMAL and not (1001 <= code <= 1014 and code not in (1004, NO_CODE, NO_CLOSE)) and not 3000 <= code < 5000:
            raise ValueError(f"{code} is not a code that a Close frame may have")
        if self.close_code is None:
            self._begin_close(code, reason)
        if self._reading:
            return  # the greenlet that receives sees the client's Close
        with _Reading(self):
            while self.close_code is None:
                self._waiting.clear()
                self._take_frame(None)
            self._waiting.clear()

    def application_ended(self, failed: bool) -> None:
        """Close after the application: with 1011 if it failed."""
        try:
            if failed:
                self.close(INTERNAL_ERROR)
            else:
                self.close()
        except OSError as error:
            log.debug("%r: %s", self, error)

    # Frames

    def _take_frame(self, give_up: float | None) -> None:
        """Handle the next frame. Waits for it until `give_up`: `TimeoutError`. If the WebSocket ends, `close_code` is set."""
        try:
            while not self._frames:
                if self._parser.fault is not None:
                    raise self._parser.fault
                self._read(give_up)
            self._handle(self._frames.popleft())
        except BrokenFrame as fault:
            self._begin_close(fault.code, fault.reason)
            self._end(fault.code, fault.reason)
        except _Elapsed:
            raise TimeoutError("no message has come in time") from None
        except Expired:
            self._end(NO_CLOSE, "the client does not answer")
        except OSError as error:
            self._end(NO_CLOSE, str(error))
        self._taken += 1
        if self._taken >= FRAMES_PER_TURN or self._messages.inflated >= BYTES_INFLATED_PER_TURN:
            self._taken = self._messages.inflated = 0
            give_turn()

    def _read(self, give_up: float | None) -> None:
        """Read bytes, and make frames of them. If nothing comes for the ping interval, send a ping and wait for the ping timeout."""
        connection = self.connection
        while not self._received:
            try:
                self._take_in(self._recv(give_up))
            except Expired:
                if self._sent_close or self._pinged or self._ping_interval is None:
                    raise
                self.ping()
                self._pinged = self._ping_timeout is not None
                connection.idle_timeout = self._ping_timeout if self._pinged else self._ping_interval
        self._parse()

    def _take_in(self, data: bytes) -> None:
        """Bytes that were read: the client is there. Raises `ConnectionResetError` at the end of the stream."""
        if not data:
            raise ConnectionResetError("the connection has ended without a Close frame")
        self._received = data
        if self._pinged:
            self._pinged = False
            self.connection.idle_timeout = self._ping_interval

    def _recv(self, give_up: float | None) -> bytes:
        connection = self.connection
        if give_up is None:
            return connection.recv(_BLOCK)
        left = give_up - monotonic()
        connection.settimeout(max(left, 0.001))
        try:
            return connection.recv(_BLOCK)
        except Expired:
            raise
        except TimeoutError:
            raise _Elapsed from None
        finally:
            connection.settimeout(None)

    def _parse(self) -> None:
        data, self._received = self._received[:BYTES_AT_ONCE], self._received[BYTES_AT_ONCE:]
        self._frames.extend(self._parser.feed(data))

    def _take_what_has_come(self) -> None:
        """Handle the frames that have come, without waiting, up to the first message. It reads once: to a client that sends pings without
        end nothing could be sent otherwise, and an application that sends to many clients would never come to the next one."""
        has_read = False
        with _Reading(self):
            while not self._waiting and self.close_code is None:
                if not self._frames and not self._received:
                    if has_read:
                        return
                    has_read = True
                    self.connection.settimeout(0)
                    try:
                        self._take_in(self.connection.recv(_BLOCK))
                    except BlockingIOError:
                        return
                    except OSError as error:
                        self._end(NO_CLOSE, str(error))
                        return
                    finally:
                        self.connection.settimeout(None)
                self._take_frame(None) if self._frames or self._parser.fault is not None else self._parse()

    def _handle(self, frame: Frame) -> None:
        opcode = frame.opcode
        if opcode < Opcode.CLOSE:
            message = self._messages.add(frame)
            if message is not None:
                self._waiting.append(message)
        elif opcode == Opcode.PING:
            if not self._sent_close:
                self._write(Frame(Opcode.PONG, frame.data, from_client=False))
        elif opcode == Opcode.CLOSE:
            code, reason = close_reason(frame.data)
            if not self._sent_close:
                self._begin_close(NORMAL if code is None else code, reason)
            self._end(NO_CODE if code is None else code, reason)

    def _send_frame(self, frame: Frame) -> None:
        if self.close_code is not None:
            raise ConnectionClosed(self.close_code, self.close_reason)
        if self._sent_close:
            raise ConnectionClosed(NORMAL, "a Close frame was sent")
        try:
            self._write(frame)
        except OSError as error:
            self._end(NO_CLOSE, str(error))
            raise ConnectionClosed(NO_CLOSE, str(error)) from error

    def _write(self, frame: Frame) -> None:
        self.connection.sendall(encode_frame(frame, masked=False))

    # Closing

    def _go_away(self) -> None:
        """The server begins to stop, or another process serves from now on."""
        if self.close_code is None and not self._sent_close:
            self._begin_close(GOING_AWAY, "the server is going away")

    def _begin_close(self, code: int, reason: str) -> None:
        """Send a Close frame. The client has `close_timeout` seconds to answer."""
        if self._sent_close:
            return
        self._sent_close = True
        connection = self.connection
        connection.idle_timeout = None
        connection.deadline = monotonic() + self._close_timeout
        try:
            self._write(Frame(Opcode.CLOSE, close_payload(code, reason), from_client=False))
        except OSError as error:
            log.debug("%r: the Close frame could not be sent: %s", connection, error)

    def _end(self, code: int, reason: str) -> None:
        """The WebSocket is over. The server closes the connection first (section 7.1.1)."""
        if self.close_code is None:
            self.close_code, self.close_reason = code, reason
            self.connection.close()


class _Elapsed(Exception):
    """The time of one `receive` is over."""


class _Reading:
    """Marks a WebSocket as being read, for one greenlet at a time."""

    __slots__ = ("_websocket",)

    def __init__(self, websocket: WebSocket) -> None:
        if websocket._reading:
            raise RuntimeError("another greenlet receives from this WebSocket")
        self._websocket = websocket

    def __enter__(self) -> None:
        self._websocket._reading = True

    def __exit__(self, *_: object) -> None:
        self._websocket._reading = False
