"""`WebSocket`: the server's side of one WebSocket, for applications: messages, pings, closing (RFC 6455). See `muxwsgi.websocket`.

No greenlet runs beside the application. Frames are read in `receive`, and what has come already is read in `send`, so that pings are
answered and a Close is noticed by an application that only sends. Memory is bounded: `send` reads no further while messages wait.

While frames of the client wait, `send` keeps short messages, so that the answers to many messages are one write. They are written when no
frame waits, when `KEPT_AT_MOST` bytes are kept, or as soon as the greenlet waits for anything: the event loop calls `_write_soon`.

A client that sends much at a time is read into memory that all WebSockets of a thread share: one read takes what has come, and no memory is
made for a read. The frames are made at once, and what is left is copied, so nothing else can run while it is in use.

The file is long because reading, writing and closing share the state of one WebSocket.
"""

import logging
from time import monotonic
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from gevent import get_hub, spawn

from muxwsgi.errors import Expired
from muxwsgi.http.websocket.deflate import Deflate, Inflater, deflated
from muxwsgi.http.websocket.frame import (
    COMPRESSED,
    CONTROL_AT_MOST,
    WHOLE_FROM,
    BrokenFrame,
    Frame,
    FrameParser,
    Opcode,
    encode_message,
    message_head,
)
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

#: Bytes that are read at once, and after a read that has filled them: through TLS, and into shared memory. A short read needs no memory
#: that has to be shortened.
_SHORT_BLOCK = 1 << 12
_BLOCK = 1 << 16
_SHARED_BLOCK = 1 << 18

#: Frames that are made of one read of shared memory before the rest is copied.
_FRAMES_AT_ONCE = 64

#: The shared memory of each thread, by its hub.
_shared: "WeakKeyDictionary[Any, bytearray]" = WeakKeyDictionary()

#: Instead of a new list for each read.
_NO_FRAMES: list[Frame] = []

#: Bytes of messages that `send` keeps.
KEPT_AT_MOST = 1 << 16

