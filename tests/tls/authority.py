"""A small certificate authority for tests: root, intermediate, leaves."""

import ipaddress
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from muxwsgi.settings import CertificateFiles


class Authority:
    """Root and intermediate, whose files are in `folder`; `root` is the path of the root certificate."""

    def __init__(self, folder: Path, name: str = "test") -> None:
        self.folder = folder
        self._root_key = ec.generate_private_key(ec.SECP256R1())
        self._root = _certificate(f"{name} root", self._root_key, None, self._root_key, ca=True)
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._intermediate = _certificate(f"{name} intermediate", self._key, self._root, self._root_key, ca=True)
        self.root = str(folder / f"{name}-root.pem")
        Path(self.root).write_bytes(self._root.public_bytes(Encoding.PEM))

    def leaf(
        self, *names: str | x509.GeneralName, common_name: str | None = None, since: int = -20, days: int = 10, passphrase: bytes | None = None
    ) -> CertificateFiles:
        """A leaf for `names` (texts are addresses or host names), with its chain, valid from day `since` to day `days` from now on."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = common_name or next((name for name in names if isinstance(name, str)), "nobody")
        certificate = _certificate(subject, key, self._intermediate, self._key, names=names, since=since, days=days)
        stem = f"{subject.replace('*', 'any')}-{certificate.serial_number:x}"
        certfile, keyfile = self.folder / f"{stem}.pem", self.folder / f"{stem}.key"
        certfile.write_bytes(certificate.public_bytes(Encoding.PEM) + self._intermediate.public_bytes(Encoding.PEM))
        encryption = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
        keyfile.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))
        return CertificateFiles(certfile=str(certfile), keyfile=str(keyfile))


def _certificate(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: x509.Certificate | None,
    issuer_key: ec.EllipticCurvePrivateKey,
    *,
    ca: bool = False,
    names: Sequence[str | x509.GeneralName] = (),
    since: int = -20,
    days: int = 10,
) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + timedelta(days=since))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(not ca, False, False, False, False, ca, ca, False, False), critical=True)  # Python 3.13 insists on it
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName([_general(each) for each in names]), critical=False)
    return builder.sign(issuer_key, hashes.SHA256())


def _general(name: str | x509.GeneralName) -> x509.GeneralName:
    if isinstance(name, x509.GeneralName):
        return name
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
