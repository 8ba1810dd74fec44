"""`Composition`: the objects that serve new connections. A reload makes another composition and swaps them (`Server.swap`).

It is made from the settings, the application, the hijackers and the listening sockets:

    listening sockets   open already, see `binds`. A composition neither opens nor closes them
    routes              HTTP and the hijackers; for a proxy also SOCKS
    muxes               one for each bind that is not transparent, and one for the streams inside its TLS
    contexts            one for each bind with a certificate
    engines             HTTP/1.1 for the application, for the inside of a proxy's tunnels, and for plain HTTP on binds that require TLS
    fronts              by address: the handler of a bind's new connections, and their `lifeline.service`

What only some configurations use is imported where it is used, because each import makes the start of every worker longer.

A connection stays with the composition that began to serve it, also after a swap. The limit of a hijacker counts its connections of the old
and of the new composition together, if its name and its limit are unchanged.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from gevent.event import Event

from muxwsgi.errors import OperatorError
from muxwsgi.events import Events
from muxwsgi.hijackers.resolve import resolve
from muxwsgi.hijackers.tls_route import tls_route, unreadable_hello
from muxwsgi.http.environ import ErrorStream, WSGIApplication
from muxwsgi.http.h1.h1 import HTTP1
from muxwsgi.http.h2.h2 import HTTP2
from muxwsgi.mux.conditional import mux_of
from muxwsgi.mux.hijack import Hijacker, hijacker_of
from muxwsgi.mux.matchers import all_of
from muxwsgi.mux.mux import Mux
from muxwsgi.mux.quota import Quota, quota_of
from muxwsgi.mux.registry import Registered
from muxwsgi.mux.route import FIRST, Handler, Route
from muxwsgi.mux.slots import Slots
from muxwsgi.protocols.http1 import http_last, http_route
from muxwsgi.protocols.http2 import http2_route
from muxwsgi.protocols.tls import client_hello, tls, tls_like
from muxwsgi.record import record
from muxwsgi.server.binds import Listening
from muxwsgi.server.health import Health, with_health
from muxwsgi.server.plain_http import https_required, redirect_to_https
from muxwsgi.server.proxy_application import ProxyApplication, ServedProxy
from muxwsgi.server.wrapped import wrapped
from muxwsgi.settings import BindSettings, ResponseSettings, ServerSettings, TLSSettings
from muxwsgi.upstreams.upstreams import Upstreams
from muxwsgi.wire.lifeline import Lifeline
from muxwsgi.wire.peer import TrustedPeers
from muxwsgi.wire.service import Service

if TYPE_CHECKING:
    from cryptography import x509

    from muxwsgi.server.routes import ConfiguredRoute
    from muxwsgi.wire.tls.server_context import ServerContext

__all__ = ["Composition", "Front"]

log = logging.getLogger("muxwsgi.error")

#: What stands for the bind of a certificate that is of the proxy's CA.
PROXY_CA = "proxy CA"


@record()
class Front:
    """The handler and the service of one bind's new connections.

    handler     owns each connection: the bind's mux, or a transparent door
    service     the `lifeline.service` of each connection
    """

    handler: Handler
    service: Service


@record()
class _Context:
    """The TLS context of a bind, with the settings that it was made from. `bind` is the operator's text."""

    bind: str
    settings: TLSSettings
    alpn: tuple[str, ...]
    openssl: "ServerContext"


