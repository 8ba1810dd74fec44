"""OpenSSL contexts: which certificate is shown, which protocol is agreed on, whom we believe.

One front `SSL.Context` per bind serves for the life of the process. Session tickets belong to it, so they outlive a reload, and
processes that fork after it was made resume each other's sessions. Certificates stand behind it in contexts of their own: the server-name
callback, which OpenSSL calls in every handshake, switches to the one that fits.

Not with `Connection.use_certificate`: it sets the leaf alone, pyOpenSSL gives chains to contexts only.
"""

import errno
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from socket import socket
from typing import Literal, NamedTuple, Protocol, Self

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from OpenSSL import SSL

from muxwsgi.errors import HandshakeError, OperatorError
from muxwsgi.names import comparable, parse_host
from muxwsgi.settings import CertificateFiles, TLSSettings, UnknownALPN
from muxwsgi.wire.certificate_match import is_certificate_for

__all__ = [
    "ClientContext",
    "ServerContext",
    "ServerSide",
    "TLSInfo",
    "TLSVersion",
    "certificate_names",
    "server_openssl",
    "use_certificate",
]

log = logging.getLogger("muxwsgi.error")

#: TLS 1.2 suites with forward secrecy and AEAD (Mozilla's "intermediate" without DHE). Those of 1.3 are all fine.
CIPHERS = (
    "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384:"
    "ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305"
)

#: Those of TLS 1.3, in the order of BoringSSL and Go: OpenSSL's own begins with AES-256, whose SHA-384 has no instructions of its own: a
#: handshake takes 7 % longer.
SUITES = b"TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256"

_VERIFY = {
    "none": SSL.VERIFY_NONE,
    "optional": SSL.VERIFY_PEER,
    "required": SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT,
}


#: Of a client's context, the lowest that it takes.
TLSVersion = Literal["1.0", "1.1", "1.2", "1.3"]

_VERSIONS = {"1.0": SSL.TLS1_VERSION, "1.1": SSL.TLS1_1_VERSION, "1.2": SSL.TLS1_2_VERSION, "1.3": SSL.TLS1_3_VERSION}

#: SSL_OP_LEGACY_SERVER_CONNECT of <openssl/ssl.h>: servers without RFC 5746.
_OP_LEGACY_SERVER_CONNECT = 0x4


class TLSInfo(NamedTuple):
    """What a handshake agreed on.

    version, cipher, cipher_bits    "TLSv1.3", "TLS_AES_256_GCM_SHA384", 256
    sni, alpn                       server name and protocol id, None without. What is not printable in them is escaped
    resumed                         whether an earlier session was resumed
    peer_certificate, peer_chain    the peer's certificate, and all it sent, its own one first; None and empty without. A session resumed
                                    on the server's side remembers the certificate alone
    peer_verified                   whether that certificate was verified. A certificate that fails verification ends the handshake,
                                    also where certificates are optional: as with mod_ssl and Python's CERT_OPTIONAL. (nginx answers 400.)
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
        """Of a connection whose handshake is done. Raises `HandshakeError` where the peer's certificate cannot be read, or was
        verified in an earlier handshake and has expired since."""
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
            # It was verified once, and each resumption brings a new ticket: it would stay good for as long as its owner likes.
            raise HandshakeError(errno.ECONNABORTED, "TLS handshake: the peer's certificate has expired since its session began")
        if certificate is not None and certificate not in chain:  # on the server's side OpenSSL leaves it out
            chain.insert(0, certificate)
        return cls(  # in the order of its fields
            ssl.get_protocol_version_name(),
            cipher,
            bits,
            _printable(name).lower() if name else None,
            _printable(alpn) if alpn else None,
            resumed,
            certificate,
            tuple(chain),
            verified,
        )


def _printable(name: bytes) -> str:
    """The peer's words, which end in logs: OpenSSL lets anything but NUL pass."""
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

try:  # OpenSSL has its ciphers in a table: what does not change of one is looked up once for each place in that
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


class ServerSide(Protocol):
    """Whatever TLS is served with: the `ServerContext` of a bind, or what somebody else chose for one connection."""

    def connection(self, sock: socket | None) -> SSL.Connection:
        """A server's side of TLS over the descriptor of `sock`, or over memory BIOs without one."""
        ...


