"""Lists of addresses and networks, as an operator writes them for peers that may say something about other clients.

`10.0.0.0/8, 192.0.2.7, fd00::/8`; `*` for every peer, `none` for no peer. `wire/peer.py` compares the address of a peer with a list.
"""

from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_network

from muxwsgi.errors import OperatorError
from muxwsgi.names import IPAddress, unmapped
from muxwsgi.record import record

__all__ = ["LOOPBACK", "Networks", "parse_networks"]


@record()
class Networks:
    """
    networks    addresses are networks with one address
    everyone    `*`: every peer
    nobody      `none`: no peer, not even one on a unix socket
    """

    networks: tuple[IPv4Network | IPv6Network, ...] = ()
    everyone: bool = False
    nobody: bool = False

    def has(self, address: IPAddress) -> bool:
        """Whether `address` is in one of the networks. `*` is not considered."""
        return _has(self.networks, unmapped(address))


@lru_cache(4096)
def _has(networks: tuple[IPv4Network | IPv6Network, ...], address: IPAddress) -> bool:
    return any(address in network for network in networks)


def parse_networks(text: str, option: str) -> Networks:
    """The list in `text`, the value of `option`. Commas or blanks stand between entries. Raises `OperatorError`, which names the entry."""
    entries = text.replace(",", " ").split()
    if "*" in entries or "none" in entries:
        if len(entries) > 1:
            raise OperatorError(f"{option}: {text!r}: `*` and `none` stand alone")
        return Networks(everyone=entries[0] == "*", nobody=entries[0] == "none")
    if not entries:
        raise OperatorError(f"{option}: the list is empty: write `none` if no peer is trusted")
    found = []
    for entry in entries:
        try:
            network = ip_network(entry.strip("[]"))
        except ValueError as error:
            raise OperatorError(f"{option}: {entry!r} is not an address, a network, `*` or `none`: {error}") from None
        if isinstance(network, IPv6Network) and network.network_address.ipv4_mapped is not None:
            raise OperatorError(f"{option}: {entry!r}: write the IPv4 address itself: IPv4 clients are known by it on all sockets")
        found.append(network)
    return Networks(tuple(found))


#: Addresses that only this machine has.
LOOPBACK = Networks((ip_network("127.0.0.0/8"), ip_network("::1")))
