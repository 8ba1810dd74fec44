"""One client's state, how a command line is carried out, and the channels that sessions listen to. No command is known here by name
except those that say what happens to the others (MULTI and its like), and no connection.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from muxwsgi_resp.protocol import Error, Push, Status
from muxwsgi_resp.store import Refused, Store, weight

__all__ = ["COMMANDS", "NOT_AN_INTEGER", "OK", "SYNTAX", "Args", "Command", "Hub", "Session", "command", "execute"]

Args = list[bytes]

OK = Status("OK")
NOT_AN_INTEGER = "ERR value is not an integer or out of range"
SYNTAX = "ERR syntax error"

#: Bytes that one client may queue behind MULTI, channels that it may listen to and the bytes of their names: none is in the store's bound.
MAX_QUEUED = 16 * 1024 * 1024
MAX_CHANNELS = 10_000
MAX_CHANNEL_NAMES = 4 * 1024 * 1024

#: Commands that are carried out at once where others are queued.
_NOT_QUEUED = frozenset({"EXEC", "DISCARD", "MULTI", "QUIT"})

#: What a client that is subscribed may say in RESP2, where a reply could not be told from a message.
_WHILE_SUBSCRIBED = frozenset({"SUBSCRIBE", "UNSUBSCRIBE", "PING", "QUIT"})


class Hub:
    """The listeners of each channel, over all sessions of the process."""

    def __init__(self) -> None:
        self._listeners: dict[bytes, dict[Session, None]] = {}

    def subscribe(self, session: "Session", channel: bytes) -> None:
        self._listeners.setdefault(channel, {})[session] = None

    def unsubscribe(self, session: "Session", channel: bytes) -> None:
        listeners = self._listeners.get(channel, {})
        listeners.pop(session, None)
        if not listeners:
            self._listeners.pop(channel, None)

    def publish(self, channel: bytes, message: bytes) -> int:
        """How many sessions it is for."""
        listeners = list(self._listeners.get(channel, ()))
        for session in listeners:
            session.deliver(Push([b"message", channel, message]))
        return len(listeners)


@dataclass(eq=False)
class Session:
    """One client. `deliver` takes what it did not ask for; it neither waits nor raises, for it is called by other clients."""

    store: Store
    hub: Hub
    id: int
    deliver: Callable[[Push], None]
    version: int = 2
    name: bytes = b""
    queued: list[Args] | None = None  # commands since MULTI
    queued_weight: int = 0
    spoiled: bool = False  # one of them was wrong: EXEC refuses
    channels: dict[bytes, None] = field(default_factory=dict)
    quitting: bool = False

    def leave(self) -> None:
        """The client is gone."""
        for channel in self.channels:
            self.hub.unsubscribe(self, channel)
        self.channels.clear()


#: It returns the reply, or raises `Error` or `Refused`.
Run = Callable[[Session, Args], Any]


@dataclass(frozen=True, slots=True)
class Command:
    """`least` and `most` are numbers of arguments; `most` None for any."""

    run: Run
    least: int
    most: int | None


#: By their names in capitals. The modules in `commands` fill it.
COMMANDS: dict[str, Command] = {}


def command(*names: str, least: int = 0, most: int | None = 0) -> Callable[[Run], Run]:
    """Make a function a command under all of `names`."""

    def register(run: Run) -> Run:
        for name in names:
            COMMANDS[name] = Command(run, least, most)
        return run

    return register


def execute(session: Session, parts: Args) -> Any:
    """The reply to a command line: a value, or an `Error` (returned, not raised). A list of `Push`es is several replies."""
    name = parts[0].decode("latin-1").upper()
    arguments = parts[1:]
    found = COMMANDS.get(name)
    wrong = _wrong(session, name, parts, found)
    if wrong is not None or found is None:
        session.spoiled = session.queued is not None
        return wrong
    if session.queued is not None and name not in _NOT_QUEUED:
        session.queued.append(parts)
        session.queued_weight += weight(*parts)
        return Status("QUEUED")
    try:
        return found.run(session, arguments)
    except Refused as refused:
        return Error(str(refused))
    except Error as error:
        return error


def _wrong(session: Session, name: str, parts: Args, found: Command | None) -> Error | None:
    if found is None:
        return Error(f"ERR unknown command '{parts[0][:128].decode('latin-1')}'")
    if len(parts) - 1 < found.least or (found.most is not None and len(parts) - 1 > found.most):
        return Error(f"ERR wrong number of arguments for '{name.lower()}' command")
    if session.channels and session.version == 2 and name not in _WHILE_SUBSCRIBED:
        return Error(f"ERR Can't execute '{name.lower()}': only SUBSCRIBE, UNSUBSCRIBE, PING and QUIT are allowed in this context")
    if session.queued is not None and name not in _NOT_QUEUED:
        if name in ("SUBSCRIBE", "UNSUBSCRIBE", "HELLO"):
            return Error(f"ERR {name} is not allowed in transactions")
        if session.queued_weight + weight(*parts) > MAX_QUEUED:
            return Error("ERR too much is queued in this transaction")
    return None
