"""What each command does. One function a command, found by its name in `COMMANDS`; each takes the session and the arguments behind the
name and returns the reply, or raises `Error`. See https://redis.io/docs/latest/commands/ for what they promise.
"""

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from muxwsgi_resp.protocol import Error, Push, Status
from muxwsgi_resp.store import OVERHEAD, Store, Value, pattern

__all__ = ["COMMANDS", "Hub", "Session", "execute"]

OK = Status("OK")
NOT_AN_INTEGER = "ERR value is not an integer or out of range"
NOT_A_FLOAT = "ERR value is not a valid float"
SYNTAX = "ERR syntax error"

Args = list[bytes]


class Hub:
    """Who listens to which channel, over all sessions of the process."""

    def __init__(self) -> None:
        self._listeners: dict[bytes, set["Session"]] = {}

    def subscribe(self, session: "Session", channel: bytes) -> None:
        self._listeners.setdefault(channel, set()).add(session)

    def unsubscribe(self, session: "Session", channel: bytes) -> None:
        listeners = self._listeners.get(channel, set())
        listeners.discard(session)
        if not listeners:
            self._listeners.pop(channel, None)

    def publish(self, channel: bytes, message: bytes) -> int:
        """How many sessions got it."""
        listeners = list(self._listeners.get(channel, ()))
        for session in listeners:
            session.deliver(Push([b"message", channel, message]))
        return len(listeners)


@dataclass(eq=False)
class Session:
    """One client. `deliver` sends it something that it did not ask for."""

    store: Store
    hub: Hub
    id: int
    deliver: Callable[[Push], None]
    version: int = 2
    name: bytes = b""
    queued: list[Args] | None = None  # commands since MULTI
    spoiled: bool = False  # one of them was wrong: EXEC refuses
    channels: dict[bytes, None] = field(default_factory=dict)
    quitting: bool = False

    def leave(self) -> None:
        """The client is gone."""
        for channel in self.channels:
            self.hub.unsubscribe(self, channel)


@dataclass(frozen=True, slots=True)
class Command:
    """`least` and `most` are numbers of arguments; `most` None for any."""

    run: Callable[[Session, Args], Any]
    least: int
    most: int | None


COMMANDS: dict[str, Command] = {}

#: What a session that is subscribed may say in RESP2.
_WHILE_SUBSCRIBED = frozenset({"SUBSCRIBE", "UNSUBSCRIBE", "PING", "QUIT"})


def _command(name: str, least: int = 0, most: int | None = 0) -> Callable[[Callable[[Session, Args], Any]], Callable[[Session, Args], Any]]:
    def register(run: Callable[[Session, Args], Any]) -> Callable[[Session, Args], Any]:
        COMMANDS[name] = Command(run, least, most)
        return run

    return register


def execute(session: Session, parts: Args) -> Any:
    """The reply to a command line: a value, or an `Error` (returned, not raised). A list of `Push`es is several replies."""
    name = parts[0].decode("latin-1").upper()
    arguments = parts[1:]
    command = COMMANDS.get(name)
    wrong: Error | None = None
    if command is None:
        wrong = Error(f"ERR unknown command '{parts[0][:128].decode('latin-1')}'")
    elif len(arguments) < command.least or (command.most is not None and len(arguments) > command.most):
        wrong = Error(f"ERR wrong number of arguments for '{name.lower()}' command")
    elif session.channels and session.version == 2 and name not in _WHILE_SUBSCRIBED:
        wrong = Error(f"ERR Can't execute '{name.lower()}': only SUBSCRIBE, UNSUBSCRIBE, PING and QUIT are allowed in this context")
    if wrong is not None or command is None:
        session.spoiled = session.queued is not None
        return wrong
    if session.queued is not None and name not in ("EXEC", "DISCARD", "MULTI", "QUIT"):
        session.queued.append(parts)
        return Status("QUEUED")
    try:
        return command.run(session, arguments)
    except Error as error:
        return error


