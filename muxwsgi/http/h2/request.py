"""Reads the fields of a request into an environ (RFC 9113 section 8).

A request that is malformed is an error of its stream (section 8.1.1). One that a limit refuses, or that HTTP/1.1 would refuse for what it
asks, is answered with the same status as there.

An extended CONNECT (RFC 8441) asks for another protocol on its stream, most often a WebSocket. HTTP/1.1 asks for the same by Upgrade, and
applications know that alone. So the environ is that of HTTP/1.1: a GET with Upgrade, Connection and Sec-WebSocket-Key.
"""

import base64
import os
import re
from typing import Any
from urllib.parse import unquote_to_bytes

from muxwsgi.errors import PeerError
from muxwsgi.grammar import is_token
from muxwsgi.http.authority import is_host
from muxwsgi.http.h2.errors import PROTOCOL_ERROR, StreamFault
from muxwsgi.http.h2.field import (
    AUTHORITY,
    CONTENT_TYPE,
    COOKIE,
    DROPPED,
    EXPECT,
    HOST,
    LENGTH,
    METHOD,
    PATH,
    PRIORITY,
    PROTOCOL,
    REGULAR,
    SCHEME,
    TE,
    UNKNOWN_PSEUDO,
    Field,
)
from muxwsgi.http.h2.priority import URGENCY, parse_priority
from muxwsgi.http.h2.sent_fields import sent_fields
from muxwsgi.settings import HTTPSettings

__all__ = ["Requests", "check_trailers"]

_LENGTH_DIGITS = 18

#: RFC 3986 section 3.1.
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*")

#: What `SERVER_PROTOCOL` says, and the request line of the access log. The grammar of CGI wants both digits (RFC 3875 section 4.1.16).
_VERSION = "HTTP/2.0"


