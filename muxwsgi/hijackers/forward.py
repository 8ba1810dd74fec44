"""`forward`: passes a connection on to another server, first bytes included. The usual fallback and silence route (SSH speaks first).

The deadlines are HAProxy's `timeout connect`, `timeout tunnel` and `timeout client-fin`.
"""

import logging
import socket as socket_module
from functools import partial
from ipaddress import IPv6Address

import gevent.socket

from muxwsgi.dial.attempt import Attempt
from muxwsgi.dial.concurrency_limit import ConcurrencyLimit
from muxwsgi.dial.errors import DialError, InvalidTarget, ResolveTimeout
from muxwsgi.dial.resolve import Resolved, Resolver, check_target, system_resolver
from muxwsgi.errors import OperatorError
from muxwsgi.mux import matchers
from muxwsgi.mux.route import Route
from muxwsgi.names import join_host_port
from muxwsgi.wire.connection import Connection
from muxwsgi.wire.relay import Relayed, relay_to_end

__all__ = ["Forward", "forward_route"]

_log = logging.getLogger("muxwsgi.forward")

#: Seconds until the other server has to be connected to, all of its addresses together. Resolving its name is part of it.
CONNECT_TIMEOUT = 10.0

#: Seconds of these that the name servers have.
RESOLVE_TIMEOUT = 5.0

#: Lookups of the name at a time; more wait in line. A slow name server holds a thread for each, and all that resolves names shares these
#: threads (`resolve.THREADS`).
LOOKUPS_AT_ONCE = 32

#: Seconds without a byte either way. An hour is what HAProxy's documentation suggests for tunnels; SSH's own
#: keep-alives come sooner.
IDLE_TIMEOUT = 3600.0

#: The same once one side has ended (HAProxy's `timeout client-fin`): the other one may wait for a peer that is gone.
FIN_TIMEOUT = 30.0


class Forward:
    """A handler that connects to `address`, (host, port) or the path of a unix socket, and relays both ways until both have ended.

    Of several addresses of a host the first that answers is taken (RFC 8305).
    """

    def __init__(self, address: tuple[str, int] | str, resolver: Resolver = system_resolver) -> None:
        self.address = address
        self._resolver = resolver
        self._lookups = ConcurrencyLimit(LOOKUPS_AT_ONCE)

    def __repr__(self) -> str:
        return f"<forward to {self}>"

    def __str__(self) -> str:
        if isinstance(self.address, str):
            return f"unix:{self.address}"
        host, port = self.address
        return join_host_port(host, port)

    def __call__(self, connection: Connection) -> None:
        """Where the server cannot be reached, a warning says in which phase, and the connection is left to be closed."""
        try:
            upstream = self._connect()
        except (DialError, OSError) as error:
            if isinstance(error, DialError):
                failure = f"{error.phase}: {error.reason}"
            else:
                failure = f"connect: {error.strerror or error}"
            connection.trace.append(f"forward to {self}: {failure}")
            _log.warning("connection %d from %s cannot be forwarded to %s: %s", connection.id, connection.client, self, failure)
            return
        ended = partial(self._ended, connection)
        relay_to_end(connection, upstream, ended, idle_timeout=connection.idle_timeout, fin_timeout=FIN_TIMEOUT)

    def _ended(self, connection: Connection, result: Relayed) -> None:
        ended = f", ended by {result.error or type(result.error).__name__}" if result.error is not None else ""
        connection.trace.append(f"forward to {self}: {result.from_left} bytes there, {result.from_right} back{ended}")

    def _connect(self) -> Connection:
        """Raises `DialError`, for a unix socket `OSError`."""
        if isinstance(self.address, str):
            return Connection.from_socket(_connect_unix(self.address))
        host, port = self.address
        attempt = Attempt(CONNECT_TIMEOUT, RESOLVE_TIMEOUT)
        # The operator's zone is one of this machine's interfaces. It is not part of a name, and no client can choose it.
        found = [(int(socket_module.AF_INET6), host)] if "%" in host else self._resolve(attempt, host, port)
        sock, _ = attempt.connect(found, port)
        return Connection.from_socket(sock)

    def _resolve(self, attempt: Attempt, host: str, port: int) -> list[Resolved]:
        with self._lookups.slot(host, attempt.resolve_time_left) as acquired:
            if not acquired:
                raise ResolveTimeout(f"{host}: too many lookups of it are under way")
            return attempt.resolve(self._resolver, host, port)


def _connect_unix(path: str) -> "gevent.socket.socket":
    sock = gevent.socket.socket(socket_module.AF_UNIX, socket_module.SOCK_STREAM)
    try:
        sock.settimeout(CONNECT_TIMEOUT)
        sock.connect(path)
    except BaseException:
        sock.close()
        raise
    return sock


def forward_route(target: str) -> Route:
    """The route for `forward:TARGET`: HOST:PORT, [ADDRESS]:PORT or unix:PATH. Raises `OperatorError` for anything else."""
    handler = Forward(_address(target))
    return Route(f"forward:{handler}", matchers.never, handler, idle_timeout=IDLE_TIMEOUT)


def _address(target: str) -> tuple[str, int] | str:
    if target.startswith("unix:") and len(target) > len("unix:"):
        return target.removeprefix("unix:")
    host, _, port = target.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    host = host[1:-1] if bracketed else host
    try:
        if (":" in host) is not bracketed or not port.isdecimal():
            raise ValueError
        if "%" in host:
            IPv6Address(host)  # raises ValueError: only an address of IPv6 has a zone
        check_target(host.partition("%")[0], int(port))
    except (ValueError, InvalidTarget):
        raise OperatorError(
            f"forward:{target}: expected forward:HOST:PORT, forward:[ADDRESS]:PORT or forward:unix:PATH"
        ) from None
    return host, int(port)