def _integer(text: bytes) -> int:
    try:
        number = int(text)
    except ValueError:
        raise Error(NOT_AN_INTEGER) from None
    if not -(1 << 63) <= number < 1 << 63 or text.strip() != text or b"_" in text:
        raise Error(NOT_AN_INTEGER)
    return number


def _float(text: bytes) -> float:
    try:
        number = float(text)
    except ValueError:
        raise Error(NOT_A_FLOAT) from None
    if math.isnan(number) or b"_" in text:
        raise Error(NOT_A_FLOAT)
    return number


# Connection


@_command("PING", 0, 1)
def ping(session: Session, args: Args) -> Any:
    if session.channels and session.version == 2:
        return [b"pong", args[0] if args else b""]
    return args[0] if args else Status("PONG")


@_command("ECHO", 1, 1)
def echo(session: Session, args: Args) -> Any:
    return args[0]


@_command("QUIT")
def quit_(session: Session, args: Args) -> Any:
    session.quitting = True
    return OK


@_command("SELECT", 1, 1)
def select(session: Session, args: Args) -> Any:
    if _integer(args[0]) != 0:
        raise Error("ERR DB index is out of range")
    return OK


@_command("HELLO", 0, None)
def hello(session: Session, args: Args) -> Any:
    version = session.version
    if args:
        if args[0] not in (b"2", b"3"):
            raise Error("NOPROTO unsupported protocol version")
        version = int(args[0])
        rest = args[1:]
        while rest:
            match rest[0].upper():
                case b"AUTH" if len(rest) >= 3:
                    raise Error("ERR AUTH called without any password configured for the default user")
                case b"SETNAME" if len(rest) >= 2:
                    session.name = rest[1]
                    rest = rest[2:]
                case _:
                    raise Error(SYNTAX)
    session.version = version
    facts = {"server": "muxwsgi-resp", "version": "0.1.0", "proto": version, "id": session.id}
    return facts | {"mode": "standalone", "role": "master", "modules": []}


@_command("CLIENT", 1, None)
def client(session: Session, args: Args) -> Any:
    match [args[0].upper(), *args[1:]]:
        case [b"ID"]:
            return session.id
        case [b"GETNAME"]:
            return session.name or None
        case [b"SETNAME", name]:
            session.name = name
            return OK
        case [b"SETINFO" | b"NO-EVICT" | b"NO-TOUCH" | b"REPLY", *_]:
            return OK
        case [b"INFO"]:
            return f"id={session.id} name={session.name.decode('latin-1')} resp={session.version} db=0"
        case _:
            raise Error(f"ERR unknown subcommand '{args[0].decode('latin-1')}'. Try CLIENT HELP.")


@_command("COMMAND", 0, None)
def command(session: Session, args: Args) -> Any:
    match [arg.upper() for arg in args[:1]]:
        case [b"COUNT"]:
            return len(COMMANDS)
        case [b"DOCS"]:
            return {}
        case [b"LIST"]:
            return [name.lower() for name in COMMANDS]
        case _:
            wanted = [arg.decode("latin-1").upper() for arg in args[1:]] or list(COMMANDS)
            return [
                [name.lower(), -(COMMANDS[name].least + 1), [], 0, 0, 0] if name in COMMANDS else None for name in wanted
            ]


@_command("INFO", 0, None)
def info(session: Session, args: Args) -> Any:
    return (
        f"# Server\r\nredis_mode:standalone\r\nserver_name:muxwsgi-resp\r\nredis_version:7.4.0\r\n"
        f"# Memory\r\nused_memory:{session.store.used}\r\nmaxmemory:{session.store.most}\r\n"
        f"# Keyspace\r\ndb0:keys={len(session.store)}\r\n"
    )


# Transactions


@_command("MULTI")
def multi(session: Session, args: Args) -> Any:
    if session.queued is not None:
        raise Error("ERR MULTI calls can not be nested")
    session.queued = []
    session.spoiled = False
    return OK


