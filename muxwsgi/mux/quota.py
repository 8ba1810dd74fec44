"""`Quota`: how many connections a client may have at once, and how many new ones may come in a second, from each client and in all."""

from functools import lru_cache
from ipaddress import IPv6Address
from typing import Any

__all__ = ["Quota", "Rate", "quota_of"]

#: Clients whose last connections are remembered for a rate. Beyond that the one that came longest ago is forgotten.
REMEMBERED = 65536

#: The name under which the connections of all clients are counted together.
_EVERYBODY = ""


class Rate:
    """At most `per_second` connections a second, of which a second's worth, at least one, may come at once (GCRA, ITU-T I.371).

    For each client there is one number: the time at which it would be at rest again.
    """

    __slots__ = ("_at_once", "_interval", "_rests_at", "per_second")

    def __init__(self, per_second: float) -> None:
        """Raises `ValueError`."""
        if not per_second > 0:
            raise ValueError("a rate must be more than 0 connections a second")
        self.per_second = per_second
        self._interval = 1.0 / per_second
        self._at_once = max(0.0, 1.0 - self._interval)  # seconds by which a client may be ahead of the rate
        self._rests_at: dict[str, float] = {}

    def take(self, client: str, now: float, wait: float) -> float | None:
        """The seconds until the connection may be served, at most `wait`; None where that is not enough, and nothing is counted."""
        rests_at = max(self._rests_at.get(client, now), now)
        delay = rests_at - now - self._at_once
        if delay > wait + 1e-9:
            return None
        self._rests_at.pop(client, None)  # so that the first one of the dict is the one that came longest ago
        self._rests_at[client] = rests_at + self._interval
        if len(self._rests_at) > REMEMBERED:
            del self._rests_at[next(iter(self._rests_at))]
        return max(delay, 0.0)


class Quota:
    """What clients may have of a route, in this process. A client is an IPv4 address, or 64 bits of an IPv6 address, because a client has
    as many of these as it likes. Clients of unix sockets have no address: only the rate of all is for them.

    limits    connections of a client at once, connections a second of all, and of a client; each None for no limit
    """

    __slots__ = ("_open", "_per_client", "_rate", "_rate_per_client", "limits")

    def __init__(self, per_client: int | None, rate: float | None, rate_per_client: float | None) -> None:
        """See `limits`. Raises `ValueError`."""
        if per_client is not None and per_client < 1:
            raise ValueError("limit_per_client must be at least 1")
        self.limits = per_client, rate, rate_per_client
        self._per_client = per_client
        self._rate = None if rate is None else Rate(rate)
        self._rate_per_client = None if rate_per_client is None else Rate(rate_per_client)
        self._open: dict[str, int] = {}

    def take(self, address: Any, now: float, wait: float) -> float | str:
        """The seconds until a connection of the client may be served; or why it is refused. `free` gives it back.

        address   as `Connection.client`
        now       `time.monotonic()`
        wait      seconds that it may wait for a rate
        """
        client = client_of(address)
        if client and self._per_client is not None and self._open.get(client, 0) >= self._per_client:
            return f"{client} has {self._per_client} connections already, which is the limit of a client"
        delay = 0.0
        for rate, who in ((self._rate_per_client, client), (self._rate, _EVERYBODY)):
            if rate is None or (rate is self._rate_per_client and not client):
                continue
            takes = rate.take(who, now, wait)
            if takes is None:
                return f"more than {rate.per_second:g} connections a second come from {who or 'all clients'}"
            delay = max(delay, takes)
        if client and self._per_client is not None:
            self._open[client] = self._open.get(client, 0) + 1
        return delay

    def free(self, address: Any) -> None:
        """A connection that was taken is over."""
        client = client_of(address)
        if not client or self._per_client is None:
            return
        left = self._open[client] - 1
        if left:
            self._open[client] = left
        else:
            del self._open[client]


def quota_of(per_client: int | None, rate: float | None, rate_per_client: float | None, *, before: Quota | None = None) -> Quota | None:
    """A quota with these limits, None without any. If those of `before` are the same it is that one, which has counted what is open."""
    limits = per_client, rate, rate_per_client
    if limits == (None, None, None):
        return None
    return before if before is not None and before.limits == limits else Quota(*limits)


def client_of(address: Any) -> str:
    """What stands for the client of an address; "" where it has none."""
    return _network_of(address[0]) if isinstance(address, tuple) else ""


@lru_cache(4096)
def _network_of(host: str) -> str:
    if ":" not in host:
        return host
    number = int(IPv6Address(host.partition("%")[0])) >> 64 << 64
    return f"{IPv6Address(number)}/64"
