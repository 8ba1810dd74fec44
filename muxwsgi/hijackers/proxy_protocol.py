"""The handler in front of a bind with the PROXY protocol: reads the header, and passes the connection on as the client's.

Who is believed
---------------

A header says who the client is, so it is read only from peers in `proxy_allow_ips`. All others are refused, also without a header: on
such a bind there is no connection that is not a load balancer's. And an allowed peer has to send a header, because a client whose first
bytes decided about that could send one itself (section 2 of HAProxy's document forbids to guess).

A loopback address or a path is one of the load balancer's machine. If that is not this machine, the client keeps the load balancer's
address: access lists, the guard and the trust in forwarding fields take loopback and unix sockets for this machine.

How it is read
--------------

OpenSSL reads TLS from the descriptor itself, so no byte behind the header may be taken out of the kernel (docs/architecture.md, "TLS").
The header's first bytes are looked at with MSG_PEEK until they say how long it is. Then exactly that many are read. On a unix socket what
is behind the header stays in the read-ahead. The header does not count as bytes of the client: a drain treats the connection as one that
has sent nothing.
"""

import math
from typing import TYPE_CHECKING, Literal

from muxwsgi.errors import Draining, Expired, PeerError
from muxwsgi.events import Events, Refusal, tell
from muxwsgi.mux.route import Handler
from muxwsgi.wire.peer import TrustedPeers, is_on_loopback
from muxwsgi.wire.proxy_header import LONGEST_V1, MalformedProxyHeader, ProxyHeader, header_length, parse_proxy_header
from muxwsgi.wire.syscalls import clock

if TYPE_CHECKING:
    from muxwsgi.settings import ProxyProtocolMode
    from muxwsgi.wire.connection import Connection

__all__ = ["ProxyProtocol"]

_VERSIONS = {"v1": 1, "v2": 2, "auto": None}


class ProxyProtocol:
    """Reads the PROXY header of each connection, and calls `handler` with that connection. `client` and `server` are the header's."""

    def __init__(self, handler: Handler, mode: "ProxyProtocolMode", peers: TrustedPeers, timeout: float, events: Events) -> None:
        """`mode` is not off. `peers` may send headers. The whole header has `timeout` seconds, from now on."""
        self.handler = handler
        self.may_leave = getattr(handler, "may_leave", False)  # see `Route`
        self._version = _VERSIONS[mode]
        self._peers = peers
        self._timeout = timeout
        self._events = events

    def __repr__(self) -> str:
        return f"<PROXY header, then {self.handler!r}>"

    def __call__(self, connection: "Connection") -> None:
        """Raises `PeerError` for bytes that are no header, `Expired` for one that is late, and the errors of the handler."""
        if not self._peers.trusts(connection.client):
            self._refuse(connection, "untrusted", "it may not connect to a port with the PROXY protocol (--proxy-allow-ips)")
            return
        header = self._read(connection)
        if header is None:
            return
        through = connection.client
        connection.proxy_header = header
        if header.client is not None and header.server is not None:
            connection.client, connection.server = header.client, header.server
            connection.trace.append(f"PROXY version {header.version}: the client {header.client!r}, through {through!r}")
            if is_on_loopback(header.client) and not is_on_loopback(through):
                connection.client = through
                connection.trace.append("PROXY: it is on the load balancer's machine, so its address here is that one's")
        else:
            connection.trace.append(f"PROXY version {header.version}: {through!r} itself")
        self.handler(connection)

    def _read(self, connection: "Connection") -> ProxyHeader | None:
        """The header; None if the connection is to be closed."""
        line = connection.lifeline
        connection.deadline = clock() + self._timeout
        line.resting = True  # until the first byte nothing would be lost if it closed here
        seen = b""
        try:
            while (length := header_length(seen, self._version)) is None:
                data = connection.peek_beyond(len(seen), LONGEST_V1)
                if len(data) <= len(seen):
                    if not data:
                        self._refuse(connection, "ended", "the stream ended before a PROXY header")
                        return None
                    raise MalformedProxyHeader("the stream ends in it")
                seen = data
                line.resting = False
            return parse_proxy_header(self._take(connection, length))
        except MalformedProxyHeader as error:
            raise PeerError(400, f"no PROXY header: {error}") from None
        except Expired:
            if seen:
                raise
            self._refuse(connection, "silent", f"no PROXY header within {self._timeout:g} s")
            return None
        except Draining:
            self._refuse(connection, "drained", "the server shuts down, and no byte has come")
            return None
        finally:
            connection.settle()
            connection.deadline = math.inf
            line.resting = False

    def _take(self, connection: "Connection", length: int) -> bytes:
        """Read exactly `length` bytes, which do not count as the client's."""
        connection.settle()
        header = b""
        while len(header) < length:
            data = connection.recv(length - len(header))
            if not data:
                raise MalformedProxyHeader("the stream ends in it")
            header += data
        connection.bytes_received -= length
        return header

    def _refuse(self, connection: "Connection", kind: Literal["untrusted", "ended", "silent", "drained"], why: str) -> None:
        connection.trace.append(f"PROXY: {why}: closed")
        if self._events.refused:
            tell(self._events.refused, connection, Refusal(kind, why))
