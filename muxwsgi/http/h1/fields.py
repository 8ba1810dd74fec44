"""Reads the field lines of request heads, straight into environs.

llhttp defines what a field line is. Clients repeat field lines, so a line that llhttp has accepted is accepted again byte for byte. A line
with a name that llhttp has accepted, and a value with only the characters of RFC 9110 section 5.5, is read here. All other lines go to
llhttp, and only llhttp refuses a line.

llhttp gets the fields of exactly one head, to its CRLFCRLF, after a fixed request line. Each head has a new parser. So no byte of a body or
of a next request is inside a parser when the policy of `head` refuses a message, and the policy sees one message.
"""

import re
from collections.abc import Callable
from typing import Any

from httptools import (
    HttpParserError,
    HttpParserUpgrade,
    HttpRequestParser,
)

from muxwsgi.errors import PeerError
from muxwsgi.grammar import CONTROL
from muxwsgi.http.environ import environ_key
from muxwsgi.settings import HTTPSettings

__all__ = ["REMEMBERED_AT_MOST", "Fields", "finder", "is_length"]

#: Bytes of a head that are remembered while a connection lasts: browsers send about 700 and cookies.
REMEMBERED_AT_MOST = 2048

#: Fields that must not be repeated. Others are lists, which may be split over several lines (RFC 9110 section 5.3).
_SINGLETONS = frozenset({"HTTP_HOST", "CONTENT_LENGTH", "CONTENT_TYPE", "HTTP_TRANSFER_ENCODING"})

#: Field names that llhttp has accepted, and their environ keys, "" for a name that is dropped. The cache is cleared when it is full, so a
#: client that invents names can neither fill the memory nor keep other names out for good. Very long names are not cached, because 2048 of
#: them would take much memory.
_KEYS: dict[bytes, str] = {}
_KEYS_AT_MOST = 2048
_KEY_LENGTH = 64

#: The request lines that llhttp reads: one method does not change what it makes of the fields.
_LINE_1_1, _LINE_1_0 = b"POST / HTTP/1.1\r\n", b"POST / HTTP/1.0\r\n"

#: Digits of a Content-Length at most.
_LENGTH_DIGITS = 18

_COLON, _CR, _LF, _SPACE, _TAB = b":\r\n \t"

# Where a name and a value end at the latest. In the compiled build these are C functions (fields.pxd), and an assignment to one would be an
# error: hence by this way around.
_NOT_NAME = re.compile(rb"[\x00-\x20:]|\Z")
_NOT_VALUE = re.compile(rb"%b|\Z" % CONTROL.encode())


def finder(pattern: re.Pattern[bytes]) -> Callable[[bytes, int], int]:
    """A function of bytes and a position: the position where `pattern`, which also matches the end, is found first from there on."""

    def at_or_after(raw: bytes, at: int) -> int:
        found = pattern.search(raw, at)
        assert found is not None
        return found.start()

    return at_or_after


globals().update(_name_end=finder(_NOT_NAME), _value_end=finder(_NOT_VALUE))


