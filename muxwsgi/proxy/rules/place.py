"""Hosts, ports and URLs in one spelling, so that a rule for one spelling is a rule for all of them.

Who wants to get past a rule writes `EXAMPLE.com.`, `%61dmin` or `2130706433`; who writes the rule should not have to think of it.
"""

import re
import socket
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TYPE_CHECKING
from urllib.parse import unquote

if TYPE_CHECKING:
    from muxwsgi.proxy.rules.message import Request

__all__ = ["DEFAULT_PORTS", "Place", "canonical_host", "split_host_port"]

DEFAULT_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}

#: A port may be empty (RFC 3986 section 3.2.3).
_HOST_PORT = re.compile(r"(\[[^\[\]]*\]|[^:]*)(?::([0-9]{0,5}))?")

#: What the resolver takes for an IPv4 address besides dotted decimals: inet_aton(3).
_OLD_IPV4 = re.compile(r"(?:0[xX][0-9A-Fa-f]*|[0-9]+)(?:\.(?:0[xX][0-9A-Fa-f]*|[0-9]+)){0,3}")


#: No name is longer (RFC 1035 section 2.3.4). What is, is not remembered: peers choose what is asked here.
LONGEST = 255


def split_host_port(text: str) -> tuple[str, int | None]:
    """"host:port", "[::1]:port", a host or an address alone: the host without brackets, and the port or None."""
    return _split(text) if len(text) <= LONGEST else _split.__wrapped__(text)


def canonical_host(host: str) -> str:
    """`host` (without brackets) in lower case and ASCII, without a dot at the end; of an IP address, its one spelling."""
    return _canonical(host) if len(host) <= LONGEST else host.lower()


@lru_cache(4096)
def _split(text: str) -> tuple[str, int | None]:
    match = _HOST_PORT.fullmatch(text)
    if match is None:  # an IPv6 address without brackets
        return text, None
    return match[1].strip("[]"), int(match[2]) if match[2] else None


@lru_cache(4096)
def _canonical(host: str) -> str:
    host = host.rstrip(".").lower()
    if not host.isascii():
        try:
            host = host.encode("idna").decode("ascii")
        except UnicodeError:
            return host  # no host that anybody could resolve
    if ":" not in host and not host[-1:].isdigit() and _OLD_IPV4.fullmatch(host) is None:
        return host
    address: IPv4Address | IPv6Address
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        if _OLD_IPV4.fullmatch(host) is None:
            return host
        try:
            return socket.inet_ntoa(socket.inet_aton(host))
        except OSError:
            return host
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return str(address)


class Place:
    """A URL as a rule writes it: "/path", "host", "host/path" or "scheme://host/path", each with or without "?query".

    What is not written (scheme, host, query) may be anything.
    """

    __slots__ = ("_host", "_path", "_port", "_query", "_scheme")

    def __init__(self, text: str) -> None:
        scheme, separator, rest = text.partition("://")
        if not separator:
            scheme, rest = "", text
        if not rest:
            raise ValueError(f"{text!r} is no URL")
        rest, has_query, query = rest.partition("?")
        authority, slash, path = rest.partition("/")
        self._scheme = scheme.lower()
        host, port = split_host_port(authority)
        if self._scheme and not host:
            raise ValueError(f"{text!r} has a scheme and no host")
        self._host = canonical_host(host)
        self._port = port
        self._path = unquote(slash + path)
        self._query: str | None = query if has_query else None

    def _is_at(self, request: "Request") -> bool:
        if not self._host:
            return True
        if canonical_host(request.destination[0]) != self._host:
            return False
        for scheme, port in request.ways:
            if self._scheme in ("", scheme) and port == (DEFAULT_PORTS.get(scheme) if self._port is None else self._port):
                return True
        return False

    def is_url(self, request: "Request") -> bool:
        """Whether the request's URL is this one."""
        if not self._is_at(request) or (request.path or "/") != (self._path or "/"):
            return False
        return self._query is None or request.query_string.decode() == self._query

    def begins(self, request: "Request") -> bool:
        """Whether the request's URL begins with this one. A query that is written stands behind a whole path."""
        if not self._is_at(request):
            return False
        path = request.path or "/"
        if self._query is None:
            return path.startswith(self._path)
        return path == (self._path or "/") and request.query_string.decode().startswith(self._query)