class Composition:
    """The objects that the module's docstring lists. Making a composition starts no greenlet and no gevent hub.

    settings    as given
    routes      HTTP and the hijackers, which all binds use, in order; if the application is a proxy, also SOCKS
    muxes       the mux of each bind, by its address as the operator wrote it. Transparent binds have none
    fronts      the front of each bind, by the same address
    upstreams   the servers that routes forward to
    """

    def __init__(
        self,
        app: WSGIApplication,
        hijackers: Iterable[Handler | Hijacker | Route],
        listening: Sequence[Listening],
        *,
        settings: ServerSettings,
        events: Events,
        registered: Sequence[Registered] = (),
        errors: ErrorStream | None = None,
        before: "Composition | None" = None,
        contexts: "Mapping[str, ServerContext] | None" = None,
        multiprocess: bool = False,
        around: Sequence[Callable[[WSGIApplication], WSGIApplication]] = (),
        health: Health | None = None,
    ) -> None:
        """The parameters are those of `Server`. `before` is the composition that this one replaces. Its unchanged TLS contexts are used
        again, because the session tickets of clients are valid for these contexts only.

        Raises `OperatorError`.
        """
        self.settings = settings
        self._events = events
        self._multiprocess = multiprocess
        self._draining = Event()
        self._contexts: dict[str, _Context] = {}
        self._before = {} if before is None else before._contexts
        self._inherited = contexts or {}
        self._slots_before = {} if before is None else before._slots
        limits = settings.mux.limit_per_client or None, settings.mux.rate or None, settings.mux.rate_per_client or None
        self._quota: Quota | None = quota_of(*limits, before=None if before is None else before._quota)
        self._slots: dict[tuple[str | float | None, ...], Slots] = {}  # of hijackers, by name and limits
        self._living: list[Handler] = []  # handlers of hijackers that are started and stopped
        self._started: list[Handler] = []
        self._replaces = before
        self._proxy: ServedProxy | None = None
        routes = self._hijacker_routes(hijackers)
        self._admit = app.admit if isinstance(app, ProxyApplication) else None
        self._of_proxy = app if isinstance(app, ProxyApplication) else None
        if isinstance(app, ProxyApplication):
            if settings.responses != ResponseSettings():
                raise OperatorError("compress, hsts and server_timing: a proxy passes responses on as they are")
            # The proxy's access list also applies to hijackers, because they have none.
            routes = [self._admitted(route) for route in routes]
            self._proxy = app.serve_in(
                settings.http,
                settings.http2,
                routes,
                lambda: [each.name[:2] for each in listening if isinstance(each.name, tuple)],
                events,
                around,
            )
            app = self._proxy
        else:
            app = wrapped(app, settings, around)
        # The clients of a proxy are known by their connections alone: a field that names another client is for the destination.
        trust = None if self._proxy is not None else settings.trust
        if health is not None:
            app = with_health(app, health, self._draining.is_set)
        self._http = HTTP1(app, settings.http, events=events, multiprocess=multiprocess, trust=trust)
        self._engines: list[HTTP1 | HTTP2] = [self._http]
        if self._proxy is not None:
            self._engines += self._proxy.engines
        # All binds use the same routes, inside and outside of TLS, so that the routes' limits are shared.
        self.routes = [http_route(self._http), *routes]
        if settings.http2.http2 == "on":  # behind HTTP/1, which most connections begin with
            http2 = HTTP2(app, settings.http, settings.http2, events=events, multiprocess=multiprocess, trust=trust)
            self._engines.append(http2)
            self.routes.insert(1, http2_route(http2))
        if self._proxy is not None:
            self.routes += self._proxy.front_routes()
        _refuse_equal_names(self.routes)
        self.upstreams: Upstreams = Upstreams(settings.upstreams, None if before is None else before.upstreams)
        configured: list[ConfiguredRoute] = []
        if settings.routes:
            from muxwsgi.server.routes import configured_routes

            configured = configured_routes(settings.routes, self.routes, registered, self.upstreams)
        for made in configured:
            made.check_binds([each.bind for each in listening])
            self._note_living(made.route.handler)
            made.route = self._admitted(self._kept_slots(made.route))
        self._configured = configured
        #: Those of the configuration that are asked on all binds, in front of the others. Each bind has its own in its mux.
        self._everywhere = self.routes
        self.routes = [*(made.route for made in configured), *self.routes]
        self._registered = registered
        self._fallback = self._named("fallback", settings.fallback, registered)
        self._silence = self._named("silence", settings.silence, registered)
        load_balancers = TrustedPeers(settings.trust.proxies)
        self.muxes: dict[str, Mux] = {}
        self._inner: dict[str, Mux] = {}
        self.fronts: dict[str, Front] = {}
        for each in listening:
            if self._proxy is not None:
                self._proxy.check(each.name, transparent=each.bind.transparent is not None)
            if each.bind.transparent is not None:
                handler = self._transparent_door(each)
            else:
                handler = self.muxes[each.address] = self._front_mux(each)
            if self._quota is not None:
                from muxwsgi.hijackers.client_quota import ClientQuota

                handler = ClientQuota(handler, self._quota, settings.mux.rate_wait, events)
            if each.bind.proxy_protocol != "off":
                from muxwsgi.hijackers.proxy_protocol import ProxyProtocol

                handler = ProxyProtocol(handler, each.bind.proxy_protocol, load_balancers, settings.trust.proxy_protocol_timeout, events)
            context = self._contexts.get(each.address)
            side = None if context is None else context.openssl
            service = Service(self._draining, side, events, self.muxes.get(each.address), self._inner.get(each.address))
            self.fronts[each.address] = Front(handler, service)
        self._before = {}
        self._inherited = {}
        self._slots_before = {}
        if errors is not None:
            for engine in self._engines:
                engine.errors = errors

    # Running

    def start(self) -> None:
        """Start the background work of the composition, and handlers of hijackers. Those that the composition before has started go on."""
        before, self._replaces = self._replaces, None
        for handler in self._living:
            if before is not None and handler in before._started:
                before._started.remove(handler)
            elif (start := getattr(handler, "start", None)) is not None:
                if hasattr(handler, "multiprocess"):
                    handler.multiprocess = self._multiprocess
                start()
            self._started.append(handler)
        if before is not None:
            before.upstreams.stop()
        self.upstreams.start()
        if self._proxy is not None:
            self._proxy.start()

    def drain(self) -> None:
        """End each connection after its present exchange, and notify handlers (`Connection.draining`). Idempotent."""
        self._draining.set()
        self.upstreams.stop()  # another process, or another composition, checks its servers
        for engine in self._engines:
            engine.draining = True

    @property
    def destinations(self) -> dict[str, str]:
        """The routes of the configuration by name, each with where its connections go, as the operator wrote it."""
        return {made.route.name: made.to for made in self._configured}

    @property
    def certificates(self) -> "list[tuple[str, x509.Certificate]]":
        """The certificates that are served, each with the address of its bind, and those of a proxy's CA, with `PROXY_CA`."""
        of_binds = [(address, leaf) for address, context in self._contexts.items() for leaf in context.openssl.certificates]
        return of_binds if self._of_proxy is None else of_binds + [(PROXY_CA, each) for each in self._of_proxy.ca_certificates]

    @property
    def proxy_counts(self) -> Mapping[str, int] | None:
        """The numbers of the proxy, None without one."""
        return None if self._of_proxy is None else self._of_proxy.counts

    def serves(self, line: Lifeline) -> bool:
        """Whether the connection of `line` was accepted for this composition."""
        return line.service is not None and line.service.draining is self._draining

    def resting_on(self, line: Lifeline) -> str | None:
        """The address of the bind on which a connection rests between two requests to the application; None for all other connections."""
        if not line.promised or line.engine is not self._http:
            return None
        return next((address for address, front in self.fronts.items() if front.service is line.service), None)

    def resuming(self, until: float) -> Handler:
        """A handler for connections that have rested in another process. They are closed at `until` if no request comes."""
        return partial(self._http.resume, until=until)

    def close(self) -> None:
        """Stop handlers of hijackers, and close the other resources, after the last connection has ended. Idempotent."""
        while self._started:
            handler = self._started.pop()
            try:
                if (stop := getattr(handler, "stop", None)) is not None:
                    stop()
            except Exception:
                log.exception("%r could not be stopped", handler)
        self.upstreams.stop()
        if self._proxy is not None:
            self._proxy.close()

    def reload_certificates(self) -> None:
        """Read all certificate files again. A faulty file is logged, and the certificate before stays in use."""
        for context in self._contexts.values():
            try:
                context.openssl.reload()
            except OperatorError as error:
                log.error("bind %s: the certificates in use stay: %s", context.bind, error)
            else:
                log.info("bind %s: certificates reloaded", context.bind)

    # Composing

    def _hijacker_routes(self, hijackers: Iterable[Handler | Hijacker | Route]) -> list[Route]:
        routes = []
        for hijacker in hijackers:
            if isinstance(hijacker, Route):
                routes.append(hijacker)
                continue
            described = hijacker if isinstance(hijacker, Hijacker) else hijacker_of(hijacker)
            if described is None:
                raise OperatorError(f"hijackers: {hijacker!r} is not decorated with @hijack")
            described = described.made({}, f"hijacker {described.name!r}")
            self._note_living(described.handler)
            routes.append(self._kept_slots(described.route()))
        return routes

    def _note_living(self, handler: Handler) -> None:
        """Note a handler that has to be started and stopped."""
        if handler not in self._living and any(callable(getattr(handler, name, None)) for name in ("start", "stop")):
            self._living.append(handler)

    def _kept_slots(self, route: Route) -> Route:
        """`route` with the slots that the composition before had for it."""
        place = (route.name, *route.limits)
        self._slots[place] = self._slots_before.get(place, route.slots)
        return route.counted_in(self._slots[place])

    def _admitted(self, route: Route) -> Route:
        return route if self._admit is None else route.behind(self._admit)

    def _named(self, option: str, spec: str, registered: Sequence[Registered]) -> Route | None:
        try:
            route = resolve(spec, self.routes, registered, self.upstreams)
        except OperatorError as error:
            raise OperatorError(f"{option}: {error}") from error
        if route is None or route in self.routes:
            return route
        self._note_living(route.handler)
        return self._admitted(route)

    def _mux(
        self,
        name: str,
        routes: list[Route],
        fallback: Route | None,
        silence: Route | None,
        engine: HTTP1 | None = None,
        bind: BindSettings | None = None,
    ) -> Mux:
        """A mux of `routes`. `engine` (None: the application's) serves HTTP that no route matches. `bind` has what is of one bind alone."""
        settings = self.settings.mux
        only = silence_after = None
        if bind is not None:
            silence_after = bind.silence_after
            silence = silence if bind.silence is None else self._of_bind(bind, "silence", bind.silence)
            only = None if bind.only is None else self._of_bind(bind, "only", bind.only)
        takers = [route.name for route in routes if route.takes_silence and route.when is None]
        if silence is None and len(takers) > 1:
            both = " and ".join(takers)
            raise OperatorError(f"silence: {both} take connections of silent clients: name one (--silence {takers[0]})")
        if silence is None and takers:
            silence = next(route for route in routes if route.name == takers[0])
        last = http_last(engine or self._http, fallback=fallback is not None)
        return mux_of(
            [*routes, last],
            name=name,
            fallback=fallback,
            silence=silence,
            sniff_timeout=settings.sniff_timeout,
            patience=self.settings.http.request_head_timeout,
            peek_limit=settings.peek_limit,
            events=self._events,
            silence_after=silence_after,
            only=only,
        )

    def _of_bind(self, bind: BindSettings, option: str, spec: str) -> Route | None:
        route = self._named(f"bind {bind.address}: {option}", spec, self._registered)
        if route is None and option == "only":
            raise OperatorError(f"bind {bind.address}: only=close serves nobody")
        return route

    def _front_mux(self, listening: Listening) -> Mux:
        """The mux of a bind. Its TLS route leads to the mux of the streams inside TLS."""
        bind = listening.bind
        here = [each for each in self._configured if each.is_on(bind)]
        everything = [each.route for each in here] + self._everywhere
        open_mux = self._mux(listening.address, everything, self._fallback, self._silence, bind=bind)
        if bind.certificates:
            context = self._context(listening, tuple(sorted(open_mux.alpn, key=lambda protocol: protocol != "h2")))  # HTTP/2 is preferred
            inside = [each.route for each in here if each.inside] + self._everywhere
            # Where only STARTTLS leads inside, `only` has been to the hijacker that did it.
            of_inside = replace(bind, only=None) if bind.tls == "off" else bind
            inner = self._mux(f"{listening.address}, in TLS", inside, self._fallback, self._silence, bind=of_inside)
            self._inner[listening.address] = inner
        if bind.tls == "off":
            return open_mux
        # The TLS route comes first, because no other protocol begins with the first six bytes of TLS. If TLS is required, OpenSSL gets
        # everything that begins like TLS, and answers an invalid ClientHello with an alert. Routes that get TLS as it is come before.
        match = tls_like if bind.tls == "required" else tls
        looked_at = any(each.of_hello for each in here)
        taken = all_of(match, client_hello) if looked_at else match
        first = [tls_route(context, inner, self.settings.handshake_timeout, match=taken, priority=FIRST)]
        if looked_at:
            first.append(unreadable_hello(match))
        if bind.tls == "optional":
            return self._mux(listening.address, [*first, *everything], self._fallback, self._silence, bind=replace(bind, only=None))
        port = listening.name[1] if isinstance(listening.name, tuple) else 443
        refuse = redirect_to_https(port) if bind.redirect_http else https_required
        engine = HTTP1(refuse, self.settings.http, events=self._events)
        self._engines.append(engine)
        outside = [each.route for each in here if each.outside]
        return self._mux(listening.address, [*first, *outside, http_route(engine, name="plain-http", alpn=())], None, None, engine)

    def _context(self, listening: Listening, alpn: tuple[str, ...]) -> "ServerContext":
        settings = self.settings.tls_of(listening.bind)
        from muxwsgi.wire.tls import start  # noqa: F401  # what each handshake needs, before the first one

        if settings.client_certificates != "none":
            from muxwsgi.http import client_certificate  # noqa: F401  # likewise
        kept = self._before.get(listening.address)
        if kept is None or (kept.settings, kept.alpn) != (settings, alpn):
            inherited = self._inherited.get(listening.address)
            if kept is None and inherited is not None and inherited.settings == settings:
                inherited.serve_with(alpn)
                openssl = inherited
            else:
                from muxwsgi.wire.tls.server_context import ServerContext

                openssl = ServerContext(settings, alpn=alpn)
            kept = _Context(listening.bind.address, settings, alpn, openssl)
        self._contexts[listening.address] = kept
        return kept.openssl

    def _transparent_door(self, listening: Listening) -> Handler:
        """The handler of a transparent bind. It has no mux, because the destination is known, and the server there may speak first."""
        way = listening.bind.transparent
        assert way is not None
        if self._proxy is None:
            raise OperatorError(f"bind {listening.bind.address}: transparent={way} is for a proxy, and the application is none")
        return self._proxy.transparent_door(way, listening.name)


def _refuse_equal_names(routes: Sequence[Route]) -> None:
    for route in routes:
        if sum(other.name == route.name for other in routes) > 1:
            raise OperatorError(f"hijackers: two are named {route.name!r}")
