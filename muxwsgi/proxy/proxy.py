"""`Proxy`: the forward proxy, a WSGI application.

    proxy = Proxy()

    @proxy.on_request(req_host_is("ads.example"))
    def no_ads(request, ctx):
        return Response("no", 403)

    proxy.on_connect().mitm()

Every way in ends in one of two places. A request (to a proxy, or inside of a tunnel) goes through `HTTPDoor` to `Exchanges`: rules, then a
mounted application or the upstream, then rules again. A tunnel (CONNECT, SOCKS, transparent) goes through `Entrance`: rules, then what they
decided. Here is what a program uses, and what is made once; what depends on the server is `ServedProxy`.
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from muxwsgi.dial.dialer import Dialer, DialSettings
from muxwsgi.dial.guard import Guard
from muxwsgi.dial.resolve import Resolver, system_resolver
from muxwsgi.dial.upstream_choice import UpstreamChoice
from muxwsgi.events import Events
from muxwsgi.http.client.pool import Pool
from muxwsgi.http.environ import WSGIApplication
from muxwsgi.mux.route import Route
from muxwsgi.names import split_host_port
from muxwsgi.proxy.certificates.authority import Authority
from muxwsgi.proxy.certificates.key_log import KeyLog
from muxwsgi.proxy.certificates.leaf_contexts import LeafContexts
from muxwsgi.proxy.certificates.passthrough import PassThrough
from muxwsgi.proxy.context import Context
from muxwsgi.proxy.doors.access import Access
from muxwsgi.proxy.doors.front_page import FrontPage
from muxwsgi.proxy.doors.http import HTTPDoor
from muxwsgi.proxy.exchange.client_watch import ClientWatch
from muxwsgi.proxy.exchange.exchange import Exchanges, error_response
from muxwsgi.proxy.exchange.forward import Forwarder
from muxwsgi.proxy.fault import Fault, Phase
from muxwsgi.proxy.rules.actions import Action, Reject
from muxwsgi.proxy.rules.message import Request, Response
from muxwsgi.proxy.rules.rules import Rules
from muxwsgi.proxy.served import ServedProxy, Shared
from muxwsgi.proxy.settings import ProxySettings
from muxwsgi.proxy.tunnel.entrance import Entrance
from muxwsgi.proxy.upstream.tls import UpstreamTLS
from muxwsgi.proxy.upstream.upstreams import Upstreams
from muxwsgi.proxy.via import Via
from muxwsgi.records.flow import FlowSink
from muxwsgi.records.recorder import Recorder
from muxwsgi.settings import CertificateFiles, HTTP2Settings, HTTPSettings
from muxwsgi.wire.every import Every
from muxwsgi.wire.sweeper import Sweeper

if TYPE_CHECKING:
    from muxwsgi.wire.connection import Connection

__all__ = ["Proxy"]

#: Seconds between two looks at the upstream connections that are kept.
PRUNE_INTERVAL = 5.0

Environ = dict[str, Any]
StartResponse = Callable[..., Callable[[bytes], None]]


class Proxy:
    """A WSGI application that passes requests on, and takes tunnels over. Served by muxwsgi alone: tunnels need its connections.

    `wsgi_app` is what answers requests: middleware is put around it, as one does with Flask
    (`proxy.wsgi_app = Middleware(proxy.wsgi_app)`), and sees the requests inside of tunnels too.

    Attributes:
        settings: as given.
        rules: what the operator wants done with what passes through.
        on_request, on_response, on_connect, on_chunk, on_frame, on_error, mount: those of `rules`, which add a rule.
        access: the access control.
        passthrough: the hosts whose TLS is not intercepted, and what was learned of them.
        pool: the upstream connections that are kept.
    """

    def __init__(
        self,
        settings: ProxySettings | None = None,
        *,
        access: Access | None = None,
        authority: Authority | None = None,
        certificates: Mapping[str, CertificateFiles] | None = None,
        hijackers: Iterable[Route] = (),
        upstreams: UpstreamChoice | None = None,
        upstream_certificates: Mapping[str, CertificateFiles] | None = None,
        resolver: Resolver = system_resolver,
        dialing: DialSettings | None = None,
        allow_private: bool = False,
        allow_networks: Iterable[str] = (),
        key_log: KeyLog | None = None,
        sinks: Iterable[FlowSink] = (),
        direct_hosts: Iterable[str] = (),
        nonproxy: WSGIApplication | None = None,
    ) -> None:
        """
        access          access control; None admits clients of this machine, and no others
        authority       mints the leaves; None for the one in `settings.ca_folder`, read when it is first needed
        certificates    own certificates by host, shown instead of minted ones
        hijackers       routes for protocols inside of tunnels, beside those of the server that the proxy runs in
        upstreams       which further proxy to go through; None as HTTPS_PROXY, NO_PROXY and the like say
        upstream_certificates   our certificates by the server's name (`host`, `*.domain`), for servers that ask for one; those that
                        are not in it are shown `settings.upstream_cert`
        resolver        (host, port) -> addresses
        dialing         how connections are made, beyond `settings.connect_timeout`
        allow_private, allow_networks   where clients may go beyond public addresses, see `Guard`
        key_log         where TLS secrets are written, for Wireshark
        sinks           get a `Flow` of each exchange and each relayed stream
        direct_hosts    that the PAC file sends past the proxy
        nonproxy        answers requests that are meant for the proxy itself; None for a page with the PAC file and the CA

        Raises `OperatorError`.
        """
        self.settings = settings = settings or ProxySettings()
        self.access = access or Access()
        self.passthrough = PassThrough(settings.passthrough, learn_after=settings.learn_after or None)
        self.pool = Pool(settings.max_idle, settings.max_idle_per_host, settings.idle_timeout)
        self.rules = rules = Rules()
        # goproxy's users write rules on the proxy. Bound here, so that each has one signature and one docstring.
        self.on_request = rules.on_request
        self.on_response = rules.on_response
        self.on_connect = rules.on_connect
        self.on_chunk = rules.on_chunk
        self.on_frame = rules.on_frame
        self.on_error = rules.on_error
        self.mount = rules.mount
        self._recorder = Recorder(sinks, settings.capture_limit)
        self._leaf_contexts = LeafContexts(
            authority, settings.ca_folder, key_type=settings.leaf_key_type, own=certificates, key_log=key_log
        )
        self._sweeper = Sweeper()
        self._client_watch = ClientWatch()
        self._pruning = Every(PRUNE_INTERVAL, lambda: self._upstreams.prune())
        #: The servers that run with it right now.
        self._served: list[ServedProxy] = []
        self._without_server: ServedProxy | None = None

        # The way out: made now, so that a file that is of no use shows before anybody is served.
        choice = UpstreamChoice.of_environment(os.environ) if upstreams is None else upstreams
        guard = Guard(self._own_addresses, allow_networks, allow_private)
        via = Via(settings.via, settings.pseudonym)
        dialer = Dialer(
            dialing or DialSettings(), guard, choice, resolver, self._sweeper, connect_timeout=settings.connect_timeout
        )
        tls = UpstreamTLS(settings, key_log, upstream_certificates)
        self._upstreams = Upstreams(settings, dialer, self.pool, self._sweeper, tls, via)
        forwarder = Forwarder(settings, self._upstreams, self._client_watch, via)
        exchanges = Exchanges(settings, rules, forwarder, self._recorder)

        page = nonproxy or FrontPage(direct=direct_hosts, ca_pem=lambda: self._ca(Encoding.PEM), ca_der=lambda: self._ca(Encoding.DER))
        self.wsgi_app: WSGIApplication = HTTPDoor(
            self.access, rules, exchanges, self._upstreams, via, page, self._own_entrance, settings.connect_timeout
        )
        self._shared = Shared(
            settings=settings,
            rules=rules,
            access=self.access,
            passthrough=self.passthrough,
            leaf_contexts=self._leaf_contexts,
            upstreams=self._upstreams,
            recorder=self._recorder,
            hijackers=tuple(hijackers),
        )

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        return self.wsgi_app(environ, start_response)

    def block(self, blocked: Callable[[str], str | None]) -> None:
        """Refuse all that goes to a host for which `blocked` gives a reason: requests, tunnels, and the server names inside of tunnels."""

        def of_request(request: Request, ctx: Context) -> Response | None:
            reason = blocked(request.destination[0])
            if reason is None and ctx.destination is not None:
                reason = blocked(ctx.destination[0])
            return None if reason is None else error_response(Fault(Phase.POLICY, f"blocked: {reason}"))

        def of_tunnel(host: str, ctx: Context) -> Action | None:
            reason = blocked(split_host_port(host)[0])
            return None if reason is None else Reject(error_response(Fault(Phase.POLICY, f"blocked: {reason}")))

        self.on_request().do(of_request)
        self.on_connect().do(of_tunnel)

    @property
    def sinks(self) -> list[FlowSink]:
        """What flows are given to."""
        return self._recorder.sinks

    @property
    def may_intercept(self) -> bool:
        """Whether a tunnel may be intercepted, so that a CA is needed."""
        return self._shared.may_intercept

    @property
    def counts(self) -> dict[str, int]:
        """Numbers for counters. Of leaves: `minted`, `hits`, `evicted` and `failed` since the start, and how many `leaves` are kept now. Of
        connections to upstreams: `opened`, `reused`, `kept`, `refused` and `dropped` since the start, and how many are `idle` now."""
        pool = self.pool
        numbers = {name: int(getattr(pool, name)) for name in ("opened", "reused", "kept", "refused", "dropped", "idle")}
        return numbers | self._leaf_contexts.counts

    @property
    def ca_certificates(self) -> Sequence[x509.Certificate]:
        """The certificates of the CA, the one for clients to trust last; empty while no CA is loaded."""
        return self._leaf_contexts.authority().certificates if self._leaf_contexts.has_authority else ()

    # In a server

    def admit(self, connection: "Connection") -> None:
        """Whether the client's address may use the proxy, and so what is served beside it. Raises `NotAdmitted`."""
        self.access.admit(connection)

    def serve_in(
        self,
        http: HTTPSettings,
        http2: HTTP2Settings,
        hijackers: Iterable[Route],
        addresses: Callable[[], list[tuple[str, int]]],
        events: Events | None = None,
        around: Sequence[Callable[[WSGIApplication], WSGIApplication]] = (),
    ) -> ServedProxy:
        """Compose what a server serves the proxy with. Given are its settings of HTTP, its hijackers, the addresses where it listens, its
        events, and functions that wrap the application. Starts nothing."""
        application: WSGIApplication = self
        for wrap in around:
            application = wrap(application)
        return ServedProxy(
            self._shared,
            application,
            http,
            http2,
            hijackers,
            addresses,
            events,
            on_start=self._start,
            on_close=self._close,
        )

    def _start(self, served: ServedProxy) -> None:
        if served not in self._served:
            self._served.append(served)
        for each in (self._client_watch, self._sweeper, self._pruning):
            each.start()

    def _close(self, served: ServedProxy) -> None:
        """Close what is kept for later, at the end of the last server."""
        if served in self._served:
            self._served.remove(served)
        if not self._served:
            self._upstreams.close()
            for each in (self._client_watch, self._sweeper, self._pruning):
                each.stop()

    def _own_addresses(self) -> list[tuple[str, int]]:
        """Where clients would reach this proxy."""
        return [address for served in self._served for address in served.addresses()]

    def _own_entrance(self) -> Entrance:
        """The entrance for requests that came by no server that knows of the proxy, because another application or proxy is around it."""
        if self._without_server is None:
            self._without_server = self.serve_in(HTTPSettings(), HTTP2Settings(http2="off"), (), list)
            self._without_server.start()
        return self._without_server.entrance

    def _ca(self, encoding: Encoding) -> bytes | None:
        """The CA's certificate, None where nothing is minted."""
        if not self._leaf_contexts.has_authority and not self.may_intercept:
            return None
        return self._leaf_contexts.authority().anchor.public_bytes(encoding)
