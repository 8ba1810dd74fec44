"""The IP address of a peer, as the kernel or a trusted load balancer named it: of clients, and of our own listening sockets.

Trust hangs on it (access lists, the guard, rules on clients, who may send forwarding fields and PROXY headers), so it is read here alone.
Only IPv4-mapped addresses (RFC 4291 section 2.5.5.2) are read as the IPv4 address in them: the kernel makes those of IPv4 connections,
and nothing on the wire can have one. All other IPv6 addresses with an IPv4 address in them (6to4, Teredo, ISATAP, NAT64) are chosen by
the peer or its network, so the IPv4 address in them proves nothing. Where a client asks to be connected *to* such an address, see
`muxwsgi.dial.guard`.
"""

from functools import lru_cache
from ipaddress import ip_address

from muxwsgi.names import IPAddress, unmapped
from muxwsgi.networks import Networks
from muxwsgi.wire.connection import Address

__all__ = ["TrustedPeers", "is_on_loopback", "peer_address"]

#: Hosts whose trust is remembered.
_KNOWN_AT_MOST = 4096


def peer_address(peer: Address) -> IPAddress | None:
    """The IP address in a socket's address, without its zone; None for a unix socket and for a stream in memory."""
    if not isinstance(peer, tuple) or peer[0] == "memory":
        return None
    return _parsed(peer[0])


def is_on_loopback(peer: Address) -> bool:
    """Whether a peer is on this machine by its address: on a unix socket, in memory, or on loopback."""
    return not isinstance(peer, tuple) or peer[0] == "memory" or _is_loopback(peer[0])


class TrustedPeers:
    """Peers that may say something about other clients: those in `networks`, and all that are on a unix socket.

    A unix socket has no address. The permissions of its file say who may connect, as in gunicorn.
    """

    def __init__(self, networks: Networks) -> None:
        self.networks = networks
        self._known: dict[str, bool] = {}  # by host: this is asked for each connection, and addresses are slow to parse and to compare

    def trusts(self, peer: Address) -> bool:
        """Whether the peer with this socket address is one of them."""
        host = peer[0] if isinstance(peer, tuple) else ""
        known = self._known.get(host)
        if known is None:
            if len(self._known) >= _KNOWN_AT_MOST:
                self._known.clear()
            known = self._known[host] = self._trusts(peer)
        return known

    def _trusts(self, peer: Address) -> bool:
        networks = self.networks
        if networks.everyone or networks.nobody:
            return networks.everyone
        address = peer_address(peer)
        return address is None or networks.has(address)


@lru_cache(4096)
def _is_loopback(host: str) -> bool:
    return _parsed(host).is_loopback


@lru_cache(4096)
def _parsed(host: str) -> IPAddress:
    return unmapped(ip_address(host.partition("%")[0]))