class ServerContext:
    """What one bind serves TLS with."""

    def __init__(self, settings: TLSSettings, alpn: Sequence[str] = ()) -> None:
        """`alpn` are the ids offered, the one we like best first. Raises `OperatorError` naming the file that is wrong."""
        self._settings = settings
        self._alpn = [protocol.encode("ascii") for protocol in alpn]
        self._trusted = self._read_client_ca()
        self._served = _Certificates([self._certificate(files) for files in settings.certificates])
        #: The front context. Every connection starts in it, and `_choose` moves it on.
        self.openssl = self._front()

    def connection(self, sock: socket | None) -> SSL.Connection:
        """A server's side of TLS over the descriptor of `sock`, or over memory BIOs without one."""
        ssl = SSL.Connection(self.openssl, sock)
        ssl.set_accept_state()
        return ssl

    def reload(self) -> None:
        """Read the files again. Raises `OperatorError` where one is wrong, and everything stays as it was then.

        Connections that are open are not touched. Sessions can still be resumed, unless `client_ca` changed: a resumed session
        is not verified again, so that a client of a CA that was taken out could come back for as long as it likes.
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
            # Of an Exception pyOpenSSL makes a traceback and an alert. Of anything else (a signal's) cffi would make a traceback and a
            # handshake that goes on, with what the front context holds since the start.
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
        return _Certificate(certificate_names(files), context)

    def _context(self, files: CertificateFiles) -> SSL.Context:
        """All contexts of a bind are alike but for the certificate: a connection takes ALPN and the trusted CAs from the one that it
        was switched to, and all else from the front."""
        settings = self._settings
        context = server_openssl(self._alpn, settings.ciphers, unknown_alpn=settings.unknown_alpn)
        context.set_session_id(b"muxwsgi")  # resumption with client certificates needs one
        use_certificate(context, files)
        if settings.client_ca is not None:
            try:
                context.load_verify_locations(settings.client_ca)
                context.load_client_ca(settings.client_ca.encode())
            except SSL.Error as error:
                raise OperatorError(f"ca_certs: {_why_refused(settings.client_ca, 'CA certificates in PEM', error)}") from None
        context.set_verify(_VERIFY[settings.client_certificates])
        return context


def server_openssl(alpn: Sequence[bytes] = (), ciphers: str | None = None, *, unknown_alpn: UnknownALPN = "ignore") -> SSL.Context:
    """An OpenSSL context for servers, still without a certificate. `alpn` are the ids offered, the one we like best first.
    `unknown_alpn` is what happens to a client that offers ids, and none of these.

    Raises `OperatorError` where OpenSSL knows none of `ciphers`, a list for TLS 1.2.
    """
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    context.set_options(SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION | SSL.OP_CIPHER_SERVER_PREFERENCE)
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)  # an idle connection keeps no record buffers: 34 KiB less
    try:
        context.set_cipher_list((ciphers or CIPHERS).encode())
    except SSL.Error:
        raise OperatorError(f"ciphers: OpenSSL knows none of {ciphers!r}") from None
    if hasattr(context, "set_tls13_ciphersuites"):  # not in every pyOpenSSL that will do
        context.set_tls13_ciphersuites(SUITES)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)  # tickets: nothing is kept here
    if alpn:
        liked = tuple(alpn)

        def select(ssl: SSL.Connection, offered: list[bytes]) -> "bytes | SSL._NoOverlappingProtocols":
            for protocol in liked:
                if protocol in offered:
                    return protocol
            if unknown_alpn == "ignore":
                return SSL.NO_OVERLAPPING_PROTOCOLS  # goes on without ALPN: the first bytes will tell
            # pyOpenSSL sends the alert no_application_protocol for whatever is raised here, and raises it from the handshake.
            ids = ", ".join(repr(_printable(protocol)) for protocol in offered)
            raise HandshakeError(errno.EPROTO, f"TLS handshake: of the ALPN ids that the client offers none is served here: {ids}")

        context.set_alpn_select_callback(select)
    return context


class ClientContext:
    """How we connect to others by TLS."""

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
        """`verify` the peer's certificate and name, against `ca_file` or the system's CAs; show `certfile` where one is given.

        A `minimum_version` below 1.2 also lets in what servers of that time have: SHA-1, short keys, RSA key exchange, and no secure
        renegotiation.
        """
        self._verify = verify
        self.openssl = SSL.Context(SSL.TLS_CLIENT_METHOD)
        self.openssl.set_min_proto_version(_VERSIONS[minimum_version])
        if minimum_version in ("1.0", "1.1"):
            self.openssl.set_cipher_list(b"DEFAULT:@SECLEVEL=0")  # OpenSSL 3 has them at level 0 alone
            self.openssl.set_options(_OP_LEGACY_SERVER_CONNECT)
        if ca_file is not None:
            try:
                self.openssl.load_verify_locations(ca_file)
            except SSL.Error as error:
                raise OperatorError(f"ca_file: {_why_refused(ca_file, 'CA certificates in PEM', error)}") from None
        else:
            self.openssl.set_default_verify_paths()
        if certfile is not None:
            use_certificate(self.openssl, CertificateFiles(certfile=certfile, keyfile=keyfile or certfile))
        self.openssl.set_verify(SSL.VERIFY_PEER if verify else SSL.VERIFY_NONE)
        if alpn:
            self.openssl.set_alpn_protos([protocol.encode("ascii") for protocol in alpn])

    def connection(self, sock: socket | None, server_hostname: str | None) -> SSL.Connection:
        """A client's side of TLS. `server_hostname`, a name or an address, is needed to verify; a name is sent as SNI.

        Raises `ValueError` where it is needed and missing, or can be neither.
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
        """After the handshake: whether the certificate is one for the name (RFC 9525). Raises `HandshakeError`.

        pyOpenSSL does not publish OpenSSL's own check (X509_VERIFY_PARAM_set1_host), which would come within the handshake.
        """
        if not self._verify or server_hostname is None:
            return
        certificate = ssl.get_peer_certificate(as_cryptography=True)
        if certificate is None or not is_certificate_for(certificate, parse_host(server_hostname)):
            raise HandshakeError(errno.ECONNABORTED, f"TLS handshake: the certificate is not one for {server_hostname!r}")


