"""`ClientSession`: one upstream connection of HTTP/2, with the exchanges on it.

One greenlet reads, for as long as the connection lasts. Frames are written by the greenlets of exchanges, and by one that a callback makes
(see `Writing`). The reader never writes, since a peer may not read before it has written.

Each exchange has a `Lifeline`, which is swept with the connection: its deadline, its idle timeout, and `fail` end its waits alone.
"""

import errno
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import gevent
from gevent.event import Event

from muxwsgi.errors import Expired
from muxwsgi.http.client.h2_engine import ClientEngine
from muxwsgi.http.client.response_head import ResponseHead
from muxwsgi.http.h2.body import StreamBody
from muxwsgi.http.h2.encoder import SHARED_NAMES
from muxwsgi.http.h2.errors import ENHANCE_YOUR_CALM, NO_ERROR, ConnectionFault
from muxwsgi.http.h2.field import Field
from muxwsgi.http.h2.sender import OwnFields, Sender
from muxwsgi.http.h2.stream import Stream
from muxwsgi.http.h2.writing import Writing
from muxwsgi.settings import HTTP2Settings, HTTPSettings
from muxwsgi.wire.lifeline import sweep
from muxwsgi.wire.syscalls import clock

if TYPE_CHECKING:
    from collections import deque

    from muxwsgi.wire.connection import Connection

__all__ = ["ClientSession"]

log = logging.getLogger("muxwsgi.proxy")

#: Bytes of a read.
READ = 65536

#: Seconds without a byte from the upstream, while exchanges run, until it is asked whether it is alive; and seconds for its answer. Servers
#: of gRPC end a connection on which they say nothing and are asked more often than once in five minutes (its proposal A8).
PING_AFTER = 310.0
PING_TIMEOUT = 20.0

#: Looks of the sweeper in a row at which the upstream has said nothing, and its kernel has not taken all that was sent. Then the connection
#: takes no more requests: it may be dead, or one request may have filled it.
STUCK_AT = 2

#: Seconds for the first SETTINGS of a server, if a request depends on them.
SETTINGS_TIMEOUT = 10.0

#: Requests that were cancelled, less those that were answered, until a connection takes no more. Servers end connections on which many
#: streams are reset (CVE-2023-44487), so one client could end it for others. Ours ends it at 200, and up to 128 more may be under way.
CANCELS_AT_MOST = 50

#: Interim responses to one request that wait to be taken: a server may send them faster than the client of the proxy takes them.
INTERIM_AT_MOST = 64

_OWN = OwnFields("")


class Exchange(Protocol):
    """What a session knows of an exchange: see `StreamExchange`."""

    stream: Stream
    connection: "Connection"
    heads: "deque[ResponseHead]"
    taken_over: bool


