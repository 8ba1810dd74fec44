"""`Guard`: the addresses that a client may not connect to.

It checks each address before it is dialled, after names were resolved. A check of the name is not enough, because the name may resolve to
another address later (DNS rebinding).
"""

from collections.abc import Callable, Collection, Iterable
from enum import Enum
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from muxwsgi.dial.errors import ConnectError, Forbidden, Loop
from muxwsgi.dial.local_address import is_local
from muxwsgi.errors import OperatorError
from muxwsgi.names import IPAddress
from muxwsgi.wire.connection import Address
from muxwsgi.wire.peer import is_on_loopback, peer_address

__all__ = ["Guard", "Kind"]

_Network = IPv4Network | IPv6Network


class Kind(Enum):
    """Kinds of addresses that not every client may connect to."""

    UNSPECIFIED = "the unspecified address"  # a connection to it ends on this machine, on Linux
    LOOPBACK = "a loopback address"
    METADATA = "the metadata service of a cloud"  # gives credentials to every client
    LINK_LOCAL = "a link-local address"
    PRIVATE = "a private address"
    MULTICAST = "a multicast address"
    RESERVED = "a reserved address"
    OURS = "an address of this machine itself"  # a connection from here passes no firewall, as on loopback


# From the IANA registries of special-purpose addresses (RFC 6890): the networks that a client should not reach through a proxy. The first
# network that fits counts.
_SPECIAL: tuple[tuple[_Network, Kind], ...] = tuple(
    (ip_network(network), kind)
    for kind, networks in {
        Kind.UNSPECIFIED: ("0.0.0.0/32", "::/128"),
        Kind.LOOPBACK: ("127.0.0.0/8", "::1/128"),
        # AWS, Azure, Google and most others; AWS for containers; Azure's WireServer (a public address); Alibaba; Oracle; and over IPv6 AWS,
        # AWS for pods, and Google
        Kind.METADATA: (
            *("169.254.169.254/32", "169.254.170.2/32", "169.254.170.23/32", "168.63.129.16/32", "100.100.100.200/32", "192.0.0.192/32"),
            *("fd00:ec2::254/128", "fd00:ec2::23/128", "fd20:ce::254/128"),
        ),
        Kind.LINK_LOCAL: ("169.254.0.0/16", "fe80::/10"),
        # RFC 1918; carrier-grade NAT, RFC 6598; unique local, RFC 4193; site-local, RFC 3879; NAT64 with local prefixes, RFC 8215
        Kind.PRIVATE: ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7", "fec0::/10", "64:ff9b:1::/48"),
        Kind.MULTICAST: ("224.0.0.0/4", "ff00::/8"),
        # "this network"; IETF protocols; benchmarks, RFC 2544; class E with the broadcast address
        Kind.RESERVED: ("0.0.0.0/8", "192.0.0.0/24", "198.18.0.0/15", "240.0.0.0/4"),
    }.items()
    for network in networks
)

# IPv6 addresses with an IPv4 address in their last 32 bits. If there is a translator, packets to them end at the IPv4 address. The kernel
# translates IPv4-mapped addresses (RFC 4291). The others are IPv4-translated (RFC 2765), IPv4-compatible (deprecated) and NAT64 (RFC 6052).
_CARRIERS = tuple(IPv6Network(network) for network in ("::ffff:0:0/96", "::ffff:0:0:0/96", "::/96", "64:ff9b::/96"))


def _carried(address: IPv6Address) -> tuple[IPv4Address, ...]:
    """The IPv4 addresses that packets to `address` may end at."""
    if any(address in network for network in _CARRIERS) and int(address) > 1:
        return (IPv4Address(int(address) & 0xFFFFFFFF),)
    if address.sixtofour is not None:
        return (address.sixtofour,)
    if address.teredo is not None:
        return address.teredo
    if (int(address) >> 32) & 0xFDFFFFFF == 0x00005EFE:  # ISATAP, RFC 5214
        return (IPv4Address(int(address) & 0xFFFFFFFF),)
    return ()


