"""`Guard`: the addresses that a client may not connect to.

It is asked about each address that is about to be dialled, after names were resolved: a check by name is void as soon as the
name points somewhere else (DNS rebinding).
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
    """Addresses that are not for everybody."""

    UNSPECIFIED = "the unspecified address"  # a connection to it ends on this machine, on Linux
    LOOPBACK = "a loopback address"
    METADATA = "the metadata service of a cloud"  # gives credentials to every client
    LINK_LOCAL = "a link-local address"
    PRIVATE = "a private address"
    MULTICAST = "a multicast address"
    RESERVED = "a reserved address"
    OURS = "an address of this machine itself"  # a connection from here passes no firewall, as on loopback


# The IANA registries of special-purpose addresses (RFC 6890), as far as a connection can lead somewhere that the client has no business
# with. The first network that fits counts.
_SPECIAL: tuple[tuple[_Network, Kind], ...] = tuple(
    (ip_network(network), kind)
    for kind, networks in {
        Kind.UNSPECIFIED: ("0.0.0.0/32", "::/128"),
        Kind.LOOPBACK: ("127.0.0.0/8", "::1/128"),
        # AWS, Azure, Google and most others; AWS to containers; Azure's WireServer, which looks like a public address; Alibaba; Oracle; and
        # over IPv6 AWS, to its pods too, and Google
        Kind.METADATA: (
            *("169.254.169.254/32", "169.254.170.2/32", "169.254.170.23/32", "168.63.129.16/32", "100.100.100.200/32", "192.0.0.192/32"),
            *("fd00:ec2::254/128", "fd00:ec2::23/128", "fd20:ce::254/128"),
        ),
        Kind.LINK_LOCAL: ("169.254.0.0/16", "fe80::/10"),
        # RFC 1918; carrier-grade NAT, RFC 6598; unique local, RFC 4193; site-local, RFC 3879; NAT64 with prefixes of one's own, RFC 8215
        Kind.PRIVATE: ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7", "fec0::/10", "64:ff9b:1::/48"),
        Kind.MULTICAST: ("224.0.0.0/4", "ff00::/8"),
        # "this network"; IETF protocols; benchmarks, RFC 2544; class E with the broadcast address
        Kind.RESERVED: ("0.0.0.0/8", "192.0.0.0/24", "198.18.0.0/15", "240.0.0.0/4"),
    }.items()
    for network in networks
)

# IPv6 addresses that carry an IPv4 address in their last 32 bits, and lead there wherever a translator is: IPv4-mapped (RFC 4291), which
# the kernel itself translates; IPv4-translated (RFC 2765); IPv4-compatible (deprecated); NAT64 (RFC 6052).
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
    """The address, and those that it carries, each with its kind. Raises `ValueError` for an invalid address."""
    address = ip_address(ip)
    faces: list[IPAddress] = [address]
    if isinstance(address, IPv6Address):
        faces += _carried(address)
    return tuple((face, next((kind for network, kind in _SPECIAL if face in network), None)) for face in faces)


@lru_cache(maxsize=4096)
def _is_unspecified(ip: str) -> bool:
    """Asked for each request that takes a kept connection."""
    return any(kind is Kind.UNSPECIFIED for _, kind in _faces(ip))


class Guard:
    """Decides by address and port, and by the client's address.

    The proxy's own listeners (that is a loop) and the unspecified address are always refused. Clients on loopback may otherwise go
    everywhere. All others may not go to special addresses: see `Kind`. Those of this machine are such, public or not.
    """

    def __init__(
        self, own: Callable[[], Collection[tuple[str, int]]] = tuple, allow: Iterable[str] = (), private: bool = False
    ) -> None:
        """`own` returns the `getsockname()` (address, port) of all listening sockets of the process, with wildcards.

        allow       networks in CIDR notation that every client may connect to, of any kind
        private     whether every client may connect to private addresses; loopback, link-local, metadata and own ones stay refused

        Raises `OperatorError` for an invalid network.
        """
        self._own = own
        self._private = private
        try:
            self._allow = tuple(ip_network(network) for network in allow)
        except ValueError as error:
            raise OperatorError(f"allow_destination: {error}") from None

    def check(self, ip: str, port: int, client: Address) -> None:
        """Whether a client at `client` may be connected to `ip`.

        Raises `Loop` or `Forbidden` if not, and `ValueError` for an invalid address.
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
            # A network that is allowed opens what is in it, and not the IPv6 address that carries one of its addresses: a client can make
            # that up, and packets to it go where its own prefix leads.
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
                assert own is not None  # those of TCP alone are listed
                if own == face or (own.is_unspecified and (kind in (Kind.LOOPBACK, Kind.UNSPECIFIED) or _is_ours(face))):
                    raise Loop(f"{ip} port {port} is this proxy itself")


def _is_ours(address: IPAddress) -> bool:
    """Whether an address is this machine's. Raises `ConnectError` where the kernel cannot be asked."""
    try:
        return is_local(address)
    except OSError as error:
        raise ConnectError(f"{address}: cannot find out whether it belongs to this machine: {error.strerror or error}") from error
