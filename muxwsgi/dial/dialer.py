"""`Dialer`: makes the connections that the proxy opens, checked, in time, directly or through another proxy.

One dial reads from top to bottom: which way, resolve, guard, connect, and where there is another proxy, what has to be said to it.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic
from typing import cast

from muxwsgi.dial.chain import Unreachable, request_stream
from muxwsgi.dial.concurrency import Turns
from muxwsgi.dial.guard import Guard
from muxwsgi.dial.happy_eyeballs import Unanswered, connect_first
from muxwsgi.dial.resolve import Resolved, Resolver, addresses, check_target, literal, spelled
from muxwsgi.dial.upstream_choice import UpstreamChoice
from muxwsgi.dial.upstream_proxy import DIRECT, UpstreamProxy
from muxwsgi.errors import Expired, OperatorError
from muxwsgi.names import join_host_port
from muxwsgi.proxy.context import Context
from muxwsgi.proxy.fault import Fault, Phase
from muxwsgi.proxy.via import Via
from muxwsgi.wire.connection import Address, Connection
from muxwsgi.wire.sweeper import Sweeper
from muxwsgi.wire.tls.client_context import ClientContext

__all__ = ["DialSettings", "Dialer", "Dialled"]

#: Who asks where no client does: the operator's own code, which may go where a client on this machine may.
_NO_CLIENT: Address = ("127.0.0.1", 0)

#: Ways on which we know the address that a client gets to, and check it when it is dialled.
_RESOLVED_HERE = frozenset({"direct", "socks5"})


#: Names that are looked up for one client at a time; more wait in line. Threads that a slow name server holds outlive our patience with it
#: a few times over, and there have to be some left for others then (`resolve.THREADS`).
LOOKUPS_AT_ONCE = 32

#: Streams to one destination that a further proxy is asked for at a time; more wait in line. In a loop each of them waits for the next,
#: and Via shows it only where all proxies on it pass the field on, and none speaks SOCKS.
REQUESTS_AT_ONCE = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class DialSettings:
    """How the proxy connects to others.

    resolve_timeout     seconds of `connect_timeout` that the name servers have
    source_addresses    addresses of ours to come from, one of a family; destinations of a family without one are not reached then
    proxy_ca_file       CA certificates that https proxies are verified with, None for the system's
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
                raise OperatorError(f"source_addresses: {text!r} is no address")
            if known[0] in sources:
                raise OperatorError(f"source_addresses: {text} is the second one of its family")
            sources[known[0]] = known[1]
        return sources


@dataclass(frozen=True, slots=True)
class Dialled:
    """A connection that was made.

    address     "ip:port" or "[ip]:port" that was connected to: with a chain, the proxy's
    via         the proxy in between, `DIRECT` without
    began       absolute `time.monotonic()` seconds, as the following
    resolved    None where there was nothing to resolve
    connected   when the stream was there: with a chain, after the other proxy had agreed
    """

    connection: Connection
    address: str
    via: UpstreamProxy
    began: float
    resolved: float | None
    connected: float


