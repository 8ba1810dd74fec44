"""`ClientContext`: how we connect to servers with TLS, and which CAs we trust."""

import errno
import socket
from collections.abc import Sequence
from typing import Literal

from OpenSSL import SSL

from muxwsgi.errors import HandshakeError, OperatorError
from muxwsgi.names import parse_host
from muxwsgi.settings import CertificateFiles
from muxwsgi.wire.tls.certificate_files import use_certificate, why_refused

__all__ = ["ClientContext", "TLSVersion"]

#: The lowest version that a client's context accepts.
TLSVersion = Literal["1.0", "1.1", "1.2", "1.3"]

_VERSIONS = {"1.0": SSL.TLS1_VERSION, "1.1": SSL.TLS1_1_VERSION, "1.2": SSL.TLS1_2_VERSION, "1.3": SSL.TLS1_3_VERSION}

#: SSL_OP_LEGACY_SERVER_CONNECT of <openssl/ssl.h>: allows servers without RFC 5746.
_OP_LEGACY_SERVER_CONNECT = 0x4


class ClientContext:
    """How we connect to servers with TLS."""

    def __init__(
        self,
        *,
        verify: bool = True,
        ca_file: str | None = None,
        certfile: str | None = None,
        keyfile: str | None = None,
        alpn: Sequence[str] = (),
        minimum_version: TLSVersion = "1.2",
    ) -> None:
        """`verify`: verify the peer's certificate and name, with `ca_file` or the system's CAs. `certfile` is the client certificate.

        A `minimum_version` below 1.2 also accepts SHA-1, short keys, RSA key exchange, and servers without secure renegotiation.
        """
        self._verify = verify
        if verify:
            from muxwsgi.wire.tls import certificate_match  # noqa: F401  # before the first handshake: see `verify_name`
        self.openssl = SSL.Context(SSL.TLS_CLIENT_METHOD)
        self.openssl.set_min_proto_version(_VERSIONS[minimum_version])
        if minimum_version in ("1.0", "1.1"):
            self.openssl.set_cipher_list(b"DEFAULT:@SECLEVEL=0")  # OpenSSL 3 accepts them at level 0 only
            self.openssl.set_options(_OP_LEGACY_SERVER_CONNECT)
        if ca_file is not None:
            try:
                self.openssl.load_verify_locations(ca_file)
            except SSL.Error as error:
                raise OperatorError(f"ca_file: {why_refused(ca_file, 'CA certificates in PEM', error)}") from None
        else:
            self.openssl.set_default_verify_paths()
        if certfile is not None:
            use_certificate(self.openssl, CertificateFiles(certfile=certfile, keyfile=keyfile or certfile))
        self.openssl.set_verify(SSL.VERIFY_PEER if verify else SSL.VERIFY_NONE)
        if alpn:
            self.openssl.set_alpn_protos([protocol.encode("ascii") for protocol in alpn])

    def connection(self, sock: socket.socket | None, server_hostname: str | None) -> SSL.Connection:
        """A client's side of TLS. `server_hostname` is a name or an address. It is needed to verify, and a name is sent as SNI.

        Raises `ValueError` if it is needed and missing, or if it is neither a name nor an address.
        """
        if self._verify and server_hostname is None:
            raise ValueError("a certificate can only be verified for a server_hostname")
        host = parse_host(server_hostname) if server_hostname is not None else None
        ssl = SSL.Connection(self.openssl, sock)
        ssl.set_connect_state()
        if isinstance(host, str):
            ssl.set_tlsext_host_name(host.encode("ascii"))
        return ssl

    def verify_name(self, ssl: SSL.Connection, server_hostname: str | None) -> None:
        """Check after the handshake that the certificate is for the name (RFC 9525). Raises `HandshakeError` if it is not.

        OpenSSL's own check (X509_VERIFY_PARAM_set1_host) would run within the handshake, but pyOpenSSL does not publish it.
        """
        if not self._verify or server_hostname is None:
            return
        from muxwsgi.wire.tls.certificate_match import is_certificate_for  # service-identity, which servers do not need

        certificate = ssl.get_peer_certificate(as_cryptography=True)
        if certificate is None or not is_certificate_for(certificate, parse_host(server_hostname)):
            raise HandshakeError(errno.ECONNABORTED, f"TLS handshake: the certificate is not one for {server_hostname!r}")
