"""Normalizes URLs, so that a rule matches all spellings of a URL: `%61dmin` is `admin`. `names` normalizes hosts."""

from typing import Protocol
from urllib.parse import unquote

from muxwsgi.names import comparable, split_host_port

__all__ = ["DEFAULT_PORTS", "Place"]

DEFAULT_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}


class Located(Protocol):
    """The parts of a request that a `Place` compares."""

    @property
    def destination(self) -> tuple[str, int]: ...
    @property
    def ways(self) -> tuple[tuple[str, int], ...]: ...
    @property
    def path(self) -> str: ...
    @property
    def query_string(self) -> bytes: ...


class Place:
    """A URL in a rule: "/path", "host", "host/path" or "scheme://host/path", each with or without "?query".

    A missing scheme, host or query matches any.
    """

    __slots__ = ("_host", "_path", "_port", "_query", "_scheme")

    def __init__(self, text: str) -> None:
        scheme, separator, rest = text.partition("://")
        if not separator:
            scheme, rest = "", text
        if not rest:
            raise ValueError(f"{text!r} is not a URL")
        rest, has_query, query = rest.partition("?")
        authority, slash, path = rest.partition("/")
        self._scheme = scheme.lower()
        host, port = split_host_port(authority)
        if self._scheme and not host:
            raise ValueError(f"{text!r} has a scheme, but no host")
        self._host = comparable(host)
        self._port = port
        self._path = unquote(slash + path)
        self._query: str | None = query if has_query else None

    def _is_at(self, request: Located) -> bool:
        if not self._host:
            return True
        if comparable(request.destination[0]) != self._host:
            return False
        for scheme, port in request.ways:
            if self._scheme in ("", scheme) and port == (DEFAULT_PORTS.get(scheme) if self._port is None else self._port):
                return True
        return False

    def is_url(self, request: Located) -> bool:
        """Whether the request's URL is this one."""
        if not self._is_at(request) or (request.path or "/") != (self._path or "/"):
            return False
        return self._query is None or request.query_string.decode() == self._query

    def begins(self, request: Located) -> bool:
        """Whether the request's URL begins with this one. If this one has a query, the paths must be equal."""
        if not self._is_at(request):
            return False
        path = request.path or "/"
        if self._query is None:
            return path.startswith(self._path)
        return path == (self._path or "/") and request.query_string.decode().startswith(self._query)