class Requests:
    """The requests of one connection, one after the other. Attributes of the last one, for the engine:

    environ             the environ that was made last. If the request was refused, as far as it was read: for logs alone
    method, target      as sent
    length              its Content-Length, -1 without
    protocol            what a CONNECT makes of its stream: "" for a tunnel, the name of a protocol for an extended one; None for any other
                        request
    expects_continue    whether the peer waits for 100 before it sends the body
    urgency, sequential see `Stream`
    """

    __slots__ = (
        "_body_at_most",
        "_field_at_most",
        "_fields",
        "_fields_at_most",
        "_good_host",
        "_line_at_most",
        "_settings",
        "_shared",
        "_template",
        "environ",
        "expects_continue",
        "length",
        "method",
        "protocol",
        "sequential",
        "target",
        "urgency",
    )

    def __init__(self, settings: HTTPSettings, shared: dict[str, Any]) -> None:
        """`shared` is the part of the environ that all requests of the connection have."""
        self._settings = settings
        self._line_at_most = settings.limit_request_line
        self._fields_at_most = settings.limit_request_fields
        self._field_at_most = settings.limit_request_field_size
        self._body_at_most = settings.limit_request_body
        self._shared = shared
        self._fields: list[Field] | None = None  # of the last request, if it was in order
        self._template = shared  # its environ
        self._good_host = ""
        self.environ = shared
        self.method = ""
        self.target = ""
        self.protocol: str | None = None
        self.length = -1
        self.expects_continue = False
        self.urgency = URGENCY
        self.sequential = False

    def read(self, fields: list[Field], too_large: bool, again: bool) -> dict[str, Any]:
        """A new environ. Raises `StreamFault` for a request that is malformed, and `PeerError`. `too_large`: some fields are left out.
        `again`: the same list may be given for the next request, if that is the same."""
        if fields is self._fields:  # the same list, so it is the same request
            return self._template.copy()
        self._fields = None
        environ = self.environ = self._shared.copy()
        method: str | None = None
        scheme: str | None = None
        authority: str | None = None
        path: str | None = None
        host: str | None = None
        priority: str | None = None
        protocol: str | None = None
        regular = False
        largest = 0
        self.length = -1
        self.expects_continue = False
        self.protocol = None
        doubt: PeerError | None = None

        # 1. The fields. What is malformed counts before any other error.
        for each in fields:
            kind = each.kind
            value = each.value
            if each.size > largest and kind > UNKNOWN_PSEUDO:
                largest = each.size
            if kind == REGULAR:
                regular = True
                key = each.key
                if key in environ:
                    environ[key] = f"{environ[key]}, {value}"
                else:
                    environ[key] = value
            elif kind <= UNKNOWN_PSEUDO:
                if regular:
                    raise StreamFault(PROTOCOL_ERROR, "a pseudo-field behind other fields")
                if kind == METHOD and method is None:
                    method = value
                elif kind == PATH and path is None:
                    path = value
                elif kind == SCHEME and scheme is None:
                    scheme = value
                elif kind == AUTHORITY and authority is None:
                    authority = value
                elif kind == PROTOCOL and protocol is None:
                    protocol = value
                else:
                    raise StreamFault(PROTOCOL_ERROR, f"the pseudo-field {each.name!r} is repeated or not known")
            elif kind < REGULAR:
                raise StreamFault(PROTOCOL_ERROR, f"the field {each.name!r} cannot be in a request of HTTP/2")
            else:
                regular = True
                key = each.key
                if kind == COOKIE:
                    environ[key] = f"{environ[key]}; {value}" if key in environ else value
                elif kind == HOST:
                    if host is not None and host != value:
                        raise StreamFault(PROTOCOL_ERROR, "two Host fields that differ")
                    host = value
                elif kind == TE and value.lower() != "trailers":
                    raise StreamFault(PROTOCOL_ERROR, "a TE field other than trailers")
                elif kind != DROPPED:
                    if key in environ and kind in (LENGTH, CONTENT_TYPE):
                        doubt = PeerError(400, f"the field {each.name!r} is repeated")
                    environ[key] = f"{environ[key]}, {value}" if key in environ else value
                    if kind == LENGTH and doubt is None:
                        if not value.isascii() or not value.isdigit() or len(value) > _LENGTH_DIGITS:
                            doubt = PeerError(400, "Content-Length is not a number")
                        else:
                            self.length = int(value)
                    elif kind == PRIORITY:
                        priority = environ[key]
                    elif kind == EXPECT:
                        if value.lower() != "100-continue":
                            doubt = doubt or PeerError(417, f"cannot meet the expectation {value!r}")
                        self.expects_continue = True

        # 2. The pseudo-fields (section 8.3.1).
        if not method or (method != self.method and not is_token(method)):
            raise StreamFault(PROTOCOL_ERROR, "the method is missing or malformed")
        if method == "CONNECT" and protocol is None:
            if path is not None or scheme is not None or not authority:
                raise StreamFault(PROTOCOL_ERROR, "CONNECT has an authority, and neither a scheme nor a path")
            target, path, query = authority, "", ""
            self.protocol = ""
        else:
            if protocol is not None and (method != "CONNECT" or not is_token(protocol) or not authority):
                raise StreamFault(PROTOCOL_ERROR, "the pseudo-field :protocol is malformed, or not in a CONNECT with an authority")
            if not scheme or not path or (path[0] != "/" and (path != "*" or method != "OPTIONS")):
                raise StreamFault(PROTOCOL_ERROR, "the scheme or the path is missing or malformed")
            target, query = path, ""
            if path == "*":
                path = ""
            elif "?" in path:
                path, _, query = path.partition("?")
        if authority is None:
            authority = host
        elif host is not None and host.lower() != authority.lower():
            raise StreamFault(PROTOCOL_ERROR, "Host and :authority differ")
        if method == "CONNECT":
            again = False
            self.expects_continue = False
            if self.length > 0:
                doubt = doubt or PeerError(400, "CONNECT has no body")
            self.length = -1
            if protocol is not None:
                self.protocol = protocol
                method = "GET"
        self.method = method
        self.target = target
        if scheme is not None and scheme != environ["wsgi.url_scheme"]:
            if not _SCHEME.fullmatch(scheme):
                raise StreamFault(PROTOCOL_ERROR, "the scheme is malformed")
            if scheme.lower() != environ["wsgi.url_scheme"]:
                environ["muxwsgi.scheme"] = scheme.lower()
        environ["REQUEST_METHOD"] = method
        environ["REQUEST_URI"] = target
        environ["RAW_URI"] = target
        environ["QUERY_STRING"] = query
        environ["SERVER_PROTOCOL"] = _VERSION
        environ["PATH_INFO"] = unquote_to_bytes(path).decode("latin-1") if "%" in path else path
        environ["muxwsgi.fields"] = sent_fields(fields, authority if host is None else None)
        if protocol is not None:
            _upgrade(environ, protocol)

        # 3. What is refused, with the statuses of HTTP/1.1.
        if len(method) + len(target) + len(_VERSION) + 2 > self._line_at_most:
            raise PeerError(414, f"the request line is longer than {self._line_at_most} bytes")
        if not target.isascii() or not target.isprintable() or " " in target or "#" in target:  # see `_REQUEST_LINE` in http/h1/head.py
            raise PeerError(400, "the path has characters that a request-target cannot have")
        if too_large:
            raise PeerError(431, f"the head is longer than {self._settings.limit_request_head} bytes")
        if len(fields) > self._fields_at_most:
            raise PeerError(431, f"more than {self._fields_at_most} header fields")
        if largest - 30 > self._field_at_most:
            raise PeerError(431, f"a header field is longer than {self._field_at_most} bytes")
        if authority is None:
            raise PeerError(400, "the :authority and Host fields are missing")
        environ["HTTP_HOST"] = authority
        if (authority != self._good_host or method == "CONNECT") and authority:
            if not is_host(authority, port_needed=method == "CONNECT"):
                raise PeerError(400, "the authority is not a host")
            self._good_host = authority
        if doubt is not None:
            raise doubt
        if self._body_at_most and self.length > self._body_at_most:
            raise PeerError(413, f"the body is larger than {self._body_at_most} bytes")
        if priority is None:
            self.urgency = URGENCY
            self.sequential = False
        else:
            self.urgency, incremental = parse_priority(priority)
            self.sequential = not incremental
        if again:
            self._template = environ.copy()
            self._fields = fields
        return environ


def _upgrade(environ: dict[str, Any], protocol: str) -> None:
    """The fields by which HTTP/1.1 asks for `protocol`."""
    environ["HTTP_UPGRADE"] = protocol
    environ["HTTP_CONNECTION"] = "Upgrade"
    more = [("upgrade", protocol), ("connection", "Upgrade")]
    if protocol.lower() == "websocket":
        # A key shows the client that the server knows WebSockets. Here SETTINGS have shown that, so the client sends none.
        key = environ["HTTP_SEC_WEBSOCKET_KEY"] = base64.b64encode(os.urandom(16)).decode("ascii")
        more.append(("sec-websocket-key", key))
    environ["muxwsgi.fields"] = (*[field for field in environ["muxwsgi.fields"] if field[0] != "sec-websocket-key"], *more)


def check_trailers(fields: list[Field]) -> None:
    """Raises `StreamFault` if `fields` cannot be trailers (section 8.1)."""
    for each in fields:
        if each.kind < REGULAR:
            raise StreamFault(PROTOCOL_ERROR, f"the field {each.name!r} cannot be a trailer")
