"""Connects to the first of several addresses that answers: RFC 8305 (happy eyeballs).

Everything happens in the calling greenlet. If it is killed or times out, no other greenlet and no descriptor is left. The greenlet waits
for an epoll descriptor, which waits for all the sockets.
"""

import errno
import os
import socket as socket_module
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from select import EPOLLOUT
from time import monotonic
from typing import Any

from gevent.monkey import get_original

from muxwsgi.dial.errors import ConnectError, ConnectTimeout
from muxwsgi.dial.resolve import Resolved
from muxwsgi.wire.fork import leave_to_parent
from muxwsgi.wire.plain_socket import PlainSocket
from muxwsgi.wire.ready import READ, WRITE, DescriptorReady

__all__ = ["ClientAddress", "Source", "connect_first", "interleave"]

#: Seconds until the next address is tried, while earlier ones have not answered (RFC 8305 section 8).
ATTEMPT_DELAY = 0.25

_STREAM = socket_module.SOCK_STREAM | socket_module.SOCK_NONBLOCK

#: Linux: bind() to an address chooses no port. connect() chooses it, so sockets with different destinations can share a port.
_IP_BIND_ADDRESS_NO_PORT = 24

#: Linux: bind() may take an address that is not of this machine (ip(7), ipv6(7)).
_TRANSPARENT = {
    int(socket_module.AF_INET): (socket_module.IPPROTO_IP, 19),
    int(socket_module.AF_INET6): (socket_module.IPPROTO_IPV6, 75),
}

#: Errors of this machine. They say nothing about the destination.
_LOCAL = frozenset(
    {
        *(errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EAGAIN, errno.EADDRINUSE, errno.EADDRNOTAVAIL),
        *(errno.EACCES, errno.EPERM, errno.EAFNOSUPPORT, errno.ENODEV),
    }
)

# A patched process has no epoll in `select` any more.
_epoll: Any = get_original("select", "epoll")


@dataclass(frozen=True, slots=True)
class ClientAddress:
    """The address of a client, to connect from it (IP_TRANSPARENT). It needs CAP_NET_ADMIN, and answers must come back to this machine."""

    host: str
    port: int


#: A local address to connect from, with a port that the kernel chooses; or that of a client, with its port if that is free.
Source = str | ClientAddress


def interleave(addresses: Sequence[Resolved]) -> list[Resolved]:
    """The families in turn, beginning with that of the first address; within a family the order stays (RFC 8305 section 4)."""
    first = [address for address in addresses if address[0] == addresses[0][0]]
    other = [address for address in addresses if address[0] != addresses[0][0]]
    mixed: list[Resolved] = []
    while first or other:
        mixed += first[:1] + other[:1]
        del first[:1], other[:1]
    return mixed


def connect_first(
    addresses: Sequence[Resolved], port: int, deadline: float, sources: Mapping[int, Source] | None = None
) -> tuple[socket_module.socket, str]:
    """A connected, non-blocking socket (TCP_NODELAY, SO_KEEPALIVE) to one of `addresses`, and this address. The caller closes it.

    `deadline` is in absolute `time.monotonic()` seconds. `sources` are local addresses to connect from, by family; families that are not
    in it are not used. Raises `ConnectError`, and `ConnectTimeout` if an address had not answered at the deadline. The reason contains the
    error of each address.
    """
    if len(addresses) == 1:
        return _connect_one(addresses[0], port, deadline, sources)
    return _Race(interleave(addresses), port, deadline, sources).run()


def _connect_one(address: Resolved, port: int, deadline: float, sources: Mapping[int, Source] | None) -> tuple[socket_module.socket, str]:
    ip = address[1]
    try:
        sock, error_number = _begin(address, port, sources)
    except OSError as error:
        raise _no_connection([(ip, error)]) from error
    try:
        while error_number == errno.EALREADY:
            ready = DescriptorReady(sock.fileno(), WRITE)
            try:
                ready.wait(max(deadline - monotonic(), 0.001))
            except TimeoutError:
                raise _no_connection([], [ip]) from None
            finally:
                ready.close()
            error_number = sock.connect_ex(_socket_address(ip, port))
        refusal = _refusal(sock, error_number)
        if refusal is not None:
            raise _no_connection([(ip, refusal)])
    except BaseException:
        sock.close()
        raise
    return sock, ip


