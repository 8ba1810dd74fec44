"""`TLSInfo`: what a handshake agreed on."""

import errno
from datetime import UTC, datetime
from typing import NamedTuple, Self

from cryptography import x509
from OpenSSL import SSL

from muxwsgi.errors import HandshakeError

__all__ = ["TLSInfo", "printable"]


class TLSInfo(NamedTuple):
    """What a handshake agreed on.

    version, cipher, cipher_bits    "TLSv1.3", "TLS_AES_256_GCM_SHA384", 256
    sni, alpn                       server name and protocol id, None without. Characters that are not printable are escaped
    resumed                         whether an earlier session was resumed
    peer_certificate, peer_chain    the peer's certificate, and all certificates that it sent, its own first; None and empty without. On the
                                    server's side a resumed session has the certificate only
    peer_verified                   whether that certificate was verified. A certificate that fails verification ends the handshake,
                                    also if certificates are optional, as with mod_ssl and Python's CERT_OPTIONAL. (nginx answers 400.)
    """

    version: str
    cipher: str
    cipher_bits: int
    sni: str | None
    alpn: str | None
    resumed: bool
    peer_certificate: x509.Certificate | None = None
    peer_chain: tuple[x509.Certificate, ...] = ()
    peer_verified: bool = False

    @classmethod
    def of(cls, ssl: SSL.Connection) -> Self:
        """The `TLSInfo` of a connection after its handshake. Raises `HandshakeError` if the peer's certificate cannot be read, or if it
        was verified in an earlier handshake and has expired since."""
        name = ssl.get_servername()
        alpn = ssl.get_alpn_proto_negotiated()
        cipher, bits = _cipher(ssl)
        try:
            certificate = ssl.get_peer_certificate(as_cryptography=True)
            chain = (ssl.get_peer_cert_chain(as_cryptography=True) or []) if certificate is not None else []
        except ValueError as error:  # cryptography is stricter than OpenSSL
            raise HandshakeError(errno.ECONNABORTED, f"TLS handshake: the peer's certificate cannot be read: {error}") from error
        resumed = _session_reused(ssl)
        verified = certificate is not None and ssl.get_verify_mode() != SSL.VERIFY_NONE
        if resumed and verified and certificate is not None and certificate.not_valid_after_utc < datetime.now(UTC):
            # It was verified in the first handshake only, and each resumption brings a new ticket. Without this check the peer could use
            # an expired certificate without limit.
            raise HandshakeError(errno.ECONNABORTED, "TLS handshake: the peer's certificate has expired since its session began")
        if certificate is not None and certificate not in chain:  # on the server's side, OpenSSL's chain does not contain it
            chain.insert(0, certificate)
        return cls(  # in the order of its fields
            ssl.get_protocol_version_name(),
            cipher,
            bits,
            printable(name).lower() if name else None,
            printable(alpn) if alpn else None,
            resumed,
            certificate,
            tuple(chain),
            verified,
        )


def printable(name: bytes) -> str:
    """A name from the peer, escaped for logs. OpenSSL accepts all bytes but NUL."""
    text = name.decode("ascii", "backslashreplace")
    return text if text.isprintable() else "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in text)


def _session_reused_public(ssl: SSL.Connection) -> bool:
    return False


def _cipher_public(ssl: SSL.Connection) -> tuple[str, int]:
    return ssl.get_cipher_name() or "", ssl.get_cipher_bits() or 0


_session_reused, _cipher = _session_reused_public, _cipher_public

try:  # SSL_session_reused(3), which pyOpenSSL binds and does not publish
    _reused = SSL._lib.SSL_session_reused  # type: ignore[attr-defined]

    def _session_reused_direct(ssl: SSL.Connection) -> bool:
        return bool(_reused(ssl._ssl))

    _session_reused = _session_reused_direct
except AttributeError:
    pass

try:  # OpenSSL keeps its ciphers in a table, so the constant values of a cipher are looked up once for each address
    _current_cipher = SSL._lib.SSL_get_current_cipher  # type: ignore[attr-defined]
    _ciphers: dict[object, tuple[str, int]] = {}

    def _cipher_direct(ssl: SSL.Connection) -> tuple[str, int]:
        at = _current_cipher(ssl._ssl)
        known = _ciphers.get(at)
        if known is None:
            known = _ciphers[at] = _cipher_public(ssl)
        return known

    _cipher = _cipher_direct
except AttributeError:
    pass
