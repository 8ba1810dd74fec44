"""`Service`: servers that SRV records name (RFC 2782). They are looked up again and again, and come and go with the records.

The package dnspython asks the name servers (`pip install muxwsgi[srv]`), in a thread, because it would block the event loop.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import gevent
from gevent.event import Event

from muxwsgi.errors import OperatorError
from muxwsgi.names import InvalidName, canonical, join_host_port
from muxwsgi.settings.upstream import UpstreamServerSettings

__all__ = ["Query", "Service", "Target", "check_installed", "query"]

log = logging.getLogger("muxwsgi.upstream")

#: Seconds that the name servers have.
QUERY_TIMEOUT = 5.0

#: Servers of one service at most, so that a name server cannot fill the memory.
MOST = 64

#: The largest weight of a server. Records have up to 65,535.
HEAVIEST = 256


class Target(NamedTuple):
    """One SRV record."""

    priority: int
    weight: int
    host: str
    port: int


#: A name -> its records. Raises `OSError`, whose `strerror` is one line.
Query = Callable[[str], Sequence[Target]]


def check_installed() -> None:
    """Raises `OperatorError` if dnspython is not installed."""
    try:
        import dns.resolver  # noqa: F401
    except ImportError as error:
        raise OperatorError(f"SRV records need the package dnspython (pip install muxwsgi[srv]): {error}") from error


def query(name: str) -> Sequence[Target]:
    """Ask the name servers of this machine. Raises `OSError`."""
    found: Sequence[Target] = gevent.get_hub().threadpool.apply(_query, (name,))
    return found


def _query(name: str) -> Sequence[Target]:
    import dns.exception
    import dns.resolver

    try:
        answer = dns.resolver.resolve(name, "SRV", lifetime=QUERY_TIMEOUT, search=False)
    except dns.exception.DNSException as error:
        raise OSError(0, str(error).partition("\n")[0] or type(error).__name__) from error
    records = [Target(each.priority, each.weight, each.target.to_text().rstrip("."), each.port) for each in answer]
    return [each for each in records if each.host]  # "." says that there is no such service


class Service:
    """The servers of one SRV name.

    targets     the records that were found last, None before the first answer
    failure     why the last lookup failed, "" if it did not
    """

    def __init__(
        self,
        settings: UpstreamServerSettings,
        targets: Sequence[Target] | None,
        found: Callable[["Service", Sequence[UpstreamServerSettings]], None],
        ask: Query,
    ) -> None:
        """`settings` are those of all its servers. `targets` are known from before a reload. `found` is called with the servers, after a
        lookup that found others than before."""
        self.name = settings.address.removeprefix("srv:")
        self.targets = targets
        self.failure = ""
        self._settings = settings
        self._found = found
        self._ask = ask
        self._looked = Event()
        self._running: gevent.Greenlet[[], None] | None = None

    def __str__(self) -> str:
        return f"srv:{self.name}"

    def start(self) -> None:
        """Look it up from now on."""
        if self._running is None:
            self._running = gevent.spawn(self._run)

    def stop(self) -> None:
        """End that. Idempotent."""
        if self._running is not None:
            self._running.kill()
            self._running = None

    def wait(self, seconds: float) -> None:
        """Wait for the first answer."""
        if self.targets is None and self._running is not None:
            self._looked.wait(max(seconds, 0.001))

    def servers(self) -> list[UpstreamServerSettings]:
        """The settings of its servers. Those with the lowest priority come first, and the others are backups."""
        targets = sorted(set(self.targets or ()))[:MOST]
        heaviest = max((each.weight for each in targets), default=0)
        scale = min(1.0, HEAVIEST / heaviest) if heaviest else 1.0
        found = []
        for each in targets:
            try:
                address = join_host_port(canonical(each.host), each.port)
                backup = self._settings.backup or each.priority > targets[0].priority
                weight = max(1, round(each.weight * scale))
                found.append(replace(self._settings, address=address, weight=weight, backup=backup))
            except (InvalidName, OperatorError) as error:
                log.warning("%s: a record is left out: %s", self, error)
        return list({each.address: each for each in reversed(found)}.values())[::-1]

    def _run(self) -> None:
        while True:
            try:
                self._look()
            except Exception as error:  # a fault in dnspython or here must not end the lookups
                log.exception("%s could not be looked up", self)
                self.failure = repr(error)
            self._looked.set()
            gevent.sleep(self._settings.resolve)

    def _look(self) -> None:
        try:
            with gevent.Timeout(QUERY_TIMEOUT + 1, TimeoutError(0, "no answer from the name servers")):
                targets = sorted(self._ask(self.name))
        except OSError as error:
            failure = error.strerror or str(error)
            if not self.failure:
                log.warning("%s: the servers before stay: %s", self, failure)
            self.failure = failure
            return
        self.failure = ""
        if targets != self.targets:
            self.targets = targets
            self._found(self, self.servers())