@_command("DISCARD")
def discard(session: Session, args: Args) -> Any:
    if session.queued is None:
        raise Error("ERR DISCARD without MULTI")
    session.queued = None
    return OK


@_command("EXEC")
def exec_(session: Session, args: Args) -> Any:
    if session.queued is None:
        raise Error("ERR EXEC without MULTI")
    queued, session.queued = session.queued, None
    if session.spoiled:
        session.spoiled = False
        raise Error("EXECABORT Transaction discarded because of previous errors.")
    return [execute(session, parts) for parts in queued]


# Publish and subscribe


@_command("SUBSCRIBE", 1, None)
def subscribe(session: Session, args: Args) -> Any:
    replies = []
    for channel in args:
        session.channels[channel] = None
        session.hub.subscribe(session, channel)
        replies.append(Push([b"subscribe", channel, len(session.channels)]))
    return replies


@_command("UNSUBSCRIBE", 0, None)
def unsubscribe(session: Session, args: Args) -> Any:
    replies = []
    for channel in args or list(session.channels):
        session.channels.pop(channel, None)
        session.hub.unsubscribe(session, channel)
        replies.append(Push([b"unsubscribe", channel, len(session.channels)]))
    return replies or [Push([b"unsubscribe", None, 0])]


@_command("PUBLISH", 2, 2)
def publish(session: Session, args: Args) -> Any:
    return session.hub.publish(args[0], args[1])


# Keys


def _type(value: Value | None) -> str:
    names: dict[type, str] = {bytes: "string", dict: "hash", deque: "list", set: "set", type(None): "none"}
    return names[type(value)]


@_command("DEL", 1, None)
def delete(session: Session, args: Args) -> Any:
    return sum(session.store.get(key) is not None and session.store.delete(key) for key in args)


COMMANDS["UNLINK"] = COMMANDS["DEL"]


@_command("EXISTS", 1, None)
def exists(session: Session, args: Args) -> Any:
    return sum(session.store.get(key) is not None for key in args)


@_command("TYPE", 1, 1)
def type_(session: Session, args: Args) -> Any:
    return Status(_type(session.store.get(args[0])))


@_command("KEYS", 1, 1)
def keys(session: Session, args: Args) -> Any:
    return list(filter(pattern(args[0]), session.store.keys()))


@_command("SCAN", 1, None)
def scan(session: Session, args: Args) -> Any:
    """The whole keyspace in one step, which is a valid SCAN: the cursor that comes back is 0."""
    _integer(args[0])
    fits: Callable[[bytes], bool] = lambda key: True  # noqa: E731
    kind = None
    rest = args[1:]
    while len(rest) >= 2:
        match rest[0].upper():
            case b"MATCH":
                fits = pattern(rest[1])
            case b"COUNT":
                _integer(rest[1])
            case b"TYPE":
                kind = rest[1].decode("latin-1").lower()
            case _:
                raise Error(SYNTAX)
        rest = rest[2:]
    if rest:
        raise Error(SYNTAX)
    return [b"0", [key for key in list(session.store.keys()) if fits(key) and kind in (None, _type(session.store.get(key)))]]


@_command("DBSIZE")
def dbsize(session: Session, args: Args) -> Any:
    return len(session.store)


@_command("FLUSHDB", 0, 1)
def flushdb(session: Session, args: Args) -> Any:
    session.store.clear()
    return OK


COMMANDS["FLUSHALL"] = COMMANDS["FLUSHDB"]


@_command("EXPIRE", 2, 2)
def expire(session: Session, args: Args) -> Any:
    return int(session.store.expire(args[0], session.store.now() + _integer(args[1])))


@_command("PEXPIRE", 2, 2)
def pexpire(session: Session, args: Args) -> Any:
    return int(session.store.expire(args[0], session.store.now() + _integer(args[1]) / 1000))


@_command("PERSIST", 1, 1)
def persist(session: Session, args: Args) -> Any:
    return int(session.store.expire(args[0], None))