@lru_cache(maxsize=4096)
def _faces(ip: str) -> tuple[tuple[IPAddress, Kind | None], ...]:
    """The address, and the IPv4 addresses in it, each with its kind. Raises `ValueError` for an invalid address."""
    address = ip_address(ip)
    faces: list[IPAddress] = [address]
    if isinstance(address, IPv6Address):
        faces += _carried(address)
    return tuple((face, next((kind for network, kind in _SPECIAL if face in network), None)) for face in faces)


@lru_cache(maxsize=4096)
def _is_unspecified(ip: str) -> bool:
    """Whether `ip` is the unspecified address. Each request on a kept connection asks this, so the answers are cached."""
    return any(kind is Kind.UNSPECIFIED for _, kind in _faces(ip))


class Guard:
    """Decides by address and port, and by the client's address.

    The proxy's listeners (a loop) and the unspecified address are always refused. Clients on loopback may connect to all other addresses.
    Other clients may not connect to special addresses: see `Kind`. All addresses of this machine are special, also public ones.
    """

    def __init__(
        self, own: Callable[[], Collection[tuple[str, int]]] = tuple, allow: Iterable[str] = (), private: bool = False
    ) -> None:
        """`own` returns the `getsockname()` (address, port) of all listening sockets of the process, with wildcards.

        allow       networks in CIDR notation that every client may connect to, of any kind
        private     whether every client may connect to private addresses. Loopback, link-local, metadata and this machine's addresses stay
                    refused

        Raises `OperatorError` for an invalid network.
        """
        self._own = own
        self._private = private
        try:
            self._allow = tuple(ip_network(network) for network in allow)
        except ValueError as error:
            raise OperatorError(f"allow_destination: {error}") from None

    def check(self, ip: str, port: int, client: Address) -> None:
        """Check that a client at `client` may connect to `ip`.

        Raises `Loop` or `Forbidden` if it may not, and `ValueError` for an invalid address.
        """
        self.check_loop(ip, port)
        if _is_unspecified(ip):
            raise Forbidden(f"{ip} is {Kind.UNSPECIFIED.value}, which is always refused")
        if is_on_loopback(client):
            return
        faces = _faces(ip)
        if self._allows(faces[0][0]):
            return
        for face, kind in faces:
            # An allowed IPv4 network does not allow the IPv6 addresses that contain its addresses. A client can make up such an IPv6
            # address, and packets to it go where its prefix is routed.
            if self._allows(face):
                continue
            if kind is None or (kind is Kind.PRIVATE and self._private):
                if not _is_ours(face):
                    continue
                kind = Kind.OURS
            text = ip if str(face) == ip else f"{ip} ({face})"
            raise Forbidden(f"{text} is {kind.value}: clients elsewhere are not connected to it")

    def _allows(self, address: IPAddress) -> bool:
        return any(address in network for network in self._allow)

    def check_loop(self, ip: str, port: int) -> None:
        """Raises `Loop` if `ip` and `port` are a listener of this process."""
        listening = [host for host, taken in self._own() if taken == port]
        if not listening:
            return
        for face, kind in _faces(ip):
            for host in listening:
                own = peer_address((host, port))
                assert own is not None  # only TCP listeners are listed
                if own == face or (own.is_unspecified and (kind in (Kind.LOOPBACK, Kind.UNSPECIFIED) or _is_ours(face))):
                    raise Loop(f"{ip} port {port} is this proxy itself")


def _is_ours(address: IPAddress) -> bool:
    """Whether an address is this machine's. Raises `ConnectError` if the kernel cannot be asked."""
    try:
        return is_local(address)
    except OSError as error:
        raise ConnectError(f"{address}: cannot find out whether it belongs to this machine: {error.strerror or error}") from error
