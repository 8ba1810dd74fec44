"""`Lookup`: the addresses of a server. A name is looked up again when its addresses are older than `resolve` seconds."""

import logging
import socket as socket_module
from collections.abc import Callable
from time import monotonic

import gevent

from muxwsgi.dial.errors import DialError, ResolveTimeout
from muxwsgi.dial.resolve import Resolved, Resolver, addresses, literal

__all__ = ["Lookup"]

log = logging.getLogger("muxwsgi.upstream")

#: Seconds that the name servers have.
RESOLVE_TIMEOUT = 5.0

#: Seconds that a connection waits for them if earlier addresses are known.
STALE_WAIT = 1.0


class Lookup:
    """One lookup runs at a time, whatever the number of connections that wait for it, so a slow name server holds one thread.

    A name that vanishes, or name servers that do not answer, leave the addresses before in use: checks and connections find out whether
    they are still good.
    """

    def __init__(self, host: str, port: int, interval: float, resolver: Resolver, clock: Callable[[], float] = monotonic) -> None:
        self._host = host
        self._port = port
        self._interval = interval
        self._resolver = resolver
        self._clock = clock
        # The operator's zone is one of this machine's interfaces. It is not part of a name.
        known = (int(socket_module.AF_INET6), host) if "%" in host else literal(host)
        self._is_literal = known is not None
        self._known: list[Resolved] = [] if known is None else [known]
        self._fresh_until = 0.0
        self._failure: DialError | None = None
        self._running: gevent.Greenlet[[], None] | None = None

    def find(self, seconds: float) -> list[Resolved]:
        """The addresses, at least one, within `seconds`. Raises `ResolveError` and `ResolveTimeout`."""
        if self._is_literal or (self._known and self._clock() < self._fresh_until):
            return self._known
        if self._running is None:
            self._running = gevent.spawn(self._look)
        seconds = min(seconds, RESOLVE_TIMEOUT)
        running = self._running
        running.join(max(min(seconds, STALE_WAIT) if self._known else seconds + 0.05, 0.001))
        if self._known:
            return self._known
        if self._failure is None or not running.dead:
            raise ResolveTimeout(f"{self._host}: no answer from the name servers in {seconds:.3g} s")
        raise type(self._failure)(self._failure.reason)

    def stop(self) -> None:
        """End a lookup that runs."""
        if self._running is not None:
            self._running.kill()
            self._running = None

    def _look(self) -> None:
        try:
            found = addresses(self._resolver, self._host, self._port, RESOLVE_TIMEOUT)
        except DialError as error:
            if self._known and self._failure is None:
                log.warning("%s: the addresses before stay in use: %s", self._host, error.reason)
            self._failure = error
        else:
            if self._known and sorted(found) != sorted(self._known):
                log.info("%s: the addresses are %s now", self._host, ", ".join(ip for _, ip in found))
            self._known = found
            self._failure = None
        finally:
            self._fresh_until = self._clock() + self._interval
            self._running = None