def _left(session: Session, key: bytes) -> float:
    """Seconds that a key has, -1 for ever, -2 where there is none."""
    if session.store.get(key) is None:
        return -2
    expiry = session.store.expiry(key)
    return -1 if expiry is None else expiry - session.store.now()


@_command("TTL", 1, 1)
def ttl(session: Session, args: Args) -> Any:
    left = _left(session, args[0])
    return int(left) if left < 0 else round(left)


@_command("PTTL", 1, 1)
def pttl(session: Session, args: Args) -> Any:
    left = _left(session, args[0])
    return int(left) if left < 0 else int(left * 1000)


# Strings


def _expiry_option(session: Session, name: bytes, value: bytes) -> float:
    number = _integer(value)
    if number <= 0:
        raise Error("ERR invalid expire time in 'set' command")
    match name:
        case b"EX":
            return session.store.now() + number
        case b"PX":
            return session.store.now() + number / 1000
        case b"EXAT":
            return float(number)
        case _:
            return number / 1000


_EXPIRY_OPTIONS = (b"EX", b"PX", b"EXAT", b"PXAT")


@_command("SET", 2, None)
def set_(session: Session, args: Args) -> Any:
    key, value, *options = args
    seen: set[bytes] = set()
    expiry: float | None = None
    while options:
        option = options.pop(0).upper()
        if option in _EXPIRY_OPTIONS and options:
            expiry = _expiry_option(session, option, options.pop(0))
            option = b"EXPIRY"
        elif option not in (b"NX", b"XX", b"GET", b"KEEPTTL"):
            raise Error(SYNTAX)
        if option in seen:
            raise Error(SYNTAX)
        seen.add(option)
    if {b"NX", b"XX"} <= seen or {b"KEEPTTL", b"EXPIRY"} <= seen:
        raise Error(SYNTAX)
    old = session.store.string(key) if b"GET" in seen else None
    there = session.store.get(key) is not None
    if (b"NX" in seen and there) or (b"XX" in seen and not there):
        return old
    session.store.set(key, value, expiry, keep_expiry=b"KEEPTTL" in seen)
    return old if b"GET" in seen else OK


@_command("SETNX", 2, 2)
def setnx(session: Session, args: Args) -> Any:
    return int(set_(session, [*args, b"NX"]) is OK)


@_command("SETEX", 3, 3)
def setex(session: Session, args: Args) -> Any:
    return set_(session, [args[0], args[2], b"EX", args[1]])


@_command("PSETEX", 3, 3)
def psetex(session: Session, args: Args) -> Any:
    return set_(session, [args[0], args[2], b"PX", args[1]])


@_command("GET", 1, 1)
def get(session: Session, args: Args) -> Any:
    return session.store.string(args[0])


@_command("GETDEL", 1, 1)
def getdel(session: Session, args: Args) -> Any:
    value = session.store.string(args[0])
    session.store.delete(args[0])
    return value


@_command("GETEX", 1, 3)
def getex(session: Session, args: Args) -> Any:
    value = session.store.string(args[0])
    match [arg.upper() for arg in args[1:]]:
        case []:
            pass
        case [b"PERSIST"]:
            session.store.expire(args[0], None)
        case [option, number] if option in _EXPIRY_OPTIONS:
            session.store.expire(args[0], _expiry_option(session, option, number))
        case _:
            raise Error(SYNTAX)
    return value


@_command("GETSET", 2, 2)
def getset(session: Session, args: Args) -> Any:
    return set_(session, [*args, b"GET"])


@_command("MSET", 2, None)
def mset(session: Session, args: Args) -> Any:
    if len(args) % 2:
        raise Error("ERR wrong number of arguments for 'mset' command")
    for key, value in zip(args[::2], args[1::2], strict=True):
        session.store.set(key, value)
    return OK


@_command("MGET", 1, None)
def mget(session: Session, args: Args) -> Any:
    values = [session.store.get(key) for key in args]
    return [value if isinstance(value, bytes) else None for value in values]


