"""The access log: gunicorn's atoms, one line per exchange, written in batches.

`%(name)s` atoms: h l u t r s m U q H B b f a T M D L p, and {field}i, {field}o, {key}e for request fields, response fields and environ
keys.
What a client sends is escaped, so that it cannot forge a line.
"""

import os
import re
import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

from muxwsgi.errors import OperatorError

__all__ = ["DEFAULT_FORMAT", "AccessLog", "compile_format"]

#: gunicorn's default, which is the combined log format.
DEFAULT_FORMAT = '%(h)s %(l)s %(u)s %(t)s "%(r)s" %(s)s %(b)s "%(f)s" "%(a)s"'

#: Bytes of lines that are kept back at most; beside that they are written about once a second.
BATCH = 1 << 16

Environ = dict[str, Any]
Atom = Callable[[Environ, str, list[tuple[str, str]], int, float], str]

_ATOM = re.compile(r"%\((?:\{([^}]+)\}([ieo])|([A-Za-z]))\)s|%%|(%)")
_UNSAFE = re.compile(r'["\\\x00-\x1f\x7f-\x9f]')


def _safe(text: str) -> str:
    return _UNSAFE.sub(lambda match: f"\\x{ord(match[0]):02x}", text)


def _from_environ(key: str) -> Atom:
    return lambda environ, *_: _safe(str(environ.get(key) or "-"))


def _request_field(name: str) -> Atom:
    key = name.upper().replace("-", "_")
    return _from_environ(key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{key}")


def _response_field(name: str) -> Atom:
    wanted = name.lower()

    def atom(environ: Environ, status: str, headers: list[tuple[str, str]], size: int, seconds: float) -> str:
        return _safe(next((value for field, value in headers if field.lower() == wanted), "-"))

    return atom


def _request_line(environ: Environ, *_: object) -> str:
    return _safe(f"{environ['REQUEST_METHOD']} {environ['RAW_URI']} {environ['SERVER_PROTOCOL']}")


_ATOMS: dict[str, Atom] = {
    "h": lambda environ, *_: environ["REMOTE_ADDR"] or "-",
    "l": lambda *_: "-",
    "u": _from_environ("REMOTE_USER"),
    "t": lambda *_: time.strftime("[%d/%b/%Y:%H:%M:%S %z]"),
    "r": _request_line,
    "m": _from_environ("REQUEST_METHOD"),
    "U": lambda environ, *_: _safe(environ["SCRIPT_NAME"] + environ["PATH_INFO"]),
    "q": lambda environ, *_: _safe(environ["QUERY_STRING"]),
    "H": _from_environ("SERVER_PROTOCOL"),
    "s": lambda environ, status, *_: status[:3] or "-",
    "B": lambda environ, status, headers, size, seconds: str(size),
    "b": lambda environ, status, headers, size, seconds: str(size or "-"),
    "f": _from_environ("HTTP_REFERER"),
    "a": _from_environ("HTTP_USER_AGENT"),
    "T": lambda environ, status, headers, size, seconds: str(int(seconds)),
    "M": lambda environ, status, headers, size, seconds: str(int(seconds * 1e3)),
    "D": lambda environ, status, headers, size, seconds: str(int(seconds * 1e6)),
    "L": lambda environ, status, headers, size, seconds: f"{seconds:.6f}",
    "p": lambda *_: f"<{os.getpid()}>",
}

_FIELDS = {"i": _request_field, "o": _response_field, "e": _from_environ}


def compile_format(text: str) -> Callable[[Environ, str, list[tuple[str, str]], int, float], str]:
    """A function from an exchange to its line. Raises `OperatorError` for an atom that there is not."""
    parts: list[str] = []
    atoms: list[Atom] = []
    at = 0
    for match in _ATOM.finditer(text):
        parts.append(text[at : match.start()])
        at = match.end()
        field, kind, letter, stray = match.groups()
        if stray or (letter and letter not in _ATOMS):
            raise OperatorError(f"access_logformat: there is no atom {text[match.start() : match.start() + 6]!r}")
        if match[0] == "%%":
            parts[-1] += "%"
            atoms.append(lambda *_: "")
        else:
            atoms.append(_FIELDS[kind](field) if kind else _ATOMS[letter])
    parts.append(text[at:])

    def line(environ: Environ, status: str, headers: list[tuple[str, str]], size: int, seconds: float) -> str:
        pieces = [parts[0]]
        for atom, text_behind in zip(atoms, parts[1:], strict=True):
            pieces.append(atom(environ, status, headers, size, seconds))
            pieces.append(text_behind)
        return "".join(pieces)

    return line


class AccessLog:
    """Takes exchanges (it is an `OnExchange`) and writes their lines to a file, or to standard output for `-`.

    A log that cannot be written loses lines, which it counts (`lost`), and never a request.
    """

    def __init__(self, path: str, format_text: str = DEFAULT_FORMAT) -> None:
        """Raises `OperatorError` where the file cannot be opened."""
        self._path = path
        self._line = compile_format(format_text)
        self._waiting: list[str] = []
        self._size = 0
        self.lost = 0
        self._file = self._open()

    def __call__(self, environ: Environ, status: str, headers: list[tuple[str, str]], size: int, seconds: float) -> None:
        line = self._line(environ, status, headers, size, seconds)
        self._waiting.append(line)
        self._size += len(line)
        if self._size > BATCH:
            self.flush()

    def flush(self) -> None:
        """Write what waits."""
        lines, self._waiting, self._size = self._waiting, [], 0
        if not lines:
            return
        try:
            self._file.write("\n".join(lines) + "\n")
            self._file.flush()
        except OSError:
            self.lost += len(lines)

    def reopen(self) -> None:
        """After a log rotation: go on in a new file of the same name."""
        self.flush()
        if self._file is not sys.stdout:
            opened = self._open()
            self._file.close()
            self._file = opened

    def close(self) -> None:
        """Write what waits, and close the file."""
        self.flush()
        if self._file is not sys.stdout:
            self._file.close()

    def _open(self) -> TextIO:
        if self._path == "-":
            return sys.stdout
        try:
            return open(self._path, "a", encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            raise OperatorError(f"access_logfile: {self._path}: {error.strerror}") from error
