"""Parses a refused request as far as possible, for logs."""

import re
from urllib.parse import unquote_to_bytes

from muxwsgi.grammar import is_token
from muxwsgi.http.environ import Environ, environ_key
from muxwsgi.http.h1.sent_fields import fields_of

__all__ = ["refused_request"]

_LINE_END = re.compile(rb"\r?\n")

#: Fields that are noted; further ones are left out.
_FIELDS_AT_MOST = 100


def refused_request(shared: Environ, head: bytes, longest: int) -> tuple[Environ, str]:
    """The environ of a refused `head`, complete or not, and its request line of at most `longest` bytes.

    Nothing may be decided by it, because the head was not understood.
    """
    environ = shared.copy()
    first, *others = _LINE_END.split(head.lstrip(b"\r\n"))
    line = first[:longest].decode("latin-1")
    words = line.split(" ")
    if len(words) == 3:
        environ["REQUEST_METHOD"], target, environ["SERVER_PROTOCOL"] = words
        environ["RAW_URI"] = environ["REQUEST_URI"] = target
        path, _, environ["QUERY_STRING"] = target.partition("?")
        environ["PATH_INFO"] = unquote_to_bytes(path.encode("latin-1")).decode("latin-1")
    fields = [(name, value) for name, value in fields_of(b"\r\n".join(others[:_FIELDS_AT_MOST])) if is_token(name)]
    for name, value in fields:
        if key := environ_key(name):
            environ.setdefault(key, value)
    environ["muxwsgi.fields"] = fields
    return environ, line
