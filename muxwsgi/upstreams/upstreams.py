"""`Upstreams`: all upstreams of a composition, by name, and those of the short form (`forward:HOST:PORT`). A reload hands states on.

What makes connections is imported with the first upstream, because most servers have none.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from time import monotonic
from typing import TYPE_CHECKING, Any
from zlib import crc32

from muxwsgi.errors import OperatorError
from muxwsgi.settings.upstream import UpstreamServerSettings, UpstreamSettings, short_upstream
from muxwsgi.upstreams.state import REFUSALS, Counts, Readiness, ServerState

if TYPE_CHECKING:
    from muxwsgi.dial.resolve import Resolver
    from muxwsgi.upstreams.server import UpstreamServer
    from muxwsgi.upstreams.service import Query, Service
    from muxwsgi.upstreams.upstream import Upstream
    from muxwsgi.wire.tls.client_context import ClientContext

__all__ = ["Upstreams"]

log = logging.getLogger("muxwsgi.upstream")

#: What a server has in common with the one that it replaces: upstream, name, address.
_Key = tuple[str, str, str]

#: Servers of services that are gone, of which state and numbers are kept: a name server may always name others.
GONE_AT_MOST = 256


class Upstreams:
    """The upstreams. Making them starts nothing."""

    def __init__(
        self,
        settings: Sequence[UpstreamSettings] = (),
        before: "Upstreams | None" = None,
        resolver: "Resolver | None" = None,
        clock: Callable[[], float] = monotonic,
        ask: "Query | None" = None,
    ) -> None:
        """`before` are those that these replace: servers that stay keep their state. `resolver` None is the system's, `ask`
        looks up SRV records, None with dnspython. Raises `OperatorError` for files of TLS that cannot be used."""
        self._resolver = resolver
        self._clock = clock
        self._ask = ask
        self._services: list[tuple[str, Service]] = []
        self._services_before = [] if before is None else before._services
        self._states: dict[_Key, ServerState] = {}
        self._states_before = {} if before is None else before._states
        self._counts: dict[str, Counts] = {} if before is None else before._counts
        self._gone: dict[_Key, str] = {} if before is None else before._gone  # with their labels, the one that has gone first first
        self._before = before  # it counts on until `start`
        self._refused_before = dict.fromkeys(REFUSALS, 0)
        self._retries_before = 0
        self._contexts: dict[UpstreamServerSettings, ClientContext] = {}
        self._is_started = False
        self._named: dict[str, Upstream] = {}
        self._short: dict[str, Upstream] = {}
        for each in settings:
            self._named[each.name] = self._made(each)

    def __iter__(self) -> "Iterator[Upstream]":
        yield from self._named.values()
        yield from self._short.values()

    def named(self, name: str) -> "Upstream":
        """The upstream of the configuration. Raises `OperatorError` without one."""
        found = self._named.get(name)
        if found is None:
            near = get_close_matches(name, list(self._named), n=1)
            there = f"; there are {', '.join(self._named)}" if self._named else ", and the configuration has none"
            raise OperatorError(f"no upstream is named {name!r}" + (f"; did you mean {near[0]!r}?" if near else there))
        return found

    def short(self, text: str) -> "Upstream":
        """The upstream that HOST:PORT, or several of them behind commas, stands for: the same for the same addresses. Raises
        `ValueError`."""
        settings = short_upstream(text)
        found = self._short.get(settings.name)
        if found is None:
            found = self._short[settings.name] = self._made(settings)
        return found

    # Running

    def start(self) -> None:
        """Watch the servers from now on."""
        if self._before is not None:
            self._refused_before, self._retries_before = self._before.refused, self._before.retries
            self._before = None
        self._is_started = True
        for upstream in self:
            for server in upstream.servers:
                if server.settings.verify == "none":
                    log.warning('upstream %s: the certificate of server %s is not verified (verify = "none")', upstream, server)
            upstream.start()

    def stop(self) -> None:
        """End checks and lookups. Sessions go on. Idempotent."""
        self._is_started = False
        for upstream in self:
            upstream.stop()

    def set_readiness(self, name: str, readiness: Readiness) -> bool:
        """Take the operator's word about the server UPSTREAM/SERVER. Whether there is one."""
        for upstream in self:
            for server in upstream.servers:
                if _label(upstream.settings, server.title) == name:
                    upstream.set_readiness(server, readiness)
                    return True
        return False

    def down(self) -> dict[str, int]:
        """The servers that are down, each with a number of its settings."""
        return {label: _number(server) for label, server in self.servers() if not server.state.up}

    def begin_down(self, found: Mapping[str, int]) -> None:
        """Begin with these servers down, as another process had them (`down`). One with other settings begins up."""
        for upstream in self:
            for server in upstream.servers:
                if server.state.up and found.get(_label(upstream.settings, server.title)) == _number(server):
                    upstream.begin_down(server)

    # What is shown and counted

    @property
    def refused(self) -> dict[str, int]:
        """Sessions that were refused since the process began, by reason."""
        return {reason: count + sum(each.refused[reason] for each in self) for reason, count in self._refused_before.items()}

    @property
    def retries(self) -> int:
        """Attempts after a failed one since the process began."""
        return self._retries_before + sum(each.retries for each in self)

    @property
    def waiting(self) -> int:
        """Connections in all queues."""
        return sum(each.waiting for each in self)

    @property
    def counts(self) -> dict[str, Counts]:
        """The numbers of servers by label, also of those that a reload has removed."""
        return self._counts

    def servers(self) -> "Iterator[tuple[str, UpstreamServer]]":
        """Each server with its name in metrics and for `ctl`: UPSTREAM/SERVER, or the address alone where that is the upstream's name."""
        for upstream in self:
            for server in upstream.servers:
                yield _label(upstream.settings, server.title), server

    def described(self) -> list[dict[str, Any]]:
        """All of it for JSON."""
        return [
            {
                "name": upstream.settings.name,
                "balance": upstream.settings.options.balance,
                "waiting": upstream.waiting,
                "refused": dict(upstream.refused),
                "retries": upstream.retries,
                "servers": [{"id": _label(upstream.settings, server.title), **_described(server)} for server in upstream.servers],
            }
            for upstream in self
        ]

    # Making

    def _made(self, settings: UpstreamSettings) -> "Upstream":
        from muxwsgi.dial.resolve import system_resolver
        from muxwsgi.upstreams.server import UpstreamServer
        from muxwsgi.upstreams.upstream import Upstream

        def server_of(each: UpstreamServerSettings) -> UpstreamServer:
            try:
                tls = self._context(each) if each.ssl else None
            except OperatorError as error:
                raise OperatorError(f"upstream {settings.name}: server {each.title}: {error}") from None
            return UpstreamServer(each, self._state(settings, each), tls, self._resolver or system_resolver, self._clock)

        made = Upstream(settings, [server_of(each) for each in settings.servers if not each.is_service], self._clock)
        for each in settings.servers:
            if each.is_service:
                self._serve_service(made, each, server_of)
        if self._is_started:
            made.start()
        return made

    def _serve_service(
        self, upstream: "Upstream", settings: UpstreamServerSettings, server_of: "Callable[[UpstreamServerSettings], UpstreamServer]"
    ) -> None:
        """Give `upstream` the servers that SRV records name."""
        from muxwsgi.upstreams.service import Service, check_installed, query

        if self._ask is None:
            try:
                check_installed()
            except OperatorError as error:
                raise OperatorError(f"upstream {upstream}: server {settings.title}: {error}") from None
        if settings.ssl:
            self._context(settings)  # its files are looked at now

        def found(service: Service, servers: Sequence[UpstreamServerSettings]) -> None:
            present = {server.settings: server for server in upstream.of_service(service)}
            upstream.set_servers(service, [present.get(each) or server_of(each) for each in servers])
            addresses = {each.settings.address for each in upstream.servers}
            for server in present.values():
                if server.settings.address not in addresses:
                    self._note_gone(upstream.settings, server)

        key = f"{upstream} {settings.address}"
        known = next((service.targets for name, service in self._services_before if name == key), None)
        service = Service(settings, known, found, self._ask or query)
        self._services.append((key, service))
        upstream.set_servers(service, [server_of(each) for each in service.servers()])

    def _state(self, settings: UpstreamSettings, server: UpstreamServerSettings) -> ServerState:
        key = (settings.name, server.title, server.address)
        self._gone.pop(key, None)
        state = self._states.get(key) or self._states_before.get(key)
        if state is None:
            counts = self._counts.setdefault(_label(settings, server.title), Counts())
            state = ServerState(self._clock, counts, Readiness.MAINT if server.disabled else Readiness.READY)
        self._states[key] = state
        return state

    def _note_gone(self, settings: UpstreamSettings, server: "UpstreamServer") -> None:
        """A service has `server` no more. It may come back."""
        self._gone[settings.name, server.title, server.settings.address] = _label(settings, server.title)
        while len(self._gone) > GONE_AT_MOST:
            key = next(iter(self._gone))
            self._counts.pop(self._gone.pop(key), None)
            self._states.pop(key, None)
            self._states_before.pop(key, None)

    def _context(self, settings: UpstreamServerSettings) -> "ClientContext":
        """The TLS context, the same for servers with the same settings of TLS: the CAs of the system take ten milliseconds."""
        key = replace(
            UpstreamServerSettings(address="127.0.0.1:1", ssl=True, verify=settings.verify, ca_file=settings.ca_file, sni=settings.sni),
            crt=settings.crt,
            key=settings.key,
            alpn=settings.alpn,
        )
        context = self._contexts.get(key)
        if context is None:
            from muxwsgi.upstreams.tls import server_context  # OpenSSL

            context = self._contexts[key] = server_context(settings)
        return context


def _label(settings: UpstreamSettings, server: str) -> str:
    return server if settings.name == server else f"{settings.name}/{server}"


def _number(server: "UpstreamServer") -> int:
    """A number for the settings of a server, not 0, the same in all processes."""
    return crc32(repr(server.settings).encode()) + 1


def _described(server: "UpstreamServer") -> dict[str, Any]:
    state = server.state
    return {
        "name": server.title,
        "address": server.settings.address,
        "state": "up" if state.up else "down",
        "readiness": state.readiness.value,
        "since": round(state.since, 3),
        "sessions": server.taken,
        "maxconn": server.settings.maxconn,
        "weight": server.settings.weight,
        "weight_now": round(server.weight_now, 3),
        "backup": server.settings.backup,
        "connected": state.counts.connected,
        "connect_failures": state.counts.connect_failures,
        "checks": state.counts.checks,
        "check_failures": state.counts.check_failures,
        "downs": state.counts.downs,
        "last_failure": state.last_failure or None,
        "last_failure_at": round(state.last_failure_at, 3) or None,
    }
