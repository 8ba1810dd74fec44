"""Makes `Route`s of the routes of a configuration."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING

from muxwsgi.errors import OperatorError
from muxwsgi.hijackers.resolve import resolve
from muxwsgi.mux.matchers import Matcher, all_of, never
from muxwsgi.mux.registry import Registered
from muxwsgi.mux.route import FIRST, Condition, Handler, Route
from muxwsgi.protocols import Protocol, Speaks
from muxwsgi.protocols.tls import alpn_is, sni_is, tls
from muxwsgi.server.bind_text import parse_bind
from muxwsgi.server.conditions import AllHold, Certificate, Clients, ClientsInFile, Inside, ServerName, TimeOfDay
from muxwsgi.server.route_match import anything, matcher_of, protocol_named, sees_hello
from muxwsgi.settings import BindSettings, RouteSettings

if TYPE_CHECKING:
    from muxwsgi.upstreams.upstreams import Upstreams
    from muxwsgi.wire.connection import Connection

__all__ = ["ConfiguredRoute", "configured_routes"]


class ConfiguredRoute:
    """A route of the configuration, and where it is asked.

    to          where its connections go, as the operator wrote it
    route       as a mux has it
    outside     also without TLS on a bind that requires it
    inside      whether it is asked inside of TLS: not if it looks at the ClientHello, or at plain connections only
    of_hello    whether it gets TLS as it is, so it looks at the ClientHello
    """

    def __init__(
        self, settings: RouteSettings, served: Sequence[Route], registered: Sequence[Registered], upstreams: "Upstreams | None" = None
    ) -> None:
        """`served` are the server's routes, `registered` the installed hijackers, and `upstreams` those of the configuration, which `to`
        may name. Raises `OperatorError`."""
        self._settings = settings
        self._upstreams = upstreams
        self._where = settings.where
        self.to = settings.to
        passthrough = settings.to.startswith("passthrough:")
        looks = bool(settings.sni or settings.alpn or sees_hello(settings.match))
        self.of_hello = passthrough or (looks and settings.to in ("close", "reject"))
        if sees_hello(settings.match) and not self.of_hello:
            raise OperatorError(
                f"{self._where}: match: sni and alpn in a match are for to = passthrough, close and reject, which get TLS as it is: "
                "write them beside match"
            )
        if self.of_hello and settings.tls == "yes":
            raise OperatorError(f"{self._where}: tls: the ClientHello is looked at outside of TLS")
        self.outside = self.of_hello or settings.tls in ("no", "any")
        self.inside = not self.of_hello and settings.tls != "no"
        self._binds = [_address(text, self._where) for text in settings.bind]
        self.route = self._made(served, registered)

    def check_binds(self, binds: Sequence[BindSettings]) -> None:
        """Raises `OperatorError` if it is only for connections inside of TLS that ends here, and TLS ends on none of its `binds`. Where a
        plain bind has a certificate, a hijacker may do STARTTLS."""
        settings = self._settings
        keys = {"sni": settings.sni, "subject": settings.subject, "san": settings.san, "tls": settings.tls == "yes"}
        key = next((key for key, value in keys.items() if value), None)
        here = [bind for bind in binds if self.is_on(bind)]
        if key is not None and not self.of_hello and here and all(bind.tls == "off" and not bind.certificates for bind in here):
            raise OperatorError(
                f"{self._where}: {key}: TLS ends on none of its binds, so it would get nothing (--certfile or --tls-dev; "
                "to = passthrough:HOST:PORT passes TLS on as it is)"
            )

    def is_on(self, bind: BindSettings) -> bool:
        """Whether the bind has this route."""
        return not self._binds or bind.address in self._binds

    def _made(self, served: Sequence[Route], registered: Sequence[Registered]) -> Route:
        settings = self._settings
        target = self._target(served, registered)
        protocol = protocol_named(settings.match, f"{self._where}: match") if isinstance(settings.match, str) else None
        own = target.idle_timeout if settings.idle_timeout is None else settings.idle_timeout
        speaks_first = protocol is not None and protocol.speaks_first is Speaks.SERVER
        silence = settings.silence if settings.silence is not None else speaks_first
        limited = any(each is not None for each in (settings.limit_per_client, settings.rate, settings.rate_per_client))
        # A hijacker's connections are counted together, whichever route they come by, unless the route counts its own clients.
        shared = None if settings.limit is not None or target.limit is None or limited else target.slots
        limit = target.limit if settings.limit is None else settings.limit
        try:
            route = Route(
                settings.title,
                self._matcher(protocol, silence),
                self._throttled(target.handler),
                alpn=self._alpn(protocol),
                priority=FIRST + 1 if self.of_hello else settings.priority,
                limit=limit,
                limit_per_client=settings.limit_per_client,
                rate=settings.rate,
                rate_per_client=settings.rate_per_client,
                limit_wait=settings.limit_wait,
                idle_timeout=own,
                takes_silence=silence,
                takes_late=target.takes_late,
                is_stream=target.is_stream,
                when=self._when(),
            )
        except ValueError as error:
            raise OperatorError(f"{self._where}: {error}") from None
        return route if shared is None else route.counted_in(shared)

    def _target(self, served: Sequence[Route], registered: Sequence[Registered]) -> Route:
        to = self._settings.to
        place = f"{self._where}: to"
        if to == "close":
            return Route("close", never, _close)
        if to == "reject":
            return Route("reject", never, _reject)
        try:
            if to.startswith("passthrough:"):
                from muxwsgi.hijackers.forward import forward_route  # and all of dial/

                return forward_route(to.removeprefix("passthrough:"), self._upstreams)
            found = resolve(to, served, registered, self._upstreams)
        except OperatorError as error:
            raise OperatorError(f"{place}: {error}") from None
        assert found is not None  # only `close` is none
        return found

    def _throttled(self, handler: Handler) -> Handler:
        settings = self._settings
        rates = settings.upload_rate, settings.download_rate, settings.total_upload_rate, settings.total_download_rate
        if rates == (None, None, None, None):
            return handler
        from muxwsgi.hijackers.forward import Forward

        if not isinstance(handler, Forward):
            raise OperatorError(f"{self._where}: rates are for forward and passthrough, and not for {settings.to!r}")
        return handler.throttled(*rates)

    def _matcher(self, protocol: Protocol | None, silence: bool) -> Matcher:
        settings = self._settings
        found: list[Matcher] = []
        if settings.match is not None:
            inside_of_tls = protocol is not None and protocol.refines == ("TLS",)
            if inside_of_tls and not self.of_hello:
                return never  # DNS over TLS where TLS ends here: by ALPN alone
            found.append(matcher_of(settings.match, f"{self._where}: match"))
        if self.of_hello:
            if settings.sni:
                found.append(self._checked(lambda: sni_is(*settings.sni), "sni"))
            if settings.alpn:
                found.append(alpn_is(*settings.alpn))
            return all_of(*found) if len(found) > 1 else found[0] if found else tls
        if found:
            return found[0]
        if settings.alpn or silence:
            return never
        if self._when() is None:
            raise OperatorError(f"{self._where}: it would get all connections: it has neither match nor sni, alpn, silence or a condition")
        return anything

    def _checked(self, make: Callable[[], Matcher], key: str) -> Matcher:
        try:
            return make()
        except ValueError as error:
            raise OperatorError(f"{self._where}: {key}: {error}") from None

    def _alpn(self, protocol: Protocol | None) -> tuple[str, ...]:
        if not self.inside:
            return ()
        return self._settings.alpn or (() if protocol is None else protocol.alpn)

    def _when(self) -> Condition | None:
        settings = self._settings
        found: list[Condition] = []
        try:
            if not self.of_hello:
                if settings.tls in ("no", "yes"):
                    found.append(Inside(settings.tls == "yes"))
                if settings.sni:
                    found.append(ServerName(settings.sni))
            if settings.clients is not None:
                found.append(Clients(settings.clients, True))
            if settings.except_clients is not None:
                found.append(Clients(settings.except_clients, False))
            if settings.clients_file is not None:
                found.append(ClientsInFile(settings.clients_file))
            if settings.subject or settings.san:
                found.append(Certificate(settings.subject, settings.san))
            if settings.time is not None:
                found.append(TimeOfDay(settings.time))
        except OperatorError as error:
            raise OperatorError(f"{self._where}: {error}") from None
        return AllHold(found) if found else None


def configured_routes(
    settings: Sequence[RouteSettings], served: Sequence[Route], registered: Sequence[Registered], upstreams: "Upstreams | None" = None
) -> list[ConfiguredRoute]:
    """The routes of a configuration, in its order. Raises `OperatorError`, which names the place."""
    made = []
    taken = {route.name for route in served}
    for each in settings:
        title = each.title
        if title in taken:
            if each.name is not None:
                raise OperatorError(f"{each.where}: another route is named {title!r}")
            title = next(numbered for number in count(2) if (numbered := f"{title}-{number}") not in taken)
        taken.add(title)
        made.append(ConfiguredRoute(replace(each, name=title), served, registered, upstreams))
    return made


def _address(text: str, where: str) -> str:
    try:
        return parse_bind(text).address
    except OperatorError as error:
        raise OperatorError(f"{where}: {error}") from None


def _close(connection: "Connection") -> None:
    """The connection ends as it is."""


def _reject(connection: "Connection") -> None:
    """The connection is reset: the client knows that no server wants it."""
    connection.lifeline.reset_at_close = True
