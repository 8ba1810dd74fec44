"""`ServerContext`: the certificates of a bind, the protocol that ALPN agrees on, and the CAs of client certificates.

Each bind has one front `SSL.Context` for the life of the process. Session tickets belong to it, so they stay valid after a reload.
Processes that are forked after it was made resume each other's sessions. Each certificate has a separate context. OpenSSL calls the
server-name callback in every handshake, and the callback switches to the context that fits.

`Connection.use_certificate` is not used, because it sets the leaf only. pyOpenSSL gives chains to contexts only.
"""

import errno
import socket
from collections.abc import Sequence
from copy import copy
from typing import Protocol

from cryptography import x509
from OpenSSL import SSL

from muxwsgi.errors import HandshakeError, OperatorError
from muxwsgi.names import comparable
from muxwsgi.record import record
from muxwsgi.settings import CertificateFiles, TLSSettings, UnknownALPN
from muxwsgi.wire.tls.certificate_files import certificate_names, read_certificate, use_certificate, why_refused
from muxwsgi.wire.tls.info import printable

__all__ = ["ServerContext", "ServerSide", "server_openssl"]

#: TLS 1.2 suites with forward secrecy and AEAD (Mozilla's "intermediate" without DHE). All suites of TLS 1.3 have both.
CIPHERS = (
    "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384:"
    "ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305"
)

#: TLS 1.3 suites, in the order of BoringSSL and Go. OpenSSL's order begins with AES-256 and SHA-384. Processors have no instructions for
#: SHA-384, so a handshake takes 7 % longer with it.
SUITES = b"TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256"

_VERIFY = {
    "none": SSL.VERIFY_NONE,
    "optional": SSL.VERIFY_PEER,
    "required": SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT,
}


class ServerSide(Protocol):
    """The server's side of TLS: the `ServerContext` of a bind, or a leaf for one connection."""

    def connection(self, sock: socket.socket | None) -> SSL.Connection:
        """A server's side of TLS over the descriptor of `sock`, or over memory BIOs without one."""
        ...


class ServerContext:
    """The server's side of TLS on one bind."""

    def __init__(self, settings: TLSSettings, alpn: Sequence[str] = ()) -> None:
        """`alpn` are the accepted ids, the preferred one first. Raises `OperatorError`, which names the faulty file."""
        self._settings = settings
        self._alpn = [protocol.encode("ascii") for protocol in alpn]
        self._trusted = self._read_client_ca()
        self._served = _Certificates([self._certificate(files) for files in settings.certificates])
        #: The front context. Every connection starts with it, and `_choose` switches to another.
        self.openssl = self._front()

    @property
    def settings(self) -> TLSSettings:
        """The settings that it was made from."""
        return self._settings

    def renewed(self) -> "ServerContext":
        """Another one, whose files are read again now. Sessions of this one are resumed by it, as after `reload`. This one does not change.
        Both have one front context, so only one of them can serve in a process: call `serve_with` of that one. Raises `OperatorError`."""
        other = copy(self)
        other.reload()
        return other

    def serve_with(self, alpn: Sequence[str]) -> None:
        """Serve in this process with these ALPN ids. For a context that was made without ids before a fork, because a master does not know
        them: they depend on the hijackers that a worker loads."""
        self._alpn = [protocol.encode("ascii") for protocol in alpn]
        for context in (self.openssl, *self._served.contexts):
            _set_alpn(context, self._alpn, self._settings.unknown_alpn)
        self.openssl.set_tlsext_servername_callback(self._choose)

    def connection(self, sock: socket.socket | None) -> SSL.Connection:
        """A server's side of TLS over the descriptor of `sock`, or over memory BIOs without one."""
        ssl = SSL.Connection(self.openssl, sock)
        ssl.set_accept_state()
        return ssl

    @property
    def certificates(self) -> list[x509.Certificate]:
        """The certificates that are served, the one for unknown names first."""
        return self._served.leaves

    def reload(self) -> None:
        """Read the files again. If one is faulty, this raises `OperatorError` and changes nothing.

        Open connections are not affected. Sessions can still be resumed, unless `client_ca` changed. A resumed session is not verified
        again, so a client of a removed CA could otherwise resume without limit.
        """
        trusted = self._read_client_ca()
        served = _Certificates([self._certificate(files) for files in self._settings.certificates])
        front = self.openssl if trusted == self._trusted else self._front()
        self._trusted, self._served, self.openssl = trusted, served, front

    def _front(self) -> SSL.Context:
        front = self._context(self._settings.certificates[0])
        front.set_tlsext_servername_callback(self._choose)
        return front

    def _choose(self, ssl: SSL.Connection) -> None:
        try:
            name = ssl.get_servername()
            ssl.set_context(self._served.context_for(comparable(name.decode("ascii", "replace")) if name else None))
        except BaseException as error:
            # For an `Exception`, pyOpenSSL prints a traceback and sends an alert. For anything else (a signal's exception), cffi would
            # print a traceback, and the handshake would go on with the front context, as it was at the start.
            raise RuntimeError("no certificate could be chosen") from error

    def _read_client_ca(self) -> bytes:
        path = self._settings.client_ca
        if path is None:
            return b""
        try:
            with open(path, "rb") as file:
                return file.read()
        except OSError as error:
            raise OperatorError(f"ca_certs: {path}: {error.strerror}") from None

    def _certificate(self, files: CertificateFiles) -> "_Certificate":
        context = self._context(files)
        return _Certificate(certificate_names(files), context, read_certificate(files))

    def _context(self, files: CertificateFiles) -> SSL.Context:
        """The context for one certificate. The contexts of a bind differ in the certificate only. A connection takes the certificate, ALPN
        and the trusted CAs from the context that it was switched to, and everything else from the front context."""
        settings = self._settings
        context = server_openssl(self._alpn, settings.ciphers, unknown_alpn=settings.unknown_alpn)
        context.set_session_id(b"muxwsgi")  # resumption with client certificates needs one
        use_certificate(context, files)
        if settings.client_ca is not None:
            try:
                context.load_verify_locations(settings.client_ca)
                context.load_client_ca(settings.client_ca.encode())
            except SSL.Error as error:
                raise OperatorError(f"ca_certs: {why_refused(settings.client_ca, 'CA certificates in PEM', error)}") from None
        context.set_verify(_VERIFY[settings.client_certificates])
        return context


