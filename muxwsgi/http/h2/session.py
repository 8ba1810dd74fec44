"""`Session`: the greenlets that serve one connection of HTTP/2.

Theory of operation
-------------------

One greenlet *leads*: it reads the connection, gives the bytes to the `Engine`, serves the requests that have come by calling the
application itself, writes what that has put into the `Sender`, and reads on. As long as no application waits, there is no other greenlet,
all responses to what one read has brought leave in one write, and a request costs no switch.

Before the leader calls an application, it has a callback queued in the loop. If the application waits, the loop runs the callback, which
makes a new greenlet and lets it lead: it serves the other requests, and reads on. The greenlet that led before ends with its response; the
connection's first greenlet, which must not return before the others, waits for them instead.

Deadlines: the sweeper calls `sweep`. The leader's wait has the deadlines of the connection (its first request, rest between requests, an
incomplete field block), which the lifeline keeps as in HTTP/1.1. Each body that an application waits for, and each response that waits for
the peer, has its own `Pace`.

The end, in order: GOAWAY that names no stream, and a PING; when the PING is answered (or after `linger` seconds), GOAWAY with the last
stream; when no application runs any more, a lingering close. The file is long because a compiled class is in one file.
"""

import logging
import math
from collections import deque
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import gevent
from gevent import get_hub, getcurrent

from muxwsgi.errors import Cut, Draining, Expired, PeerError
from muxwsgi.events import tell
from muxwsgi.http.environ import Environ
from muxwsgi.http.exchange import Exchange
from muxwsgi.http.gateway import Gateway
from muxwsgi.http.h2.body import NoBody, StreamBody
from muxwsgi.http.h2.engine import Engine
from muxwsgi.http.h2.errors import ENHANCE_YOUR_CALM, ConnectionFault
from muxwsgi.http.h2.field import Field
from muxwsgi.http.h2.refused import broken_connection, malformed_request
from muxwsgi.http.h2.response import H2Response, response_to, response_to_upgrade
from muxwsgi.http.h2.sender import OwnFields, Sender
from muxwsgi.http.h2.stream import Stream
from muxwsgi.http.h2.takeover import Takeover
from muxwsgi.http.h2.writing import Writing
from muxwsgi.http.input import Input
from muxwsgi.settings import HTTP2Settings, HTTPSettings
from muxwsgi.wire.acceptor import ConnectionGreenlet
from muxwsgi.wire.lifeline import Lifeline, sweep
from muxwsgi.wire.lingering_close import linger
from muxwsgi.wire.ready import Ready
from muxwsgi.wire.syscalls import clock

if TYPE_CHECKING:
    from greenlet import greenlet

    from muxwsgi.wire.connection import Connection

__all__ = ["Session"]

log = logging.getLogger("muxwsgi.error")

#: Bytes of a read. The larger follows a read that was full.
SMALL_READ, LARGE_READ = 4096, 65536

#: Seconds without a byte from the client, while applications run, until it is asked whether it is alive; and seconds for its answer.
PING_AFTER = 60.0
PING_TIMEOUT = 20.0

#: Seconds that cut applications have to end.
CUT_TIMEOUT = 2.0


