"""`Attempt`: makes one connection within a time limit. It does not ask the guard; `Dialer` does."""

import socket
from collections.abc import Mapping, Sequence
from time import monotonic

from muxwsgi.dial.happy_eyeballs import Source, connect_first
from muxwsgi.dial.resolve import Resolved, Resolver, addresses

__all__ = ["Attempt"]


class Attempt:
    """One deadline covers resolving, connecting, and the caller's handshake after that.

    began, deadline     absolute `time.monotonic()` seconds
    resolved            when the name's addresses were known; None if no name was resolved
    """

    __slots__ = ("_resolve_timeout", "began", "deadline", "resolved")

    def __init__(self, connect_timeout: float, resolve_timeout: float, deadline: float = float("inf")) -> None:
        """`connect_timeout` is the limit in seconds for the whole attempt, `resolve_timeout` the limit for the name servers. The attempt
        ends at `deadline` at the latest."""
        self.began = monotonic()
        self.deadline = min(deadline, self.began + connect_timeout)
        self._resolve_timeout = resolve_timeout
        self.resolved: float | None = None

    @property
    def resolve_time_left(self) -> float:
        """Seconds from now until the limit for the name servers."""
        return min(self._resolve_timeout, self.deadline - monotonic())

    def resolve(self, resolver: Resolver, host: str, port: int) -> list[Resolved]:
        """The addresses of `host`, at least one. Raises `InvalidTarget`, `ResolveError`, `ResolveTimeout`."""
        found = addresses(resolver, host, port, self.resolve_time_left)
        self.resolved = monotonic()
        return found

    def connect(self, found: Sequence[Resolved], port: int, sources: Mapping[int, Source] | None = None) -> tuple[socket.socket, str]:
        """A socket to the first address that answers, and this address. See `connect_first`. Raises `ConnectError` and
        `ConnectTimeout`."""
        return connect_first(found, port, self.deadline, sources)
