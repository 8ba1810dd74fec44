"""`Failures`: how often somebody at an address was wrong lately, in a table that does not grow."""

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address

__all__ = ["Failures"]

#: An IPv6 client has a /64 at least (RFC 6177), and could come from another of its addresses each time.
_IPV6_NETWORK = 64


class Failures:
    """A leaky bucket for each address: `burst` failures are free, and one is forgotten every `forget` seconds.

    Only failures fill it, and success does not empty it: else who has a password of their own could guess others' in between for ever.
    When there are more than `size` addresses, the one that was wrong the longest ago is forgotten: who has that many to come from is
    held up by no table.
    """

    def __init__(self, burst: int = 10, forget: float = 6.0, size: int = 4096, clock: Callable[[], float] = time.monotonic) -> None:
        self._burst = burst
        self._forget = forget
        self._size = size
        self._clock = clock
        #: When each address is clean again: `burst * forget` from now is a full bucket. So the leak needs no bookkeeping.
        self._clean_at: OrderedDict[int, float] = OrderedDict()

    def __len__(self) -> int:
        """Addresses in the table."""
        return len(self._clean_at)

    def wait(self, address: IPv4Address | IPv6Address) -> int:
        """Seconds until `address` may try again, rounded up; 0 for now."""
        if not self._clean_at:  # nobody was wrong yet
            return 0
        clean_at = self._clean_at.get(_key(address))
        if clean_at is None:
            return 0
        return max(0, math.ceil(clean_at - self._clock() - (self._burst - 1) * self._forget))

    def note(self, address: IPv4Address | IPv6Address) -> None:
        """`address` was wrong once more."""
        key = _key(address)
        now = self._clock()
        self._clean_at[key] = max(self._clean_at.get(key, now), now) + self._forget
        self._clean_at.move_to_end(key)
        if len(self._clean_at) > self._size:
            self._clean_at.popitem(last=False)


def _key(address: IPv4Address | IPv6Address) -> int:
    """A number for the network that one client has. IPv4 and IPv6 do not meet: the latter's are above 2**32, or nobody's."""
    return int(address) >> (128 - _IPV6_NETWORK) << 32 if address.version == 6 else int(address)
