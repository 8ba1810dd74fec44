"""Handover: a worker that retires gives its resting connections to the workers that serve in its place. No client connects again.

Closing a kept HTTP connection loses the request that a client sends at this moment. So the descriptor is sent to another worker through a
socketpair that the master has made (SCM_RIGHTS, unix(7)). All workers have both ends, and read it like an accept queue: each when it has
room, and under the gate. Bytes that come meanwhile wait in the socket.

**What is handed over**: connections of HTTP/1.x that rest between two requests, plain TCP or unix, with nothing of them in this process:
no TLS, no byte read ahead, no data that the application keeps for the connection. The receiver goes on as the sender would have:
same client, address and bind, and the connection closes at the time at which it would have closed. It goes to the HTTP engine, because its
question was answered. All other connections end by grace (`drain.py`).

**What is not handed over**: anything at a stop, because nobody serves then; anything while no other worker accepts; a connection whose bind
some accepting worker does not have, or has with other settings (`Entry.binds`). If the socketpair is full, or the kernel has too many
descriptors in flight (ETOOMANYREFS), the sender tries again at its next look, until its grace ends.

**To a new master** (`server/upgrade.py`): its workers read another queue, `HandoverQueue.following`. A worker that retires puts connections
there if no other worker of its own master accepts, and if the new workers have the bind (`SharedPage.followers`).

**Nothing stays in the queue.** If no other worker accepts, because all end or have `max_connections`, workers that end take the
descriptors back. If none is left that ends, a descriptor waits in the queue until a worker has room, as clients do in the backlog. A
process without a free descriptor does not read the queue, because the kernel would drop what it cannot deliver.
"""

import json
import logging
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import gevent
from gevent import get_hub, getcurrent
from gevent.event import Event

from muxwsgi.errors import HandedOver
from muxwsgi.server.gate import Gate
from muxwsgi.server.handover_queue import HandoverQueue
from muxwsgi.server.serving import Serving
from muxwsgi.wire.acceptor import GATE_PAUSE, ConnectionGreenlet
from muxwsgi.wire.connection import Connection
from muxwsgi.wire.fork import leave_to_parent
from muxwsgi.wire.layers import bare_descriptor
from muxwsgi.wire.lifeline import Lifeline
from muxwsgi.wire.plain_socket import PlainSocket
from muxwsgi.wire.ready import READ
from muxwsgi.wire.room import Room
from muxwsgi.wire.syscalls import close_descriptor, kind_of

if TYPE_CHECKING:
    from muxwsgi.server.binds import Listening
    from muxwsgi.server.composition import Composition
    from muxwsgi.server.worker import Worker

__all__ = ["Handover"]

log = logging.getLogger("muxwsgi.error")

#: Seconds until the next attempt if this process has no free descriptor.
WITHOUT_DESCRIPTORS = 0.2

#: The version of `_Message`. Increase it if another release could not read the message: then connections end by grace in an upgrade.
FORMAT = 1

#: Lines of `Connection.trace` that are handed over, and characters of each.
_TRACE, _TRACE_LINE = 8, 500


