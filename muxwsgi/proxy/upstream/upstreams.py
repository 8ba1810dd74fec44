"""Upstream connections that speak HTTP: from the pool or dialled, plain or TLS, straight or through a further proxy."""

import errno
import logging
from collections.abc import Iterator, Mapping
from socket import socket
from time import monotonic
from typing import TYPE_CHECKING
from weakref import WeakSet

from cryptography.hazmat.primitives import hashes
from OpenSSL import SSL

from muxwsgi.dial.dialer import Dialer
from muxwsgi.dial.upstream_proxy import DIRECT, UpstreamProxy
from muxwsgi.errors import Expired, HandshakeError, OperatorError
from muxwsgi.http.client.connection import ClientConnection, ClientSettings
from muxwsgi.http.client.pool import Pool
from muxwsgi.names import Breadth, HostPattern, HostPatterns, InvalidName, address_text, comparable, parse_pattern
from muxwsgi.proxy.certificates.key_log import KeyLog
from muxwsgi.proxy.context import Context, Layer
from muxwsgi.proxy.fault import Fault, Phase
from muxwsgi.proxy.upstream.early import EarlyStream
from muxwsgi.proxy.upstream.endpoint import Endpoint
from muxwsgi.records.flow import TLSSide
from muxwsgi.settings import CertificateFiles
from muxwsgi.wire.connection import Connection
from muxwsgi.wire.sweeper import Sweeper
from muxwsgi.wire.tls.client_context import ClientContext
from muxwsgi.wire.tls.info import TLSInfo

if TYPE_CHECKING:
    from muxwsgi.proxy.settings import ProxySettings

__all__ = ["Upstreams"]

log = logging.getLogger("muxwsgi.error")
log_proxy = logging.getLogger("muxwsgi.proxy")


#: SSL_OP_IGNORE_UNEXPECTED_EOF of OpenSSL 3, for which older pyOpenSSL has no name.
_OP_IGNORE_UNEXPECTED_EOF = 1 << 7