class Fields:
    """Reads the fields of one head after the other of a connection.

    doubt       an error in the fields just read, if the framing may be refused with a better status; None without
    """

    __slots__ = ("_at_most", "_line_keys", "_lines", "_names", "_read_before", "_shared", "_size_at_most", "_template", "doubt")

    def __init__(self, settings: HTTPSettings, shared: dict[str, Any]) -> None:
        """`shared` is the part that all environs of the connection have, without fields."""
        self._shared = shared
        self._at_most = settings.limit_request_fields
        self._size_at_most = settings.limit_request_field_size
        self._read_before = False
        self.doubt: PeerError | None = None
        self._forget()

    def read(self, raw: bytes, at: int, minor: int) -> dict[str, Any]:
        """A new environ with the fields of the head `raw`, of HTTP/1.`minor`, which begin at `at`. Raises `PeerError`."""
        self.doubt = None
        size = len(raw) - at
        if size <= self._size_at_most:
            if self._lines:
                if size <= REMEMBERED_AT_MOST and self._read_again(raw, at):
                    return self._template.copy()
                self._forget()  # what did not match to its end is half changed
            environ = self._shared.copy()
            if self._read_known(raw, at, environ):
                return environ
        self._forget()
        return self._parse(raw, at, minor)

    # Without llhttp

    def _read_again(self, raw: bytes, at: int) -> bool:
        """Bring `_template` up to date, where the names are those of the head that is remembered, one for one."""
        text = raw  # a pointer in the compiled build: see fields.pxd
        lines = self._lines
        for number in range(len(lines)):
            line = lines[number]
            if raw.startswith(line, at):
                at += len(line)
                continue
            begin = at
            name = self._names[number]
            value_at = at + len(name) + 1
            if not raw.startswith(name, at) or text[value_at - 1] != _COLON:
                return False
            end = _value_end(raw, value_at)  # type: ignore[name-defined]  # noqa: F821
            if text[end] != _CR or text[end + 1] != _LF:
                return False
            key = self._line_keys[number]
            if key:
                value = _value(raw, value_at, end)
                if key == "CONTENT_LENGTH" and not is_length(value):
                    return False
                self._template[key] = value
            at = end + 2
            lines[number] = raw[begin:at]
        return at + 2 == len(raw)

    def _read_known(self, raw: bytes, at: int, environ: dict[str, Any]) -> bool:
        """Put fields with known names into `environ`, and remember them from a connection's second head on. False for anything else."""
        keys = _KEYS
        text = raw  # a pointer in the compiled build: see fields.pxd
        remember = self._read_before and len(raw) - at <= REMEMBERED_AT_MOST
        self._read_before = True
        count = 0
        while text[at] != _CR:
            count += 1
            colon = _name_end(raw, at)  # type: ignore[name-defined]  # noqa: F821
            name = raw[at:colon]
            key = keys.get(name)
            if key is None or text[colon] != _COLON:
                return False
            end = _value_end(raw, colon + 1)  # type: ignore[name-defined]  # noqa: F821
            if text[end] != _CR or text[end + 1] != _LF:
                return False
            if key:
                if key in environ or key == "HTTP_TRANSFER_ENCODING":
                    return False
                environ[key] = _value(raw, colon + 1, end)
            if remember:
                self._lines.append(raw[at : end + 2])
                self._names.append(name)
                self._line_keys.append(key)
            at = end + 2
        if at + 2 != len(raw) or count > self._at_most:
            return False
        if "CONTENT_LENGTH" in environ and not is_length(environ["CONTENT_LENGTH"]):
            return False
        if remember:
            self._template = environ.copy()
        return True

    def _forget(self) -> None:
        self._lines: list[bytes] = []  # of the head that is remembered, each with its CRLF
        self._names: list[bytes] = []  # that of each line
        self._line_keys: list[str] = []  # and the key of each name
        self._template = self._shared  # with those fields added, in a separate dict, once there are any

    # By llhttp

    def _parse(self, raw: bytes, at: int, minor: int) -> dict[str, Any]:
        if raw.count(b"\r\n") - 2 > self._at_most:
            raise PeerError(431, f"more than {self._at_most} header fields")
        if len(raw) - at > self._size_at_most:
            _check_sizes(raw, self._size_at_most)
        environ = self._shared.copy()
        sink = _Sink(environ)
        self.doubt = _feed(HttpRequestParser(sink), (_LINE_1_1 if minor else _LINE_1_0) + raw[at:])
        if sink.repeated:
            raise PeerError(400, f"the field {sink.repeated.decode('latin-1')!r} is repeated")
        return environ


class _Sink:
    """Callbacks with which the parser puts fields into an environ.

    `repeated` is the name of a field that must not be repeated, and was. It is not raised in a callback, because the parser would raise
    another error then.
    The other callbacks do nothing, because a new parser looks up each.
    """

    __slots__ = ("_environ", "repeated")

    on_message_begin = on_url = on_headers_complete = on_body = on_message_complete = None
    on_chunk_header = on_chunk_complete = on_status = None

    def __init__(self, environ: dict[str, Any]) -> None:
        self._environ = environ
        self.repeated = b""

    def on_header(self, name: bytes, value: bytes) -> None:
        """Called by the parser."""
        keys = _KEYS
        key = keys.get(name)
        if key is None:
            key = _learn(name)
        if not key:
            return
        text = value.decode("latin-1")
        if text and text[-1] in " \t":
            text = text.rstrip(" \t")  # OWS after a value does not belong to it (RFC 9112 section 5.1)
        environ = self._environ
        if key in environ:
            if key in _SINGLETONS:
                self.repeated = self.repeated or name
                return
            text = environ[key] + ("; " if key == "HTTP_COOKIE" else ", ") + text
        environ[key] = text


def _value(raw: bytes, at: int, end: int) -> str:
    """The value between `at` and `end`, without the OWS around it (RFC 9112 section 5.1)."""
    text = raw  # as above
    while text[at] == _SPACE or text[at] == _TAB:
        at += 1
    while end > at and (text[end - 1] == _SPACE or text[end - 1] == _TAB):
        end -= 1
    return raw[at:end].decode("latin-1")


def is_length(text: str) -> bool:
    """Whether `text` is a Content-Length of a plausible size."""
    return len(text) <= _LENGTH_DIGITS and text.isascii() and text.isdigit()


def _learn(name: bytes) -> str:
    key = environ_key(name.decode())
    if len(name) <= _KEY_LENGTH:
        if len(_KEYS) >= _KEYS_AT_MOST:
            _KEYS.clear()
        _KEYS[name] = key
    return key


def _feed(parser: HttpRequestParser, raw: bytes) -> PeerError | None:
    """Let `parser` read `raw`. Raises `PeerError`. Returns the error if all fields are there and the framing may have a better status."""
    try:
        parser.feed_data(raw)
    except HttpParserUpgrade:
        pass  # Upgrade: what follows the head is read by us in any case
    except HttpParserError as error:
        fault = PeerError(400, f"malformed head: {error}")
        if "invalid `Transfer-Encoding`" in str(error):
            return fault
        raise fault from None
    return None


def _check_sizes(raw: bytes, limit: int) -> None:
    for line in raw.split(b"\r\n")[1:]:
        if len(line) > limit:
            raise PeerError(431, f"a header field is longer than {limit} bytes")
