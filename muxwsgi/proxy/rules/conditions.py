"""Conditions in goproxy's vocabulary: they select the messages and tunnels that a rule applies to.

A condition tests one of three subjects:

- a request, in `on_request` and `on_frame`;
- a response, in `on_response`. Conditions about requests test the request of the response;
- a tunnel, in `on_connect` and `on_chunk`. Only "host:port" is known. Conditions about a path are false.

They combine with `&`, `|`, `~`, and with any function `(subject, ctx) -> bool`. The subject is the request, the response, or "host:port".

Hosts are compared without regard to case, a dot at the end, the spelling of an IP address, and a default port (see `place`). Paths are
compared without their escapes. goproxy compares hosts letter by letter.
"""

import re
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Literal

import werkzeug.wrappers

from muxwsgi.names import comparable, join_host_port, split_host_port
from muxwsgi.proxy.context import Context
from muxwsgi.proxy.rules.condition import Condition, all_of, any_of, condition, never, not_
from muxwsgi.proxy.rules.message import Request
from muxwsgi.proxy.rules.place import DEFAULT_PORTS, Place
from muxwsgi.wire.peer import peer_address

__all__ = [
    "Condition",
    "all_of",
    "any_of",
    "condition",
    "content_type_is",
    "dst_host_is",
    "header_matches",
    "is_localhost",
    "method_is",
    "not_",
    "port_is",
    "protocol_is",
    "req_host_is",
    "req_host_matches",
    "src_ip_is",
    "status_code_is",
    "url_has_prefix",
    "url_is",
    "url_matches",
]

Response = werkzeug.wrappers.Response

#: The destination of a tunnel has no scheme, so both are default ports.
_EITHER = (80, 443)


def _text(name: str, *arguments: object) -> str:
    return f"{name}({', '.join(map(repr, arguments))})"


# The URL


def url_is(*urls: str) -> Condition:
    """The URL is one of these, each written as "/path" (of any host), "host/path" or "scheme://host/path".

    The query is compared only if a URL has one. goproxy's `UrlIs`.
    """
    places = [Place(url) for url in urls]
    return Condition(_text("url_is", *urls), request=lambda request, ctx: any(place.is_url(request) for place in places))


def url_has_prefix(*prefixes: str) -> Condition:
    """The URL begins with one of these: "/path", "host/path" or "scheme://host/path", where the path may stop anywhere.

    The host is compared as a whole: "example.com" is not a prefix of "example.com.evil.test". In goproxy's `UrlHasPrefix` it is.
    """
    places = [Place(prefix) for prefix in prefixes]
    return Condition(_text("url_has_prefix", *prefixes), request=lambda request, ctx: any(place.begins(request) for place in places))


def url_matches(*patterns: str | re.Pattern[str], query: bool = False) -> Condition:
    """A pattern is found (`re.search`) in the path, in "host/path" or in "scheme://host/path"; with `query`, each followed by "?query".

    Host and scheme are in lower case, and a default port is left out. goproxy's `UrlMatches`, which ignores the query.
    """
    compiled = [re.compile(pattern) for pattern in patterns]

    def test(request: Request, ctx: Context) -> bool:
        path = request.path or "/"
        if query and request.query_string:
            path += "?" + request.query_string.decode()
        host = comparable(request.destination[0])
        texts = [path]
        for scheme, port in request.ways:
            place = _written(host, port, scheme) + path
            texts += (place, f"{scheme}://{place}")
        return any(pattern.search(text) for pattern in compiled for text in texts)

    patterns_text = [pattern if isinstance(pattern, str) else pattern.pattern for pattern in patterns]
    return Condition(_text("url_matches", *patterns_text)[:-1] + (", query=True)" if query else ")"), request=test)


# The host


def _written(host: str, port: int, scheme: str) -> str:
    if port != DEFAULT_PORTS.get(scheme):
        return join_host_port(host, port)
    return f"[{host}]" if ":" in host else host


def req_host_is(*hosts: str) -> Condition:
    """The host that the request names is one of these, each "host" for the scheme's default port or "host:port".

    A tunnel has no scheme, so "host" means port 80 or 443. goproxy's `ReqHostIs`, for which "host" and "host:443" differ.
    """
    wanted = {_host_and_port(host) for host in hosts}

    def test(request: Request, ctx: Context) -> bool:
        host = comparable(request.destination[0])
        ways = request.ways
        return any((host, port) in wanted or (port == DEFAULT_PORTS.get(scheme) and (host, None) in wanted) for scheme, port in ways)

    def connect(text: str, ctx: Context) -> bool:
        host, port = split_host_port(text)
        host = comparable(host)
        return (host, port) in wanted or (port in _EITHER and (host, None) in wanted)

    return Condition(_text("req_host_is", *hosts), request=test, connect=connect)


def req_host_matches(*patterns: str | re.Pattern[str]) -> Condition:
    """A pattern is found (`re.search`) in "host" or in "host:port", which are in lower case. goproxy's `ReqHostMatches`."""
    compiled = [re.compile(pattern) for pattern in patterns]

    def found(host: str, port: int | None) -> bool:
        host = comparable(host)
        texts = (host, join_host_port(host, port) if port is not None else host)
        return any(pattern.search(text) for pattern in compiled for text in texts)

    patterns_text = [pattern if isinstance(pattern, str) else pattern.pattern for pattern in patterns]
    return Condition(
        _text("req_host_matches", *patterns_text),
        request=lambda request, ctx: any(found(request.destination[0], port) for _, port in request.ways),
        connect=lambda text, ctx: found(*split_host_port(text)),
    )