class Upstreams:
    """Finds or makes the connection for an endpoint."""

    def __init__(
        self,
        settings: "ProxySettings",
        dialer: Dialer,
        pool: Pool,
        sweeper: Sweeper,
        key_log: KeyLog | None = None,
        certificates: Mapping[str, CertificateFiles] | None = None,
    ) -> None:
        """`sweeper` keeps the deadlines of connections that rules make, `key_log` the secrets of TLS with upstreams. `certificates` are
        ours by the server's name (`host` or `*.domain`, which stands for one label), for servers that ask for one; those without one are
        shown the one of the settings.

        Raises `OperatorError` where `upstream_ca` or a certificate is of no use."""
        self._sweeper = sweeper
        self._settings = settings
        self._dialer = dialer
        self._pool = pool
        self._client_settings = ClientSettings(
            response_head_timeout=settings.response_head_timeout, accept_invalid=settings.accept_invalid_http_response
        )
        self._key_log = key_log
        self._early: dict[Context, EarlyStream] = {}
        self._contexts: dict[CertificateFiles | None, ClientContext] = {}
        self._certificates = dict(_by_pattern(certificates or {}))
        self._patterns = HostPatterns(self._certificates)
        self._certificate = None
        if settings.upstream_cert is not None:
            self._certificate = CertificateFiles(certfile=settings.upstream_cert, keyfile=settings.upstream_key or settings.upstream_cert)
        self._bound: WeakSet[Connection] | None = None  # made for the first one: most proxies never see any
        # A file that is of no use shows before anybody is served.
        if settings.upstream_ca is not None or self._certificate is not None:
            self._context(self._certificate)
        for files in self._certificates.values():
            self._context(files)

    def way(self, endpoint: Endpoint, ctx: Context) -> UpstreamProxy:
        """The proxy that stands between us and `endpoint` for requests, `DIRECT` for none, and where a rule connects by itself."""
        if ctx.dial is not None:
            return DIRECT
        return self._dialer.way("tunnel" if endpoint.is_proxy else endpoint.scheme, endpoint.host, endpoint.port, ctx)

    def take(self, endpoint: Endpoint, ctx: Context, via: UpstreamProxy, *, pooled: bool = True) -> ClientConnection:
        """A connection that is ours alone until it is given back. Raises `Fault`."""
        if ctx.flow is not None:
            ctx.flow.dialling = ctx.flow.now()
        if ctx.dial is None and pooled:
            kept = self._kept(endpoint, via, ctx)
            if kept is not None:
                if self._early:
                    self.drop_early(self._owner(ctx))
                if ctx.flow is not None:
                    ctx.flow.reused = True
                    ctx.flow.address = address_text(kept.connection.client)
                return kept
        self._pool.opened += 1
        if endpoint.is_asked_of(via):
            if self._early:
                self.drop_early(self._owner(ctx))  # a stream through the proxy, which this request does not need
            dialled = self._dialer.to_proxy(via, ctx)
            connection = dialled.connection
            if ctx.flow is not None:
                ctx.flow.address = dialled.address
                ctx.flow.connected = ctx.flow.now()
        else:
            connection = self._stream(endpoint, ctx, via, quiet=True)
        connection.idle_timeout = self._settings.upstream_idle_timeout
        return ClientConnection(connection, self._client_settings)

    def _kept(self, endpoint: Endpoint, via: UpstreamProxy, ctx: Context) -> ClientConnection | None:
        """A kept connection that this client could have been given anew: it may have been made for one who may go further."""
        key = self._key(endpoint, via, ctx)
        kept = self._pool.take(key)
        if kept is None:
            return None
        try:
            self._dialer.check_reuse(kept.connection, ctx, via)
        except Fault:
            self._pool.put(key, kept)  # others may have it; for this one the name may have another address
            return None
        return kept

    def give_back(self, endpoint: Endpoint, ctx: Context, via: UpstreamProxy, client: ClientConnection) -> None:
        """The exchange on it is over: keep it where it can serve another, else close it."""
        if ctx.dial is not None:
            client.close()
        else:
            self._pool.put(self._key(endpoint, via, ctx), client)

    def stream(self, endpoint: Endpoint, ctx: Context) -> Connection:
        """A connection to `endpoint` for whatever protocol; the caller's to close. Raises `Fault`."""
        via = DIRECT if ctx.dial is not None else self._dialer.way("tunnel", endpoint.host, endpoint.port, ctx)
        return self._stream(endpoint, ctx, via)

    # Streams that are there early

    def dial_early(self, endpoint: Endpoint, ctx: Context) -> None:
        """Connect to `endpoint` for the tunnel `ctx` before it is known what runs in it. Where that fails it is tried again when it is."""
        via = DIRECT if ctx.dial is not None else None
        try:
            if via is None:
                via = self._dialer.way("tunnel", endpoint.host, endpoint.port, ctx)
            connection = self._stream(endpoint, ctx, via)
        except Fault as fault:
            log_proxy.debug("%r: %s cannot be connected to before its client speaks: %s", ctx, endpoint.authority, fault)
        else:
            self._early[ctx] = EarlyStream(connection, endpoint, via, ctx.dial)

    def early_connection(self, ctx: Context) -> Connection | None:
        """What `dial_early` has made, left here for the first request or relay of the tunnel."""
        early = self._early.get(ctx)
        return None if early is None else early.connection

    def drop_early(self, ctx: Context) -> None:
        """Close what was made early for the tunnel `ctx` where nothing has used it."""
        early = self._early.pop(ctx, None)
        if early is not None:
            early.connection.finish()

    def _owner(self, ctx: Context) -> Context:
        return ctx if ctx in self._early or ctx.tunnel is None else ctx.tunnel

    def _take_early(self, endpoint: Endpoint, ctx: Context, via: UpstreamProxy, quiet: bool) -> tuple[Connection, tuple[Layer, ...]] | None:
        """What was made early for the tunnel of `ctx`, and the layers of TLS that are still to be done. `quiet`: the server may not have
        spoken yet, since it answers requests."""
        owner = self._owner(ctx)
        early = self._early.get(owner)
        if early is None:
            return None
        left = early.layers_left(endpoint, via, ctx.dial)
        if left is None or ((quiet or left) and not early.is_quiet):
            self.drop_early(owner)
            return None
        del self._early[owner]
        return early.connection, left

    def close(self) -> None:
        """Close what is kept."""
        self._pool.close()

    def bind(self, ctx: Context) -> None:
        """The client authenticates its connection, and not its requests (NTLM, Negotiate: RFC 4559 section 6). From now on, what is
        dialled for this client connection serves no other, which would be taken for that user."""
        if self._bound is None:
            self._bound = WeakSet()
        self._bound.add(ctx.connection)

    def _key(self, endpoint: Endpoint, via: UpstreamProxy, ctx: Context) -> tuple[object, ...]:
        owner = ctx.connection.id if self._bound is not None and ctx.connection in self._bound else None
        # None for no proxy, since the pool hashes the key five times an exchange.
        way = None if via is DIRECT else (via, endpoint.is_asked_of(via))
        return (endpoint.host, endpoint.port, endpoint.layers, way, owner)

    def _stream(self, endpoint: Endpoint, ctx: Context, via: UpstreamProxy, quiet: bool = False) -> Connection:
        flow = ctx.flow
        early = self._take_early(endpoint, ctx, via, quiet) if self._early else None
        layers = endpoint.layers
        deadline = monotonic() + self._settings.connect_timeout
        if early is not None:
            connection, layers = early
        elif ctx.dial is not None:
            try:
                connection = ctx.dial(endpoint.host, endpoint.port)
            except OSError as error:
                raise Fault(Phase.CONNECT, f"{endpoint.authority}: {error.strerror or error}") from error
            self._sweeper.lines[connection.lifeline] = None
        else:
            dialled = self._dialer.connect(endpoint.host, endpoint.port, ctx, via=via, deadline=deadline)
            connection = dialled.connection
            if flow is not None and dialled.resolved is not None:
                flow.resolved = dialled.resolved - flow.began
        if flow is not None:
            flow.address = address_text(connection.client)
            flow.connected = flow.now()
        for layer in layers:
            connection = self._secure(connection, endpoint, layer, ctx)
        return connection

    def _secure(self, connection: Connection, endpoint: Endpoint, layer: Layer, ctx: Context) -> Connection:
        connection.deadline = monotonic() + self._settings.handshake_timeout
        try:
            context = _Offering(self._context(self._certificate_for(layer.server_name)), layer.alpn)
        except OperatorError as error:
            connection.finish()
            log.error("upstreams cannot be verified: %s", error)
            raise Fault(Phase.TLS, f"{endpoint.authority}: this proxy cannot verify it") from error
        try:
            inside = connection.start_tls(context, server_hostname=layer.server_name)
        except HandshakeError as error:
            raise Fault(Phase.TLS, f"{endpoint.authority}: {error.strerror}") from error
        except ValueError as error:
            connection.finish()
            raise Fault(Phase.TLS, f"{endpoint.authority}: {error}") from error
        except Expired as error:
            raise Fault(Phase.TIMEOUT, f"{endpoint.authority}: the TLS handshake takes too long") from error
        except OSError as error:
            reason = "the connection was closed" if error.errno == errno.EBADF else error.strerror or str(error)
            raise Fault(Phase.TLS, f"{endpoint.authority}: TLS handshake: {reason}") from error
        inside.deadline = float("inf")
        if ctx.flow is not None and inside.tls is not None:
            ctx.flow.secured = ctx.flow.now()
            ctx.flow.upstream_tls = tls_side(inside.tls)
        return inside

    def _certificate_for(self, server_name: str) -> CertificateFiles | None:
        if not self._patterns:
            return self._certificate
        pattern = self._patterns.find(comparable(server_name))
        return self._certificate if pattern is None else self._certificates[pattern]

    def _context(self, certificate: CertificateFiles | None) -> ClientContext:
        context = self._contexts.get(certificate)
        if context is None:
            settings = self._settings
            context = ClientContext(
                verify=not settings.insecure_upstream,
                ca_file=settings.upstream_ca,
                certfile=None if certificate is None else certificate.certfile,
                keyfile=None if certificate is None else certificate.keyfile,
                minimum_version=settings.upstream_tls_min,
            )
            if settings.ignore_unexpected_eof:
                context.openssl.set_options(_OP_IGNORE_UNEXPECTED_EOF)
            if self._key_log is not None:
                self._key_log.attach(context.openssl)
            self._contexts[certificate] = context
        return context