@dataclass(frozen=True, slots=True)
class _Certificate:
    names: tuple[str, ...]  # lower case, "*.example.com" for a wildcard
    context: SSL.Context


class _Certificates:
    """What is served now: replaced as a whole by a reload."""

    def __init__(self, certificates: Sequence[_Certificate]) -> None:
        self._first = certificates[0].context
        self._by_name: dict[str, SSL.Context] = {}
        for certificate in certificates:
            for name in certificate.names:
                self._by_name.setdefault(name, certificate.context)

    def context_for(self, name: str | None) -> SSL.Context:
        """Exact name, else wildcard for its first label, else the first certificate."""
        if name is None:
            return self._first
        wildcard = "*." + name.partition(".")[2]
        return self._by_name.get(name) or self._by_name.get(wildcard) or self._first


def _names(leaf: x509.Certificate) -> tuple[str, ...]:
    """The names and addresses a certificate is for: of its SAN; its CN as the last resort."""
    try:
        alternative = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        common = leaf.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
        return tuple(comparable(str(name.value)) for name in common)
    # An address is no server name (RFC 6066 section 3), and yet there are clients that send one.
    addresses = map(str, alternative.get_values_for_type(x509.IPAddress))
    return (*(comparable(name) for name in alternative.get_values_for_type(x509.DNSName)), *addresses)


def certificate_names(files: CertificateFiles) -> tuple[str, ...]:
    """The names and addresses that a certificate is for, in lower case. That it is not valid today is a warning in the error log.

    Raises `OperatorError` where it cannot be read.
    """
    try:
        with open(files.certfile, "rb") as file:
            leaf = x509.load_pem_x509_certificate(file.read())
        names = _names(leaf)
        begin, end = leaf.not_valid_before_utc, leaf.not_valid_after_utc
    except (OSError, ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        raise OperatorError(f"certfile: {files.certfile}: the certificate cannot be read: {_first_line(error)}") from None
    now = datetime.now(UTC)
    if end < now:
        log.warning("%s: the certificate expired on %s", files.certfile, f"{end:%Y-%m-%d}")
    elif begin > now:
        log.warning("%s: the certificate is not valid before %s", files.certfile, f"{begin:%Y-%m-%d %H:%M} UTC")
    return names


def use_certificate(context: SSL.Context, files: CertificateFiles) -> None:
    """Give `context` a certificate, its chain and its key. Raises `OperatorError` naming the file that is wrong."""
    try:
        context.use_certificate_chain_file(files.certfile)
    except SSL.Error as error:
        raise OperatorError(f"certfile: {_why_refused(files.certfile, 'a certificate in PEM', error)}") from None
    try:
        with open(files.keyfile, "rb") as file:
            key = load_pem_private_key(file.read(), password=None)
    except TypeError:
        raise OperatorError(f"keyfile: {files.keyfile} is encrypted: a server has nobody to ask for the passphrase") from None
    except OSError as error:
        raise OperatorError(f"keyfile: {files.keyfile}: {error.strerror}") from None
    except (ValueError, UnsupportedAlgorithm):
        hint = ": give --keyfile" if files.keyfile == files.certfile else ""
        raise OperatorError(f"keyfile: {files.keyfile} does not hold a private key in PEM{hint}") from None
    try:
        context.use_privatekey(key)  # type: ignore[arg-type]  # of all key types the union is wider than OpenSSL's
        context.check_privatekey()
    except (SSL.Error, TypeError):  # TypeError: a kind of key that no certificate has
        raise OperatorError(f"keyfile: {files.keyfile} is not the key of the certificate in {files.certfile}") from None


def _why_refused(path: str, expected: str, error: SSL.Error) -> str:
    """One line for what OpenSSL says of a file, which is a list of (library, function, reason)."""
    try:
        with open(path, "rb"):
            pass
    except OSError as unreadable:
        return f"{path}: {unreadable.strerror}"
    queue = error.args[0] if error.args and isinstance(error.args[0], list) else []
    reason = queue[0][-1] if queue else ""
    if reason in ("", "no start line", "no certificate or crl found"):
        return f"{path} does not hold {expected}"
    return f"{path} does not hold {expected} that OpenSSL takes: {reason}"


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
