"""RESP, the Redis serialization protocol, versions 2 and 3 (https://redis.io/docs/latest/develop/reference/protocol-spec/).

Commands are read from bytes as they come, and replies are made into bytes. No command is known here, and no connection.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["MAX_BULK", "CommandReader", "Error", "ProtocolError", "Push", "Status", "encode", "encode_into"]

#: Redis' own limits (proto-max-bulk-len is 512 MB there; this store holds less).
MAX_INLINE = 64 * 1024
MAX_ARGUMENTS = 1024 * 1024
MAX_BULK = 16 * 1024 * 1024

#: All arguments of one command together.
MAX_COMMAND = 64 * 1024 * 1024


#: Empty lines and empty arrays, which are not commands. As many as there are, at once: one by one they are the most work for a byte.
_NOTHING = re.compile(rb"(?:\r?\n|\*0\r\n)+")


class ProtocolError(Exception):
    """The client does not speak RESP. It is told so, and the connection is closed."""


class Error(Exception):
    """A reply that is an error, as in `-ERR text`."""


@dataclass(frozen=True, slots=True)
class Status:
    """A reply that is a simple string, as in `+OK`."""

    text: str


@dataclass(frozen=True, slots=True)
class Push:
    """What comes without being asked for: a push in RESP3, an array in RESP2."""

    items: list[Any]


class CommandReader:
    """Takes bytes, gives commands: lists of arguments. What is incomplete waits for more."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._wanted = -1  # arguments of the command that is being read, -1 between commands
        self._arguments: list[bytes] = []
        self._size = 0

    @property
    def between_commands(self) -> bool:
        """Whether nothing of a command has come yet."""
        return self._wanted < 0 and not self._buffer

    def feed(self, data: bytes) -> Iterator[list[bytes]]:
        """The commands that are complete now. Raises `ProtocolError`."""
        self._buffer += data
        while (command := self._next()) is not None:
            if command:
                yield command

    def _next(self) -> list[bytes] | None:
        """A command, empty for an empty line; None when bytes are missing."""
        if self._wanted < 0:
            if (nothing := _NOTHING.match(self._buffer)) is not None:
                del self._buffer[: nothing.end()]
            line = self._line()
            if line is None:
                return None
            if not line.startswith(b"*"):
                return _inline(line)
            self._wanted = _number(line[1:], MAX_ARGUMENTS, "invalid multibulk length")
            self._arguments = []
            self._size = 0
            if self._wanted <= 0:
                self._wanted = -1
                return []
        while len(self._arguments) < self._wanted:
            argument = self._bulk()
            if argument is None:
                return None
            self._arguments.append(argument)
        self._wanted = -1
        return self._arguments

    def _line(self) -> bytes | None:
        end = self._buffer.find(b"\n")
        if end < 0:
            if len(self._buffer) > MAX_INLINE:
                raise ProtocolError("too big inline request")
            return None
        if end > MAX_INLINE:
            raise ProtocolError("too big inline request")
        line = bytes(self._buffer[:end]).removesuffix(b"\r")
        del self._buffer[: end + 1]
        return line

    def _bulk(self) -> bytes | None:
        header_end = self._buffer.find(b"\r\n", 0, 64)
        if header_end < 0:
            if len(self._buffer) >= 64:
                raise ProtocolError("invalid bulk length")
            return None
        if self._buffer[:1] != b"$":
            raise ProtocolError(f"expected '$', got '{chr(self._buffer[0])}'")
        length = _number(bytes(self._buffer[1:header_end]), MAX_BULK, "invalid bulk length")
        if length < 0:
            raise ProtocolError("invalid bulk length")
        if self._size + length > MAX_COMMAND:
            raise ProtocolError("too big command")
        end = header_end + 2 + length
        if len(self._buffer) < end + 2:
            return None
        if self._buffer[end : end + 2] != b"\r\n":
            raise ProtocolError("a bulk string does not end where it says")
        argument = bytes(self._buffer[header_end + 2 : end])
        del self._buffer[: end + 2]
        self._size += length
        return argument


def _number(text: bytes, most: int, complaint: str) -> int:
    digits = text.removeprefix(b"-")
    if not digits.isdigit() or len(digits) > 10 or int(text) > most:
        raise ProtocolError(complaint)
    return int(text)


#: An argument of a command typed by hand: "with escapes", 'without', or bare.
_ARGUMENT = re.compile(rb"""\s*(?:"((?:[^"\\]|\\.)*)"|'((?:[^'\\]|\\.)*)'|([^\s"']+))(?=\s|$)""")
_ESCAPE = re.compile(rb"\\(x[0-9a-fA-F]{2}|.)")
_ESCAPED = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"b": b"\b", b"a": b"\a"}


def _inline(line: bytes) -> list[bytes]:
    if b'"' not in line and b"'" not in line:
        return line.split()
    arguments: list[bytes] = []
    line = line.rstrip()
    position = 0
    while position < len(line):
        found = _ARGUMENT.match(line, position)
        if found is None:
            raise ProtocolError("unbalanced quotes in request")
        position = found.end()
        double, single, bare = found.groups()
        if double is not None:
            arguments.append(_ESCAPE.sub(_unescaped, double))
        else:
            arguments.append(bare if single is None else single.replace(b"\\'", b"'"))
    return arguments


def _unescaped(found: re.Match[bytes]) -> bytes:
    code = found[1]
    return bytes([int(code[1:], 16)]) if len(code) == 3 else _ESCAPED.get(code, code)


def encode(value: Any, version: int) -> bytes:
    """`value` as a reply: None, bool, int, float, bytes, str, `Status`, `Error`, `Push`, list, set, dict."""
    parts: list[bytes] = []
    encode_into(parts, value, version)
    return b"".join(parts)


def encode_into(parts: list[bytes], value: Any, version: int) -> None:
    """As `encode`, in parts: they are the values themselves, so that a reply to a thousand GETs of a big one takes no memory."""
    match value:
        case None:
            parts.append(b"_\r\n" if version == 3 else b"$-1\r\n")
        case bool():
            parts.append((b"#t\r\n" if value else b"#f\r\n") if version == 3 else b":%d\r\n" % value)
        case int():
            parts.append(b":%d\r\n" % value)
        case float():
            text = repr(value).removesuffix(".0").encode()
            parts.append(b",%b\r\n" % text if version == 3 else b"$%d\r\n%b\r\n" % (len(text), text))
        case bytes():
            parts.append(b"$%d\r\n%b\r\n" % (len(value), value))
        case str():
            encode_into(parts, value.encode(), version)
        case Status():
            parts.append(b"+%b\r\n" % value.text.encode())
        case Error():
            parts.append(b"-%b\r\n" % str(value).replace("\r", " ").replace("\n", " ").encode("utf-8", "replace"))
        case Push():
            parts.append(b"%b%d\r\n" % (b">" if version == 3 else b"*", len(value.items)))
            for item in value.items:
                encode_into(parts, item, version)
        case Mapping():
            parts.append(b"%%%d\r\n" % len(value) if version == 3 else b"*%d\r\n" % (2 * len(value)))
            for key, item in value.items():
                encode_into(parts, key, version)
                encode_into(parts, item, version)
        case set() | frozenset():
            parts.append(b"%b%d\r\n" % (b"~" if version == 3 else b"*", len(value)))
            for item in value:
                encode_into(parts, item, version)
        case list() | tuple():
            parts.append(b"*%d\r\n" % len(value))
            for item in value:
                encode_into(parts, item, version)
        case _:
            raise TypeError(f"no RESP type for {type(value).__name__}")