def dst_host_is(*hosts: str) -> Condition:
    """The destination is one of these, each "host" for any port or "host:port". Inside a tunnel it is the tunnel's destination, not the
    host of a request. Outside tunnels it is the host of the URL. goproxy's `DstHostIs`.

    The destination of a redirected connection is an address. Use `req_host_is` there to compare names.
    """
    wanted = {_host_and_port(host) for host in hosts}

    def among(host: str, port: int | None) -> bool:
        host = comparable(host)
        return (host, port) in wanted or (host, None) in wanted

    return Condition(
        _text("dst_host_is", *hosts),
        request=lambda request, ctx: among(*_destination(request, ctx)),
        connect=lambda text, ctx: among(*split_host_port(text)),
    )


def _destination(request: Request, ctx: Context) -> tuple[str, int]:
    return request.destination if request.redirected or ctx.destination is None else ctx.destination


def _host_and_port(text: str) -> tuple[str, int | None]:
    host, port = split_host_port(text)
    if not host or "/" in host:
        raise ValueError(f"{text!r} is neither a host nor host:port")
    return comparable(host), port


def port_is(*ports: int) -> Condition:
    """The connection goes to one of these ports."""
    wanted = frozenset(ports)
    return Condition(
        _text("port_is", *ports),
        request=lambda request, ctx: _destination(request, ctx)[1] in wanted,
        connect=lambda text, ctx: split_host_port(text)[1] in wanted,
    )


@lru_cache(1024)
def _is_local(host: str) -> bool:
    name = comparable(host)
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        address = ip_address(name)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


#: The destination is this machine, by name ("localhost", RFC 6761) or address (loopback, or unspecified, which connects to loopback).
#: goproxy's `IsLocalHost`. Other names are not resolved here. The proxy's guard checks their addresses.
is_localhost = Condition(
    "is_localhost",
    request=lambda request, ctx: _is_local(_destination(request, ctx)[0]) or _is_local(request.destination[0]),
    connect=lambda text, ctx: _is_local(split_host_port(text)[0]),
)


# The client


def src_ip_is(*networks: str) -> Condition:
    """The client's address is in one of these: "192.0.2.1", "192.0.2.0/24", "2001:db8::/32". False for a client on a unix socket.
    goproxy's `SrcIpIs` takes addresses only."""
    wanted: list[IPv4Network | IPv6Network] = [ip_network(network) for network in networks]

    def test(subject: object, ctx: Context) -> bool:
        address = peer_address(ctx.client)
        return address is not None and any(address in network for network in wanted)

    return Condition(_text("src_ip_is", *networks), request=test, connect=test)


# The message


def method_is(*methods: str) -> Condition:
    """The method is one of these, without regard to case. For a tunnel it is "CONNECT", also if the client used SOCKS."""
    wanted = frozenset(method.upper() for method in methods)
    return Condition(
        _text("method_is", *methods),
        request=lambda request, ctx: request.method.upper() in wanted,
        connect=lambda text, ctx: "CONNECT" in wanted,
    )


def header_matches(name: str, pattern: str | re.Pattern[str] = "") -> Condition:
    """A field of that name has a value in which the pattern is found (`re.search`). Without a pattern, the field exists.

    It tests the message of the rule: in `on_response` the response. For a tunnel it tests the CONNECT request, if there is one.
    """
    compiled = re.compile(pattern)

    def has(message: Request | Response) -> bool:
        return any(compiled.search(value) for value in message.headers.getlist(name))

    return Condition(
        _text("header_matches", name, compiled.pattern),
        request=lambda request, ctx: has(request),
        response=lambda response, ctx: has(response),
        connect=lambda text, ctx: ctx.request is not None and has(ctx.request),
    )


def content_type_is(*types: str) -> Condition:
    """The response's media type is one of these, without regard to case and parameters: "text/html". goproxy's `ContentTypeIs`."""
    wanted = frozenset(kind.lower() for kind in types)
    return Condition(
        _text("content_type_is", *types),
        request=never,
        response=lambda response, ctx: response.headers.get("Content-Type", "").partition(";")[0].strip().lower() in wanted,
        needs_response=True,
    )


def status_code_is(*codes: int) -> Condition:
    """The response's status is one of these. goproxy's `StatusCodeIs`."""
    wanted = frozenset(codes)
    return Condition(
        _text("status_code_is", *codes), request=never, response=lambda response, ctx: response.status_code in wanted, needs_response=True
    )


Protocol = Literal["http", "https", "websocket", "tls", "tcp"]


def protocol_is(*protocols: Protocol) -> Condition:
    """The protocol is one of these. Requests are "http" or "https", and also "websocket" if they ask for an upgrade to it. Tunnels are
    "tls" once a ClientHello was read, otherwise "tcp". While a tunnel is being opened it is always "tcp"."""
    unknown = set(protocols) - {"http", "https", "websocket", "tls", "tcp"}
    if unknown:
        raise ValueError(f"{sorted(unknown)[0]!r} is none of http, https, websocket, tls and tcp")
    wanted = frozenset(protocols)

    def test(request: Request, ctx: Context) -> bool:
        if any(scheme in wanted for scheme, _ in request.ways):
            return True
        return "websocket" in wanted and request.headers.get("Upgrade", "").lower() == "websocket"

    return Condition(
        _text("protocol_is", *protocols),
        request=test,
        connect=lambda text, ctx: ("tls" if ctx.tls is not None else "tcp") in wanted,
    )