class Session:
    """One connection. `serve` serves it until its end."""

    __slots__ = (
        "_away",
        "_block_since",
        "_connection",
        "_engine",
        "_error",
        "_forwarding",
        "_gateway",
        "_gone_at",
        "_heard",
        "_hub",
        "_http",
        "_leader",
        "_line",
        "_loop",
        "_main",
        "_no_body",
        "_own",
        "_pinged",
        "_read_size",
        "_reading",
        "_ready",
        "_relief",
        "_rest_since",
        "_returned",
        "_sender",
        "_shared",
        "_taken",
        "_waiting_bodies",
        "_writing",
    )

    def __init__(
        self, connection: "Connection", gateway: Gateway, http: HTTPSettings, settings: HTTP2Settings, own: OwnFields
    ) -> None:
        """`own.closing` is set when the server drains."""
        self._connection = connection
        self._line = connection.lifeline
        self._gateway = gateway
        self._http = http
        self._own = own
        self._hub: Any = get_hub()
        self._loop: Any = self._hub.loop
        self._no_body = NoBody(http)
        self._shared = gateway.environ_of(connection)
        self._forwarding = gateway.forwarding(connection)
        self._shared["wsgi.input"] = Input(self._no_body)
        self._sender = Sender(own)
        self._engine = Engine(self._sender, self, self._shared, http, settings)
        self._writing = Writing(connection, self._engine, http)
        self._ready: deque[Stream] = deque()  # requests that are to be served
        self._main: "greenlet" = getcurrent()
        self._leader: "greenlet | None" = self._main
        self._relief: Any = None  # the callback that makes another greenlet lead
        self._away: set["greenlet"] = set()  # greenlets that lead no more, and still run an application; without the first one
        self._returned = Ready()  # the first greenlet waits for the others there
        self._error: BaseException | None = None  # what the first greenlet raises
        self._reading = False  # the leader waits for bytes
        self._waiting_bodies: set[StreamBody] = set()
        self._taken: dict[Lifeline, None] = {}  # of streams that applications have taken over
        self._read_size = SMALL_READ
        self._rest_since = 0.0  # no application runs since then; 0 while one does
        self._block_since = 0.0  # a field block is incomplete since then; 0 without one
        self._gone_at = 0.0  # when the peer was told to open no more streams
        self._heard = 0  # bytes received when the sweeper looked last, and when they became more
        self._pinged = 0.0

    def serve(self) -> None:
        """Serve the connection until either side ends it. Raises its errors, which are the peer's faults, and `Cut`."""
        line = self._line
        line.min_rate = self._http.body_min_rate
        line.rate_grace = self._http.body_rate_grace
        line.streams = self
        try:
            self._lead()
            while self._leader is not None or self._away:
                self._returned.wait()
            if self._error is not None:
                raise self._error
        finally:
            line.streams = None
            self._cut()
            self._error = None  # its traceback refers to this frame

    # The greenlets

    def _lead(self) -> None:
        """Read and serve, until another greenlet leads or the connection is over."""
        me = self._leader
        engine = self._engine
        sender = self._sender
        ready = self._ready
        try:
            while True:
                # 1. Serve what has come.
                sender.due = True
                if ready or sender.size:
                    if self._relief is None:
                        self._relief = self._loop.run_callback(self._relieve)
                    while ready:
                        self._exchange(ready.popleft())
                        if self._leader is not me:
                            return

                    # 2. Write what that gives. If it blocks, another greenlet reads: the peer may write without reading.
                    if sender.size:
                        self._writing.write()
                        if self._leader is not me:
                            return
                    if self._relief is not None:
                        self._relief.stop()
                        self._relief = None
                sender.due = False

                # 3. Is it over?
                if self._own.closing and not engine.draining:
                    self._go_away()
                    continue
                if self._is_over():
                    break
                if sender.size and not self._writing.active:
                    continue

                # 4. Read.
                data = self._read()
                if data is None:
                    continue
                if not data:
                    break
                for stream in engine.receive(data):
                    ready.append(stream)
                if len(ready) > 1:
                    self._sort()
                if engine.opened:
                    engine.opened = False
                    self._writing.pass_turn()
        except (PeerError, OSError) as error:
            self._error = error
        self._end()

    def _relieve(self) -> None:
        """In the hub: the leader waits for something, so another greenlet leads."""
        self._relief = None
        leader = self._leader
        if leader is None:
            return
        if leader is not self._main:
            self._away.add(leader)
        follower = ConnectionGreenlet(self._follow, self._hub)
        self._leader = follower
        follower.switch()

    def _follow(self) -> None:
        me = getcurrent()
        try:
            self._lead()
        except Cut:
            pass
        except BaseException as error:  # only what a process has to end with: the first greenlet raises it
            self._error = error
            self._connection.abort()
        finally:
            self._away.discard(me)
            if self._leader is me:
                self._leader = None
            self._returned.notify()

    def _cut(self) -> None:
        """End the greenlets that are left: the first one ends, so nobody serves the connection any more."""
        self._engine.close()
        if self._relief is not None:
            self._relief.stop()
            self._relief = None
        me = getcurrent()
        left = list(self._away)
        if self._leader is not None and self._leader is not me:
            left.append(self._leader)
        self._leader = None
        for each in left:
            gevent.kill(each, Cut)
        give_up = clock() + CUT_TIMEOUT
        while self._away and clock() < give_up:
            try:
                self._returned.wait(give_up - clock())
            except OSError:
                break

    def _end(self) -> None:
        """The connection is over: say what is to be said, and close it."""
        engine = self._engine
        connection = self._connection
        fault = engine.fault
        engine.cancel("the connection is closed")
        self._ready.clear()
        if self._writing.lost is None and self._error is None:
            connection.deadline = clock() + self._http.linger
            self._writing.write()
            if fault is not None:
                self._error = PeerError(fault.status, fault.reason)
                self._note_refusal(broken_connection(self._shared), self._error, 0, 0.0)
            if self._writing.lost is None and connection.bytes_received:
                linger(connection, self._http.linger)
        elif self._error is None:
            self._error = self._writing.lost
        if self._away or getcurrent() is not self._main:
            connection.close()
        self._leader = None
        self._returned.notify()

    # Reading

    def _is_over(self) -> bool:
        """Whether nothing more is to be read. Tells the peer so first."""
        engine = self._engine
        if engine.fault is not None or self._writing.lost is not None:
            return True
        if engine.draining and not engine.refusing and (engine.gone_heard or clock() - self._gone_at > self._http.linger):
            engine.refuse_new()
        if engine.running:
            return False
        if engine.refusing or engine.peer_leaves or (engine.last and self._http.keep_alive == 0):
            engine.refuse_new()
            return True
        return False

    def _go_away(self) -> None:
        if not self._engine.draining:
            self._engine.go_away()
            self._gone_at = clock()

    def _read(self) -> bytes | None:
        """The next bytes, b"" at the end of the stream; None if there are none, and the leader has to look again."""
        engine = self._engine
        line = self._line
        http = self._http
        self._writing.wait_for_room()

        # The deadline of this wait.
        deadline = _NEVER
        if engine.running or engine.in_block:
            self._rest_since = 0.0
        else:
            if not self._rest_since:
                self._rest_since = clock()
            deadline = self._rest_since + (http.keep_alive if engine.last else http.request_head_timeout)
        if engine.in_block:
            if not self._block_since:
                self._block_since = clock()
            deadline = self._block_since + http.request_head_timeout
        else:
            self._block_since = 0.0
        if engine.draining and not engine.refusing:
            deadline = min(deadline, self._gone_at + http.linger)
        line.deadline = deadline
        line.resting = not engine.draining
        self._reading = True
        try:
            data = self._connection.recv(self._read_size)
        except Draining:
            if self._own.closing:
                if not self._connection.bytes_received:
                    return b""  # it is no connection of HTTP/2 yet
                self._go_away()
            return None
        except Expired:
            if clock() < line.deadline:
                raise
            if engine.in_block:
                engine.end(ConnectionFault(ENHANCE_YOUR_CALM, "a request head came too late", 408))
            elif not engine.draining or engine.refusing:
                engine.refuse_new()
            return None
        finally:
            self._reading = False
            line.resting = False
            line.deadline = _NEVER
        self._read_size = LARGE_READ if len(data) == self._read_size else SMALL_READ
        return data

    def _sort(self) -> None:
        """Serve the most urgent requests first."""
        first = self._ready[0]
        for stream in self._ready:
            if stream.urgency != first.urgency:
                ordered = sorted(self._ready, key=_urgency)
                self._ready.clear()
                self._ready.extend(ordered)
                return

    # One exchange

    def _exchange(self, stream: Stream) -> None:
        """Have the application answer one request."""
        engine = self._engine
        try:
            if stream.code < 0:
                if stream.refusal is not None:
                    self._refuse(stream, stream.refusal)
                    return
                environ = stream.environ
                assert environ is not None
                if self._forwarding is not None:
                    try:
                        self._forwarding.read(environ)
                    except PeerError as error:
                        self._refuse(stream, error)
                        return
                stream.environ = None
                body = stream.body
                if body is None:
                    response = response_to(self._writing, engine, stream, self._no_body)
                    self._gateway.serve(self._connection, environ, self._no_body, response, stream.target)
                    return
                if stream.protocol is not None:
                    self._connect(stream, environ)
                    return
                environ["wsgi.input"] = Input(body)
                environ["muxwsgi.trailers"] = body.trailers
                if body.length < 0:
                    environ["wsgi.input_terminated"] = True
                response = response_to(self._writing, engine, stream, body)
                self._gateway.serve(self._connection, environ, body, response, stream.target)
        except (PeerError, OSError) as error:
            log.debug("%r, stream %d: %s", self._connection, stream.id, error)
        finally:
            engine.release(stream)
            if self._sender.size and not self._sender.due:
                self._writing.note_output()
            self._rest_since = 0.0  # requests prolong the rest behind them. Other frames, and parts of frames, do not
            if self._reading and not engine.running:
                self._note_rest()

    def _connect(self, stream: Stream, environ: dict[str, Any]) -> None:
        """Have the application answer a CONNECT, which may make the stream a transport."""
        body = Takeover(self._connection, self._writing, self._engine, stream, self._http, self._note_taken)
        response = (response_to_upgrade if stream.protocol else response_to)(self._writing, self._engine, stream, body)
        ended_by: BaseException | None = None
        try:
            self._gateway.serve(self._connection, environ, body, response, stream.target)
        except BaseException as error:
            ended_by = error
            raise
        finally:
            if body.connection is not None:
                self._taken.pop(body.connection.lifeline, None)
            body.finish(ended_by)
            ended_by = None  # its traceback refers to this frame

    def _note_taken(self, line: Lifeline) -> None:
        self._taken[line] = None

    def _note_rest(self) -> None:
        """No application runs any more, and another greenlet, which leads, is in the middle of a read."""
        if self._engine.draining or self._engine.peer_leaves or self._http.keep_alive == 0:
            self._line.reader.fail(Draining("the last response is complete"))  # the leader looks whether it is over
        elif not self._engine.in_block:
            self._rest_since = clock()
            self._line.deadline = self._rest_since + self._http.keep_alive

    def _refuse(self, stream: Stream, error: PeerError) -> None:
        """Answer a request that the application does not see."""
        environ = stream.environ
        assert environ is not None
        stream.environ = None
        began = clock()
        response: H2Response = response_to(self._writing, self._engine, stream, stream.body or self._no_body)
        try:
            response.refuse(error)
        finally:
            self._note_refusal(environ, error, response.body_bytes, clock() - began)

    def _note_refusal(self, environ: Environ, error: PeerError, size: int, seconds: float) -> None:
        """Report a request that the application does not see. `size` bytes of a body were sent to answer it."""
        gateway = self._gateway
        gateway.note_refusal(self._connection, error)
        events = gateway.events
        if events.counts is not None:
            events.counts.note_refusal(error.status, seconds)
        if events.exchange:
            status = f"{error.status} {HTTPStatus(error.status).phrase}"
            tell(events.exchange, Exchange(environ, environ, status, [], size, seconds, error.reason))

    # What the sweeper does

    def sweep(self, now: float) -> None:
        """Called about once a second (see `Lifeline.streams`)."""
        # 1. Bodies that come too slowly.
        for body in self._waiting_bodies:
            if body.waits and now > body.deadline:
                body.expire()
        self._waiting_bodies = {body for body in self._waiting_bodies if body.waits}

        # 2. Responses that are taken too slowly.
        self._writing.sweep(now)

        # 3. Streams that were taken over have the deadlines of connections.
        if self._taken:
            sweep(list(self._taken), now)

        # 4. A peer that may be gone.
        engine = self._engine
        received = self._connection.bytes_received
        if received != self._heard or not engine.running:
            self._heard = received
            self._pinged = now
        elif engine.pings:
            if now - self._pinged > PING_TIMEOUT:
                self._writing.lose(Expired("the client does not answer PING"))
        elif now - self._pinged > PING_AFTER:
            self._pinged = now
            engine.ping()
            self._writing.note_output()

    def drain(self) -> None:
        """Called at shutdown (see `Lifeline.streams`)."""
        for line in list(self._taken):
            line.drain()

    # What bodies and the engine need

    def malformed(self, fields: list[Field], reason: str) -> None:
        """See `body.Reader`. In HTTP/1.1 it would be a 400."""
        self._note_refusal(malformed_request(self._shared, fields), PeerError(400, reason), 0, 0.0)

    def taken(self, body: StreamBody, count: int) -> None:
        """See `body.Reader`."""
        self._engine.taken(body, count)
        if self._sender.size and not self._sender.due:
            self._writing.note_output()

    def continue_(self, body: StreamBody) -> None:
        """See `body.Reader`."""
        stream = self._engine.streams.get(body.stream)
        if stream is not None:
            self._sender.fields(stream, [(b":status", b"100")], False)
            if not self._sender.due:
                self._writing.note_output()

    def wait_for(self, body: StreamBody) -> None:
        """See `body.Reader`."""
        self._waiting_bodies.add(body)


def _urgency(stream: Stream) -> int:
    return stream.urgency


_NEVER = math.inf