#: As numbers, which are compared faster than enum members.
_TEXT, _BINARY, _CLOSE, _PING, _PONG = int(Opcode.TEXT), int(Opcode.BINARY), int(Opcode.CLOSE), int(Opcode.PING), int(Opcode.PONG)

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
        "_at",
        "_close_timeout",
        "_deflate",
        "_frames",
        "_has_received",
        "_kept",
        "_is_plain",
        "_kept_size",
        "_memory",
        "_message",
        "_messages",
        "_much",
        "_next",
        "_parser",
        "_ping_interval",
        "_ping_timeout",
        "_pinged",
        "_reading",
        "_received",
        "_sent_close",
        "_taken",
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
        self._is_plain = connection.can_sendfile
        self._frames = _NO_FRAMES  # received
        self._next = 0  # the first of them that is not looked at yet
        self._message: str | bytes | None = None  # the next message, which `send` may have found
        self._received = b""  # what was read last
        self._at = 0  # the first byte of it that the parser has not seen yet
        self._much = False  # more than `_SHORT_BLOCK` may come
        self._memory: bytearray | None = None  # shared, None until much has come
        self._kept: list[bytes] = []  # frames that `send` has not written yet
        self._kept_size = 0
        self._has_received = False  # since `send` was called last
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
        self._begin_reading()
        try:
            give_up = None if timeout is None else monotonic() + timeout
            while self._message is None:
                if self.close_code is not None:
                    raise ConnectionClosed(self.close_code, self.close_reason)
                self._take_frame(give_up)
            self._has_received = True
            message = self._message
            self._message = None
            return message
        finally:
            self._reading = False

    def __iter__(self) -> "WebSocket":
        return self

    def __next__(self) -> str | bytes:
        try:
            return self.receive()
        except ConnectionClosed as closed:
            if closed.code in (NORMAL, GOING_AWAY, NO_CODE):
                raise StopIteration from None
            raise

    def send(self, message: str | bytes | bytearray | memoryview) -> None:
        """Send one message: a text for `str`, binary data for the others. Returns when the kernel has it. While further frames of the
        client wait, up to 64 KiB are kept until the application receives the last of them or its greenlet waits.

        Raises `ConnectionClosed`, and `TypeError` for other objects.
        """
        opcode = _BINARY
        if type(message) is bytes:
            data = message
        elif isinstance(message, str):
            opcode = _TEXT
            data = message.encode()
        elif isinstance(message, (bytes, bytearray, memoryview)):
            data = bytes(message)
        else:
            raise TypeError(f"a message is str or bytes, not {type(message).__name__}")
        if self._has_received:
            self._has_received = False  # the greenlet that receives sees what has come
        elif not self._reading and self._message is None:
            self._take_what_has_come()
        self._check_open()
        rsv = 0
        if self._deflate is not None and len(data) >= _COMPRESSED_FROM:
            data, rsv = deflated(data, self._deflate.server_bits), COMPRESSED
        try:
            if len(data) >= WHOLE_FROM:
                self._write_kept()
                self.connection.sendall_gathered(message_head(opcode, len(data), rsv), data)
                return
            frame = encode_message(opcode, data, rsv)
            if self._next < len(self._frames) and self._kept_size + len(frame) <= KEPT_AT_MOST:
                self._keep(frame)
            else:
                self._write(frame)
        except OSError as error:
            self._fail(error)

    def ping(self, data: bytes = b"") -> None:
        """Send a ping with up to 125 bytes. The client's answer is not reported. Raises `ConnectionClosed`, `ValueError`."""
        if len(data) > CONTROL_AT_MOST:
            raise ValueError(f"a ping has at most {CONTROL_AT_MOST} bytes, not {len(data)}")
        self._check_open()
        try:
            self._write(encode_message(_PING, bytes(data), 0))
        except OSError as error:
            self._fail(error)

    def close(self, code: int = NORMAL, reason: str = "") -> None:
        """Close the WebSocket: send a Close frame, wait up to `close_timeout` seconds for the client's, and close the connection. Messages
        that come meanwhile are dropped. Idempotent. `code` is 1000 to 1014 or 3000 to 4999 (section 7.4): `ValueError` otherwise."""
        if code != NORMAL and not (1001 <= code <= 1014 and code not in (1004, NO_CODE, NO_CLOSE)) and not 3000 <= code < 5000:
            raise ValueError(f"{code} is not a code that a Close frame may have")
        if self.close_code is None:
            self._begin_close(code, reason)
        if self._reading:
            return  # the greenlet that receives sees the client's Close
        self._begin_reading()
        try:
            while self.close_code is None:
                self._message = None
                self._take_frame(None)
            self._message = None
        finally:
            self._reading = False

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

    def _begin_reading(self) -> None:
        """Mark the WebSocket as being read, which one greenlet may do at a time. The caller ends it."""
        if self._reading:
            raise RuntimeError("another greenlet receives from this WebSocket")
        self._reading = True

    def _take_frame(self, give_up: float | None) -> None:
        """Handle the next frame. Waits for it until `give_up`: `TimeoutError`. If the WebSocket ends, `close_code` is set."""
        try:
            while self._next >= len(self._frames):
                if self._parser.fault is not None:
                    raise self._parser.fault
                self._read(give_up)
            frame = self._frames[self._next]
            self._next += 1
            if self._next == len(self._frames):
                self._frames = _NO_FRAMES
                self._next = 0
            self._handle(frame)
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
        if self._kept_size > 0 and give_up is None:
            self._write_kept()
        while self._at >= len(self._received):
            try:
                self._read_once(give_up)
            except Expired:
                if self._sent_close or self._pinged or self._ping_interval is None:
                    raise
                self.ping()
                self._pinged = self._ping_timeout is not None
                self.connection.idle_timeout = self._ping_timeout if self._pinged else self._ping_interval
            if self._next < len(self._frames) or self._parser.fault is not None:
                return
        self._parse()

    def _read_once(self, give_up: float | None) -> None:
        """Read what there is: the rest of a long payload into its memory; much into shared memory, of which frames are made at once; other
        bytes into `_received`. Raises `_Elapsed` after `give_up`, and `ConnectionResetError` at the end of the stream."""
        connection = self.connection
        if give_up is not None:
            connection.settimeout(max(give_up - monotonic(), 0.001) if give_up > 0 else 0)
        room = self._parser.room()
        memory = None
        count = 0
        try:
            if room is not None:
                count = connection.recv_into(room)
                self._much = True
            elif self._much and self._is_plain:
                memory = self._shared_memory()
                count = connection.recv_into(memory)
                self._much = count > _SHORT_BLOCK
            else:
                self._received = connection.recv(_BLOCK if self._much else _SHORT_BLOCK)
                self._at = 0
                count = len(self._received)
                self._much = count >= _SHORT_BLOCK
        except Expired:
            raise
        except TimeoutError:
            raise _Elapsed from None
        finally:
            if give_up is not None:
                connection.settimeout(None)
        if count == 0:
            raise ConnectionResetError("the connection has ended without a Close frame")
        if room is not None:
            self._frames = self._parser.filled(count)
            self._next = 0
        elif memory is not None:
            self._parse_memory(memory, count)
        if self._pinged:
            self._pinged = False
            connection.idle_timeout = self._ping_interval

    def _parse(self) -> None:
        """The frames in the next bytes of `_received`. No frame waits."""
        begin = self._at
        end = min(begin + BYTES_AT_ONCE, len(self._received))
        self._at = end
        self._frames = self._parser.feed(self._received, begin, end)
        self._next = 0
        if end == len(self._received):
            self._received = b""
            self._at = 0

    def _shared_memory(self) -> bytearray:
        memory = self._memory
        if memory is None:
            hub = get_hub()
            memory = _shared.get(hub)
            if memory is None:
                memory = _shared[hub] = bytearray(_SHARED_BLOCK)
            self._memory = memory
        return memory

    def _parse_memory(self, memory: bytearray, count: int) -> None:
        """The frames in the first `count` bytes of shared memory. If they are many, the rest is left in `_received`."""
        parser = self._parser
        frames: list[Frame] = []
        at = 0
        while at < count and len(frames) < _FRAMES_AT_ONCE and parser.fault is None:
            end = min(at + BYTES_AT_ONCE, count)
            frames += parser.feed(memory, at, end)
            at = end
        self._frames = frames
        self._next = 0
        if at < count:
            self._received = bytes(memoryview(memory)[at:count])
            self._at = 0

    def _take_what_has_come(self) -> None:
        """Handle the frames that have come, without waiting, up to the first message. It reads once: to a client that sends pings without
        end nothing could be sent otherwise, and an application that sends to many clients would never come to the next one."""
        has_read = False
        self._begin_reading()
        try:
            while self._message is None and self.close_code is None:
                if self._next < len(self._frames) or self._parser.fault is not None:
                    self._take_frame(None)
                elif self._at < len(self._received):
                    self._parse()
                elif has_read:
                    return
                else:
                    has_read = True
                    try:
                        self._read_once(0.0)
                    except BlockingIOError:
                        return
                    except OSError as error:
                        self._end(NO_CLOSE, str(error))
        finally:
            self._reading = False

    def _handle(self, frame: Frame) -> None:
        number: int = frame.opcode
        if number < _CLOSE:
            self._message = self._messages.add(frame)
        elif number == _PING:
            if not self._sent_close:
                self._write(encode_message(_PONG, frame.data, 0))
        elif number == _CLOSE:
            code, reason = close_reason(frame.data)
            if not self._sent_close:
                self._begin_close(NORMAL if code is None else code, reason)
            self._end(NO_CODE if code is None else code, reason)

    def _check_open(self) -> None:
        if self.close_code is not None:
            raise ConnectionClosed(self.close_code, self.close_reason)
        if self._sent_close:
            raise ConnectionClosed(NORMAL, "a Close frame was sent")

    def _fail(self, error: OSError) -> None:
        """A write has failed."""
        self._end(NO_CLOSE, str(error))
        raise ConnectionClosed(NO_CLOSE, str(error)) from error

    # Writing

    def _keep(self, frame: bytes) -> None:
        """Write this frame together with later ones."""
        if not self._kept:
            get_hub().loop.run_callback(self._write_soon)
        self._kept.append(frame)
        self._kept_size += len(frame)

    def _write(self, frame: bytes) -> None:
        """Write what is kept, and this frame."""
        if self._kept_size > 0:
            self._kept.append(frame)
            self._write_kept()
        else:
            self.connection.sendall(frame)

    def _write_kept(self) -> None:
        kept = self._kept
        if kept:
            self._kept = []
            self._kept_size = 0
            self.connection.sendall(b"".join(kept))

    def _write_soon(self) -> None:
        """In the event loop: the greenlet that has sent waits for something."""
        if self._kept:
            spawn(self._write_now)

    def _write_now(self) -> None:
        try:
            self._write_kept()
        except OSError as error:
            self._end(NO_CLOSE, str(error))

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
            self._write(encode_message(_CLOSE, close_payload(code, reason), 0))
        except OSError as error:
            log.debug("%r: the Close frame could not be sent: %s", connection, error)

    def _end(self, code: int, reason: str) -> None:
        """The WebSocket is over. The server closes the connection first (section 7.1.1)."""
        if self.close_code is None:
            self.close_code, self.close_reason = code, reason
            self._kept, self._kept_size = [], 0
            self.connection.close()


class _Elapsed(Exception):
    """The time of one `receive` is over."""
