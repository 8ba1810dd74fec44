"""Opens listening sockets of binds. Imports no gevent, because a master opens sockets before it
forks, and has no hub."""

import errno
import fcntl
import logging
import os
import socket
import stat
from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from functools import partial
from typing import Any

from muxwsgi.errors import OperatorError
from muxwsgi.names import join_host_port
from muxwsgi.server.passed import is_passed
from muxwsgi.server.reuse_port import SlotSockets
from muxwsgi.server.unix_socket import answers, bound_to, permit
from muxwsgi.settings import BindSettings
from muxwsgi.wire.plain_socket import PlainSocket

__all__ = ["Listening", "listen_on", "make_transparent", "place", "serves_both_families", "tcp_address", "try_bind"]

log = logging.getLogger("muxwsgi.error")

# linux/in.h and linux/in6.h
_IP_TRANSPARENT = 19
_IPV6_TRANSPARENT = 75


class Listening:
    """A listening socket of one bind.

    bind        as the operator wrote it
    name        the real address (`getsockname`), with the real port instead of port 0
    wildcard    whether the local address of a connection is known from the accepted socket only
    """

    def __init__(self, bind: BindSettings, backlog: int, *, both_families: bool = False) -> None:
        """With `both_families` a bind to `[::]` also serves IPv4. If the address cannot be used, raises `OperatorError`, which names the
        bind."""
        self._inode: tuple[int, int] | None = None
        self._pid = os.getpid()  # only this process removes the file of a unix socket
        self._slots: SlotSockets | None = None
        try:
            if bind.fd is not None:
                self.socket = _inherited(bind.fd)
            elif bind.path is not None:
                self.socket, self._inode = bound_to(bind)
            else:
                self.socket = _tcp(bind.host, bind.port, both_families, reuse_port=bind.reuse_port)
            self.socket.listen(backlog)
            self.socket.setblocking(False)
        except OSError as error:
            raise OperatorError(f"bind {bind.address}: {error.strerror or error}") from error
        if bind.transparent == "tproxy":
            try:
                make_transparent(self.socket)
            except OperatorError:
                self.close()
                raise
        self.bind = bind
        self.name = self.socket.getsockname()
        self.wildcard = isinstance(self.name, tuple) and self.name[0] in ("0.0.0.0", "::")
        if bind.reuse_port:
            self._slots = SlotSockets([self.socket], partial(_another, self.socket, backlog))

    @classmethod
    def taken_over(cls, where: tuple[Any, ...], fds: Sequence[int], backlog: int) -> "Listening":
        """A socket, or one for each slot, that another master of ours has opened, and that still serves there. `where` is what `place` said
        of its bind. The file of a unix socket is not this process's until `adopt`. Raises `OSError`."""
        self = cls.__new__(cls)
        host, port, path, number, transparent, reuse_port = where
        self.bind = BindSettings(host=host, port=port, path=path, fd=number, transparent=transparent, reuse_port=reuse_port)
        self._inode = None
        self._pid = os.getpid()
        sockets = [PlainSocket(fileno=fd) for fd in fds]
        for each in sockets:
            each.setblocking(False)
        self.socket = sockets[0]
        self._slots = SlotSockets(sockets, partial(_another, self.socket, backlog)) if reuse_port else None
        self.name = self.socket.getsockname()
        self.wildcard = isinstance(self.name, tuple) and self.name[0] in ("0.0.0.0", "::")
        return self

    def adopt(self) -> None:
        """Own the file of a unix socket that was taken over. Raises `OperatorError` and `OSError`."""
        if self.bind.path is not None and self._inode is None:
            information = os.lstat(self.bind.path)
            self._inode = information.st_dev, information.st_ino
            permit(self.bind, self._inode)

    @property
    def sockets(self) -> list[socket.socket]:
        """The sockets of all slots, or the one socket of all workers."""
        return [self.socket] if self._slots is None else self._slots.sockets

    def grow(self, size: int) -> None:
        """With `reuse_port`, have sockets for `size` slots. Raises `OperatorError`."""
        if self._slots is not None:
            try:
                self._slots.grow(size)
            except OSError as error:
                raise OperatorError(f"bind {self.bind.address}: {error.strerror or error}") from error

    def steer(self, live: Sequence[int]) -> None:
        """With `reuse_port`, let connections go to these slots."""
        if self._slots is not None:
            self._slots.steer(live)

    def of_slot(self, slot: int) -> "Listening":
        """In a worker: what it accepts from. Sockets of other slots are closed."""
        if self._slots is None:
            return self
        other = copy(self)
        other.socket = self._slots.sockets[slot]
        other._slots = None
        for each in self._slots.sockets:
            if each is not other.socket:
                each.close()
        return other

    def descriptors(self, slot: int) -> list[int]:
        """Of the sockets that only the worker in this slot has: one with `reuse_port`, and none without it."""
        return [] if self._slots is None else [self._slots.sockets[slot].fileno()]

    def taking(self, descriptors: Iterator[int]) -> "Listening":
        """In a worker of a preloader: what it accepts from, with the next of its `descriptors`. The preloader may not have the socket of
        the slot, because it is older than that."""
        if self._slots is None:
            return self
        other = copy(self)
        other.socket = PlainSocket(fileno=next(descriptors))
        other._slots = None
        self._slots.close()
        return other

    def disown(self) -> None:
        """Leave the file of a unix socket to another process."""
        self._inode = None

    @property
    def address(self) -> str:
        """The real address, as an operator would write it."""
        if isinstance(self.name, tuple):
            host, port = self.name[:2]
            return join_host_port(host, port)
        return f"unix:{self.name}"

    def with_bind(self, bind: BindSettings) -> "Listening":
        """The same socket for a bind to the same address with other options, of TLS for example. Raises `OperatorError`."""
        if bind == self.bind:
            return self
        if self._inode is not None:
            try:
                permit(bind, self._inode)
            except OSError as error:
                raise OperatorError(f"bind {bind.address}: {error.strerror or error}") from error
        other = copy(self)
        other.bind = bind
        return other

    def close(self) -> None:
        """Close the socket, and remove a unix socket's file if this process still owns it. Idempotent."""
        self.socket.close()
        if self._slots is not None:
            self._slots.close()
        self.unlink()

    def unlink(self) -> None:
        """Remove a unix socket's file if this process still owns it, so that no client connects any more. Idempotent."""
        if self._inode is not None and self.bind.path is not None and os.getpid() == self._pid:
            try:
                information = os.stat(self.bind.path)
                if (information.st_dev, information.st_ino) == self._inode:
                    os.unlink(self.bind.path)
            except FileNotFoundError:
                pass
            except OSError as error:  # the folder is not what it was, and a server that stops still has to end its workers
                log.warning("bind %s: its file cannot be removed: %s", self.bind.address, error.strerror)
            self._inode = None


