"""`@hijack`: makes any callable that takes a connection a hijacker, and says when it wants one.

The callable stays what it was: it can be called, tested and imported as before. Plugins import this module,
so it imports no gevent.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from muxwsgi.mux import matchers
from muxwsgi.mux.matchers import Matcher
from muxwsgi.mux.route import Handler, Route

if TYPE_CHECKING:
    from muxwsgi.wire.connection import Connection

__all__ = ["RESERVED_NAMES", "Hijacker", "check_name", "hijack", "hijacker_of"]

AnyHandler = TypeVar("AnyHandler", bound=Callable[[Any], None])

_ATTRIBUTE = "__muxwsgi_hijacker__"

#: Names that mean something else on the command line or in the server's own routes.
RESERVED_NAMES = frozenset({"all", "close", "forward", "http", "http2", "none", "tls"})

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Hijacker:
    """What `@hijack` was told: a handler and the terms of its route (see `hijack` for each)."""

    name: str
    handler: Handler
    match: Matcher = matchers.never
    alpn: tuple[str, ...] = ()
    priority: int = 0
    limit: int | None = None
    limit_wait: float = 0.0
    idle_timeout: float | None = None
    takes_silence: bool = False
    examples: tuple[str, str] | None = None

    def __post_init__(self) -> None:
        check_name(self.name)
        self.route()  # a wrong limit is an error where it was written

    def named(self, name: str) -> "Hijacker":
        """The same under another name."""
        return self if name == self.name else replace(self, name=name)

    def route(self) -> Route:
        """A new route to the handler. Its limit is its own: to share one among muxes, share the route."""
        return Route(
            self.name,
            self.match,
            self.handler,
            alpn=self.alpn,
            priority=self.priority,
            limit=self.limit,
            limit_wait=self.limit_wait,
            idle_timeout=self.idle_timeout,
            takes_silence=self.takes_silence,
        )


class SocketHandler:
    """Gives `handler` the connection as a real socket."""

    def __init__(self, handler: Callable[..., None]) -> None:
        self.handler = handler

    def __call__(self, connection: "Connection") -> None:
        """What `handler` raises."""
        self.handler(connection.as_socket())

    def __repr__(self) -> str:
        return repr(self.handler)


def check_name(name: str) -> None:
    """Raises `ValueError` for a name that no hijacker can have."""
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"a hijacker cannot be named {name!r}: lower-case letters, digits, '.', '_' and '-', please"
        )
    if name in RESERVED_NAMES:
        raise ValueError(f"a hijacker cannot be named {name!r}: that name is muxwsgi's own")


def hijack(
    *,
    match: Matcher = matchers.never,
    name: str | None = None,
    alpn: Iterable[str] = (),
    priority: int = 0,
    limit: int | None = None,
    limit_wait: float = 0.0,
    idle_timeout: float | None = None,
    takes_silence: bool = False,
    as_socket: bool = False,
    examples: tuple[str, str] | None = None,
) -> Callable[[AnyHandler], AnyHandler]:
    """Make the decorated callable a hijacker.

    match           when it wants a connection, by the first bytes; without it only `alpn`, silence or its
                    name lead to it
    name            as in listings and `--hijack NAME`; the callable's own with `_` as `-`, if not given
    alpn            ALPN ids that it owns: offered in the TLS handshake, and decided by at once
    priority        higher is asked first; 0 is that of HTTP
    limit           connections at once in one process; others wait `limit_wait` seconds for their turn, then
                    are closed
    idle_timeout    seconds without a byte in either direction until its wait raises `Expired`
    takes_silence   also gets connections whose client waits for the server to speak first
    as_socket       the callable is given the socket of `Connection.as_socket()`, whose `connection` is the connection: for libraries
                    that need a real descriptor, poll it, or use it in threads. When the callable returns, its connection ends
    examples        command lines to try it with, plain and in TLS, with {host} and {port}: `muxwsgi run`
                    shows them

    Raises `ValueError` for what cannot be.
    """
    if isinstance(alpn, str):
        raise ValueError(f"alpn is a sequence of ids, as in alpn=({alpn!r},)")

    def describe(handler: AnyHandler) -> AnyHandler:
        own_name = getattr(handler, "__name__", type(handler).__name__)
        hijacker = Hijacker(
            name=name if name is not None else own_name.lower().replace("_", "-"),
            handler=SocketHandler(handler) if as_socket else handler,
            match=match,
            alpn=tuple(alpn),
            priority=priority,
            limit=limit,
            limit_wait=limit_wait,
            idle_timeout=idle_timeout,
            takes_silence=takes_silence,
            examples=examples,
        )
        setattr(handler, _ATTRIBUTE, hijacker)
        return handler

    return describe


def hijacker_of(handler: object) -> Hijacker | None:
    """What `@hijack` was told about `handler`; None when it was not decorated."""
    found = getattr(handler, _ATTRIBUTE, None)
    return found if isinstance(found, Hijacker) else None
