"""`UpstreamServer`: one server of an upstream: how it is connected to, and what its connections say about it."""

import errno
import os
import socket as socket_module
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING

import gevent

from muxwsgi.dial.attempt import Attempt
from muxwsgi.dial.errors import ConnectError, ConnectTimeout, DialError
from muxwsgi.dial.happy_eyeballs import ClientAddress, Source
from muxwsgi.dial.resolve import Resolver, literal
from muxwsgi.errors import HandshakeError
from muxwsgi.settings.upstream import UpstreamServerSettings
from muxwsgi.upstreams.errors import HeaderNotTaken, ServerTLSError, ServerTLSTimeout
from muxwsgi.upstreams.lookup import RESOLVE_TIMEOUT, Lookup
from muxwsgi.upstreams.proxy_header import header_for, local_header, unique_id
from muxwsgi.upstreams.state import Readiness, ServerState
from muxwsgi.wire.connection import Connection
from muxwsgi.wire.fork import leave_to_parent
from muxwsgi.wire.plain_socket import PlainSocket

if TYPE_CHECKING:
    from muxwsgi.wire.tls.client_context import ClientContext

__all__ = ["UpstreamServer"]

#: Seconds between two attempts to connect to a unix socket whose queue is full.
FULL_QUEUE = 0.01


class UpstreamServer:
    """A server with its settings and its state. The state is shared with the server that it replaces in a reload.

    credit      what `roundrobin` owes it
    """

    def __init__(
        self,
        settings: UpstreamServerSettings,
        state: ServerState,
        tls: "ClientContext | None",
        resolver: Resolver,
        clock: Callable[[], float],
    ) -> None:
        """`tls` is the context for its TLS, None without."""
        self.settings = settings
        self.state = state
        self.title = settings.title
        self.credit = 0.0
        self._place = settings.place
        self._tls = tls
        self._lookup = None if isinstance(self._place, str) else Lookup(*self._place, settings.resolve, resolver, clock)
        source = literal(settings.source) if settings.source not in ("", "client") else None
        self._sources: dict[int, Source] | None = None if source is None else {source[0]: source[1]}

    def __str__(self) -> str:
        return self.title

    # What the choice asks

    @property
    def is_usable(self) -> bool:
        """Whether it may get new sessions."""
        return self.state.up and self.state.readiness is Readiness.READY

    @property
    def weight_now(self) -> float:
        """Its weight, smaller during a slow start."""
        return self.settings.weight * self.state.risen(self.settings.slowstart)

    @property
    def taken(self) -> int:
        """Its sessions, with those that are connecting."""
        return len(self.state.sessions)

    @property
    def has_room(self) -> bool:
        """Whether it has fewer sessions than `maxconn`, of which there are fewer during a slow start."""
        most = self.settings.maxconn
        return not most or self.taken < max(1, int(most * self.state.risen(self.settings.slowstart)))

    # Connecting

    def connect(self, client: Connection, timeout: float, deadline: float) -> Connection:
        """A connection for `client`, with the PROXY header sent and inside of TLS where the settings say so, in `timeout` seconds and until
        `deadline`. The caller closes it. Raises `DialError`; `proves_fault` says what an error means."""
        attempt = Attempt(timeout, RESOLVE_TIMEOUT, deadline)
        sources = self._sources
        if self.settings.source == "client" and isinstance(client.client, tuple):
            host, port = client.client[:2]
            family = socket_module.AF_INET6 if ":" in host else socket_module.AF_INET
            sources = {int(family): ClientAddress(host, port)}
        connection = self._begun(self._plain(attempt, 0, sources), attempt, header_for(self.settings, client))
        if self.settings.send_proxy_v2 and "unique-id" in self.settings.proxy_v2_options:
            client.trace.append(f"PROXY header for {self}: unique id {unique_id(client)}")
        return connection

    def connect_for_check(self, timeout: float) -> Connection:
        """The same for a check. Raises `DialError`."""
        attempt = Attempt(timeout, RESOLVE_TIMEOUT)
        header = local_header(self.settings) if self.settings.check_send_proxy else b""
        return self._begun(self._plain(attempt, self.settings.check_port, self._sources), attempt, header)

    def proves_fault(self, error: DialError) -> bool:
        """Whether an error of `connect` counts against the server.

        It must not, if a client can cause it. A client chooses what a PROXY header says, and the address that is connected from if that is
        its own: the server may refuse this one client. Nor does it count if this machine has no descriptor or port left.
        """
        if isinstance(error, ConnectError) and error.is_local:
            return False
        shows_client = self.settings.send_proxy or self.settings.send_proxy_v2
        if isinstance(error, HeaderNotTaken):
            return False
        if isinstance(error, ServerTLSError | ServerTLSTimeout):
            return not shows_client and self.settings.source != "client"
        return self.settings.source != "client" or error.phase == "resolve"

    def stop(self) -> None:
        """End the lookup that runs, if any."""
        if self._lookup is not None:
            self._lookup.stop()

    def _plain(self, attempt: Attempt, port: int, sources: dict[int, Source] | None) -> Connection:
        if isinstance(self._place, str):
            return Connection.from_socket(_connect_unix(self._place, attempt.deadline), client=self._place)
        assert self._lookup is not None
        port = port or self._place[1]
        sock, ip = attempt.connect(self._lookup.find(attempt.resolve_time_left), port, sources)
        return Connection.from_socket(sock, client=(ip, port))

    def _begun(self, connection: Connection, attempt: Attempt, header: bytes) -> Connection:
        """Send the header, and do the handshake. Any error closes the connection."""
        if not header and self._tls is None:
            return connection
        try:
            if header:
                _send_header(connection, header, attempt)
            if self._tls is not None:
                late = ServerTLSTimeout("no answer to the TLS handshake")
                with gevent.Timeout(max(attempt.deadline - monotonic(), 0.001), late):
                    return connection.start_tls(self._tls, server_hostname=self._verified_name)
        except BaseException as error:
            connection.finish()
            if isinstance(error, HandshakeError):
                raise ServerTLSError(error.strerror or str(error)) from error
            if isinstance(error, OSError):
                raise ServerTLSError(error.strerror or str(error)) from error
            raise
        return connection

    @property
    def _verified_name(self) -> str | None:
        settings = self.settings
        host = None if isinstance(self._place, str) else self._place[0].partition("%")[0]
        return settings.verifyhost or settings.sni or host


