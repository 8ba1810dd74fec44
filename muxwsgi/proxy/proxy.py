"""`Proxy`: the forward proxy, a WSGI application.

    proxy = Proxy()

    @proxy.on_request(req_host_is("ads.example"))
    def no_ads(request, ctx):
        return Response("no", 403)

    proxy.on_connect().mitm()

Every way in ends in one of two methods. A request (to a proxy, or inside of a tunnel) goes through `_exchange`: rules, then a mounted
application or the upstream, then rules again. A tunnel (CONNECT, SOCKS, transparent) goes through `enter`: rules, then what they decided.
"""

import logging
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

import werkzeug.wrappers
from cryptography.hazmat.primitives.serialization import Encoding

from muxwsgi.dial.dialer import Dialer, DialSettings
from muxwsgi.dial.errors import InvalidTarget
from muxwsgi.dial.guard import Guard
from muxwsgi.dial.resolve import Resolver, check_target, system_resolver
from muxwsgi.dial.upstream_choice import UpstreamChoice
from muxwsgi.errors import PeerError
from muxwsgi.http.client.pool import Pool
from muxwsgi.http.exchange import OnExchange
from muxwsgi.http.h1.h1 import HTTP1, OnReject, WSGIApplication
from muxwsgi.mux.mux import Mux, OnRefusal
from muxwsgi.mux.route import Route
from muxwsgi.names import address_text, split_host_port
from muxwsgi.proxy.certificates.authority import Authority
from muxwsgi.proxy.certificates.key_log import KeyLog
from muxwsgi.proxy.certificates.leaf_context import LeafContext
from muxwsgi.proxy.certificates.leaves import Leaves
from muxwsgi.proxy.certificates.passthrough import PassThrough
from muxwsgi.proxy.context import Context, Door, Layer
from muxwsgi.proxy.doors.access import Access, CredentialsWanted, NotAdmitted
from muxwsgi.proxy.doors.door import Reply
from muxwsgi.proxy.doors.front_page import FrontPage
from muxwsgi.proxy.doors.socks import SocksDoor
from muxwsgi.proxy.doors.transparent import TransparentDoor, Way
from muxwsgi.proxy.exchange.exchange import Exchanges, error_response
from muxwsgi.proxy.exchange.forward import Forwarder
from muxwsgi.proxy.exchange.hangup import Hangups
from muxwsgi.proxy.exchange.onward import NotOnward, Onward
from muxwsgi.proxy.fault import Fault, Phase
from muxwsgi.proxy.rules.actions import Accept, Action, Hijack, Mitm, Reject
from muxwsgi.proxy.rules.message import Request, Response, to_wsgi
from muxwsgi.proxy.rules.rules import Rules
from muxwsgi.proxy.settings import ProxySettings
from muxwsgi.proxy.tunnel import Tunnels
from muxwsgi.proxy.upstream.endpoint import Endpoint
from muxwsgi.proxy.upstream.tls import UpstreamTLS
from muxwsgi.proxy.upstream.upstreams import Upstreams
from muxwsgi.proxy.via import Via
from muxwsgi.records.flow import FlowSink
from muxwsgi.records.recorder import Recorder
from muxwsgi.settings import CertificateFiles, HTTPSettings
from muxwsgi.wire.every import Every
from muxwsgi.wire.sweeper import Sweeper

if TYPE_CHECKING:
    from muxwsgi.wire.connection import Address, Connection

__all__ = ["Proxy"]

log = logging.getLogger("muxwsgi.proxy")

#: Seconds between two looks at the upstream connections that are kept.
PRUNE_INTERVAL = 5.0

Environ = dict[str, Any]
StartResponse = Callable[..., Callable[[bytes], None]]

#: What the client of a CONNECT is told when its tunnel stands.
ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"


class Rejected(Fault):
    """A rule refuses the tunnel, with `response` or without a word of its own."""

    def __init__(self, response: werkzeug.wrappers.Response | None) -> None:
        super().__init__(Phase.POLICY, "a rule refuses this destination")
        self.response = response


