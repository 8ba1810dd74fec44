"""`Dialer`: makes connections for clients, directly or through another proxy. The guard checks each, and each has a time limit.

One dial has these steps, in this order: choose the proxy, resolve, ask the guard, connect, and do the handshake with the proxy, if any.
`errors.py` has all errors of a dial.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic
from typing import cast

from muxwsgi.dial.attempt import Attempt
from muxwsgi.dial.chain import request_stream
from muxwsgi.dial.concurrency_limit import ConcurrencyLimit
from muxwsgi.dial.errors import DialError, Loop, ProxyRefused, ProxyTimeout, ProxyTLSError, ProxyUnreachable, ResolveTimeout
from muxwsgi.dial.guard import Guard
from muxwsgi.dial.resolve import Resolved, Resolver, check_target, literal, spelled
from muxwsgi.dial.upstream_choice import UpstreamChoice
from muxwsgi.dial.upstream_proxy import DIRECT, UpstreamProxy
from muxwsgi.errors import Expired, OperatorError
from muxwsgi.names import join_host_port
from muxwsgi.wire.connection import Address, Connection
from muxwsgi.wire.sweeper import Sweeper
from muxwsgi.wire.tls.client_context import ClientContext

__all__ = ["DialSettings", "Dialer", "Dialled"]

#: The operator's code may connect to the same addresses as a client on this machine.
_OPERATOR: Address = ("127.0.0.1", 0)

#: Schemes with which this proxy resolves the name. So it knows the destination's address, and checks it when it dials.
_RESOLVED_HERE = frozenset({"direct", "socks5"})

#: Concurrent lookups for one client; more wait in line. A slow name server occupies a thread several times longer than the client's time
#: limit. The limit leaves threads to other clients (`resolve.THREADS`).
LOOKUPS_AT_ONCE = 32

#: Concurrent requests to a further proxy for streams to one destination; more wait in line. In a loop of proxies, each waits for the next.
#: Via shows the loop only if all proxies pass the field on and none of them is a SOCKS proxy.
REQUESTS_AT_ONCE = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class DialSettings:
    """How connections are made.

    resolve_timeout     the part of `connect_timeout` that the name servers may take, in seconds
    source_addresses    local addresses to connect from, at most one for each family. If there are any, destinations of a family without
                        one are not reached
    proxy_ca_file       CA certificates for https proxies, None for the system's
    """

    resolve_timeout: float = 5.0
    source_addresses: tuple[str, ...] = ()
    proxy_ca_file: str | None = None

    def __post_init__(self) -> None:
        if not self.resolve_timeout > 0:
            raise OperatorError(f"resolve_timeout: {self.resolve_timeout} is not more than 0")
        self.sources()

    def sources(self) -> dict[int, str]:
        """`source_addresses` by family."""
        sources: dict[int, str] = {}
        for text in self.source_addresses:
            known = literal(text)
            if known is None:
                raise OperatorError(f"source_addresses: {text!r} is not an address")
            if known[0] in sources:
                raise OperatorError(f"source_addresses: {text} is the second one of its family")
            sources[known[0]] = known[1]
        return sources


@dataclass(frozen=True, slots=True)
class Dialled:
    """A connection that was made.

    address     "ip:port" or "[ip]:port" of the TCP connection: with a further proxy, the proxy's address
    via         the further proxy, `DIRECT` without one
    began       absolute `time.monotonic()` seconds, as the next two
    resolved    None if no name was resolved
    connected   when the stream was ready: with a further proxy, after its answer
    """

    connection: Connection
    address: str
    via: UpstreamProxy
    began: float
    resolved: float | None
    connected: float


class Dialer:
    """Connects to destinations. Any number of greenlets may use it at the same time.

    `client` is the address of the client that a connection is made for, None for the operator's code.
    """

    def __init__(
        self, settings: DialSettings, guard: Guard, choice: UpstreamChoice, resolver: Resolver, sweeper: Sweeper, *, connect_timeout: float
    ) -> None:
        """The `sweeper` enforces the deadlines of the connections. `connect_timeout` is the limit in seconds for a whole dial: resolving,
        connecting, and the handshake with a further proxy.

        Raises `OperatorError` if `proxy_ca_file` cannot be used."""
        self._settings = settings
        self._connect_timeout = connect_timeout
        self._sources = settings.sources()
        self._guard = guard
        self._choice = choice
        self._resolver = resolver
        self._sweeper = sweeper
        self._lookups = ConcurrencyLimit(LOOKUPS_AT_ONCE)
        self._requests = ConcurrencyLimit(REQUESTS_AT_ONCE)
        # Reading the system's CAs takes tens of milliseconds, and few operators have https proxies. So it is done on first use.
        self._tls = None if settings.proxy_ca_file is None else self._make_tls()

    def _make_tls(self) -> ClientContext:
        return ClientContext(ca_file=self._settings.proxy_ca_file, alpn=("http/1.1",))

    def next_proxy(
        self, scheme: str, host: str, port: int, client: Address | None, wanted: UpstreamProxy | None = None
    ) -> UpstreamProxy:
        """The further proxy, `DIRECT` for none: `wanted`, or else the operator's choice.

        `scheme` is "http" for requests in plain HTTP, and any other word for tunnels. Call it for each request, because it also checks the
        destination: the guard applies with a further proxy too. Raises `Forbidden`, `Loop`, `InvalidTarget`.
        """
        via = wanted if wanted is not None else self._choice.choose(scheme, host, port) or DIRECT
        if via.scheme not in _RESOLVED_HERE:
            self._check_name(spelled(host), port, _or_operator(client))
        return via

    def check_reuse(self, connection: Connection, client: Address | None, via: UpstreamProxy = DIRECT) -> None:
        """Check that `client` may use a kept connection that was dialled through `via`. It may have been dialled for a client with more
        rights. Call `next_proxy` before. Raises `Forbidden` or `Loop` if `client` may not use it.
        """
        if connection.destination is not None:
            self._guard.check(*connection.destination, _or_operator(client))
        if not via.trusted:
            ip, port = cast(tuple[str, int], connection.client[:2])
            self._guard.check(ip, port, _or_operator(client))

    def connect(
        self,
        host: str,
        port: int,
        client: Address | None,
        *,
        via: UpstreamProxy | None = None,
        via_field: str = "",
        deadline: float = math.inf,
    ) -> Dialled:
        """A plain stream to `host`, a name or an address (IPv6 without brackets).

        With `via` None it goes through the `next_proxy` of a tunnel, and with `DIRECT` directly. `via_field` is the value of the Via field
        in a CONNECT to a further proxy, "" for none. `deadline` is in absolute `time.monotonic()` seconds and can only shorten
        `connect_timeout`. The caller closes the connection. The connection is in the sweeper's `lines`, without a deadline. Its `client` is
        the address that it is connected to, and its `destination` the address that was checked (None if a proxy resolves the name).

        Raises `DialError`.
        """
        attempt = self._attempt(deadline)
        client = _or_operator(client)
        host = check_target(host, port)
        if via is None:
            via = self.next_proxy("tunnel", host, port, client)
        if via.scheme == "direct":
            found = self._permitted(attempt, host, port, client)
            connection, ip = self._open(attempt, join_host_port(host, port), found, port)
            connection.destination = ip, port
            return _dialled(attempt, connection, ip, port, via)
        return self._through(attempt, via, host, port, client, via_field)

    def to_proxy(self, via: UpstreamProxy, client: Address | None, *, deadline: float = math.inf) -> Dialled:
        """A connection to an http or https proxy, for requests in absolute form with `via.authorization`.

        Raises `DialError` as `connect` does, and `ValueError` for a proxy that takes no requests.
        """
        if not via.speaks_http:
            raise ValueError(f"{via} takes no requests")
        attempt = self._attempt(deadline)
        connection, ip = self._open_proxy(attempt, via, _or_operator(client))
        return _dialled(attempt, connection, ip, via.port, via)

    def _attempt(self, deadline: float) -> Attempt:
        return Attempt(self._connect_timeout, self._settings.resolve_timeout, deadline)

    def _through(self, attempt: Attempt, via: UpstreamProxy, host: str, port: int, client: Address, via_field: str) -> Dialled:
        """A stream to `host` through a proxy. One request is sent, or one for each address if names are resolved here."""
        here = via.scheme in _RESOLVED_HERE
        if here:
            targets = [ip for _, ip in self._permitted(attempt, host, port, client)]
        else:
            self._check_name(host, port, client)
            targets = [host]
        with self._requests.slot((via, host, port), attempt.deadline - monotonic()) as acquired:
            if not acquired:
                raise ProxyTimeout(f"{join_host_port(host, port)}: too many connections to it are being asked of the proxy {via}")
            for target in targets:
                connection, ip = self._open_proxy(attempt, via, client)
                try:
                    with _handshake(attempt, connection, via, ProxyRefused):
                        request_stream(connection, via, target, port, via_field)
                except ProxyUnreachable:
                    if target is targets[-1]:
                        raise
                else:
                    break
        if here:
            connection.destination = target, port
        return _dialled(attempt, connection, ip, via.port, via)

    def _check_name(self, host: str, port: int, client: Address) -> None:
        """Check that a further proxy may be asked for `host`. An address is checked here. The further proxy resolves and checks a name."""
        if literal(host) is not None:
            self._guard.check(host, port, client)
        elif host.lower() == "localhost" or host.lower().endswith(".localhost"):  # always loopback (RFC 6761 section 6.3)
            self._guard.check("127.0.0.1", port, client)

    def _open_proxy(self, attempt: Attempt, via: UpstreamProxy, client: Address) -> tuple[Connection, str]:
        """A connection to the proxy, inside TLS for an https proxy. Errors name the proxy."""
        try:
            if via.trusted:
                found = attempt.resolve(self._resolver, via.host, via.port)
                for _, ip in found:
                    self._guard.check_loop(ip, via.port)
            else:
                found = self._permitted(attempt, via.host, via.port, client)
        except DialError as error:
            raise error.about(f"the proxy {via}") from error
        connection, ip = self._open(attempt, f"the proxy {via}", found, via.port)
        if via.scheme != "https":
            return connection, ip
        if self._tls is None:
            self._tls = self._make_tls()
        with _handshake(attempt, connection, via, ProxyTLSError):
            return connection.start_tls(self._tls, server_hostname=via.host), ip

    def _permitted(self, attempt: Attempt, host: str, port: int, client: Address) -> list[Resolved]:
        """The addresses of `host` that `client` may be connected to, at least one."""
        known = literal(host)
        if known is not None:
            self._guard.check(known[1], port, client)
            return [known]
        found = self._resolve(attempt, host, port, client)
        permitted: list[Resolved] = []
        refusal: DialError | None = None
        for address in found:
            try:
                self._guard.check(address[1], port, client)
            except Loop as error:  # a loop is an error also if the name has other addresses
                raise error.about(host) from None
            except DialError as error:
                refusal = error
            else:
                permitted.append(address)
        if not permitted and refusal is not None:
            raise refusal.about(host) from None
        return permitted

    def _resolve(self, attempt: Attempt, host: str, port: int, client: Address) -> list[Resolved]:
        with self._lookups.slot(client if isinstance(client, str) else client[0], attempt.resolve_time_left) as acquired:
            if not acquired:
                raise ResolveTimeout(f"{host}: too many names are being looked up for this client")
            return attempt.resolve(self._resolver, host, port)

    def _open(self, attempt: Attempt, target: str, found: list[Resolved], port: int) -> tuple[Connection, str]:
        """A connection to one of the addresses, and this address. Errors begin with `target`."""
        try:
            sock, ip = attempt.connect(found, port, self._sources)
        except DialError as error:
            raise error.about(target) from error
        connection = Connection.from_socket(sock, client=(ip, port))
        self._sweeper.lines[connection.lifeline] = None
        return connection, ip


def _or_operator(client: Address | None) -> Address:
    return _OPERATOR if client is None else client


def _dialled(attempt: Attempt, connection: Connection, ip: str, port: int, via: UpstreamProxy) -> Dialled:
    return Dialled(connection, join_host_port(ip, port), via, attempt.began, attempt.resolved, monotonic())


@contextmanager
def _handshake(
    attempt: Attempt, connection: Connection, via: UpstreamProxy, failed: type[ProxyRefused] | type[ProxyTLSError]
) -> Iterator[None]:
    """A handshake with a proxy, within the attempt's deadline. Any error closes the connection. Its errors are raised as `failed`."""
    connection.deadline = attempt.deadline
    try:
        yield
    except BaseException as error:
        connection.finish()
        if isinstance(error, Expired):
            raise ProxyTimeout(f"the proxy {via} has not answered in time") from error
        if isinstance(error, OSError):
            raise failed(f"the proxy {via}: {error.strerror or error}") from error
        raise
    connection.lifeline.deadline = math.inf  # all layers share it
