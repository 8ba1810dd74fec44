"""Commands about lists, hashes and sets."""

from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import Any

from muxwsgi_resp.commands.arguments import bounds, integer
from muxwsgi_resp.protocol import Error
from muxwsgi_resp.session import Args, Session, command
from muxwsgi_resp.store import weight

# Lists


def _push(session: Session, args: Args, extend: Callable[[deque[bytes], Args], None]) -> int:
    key, *items = args
    values = session.store.collection(key, deque)
    heavier = weight(*items)

    def push(values: deque[bytes]) -> int:
        extend(values, items)
        return heavier

    session.store.change(key, values, push, heavier)
    return len(values)


@command("LPUSH", least=2, most=None)
def lpush(session: Session, args: Args) -> Any:
    return _push(session, args, deque.extendleft)


@command("RPUSH", least=2, most=None)
def rpush(session: Session, args: Args) -> Any:
    return _push(session, args, deque.extend)


def _pop(session: Session, args: Args, take: Callable[[deque[bytes]], bytes]) -> Any:
    values = session.store.collection(args[0], deque)
    count = integer(args[1]) if len(args) > 1 else 1
    if count < 0:
        raise Error("ERR value is out of range, must be positive")
    if not values:
        return None
    popped: list[bytes] = []

    def pop(values: deque[bytes]) -> int:
        popped.extend(take(values) for _ in range(min(count, len(values))))
        return -weight(*popped)

    session.store.change(args[0], values, pop)
    return popped if len(args) > 1 else popped[0]


@command("LPOP", least=1, most=2)
def lpop(session: Session, args: Args) -> Any:
    return _pop(session, args, deque.popleft)


@command("RPOP", least=1, most=2)
def rpop(session: Session, args: Args) -> Any:
    return _pop(session, args, deque.pop)


@command("LRANGE", least=3, most=3)
def lrange(session: Session, args: Args) -> Any:
    values = session.store.collection(args[0], deque)
    return list(islice(values, *bounds(args[1], args[2], len(values))))


@command("LLEN", least=1, most=1)
def llen(session: Session, args: Args) -> Any:
    return len(session.store.collection(args[0], deque))


# Hashes


@command("HSET", least=3, most=None)
def hset(session: Session, args: Args) -> Any:
    key, *rest = args
    if len(rest) % 2:
        raise Error("ERR wrong number of arguments for 'hset' command")
    fields = session.store.collection(key, dict)
    new = dict(zip(rest[::2], rest[1::2], strict=True))
    before = len(fields)

    def update(fields: dict[bytes, bytes]) -> int:
        heavier = sum(_heavier(fields, name, value) for name, value in new.items())
        fields.update(new)
        return heavier

    session.store.change(key, fields, update, sum(_heavier(fields, name, value) for name, value in new.items()))
    return len(fields) - before


def _heavier(fields: dict[bytes, bytes], name: bytes, value: bytes) -> int:
    old = fields.get(name)
    return weight(name, value) if old is None else len(value) - len(old)


@command("HGET", least=2, most=2)
def hget(session: Session, args: Args) -> Any:
    return session.store.collection(args[0], dict).get(args[1])


@command("HMGET", least=2, most=None)
def hmget(session: Session, args: Args) -> Any:
    fields = session.store.collection(args[0], dict)
    return [fields.get(name) for name in args[1:]]


@command("HGETALL", least=1, most=1)
def hgetall(session: Session, args: Args) -> Any:
    return dict(session.store.collection(args[0], dict))


@command("HDEL", least=2, most=None)
def hdel(session: Session, args: Args) -> Any:
    fields = session.store.collection(args[0], dict)
    gone = {name for name in args[1:] if name in fields}

    def remove(fields: dict[bytes, bytes]) -> int:
        return -sum(weight(name, fields.pop(name)) for name in gone)

    if gone:
        session.store.change(args[0], fields, remove)
    return len(gone)


@command("HLEN", least=1, most=1)
def hlen(session: Session, args: Args) -> Any:
    return len(session.store.collection(args[0], dict))


@command("HEXISTS", least=2, most=2)
def hexists(session: Session, args: Args) -> Any:
    return int(args[1] in session.store.collection(args[0], dict))


@command("HKEYS", least=1, most=1)
def hkeys(session: Session, args: Args) -> Any:
    return list(session.store.collection(args[0], dict))


@command("HVALS", least=1, most=1)
def hvals(session: Session, args: Args) -> Any:
    return list(session.store.collection(args[0], dict).values())


@command("HINCRBY", least=3, most=3)
def hincrby(session: Session, args: Args) -> Any:
    key, name, by = args
    amount = integer(by)
    try:
        number = integer(session.store.collection(key, dict).get(name, b"0")) + amount
    except Error:
        raise Error("ERR hash value is not an integer") from None
    if not -(1 << 63) <= number < 1 << 63:
        raise Error("ERR increment or decrement would overflow")
    hset(session, [key, name, b"%d" % number])
    return number


# Sets


@command("SADD", least=2, most=None)
def sadd(session: Session, args: Args) -> Any:
    members = session.store.collection(args[0], set)
    new = set(args[1:]) - members

    def add(members: set[bytes]) -> int:
        members.update(new)
        return weight(*new)

    if new:
        session.store.change(args[0], members, add, weight(*new))
    return len(new)


@command("SREM", least=2, most=None)
def srem(session: Session, args: Args) -> Any:
    members = session.store.collection(args[0], set)
    gone = members & set(args[1:])

    def remove(members: set[bytes]) -> int:
        members.difference_update(gone)
        return -weight(*gone)

    if gone:
        session.store.change(args[0], members, remove)
    return len(gone)


@command("SMEMBERS", least=1, most=1)
def smembers(session: Session, args: Args) -> Any:
    return set(session.store.collection(args[0], set))


@command("SISMEMBER", least=2, most=2)
def sismember(session: Session, args: Args) -> Any:
    return int(args[1] in session.store.collection(args[0], set))


@command("SCARD", least=1, most=1)
def scard(session: Session, args: Args) -> Any:
    return len(session.store.collection(args[0], set))