def listen_on(binds: Sequence[BindSettings], backlog: int, *, kept: Iterable[Listening] = ()) -> list[Listening]:
    """Open all binds. A bind with the same address as one of `kept` uses its socket. If it raises `OperatorError`, none is opened."""
    usable = list(kept)
    listening: list[Listening] = []
    opened: list[Listening] = []
    try:
        for bind in binds:
            same = next((each for each in usable if place(each.bind) == place(bind)), None)
            if same is not None:
                usable.remove(same)
                listening.append(same.with_bind(bind))
                continue
            others = [other for other in binds if other is not bind]
            opened.append(Listening(bind, backlog, both_families=serves_both_families(bind, others)))
            listening.append(opened[-1])
    except BaseException:
        for each in opened:
            each.close()
        raise
    return listening


def place(bind: BindSettings) -> tuple[object, ...]:
    """The properties of a bind that cannot be changed on an open socket."""
    return bind.host, bind.port, bind.path, bind.fd, bind.transparent, bind.reuse_port


def make_transparent(listening: socket.socket) -> None:
    """Let TPROXY redirect connections to a listening socket (ip(7), IP_TRANSPARENT). Call it before or after `listen`.

    Raises `OperatorError` without CAP_NET_ADMIN or CAP_NET_RAW.
    """
    try:
        if listening.family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, _IPV6_TRANSPARENT, 1)
        else:
            listening.setsockopt(socket.IPPROTO_IP, _IP_TRANSPARENT, 1)
    except PermissionError:
        raise OperatorError("tproxy: a transparent socket needs the capability CAP_NET_ADMIN") from None
    except OSError as error:
        raise OperatorError(f"tproxy: this socket cannot be transparent: {error.strerror or error}") from error


