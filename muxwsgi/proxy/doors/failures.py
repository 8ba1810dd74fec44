"""`Failures`: counts recent wrong passwords for each address, in a table of bounded size."""

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address

__all__ = ["Failures"]

#: Bits of an IPv6 address that are counted. A client has a /64 at least (RFC 6177), and could use another address of it each time.
_IPV6_NETWORK = 64


class Failures:
    """A leaky bucket for each address: `burst` failures are free, and one is forgotten every `forget` seconds.

    A right password does not empty the bucket. If it did, a client with an account could guess the passwords of others without limit.
    When there are more than `size` addresses, the address whose last failure is the oldest is forgotten.
    """

    def __init__(self, burst: int = 10, forget: float = 6.0, size: int = 4096, clock: Callable[[], float] = time.monotonic) -> None:
        self._burst = burst
        self._forget = forget
        self._size = size
        self._clock = clock
        #: When the bucket of each address is empty again. It is full at `burst * forget` seconds from now. So the leak needs no timer.
        self._clean_at: OrderedDict[int, float] = OrderedDict()

    def __len__(self) -> int:
        """Addresses in the table."""
        return len(self._clean_at)

    def wait(self, address: IPv4Address | IPv6Address) -> int:
        """Seconds until `address` may try again, rounded up; 0 for now."""
        if not self._clean_at:  # no failure yet
            return 0
        clean_at = self._clean_at.get(_key(address))
        if clean_at is None:
            return 0
        return max(0, math.ceil(clean_at - self._clock() - (self._burst - 1) * self._forget))

    def note(self, address: IPv4Address | IPv6Address) -> None:
        """Count one more failure of `address`."""
        key = _key(address)
        now = self._clock()
        self._clean_at[key] = max(self._clean_at.get(key, now), now) + self._forget
        self._clean_at.move_to_end(key)
        if len(self._clean_at) > self._size:
            self._clean_at.popitem(last=False)


def _key(address: IPv4Address | IPv6Address) -> int:
    """A number for the network of one client. The numbers of IPv4 and IPv6 do not overlap: those of IPv6 are above 2**32."""
    return int(address) >> (128 - _IPV6_NETWORK) << 32 if address.version == 6 else int(address)
