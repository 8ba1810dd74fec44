"""Numbers as Redis reads them."""

import re
from decimal import Decimal

from muxwsgi_resp.protocol import Error
from muxwsgi_resp.session import NOT_AN_INTEGER

__all__ = ["bounds", "expiry_time", "integer", "real"]

#: No sign but a minus, no leading zero, no space: "007" and "+7" are strings.
_INTEGER = re.compile(rb"0|-?[1-9][0-9]{0,18}")
_REAL = re.compile(rb"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?")


def integer(text: bytes) -> int:
    """64 bits with a sign. Raises `Error` for anything else."""
    if not _INTEGER.fullmatch(text) or not -(1 << 63) <= int(text) < 1 << 63:
        raise Error(NOT_AN_INTEGER)
    return int(text)


def real(text: bytes) -> Decimal:
    """A finite number: decimal, so that 0.1 and 0.2 are 0.3 here as they are in Redis, which has long doubles."""
    if len(text) > 256 or not _REAL.fullmatch(text):
        raise Error("ERR value is not a valid float")
    return Decimal(text.decode())


def expiry_time(command: str, base: float, number: bytes, per_second: int) -> float:
    """Unix time in seconds, `number` units after `base`. Raises `Error` where milliseconds of it would not fit into 64 bits."""
    milliseconds = integer(number) * (1000 // per_second)
    if abs(milliseconds) + base * 1000 >= 1 << 63:
        raise Error(f"ERR invalid expire time in '{command}' command")
    return base + milliseconds / 1000


def bounds(first: bytes, last: bytes, length: int) -> tuple[int, int]:
    """A slice from Redis' two inclusive indices, which count from the end where they are negative."""
    start, stop = integer(first), integer(last)
    start = max(start + length, 0) if start < 0 else start
    stop = stop + length if stop < 0 else stop
    return start, min(max(stop + 1, 0), length)
