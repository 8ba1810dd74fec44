"""Which of several servers gets the next connection. The names are HAProxy's (`balance`)."""

import random
from collections.abc import Callable, Sequence
from hashlib import blake2b
from math import log
from typing import Protocol, TypeVar

from muxwsgi.settings.upstream import UpstreamOptions

__all__ = ["Balanced", "Choose", "choosing"]


class Balanced(Protocol):
    """What is asked of a server.

    weight_now      its weight, smaller during a slow start; more than 0
    taken           its sessions
    credit          of `roundrobin`: what it is owed
    """

    credit: float

    @property
    def title(self) -> str: ...
    @property
    def weight_now(self) -> float: ...
    @property
    def taken(self) -> int: ...


Server = TypeVar("Server", bound=Balanced)

#: (servers with room, in the order of the configuration and at least one; the client's address) -> one of them
Choose = Callable[[Sequence[Server], str], Server]


def choosing(options: UpstreamOptions) -> Choose[Server]:
    """The function for `balance`."""
    drawn = options.drawn
    if drawn:
        return lambda servers, client: _drawn(servers, drawn)
    return {"roundrobin": _next, "leastconn": _least, "source": _of_client, "first": _first}[options.balance]


def _next(servers: Sequence[Server], client: str = "") -> Server:
    """Smooth weighted round robin, as nginx does it: with weights 5, 1, 1 the order is a a b a c a a."""
    total = 0.0
    best = servers[0]
    for server in servers:
        weight = server.weight_now
        server.credit += weight
        total += weight
        if server.credit > best.credit:
            best = server
    best.credit -= total
    return best


def _load(server: Balanced) -> float:
    return (server.taken + 1) / server.weight_now


def _least(servers: Sequence[Server], client: str) -> Server:
    """The one with the fewest sessions for its weight. Those with equally many take turns."""
    loads = [_load(server) for server in servers]
    least = min(loads)
    return _next([server for server, load in zip(servers, loads, strict=True) if load <= least])


def _of_client(servers: Sequence[Server], client: str) -> Server:
    """Weighted rendezvous hashing: if a server goes, its clients alone move, and they come back with it."""
    return max(servers, key=lambda server: -server.weight_now / log(_uniform(f"{client} {server.title}")))


def _uniform(text: str) -> float:
    """A number between 0 and 1, without both, that looks random and is the same for the same text in all processes."""
    value = int.from_bytes(blake2b(text.encode("utf-8", "surrogateescape"), digest_size=7).digest(), "big")
    return (value + 1) / ((1 << 56) + 2)


def _first(servers: Sequence[Server], client: str) -> Server:
    return servers[0]


def _drawn(servers: Sequence[Server], count: int) -> Server:
    """The one with the fewest sessions for its weight of `count` that are drawn by weight, with replacement."""
    weights = [server.weight_now for server in servers]
    return min(random.choices(servers, weights, k=count), key=_load)