class Proxy(Rules):
    """A WSGI application that passes requests on, and takes tunnels over. Served by muxwsgi alone: tunnels need its connections.

    The rules are those of `Rules`. `wsgi_app` is what answers requests: middleware is put around it, as one does with Flask
    (`proxy.wsgi_app = Middleware(proxy.wsgi_app)`), and sees the requests inside of tunnels too.

    Attributes:
        settings: as given.
        access: who may use the proxy.
        passthrough: the hosts whose TLS is not looked into, and what was learned of them.
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
        access          who may use it; None for anybody on this machine, and nobody elsewhere
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
        super().__init__()
        self.settings = settings = settings or ProxySettings()
        self.access = access or Access()
        self.passthrough = PassThrough(settings.passthrough, learn_after=settings.learn_after or None)
        self.pool = Pool(settings.max_idle, settings.max_idle_per_host, settings.idle_timeout)
        self.wsgi_app: WSGIApplication = self._serve
        self._authority = authority
        self._certificates = certificates
        self._key_log = key_log
        self._leaves: Leaves | None = None
        self._leaf_contexts: dict[tuple[str, ...], LeafContext] = {}
        self._addresses: Callable[[], list[tuple[str, int]]] = list
        self._sweeper = Sweeper()
        self._hangups = Hangups()
        self._pruning = Every(PRUNE_INTERVAL, self.pool.prune)
        self._recorder = Recorder(sinks, settings.capture_limit)
        choice = UpstreamChoice.of_environment(os.environ) if upstreams is None else upstreams
        guard = Guard(lambda: self._addresses(), allow_networks, allow_private)
        self._via = via = Via(settings.via)
        dialer = Dialer(
            dialing or DialSettings(), guard, choice, resolver, self._sweeper, connect_timeout=settings.connect_timeout
        )
        tls = UpstreamTLS(settings, key_log, upstream_certificates)
        self._upstreams = Upstreams(settings, dialer, self.pool, self._sweeper, tls, via)
        forwarder = Forwarder(settings, self._upstreams, self._hangups, via)
        self._exchanges = Exchanges(settings, self, forwarder, self._recorder)
        self._hijackers = tuple(hijackers)
        #: Serves HTTP inside of tunnels.
        self.engine = HTTP1(self, HTTPSettings(server_header=""))
        self._tunnels = self._make_tunnels(())
        self._nonproxy = nonproxy or FrontPage(
            direct=direct_hosts, ca_pem=lambda: self._ca_page(Encoding.PEM), ca_der=lambda: self._ca_page(Encoding.DER)
        )

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
        """Who gets flows."""
        return self._recorder.sinks

    # In a server

    @property
    def mux(self) -> Mux:
        """What is asked inside of tunnels."""
        return self._tunnels.mux

    def front_routes(self) -> list[Route]:
        """What is asked beside HTTP of connections to the proxy: SOCKS."""
        return SocksDoor(self.access, self._open, self.settings.handshake_timeout).routes()

    def admit(self, connection: "Connection") -> None:
        """Whether the client's address may use the proxy, and so what is served beside it. Raises `NotAdmitted`."""
        self.access.admit(connection)

    def transparent_door(self, way: Way, listening: "Address") -> Callable[["Connection"], None]:
        """A handler for the connections that the kernel brings to a bind that listens at `listening` (`getsockname`)."""
        return TransparentDoor(self.access, self._open, way, listening)

    def check(self, address: Any, *, transparent: bool) -> None:
        """Whether the proxy may be served at `address`, as `getsockname` has it. Raises `OperatorError` where it would be open to all."""
        self.access.check_bind(address, can_ask=not transparent)
        if self.looks_inside:
            self._leaf_context(self._tunnels.mux.alpn)

    def serve_in(
        self,
        http: HTTPSettings,
        hijackers: Iterable[Route],
        addresses: Callable[[], list[tuple[str, int]]],
        on_exchange: OnExchange | None,
        on_reject: OnReject | None = None,
        on_refusal: OnRefusal | None = None,
    ) -> None:
        """What the server says that the proxy runs in: its HTTP settings, its hijackers, where it listens, its access log, and who is
        told of what is refused."""
        self.engine = HTTP1(self, replace(http, server_header=""), on_exchange=on_exchange, on_reject=on_reject)
        self._addresses = addresses
        self._tunnels = self._make_tunnels(hijackers, on_refusal)

    def close(self) -> None:
        """Close what is kept open for later. For the end of the server."""
        self._upstreams.close()
        for each in (self._hangups, self._sweeper, self._pruning):
            each.stop()

    @property
    def looks_inside(self) -> bool:
        """Whether a tunnel may be looked into, so that a CA is needed."""
        if self.settings.default_action == "mitm":
            return True
        return any(isinstance(getattr(rule.function, "action", None), Mitm) for rule in self._connect)

    def _make_tunnels(self, hijackers: Iterable[Route], on_refusal: OnRefusal | None = None) -> Tunnels:
        own = {route.name for route in self._hijackers}
        served = [*self._hijackers, *(route for route in hijackers if route.name not in own)]
        return Tunnels(
            self.settings, self, self._upstreams, self._recorder, self.engine, self._leaf_context, self.passthrough, served, on_refusal
        )

    def _start(self) -> None:
        for each in (self._hangups, self._sweeper, self._pruning):
            each.start()

    def _leaf_context(self, alpn: tuple[str, ...]) -> LeafContext:
        """What TLS is served with that offers `alpn`. Raises `OperatorError`."""
        context = self._leaf_contexts.get(alpn)
        if context is None:
            if self._leaves is None:
                self._leaves = Leaves(self._loaded_authority(), key_type=self.settings.leaf_key_type)
            if len(self._leaf_contexts) >= 16:  # servers name protocols as they like
                self._leaf_contexts.clear()
            context = LeafContext(self._leaves, alpn=alpn, own=self._certificates, key_log=self._key_log)
            self._leaf_contexts[alpn] = context
        return context

    def _loaded_authority(self) -> Authority:
        if self._authority is None:
            self._authority = Authority.load(None if self.settings.ca_folder is None else Path(self.settings.ca_folder))
        return self._authority

    def _ca_page(self, encoding: Encoding) -> bytes | None:
        """The CA's certificate, None where nothing is minted."""
        if self._authority is None and not self.looks_inside:
            return None
        return self._loaded_authority().anchor.public_bytes(encoding)

    # Requests

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        return self.wsgi_app(environ, start_response)

    def _serve(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if not self._pruning.running:
            self._start()
        connection: "Connection" = environ["muxwsgi.connection"]
        tunnel: Context | None = connection.tunnel
        if environ["REQUEST_METHOD"] == "CONNECT":
            return self._serve_connect(environ, start_response, connection, tunnel)

        # 1. Inside of a tunnel it is known where requests go.
        if tunnel is not None:
            assert tunnel.destination is not None
            ctx = Context(connection, tunnel.door, tunnel.destination, tunnel)
            return self._exchanges.serve(environ, start_response, ctx, Endpoint(*tunnel.destination, tunnel.layers))

        # 2. Outside, the target says so; without one the request is for the proxy itself.
        target: str = environ["RAW_URI"]
        if target[:1] == "/" or target == "*":
            try:
                self.access.admit(connection)
            except NotAdmitted as refusal:
                return _refuse(start_response, refusal)
            return self._nonproxy(environ, start_response)
        try:
            connection.identity = self.access.identify(connection, environ.get("HTTP_PROXY_AUTHORIZATION"))
        except (NotAdmitted, CredentialsWanted) as refusal:
            return _refuse(start_response, refusal)
        secure = target[:5].lower() == "https"
        host, port = split_host_port(environ["HTTP_HOST"])
        ctx = Context(connection, "http", (host, port or (443 if secure else 80)))
        ctx.passed = environ.get("HTTP_VIA", "")
        layers = (Layer(host, ("http/1.1",)),) if secure else ()
        assert ctx.destination is not None
        return self._exchanges.serve(environ, start_response, ctx, Endpoint(*ctx.destination, layers))

    # Tunnels

    def _serve_connect(
        self, environ: Environ, start_response: StartResponse, connection: "Connection", tunnel: Context | None
    ) -> Iterable[bytes]:
        """CONNECT (RFC 9110 section 9.3.6)."""
        if tunnel is None:
            try:
                connection.identity = self.access.identify(connection, environ.get("HTTP_PROXY_AUTHORIZATION"))
            except (NotAdmitted, CredentialsWanted) as refusal:
                return _refuse(start_response, refusal)
        host, port = split_host_port(environ["RAW_URI"])
        assert port is not None  # the engine has looked
        if environ.get("CONTENT_LENGTH", "0") != "0" or "HTTP_TRANSFER_ENCODING" in environ:
            raise _refused_body(environ)
        ctx = Context(connection, "connect", (host, port), tunnel)
        ctx.request = Request(environ)
        if tunnel is None:
            ctx.passed = environ.get("HTTP_VIA", "")
        if tunnel is not None:
            # The client takes whom it is connected to for a proxy: the tunnel goes on through that one.
            ctx.dial = Onward(self._upstreams, tunnel, environ["muxwsgi.head"], self.settings.connect_timeout)

        def established() -> "Connection":
            taken: "Connection" = environ["muxwsgi.hijack"]()
            taken.sendall(ESTABLISHED)
            return taken

        try:
            self._via.check(environ.get("HTTP_VIA", ""))
            self._enter(ctx, established)
        except Fault as fault:
            given = fault.response if isinstance(fault, (Rejected, NotOnward)) else None
            response = given or self.error(fault, ctx) or error_response(fault)
            status, fields, pieces = to_wsgi(response, "GET")
            start_response(status, fields)
            return pieces
        except PeerError as error:
            if not environ["muxwsgi.response"].head_sent:
                raise
            log.debug("%r: %s", ctx, error)  # what a client does wrong in its tunnel is no error of this application's
        return ()

    def _open(self, connection: "Connection", door: Door, destination: tuple[str, int], reply: Reply) -> None:
        self._start()
        ctx = Context(connection, door, destination)

        def established() -> "Connection":
            reply(None)
            return connection

        try:
            self._enter(ctx, established)
        except Fault as fault:
            reply(fault)

    def _enter(self, ctx: Context, established: Callable[[], "Connection"]) -> None:
        """Decide about a tunnel and serve it to its end. Raises `Fault` where there is none: `established` was not called then."""
        assert ctx.destination is not None
        said, goes_to = self.connect(address_text(ctx.destination), ctx)
        if goes_to != address_text(ctx.destination):
            host, port = split_host_port(goes_to)
            assert port is not None  # `Rules` has looked
            ctx.destination = (host, port)
        action: Action = said or (Mitm() if self.settings.default_action == "mitm" else Accept())
        ctx.action = action
        if isinstance(action, (Accept, Mitm)):
            try:
                check_target(*ctx.destination)  # now: once the tunnel stands, the client can no longer be told
            except InvalidTarget as error:
                raise Fault.of_dial(error) from error
        match action:
            case Reject(response):
                self._record_refusal(ctx, "a rule refuses this destination")
                raise Rejected(response)
            case Accept():
                # The upstream comes first: the client is told what is wrong with it while it still can be.
                flow = ctx.record(self._recorder, "raw", ctx.connection)
                try:
                    upstream = self._upstreams.stream(Endpoint(*ctx.destination), ctx)
                except BaseException as error:
                    self._recorder.end(flow, error.reason if isinstance(error, Fault) else repr(error))
                    raise
                try:
                    connection = self._in_tunnel(established(), ctx)
                except BaseException as error:
                    upstream.finish()
                    self._recorder.end(flow, repr(error))
                    raise
                if said is None and self._connect:
                    self._tunnels.relay_by_name(connection, upstream, ctx, flow)
                else:
                    self._tunnels.relay_to(connection, upstream, ctx, flow)
            case Mitm():
                self._tunnels.look(self._in_tunnel(established(), ctx), ctx, action)
            case Hijack(handler):
                handler(self._in_tunnel(established(), ctx), ctx)

    def _in_tunnel(self, connection: "Connection", ctx: Context) -> "Connection":
        connection.tunnel = ctx
        connection.destination = ctx.destination
        ctx.connection = connection
        return connection

    def _record_refusal(self, ctx: Context, reason: str) -> None:
        self._recorder.end(ctx.record(self._recorder, "connect", ctx.connection), reason)


def _refused_body(environ: Environ) -> PeerError:
    """A CONNECT with a body: left in the stream it would be taken for the tunnel's first bytes (RFC 9110 section 9.3.6)."""
    error = PeerError(400, "CONNECT has no body")
    environ["muxwsgi.response"].peer_error = error
    return error


def _refuse(start_response: StartResponse, refusal: NotAdmitted | CredentialsWanted) -> Iterable[bytes]:
    text = f"{refusal.reason}\n".encode()
    phrase = HTTPStatus(refusal.status).phrase
    start_response(f"{refusal.status} {phrase}", [("Content-Type", "text/plain; charset=utf-8"), *refusal.fields])
    return [text]