def _add(session: Session, key: bytes, amount: int) -> int:
    number = _integer(session.store.string(key) or b"0") + amount
    if not -(1 << 63) <= number < 1 << 63:
        raise Error("ERR increment or decrement would overflow")
    session.store.set(key, b"%d" % number, keep_expiry=True)
    return number


@_command("INCR", 1, 1)
def incr(session: Session, args: Args) -> Any:
    return _add(session, args[0], 1)


@_command("DECR", 1, 1)
def decr(session: Session, args: Args) -> Any:
    return _add(session, args[0], -1)


@_command("INCRBY", 2, 2)
def incrby(session: Session, args: Args) -> Any:
    return _add(session, args[0], _integer(args[1]))


@_command("DECRBY", 2, 2)
def decrby(session: Session, args: Args) -> Any:
    return _add(session, args[0], -_integer(args[1]))


@_command("INCRBYFLOAT", 2, 2)
def incrbyfloat(session: Session, args: Args) -> Any:
    number = _float(session.store.string(args[0]) or b"0") + _float(args[1])
    if not math.isfinite(number):
        raise Error("ERR increment would produce NaN or Infinity")
    text = f"{number:.17g}".encode()
    session.store.set(args[0], text, keep_expiry=True)
    return text


@_command("APPEND", 2, 2)
def append(session: Session, args: Args) -> Any:
    value = (session.store.string(args[0]) or b"") + args[1]
    session.store.set(args[0], value, keep_expiry=True)
    return len(value)


@_command("STRLEN", 1, 1)
def strlen(session: Session, args: Args) -> Any:
    return len(session.store.string(args[0]) or b"")


@_command("GETRANGE", 3, 3)
def getrange(session: Session, args: Args) -> Any:
    value = session.store.string(args[0]) or b""
    start, stop = _bounds(args[1], args[2], len(value))
    return value[start:stop]


@_command("SETRANGE", 3, 3)
def setrange(session: Session, args: Args) -> Any:
    offset = _integer(args[1])
    if offset < 0 or offset + len(args[2]) > session.store.most:
        raise Error("ERR offset is out of range")
    value = session.store.string(args[0]) or b""
    if args[2]:
        value = value.ljust(offset, b"\0")
        value = value[:offset] + args[2] + value[offset + len(args[2]) :]
        session.store.set(args[0], value, keep_expiry=True)
    return len(value)


def _bounds(first: bytes, last: bytes, length: int) -> tuple[int, int]:
    """A slice from Redis' two inclusive indices, which count from the end where they are negative."""
    start, stop = _integer(first), _integer(last)
    start = max(start + length, 0) if start < 0 else start
    stop = stop + length if stop < 0 else stop
    return start, max(stop + 1, 0)


# Lists


def _push(session: Session, args: Args, add: Callable[[deque[bytes]], Callable[[bytes], object]]) -> int:
    key, *items = args
    values = session.store.collection(key, deque)

    def push(values: deque[bytes]) -> None:
        for item in items:
            add(values)(item)

    session.store.change(key, values, push, sum(len(item) + OVERHEAD for item in items))
    return len(values)


@_command("LPUSH", 2, None)
def lpush(session: Session, args: Args) -> Any:
    return _push(session, args, lambda values: values.appendleft)


@_command("RPUSH", 2, None)
def rpush(session: Session, args: Args) -> Any:
    return _push(session, args, lambda values: values.append)


def _pop(session: Session, args: Args, take: Callable[[deque[bytes]], Callable[[], bytes]]) -> Any:
    values = session.store.collection(args[0], deque)
    count = _integer(args[1]) if len(args) > 1 else 1
    if count < 0:
        raise Error("ERR value is out of range, must be positive")
    if not values:
        return None
    popped: list[bytes] = []
    session.store.change(args[0], values, lambda values: popped.extend(take(values)() for _ in range(min(count, len(values)))))
    return popped if len(args) > 1 else popped[0]


