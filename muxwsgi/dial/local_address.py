"""Asks the kernel whether an address is one of this machine's."""

import errno
import os
import socket as socket_module
import struct
from ipaddress import IPv4Address, IPv6Address

from muxwsgi.wire.plain_socket import PlainSocket

__all__ = ["is_local"]

# <linux/rtnetlink.h>
_NETLINK_ROUTE = 0
_NLMSG_ERROR = 2
_RTM_GETROUTE = 26
_NLM_F_REQUEST = 1
_RTA_DST = 1
_RTN_LOCAL = 2

#: No route, and routes of the types unreachable, prohibit and blackhole.
_NO_ROUTE = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES, errno.EINVAL})

_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_ROUTE = struct.Struct("=BBBBBBBBI")  # family, destination's bits, source's bits, TOS, table, protocol, scope, type, flags
_ATTRIBUTE = struct.Struct("=HH")  # length, type


def is_local(address: IPv4Address | IPv6Address) -> bool:
    """Whether packets to `address` stay on this machine.

    The routing table decides. Binding a socket to the address is nearly the same test. But with ip_nonlocal_bind (machines that share an
    address by VRRP) a socket can be bound to any address. So it is used only if netlink is forbidden, for example by systemd's
    RestrictAddressFamilies.
    """
    try:
        return _route_type(address) == _RTN_LOCAL
    except OSError as error:
        if error.errno not in (errno.EAFNOSUPPORT, errno.EPERM, errno.EACCES, errno.EPROTONOSUPPORT):
            raise
    return _can_be_bound(address)


def _route_type(address: IPv4Address | IPv6Address) -> int:
    """The type of the route that packets to `address` take, 0 without one."""
    family = socket_module.AF_INET if address.version == 4 else socket_module.AF_INET6
    packed = address.packed
    question = _ROUTE.pack(family, 8 * len(packed), 0, 0, 0, 0, 0, 0, 0) + _ATTRIBUTE.pack(_ATTRIBUTE.size + len(packed), _RTA_DST) + packed
    header = _HEADER.pack(_HEADER.size + len(question), _RTM_GETROUTE, _NLM_F_REQUEST, 1, 0)
    with PlainSocket(socket_module.AF_NETLINK, socket_module.SOCK_RAW | socket_module.SOCK_NONBLOCK, _NETLINK_ROUTE) as netlink:
        netlink.send(header + question)
        answer = netlink.recv(8192)  # the kernel has answered before send() returns
    _, kind, _, _, _ = _HEADER.unpack_from(answer)
    if kind == _NLMSG_ERROR:
        (number,) = struct.unpack_from("=i", answer, _HEADER.size)
        if -number in _NO_ROUTE:
            return 0
        raise OSError(-number, os.strerror(-number))
    return int(_ROUTE.unpack_from(answer, _HEADER.size)[7])


def _can_be_bound(address: IPv4Address | IPv6Address) -> bool:
    with PlainSocket(socket_module.AF_INET if address.version == 4 else socket_module.AF_INET6, socket_module.SOCK_DGRAM) as probe:
        try:
            probe.bind((str(address), 0))
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:
                return False
            raise
    return True
