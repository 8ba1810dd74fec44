"""Commands about strings, and the numbers in them."""

from collections.abc import Callable
from decimal import Context
from typing import Any

from muxwsgi_resp.commands.arguments import bounds, expiry_time, integer, real
from muxwsgi_resp.protocol import MAX_BULK, Error
from muxwsgi_resp.session import OK, SYNTAX, Args, Session, command

#: As many digits as Redis writes (%.17Lg).
_REALS = Context(prec=17)


def _option_time(session: Session, name: str, option: bytes, number: bytes) -> float:
    if integer(number) <= 0:
        raise Error(f"ERR invalid expire time in '{name}' command")
    base = 0 if option.endswith(b"AT") else session.store.now()
    return expiry_time(name, base, number, 1000 if option.startswith(b"P") else 1)


_TIMES = (b"EX", b"PX", b"EXAT", b"PXAT")


@command("SET", least=2, most=None)
def set_(session: Session, args: Args) -> Any:
    return _set(session, args, "set")


def _set(session: Session, args: Args, name: str) -> Any:
    key, value, *options = args
    seen: set[bytes] = set()
    expiry: float | None = None
    while options:
        option = options.pop(0).upper()
        if option in _TIMES and options:
            expiry = _option_time(session, name, option, options.pop(0))
            option = b"a time"
        elif option not in (b"NX", b"XX", b"GET", b"KEEPTTL"):
            raise Error(SYNTAX)
        if option in seen:
            raise Error(SYNTAX)
        seen.add(option)
    if {b"NX", b"XX"} <= seen or {b"KEEPTTL", b"a time"} <= seen:
        raise Error(SYNTAX)
    old = session.store.string(key) if b"GET" in seen else None
    there = session.store.get(key) is not None
    if (b"NX" in seen and there) or (b"XX" in seen and not there):
        return old
    session.store.set(key, value, expiry, keep_expiry=b"KEEPTTL" in seen)
    return old if b"GET" in seen else OK


@command("SETNX", least=2, most=2)
def setnx(session: Session, args: Args) -> Any:
    return int(set_(session, [*args, b"NX"]) is OK)


@command("SETEX", least=3, most=3)
def setex(session: Session, args: Args) -> Any:
    return _set(session, [args[0], args[2], b"EX", args[1]], "setex")


@command("PSETEX", least=3, most=3)
def psetex(session: Session, args: Args) -> Any:
    return _set(session, [args[0], args[2], b"PX", args[1]], "psetex")


@command("GETSET", least=2, most=2)
def getset(session: Session, args: Args) -> Any:
    return set_(session, [*args, b"GET"])


@command("GET", least=1, most=1)
def get(session: Session, args: Args) -> Any:
    return session.store.string(args[0])


@command("GETDEL", least=1, most=1)
def getdel(session: Session, args: Args) -> Any:
    value = session.store.string(args[0])
    session.store.delete(args[0])
    return value


@command("GETEX", least=1, most=3)
def getex(session: Session, args: Args) -> Any:
    change: Callable[[], object] = int
    match [arg.upper() for arg in args[1:]]:
        case []:
            pass
        case [b"PERSIST"]:
            change = lambda: session.store.expire(args[0], None)  # noqa: E731
        case [option, number] if option in _TIMES:
            when = _option_time(session, "getex", option, number)
            change = lambda: session.store.expire(args[0], when)  # noqa: E731
        case _:
            raise Error(SYNTAX)
    value = session.store.string(args[0])
    change()
    return value


@command("MSET", least=2, most=None)
def mset(session: Session, args: Args) -> Any:
    if len(args) % 2:
        raise Error("ERR wrong number of arguments for 'mset' command")
    session.store.set_all(list(zip(args[::2], args[1::2], strict=True)))
    return OK


@command("MGET", least=1, most=None)
def mget(session: Session, args: Args) -> Any:
    values = [session.store.get(key) for key in args]
    return [value if isinstance(value, bytes) else None for value in values]


# Numbers


def _add(session: Session, key: bytes, amount: int) -> int:
    stored = session.store.string(key)
    number = (0 if stored is None else integer(stored)) + amount
    if not -(1 << 63) <= number < 1 << 63:
        raise Error("ERR increment or decrement would overflow")
    session.store.set(key, b"%d" % number, keep_expiry=True)
    return number


@command("INCR", least=1, most=1)
def incr(session: Session, args: Args) -> Any:
    return _add(session, args[0], 1)


@command("DECR", least=1, most=1)
def decr(session: Session, args: Args) -> Any:
    return _add(session, args[0], -1)


@command("INCRBY", least=2, most=2)
def incrby(session: Session, args: Args) -> Any:
    return _add(session, args[0], integer(args[1]))


@command("DECRBY", least=2, most=2)
def decrby(session: Session, args: Args) -> Any:
    return _add(session, args[0], -integer(args[1]))


@command("INCRBYFLOAT", least=2, most=2)
def incrbyfloat(session: Session, args: Args) -> Any:
    stored = session.store.string(args[0])
    number = _REALS.add(real(b"0" if stored is None else stored), real(args[1]))
    if number.adjusted() > 300:
        raise Error("ERR increment would produce NaN or Infinity")
    text = f"{number:f}".encode()
    if b"." in text:
        text = text.rstrip(b"0").rstrip(b".")
    text = b"0" if text == b"-0" else text
    session.store.set(args[0], text, keep_expiry=True)
    return text


# Parts


def _fits(length: int) -> None:
    # Before it is made: a string of half a gigabyte of zeros is one short command away.
    if length > MAX_BULK:
        raise Error("ERR string exceeds maximum allowed size (proto-max-bulk-len)")


@command("APPEND", least=2, most=2)
def append(session: Session, args: Args) -> Any:
    value = session.store.string(args[0]) or b""
    _fits(len(value) + len(args[1]))
    value += args[1]
    session.store.set(args[0], value, keep_expiry=True)
    return len(value)


@command("STRLEN", least=1, most=1)
def strlen(session: Session, args: Args) -> Any:
    return len(session.store.string(args[0]) or b"")


@command("GETRANGE", least=3, most=3)
def getrange(session: Session, args: Args) -> Any:
    value = session.store.string(args[0]) or b""
    start, stop = bounds(args[1], args[2], len(value))
    return value[start:stop]


@command("SETRANGE", least=3, most=3)
def setrange(session: Session, args: Args) -> Any:
    key, at, new = args
    offset = integer(at)
    if offset < 0:
        raise Error("ERR offset is out of range")
    value = session.store.string(key) or b""
    if new:
        _fits(offset + len(new))
        value = value.ljust(offset, b"\0")
        value = value[:offset] + new + value[offset + len(new) :]
        session.store.set(key, value, keep_expiry=True)
    return len(value)