def server_openssl(alpn: Sequence[bytes] = (), ciphers: str | None = None, *, unknown_alpn: UnknownALPN = "ignore") -> SSL.Context:
    """An OpenSSL context for servers, without a certificate. `alpn` are the accepted ids, the preferred one first.
    `unknown_alpn` decides about a client that offers ids, but none of these.

    Raises `OperatorError` if OpenSSL knows none of `ciphers`, a list for TLS 1.2.
    """
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    context.set_options(SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION | SSL.OP_CIPHER_SERVER_PREFERENCE)
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)  # an idle connection frees its record buffers of 34 KiB
    try:
        context.set_cipher_list((ciphers or CIPHERS).encode())
    except SSL.Error:
        raise OperatorError(f"ciphers: OpenSSL knows none of {ciphers!r}") from None
    if hasattr(context, "set_tls13_ciphersuites"):  # older supported versions of pyOpenSSL do not have it
        context.set_tls13_ciphersuites(SUITES)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)  # sessions are in tickets, so no cache is needed
    _set_alpn(context, alpn, unknown_alpn)
    return context


def _set_alpn(context: SSL.Context, alpn: Sequence[bytes], unknown_alpn: UnknownALPN) -> None:
    if not alpn:
        return
    liked = tuple(alpn)

    def select(ssl: SSL.Connection, offered: list[bytes]) -> "bytes | SSL._NoOverlappingProtocols":
        for protocol in liked:
            if protocol in offered:
                return protocol
        if unknown_alpn == "ignore":
            return SSL.NO_OVERLAPPING_PROTOCOLS  # continue without ALPN: the first bytes show the protocol
        # For any exception here, pyOpenSSL sends the alert no_application_protocol, and raises the exception from the handshake.
        ids = ", ".join(repr(printable(protocol)) for protocol in offered)
        raise HandshakeError(errno.EPROTO, f"TLS handshake: of the ALPN ids that the client offers none is served here: {ids}")

    context.set_alpn_select_callback(select)


@record()
class _Certificate:
    names: tuple[str, ...]  # lower case, "*.example.com" for a wildcard
    context: SSL.Context
    leaf: x509.Certificate


class _Certificates:
    """The certificates in use. A reload replaces the whole object."""

    def __init__(self, certificates: Sequence[_Certificate]) -> None:
        self.contexts = [certificate.context for certificate in certificates]
        self.leaves = [certificate.leaf for certificate in certificates]
        self._first = certificates[0].context
        self._by_name: dict[str, SSL.Context] = {}
        for certificate in certificates:
            for name in certificate.names:
                self._by_name.setdefault(name, certificate.context)

    def context_for(self, name: str | None) -> SSL.Context:
        """The context for the exact name, else for a wildcard in place of its first label, else for the first certificate."""
        if name is None:
            return self._first
        wildcard = "*." + name.partition(".")[2]
        return self._by_name.get(name) or self._by_name.get(wildcard) or self._first