@_command("LPOP", 1, 2)
def lpop(session: Session, args: Args) -> Any:
    return _pop(session, args, lambda values: values.popleft)


@_command("RPOP", 1, 2)
def rpop(session: Session, args: Args) -> Any:
    return _pop(session, args, lambda values: values.pop)


@_command("LRANGE", 3, 3)
def lrange(session: Session, args: Args) -> Any:
    values = session.store.collection(args[0], deque)
    start, stop = _bounds(args[1], args[2], len(values))
    return list(values)[start:stop]


@_command("LLEN", 1, 1)
def llen(session: Session, args: Args) -> Any:
    return len(session.store.collection(args[0], deque))


# Hashes


@_command("HSET", 3, None)
def hset(session: Session, args: Args) -> Any:
    key, *rest = args
    if len(rest) % 2:
        raise Error("ERR wrong number of arguments for 'hset' command")
    fields = session.store.collection(key, dict)
    new = dict(zip(rest[::2], rest[1::2], strict=True))
    added = len(set(new) - set(fields))
    session.store.change(key, fields, lambda fields: fields.update(new), sum(map(len, rest)) + OVERHEAD * added)
    return added


@_command("HGET", 2, 2)
def hget(session: Session, args: Args) -> Any:
    return session.store.collection(args[0], dict).get(args[1])


@_command("HMGET", 2, None)
def hmget(session: Session, args: Args) -> Any:
    fields = session.store.collection(args[0], dict)
    return [fields.get(name) for name in args[1:]]


@_command("HGETALL", 1, 1)
def hgetall(session: Session, args: Args) -> Any:
    return dict(session.store.collection(args[0], dict))


@_command("HDEL", 2, None)
def hdel(session: Session, args: Args) -> Any:
    fields = session.store.collection(args[0], dict)
    gone = {name for name in args[1:] if name in fields}

    def remove(fields: dict[bytes, bytes]) -> None:
        for name in gone:
            del fields[name]

    session.store.change(args[0], fields, remove)
    return len(gone)


@_command("HLEN", 1, 1)
def hlen(session: Session, args: Args) -> Any:
    return len(session.store.collection(args[0], dict))


@_command("HEXISTS", 2, 2)
def hexists(session: Session, args: Args) -> Any:
    return int(args[1] in session.store.collection(args[0], dict))


@_command("HKEYS", 1, 1)
def hkeys(session: Session, args: Args) -> Any:
    return list(session.store.collection(args[0], dict))


@_command("HVALS", 1, 1)
def hvals(session: Session, args: Args) -> Any:
    return list(session.store.collection(args[0], dict).values())


@_command("HINCRBY", 3, 3)
def hincrby(session: Session, args: Args) -> Any:
    fields = session.store.collection(args[0], dict)
    try:
        number = _integer(fields.get(args[1], b"0")) + _integer(args[2])
    except Error:
        raise Error("ERR hash value is not an integer") from None
    hset(session, [args[0], args[1], b"%d" % number])
    return number


# Sets


@_command("SADD", 2, None)
def sadd(session: Session, args: Args) -> Any:
    members = session.store.collection(args[0], set)
    new = set(args[1:]) - members
    session.store.change(args[0], members, lambda members: members.update(new), sum(len(item) + OVERHEAD for item in new))
    return len(new)


@_command("SREM", 2, None)
def srem(session: Session, args: Args) -> Any:
    members = session.store.collection(args[0], set)
    gone = members & set(args[1:])
    session.store.change(args[0], members, lambda members: members.difference_update(gone))
    return len(gone)


@_command("SMEMBERS", 1, 1)
def smembers(session: Session, args: Args) -> Any:
    return set(session.store.collection(args[0], set))


@_command("SISMEMBER", 2, 2)
def sismember(session: Session, args: Args) -> Any:
    return int(args[1] in session.store.collection(args[0], set))


@_command("SCARD", 1, 1)
def scard(session: Session, args: Args) -> Any:
    return len(session.store.collection(args[0], set))


