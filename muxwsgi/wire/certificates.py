"""The development certificate: self-signed, made on first use, kept in the user's own data directory.

For trying things out on one machine. A client has to be told to trust it, or not to check; nothing is installed anywhere.
"""

import fcntl
import ipaddress
import os
import socket
import tempfile
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from muxwsgi.errors import OperatorError
from muxwsgi.settings import CertificateFiles

__all__ = ["development_certificate"]

LIFETIME = timedelta(days=90)
RENEW_BEFORE = timedelta(days=7)

#: A clock that is a little behind should take it too.
BACKDATED = timedelta(hours=24)


def development_certificate(names: Iterable[str] = ()) -> CertificateFiles:
    """The certificate and key files, for localhost, the loopback addresses, this host's name and `names` (host names or addresses).

    They lie in `$XDG_DATA_HOME/muxwsgi` (`~/.local/share/muxwsgi`), a folder for the user alone; the key is 0600 from its first
    moment. They are made anew a week before they expire and when a name is missing. Raises `OperatorError` where that cannot be.
    """
    folder = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "muxwsgi"
    wanted = list(dict.fromkeys(["localhost", "127.0.0.1", "::1", socket.gethostname(), *names]))
    path = folder / "development.pem"  # one file: a certificate and a key that do not fit cannot happen
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open(folder / "development.lock", "w") as lock:  # two that start at once make one
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not _is_good(path, wanted):
                _write_private(path, _make(wanted))
    except OSError as error:
        raise OperatorError(f"the development certificate cannot be kept in {folder}: {error.strerror or error}") from error
    return CertificateFiles(certfile=str(path), keyfile=str(path))


def _is_good(path: Path, wanted: list[str]) -> bool:
    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return False
    if datetime.now(UTC) + RENEW_BEFORE > certificate.not_valid_after_utc or path.stat().st_mode & 0o077:
        return False
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return all(_general_name(name) in names for name in wanted)


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _make(names: list[str]) -> bytes:
    """Key and certificate in PEM. The certificate is its own CA, so that a client can be told to trust it."""
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
        .add_extension(x509.SubjectAlternativeName(list(map(_general_name, names))), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(Encoding.PEM) + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _write_private(path: Path, data: bytes) -> None:
    """Replace `path` in one step by a file that only its owner could ever read (mkstemp makes it 0600)."""
    fd, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    try:
        with open(fd, "wb") as file:
            file.write(data)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
