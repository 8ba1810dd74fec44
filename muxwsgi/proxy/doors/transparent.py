"""The transparent doors: clients that know of no proxy, whose connections the kernel brings here.

There are two ways, both nftables':

- **REDIRECT** rewrites the destination to this machine. What it was before, connection tracking knows: SO_ORIGINAL_DST.
- **TPROXY** rewrites nothing. The kernel hands connections to addresses that are not its own to a listening socket that says it is
  transparent, and the accepted socket's own name is what the client wanted.

The rules are the operator's, and have to leave out what the proxy itself sends: a rule that redirects a whole machine's traffic
brings the proxy's own connections back to it, by its user (`meta skuid`) or by a mark they can be told apart.
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

#: What connection tracking says of a connection that it does not know, and the kernel where there is no connection tracking.
_NOT_TRACKED = frozenset({errno.ENOENT, errno.ENOPROTOOPT, errno.EOPNOTSUPP})


class Accepted(Protocol):
    """What is needed of an accepted stream: a `Connection`, or a socket."""

    def getsockname(self) -> Address: ...
    def getsockopt(self, level: int, option: int, length: int, /) -> int | bytes: ...


def original_destination(accepted: Accepted, way: Way, listening: Address) -> tuple[str, int]:
    """(address, port) that the client of `accepted` connected to, when it knew of no proxy.

    `listening` is what `getsockname` says of the listening socket. Raises `Fault` (LOOP) where the client connected to us, on purpose:
    there is nowhere to go on to. Raises `OSError` where the connection is gone.
    """
    name = _host_and_port(accepted.getsockname())
    if way == "tproxy":
        wanted = name
        direct = name[1] == listening[1] and (name[0] == _host_and_port(listening)[0] or _is_local(name[0]))
    else:
        wanted = _before_redirect(accepted, name)
        direct = wanted == name
    if direct:
        raise Fault(Phase.LOOP, f"the client connected to {name[0]} port {name[1]}, which is the proxy, and not through it")
    return wanted


class TransparentDoor:
    """The way in for connections that come by a redirect, or by TPROXY: a handler for all of a bind, asked before any byte is read.

    Such a client cannot be asked who it is: its address decides.
    """

    def __init__(self, access: Access, open: Open, way: Way, listening: Address) -> None:
        """`listening` is what `getsockname` says of the listening socket."""
        self._access = access
        self._open = open
        self._way: Way = way
        self._listening = listening

    def __repr__(self) -> str:
        return f"<TransparentDoor {self._way} at {self._listening!r}>"

    def __call__(self, connection: Connection) -> None:
        """Raises `PeerError` where the client may not, or is no transparent one, the connection's errors and what `open` raises."""
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
    """Let the close that comes be a reset. For a client that knows of no proxy, that is how a connection fails that had been accepted: a
    regular end would say that the server had nothing to say.
    """
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _before_redirect(accepted: Accepted, name: tuple[str, int]) -> tuple[str, int]:
    try:
        # An IPv4 client of a socket for both is asked about as IPv4.
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
    """Without scope, and IPv4 in IPv6 clothes as what it is. Raises `Fault` for what is no TCP address."""
    if not isinstance(address, tuple):
        raise Fault(Phase.LOOP, "a unix socket is nowhere that a client could have been redirected from")
    host = str(address[0]).partition("%")[0]
    return host.removeprefix("::ffff:") if "." in host else host, int(address[1])


def _is_local(host: str) -> bool:
    """Whether `host` is an address of this machine: only such a one can be bound to, unless `ip_nonlocal_bind` is set."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((host, 0))
        except OSError:
            return False
    return True
