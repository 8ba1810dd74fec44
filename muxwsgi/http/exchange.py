"""`Exchange`, the record that the event `exchange` gives to subscribers; and what is known of a request that was refused unread."""

import re
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote_to_bytes

__all__ = ["Exchange", "OnExchange", "refused_request"]

Environ = dict[str, Any]

_LINE_END = re.compile(rb"\r?\n")
_NAME = re.compile(rb"[!#$%&'*+\-.^`|~0-9A-Za-z]+")  # a token (RFC 9110 section 5.6.2) without "_", which is dropped in all requests

#: Fields of a refused request that are noted; further ones are left out.
_FIELDS_AT_MOST = 100


class Exchange:
    """One request and what became of it.

    request     the environ as it was before the application was called: a shallow copy, so nothing that the application does changes it
    environ     the environ as the application left it; `request` itself where the application was not called
    status      as it was sent, such as "200 OK"; "" where none was: the connection was taken over, or the client left before
    headers     as the application gave them; empty for a refused request
    body_bytes  bytes of the response's body that the kernel took, without chunk framing; fewer than it has where the exchange was cut
    seconds     from the end of the request's head to the end of the response
    refused     why the engine answered instead of the application; None where it did not
    line        the request line as it was sent, latin-1; None where the request was understood: then it is in `request`
    """

    __slots__ = ("body_bytes", "environ", "headers", "line", "refused", "request", "seconds", "status")

    def __init__(
        self,
        request: Environ,
        environ: Environ,
        status: str,
        headers: list[tuple[str, str]],
        body_bytes: int,
        seconds: float,
        refused: str | None = None,
        line: str | None = None,
    ) -> None:
        self.request = request
        self.environ = environ
        self.status = status
        self.headers = headers
        self.body_bytes = body_bytes
        self.seconds = seconds
        self.refused = refused
        self.line = line

    @property
    def request_line(self) -> str:
        """The request line, latin-1, without its CRLF."""
        if self.line is not None:
            return self.line
        request = self.request
        return f"{request['REQUEST_METHOD']} {request['RAW_URI']} {request['SERVER_PROTOCOL']}"


OnExchange = Callable[[Exchange], None]


def refused_request(shared: Environ, head: bytes, longest: int) -> tuple[Environ, str]:
    """What can be said of a request whose `head` was refused, whole or not: an environ, and its request line of at most `longest` bytes.

    Only for logs. The head was not understood, so what this returns decides nothing.
    """
    environ = shared.copy()
    environ["muxwsgi.head"] = head
    first, *others = _LINE_END.split(head.lstrip(b"\r\n"))
    line = first[:longest].decode("latin-1")
    words = line.split(" ")
    if len(words) == 3:
        environ["REQUEST_METHOD"], target, environ["SERVER_PROTOCOL"] = words
        environ["RAW_URI"] = environ["REQUEST_URI"] = target
        path, _, environ["QUERY_STRING"] = target.partition("?")
        environ["PATH_INFO"] = unquote_to_bytes(path.encode("latin-1")).decode("latin-1")
    for field in others[:_FIELDS_AT_MOST]:
        name, colon, value = field.partition(b":")
        if not colon or not _NAME.fullmatch(name):
            continue
        key = name.decode("ascii").upper().replace("-", "_")
        if key not in ("CONTENT_TYPE", "CONTENT_LENGTH"):
            key = f"HTTP_{key}"
        environ.setdefault(key, value.decode("latin-1").strip(" \t"))
    return environ, line
