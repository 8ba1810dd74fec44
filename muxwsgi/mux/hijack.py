"""`@hijack` makes a hijacker of a callable that takes a connection, and says which connections it gets.

The callable stays what it was: it can be called, tested and imported as before. Plugins import this module,
so it imports no gevent.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import is_dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from muxwsgi.errors import OperatorError
from muxwsgi.mux import matchers
from muxwsgi.mux.matchers import Matcher
from muxwsgi.mux.route import Handler, Route
from muxwsgi.record import record
from muxwsgi.setting import read_options

if TYPE_CHECKING:
    from muxwsgi.wire.connection import Connection

__all__ = ["RESERVED_NAMES", "Hijacker", "check_name", "hijack", "hijacker_of"]

#: A handler, or with `options` what makes one: a class or a function.
AnyHandler = TypeVar("AnyHandler", bound=Callable[[Any], object])

_ATTRIBUTE = "__muxwsgi_hijacker__"

#: Names that mean something else on the command line or in the server's own routes.
RESERVED_NAMES = frozenset({"all", "close", "forward", "http", "http2", "none", "tls"})

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")


@record(kw_only=True)
class Hijacker:
    """The arguments of `@hijack`: a handler and the settings of its route (see `hijack` for each)."""

    name: str
    handler: Handler
    match: Matcher = matchers.never
    alpn: tuple[str, ...] = ()
    priority: int = 0
    limit: int | None = None
    limit_per_client: int | None = None
    rate: float | None = None
    rate_per_client: float | None = None
    limit_wait: float = 0.0
    idle_timeout: float | None = None
    takes_silence: bool = False
    examples: tuple[str, str] | None = None
    options: type | None = None

    def __post_init__(self) -> None:
        check_name(self.name)
        if self.options is not None and not is_dataclass(self.options):
            raise ValueError(f"hijacker {self.name!r}: options is a dataclass, not {self.options!r}")
        self.route()  # raises for a wrong limit, where it is written

    def named(self, name: str) -> "Hijacker":
        """A copy with another name."""
        return self if name == self.name else replace(self, name=name)

    def made(self, values: Mapping[str, Any], where: str) -> "Hijacker":
        """The hijacker whose handler is made with these values of its options. Raises `OperatorError`, which begins with `where`."""
        if self.options is None:
            if values:
                raise OperatorError(f"{where}: the hijacker {self.name!r} has no options")
            return self
        factory: Callable[[Any], Handler] = self.handler  # type: ignore[assignment]
        try:
            handler = factory(read_options(self.options, values, where))
        except ValueError as error:
            raise OperatorError(f"{where}: {error}") from error
        return replace(self, handler=handler, options=None)

    def route(self) -> Route:
        """A new route to the handler, with new slots. Muxes that share a limit share the route."""
        return Route(
            self.name,
            self.match,
            self.handler,
            alpn=self.alpn,
            priority=self.priority,
            limit=self.limit,
            limit_per_client=self.limit_per_client,
            rate=self.rate,
            rate_per_client=self.rate_per_client,
            limit_wait=self.limit_wait,
            idle_timeout=self.idle_timeout,
            takes_silence=self.takes_silence,
        )


class SocketHandler:
    """Gives `handler` the connection as a real socket."""

    def __init__(self, handler: Callable[..., object]) -> None:
        self.handler = handler

    def __call__(self, connection: "Connection") -> None:
        """Raises what `handler` raises."""
        self.handler(connection.as_socket())

    def __repr__(self) -> str:
        return repr(self.handler)


def check_name(name: str) -> None:
    """Raises `ValueError` where a hijacker cannot have this name."""
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"a hijacker cannot be named {name!r}: use lower-case letters, digits, '.', '_' and '-'"
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
    limit_per_client: int | None = None,
    rate: float | None = None,
    rate_per_client: float | None = None,
    limit_wait: float = 0.0,
    idle_timeout: float | None = None,
    takes_silence: bool = False,
    as_socket: bool = False,
    examples: tuple[str, str] | None = None,
    options: type | None = None,
) -> Callable[[AnyHandler], AnyHandler]:
    """Make the decorated callable a hijacker.

    match           matcher of the first bytes; without it a connection comes by `alpn`, by silence or by name
    name            as in listings and `--hijack NAME`; the callable's own with `_` as `-`, if not given
    alpn            its ALPN ids: TLS offers them, and a client that agrees on one goes to it at once
    priority        routes with a higher one are asked first; HTTP has 0
    limit           connections at once in one process. One more waits `limit_wait` seconds for its turn, and is
                    closed then
    limit_per_client        connections of one client address at once in one process (of IPv6: of 64 bits). One more is closed
    rate, rate_per_client   new connections a second in one process, of all clients and of one address. One more waits `limit_wait` seconds,
                    and is closed then
    idle_timeout    seconds without a byte in either direction until its wait raises `Expired`
    takes_silence   also gets connections whose client waits for the server to speak first
    as_socket       the callable is given the socket of `Connection.as_socket()`, whose `connection` is the connection: for libraries
                    that need a real descriptor, poll it, or use it in threads. When the callable returns, its connection ends
    examples        command lines to try it with, plain and in TLS, with {host} and {port}: `muxwsgi run`
                    shows them
    options         a dataclass of options that the operator may set. The decorated class or function is then called with an instance, once
                    in each worker, and returns the handler. If that has methods `start` and `stop`, they are called in the worker
                    before its first connection and after its last one

    Raises `ValueError` for wrong arguments.
    """
    if isinstance(alpn, str):
        raise ValueError(f"alpn is a sequence of ids, as in alpn=({alpn!r},)")
    if as_socket and options is not None:
        raise ValueError("as_socket is not for a hijacker with options: let its handler call as_socket() of the connection")

    def describe(handler: AnyHandler) -> AnyHandler:
        own_name = getattr(handler, "__name__", type(handler).__name__)
        hijacker = Hijacker(
            name=name if name is not None else own_name.lower().replace("_", "-"),
            handler=SocketHandler(handler) if as_socket else handler,  # type: ignore[arg-type]  # it may make the handler
            match=match,
            alpn=tuple(alpn),
            priority=priority,
            limit=limit,
            limit_per_client=limit_per_client,
            rate=rate,
            rate_per_client=rate_per_client,
            limit_wait=limit_wait,
            idle_timeout=idle_timeout,
            takes_silence=takes_silence,
            examples=examples,
            options=options,
        )
        setattr(handler, _ATTRIBUTE, hijacker)
        return handler

    return describe


def hijacker_of(handler: object) -> Hijacker | None:
    """The hijacker that `@hijack` made of `handler`; None where it is not decorated. An instance of a decorated class has its options
    already, and is the handler."""
    found = getattr(handler, _ATTRIBUTE, None)
    if not isinstance(found, Hijacker):
        return None
    if found.options is not None and isinstance(found.handler, type) and isinstance(handler, found.handler):
        return replace(found, handler=handler, options=None)  # type: ignore[arg-type]  # it is called as its class was to be
    return found
