"""Whether a request comes from a person at this machine, so that it may see tracebacks, or run code in a debugger.

All that is known has to say so: the address of the connection, the address that the PROXY protocol or a trusted proxy gives, and every
address in a field that any proxy may have added, trusted or not. A proxy on this machine connects from loopback for clients of anywhere.

A proxy may add no such field: nginx does not unless it is told to, and it puts the address of its upstream into Host. But it asks in
HTTP/1.0, which browsers do not speak. (From 1.29.7 on it asks in HTTP/1.1.)

And the request has to name this machine by a name of loopback. A page of another site could otherwise read the answer, because its own name
may be resolved to 127.0.0.1 (DNS rebinding).
"""

import re
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Any

from muxwsgi.names import unmapped

__all__ = ["is_local"]

#: Fields in which proxies and their relatives say who the client is. Forwarded is RFC 7239.
_OF_PROXIES = frozenset(
    {
        "forwarded",
        "x-forwarded-for",
        "x-forwarded",
        "forwarded-for",
        "x-real-ip",
        "x-client-ip",
        "x-cluster-client-ip",
        "x-original-forwarded-for",
        "x-envoy-external-address",
        "true-client-ip",
        "cf-connecting-ip",
        "fastly-client-ip",
        "fly-client-ip",
    }
)

#: Fields that proxies alone send, whatever they say.
_OF_PROXIES_ALONE = frozenset(
    {"via", "x-forwarded-proto", "x-forwarded-host", "x-forwarded-port", "x-forwarded-server", "x-forwarded-scheme", "x-forwarded-ssl"}
)

_FOR = re.compile(r"(?:^|[;,])\s*for\s*=\s*(\"[^\"]*\"|[^;,\s]*)", re.I)


def is_local(environ: dict[str, Any]) -> bool:
    """Whether the client is on this machine, and has asked for it by a name of loopback."""
    client = getattr(environ.get("muxwsgi.connection"), "client", None)
    if not isinstance(client, tuple) or not _is_loopback(client[0]) or not _is_loopback(environ.get("REMOTE_ADDR", "")):
        return False
    if environ.get("SERVER_PROTOCOL") == "HTTP/1.0":
        return False
    return _names_loopback(environ.get("HTTP_HOST", "")) and all(_is_loopback(each) for each in _claimed(environ))


def _claimed(environ: dict[str, Any]) -> Iterator[str]:
    """The addresses in fields of proxies. What is no address is given too."""
    for name, value in environ.get("muxwsgi.fields", ()):
        lower = name.lower()
        if lower == "forwarded":
            yield from _FOR.findall(value) or [value]
        elif lower in _OF_PROXIES:
            yield from value.split(",")
        elif lower in _OF_PROXIES_ALONE:
            yield "not known"


def _is_loopback(text: str) -> bool:
    text = text.strip().strip('"')
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        return unmapped(ip_address(text.partition("%")[0])).is_loopback
    except ValueError:
        return False


def _names_loopback(host: str) -> bool:
    name = host if host.startswith("[") else host.rpartition(":")[0] or host
    name = name.lower().rstrip(".")
    return name == "localhost" or name.endswith(".localhost") or _is_loopback(name)