def tcp_address(bind: BindSettings) -> tuple[str, int]:
    """The address of a bind to a host. Does not listen. Raises `OperatorError`."""
    try:
        host, port, *_ = _resolved(bind.host, bind.port)[1]
    except OSError as error:
        raise OperatorError(f"bind {bind.address}: {error.strerror}") from error
    return host, port


def _resolved(host: str, port: int) -> tuple[socket.AddressFamily, Any]:
    # As bytes, if it is ASCII: for a text, Python imports its codec for international names.
    name = host.encode() if host.isascii() else host
    try:
        found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE | socket.AI_NUMERICSERV)
    except socket.gaierror as error:
        raise OSError(error.errno, f"{host!r} is not an address of this machine ({error.strerror})") from error
    return found[0][0], found[0][4]


def serves_both_families(bind: BindSettings, others: Iterable[BindSettings]) -> bool:
    """Whether `bind` is to `[::]` and also serves IPv4, as is usual on Linux. It is False if another bind has the port in IPv4. It is also
    False for transparent binds, because each family has a different way to find the original destination."""
    if bind.host != "::" or bind.transparent is not None:
        return False
    return not any(other.port == bind.port != 0 and other.path is None and other.fd is None and _is_ipv4(other.host) for other in others)


def _is_ipv4(host: str) -> bool:
    try:
        return _resolved(host, 0)[0] == socket.AF_INET
    except OSError:
        return False  # that bind will report it


def try_bind(bind: BindSettings, *, both_families: bool) -> str | None:
    """Check that `bind` could be opened, without listening. Returns None, or a note if its address is in use, perhaps by a running server
    of ours. Raises `OperatorError` if no server could open it."""
    try:
        if bind.fd is not None:
            return None  # another process passes the descriptor
        if bind.path is not None:
            folder = os.path.dirname(bind.path) or "."
            os.stat(folder)
            if not os.access(folder, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            if os.path.lexists(bind.path):
                if not stat.S_ISSOCK(os.stat(bind.path).st_mode):
                    raise OSError(errno.EADDRINUSE, "a file that is not a socket exists there")
                return "in use now" if answers(bind.path) else None
            return None
        _tcp(bind.host, bind.port, both_families).close()
    except OSError as error:
        if error.errno == errno.EADDRINUSE and bind.path is None:
            return "in use now"
        raise OperatorError(f"bind {bind.address}: {error.strerror or error}") from error
    return None


def _tcp(host: str, port: int, both_families: bool, *, reuse_port: bool = False) -> socket.socket:
    family, address = _resolved(host, port)
    sock = PlainSocket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not both_families)
        sock.bind(address)
    except OSError:
        sock.close()
        raise
    return sock


def _another(first: socket.socket, backlog: int) -> socket.socket:
    """Another listening socket on the address of `first`, which has SO_REUSEPORT. Raises `OSError`."""
    sock = PlainSocket(first.family, socket.SOCK_STREAM)
    try:
        options = [(socket.SOL_SOCKET, socket.SO_REUSEADDR), (socket.SOL_SOCKET, socket.SO_REUSEPORT)]
        if first.family == socket.AF_INET6:
            options += [(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY), (socket.IPPROTO_IPV6, _IPV6_TRANSPARENT)]
        else:
            options.append((socket.IPPROTO_IP, _IP_TRANSPARENT))
        for level, option in options:
            value = first.getsockopt(level, option)
            if value != sock.getsockopt(level, option):
                sock.setsockopt(level, option, value)
        sock.bind(first.getsockname())
        sock.listen(backlog)
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock


def _inherited(fd: int) -> socket.socket:
    if is_passed(fd):
        fd = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 0)  # a reload may close this socket, and a later one name the descriptor again
    sock = PlainSocket(fileno=fd)
    sock.set_inheritable(False)
    if sock.type != socket.SOCK_STREAM:
        sock.detach()
        raise OSError(0, "it is not a stream socket")
    return sock
