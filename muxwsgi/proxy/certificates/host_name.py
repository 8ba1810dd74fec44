"""The names of hosts, as peers and operators spell them, in one spelling."""

from functools import lru_cache

from muxwsgi.wire.context import HOST_NAME, host_or_address

__all__ = ["InvalidName", "canonical"]

#: A name in Unicode that is longer cannot be 253 characters in ASCII, and is not worth the work of finding out.
UNICODE_LIMIT = 255


class InvalidName(ValueError):
    """Neither a host name nor an address. Where a peer named it, the connection is closed."""


@lru_cache(4096)
def canonical(host: str) -> str:
    """A host name in ASCII and lower case without the dot that ends it, or an address in its shortest form without its zone.

    Brackets around an IPv6 address are taken off. Raises `InvalidName` for what is neither.
    """
    if HOST_NAME.fullmatch(host) and not host[-1].isdigit():  # what nearly all are; an IPv4 address ends in a digit
        return host
    if len(host) <= UNICODE_LIMIT:
        try:
            return str(host_or_address(host[1:-1] if host[:1] == "[" and host[-1:] == "]" and ":" in host else host))
        except ValueError:
            pass
    raise InvalidName(f"{host[:100]!a} is neither a host name nor an address")
