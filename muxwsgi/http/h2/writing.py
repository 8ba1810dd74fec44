"""`Writing`: how the frames of one connection are written, and which response may send DATA if not all can.

One greenlet writes at a time (`active`), as long as there are frames, since field blocks have to be sent in the order in which they were
encoded. The greenlet that leads (see `session`) writes after each turn. What an application's greenlet adds later is written by a greenlet
that a callback makes, once for all that was added in a turn of the loop. A response that is not complete is written before the application
goes on (PEP 3333), by `flush_within`: in a greenlet whose parent is the application's, so that a Timeout of the application cannot
interrupt a write in the middle of a frame of others.

`send` waits until the windows and the sender have room, and `pass_turn` wakes one of those that wait: the most urgent (RFC 9218), of these
first one that the client wants in sequence, then the one whose last turn is the longest ago. Only one is awake at a time, so that a window
that opens by a frame does not wake a hundred greenlets.

A response that waits has a `Pace`. What counts is what it has sent. If the window of the connection is what holds it back, the bytes of all
others count too.
"""

import errno
import math
from typing import TYPE_CHECKING, Any

from gevent import get_hub

from muxwsgi.errors import Expired
from muxwsgi.http.h2.engine import Engine
from muxwsgi.http.h2.frames import FRAME_AT_MOST
from muxwsgi.http.h2.stream import Stream
from muxwsgi.settings import HTTPSettings
from muxwsgi.wire.acceptor import ConnectionGreenlet
from muxwsgi.wire.pace import Pace
from muxwsgi.wire.ready import Ready
from muxwsgi.wire.syscalls import clock

if TYPE_CHECKING:
    from muxwsgi.wire.connection import Connection

__all__ = ["OUT_AT_MOST", "Writing"]

#: Bytes of frames that wait to be written, at most, before an application has to wait.
OUT_AT_MOST = 1 << 17

#: Frames that wait to be written, in bytes, with which nothing more is read: a peer that takes nothing cannot make them more.
UNREAD_AT = 4 * OUT_AT_MOST

#: Bytes that one response sends before others have a turn.
TURN = 65536

