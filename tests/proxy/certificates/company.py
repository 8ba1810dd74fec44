"""A company's own CA: a root that is kept elsewhere, and an intermediate with its key for us."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey


class Company:
    """`folder` holds ca.pem and ca-key.pem; `root` is the file that clients trust."""

    def __init__(
        self,
        folder: Path,
        key: Key | None = None,
        *,
        since: float = -20,
        days: float = 10,
        may_sign: bool = True,
        identifier: bytes | None = b"of our own making",
        with_root: bool = True,
        passphrase: bytes | None = None,
    ) -> None:
        folder.mkdir(mode=0o700)
        self.folder = folder
        root_key = ec.generate_private_key(ec.SECP256R1())
        self.root_certificate = signed("root", root_key, "root", root_key)
        self.key = key or ec.generate_private_key(ec.SECP384R1())
        self.certificate = signed("web inspection", self.key, "root", root_key, since=since, days=days, ca=may_sign, identifier=identifier)
        self.root = folder / "root.pem"
        self.root.write_bytes(self.root_certificate.public_bytes(Encoding.PEM))
        chain = [self.certificate, self.root_certificate] if with_root else [self.certificate]
        (folder / "ca.pem").write_bytes(b"".join(each.public_bytes(Encoding.PEM) for each in chain))
        encryption = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
        path = folder / "ca-key.pem"
        path.touch(mode=0o600)
        path.write_bytes(self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))


def signed(
    name: str, key: Key, issuer: str, issuer_key: ec.EllipticCurvePrivateKey, *, since: float = -20, days: float = 10, ca: bool = True,
    identifier: bytes | None = None,
) -> x509.Certificate:  # fmt: skip
    now = datetime.now(UTC)
    own = identifier or x509.SubjectKeyIdentifier.from_public_key(key.public_key()).digest
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + timedelta(days=since))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(False, False, False, False, False, ca, ca, False, False) if ca else
                       x509.KeyUsage(True, False, False, False, False, False, False, False, False), critical=True)
        .add_extension(x509.SubjectKeyIdentifier(own), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
        .sign(issuer_key, hashes.SHA256())
    )  # fmt: skip
