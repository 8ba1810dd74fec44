"""Turns a client's destination into addresses that can be checked and dialled.

`literal` and `host_name` only parse a string. `addresses` asks a `Resolver`, within a time limit.
"""

import socket as socket_module
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import gevent
from gevent.resolver.thread import Resolver as ThreadResolver
from gevent.threadpool import ThreadPool

from muxwsgi.dial.errors import InvalidTarget, ResolveError, ResolveTimeout
from muxwsgi.names import InvalidName, address_of, canonical

__all__ = ["Resolved", "Resolver", "addresses", "check_target", "host_name", "literal", "spelled", "system_resolver"]

#: An address family (AF_INET or AF_INET6) and an address of it in text.
Resolved = tuple[int, str]

#: (name, port) -> its addresses, best first. Raises `OSError` (`gaierror`) if there is none.
Resolver = Callable[[str, int], list[Resolved]]

#: Addresses of one name that are used at most. So a name server cannot prolong a dial by sending more.
MAX_ADDRESSES = 20

#: Threads for lookups. A name server that does not answer blocks a thread for ten seconds or more, in spite of `resolve_timeout`. So
#: lookups do not use the hub's ten threads, which disk operations and password checks need.
THREADS = 128

#: Seconds after which an idle thread ends.
THREAD_IDLE = 10.0


def literal(host: str) -> Resolved | None:
    """The address that `host` spells, in its usual form; None if it is a name. IPv6 has no brackets.

    This includes the forms that resolvers and other proxies take for IPv4 (`127.1`, `0x7f000001`, `2130706433`). So such a form cannot pass
    the guard as a name. An address with a zone (`fe80::1%eth0`) is not dialled, because the zone is valid on the client's machine only.
    """
    address = None if "%" in host or host[:1] == "[" else address_of(host)
    if address is None:
        return None
    return (socket_module.AF_INET6 if address.version == 6 else socket_module.AF_INET), str(address)


def host_name(host: str) -> str:
    """The canonical name of `host`. Raises `InvalidTarget` if it is not a name."""
    try:
        name = "" if ":" in host else canonical(host)
    except InvalidName:
        name = ""
    if not name:
        raise InvalidTarget(f"{host[:100]!r} is neither a host name nor an address")
    return name


def spelled(host: str) -> str:
    """`host` as a canonical address or name, in ASCII. Raises `InvalidTarget` if it is neither."""
    known = literal(host)
    return host_name(host) if known is None else known[1]


def check_target(host: str, port: int) -> str:
    """`spelled(host)`. Raises `InvalidTarget` if `host` and `port` cannot be dialled, or if no leaf can be minted for `host`."""
    if not 0 < port < 65536:
        raise InvalidTarget(f"{port} is not a port to connect to")
    return spelled(host)


def addresses(resolver: Resolver, host: str, port: int, seconds: float) -> list[Resolved]:
    """The addresses of `host`, at least one and at most `MAX_ADDRESSES`. A literal is not looked up.

    Raises `ResolveError` if there is none, and `ResolveTimeout` after `seconds`.
    """
    known = literal(host)
    if known is not None:
        return [known]
    name = host_name(host)
    late = ResolveTimeout(f"{name}: no answer from the name servers in {seconds:.3g} s")
    try:
        with gevent.Timeout(max(seconds, 0.001), late):
            found = resolver(name, port)
    except OSError as error:
        raise ResolveError(f"{name}: {error.strerror or error}") from error
    if not found:
        raise ResolveError(f"{name}: the name has no address")
    return list(dict.fromkeys(found))[:MAX_ADDRESSES]


def system_resolver(host: str, port: int) -> list[Resolved]:
    """Resolve with the system (hosts file, DNS, in the order of RFC 6724), through gevent's resolver, which does not block the hub."""
    found = _resolver_of(gevent.get_hub()).getaddrinfo(host, port, 0, socket_module.SOCK_STREAM)
    return [(family, str(address[0])) for family, _, _, _, address in found if family in (socket_module.AF_INET, socket_module.AF_INET6)]


def _resolver_of(hub: Any) -> Any:
    """gevent's resolver, with a separate thread pool if it uses threads (GEVENT_RESOLVER selects it)."""
    if not isinstance(hub.resolver, ThreadResolver):
        return hub.resolver
    resolver = _resolvers.get(hub)
    if resolver is None:
        resolver = _resolvers[hub] = ThreadResolver(hub)
        resolver.pool = ThreadPool(THREADS, hub, THREAD_IDLE)
    return resolver


_resolvers: "WeakKeyDictionary[Any, ThreadResolver]" = WeakKeyDictionary()