class ClientSession:
    """One connection.

    connection  below all exchanges
    engine      its state
    writing     its writing side
    exchanges   those under way, by the number of their stream
    idle_since  when the last exchange ended, `time.monotonic()` seconds
    """

    __slots__ = (
        "_cancels",
        "_heard",
        "_pinged",
        "_reader",
        "_rests",
        "_settled",
        "_stuck",
        "connection",
        "engine",
        "exchanges",
        "idle_since",
        "used",
        "writing",
    )

    def __init__(
        self, connection: "Connection", http: HTTPSettings, settings: HTTP2Settings, rests: "Callable[[ClientSession], None] | None" = None
    ) -> None:
        """Owns `connection`, and begins to read it. `rests` is called when the last exchange has ended, and must not wait."""
        self.connection = connection
        self.engine = ClientEngine(Sender(_OWN, SHARED_NAMES), self, http, settings)
        self.writing = Writing(connection, self.engine, http)
        self._rests = rests
        self.exchanges: dict[int, Exchange] = {}
        self.idle_since = clock()
        self.used = False  # a response has come on it
        self._cancels = 0
        self._heard = 0
        self._pinged = 0.0
        self._stuck = 0  # see `STUCK_AT`
        self._settled = Event()
        connection.lifeline.streams = self
        self._reader = gevent.spawn(self._run)
        self.writing.note_output()

    def __repr__(self) -> str:
        return f"<ClientSession with {len(self.exchanges)} exchanges on {self.connection!r}>"

    @property
    def room(self) -> int:
        """How many exchanges can be begun now."""
        if self.writing.lost is not None or self._reader.dead or self._cancels > CANCELS_AT_MOST or self._stuck >= STUCK_AT:
            return 0
        return self.engine.room

    def takes_connects(self) -> bool:
        """Whether the server takes extended CONNECTs, which its SETTINGS say. Waits for them."""
        self._settled.wait(SETTINGS_TIMEOUT)
        return self.engine.peer_connects

    @property
    def send_window(self) -> int:
        """Bytes of bodies that the server takes now."""
        return self.engine.sender.window

    @property
    def over(self) -> bool:
        """Whether the connection has ended, or takes no more exchanges and has none."""
        return self._reader.dead or (not self.exchanges and (self.engine.peer_leaves or self._cancels > CANCELS_AT_MOST))

    def _run(self) -> None:
        engine = self.engine
        reason = "the server has closed the connection"
        try:
            while engine.fault is None and self.writing.lost is None:
                self.writing.wait_for_room()
                received = self.connection.recv(READ)
                if not received:
                    break
                engine.receive(received)
                if not self.used and engine.settled:
                    self._settled.set()
                if engine.peer_leaves:
                    engine.leave_above()
                    if not engine.running:
                        break
                if engine.opened:
                    engine.opened = False
                    self.writing.pass_turn()
                if engine.sender.size:
                    self.writing.note_output()
            if engine.fault is not None:
                reason = engine.fault.reason
                self.connection.deadline = clock() + 1.0
                self.writing.write()
        except OSError as error:
            reason = error.strerror or str(error)
        finally:
            log.debug("%r: %s", self, reason)
            self._settled.set()
            engine.cancel(reason)
            engine.close()
            self.connection.lifeline.streams = None
            self.connection.finish()

    def close(self) -> None:
        """End the connection, and all exchanges on it."""
        if not self._reader.dead:
            self.engine.end(ConnectionFault(NO_ERROR, ""))
            self.connection.deadline = clock() + 1.0
            self.writing.write()
            self._reader.kill()
        self.connection.finish()

    def begun(self, exchange: Exchange) -> None:
        """`exchange` has a stream."""
        self.exchanges[exchange.stream.id] = exchange

    def note_cancel(self) -> None:
        """A request is cancelled before its response is complete."""
        self._cancels += 1

    def release(self, exchange: Exchange) -> None:
        """`exchange` needs its stream no more."""
        if exchange.stream.ended and self._cancels:
            self._cancels -= 1
        self.exchanges.pop(exchange.stream.id, None)
        self.engine.release(exchange.stream)
        self.idle_since = clock()
        if self.engine.sender.size:
            self.writing.note_output()
        if self.engine.peer_leaves and not self.engine.running:
            self.connection.lifeline.reader.fail(ConnectionResetError(errno.ECONNRESET, "the server has sent GOAWAY"))
        self.note_rest()

    def note_rest(self) -> None:
        """An exchange has ended, or was not begun."""
        if not self.exchanges and self._rests is not None:
            self._rests(self)

    # What the engine tells

    def answered(self, stream: Stream, head: ResponseHead) -> None:
        """See `Responses`."""
        self.used = True
        exchange = self.exchanges.get(stream.id)
        if exchange is not None:
            if len(exchange.heads) >= INTERIM_AT_MOST and head.status < 200:
                self.engine.reset(stream, ENHANCE_YOUR_CALM, f"more than {INTERIM_AT_MOST} interim responses that nobody has taken")
                return
            exchange.heads.append(head)
            assert stream.body is not None
            stream.body.readiness().notify()

    def taken(self, body: StreamBody, count: int) -> None:
        """See `Reader`."""
        exchange = self.exchanges.get(body.stream)
        if exchange is not None and not exchange.taken_over:  # otherwise the connection counts
            exchange.connection.bytes_received += count
        self.engine.taken(body, count)
        if self.engine.sender.size:
            self.writing.note_output()

    def continue_(self, body: StreamBody) -> None:
        """See `Reader`. Servers wait for no 100."""

    def wait_for(self, body: StreamBody) -> None:
        """See `Reader`. There is no minimum rate."""

    def malformed(self, fields: list[Field], reason: str) -> None:
        """See `Reader`."""

    # What the sweeper does

    def sweep(self, now: float) -> None:
        """See `Lifeline.streams`."""
        sweep([each.connection.lifeline for each in list(self.exchanges.values())], now)
        engine = self.engine
        received = self.connection.bytes_received
        self._stuck = self._stuck + 1 if received == self._heard and self.connection.bytes_unacknowledged else 0
        if received != self._heard or not engine.running:
            self._heard = received
            self._pinged = now
        elif engine.pings:
            if now - self._pinged > PING_TIMEOUT:
                self.writing.lose(Expired("the server does not answer PING"))
        elif now - self._pinged > PING_AFTER:
            self._pinged = now
            engine.ping()
            self.writing.note_output()

    def drain(self) -> None:
        """See `Lifeline.streams`."""
