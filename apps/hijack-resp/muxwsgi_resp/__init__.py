"""A key-value store for Redis clients, on the port of a web application: the matcher, and the loop that one connection runs."""

import itertools
from collections import deque
from dataclasses import dataclass
from time import monotonic

import gevent
from gevent.lock import Semaphore

from muxwsgi import Connection, Match, hijack
from muxwsgi.mux.matchers import all_of, any_of, not_, regex
from muxwsgi.protocols.http1 import http1, http1_line
from muxwsgi.setting import setting
from muxwsgi.wire.ready import give_turn
from muxwsgi_resp.commands import COMMANDS
from muxwsgi_resp.protocol import CommandReader, Error, ProtocolError, Push, encode, encode_into
from muxwsgi_resp.session import Hub, Session, execute
from muxwsgi_resp.store import Store

__all__ = ["Options", "Server", "resp"]

_array = regex(rb"\*[1-9][0-9]{0,6}\r\n")
_inline = regex(b"(?i)(?:%s)(?: [^\r\n]*)?\r?\n" % b"|".join(sorted((name.encode() for name in COMMANDS), reverse=True)), 4096)
_command = any_of(_array, all_of(_inline, not_(http1), not_(http1_line)))

#: Replies of this many bytes are sent before the next command is read: a client that asks and does not listen waits, and we hold little.
MAX_HELD = 64 * 1024

#: Commands carried out, and seconds spent on them, before other greenlets get a turn.
COMMANDS_PER_TURN = 256
SECONDS_PER_TURN = 0.005

#: Bytes of messages that wait for a subscriber. One that is further behind is let go, as Redis does.
MAX_BEHIND = 8 * 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class Options:
    max_memory: int = setting(256 << 20, "Bytes that the data may have; what would store more is refused.", unit="BYTES", at_least=1024)


def redis(data: bytes) -> Match:
    """A command as clients send it, or typed by hand (inline). A typed one may be an HTTP request as well, `GET x HTTP/1.1`: then it
    is that. A function, for its name is what `muxwsgi explain` shows: the expression lists every command.
    """
    return _command(data)


@hijack(
    match=redis,
    alpn=("redis",),
    idle_timeout=3600,
    options=Options,
    examples=("redis-cli -h {host} -p {port} set greeting hello", "redis-cli --tls --insecure -h {host} -p {port} set greeting hello"),
)
def resp(options: Options) -> "Server":
    """The handler: one store for all connections of a worker."""
    return Server(Store(options.max_memory))


class Server:
    """What the connections of a worker share."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._hub = Hub()
        self._ids = itertools.count(1)

    def __call__(self, connection: Connection) -> None:
        """Read commands and answer them until the client quits or ends. Commands that came together are answered together."""
        output = Output(connection)
        session = Session(self.store, self._hub, next(self._ids), deliver=lambda push: output.push(encode(push, session.version)))
        reader = CommandReader()
        try:
            while not session.quitting:
                connection.resting = reader.between_commands  # at shutdown nothing is lost here
                data = connection.recv()
                connection.resting = False
                if not data:
                    return
                answer(session, reader, data, output)
        except OSError:
            if not output.given_up:
                raise
        finally:
            session.leave()
            output.stop()


def answer(session: Session, reader: CommandReader, data: bytes, output: "Output") -> None:
    """Carry out the commands that `data` completes."""
    replies: list[bytes] = []
    held = 0
    turn, began = 0, monotonic()
    try:
        for parts in reader.feed(data):
            done = len(replies)
            result = execute(session, parts)
            several = isinstance(result, list) and result and all(isinstance(item, Push) for item in result)
            for value in result if several else [result]:
                encode_into(replies, value, session.version)
            held += sum(map(len, replies[done:]))
            turn += 1
            if session.quitting:
                break
            over = turn >= COMMANDS_PER_TURN or monotonic() - began >= SECONDS_PER_TURN
            if held >= MAX_HELD or over:
                output.reply(replies)  # first: a message must not overtake the reply to its SUBSCRIBE
                replies, held = [], 0
                if over:
                    give_turn()
                    turn, began = 0, monotonic()
    except ProtocolError as error:
        replies.append(encode(Error(f"ERR Protocol error: {error}"), session.version))
        session.quitting = True
    output.reply(replies)


class Output:
    """What one client gets: replies, which its own greenlet sends, and messages, which come from others.

    A message must not wait for the client: its publisher would wait too, or fail because another client is gone. So
    messages stand in line, and a greenlet of their own, started with the first, sends them.
    """

    def __init__(self, connection: Connection) -> None:
        self.given_up = False
        self._connection = connection
        self._turn = Semaphore(1)  # a reply in several pieces is not to be cut by a message
        self._messages: deque[bytes] = deque()
        self._behind = 0
        self._sender: gevent.Greenlet[[], None] | None = None

    def reply(self, parts: list[bytes]) -> None:
        """Send `parts`: small ones together, big ones as they are. Raises what the connection raises."""
        if not parts:
            return
        with self._turn:
            small: list[bytes] = []
            size = 0
            for part in parts:
                if small and size + len(part) > MAX_HELD:
                    self._connection.sendall(b"".join(small))
                    small, size = [], 0
                if len(part) > MAX_HELD:
                    self._connection.sendall(part)
                else:
                    small.append(part)
                    size += len(part)
            if small:
                self._connection.sendall(b"".join(small))

    def push(self, message: bytes) -> None:
        """Have `message` sent. Neither waits nor raises."""
        if self.given_up:
            return
        self._messages.append(message)
        self._behind += len(message)
        if self._behind > MAX_BEHIND:
            self.given_up = True
            self._messages.clear()
            self._connection.close()  # which wakes its reader
        elif self._sender is None:
            self._sender = gevent.spawn(self._send)

    def stop(self) -> None:
        """The client is gone: nothing is sent any more."""
        self.given_up = True
        self._messages.clear()
        if self._sender is not None:
            self._sender.kill(block=False)

    def _send(self) -> None:
        try:
            while self._messages:
                with self._turn:
                    if self._messages:
                        message = self._messages.popleft()
                        self._connection.sendall(message)
                        self._behind -= len(message)
        except OSError:
            self.given_up = True  # the greenlet that reads will notice, and say why
        finally:
            self._sender = None
