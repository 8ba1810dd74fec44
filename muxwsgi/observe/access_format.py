"""The lines of an access log: gunicorn's atoms, `E` and `I`, or JSON.

`%(name)s` atoms: h l u t r s m U q H B b f a T M D L p E I, and {field}i, {field}o, {key}e for request fields, response fields and environ
keys. Values of the request are logged as received, even if the application has changed its environ. `u` and `{key}e` come from the environ
after the application, because applications and middlewares put the user there.

Lines are ASCII, so every stream can take them. All other characters are escaped as in JSON. So a client cannot forge a line, and a format
that looks like JSON yields valid JSON. No function here raises, with any environ.
"""

import json
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from muxwsgi.errors import OperatorError
from muxwsgi.http.date import MONTHS
from muxwsgi.http.exchange import Exchange
from muxwsgi.http.request_id import KEY as REQUEST_ID
from muxwsgi.names import address_text

if TYPE_CHECKING:
    from muxwsgi.wire.connection import Connection

__all__ = ["DEFAULT_FORMAT", "JSON_FORMAT", "Atoms", "compile_format", "connection_fields"]

#: gunicorn's default, which is the combined log format.
DEFAULT_FORMAT = '%(h)s %(l)s %(u)s %(t)s "%(r)s" %(s)s %(b)s "%(f)s" "%(a)s"'

#: One JSON object a line, instead of a format of atoms.
JSON_FORMAT = "json"

Line = Callable[[Exchange], str]

_ATOM = re.compile(r"%\((?:\{([^}]+)\}([ieo])|([A-Za-z]))\)s|%%|(%)")
_UNSAFE = re.compile(r'[^ !#-\[\]-~]')


# Texts


def _text(value: object) -> str | None:
    """A value of an environ or of a header, as a text that every encoding of Unicode can encode. None for None.

    Native strings contain bytes as latin-1 (PEP 3333). The bytes are nearly always UTF-8. Other bytes become \\xNN.
    """
    if value is None:
        return None
    try:
        text = str.__str__(value if isinstance(value, str) else str(value))
    except Exception:  # an object of the application whose __str__ fails
        return f"<{type(value).__name__}>"
    if text.isascii():
        return text
    try:
        return text.encode("latin-1").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # a string of the application, not bytes as latin-1
        return text.encode("utf-8", "backslashreplace").decode()


def _escape(match: re.Match[str]) -> str:
    char = match[0]
    if char == "\\":
        return "\\\\"
    code = ord(char)
    if code < 0x10000:
        return f"\\u{code:04x}"
    return f"\\u{0xD7C0 + (code >> 10):04x}\\u{0xDC00 + (code & 0x3FF):04x}"


def _safe(value: object) -> str:
    return _UNSAFE.sub(_escape, _text(value) or "") or "-"


def _field_key(name: str) -> str:
    key = name.upper().replace("-", "_")
    return key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{key}"


def _response_value(headers: Iterable[Any], wanted: str) -> object:
    """The first field of this name, in a list that the application may have changed after `start_response`."""
    try:
        for name, value in headers:
            if isinstance(name, str) and name.lower() == wanted:
                return value
    except (TypeError, ValueError):
        pass
    return None


class _Now:
    """The time of log lines, made once a second. The names do not come from strftime, because it follows the locale."""

    def __init__(self) -> None:
        self._second = -1
        self._text = ""

    def __call__(self, exchange: Exchange) -> str:
        now = int(time.time())
        if now != self._second:
            moment = time.localtime(now)
            self._text = f"[{moment.tm_mday:02}/{MONTHS[moment.tm_mon - 1]}/{time.strftime('%Y:%H:%M:%S %z', moment)}]"
            self._second = now
        return self._text


# Atoms


def _requested(key: str) -> Line:
    return lambda exchange: _safe(exchange.request.get(key))


def _left_behind(key: str) -> Line:
    return lambda exchange: _safe(exchange.environ.get(key))


def _answered(name: str) -> Line:
    wanted = name.lower()
    return lambda exchange: _safe(_response_value(exchange.headers, wanted))