class _Race:
    """Concurrent attempts, which begin one after the other."""

    def __init__(self, addresses: Sequence[Resolved], port: int, deadline: float, sources: Mapping[int, Source] | None) -> None:
        self._waiting = list(reversed(addresses))
        self._port = port
        self._deadline = deadline
        self._sources = sources
        self._running: dict[int, tuple[socket_module.socket, str]] = {}
        self._failures: list[tuple[str, OSError]] = []
        self._next_at = 0.0  # when the next attempt begins

    def run(self) -> tuple[socket_module.socket, str]:
        try:
            poller = _epoll()
        except OSError as error:  # no descriptor left
            raise _no_connection([(self._waiting[-1][1], error)]) from error
        ready = DescriptorReady(poller.fileno(), READ)
        try:
            while True:
                if self._waiting and (not self._running or self._next_at <= monotonic()):
                    winner = self._start(poller)
                elif self._running:
                    winner = self._wait(ready, poller)
                else:
                    raise _no_connection(self._failures)
                if winner is not None:
                    return winner
        finally:
            ready.close()
            poller.close()
            for sock, _ in self._running.values():
                sock.close()

    def _start(self, poller: Any) -> tuple[socket_module.socket, str] | None:
        """Begin the next attempt. Returns the winner, if the attempt connects at once."""
        address = self._waiting.pop()
        self._next_at = monotonic() + ATTEMPT_DELAY
        try:
            sock, error_number = _begin(address, self._port, self._sources)
        except OSError as error:
            self._failed(address[1], error)
            return None
        if error_number != errno.EALREADY:
            return self._ended(sock, address[1], error_number)
        self._running[sock.fileno()] = sock, address[1]
        poller.register(sock.fileno(), EPOLLOUT)
        return None

    def _wait(self, ready: DescriptorReady, poller: Any) -> tuple[socket_module.socket, str] | None:
        """Wait until an attempt has an outcome or the next one is due. Returns the winner, if any."""
        now = monotonic()
        until = min(self._deadline, self._next_at) if self._waiting else self._deadline
        try:
            ready.wait(max(until - now, 0.001))
        except TimeoutError:
            if monotonic() >= self._deadline:
                raise _no_connection(self._failures, [ip for _, ip in self._running.values()]) from None
            return None
        for fd, _ in poller.poll(0):
            sock, ip = self._running[fd]
            error_number = sock.connect_ex(_socket_address(ip, self._port))
            if error_number != errno.EALREADY:
                del self._running[fd]
                winner = self._ended(sock, ip, error_number)
                if winner is not None:
                    return winner
        return None

    def _ended(self, sock: socket_module.socket, ip: str, error_number: int) -> tuple[socket_module.socket, str] | None:
        """Handle the end of an attempt. Returns the winner, if it is one."""
        error = _refusal(sock, error_number)
        if error is None:
            return sock, ip
        sock.close()
        self._failed(ip, error)
        return None

    def _failed(self, ip: str, error: OSError) -> None:
        self._failures.append((ip, error))
        self._next_at = 0.0  # begin the next attempt at once


def _begin(address: Resolved, port: int, sources: Mapping[int, Source] | None) -> tuple[socket_module.socket, int]:
    """A socket, and the outcome as an error number of `connect_ex`: EALREADY while it connects. Raises `OSError` if there is no socket."""
    family, ip = address
    sock = PlainSocket(family, _STREAM)
    leave_to_parent(sock)
    try:
        sock.setsockopt(socket_module.IPPROTO_TCP, socket_module.TCP_NODELAY, 1)
        sock.setsockopt(socket_module.SOL_SOCKET, socket_module.SO_KEEPALIVE, 1)
        if sources:
            if family not in sources:
                raise OSError(errno.EAFNOSUPPORT, "no source address of this family is set")
            _bind(sock, family, sources[family])
        error_number = sock.connect_ex(_socket_address(ip, port))
        if error_number == errno.EINPROGRESS:
            # On the same machine the other side has answered already. Asking again costs a microsecond, waiting twenty.
            error_number = sock.connect_ex(_socket_address(ip, port))
    except BaseException:
        sock.close()
        raise
    return sock, error_number


def _bind(sock: socket_module.socket, family: int, source: Source) -> None:
    """Bind to a local address. Raises `OSError`."""
    if isinstance(source, ClientAddress):
        level, option = _TRANSPARENT[family]
        sock.setsockopt(level, option, 1)
        try:
            sock.bind((source.host, source.port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
        else:
            return
        source = source.host  # another connection has the port: the kernel chooses one
    sock.setsockopt(socket_module.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
    sock.bind((source, 0))


def _socket_address(ip: str, port: int) -> tuple[str, int] | tuple[str, int, int, int]:
    """The address for `connect`. The zone of an IPv6 address (`fe80::1%eth0`) becomes the number of an interface."""
    address, percent, zone = ip.partition("%")
    if not percent:
        return ip, port
    try:
        return address, port, 0, int(zone) if zone.isdecimal() else socket_module.if_nametoindex(zone)
    except OSError:  # with a number in some versions of Python
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV)) from None


def _no_connection(failures: Sequence[tuple[str, OSError]], late: Sequence[str] = ()) -> ConnectError | ConnectTimeout:
    """The error for addresses that refused (`failures`) and addresses that had not answered at the deadline (`late`)."""
    refused = [f"{ip}: {error.strerror or error}" for ip, error in failures]
    reason = "; ".join([*refused, *(f"{ip}: no answer" for ip in late)])
    if late:
        return ConnectTimeout(reason)
    found = ConnectError(reason)
    found.is_local = all(error.errno in _LOCAL for _, error in failures)
    return found


def _refusal(sock: socket_module.socket, error_number: int) -> OSError | None:
    """The error of an attempt that has ended, None for a connection. A TCP self-connect counts as refused: the kernel may choose the
    destination's port as the source port if it is not listened on."""
    if error_number in (0, errno.EISCONN):
        if sock.getsockname()[1] != sock.getpeername()[1] or sock.getsockname() != sock.getpeername():
            return None
        error_number = errno.ECONNREFUSED
    return OSError(error_number, os.strerror(error_number))