def _send_header(connection: Connection, header: bytes, attempt: Attempt) -> None:
    """Raises `HeaderNotTaken`."""
    connection.settimeout(max(attempt.deadline - monotonic(), 0.001))
    try:
        connection.sendall(header)
    except OSError as error:
        raise HeaderNotTaken(error.strerror or str(error)) from error
    connection.settimeout(None)


def _connect_unix(path: str, deadline: float) -> socket_module.socket:
    """A connected socket, which does not block. While the queue of the server is full the kernel says EAGAIN, and tells nobody when there
    is room. So it is asked again and again. Raises `ConnectError` and `ConnectTimeout`."""
    try:
        sock = PlainSocket(socket_module.AF_UNIX, socket_module.SOCK_STREAM | socket_module.SOCK_NONBLOCK)
    except OSError as error:  # no descriptor left
        refused = ConnectError(error.strerror or str(error))
        refused.is_local = True
        raise refused from error
    leave_to_parent(sock)
    try:
        while (number := sock.connect_ex(path)) == errno.EAGAIN:
            if monotonic() >= deadline:
                raise ConnectTimeout("no answer")
            gevent.sleep(FULL_QUEUE)
        if number:
            raise ConnectError(os.strerror(number))
    except BaseException:
        sock.close()
        raise
    return sock
