"""What may stand in a Host field, and for the authority of a request: a host, with or without a port."""

import re
from ipaddress import IPv6Address

__all__ = ["is_host"]

#: uri-host [ ":" port ] (RFC 9110 section 7.2, RFC 3986 section 3.2.2), without IPvFuture, which is not in use.
_HOST = re.compile(r"(?:(?:[A-Za-z0-9\-._~!$&'()*+,;=]|%[0-9A-Fa-f]{2})+|\[([0-9A-Fa-f:.]+)\])(?::([0-9]{0,5}))?")


def is_host(text: str, *, port_needed: bool = False) -> bool:
    """Whether `text` is a host, with a port or, unless `port_needed`, without."""
    match = _HOST.fullmatch(text)
    if match is None:
        return False
    address, port = match.groups()
    if address is not None:
        try:
            IPv6Address(address)
        except ValueError:
            return False
    if port_needed:
        return bool(port) and 0 < int(port) <= 65535
    return not port or int(port) <= 65535