_ATOMS: dict[str, Line] = {
    "h": _requested("REMOTE_ADDR"),
    "l": lambda exchange: "-",
    "u": _left_behind("REMOTE_USER"),
    "t": _Now(),
    "r": lambda exchange: _safe(exchange.request_line),
    "m": _requested("REQUEST_METHOD"),
    "U": _requested("PATH_INFO"),
    "q": lambda exchange: _safe(exchange.request.get("QUERY_STRING")) if exchange.request.get("QUERY_STRING") else "",
    "H": _requested("SERVER_PROTOCOL"),
    "s": lambda exchange: exchange.status[:3] or "-",
    "B": lambda exchange: str(exchange.body_bytes),
    "b": lambda exchange: str(exchange.body_bytes or "-"),
    "f": _requested("HTTP_REFERER"),
    "a": _requested("HTTP_USER_AGENT"),
    "T": lambda exchange: str(int(exchange.seconds)),
    "M": lambda exchange: str(int(exchange.seconds * 1e3)),
    "D": lambda exchange: str(int(exchange.seconds * 1e6)),
    "L": lambda exchange: f"{exchange.seconds:.6f}",
    "p": lambda exchange: f"<{os.getpid()}>",
    "E": lambda exchange: _safe(exchange.error),
    "I": _left_behind(REQUEST_ID),
}

_FIELDS: dict[str, Callable[[str], Line]] = {
    "i": lambda name: _requested(_field_key(name)),
    "o": _answered,
    "e": _left_behind,
}


def compile_format(text: str) -> Line:
    """A function that makes the line of an exchange, and never raises. Raises `OperatorError` for an unknown atom."""
    if text == JSON_FORMAT:
        return _json_line
    parts: list[str] = []
    atoms: list[Line] = []
    at = 0
    for match in _ATOM.finditer(text):
        parts.append(text[at : match.start()])
        at = match.end()
        field, kind, letter, stray = match.groups()
        if stray or (letter and letter not in _ATOMS):
            raise OperatorError(f"access_logformat: unknown atom {text[match.start() : match.start() + 6]!r}")
        if match[0] == "%%":
            parts[-1] += "%"
            atoms.append(lambda exchange: "")
        else:
            atoms.append(_FIELDS[kind](field) if kind else _ATOMS[letter])
    parts.append(text[at:])
    # The operator's text between atoms is escaped, so that a line stays one line and ASCII.
    parts = [part.encode("ascii", "backslashreplace").decode("ascii").replace("\n", "\\n") for part in parts]

    def line(exchange: Exchange) -> str:
        pieces = [parts[0]]
        for atom, text_behind in zip(atoms, parts[1:], strict=True):
            pieces.append(atom(exchange))
            pieces.append(text_behind)
        return "".join(pieces)

    return line


class Atoms(Mapping[str, str]):
    """The atoms of an exchange by name (`h`, `{name}i`), as gunicorn's `record.args`. What does not exist is `-`."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def __getitem__(self, name: str) -> str:
        if name in _ATOMS:
            return _ATOMS[name](self._exchange)
        if name[:1] == "{" and name[-2:-1] == "}" and name[-1] in _FIELDS:
            return _FIELDS[name[-1]](name[1:-2])(self._exchange)
        return "-"

    def __iter__(self) -> Iterator[str]:
        return iter(_ATOMS)

    def __len__(self) -> int:
        return len(_ATOMS)


# JSON


def connection_fields(connection: "Connection") -> dict[str, object]:
    """What a JSON line of any log says of its connection."""
    tls = connection.tls
    return {
        "connection": connection.id,
        "bind": address_text(connection.server) if connection.server else None,
        "tls": None if tls is None else {"version": tls.version, "sni": tls.sni, "alpn": tls.alpn},
    }


def _json_line(exchange: Exchange) -> str:
    request = exchange.request
    line: dict[str, object] = {
        "time": datetime.now().astimezone().isoformat(timespec="milliseconds"),
        "kind": "exchange",
        "remote_addr": _text(request.get("REMOTE_ADDR")) or None,
        "remote_user": _text(exchange.environ.get("REMOTE_USER")) or None,
        "request": _text(exchange.request_line),
        "method": _text(request.get("REQUEST_METHOD")),
        "path": _text(request.get("PATH_INFO")),
        "query": _text(request.get("QUERY_STRING")),
        "protocol": _text(request.get("SERVER_PROTOCOL")),
        "scheme": _text(request.get("wsgi.url_scheme")),
        "host": _text(request.get("HTTP_HOST")),
        "status": int(exchange.status[:3]) if exchange.status else None,
        "bytes": exchange.body_bytes,
        "seconds": round(exchange.seconds, 6),
        "referer": _text(request.get("HTTP_REFERER")),
        "user_agent": _text(request.get("HTTP_USER_AGENT")),
        "pid": os.getpid(),
    }
    connection = request.get("muxwsgi.connection")
    if connection is not None:
        line |= connection_fields(connection)
    request_id = exchange.environ.get(REQUEST_ID)
    if request_id is not None:
        line["request_id"] = _text(request_id)
    if exchange.error is not None:
        line["error"] = exchange.error
    if exchange.refused is not None:
        line["refused"] = exchange.refused
    return json.dumps(line)
