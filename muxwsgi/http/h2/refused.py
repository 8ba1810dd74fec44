"""Environs of what is not a request of HTTP/2, for logs. Nothing may be decided by them."""

from urllib.parse import unquote_to_bytes

from muxwsgi.http.environ import Environ, environ_key
from muxwsgi.http.h2.field import METHOD, PATH, REGULAR, UNKNOWN_PSEUDO, Field

__all__ = ["broken_connection", "malformed_request"]

#: Fields that are noted; further ones are left out.
_FIELDS_AT_MOST = 100


def malformed_request(shared: Environ, fields: list[Field]) -> Environ:
    """The environ of a request that is reset because of its `fields`."""
    environ = shared.copy()
    environ["SERVER_PROTOCOL"] = "HTTP/2.0"
    sent = [(each.name, each.value) for each in fields[:_FIELDS_AT_MOST] if each.kind >= REGULAR]
    environ["muxwsgi.fields"] = sent
    for name, value in sent:
        if key := environ_key(name):
            environ.setdefault(key, value)
    for each in fields:
        if each.kind > UNKNOWN_PSEUDO:
            continue
        if each.kind == METHOD:
            environ["REQUEST_METHOD"] = each.value
        elif each.kind == PATH:
            environ["RAW_URI"] = environ["REQUEST_URI"] = each.value
            path, _, environ["QUERY_STRING"] = each.value.partition("?")
            environ["PATH_INFO"] = unquote_to_bytes(path.encode("latin-1")).decode("latin-1")
    return environ


def broken_connection(shared: Environ) -> Environ:
    """The environ for a connection that is ended because of its frames. It has the line of the preface, as nginx logs it."""
    environ = shared.copy()
    environ["REQUEST_METHOD"], environ["SERVER_PROTOCOL"] = "PRI", "HTTP/2.0"
    environ["RAW_URI"] = environ["REQUEST_URI"] = "*"
    return environ
