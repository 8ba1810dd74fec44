"""The development certificate: self-signed, made on first use, kept in the user's data directory.

It is for tests on one machine. Clients must be configured to trust it, or not to verify. It is not installed in any trust store.
"""

import fcntl
import ipaddress
import socket
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from muxwsgi.errors import OperatorError
from muxwsgi.settings import CertificateFiles
from muxwsgi.wire.tls.key_files import data_folder, write_private

__all__ = ["BACKDATED", "FOR_SIGNATURES", "development_certificate"]

LIFETIME = timedelta(days=90)
RENEW_BEFORE = timedelta(days=7)

#: So that a client whose clock is behind also accepts it.
BACKDATED = timedelta(hours=24)

#: The only key usage that TLS needs without RSA key exchange.
FOR_SIGNATURES = x509.KeyUsage(
    digital_signature=True,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=False,
    crl_sign=False,
    encipher_only=False,
    decipher_only=False,
)


def development_certificate(names: Iterable[str] = ()) -> CertificateFiles:
    """The certificate and key files, for localhost, the loopback addresses, this host's name and `names` (host names or addresses).

    They are in `$XDG_DATA_HOME/muxwsgi` (`~/.local/share/muxwsgi`), a folder that only the user can read. The key is created with mode
    0600. The certificate is replaced a week before it expires, and if a name is missing. The new one keeps the names of the old one, so two
    servers with different names can share it. Raises `OperatorError` if it cannot be made.
    """
    wanted = [_general_name(name) for name in ("localhost", "127.0.0.1", "::1", *_own_name(), *names)]
    folder = data_folder()
    path = folder / "development.pem"  # one file, so that certificate and key always fit
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if folder.stat().st_mode & 0o077:  # it was there before
            folder.chmod(0o700)
        with open(folder / "development.lock", "w") as lock:  # two servers that start at the same time make one certificate
            fcntl.flock(lock, fcntl.LOCK_EX)
            kept = _names_kept(path)
            if kept is None or not set(wanted) <= set(kept):
                write_private(path, _make(list(dict.fromkeys([*wanted, *(kept or ())]))))
    except OSError as error:
        raise OperatorError(f"the development certificate cannot be kept in {folder}: {error.strerror or error}") from error
    return CertificateFiles(certfile=str(path), keyfile=str(path))


def _names_kept(path: Path) -> list[x509.GeneralName] | None:
    """The names of the existing certificate; None if there is none that can be used."""
    try:
        if path.stat().st_mode & 0o077:  # others could read the key
            return None
        data = path.read_bytes()
        certificate = x509.load_pem_x509_certificate(data)
        key = load_pem_private_key(data, password=None)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (FileNotFoundError, ValueError, TypeError, UnsupportedAlgorithm, x509.ExtensionNotFound):
        return None  # cut off by a full disk, or a file of another program
    if key.public_key() != certificate.public_key() or datetime.now(UTC) + RENEW_BEFORE > certificate.not_valid_after_utc:
        return None
    return list(names)


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        pass
    try:
        return x509.DNSName(name.encode("idna").decode("ascii").lower())
    except UnicodeError:
        raise OperatorError(f"a development certificate cannot be made for {name!r}, which is not a host name") from None


def _own_name() -> tuple[str, ...]:
    name = socket.gethostname()
    try:
        _general_name(name)
    except OperatorError:  # the kernel allows any bytes in a host name
        return ()
    return (name,) if name else ()


def _make(names: list[x509.GeneralName]) -> bytes:
    """Certificate and key in PEM. The certificate is not a CA, so a client that trusts it trusts no other name. The key is stored
    without a passphrase.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "muxwsgi development certificate")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + LIFETIME)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(FOR_SIGNATURES, critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(Encoding.PEM) + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
