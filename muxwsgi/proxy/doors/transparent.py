"""The transparent front doors: for clients that do not know about the proxy. The kernel redirects their connections here.

nftables has two ways:

- **REDIRECT** rewrites the destination to this machine. Connection tracking keeps the original destination: SO_ORIGINAL_DST.
- **TPROXY** rewrites nothing. The kernel gives connections to foreign addresses to a listening socket with IP_TRANSPARENT. The name of the
  accepted socket is the original destination.

The operator writes the rules. They must not match what the proxy itself sends, because that would come back to it. Its user
(`meta skuid`) or a mark tells its connections apart.
"""

import errno
import socket
import struct
from typing import Literal, Protocol, cast

from muxwsgi.errors import PeerError
from muxwsgi.proxy.doors.access import Access
from muxwsgi.proxy.doors.door import Open
from muxwsgi.proxy.fault import Fault, Phase
from muxwsgi.wire.connection import Address, Connection

__all__ = ["TransparentDoor", "Way", "original_destination"]

Way = Literal["redirect", "tproxy"]

# linux/netfilter_ipv4.h and linux/netfilter_ipv6/ip6_tables.h
SO_ORIGINAL_DST = 80
IP6T_SO_ORIGINAL_DST = 80

#: struct sockaddr_in: family, port, address, padding; and sockaddr_in6: family, port, flow, address, scope.
_SOCKADDR_IN = struct.Struct("=H2s4s8x")
_SOCKADDR_IN6 = struct.Struct("=H2s4x16s4x")

#: Errors for a connection that is not tracked, and of a kernel without connection tracking.
_NOT_TRACKED = frozenset({errno.ENOENT, errno.ENOPROTOOPT, errno.EOPNOTSUPP})


class Accepted(Protocol):
    """An accepted stream: a `Connection` or a socket."""

    def getsockname(self) -> Address: ...
    def getsockopt(self, level: int, option: int, length: int, /) -> int | bytes: ...


def original_destination(accepted: Accepted, way: Way, listening: Address) -> tuple[str, int]:
    """The original destination of `accepted`: the (address, port) that the client connected to.

    `listening` is the `getsockname` of the listening socket. Raises `Fault` (LOOP) if the client connected to the proxy directly, because
    then there is no destination. Raises `OSError` if the connection is gone.
    """
    name = _host_and_port(accepted.getsockname())
    if way == "tproxy":
        wanted = name
        direct = name[1] == listening[1] and (name[0] == _host_and_port(listening)[0] or _is_local(name[0]))
    else:
        wanted = _before_redirect(accepted, name)
        direct = wanted == name
    if direct:
        raise Fault(Phase.LOOP, f"the client connected to the proxy itself, at {name[0]} port {name[1]}")
    return wanted


class TransparentDoor:
    """The front door for redirected connections: the handler for all connections of a bind. It runs before any byte is read.

    Such a client cannot be asked for credentials, so only its address is checked.
    """

    def __init__(self, access: Access, open: Open, way: Way, listening: Address) -> None:
        """`listening` is the `getsockname` of the listening socket."""
        self._access = access
        self._open = open
        self._way: Way = way
        self._listening = listening

    def __repr__(self) -> str:
        return f"<TransparentDoor {self._way} at {self._listening!r}>"

    def __call__(self, connection: Connection) -> None:
        """Raises `PeerError` if the client is not allowed or was not redirected, the connection's errors, and what `open` raises."""
        try:
            self._access.admit(connection)
            destination = original_destination(connection, self._way, self._listening)
        except PeerError:
            _reset(connection)
            raise
        except Fault as fault:
            _reset(connection)
            raise PeerError(fault.status, fault.reason) from None
        connection.destination = destination
        connection.trace.append(f"{self._way}: to {destination[0]} port {destination[1]}")

        def reply(fault: Fault | None) -> None:
            if fault is not None:
                _reset(connection)

        try:
            self._open(connection, self._way, destination, reply)
        except Fault as fault:
            reply(fault)


def _reset(connection: Connection) -> None:
    """Make the next close a reset, so that the client sees a failed connection. After a FIN it would see a server without an answer."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _before_redirect(accepted: Accepted, name: tuple[str, int]) -> tuple[str, int]:
    try:
        # An IPv4 client of a dual-stack socket needs the option of IPv4.
        if ":" in name[0]:
            data = accepted.getsockopt(socket.IPPROTO_IPV6, IP6T_SO_ORIGINAL_DST, _SOCKADDR_IN6.size)
            _, port, address = _SOCKADDR_IN6.unpack(cast(bytes, data))
            host = socket.inet_ntop(socket.AF_INET6, address)
        else:
            data = accepted.getsockopt(socket.IPPROTO_IP, SO_ORIGINAL_DST, _SOCKADDR_IN.size)
            _, port, address = _SOCKADDR_IN.unpack(cast(bytes, data))
            host = socket.inet_ntop(socket.AF_INET, address)
    except OSError as error:
        if error.errno in _NOT_TRACKED:
            return name
        raise
    return host, int.from_bytes(port, "big")


def _host_and_port(address: Address) -> tuple[str, int]:
    """Host and port without scope. IPv4-mapped addresses are returned as IPv4. Raises `Fault` for a unix socket."""
    if not isinstance(address, tuple):
        raise Fault(Phase.LOOP, "a connection to a unix socket cannot have been redirected")
    host = str(address[0]).partition("%")[0]
    return host.removeprefix("::ffff:") if "." in host else host, int(address[1])


def _is_local(host: str) -> bool:
    """Whether `host` is an address of this machine. Other addresses cannot be bound to, unless `ip_nonlocal_bind` is set."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((host, 0))
        except OSError:
            return False
    return True
