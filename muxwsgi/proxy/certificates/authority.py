"""The certificate authority (CA) that signs leaves. Each installation has one.

It is two files in a folder. `ca.pem` has the certificate, followed by its issuers up to the root if it is an intermediate. `ca-key.pem` has
the private key. `rotate` keeps the old certificate as `ca-OLD-<serial>.pem`, and deletes its key.

With the key, a certificate for any host can be made, and clients that trust the CA accept it. So the key file is created with mode 0600, a
key file that others can read is refused, and exports contain certificates only.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Literal

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import NameOID

from muxwsgi.errors import OperatorError
from muxwsgi.wire.tls.development_certificate import BACKDATED
from muxwsgi.wire.tls.key_files import data_folder, write_private

__all__ = ["Authority", "Key", "KeyType", "default_folder", "read_certificates", "replaced_certificates"]

KeyType = Literal["ec", "rsa"]
Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

CERTIFICATE_FILE = "ca.pem"
KEY_FILE = "ca-key.pem"

#: The CA is valid for ten years, so its RSA key is as strong as P-256 (NIST SP 800-57 part 1, table 2).
RSA_BITS = 3072

#: A common name has at most 64 characters (RFC 5280 appendix A.1, ub-common-name). A space and eight digits follow the name.
NAME_LIMIT = 64 - 9

# RFC 5758 section 3.2, RFC 8017 appendix A.2.4
ECDSA_WITH_SHA256 = bytes.fromhex("300a06082a8648ce3d040302")
RSA_WITH_SHA256 = bytes.fromhex("300d06092a864886f70d01010b0500")

_SHA256 = hashes.SHA256()
_ECDSA = ec.ECDSA(_SHA256)
_PKCS1 = padding.PKCS1v15()

_FOR_CERTIFICATES = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)


def default_folder() -> Path:
    """`$XDG_DATA_HOME/muxwsgi/ca`. Raises `OperatorError` for a user without a home folder."""
    return data_folder() / "ca"


class Authority:
    """A CA certificate and its key.

    Attributes:
        certificates: the certificate that signs, and its issuers.
        certificate: the certificate that signs.
        chain: the intermediates, which a server sends after its leaf. Without the root, because clients have it or do not trust it.
        anchor: the certificate for clients to trust: the last one of the file.
        ends: the earliest expiry of all these certificates.
    """

    def __init__(self, certificates: tuple[x509.Certificate, ...], key: Key) -> None:
        """`certificates` are the signing one and its issuers up to the root. `key` is the key of the first.

        Raises `OperatorError` if the first may not sign, if the key does not belong to it, or if one was not issued by the next.
        """
        self.certificates = certificates
        self.certificate = certificates[0]
        self.anchor = certificates[-1]
        self.chain = tuple(certificate for certificate in certificates if certificate.subject != certificate.issuer)
        self.ends = min(certificate.not_valid_after_utc for certificate in certificates)
        self._key = key
        self._check(certificates)

    @classmethod
    def create(
        cls, folder: Path | None = None, *, key_type: KeyType = "ec", name: str = "muxwsgi CA", lifetime_days: int = 3650
    ) -> "Authority":
        """Create a CA in `folder`. A missing folder is created with mode 0700; an existing one must not be open to others.

        `name` becomes the organization. The common name is `name` with eight random hexadecimal digits, which tell installations apart.
        Raises `OperatorError`, also if the folder has a CA already.
        """
        folder = folder or default_folder()
        with _faults("made", folder):
            for missing in [folder, *folder.parents][::-1]:  # `parents=True` would apply the umask to the parents, not this mode
                missing.mkdir(mode=0o700, exist_ok=True)
            mode = folder.stat().st_mode & 0o777
            if mode & 0o077:  # not changed here, because the operator may have named /tmp
                raise OperatorError(f"{folder} is open to others (mode {mode:03o}): chmod 700 it, or name a folder that does not exist yet")
            with _locked(folder, fcntl.LOCK_EX):
                for path in (folder / CERTIFICATE_FILE, folder / KEY_FILE):
                    if path.exists():
                        raise OperatorError(f"{path} exists already: to replace the CA, rotate it")
                return cls._make(folder, key_type, name, lifetime_days)

    @classmethod
    def load(cls, folder: Path | None = None) -> "Authority":
        """Load the CA in `folder`. Raises `OperatorError` if a file is missing or cannot be read, if key and certificate do not belong
        together, if the certificate is not valid today, and if others can read the key.
        """
        folder = folder or default_folder()
        with _faults("read", folder), _locked(folder, fcntl.LOCK_SH):
            authority = cls(read_certificates(folder), _read_key(folder / KEY_FILE))
        path, now = folder / CERTIFICATE_FILE, datetime.now(UTC)
        if authority.ends < now:
            raise OperatorError(f"{path} expired on {authority.ends:%Y-%m-%d}: rotate it, and let clients trust the new one")
        if authority.certificate.not_valid_before_utc > now:
            raise OperatorError(f"{path} is not valid before {authority.certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC")
        return authority

    @classmethod
    def rotate(cls, folder: Path | None = None, *, key_type: KeyType | None = None, lifetime_days: int = 3650) -> "Authority":
        """Replace the CA in `folder` by a new certificate with a new key. The type of the key stays, unless one is given.

        The old certificate is kept as `ca-OLD-<serial>.pem`, its key is deleted. The old key is not needed, so this also repairs a folder
        whose key is lost. Raises `OperatorError`, also for a certificate that is not self-signed.
        """
        folder = folder or default_folder()
        with _faults("rotated", folder), _locked(folder, fcntl.LOCK_EX):
            old = read_certificates(folder)[0]
            if old.subject != old.issuer:
                raise OperatorError(f"{folder / CERTIFICATE_FILE} was issued by {old.issuer.rfc4514_string()}: ask there for a new one")
            organization = old.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
            name = str(organization[0].value)[:NAME_LIMIT] if organization else "muxwsgi CA"
            if key_type is None:
                key_type = "rsa" if isinstance(old.public_key(), rsa.RSAPublicKey) else "ec"
            write_private(folder / f"ca-OLD-{old.serial_number:x}.pem", old.public_bytes(Encoding.PEM))
            return cls._make(folder, key_type, name, lifetime_days)

    @property
    def key_type(self) -> KeyType:
        """The type of the key."""
        return "rsa" if isinstance(self._key, rsa.RSAPrivateKey) else "ec"

    @property
    def signature_algorithm(self) -> bytes:
        """The algorithm of `sign`: an AlgorithmIdentifier in DER (RFC 5280 section 4.1.1.2)."""
        return ECDSA_WITH_SHA256 if isinstance(self._key, ec.EllipticCurvePrivateKey) else RSA_WITH_SHA256

    def sign(self, data: bytes) -> bytes:
        """The signature of a TBSCertificate."""
        if isinstance(self._key, ec.EllipticCurvePrivateKey):
            return self._key.sign(data, _ECDSA)
        return self._key.sign(data, _PKCS1, _SHA256)

    @classmethod
    def _make(cls, folder: Path, key_type: KeyType, name: str, lifetime_days: int) -> "Authority":
        if not 0 < len(name) <= NAME_LIMIT or not name.isprintable():
            raise OperatorError(f"a CA's name has 1 to {NAME_LIMIT} printable characters: not {name!a}")
        now = datetime.now(UTC)
        try:
            ends = now + timedelta(days=lifetime_days)
        except OverflowError:
            ends = now
        if ends <= now:
            raise OperatorError(f"a CA cannot be valid for {lifetime_days} days")
        key: Key = ec.generate_private_key(ec.SECP256R1()) if key_type == "ec" else rsa.generate_private_key(65537, RSA_BITS)
        certificate = _self_signed(key, name, now - BACKDATED, ends)
        # The key first. If the process stops between the two, the files do not belong together, so they are refused. Rotating repairs that.
        write_private(folder / KEY_FILE, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        write_private(folder / CERTIFICATE_FILE, certificate.public_bytes(Encoding.PEM))
        return cls((certificate,), key)

    def _check(self, certificates: tuple[x509.Certificate, ...]) -> None:
        try:
            own = self._key.public_key() == self.certificate.public_key()
            signs = _may_sign(self.certificate)
        except (ValueError, UnsupportedAlgorithm, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
            raise OperatorError(f"{CERTIFICATE_FILE}: the certificate cannot be read: {str(error).partition(chr(10))[0]}") from None
        if not own:
            raise OperatorError(f"{KEY_FILE} is not the key of the certificate in {CERTIFICATE_FILE}")
        if not signs:
            raise OperatorError(f"{CERTIFICATE_FILE}: {self.certificate.subject.rfc4514_string()} may not sign certificates")
        for certificate, issuer in pairwise(certificates):
            try:
                certificate.verify_directly_issued_by(issuer)
            except (ValueError, TypeError, InvalidSignature):
                names = f"{certificate.subject.rfc4514_string()} was not issued by {issuer.subject.rfc4514_string()}"
                raise OperatorError(f"{CERTIFICATE_FILE}: {names}, which follows it") from None


def read_certificates(folder: Path) -> tuple[x509.Certificate, ...]:
    """The certificates in the folder's `ca.pem`. The key is not read. Raises `OperatorError`."""
    path = folder / CERTIFICATE_FILE
    try:
        return tuple(x509.load_pem_x509_certificates(path.read_bytes()))
    except FileNotFoundError:
        raise _missing(folder) from None
    except OSError as error:
        raise OperatorError(f"{path}: {error.strerror}") from None
    except ValueError:
        raise OperatorError(f"{path} does not hold certificates in PEM") from None