@dataclass(frozen=True, slots=True)
class _Message:
    """What the receiver has to know of a connection.

    bind            the word of its bind
    client, server  as `Connection` has them
    until           when it is to be closed if no request comes (`monotonic`, which is the same in all processes)
    received, sent  bytes so far
    route, trace    as `Connection` has them
    """

    bind: int
    client: Any
    server: Any
    until: float
    received: int
    sent: int
    route: str | None
    trace: list[str]

    def encoded(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @classmethod
    def of(cls, data: bytes) -> "_Message":
        message = json.loads(data)
        for name in ("client", "server"):
            if isinstance(message[name], list):
                message[name] = tuple(message[name])
        return cls(**message)


#: The largest prime below 2 ** 64. What remains of a text tells it from others, and hashlib would take a hundredth of a start to import.
_PRIME = (1 << 64) - 59


def word_of(listening: "Listening") -> int:
    """A word for a bind, its settings and the format of messages, the same in all workers; not 0."""
    text = f"{FORMAT} {listening.address} {listening.bind}"
    return int.from_bytes(text.encode(), "little") % _PRIME or 1


class Handover:
    """One worker's part of it. `start` and `stop` begin and end receiving; `give` and `take_back` belong to the worker's end."""

    def __init__(
        self, worker: "Worker", gate: Gate, lines: dict[Lifeline, Any], serving: Serving, composition: "Callable[[], Composition]"
    ) -> None:
        """`lines` are the connections that are served, and `composition` returns the one that serves new ones."""
        self._queue = worker.queue
        self._page = worker.page
        self._entry = worker.entry
        self._gate = gate
        self._lines = lines
        self._serving = serving
        self._composition = composition
        self._words: dict[str, int] = {}  # of binds, by address
        self._addresses: dict[int, str] = {}
        self._room = Room(None)
        self._free = Event()
        self._receiver: gevent.Greenlet[..., None] | None = None
        self._short = False  # of descriptors, which is logged once

    def start(self, listening: "Iterable[Listening]", room: Room) -> None:
        """Receive connections of these binds from now on, as there is `room`."""
        self._room = room
        self._words = {each.address: word_of(each) for each in listening if each.bind.transparent is None and each.bind.tls != "required"}
        self._addresses = {word: address for address, word in self._words.items()}
        self._entry.binds = self._words.values()
        for end in self._queue.sockets:
            leave_to_parent(end)
        self._receiver = gevent.spawn(self._receive)

    def stop(self) -> None:
        """Receive no more."""
        if self._receiver is not None:
            self._receiver.kill()
            self._receiver = None

    # The worker that ends

    def possible(self) -> bool:
        """Whether another worker would take a connection."""
        return bool(self._takers()[0] & set(self._addresses))

    def give(self) -> None:
        """Hand over all connections that rest now. Call it again for those that rest later, or for which the queue had no room."""
        taken, queue = self._takers()
        if not taken:
            return
        composition = self._composition()
        for line in list(self._lines):
            address = composition.resting_on(line)
            word = None if address is None else self._words.get(address)
            if word is None or word not in taken or not line.reader.undisturbed or line.reader.is_ready():
                continue
            connection = line.top
            assert isinstance(connection, Connection)
            fd = bare_descriptor(connection)
            if fd is None:
                continue
            message = _Message(
                word,
                connection.client,
                connection.server,
                line.deadline,
                connection.bytes_received,
                connection.bytes_sent,
                connection.route,
                [text[:_TRACE_LINE] for text in connection.trace[:_TRACE]],
            )
            try:
                if not queue.put(fd, message.encoded()):
                    return
            except OSError as error:
                log.error("connections cannot be handed over: %s", error.strerror)
                return
            # Nothing of this process reads from now on: the greenlet wakes with the error, also if bytes come first.
            line.fail(HandedOver("another worker has the connection"))

    def take_back(self) -> None:
        """If no other worker accepts, serve what is in the queue, so that it does not stay there."""
        if self._others_accept():
            return
        while self._take():
            pass

    def _others_accept(self) -> bool:
        return any(entry.accepts for entry in self._page.entries() if entry.index != self._entry.index)

    def _takers(self) -> tuple[frozenset[int], HandoverQueue]:
        """The binds of the workers that take connections now, and their queue: those of this master, or else those of a new one."""
        if self._queue.following is None or self._others_accept():
            return self._page.common_binds(self._entry.index), self._queue
        return self._page.followers, self._queue.following

    # The worker that receives

    def accept_next(self) -> None:
        """Called by `Room`, when there is room."""
        self._free.set()

    def _receive(self) -> None:
        hub = get_hub()
        watcher = hub.loop.io(self._queue.fileno(), READ)
        try:
            while True:
                hub.wait(watcher)
                if self._room.is_full():
                    self._free.clear()
                    self._room.wait(self)
                    self._free.wait()
                if not self._gate.allowed():
                    gevent.sleep(GATE_PAUSE)
                self._take()
                if self._short:
                    gevent.sleep(WITHOUT_DESCRIPTORS)
        finally:
            watcher.close()

    def _take(self) -> bool:
        """Serve the next connection of the queue. Whether there was one."""
        try:
            entry = self._queue.get()
        except OSError as error:
            if not self._short:
                log.error("no connection can be taken over for now: %s", error.strerror)
            self._short = True
            return False
        self._short = False
        if entry is None:
            return False
        fd, data = entry
        try:
            message = _Message.of(data)
        except (ValueError, TypeError, KeyError) as error:  # a reload after an update of this package: the sender has another version
            close_descriptor(fd)
            log.error("a connection that was handed over is closed: its message cannot be read: %r", error)
            return True
        address = self._addresses.get(message.bind)
        if address is not None:
            self._begin(fd, message, address)
            return True
        # Two reloads follow closely, and the second one has no such bind.
        taken, queue = self._takers()
        put_back = message.bind in taken and queue.put(fd, data)
        close_descriptor(fd)
        if not put_back:
            log.warning("a connection from %s is closed: its bind is not served any more", message.client)
        return not put_back

    def _begin(self, fd: int, message: _Message, address: str) -> None:
        hub = get_hub()
        composition = self._composition()
        probe = PlainSocket(fileno=fd)
        kind = kind_of(probe)
        probe.detach()
        connection = Connection.accepted(fd, kind, message.client, message.server, hub)
        connection.bytes_received, connection.bytes_sent = message.received, message.sent
        connection.route = message.route
        connection.trace += [*message.trace, f"handed over by another worker of bind {address}"]
        connection.lifeline.service = composition.fronts[address].service
        greenlet = ConnectionGreenlet(self._serve, hub)
        self._lines[connection.lifeline] = greenlet  # a drain that looks at once sees it
        hub.loop.run_callback(greenlet.switch, composition.resuming(message.until), connection)

    def _serve(self, handler: Any, connection: Connection) -> None:
        """All that the greenlet does, as in `wire.acceptor`."""
        try:
            self._room.take()
            try:
                self._serving.serve(handler, connection, True)
            finally:
                try:
                    if connection.lifeline.top is not None:
                        connection.finish()
                finally:
                    self._room.free()
        except BaseException:
            get_hub().handle_error(getcurrent(), *sys.exc_info())