class Dialer:
    """Connects to destinations. Safe for any number of greenlets at once; it keeps nothing of a dial."""

    def __init__(
        self,
        settings: DialSettings,
        guard: Guard,
        choice: UpstreamChoice,
        resolver: Resolver,
        sweeper: Sweeper,
        *,
        connect_timeout: float,
        via: Via | None = None,
    ) -> None:
        """The `sweeper` keeps the deadlines of all that is dialled. `connect_timeout` are the seconds for a whole dial: resolving,
        connecting, and what is said to another proxy. `via` is our entry in what further proxies are asked.

        Raises `OperatorError` where `proxy_ca_file` is of no use."""
        self._settings = settings
        self._connect_timeout = connect_timeout
        self._sources = settings.sources()
        self._guard = guard
        self._choice = choice
        self._resolver = resolver
        self._sweeper = sweeper
        self._via = Via("") if via is None else via
        self._lookups = Turns(LOOKUPS_AT_ONCE)
        self._requests = Turns(REQUESTS_AT_ONCE)
        # The system's CAs take tens of milliseconds to read, and few have https proxies.
        self._tls = None if settings.proxy_ca_file is None else self._make_tls()

    def _make_tls(self) -> ClientContext:
        return ClientContext(ca_file=self._settings.proxy_ca_file, alpn=("http/1.1",))

    def way(self, scheme: str, host: str, port: int, ctx: Context | None) -> UpstreamProxy:
        """The proxy to go through, `DIRECT` for none: `ctx.upstream` if a rule set it, else the operator's choice.

        `scheme` is "http" for requests in plain HTTP, and anything else for what needs a tunnel. To be asked for each request: this
        is where it shows that a client may not be given what it wants by way of a proxy. Raises `Fault` (POLICY, LOOP, TARGET) then.
        """
        if ctx is not None and ctx.upstream is not None:
            via = ctx.upstream
        else:
            via = self._choice.choose(scheme, host, port) or DIRECT
        if via.scheme not in _RESOLVED_HERE:
            self._check_name(spelled(host), port, _client(ctx))
        return via

    def check_reuse(self, connection: Connection, ctx: Context | None, via: UpstreamProxy = DIRECT) -> None:
        """Whether the client of `ctx` may be given a connection that was dialled before (`via` as then), perhaps for somebody who may
        go further. That `way` was asked is taken for granted. Raises `Fault` (POLICY, LOOP) where not.
        """
        if connection.destination is not None:
            self._guard.check(*connection.destination, _client(ctx))
        if not via.trusted:
            ip, port = cast(tuple[str, int], connection.client[:2])
            self._guard.check(ip, port, _client(ctx))

    def connect(
        self, host: str, port: int, ctx: Context | None, *, via: UpstreamProxy | None = None, deadline: float = math.inf
    ) -> Dialled:
        """A plain stream to `host`, a name or an address (IPv6 without brackets).

        `via` None goes the `way` of a tunnel; `DIRECT` goes directly. `deadline` is in absolute `time.monotonic()` seconds and
        can only shorten `connect_timeout`. The connection is the caller's to close; it is in the sweeper's `lines`, without a deadline. Its
        `client` is whom we have connected to, and its `destination` the address that was checked (None where a proxy resolves the name).

        Raises `Fault`: TARGET, RESOLVE, POLICY, LOOP, CONNECT, TIMEOUT; with a chain also TLS and CHAIN.
        """
        dial = _Dial(deadline, self._connect_timeout, self._settings.resolve_timeout)
        host = check_target(host, port)
        if via is None:
            via = self.way("tunnel", host, port, ctx)
        if via.scheme == "direct":
            found = self._permitted(dial, host, port, _client(ctx))
            connection, ip = self._open(dial, join_host_port(host, port), found, port)
            connection.destination = ip, port
            return dial.done(connection, ip, port, via)
        return self._through(dial, via, host, port, ctx)

    def to_proxy(self, via: UpstreamProxy, ctx: Context | None, *, deadline: float = math.inf) -> Dialled:
        """A connection to an http or https proxy itself, to which requests are sent in absolute form with `via.authorization`.

        Raises `Fault` as `connect` does, and `ValueError` for a proxy that takes no requests.
        """
        if not via.speaks_http:
            raise ValueError(f"{via} takes no requests")
        dial = _Dial(deadline, self._connect_timeout, self._settings.resolve_timeout)
        connection, ip = self._open_proxy(dial, via, ctx)
        return dial.done(connection, ip, via.port, via)

    def _through(self, dial: "_Dial", via: UpstreamProxy, host: str, port: int, ctx: Context | None) -> Dialled:
        """A stream to `host` by way of a proxy: one attempt, or where names are resolved here, one for each address."""
        here = via.scheme in _RESOLVED_HERE
        if here:
            targets = [ip for _, ip in self._permitted(dial, host, port, _client(ctx))]
        else:
            self._check_name(host, port, _client(ctx))
            targets = [host]
        passed = self._passed(ctx)
        with self._requests.one_of((via, host, port), dial.deadline - monotonic()) as its_turn:
            if not its_turn:
                raise Fault(Phase.TIMEOUT, f"{join_host_port(host, port)}: too many connections to it are being asked of the proxy {via}")
            for target in targets:
                connection, ip = self._open_proxy(dial, via, ctx)
                try:
                    with _spoken(dial, connection, via, Phase.CHAIN):
                        request_stream(connection, via, target, port, passed)
                except Unreachable:
                    if target is targets[-1]:
                        raise
                else:
                    break
        if here:
            connection.destination = target, port
        return dial.done(connection, ip, via.port, via)

    def _passed(self, ctx: Context | None) -> str:
        """What Via has to say in a CONNECT: who has passed it on so far, and we."""
        received = "" if ctx is None else ctx.passed
        return ", ".join([*([received] if received else []), *(value for _, value in self._via.sent("1.1", to_proxy=True))])

    def _check_name(self, host: str, port: int, client: Address) -> None:
        """Whether a proxy may be asked for `host`: an address is checked, and a name is the proxy's to resolve and to judge."""
        if literal(host) is not None:
            self._guard.check(host, port, client)
        elif host.lower() == "localhost" or host.lower().endswith(".localhost"):  # RFC 6761 section 6.3: not a matter of resolving
            self._guard.check("127.0.0.1", port, client)

    def _open_proxy(self, dial: "_Dial", via: UpstreamProxy, ctx: Context | None) -> tuple[Connection, str]:
        """A connection to the proxy itself, with TLS where it has TLS. Faults say that they are about the proxy."""
        try:
            if via.trusted:
                found = dial.resolve(self._resolver, via.host, via.port)
                for _, ip in found:
                    self._guard.check_loop(ip, via.port)
            else:
                found = self._permitted(dial, via.host, via.port, _client(ctx))
        except Fault as fault:
            raise Fault(fault.phase, f"the proxy {via}: {fault.reason}") from fault
        connection, ip = self._open(dial, f"the proxy {via}", found, via.port)
        if via.scheme != "https":
            return connection, ip
        if self._tls is None:
            self._tls = self._make_tls()
        with _spoken(dial, connection, via, Phase.TLS):
            return connection.start_tls(self._tls, server_hostname=via.host), ip

    def _permitted(self, dial: "_Dial", host: str, port: int, client: Address) -> list[Resolved]:
        """The addresses of `host` that `client` may be connected to, at least one."""
        known = literal(host)
        if known is not None:
            self._guard.check(known[1], port, client)
            return [known]
        found = self._resolve(dial, host, port, client)
        permitted: list[Resolved] = []
        refusal: Fault | None = None
        for address in found:
            try:
                self._guard.check(address[1], port, client)
            except Fault as fault:
                if fault.phase is Phase.LOOP:  # whatever else it is the name of
                    raise Fault(Phase.LOOP, f"{host}: {fault.reason}") from None
                refusal = fault
            else:
                permitted.append(address)
        if not permitted and refusal is not None:
            raise Fault(refusal.phase, f"{host}: {refusal.reason}") from None
        return permitted

    def _resolve(self, dial: "_Dial", host: str, port: int, client: Address) -> list[Resolved]:
        with self._lookups.one_of(client if isinstance(client, str) else client[0], dial.patience) as its_turn:
            if not its_turn:
                raise Fault(Phase.TIMEOUT, f"{host}: too many names are being looked up for this client")
            return dial.resolve(self._resolver, host, port)

    def _open(self, dial: "_Dial", shown: str, found: list[Resolved], port: int) -> tuple[Connection, str]:
        """A connection to one of the addresses, and which."""
        try:
            sock, ip = connect_first(found, port, dial.deadline, self._sources)
        except Unanswered as unanswered:
            phase = Phase.TIMEOUT if unanswered.late else Phase.CONNECT
            raise Fault(phase, f"{shown}: {unanswered}") from unanswered
        connection = Connection.from_socket(sock, client=(ip, port))
        self._sweeper.lines[connection.lifeline] = None
        return connection, ip


