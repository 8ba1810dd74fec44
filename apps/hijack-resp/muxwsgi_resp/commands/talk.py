"""Commands about the conversation itself: the connection, transactions, publish and subscribe."""

from typing import Any

from muxwsgi_resp.commands.arguments import integer
from muxwsgi_resp.protocol import Error, Push, Status
from muxwsgi_resp.session import COMMANDS, MAX_CHANNEL_NAMES, MAX_CHANNELS, OK, SYNTAX, Args, Session, command, execute
from muxwsgi_resp.store import weight

# Connection


@command("PING", most=1)
def ping(session: Session, args: Args) -> Any:
    if session.channels and session.version == 2:
        return [b"pong", args[0] if args else b""]
    return args[0] if args else Status("PONG")


@command("ECHO", least=1, most=1)
def echo(session: Session, args: Args) -> Any:
    return args[0]


@command("QUIT")
def quit_(session: Session, args: Args) -> Any:
    session.quitting = True
    return OK


@command("SELECT", least=1, most=1)
def select(session: Session, args: Args) -> Any:
    if integer(args[0]) != 0:
        raise Error("ERR DB index is out of range")
    return OK


def _client_name(name: bytes) -> bytes:
    if not all(0x21 <= byte <= 0x7E for byte in name):
        raise Error("ERR Client names cannot contain spaces, newlines or special characters.")
    return name


@command("AUTH", least=1, most=2)
def auth(session: Session, args: Args) -> Any:
    if len(args) == 1:
        raise Error("ERR AUTH <password> called without any password configured for the default user.")
    if args[0] != b"default":
        raise Error("WRONGPASS invalid username-password pair or user is disabled.")
    return OK  # the default user has no password, and takes any, as in a Redis that was just installed


@command("HELLO", most=6)
def hello(session: Session, args: Args) -> Any:
    version, name = session.version, session.name
    if args:
        if args[0] not in (b"2", b"3"):
            raise Error("NOPROTO unsupported protocol version")
        version = int(args[0])
        rest = args[1:]
        while rest:
            match [rest[0].upper(), *rest[1:]]:
                case [b"AUTH", user, password, *rest]:
                    auth(session, [user, password])
                case [b"SETNAME", wanted, *rest]:
                    name = _client_name(wanted)
                case _:
                    raise Error(SYNTAX)
    session.version, session.name = version, name
    facts = {"server": "muxwsgi-resp", "version": "0.1.0", "proto": version, "id": session.id}
    return facts | {"mode": "standalone", "role": "master", "modules": []}


@command("CLIENT", least=1, most=None)
def client(session: Session, args: Args) -> Any:
    match [args[0].upper(), *args[1:]]:
        case [b"ID"]:
            return session.id
        case [b"GETNAME"]:
            return session.name or None
        case [b"SETNAME", name]:
            session.name = _client_name(name)
            return OK
        case [b"SETINFO", _, _] | [b"NO-EVICT" | b"NO-TOUCH", _]:
            return OK
        case [b"INFO"]:
            return f"id={session.id} name={session.name.decode('latin-1')} resp={session.version} sub={len(session.channels)} db=0"
        case _:
            raise Error(f"ERR unknown subcommand or wrong number of arguments for '{args[0][:128].decode('latin-1')}'.")


@command("COMMAND", most=None)
def command_(session: Session, args: Args) -> Any:
    match [arg.upper() for arg in args[:1]]:
        case [b"COUNT"]:
            return len(COMMANDS)
        case [b"DOCS"]:
            return {}
        case [b"LIST"]:
            return [name.lower() for name in COMMANDS]
        case [] | [b"INFO"]:
            wanted = [arg.decode("latin-1").upper() for arg in args[1:]] or list(COMMANDS)
            return [_described(name) if name in COMMANDS else None for name in wanted]
        case _:
            raise Error(f"ERR unknown subcommand '{args[0][:128].decode('latin-1')}'.")


def _described(name: str) -> list[Any]:
    known = COMMANDS[name]
    arity = known.least + 1  # the name counts, and a minus means "or more"
    return [name.lower(), arity if known.most == known.least else -arity, [], 0, 0, 0]


@command("INFO", most=None)
def info(session: Session, args: Args) -> Any:
    return (
        f"# Server\r\nserver_name:muxwsgi-resp\r\nredis_version:7.4.0\r\nredis_mode:standalone\r\n"
        f"# Memory\r\nused_memory:{session.store.used}\r\nmaxmemory:{session.store.most}\r\n"
        f"# Keyspace\r\ndb0:keys={len(session.store)}\r\n"
    )


# Transactions


@command("MULTI")
def multi(session: Session, args: Args) -> Any:
    if session.queued is not None:
        raise Error("ERR MULTI calls can not be nested")
    session.queued, session.queued_weight, session.spoiled = [], 0, False
    return OK


@command("DISCARD")
def discard(session: Session, args: Args) -> Any:
    if session.queued is None:
        raise Error("ERR DISCARD without MULTI")
    session.queued = None
    return OK


@command("EXEC")
def exec_(session: Session, args: Args) -> Any:
    if session.queued is None:
        raise Error("ERR EXEC without MULTI")
    queued, session.queued = session.queued, None
    if session.spoiled:
        raise Error("EXECABORT Transaction discarded because of previous errors.")
    return [execute(session, parts) for parts in queued]


# Publish and subscribe


@command("SUBSCRIBE", least=1, most=None)
def subscribe(session: Session, args: Args) -> Any:
    channels = session.channels.keys() | set(args)
    if len(channels) > MAX_CHANNELS or weight(*channels) > MAX_CHANNEL_NAMES:
        raise Error(f"ERR more than {MAX_CHANNELS} channels, or names of more than {MAX_CHANNEL_NAMES} bytes")
    replies = []
    for channel in args:
        session.channels[channel] = None
        session.hub.subscribe(session, channel)
        replies.append(Push([b"subscribe", channel, len(session.channels)]))
    return replies


@command("UNSUBSCRIBE", most=None)
def unsubscribe(session: Session, args: Args) -> Any:
    replies = []
    for channel in args or list(session.channels):
        session.channels.pop(channel, None)
        session.hub.unsubscribe(session, channel)
        replies.append(Push([b"unsubscribe", channel, len(session.channels)]))
    return replies or [Push([b"unsubscribe", None, 0])]


@command("PUBLISH", least=2, most=2)
def publish(session: Session, args: Args) -> Any:
    return session.hub.publish(args[0], args[1])