def _by_pattern(certificates: Mapping[str, CertificateFiles]) -> Iterator[tuple[HostPattern, CertificateFiles]]:
    for host, files in certificates.items():
        try:
            yield parse_pattern(host, Breadth.ONE_LABEL), files
        except InvalidName:
            raise OperatorError(f"upstream_certificates: {host!a} is neither a host, an address nor *.domain") from None


class _Offering(ClientContext):
    """A context with protocol ids of one connection's own. Clients name such as they like, and a context for each would cost ten
    milliseconds and a megabyte, nearly all of it for the system's CAs."""

    def __init__(self, context: ClientContext, alpn: tuple[str, ...]) -> None:
        self.openssl = context.openssl
        self._context = context
        self._offered = [protocol.encode("latin-1") for protocol in alpn]

    def connection(self, sock: socket | None, server_hostname: str | None) -> SSL.Connection:
        ssl = self._context.connection(sock, server_hostname)
        if self._offered:
            ssl.set_alpn_protos(self._offered)
        return ssl

    def verify_name(self, ssl: SSL.Connection, server_hostname: str | None) -> None:
        self._context.verify_name(ssl, server_hostname)


def tls_side(tls: TLSInfo) -> TLSSide:
    """What a flow says of TLS."""
    certificate = tls.peer_certificate
    fingerprint = certificate.fingerprint(hashes.SHA256()).hex() if certificate is not None else None
    return TLSSide(version=tls.version, cipher=tls.cipher, sni=tls.sni, alpn=tls.alpn, peer_certificate=fingerprint)