class _Dial:
    """The times of one dial."""

    __slots__ = ("began", "deadline", "resolved", "_resolve_timeout")

    def __init__(self, deadline: float, connect_timeout: float, resolve_timeout: float) -> None:
        self.began = monotonic()
        self.deadline = min(deadline, self.began + connect_timeout)
        self._resolve_timeout = resolve_timeout
        self.resolved: float | None = None

    @property
    def patience(self) -> float:
        """Seconds that the name servers have from now on."""
        return min(self._resolve_timeout, self.deadline - monotonic())

    def resolve(self, resolver: Resolver, host: str, port: int) -> list[Resolved]:
        found = addresses(resolver, host, port, self.patience)
        self.resolved = monotonic()
        return found

    def done(self, connection: Connection, ip: str, port: int, via: UpstreamProxy) -> Dialled:
        return Dialled(connection, join_host_port(ip, port), via, self.began, self.resolved, monotonic())


@contextmanager
def _spoken(dial: _Dial, connection: Connection, via: UpstreamProxy, phase: Phase) -> Iterator[None]:
    """Talking with a proxy: within the dial's deadline, and whatever goes wrong ends the connection and is a `Fault` (of `phase`)."""
    connection.deadline = dial.deadline
    try:
        yield
    except BaseException as error:
        connection.finish()
        if isinstance(error, Expired):
            raise Fault(Phase.TIMEOUT, f"the proxy {via} has not answered in time") from error
        if isinstance(error, OSError):
            raise Fault(phase, f"the proxy {via}: {error.strerror or error}") from error
        raise
    connection.lifeline.deadline = math.inf  # which the layers share


def _client(ctx: Context | None) -> Address:
    return _NO_CLIENT if ctx is None else ctx.client
