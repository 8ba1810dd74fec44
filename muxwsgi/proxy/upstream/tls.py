"""`UpstreamTLS`: TLS with upstreams: verification of their certificates, the client certificate, and the ALPN ids that are offered."""

import errno
import logging
import socket
from collections.abc import Iterator, Mapping
from time import monotonic
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives import hashes
from OpenSSL import SSL

from muxwsgi.errors import Expired, HandshakeError, OperatorError
from muxwsgi.names import Breadth, HostPattern, HostPatterns, InvalidName, comparable, parse_pattern
from muxwsgi.proxy.certificates.key_log import KeyLog
from muxwsgi.proxy.context import Context, Layer
from muxwsgi.proxy.fault import Fault, Phase
from muxwsgi.records.flow import TLSSide
from muxwsgi.settings import CertificateFiles
from muxwsgi.wire.connection import Connection
from muxwsgi.wire.tls.client_context import ClientContext
from muxwsgi.wire.tls.info import TLSInfo

if TYPE_CHECKING:
    from muxwsgi.proxy.settings import ProxySettings

__all__ = ["UpstreamTLS"]

log = logging.getLogger("muxwsgi.error")

#: SSL_OP_IGNORE_UNEXPECTED_EOF of OpenSSL 3, for which older pyOpenSSL has no name.
_OP_IGNORE_UNEXPECTED_EOF = 1 << 7


class UpstreamTLS:
    """Performs handshakes. There is a context for each client certificate."""

    def __init__(
        self, settings: "ProxySettings", key_log: KeyLog | None = None, certificates: Mapping[str, CertificateFiles] | None = None
    ) -> None:
        """`key_log` gets the secrets of the connections. `certificates` are client certificates by server name: `host` or `*.domain`, where
        the star is one label. For other servers the certificate of the settings is used.

        Raises `OperatorError` if `upstream_ca` or a certificate cannot be used."""
        self._settings = settings
        self._key_log = key_log
        self._contexts: dict[CertificateFiles | None, ClientContext] = {}
        self._certificates = dict(_by_pattern(certificates or {}))
        self._patterns = HostPatterns(self._certificates)
        self._certificate = None
        if settings.upstream_cert is not None:
            self._certificate = CertificateFiles(certfile=settings.upstream_cert, keyfile=settings.upstream_key or settings.upstream_cert)
        # An unusable file is reported before the first connection.
        if settings.upstream_ca is not None or self._certificate is not None:
            self._context(self._certificate)
        for files in self._certificates.values():
            self._context(files)

    def secure(self, connection: Connection, authority: str, layer: Layer, ctx: Context) -> Connection:
        """Perform the handshake of one layer with the server `authority` ("host:port"). Returns the connection inside. Raises `Fault`."""
        connection.deadline = monotonic() + self._settings.handshake_timeout
        try:
            context = _Offering(self._context(self._certificate_for(layer.server_name)), layer.alpn)
        except OperatorError as error:
            connection.finish()
            log.error("upstreams cannot be verified: %s", error)
            raise Fault(Phase.TLS, f"{authority}: this proxy cannot verify it") from error
        try:
            inside = connection.start_tls(context, server_hostname=layer.server_name)
        except HandshakeError as error:
            raise Fault(Phase.TLS, f"{authority}: {error.strerror}") from error
        except ValueError as error:
            connection.finish()
            raise Fault(Phase.TLS, f"{authority}: {error}") from error
        except Expired as error:
            raise Fault(Phase.TIMEOUT, f"{authority}: the TLS handshake takes too long") from error
        except OSError as error:
            reason = "the connection was closed" if error.errno == errno.EBADF else error.strerror or str(error)
            raise Fault(Phase.TLS, f"{authority}: TLS handshake: {reason}") from error
        inside.deadline = float("inf")
        if ctx.flow is not None and inside.tls is not None:
            ctx.flow.secured = ctx.flow.now()
            ctx.flow.upstream_tls = _tls_side(inside.tls)
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
    """A context with other ALPN ids, which clients choose freely. An OpenSSL context for each choice would take ten milliseconds and a
    megabyte, nearly all of it for the system's CAs."""

    def __init__(self, context: ClientContext, alpn: tuple[str, ...]) -> None:
        self.openssl = context.openssl
        self._context = context
        self._offered = [protocol.encode("latin-1") for protocol in alpn]

    def connection(self, sock: socket.socket | None, server_hostname: str | None) -> SSL.Connection:
        ssl = self._context.connection(sock, server_hostname)
        if self._offered:
            ssl.set_alpn_protos(self._offered)
        return ssl

    def verify_name(self, ssl: SSL.Connection, server_hostname: str | None) -> None:
        self._context.verify_name(ssl, server_hostname)


def _tls_side(tls: TLSInfo) -> TLSSide:
    """The TLS entry of a flow."""
    certificate = tls.peer_certificate
    fingerprint = certificate.fingerprint(hashes.SHA256()).hex() if certificate is not None else None
    return TLSSide(version=tls.version, cipher=tls.cipher, sni=tls.sni, alpn=tls.alpn, peer_certificate=fingerprint)