def _missing(folder: Path) -> OperatorError:
    return OperatorError(f"there is no CA in {folder}: `muxwsgi ca init` makes one")


def replaced_certificates(folder: Path) -> dict[str, Path]:
    """The certificates that `rotate` kept: hexadecimal serial number to file."""
    return {path.stem.removeprefix("ca-OLD-"): path for path in sorted(folder.glob("ca-OLD-*.pem"))}


def _read_key(path: Path) -> Key:
    try:
        with open(path, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode & 0o777  # of the open file: the path may lead to another file by now
            if mode & 0o077:
                raise OperatorError(f"{path}: others can read the key (mode {mode:03o}): chmod 600 it, or rotate if they may have read it")
            key = load_pem_private_key(file.read(), password=None)
    except TypeError:
        raise OperatorError(f"{path} is encrypted: a proxy cannot ask for the passphrase") from None
    except OSError as error:
        raise OperatorError(f"{path}: {error.strerror}") from None
    except (ValueError, UnsupportedAlgorithm):
        raise OperatorError(f"{path} does not hold a private key in PEM") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise OperatorError(f"{path} is neither an EC nor an RSA key; browsers accept no other")
    return key


def _may_sign(certificate: x509.Certificate) -> bool:
    try:
        allowed = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False
    try:
        return allowed and certificate.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    except x509.ExtensionNotFound:  # any usage (RFC 5280 section 4.2.1.3)
        return allowed


def _self_signed(key: Key, name: str, begins: datetime, ends: datetime) -> x509.Certificate:
    subject = x509.Name(
        [x509.NameAttribute(NameOID.ORGANIZATION_NAME, name), x509.NameAttribute(NameOID.COMMON_NAME, f"{name} {os.urandom(4).hex()}")]
    )
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(ends)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_FOR_CERTIFICATES, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, _SHA256)
    )


@contextmanager
def _locked(folder: Path, how: int) -> Iterator[None]:
    """Lock the folder. Otherwise a reader could get one old and one new file while both are being replaced."""
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise _missing(folder) from None
    try:
        fcntl.flock(fd, how)
        yield
    finally:
        os.close(fd)


@contextmanager
def _faults(what: str, folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OperatorError(f"the CA in {folder} cannot be {what}: {error.strerror or error}") from None
