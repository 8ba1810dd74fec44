"""`MessageRecorder`: the messages of a WebSocket on their way into its flow. It reads along, and changes nothing that is relayed.

The recorder gets bytes, as a relay without hooks has them, or the frames that hooks have left. It joins fragments, undoes
permessage-deflate, and keeps the first messages. All that it takes is bounded: the number of messages, what each may keep, what they keep
together, and what is inflated at all. A message beyond these bounds is counted. Broken frames end the record of their direction.
"""

from collections.abc import Iterable

from muxwsgi.http.websocket.deflate import BLOCK, Inflater, agreed_deflate
from muxwsgi.http.websocket.frame import BrokenFrame, Frame, FrameParser, Opcode
from muxwsgi.http.websocket.messages import Fragments, close_reason
from muxwsgi.proxy.streams.turns import frames_in_turns
from muxwsgi.records.flow import Captured, Close, Flow, Message, WebSocketRecord
from muxwsgi.wire.ready import give_turn

__all__ = ["CONTENT_PER_MESSAGE", "INFLATED_AT_MOST", "MessageRecorder"]

#: Bytes of content that messages keep together: as many for each that may be kept.
CONTENT_PER_MESSAGE = 4096

#: Bytes that are inflated in one WebSocket. A peer can have a thousand bytes inflated with each byte that it sends.
INFLATED_AT_MOST = 64 << 20

#: Frames longer than this are read as they arrive, so that no more of them waits in memory.
PIECE = 4096


class _Way:
    """One direction: how far it has been read."""

    __slots__ = ("broken", "fragments", "message", "parser", "who")

    def __init__(self, from_client: bool, inflater: Inflater | None) -> None:
        self.who = "client" if from_client else "server"
        self.parser = FrameParser(from_client, piece=PIECE, extensions=inflater is not None)
        self.fragments = Fragments(inflater)
        self.message: Message | None = None  # the message that is under way, where it is kept
        self.broken = False


class MessageRecorder:
    """Fills in `flow.websocket`, from the first byte behind the handshake on, whose response has `fields`. `end` ends it.

    `message_limit` is how many messages are kept, of each of them `flow.capture_limit` bytes.
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
        """What is relayed next in that direction, cut anywhere."""
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
        """The relay has ended: what is under way stays incomplete."""
        for way in (self._from_client, self._from_server):
            if not way.broken and way.parser.within_frame:
                self._stop(f"the stream from the {way.who} ended within a frame")
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
            self._stop(f"{self._limit} messages are kept, and no more")
        elif self._room <= 0:
            self._stop_full()
        else:
            self._begun += 1
            way.message = Message(frame.from_client, int(frame.opcode), 0.0, True, Captured(self._flow.capture_limit))

    def _read(self, way: _Way, frame: Frame) -> None:
        message = way.message
        # Where a message is not kept, none will be: nothing will refer to it that is read.
        if message is None or not message.complete:
            return
        for block in way.fragments.content(frame):
            self._keep(message.content, block)
            if not way.fragments.compressed:
                continue
            self._inflated += len(block)
            if self._inflated > INFLATED_AT_MOST:
                self._stop(f"more than {INFLATED_AT_MOST} bytes come out of permessage-deflate, and no more are read")
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
        """Nothing can be known of what follows in this direction."""
        self._stop(f"what the {way.who} sent cannot be read further: {fault.reason}")
        way.broken = True
        self._leave(way)

    def _leave(self, way: _Way) -> None:
        if way.message is not None:
            way.message.complete = False
        self._finish(way)

    def _stop_full(self) -> None:
        self._stop(f"{self._room_limit} bytes of messages are kept, and no more")

    def _stop(self, why: str) -> None:
        if self._record.stopped is None:
            self._record.stopped = why
