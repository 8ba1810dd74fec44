"""Commands about keys, whatever is in them."""

from collections import deque
from typing import Any

from muxwsgi_resp.commands.arguments import expiry_time, integer
from muxwsgi_resp.protocol import Error, Status
from muxwsgi_resp.session import OK, SYNTAX, Args, Session, command
from muxwsgi_resp.store import Value, pattern


def _type(value: Value | None) -> str:
    names: dict[type, str] = {bytes: "string", dict: "hash", deque: "list", set: "set", type(None): "none"}
    return names[type(value)]


@command("DEL", "UNLINK", least=1, most=None)
def delete(session: Session, args: Args) -> Any:
    return sum(session.store.get(key) is not None and session.store.delete(key) for key in args)


@command("EXISTS", least=1, most=None)
def exists(session: Session, args: Args) -> Any:
    return sum(session.store.get(key) is not None for key in args)


@command("TYPE", least=1, most=1)
def type_(session: Session, args: Args) -> Any:
    return Status(_type(session.store.get(args[0])))


@command("KEYS", least=1, most=1)
def keys(session: Session, args: Args) -> Any:
    return list(filter(pattern(args[0]), session.store.keys()))


@command("SCAN", least=1, most=7)
def scan(session: Session, args: Args) -> Any:
    """The whole keyspace in one step, which is a valid SCAN: the cursor that comes back is 0, and COUNT is a hint."""
    integer(args[0])
    fits = pattern(b"*")
    kind = None
    rest = args[1:]
    while rest:
        match [rest[0].upper(), *rest[1:]]:
            case [b"MATCH", glob, *rest]:
                fits = pattern(glob)
            case [b"COUNT", count, *rest]:
                if integer(count) < 1:
                    raise Error(SYNTAX)
            case [b"TYPE", name, *rest]:
                kind = name.decode("latin-1").lower()
            case _:
                raise Error(SYNTAX)
    store = session.store
    return [b"0", [key for key in filter(fits, store.keys()) if kind in (None, _type(store.get(key)))]]


@command("DBSIZE")
def dbsize(session: Session, args: Args) -> Any:
    return len(session.store)


@command("FLUSHDB", "FLUSHALL", most=1)
def flush(session: Session, args: Args) -> Any:
    if args and args[0].upper() not in (b"SYNC", b"ASYNC"):
        raise Error(SYNTAX)
    session.store.clear()
    return OK


def _expire(session: Session, args: Args, name: str, base: float, per_second: int) -> int:
    key, number, *conditions = args
    when = expiry_time(name, base, number, per_second)
    store = session.store
    if store.get(key) is None:
        return 0
    now = store.expiry(key)
    match [condition.upper() for condition in conditions]:
        case []:
            wanted = True
        case [b"NX"]:
            wanted = now is None
        case [b"XX"]:
            wanted = now is not None
        case [b"GT"]:
            wanted = now is not None and when > now
        case [b"LT"]:
            wanted = now is None or when < now
        case _:
            raise Error(f"ERR Unsupported option {conditions[0][:128].decode('latin-1')}")
    return int(wanted and store.expire(key, when))


@command("EXPIRE", least=2, most=3)
def expire(session: Session, args: Args) -> Any:
    return _expire(session, args, "expire", session.store.now(), 1)


@command("PEXPIRE", least=2, most=3)
def pexpire(session: Session, args: Args) -> Any:
    return _expire(session, args, "pexpire", session.store.now(), 1000)


@command("EXPIREAT", least=2, most=3)
def expireat(session: Session, args: Args) -> Any:
    return _expire(session, args, "expireat", 0, 1)


@command("PEXPIREAT", least=2, most=3)
def pexpireat(session: Session, args: Args) -> Any:
    return _expire(session, args, "pexpireat", 0, 1000)


@command("PERSIST", least=1, most=1)
def persist(session: Session, args: Args) -> Any:
    return int(session.store.expire(args[0], None))


def _milliseconds_left(session: Session, key: bytes) -> int:
    """What a key has, -1 for ever, -2 where there is none."""
    if session.store.get(key) is None:
        return -2
    expiry = session.store.expiry(key)
    return -1 if expiry is None else max(int((expiry - session.store.now()) * 1000), 0)


@command("TTL", least=1, most=1)
def ttl(session: Session, args: Args) -> Any:
    left = _milliseconds_left(session, args[0])
    return left if left < 0 else (left + 500) // 1000


@command("PTTL", least=1, most=1)
def pttl(session: Session, args: Args) -> Any:
    return _milliseconds_left(session, args[0])