#: Memory for frames of files, with the heads of the smallest frames that a peer may ask for. What was written is used again.
_FILE_MEMORY = OUT_AT_MOST + 9 * (OUT_AT_MOST // FRAME_AT_MOST + 1)
_SPARE_AT_MOST = 4
_spare: list[bytearray] = []

#: A DATA frame of fewer bytes brings little forward, unless it is all that the application has given.
SMALL_AT_MOST = 1024


class Writing:
    """The writing side of one connection.

    active      a greenlet is writing
    lost        why the connection cannot be written to any more, None as long as it can
    """

    __slots__ = ("_called", "_connection", "_engine", "_http", "_hub", "_room", "_turns", "_waiting", "active", "lost", "sender")

    def __init__(self, connection: "Connection", engine: Engine, http: HTTPSettings) -> None:
        self._connection = connection
        self._engine = engine
        self._http = http
        self._hub: Any = get_hub()
        self.sender = engine.sender
        self.active = False
        self.lost: OSError | None = None
        self._room = Ready()  # the leader waits there for frames to be written
        self._waiting: list[Stream] = []  # responses that wait until they may send more
        self._called: Stream | None = None  # the one of them that was woken
        self._turns = 0

    # Frames

    def write(self) -> None:
        """Write all frames that wait, unless another greenlet does."""
        if self.active:
            return
        self.active = True
        sender = self.sender
        try:
            while self.lost is None:
                data = sender.take()
                if not data:
                    break
                self._connection.sendall(data)
                if self._room.waiting:
                    self._room.notify()
        except OSError as error:
            self.lose(error)
        except BaseException:
            self.lose(BrokenPipeError(errno.EPIPE, "a write was interrupted"))
            raise
        finally:
            self.active = False
        if self._waiting:
            self.pass_turn()

    def lose(self, error: OSError) -> None:
        """The connection cannot be written to any more."""
        self.lost = error
        self.sender.take()
        self._engine.cancel("the connection is lost")
        self._room.notify()
        self._connection.lifeline.reader.fail(error)

    def wait_for_room(self) -> None:
        """Wait as long as too much waits to be written."""
        while self.sender.size > UNREAD_AT and self.lost is None:
            self._room.wait()

    def note_output(self) -> None:
        """Have what waits written in the next turn of the loop."""
        if not self.sender.due:
            self.sender.due = True
            self._hub.loop.run_callback(self._write_soon)

    def _write_soon(self) -> None:
        """In the hub, which cannot wait."""
        self.sender.due = False
        if self.sender.size and not self.active:
            ConnectionGreenlet(self.write, self._hub).switch()

    def flush_within(self) -> None:
        """Write what waits, from the greenlet of an application, which goes on when it is written. Another greenlet does it, so that an
        exception that is thrown into this one does not interrupt the write."""
        if self.active or not self.sender.size:
            return
        writer = ConnectionGreenlet(self.write)
        try:
            writer.switch()
        finally:
            if not writer.dead:
                writer.parent = self._hub

    # Responses

    def send(self, stream: Stream, data: bytes, end: bool) -> None:
        """Send DATA on `stream` as its windows and the connection allow, and END_STREAM with the last of it. Raises `OSError` if the stream
        was reset, and `Expired` if the peer takes less than the minimum rate."""
        sender = self.sender
        count = len(data)
        view = data if count <= sender.frame_at_most else memoryview(data)
        at = 0
        turn = 0  # bytes since others had a turn
        while True:
            if stream.code >= 0:
                raise self._gone(stream)
            if sender.size >= OUT_AT_MOST:
                self.flush_within()
                if stream.code >= 0:
                    continue
            room = min(count - at, stream.window, sender.window, sender.frame_at_most)
            if (room <= 0 and at < count) or sender.size >= OUT_AT_MOST or (self._waiting and at < count and self._gives_way(stream, turn)):
                self._wait_for_turn(stream)
                turn = 0
                continue
            last = at + room == count
            sender.data(stream, view if last and not at else view[at : at + room], end and last)
            if room >= SMALL_AT_MOST or last:
                self._engine.budget.earn(self._engine.earns)
            at += room
            turn += room
            if last:
                break
        if self._waiting:
            self.pass_turn()
        if not end:
            self.flush_within()
        elif not sender.due:
            self.note_output()

    def send_file(self, stream: Stream, fd: int, offset: int, count: int, end: bool) -> int:
        """As `send`, of `count` bytes of the file `fd` from `offset`. Returns how many were sent: fewer if the file ends before, and then
        without END_STREAM. The file is read straight into the memory that is sent, between the heads of the frames."""
        sender = self.sender
        at = 0
        turn = 0
        while at < count:
            if stream.code >= 0:
                raise self._gone(stream)
            room = min(count - at, stream.window, sender.window, OUT_AT_MOST)
            if room <= 0 or sender.size >= OUT_AT_MOST or (self._waiting and self._gives_way(stream, turn)):
                self._wait_for_turn(stream)
                turn = 0
                continue
            try:
                memory = _spare.pop()
            except IndexError:
                memory = bytearray(_FILE_MEMORY)
            read = sender.file(stream, fd, offset + at, room, end and at + room == count, memory)
            if not read:
                break
            if read >= SMALL_AT_MOST or at + read == count:
                self._engine.budget.earn(1 + (read - 1) // sender.frame_at_most)
            at += read
            turn += read
            self.flush_within()
            if not self.active and not sender.size and len(_spare) < _SPARE_AT_MOST:  # otherwise another greenlet writes it later
                _spare.append(memory)
        if self._waiting:
            self.pass_turn()
        return at

    def _gone(self, stream: Stream) -> OSError:
        """Why nothing can be sent on a stream that was reset. In a forked child the connection is closed, which `wire.fork` has to see."""
        if self.lost is not None and self.lost.errno == errno.EBADF:
            return OSError(errno.EBADF, self.lost.strerror)
        return ConnectionResetError(errno.ECONNRESET, f"the stream was reset (error code {stream.code})")

    def _gives_way(self, stream: Stream, turn: int) -> bool:
        """Whether another response comes before the next frame of this one, which has sent `turn` bytes."""
        other = self._best()
        if other is None or other.urgency > stream.urgency:
            return False
        if other.urgency < stream.urgency:
            return True
        if stream.sequential:
            return other.sequential and other.id < stream.id
        return other.sequential or turn >= TURN

    def _best(self) -> Stream | None:
        """The response that comes next, of those that wait and whose windows are open."""
        best: Stream | None = None
        if self.sender.window > 0:
            for stream in self._waiting:
                if stream.window > 0 and (best is None or _order(stream) < _order(best)):
                    best = stream
        return best

    def _wait_for_turn(self, stream: Stream) -> None:
        """Wait until `stream` may send more. Time in which the peer takes nothing uses up its patience."""
        self.flush_within()
        if stream.code >= 0:
            return
        if self._http.body_min_rate and stream.pace is None and not stream.patient:
            stream.pace = Pace(self._http.body_min_rate, self._http.body_rate_grace)
        self._turns += 1
        stream.turn = self._turns
        if stream.writer is None:
            stream.writer = Ready()
        self._waiting.append(stream)
        self._begin_wait(stream, clock())
        self.pass_turn()
        try:
            if self._called is not stream:
                stream.writer.wait(_left(stream.give_up))
        finally:
            self._waiting.remove(stream)
            if self._called is stream:
                self._called = None
            self._look(stream, clock())

    def pass_turn(self) -> None:
        """Wake the response that comes next, if there is room."""
        if self._called is not None or self.sender.size >= OUT_AT_MOST:
            return
        best = self._best()
        if best is not None:
            self._called = best
            best.wake()

    def sweep(self, now: float) -> None:
        """End the waits of responses that are taken too slowly."""
        for stream in self._waiting:
            self._look(stream, now)
            if stream.pace is not None and stream.pace.patience < 0 and stream.writer is not None:
                stream.writer.fail(Expired("the client takes the response more slowly than allowed"))

    def _begin_wait(self, stream: Stream, now: float) -> None:
        stream.held_back = stream.window <= 0
        stream.waits_since = now
        stream.others = self._connection.bytes_sent

    def _look(self, stream: Stream, now: float) -> None:
        """Note what the peer has taken since the last look: of the stream, and of all if the connection is what holds it back."""
        if stream.pace is not None:
            count = stream.sent - stream.moved
            if not stream.held_back:
                count += self._connection.bytes_sent - stream.others
            stream.pace.moved(count, max(now - stream.waits_since, 0.0))
        stream.moved = stream.sent
        self._begin_wait(stream, now)


def _left(give_up: float) -> float | None:
    """The timeout of a wait until `give_up`. Raises `TimeoutError` behind it."""
    if give_up == math.inf:
        return None
    left = give_up - clock()
    if left <= 0:
        raise TimeoutError(errno.ETIMEDOUT, "timed out")
    return left


def _order(stream: Stream) -> tuple[int, int, int]:
    if stream.sequential:
        return (stream.urgency, 0, stream.id)
    return (stream.urgency, 1, stream.turn)
