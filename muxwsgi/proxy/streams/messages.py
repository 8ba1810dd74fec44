"""`MessageRecorder`: records the messages of a WebSocket in its flow. It does not change what is relayed.

The recorder gets bytes from a relay without hooks, or the frames that hooks have passed on. It joins fragments, decompresses
permessage-deflate, and keeps the first messages. There are limits on the number of messages, the bytes kept of each, the bytes kept of all,
and the bytes that are decompressed. Messages beyond these limits are only counted. A broken frame ends the record of its direction.
"""

from collections.abc import Iterable

from muxwsgi.http.websocket.deflate import BLOCK, Inflater, agreed_deflate
from muxwsgi.http.websocket.frame import BrokenFrame, Frame, FrameParser, Opcode
from muxwsgi.http.websocket.messages import Fragments, close_reason
from muxwsgi.http.websocket.turns import frames_in_turns
from muxwsgi.records.flow import Captured, Close, Flow, Message, WebSocketRecord
from muxwsgi.wire.ready import give_turn

__all__ = ["CONTENT_PER_MESSAGE", "INFLATED_AT_MOST", "MessageRecorder"]

#: All messages of a WebSocket together may keep this many bytes for each message that may be kept.
CONTENT_PER_MESSAGE = 4096

#: Bytes that are decompressed in one WebSocket. One byte from a peer can become a thousand decompressed bytes.
INFLATED_AT_MOST = 64 << 20

#: Frames longer than this are read in pieces, so that no more of a frame waits in memory.
PIECE = 4096


class _Way:
    """One direction: how far it has been read."""

    __slots__ = ("broken", "fragments", "message", "parser", "sender")

    def __init__(self, from_client: bool, inflater: Inflater | None) -> None:
        self.sender = "client" if from_client else "server"
        self.parser = FrameParser(from_client, piece=PIECE, extensions=inflater is not None)
        self.fragments = Fragments(inflater)
        self.message: Message | None = None  # the message that is being received, if it is kept
        self.broken = False


class MessageRecorder:
    """Fills in `flow.websocket`, from the first byte after the handshake. `fields` are those of the handshake's response. `end` ends it.

    At most `message_limit` messages are kept, and `flow.capture_limit` bytes of each.
    """

    __slots__ = ("_begun", "_flow", "_from_client", "_from_server", "_inflated", "_limit", "_record", "_room", "_room_limit")

    def __init__(self, flow: Flow, fields: Iterable[tuple[str, str]], message_limit: int) -> None:
        self._flow = flow
        self._record = flow.websocket = WebSocketRecord()
        self._limit = message_limit
        self._begun = 0  # messages that are kept
        self._room = self._room_limit = max(flow.capture_limit, message_limit * CONTENT_PER_MESSAGE)
        self._inflated = 0
        deflate = why = None
        try:
            deflate = agreed_deflate(fields)
        except ValueError as error:
            why = str(error)
        self._from_client = _Way(True, Inflater(deflate.client_context) if deflate else None)
        self._from_server = _Way(False, Inflater(deflate.server_context) if deflate else None)
        if why is not None:
            self._from_client.broken = self._from_server.broken = True
            self._stop(why)

    def add_bytes(self, data: bytes, from_client: bool) -> None:
        """The bytes that are relayed next in that direction, cut anywhere."""
        way = self._from_client if from_client else self._from_server
        if way.broken:
            return
        try:
            for frame in frames_in_turns(way.parser, data):
                self._take(way, frame)
        except BrokenFrame as fault:
            self._break_off(way, fault)

    def add_frame(self, frame: Frame) -> None:
        """The frame that is relayed next."""
        way = self._from_client if frame.from_client else self._from_server
        if way.broken:
            return
        try:
            self._take(way, frame)
        except BrokenFrame as fault:
            self._break_off(way, fault)

    def end(self) -> None:
        """The relay has ended. Unfinished messages are recorded as incomplete."""
        for way in (self._from_client, self._from_server):
            if not way.broken and way.parser.within_frame:
                self._stop(f"the stream from the {way.sender} ended within a frame")
            self._leave(way)

    def _take(self, way: _Way, frame: Frame) -> None:
        if frame.opcode >= Opcode.CLOSE:
            if frame.rsv:
                raise BrokenFrame("a control frame has a reserved bit")
            if frame.opcode == Opcode.CLOSE and self._record.close is None:
                self._record.close = Close(frame.from_client, *close_reason(frame.data))
            return
        if way.fragments.begins(frame):
            self._begin(way, frame)
        self._read(way, frame)
        if frame.fin:
            self._finish(way)

    def _begin(self, way: _Way, frame: Frame) -> None:
        self._record.count += 1
        if self._inflated > INFLATED_AT_MOST:
            return
        if self._begun == self._limit:
            self._stop(f"the limit of {self._limit} messages is reached")
        elif self._room <= 0:
            self._stop_full()
        else:
            self._begun += 1
            way.message = Message(frame.from_client, int(frame.opcode), 0.0, True, Captured(self._flow.capture_limit))

    def _read(self, way: _Way, frame: Frame) -> None:
        message = way.message
        # After a message that is not kept no further one is kept, so the decompressor's window need not stay complete.
        if message is None or not message.complete:
            return
        for block in way.fragments.content(frame):
            self._keep(message.content, block)
            if not way.fragments.compressed:
                continue
            self._inflated += len(block)
            if self._inflated > INFLATED_AT_MOST:
                self._stop(f"permessage-deflate made more than {INFLATED_AT_MOST} bytes, which is the limit")
                message.complete = False
                return
            if len(block) == BLOCK:
                give_turn()

    def _keep(self, content: Captured, block: bytes) -> None:
        kept = len(content.data)
        wanted = min(len(block), self._flow.capture_limit - kept)
        if wanted > self._room:
            self._stop_full()
        content.limit = kept + min(wanted, self._room)
        content.add(block)
        self._room -= len(content.data) - kept

    def _finish(self, way: _Way) -> None:
        if way.message is not None:
            way.message.time = self._flow.now()
            self._record.messages.append(way.message)
        way.message = None

    def _break_off(self, way: _Way, fault: BrokenFrame) -> None:
        """After a broken frame, the rest of this direction cannot be parsed."""
        self._stop(f"the frames from the {way.sender} are broken: {fault.reason}")
        way.broken = True
        self._leave(way)

    def _leave(self, way: _Way) -> None:
        if way.message is not None:
            way.message.complete = False
        self._finish(way)

    def _stop_full(self) -> None:
        self._stop(f"the limit of {self._room_limit} bytes of messages is reached")

    def _stop(self, why: str) -> None:
        if self._record.stopped is None:
            self._record.stopped = why
