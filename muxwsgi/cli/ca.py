"""`muxwsgi ca`: make, look at, hand out and replace the certificate authority of the proxy. No gevent, and no network."""

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from muxwsgi.errors import OperatorError

if TYPE_CHECKING:
    from cryptography import x509

__all__ = ["ca"]

_folder = click.option("--folder", metavar="FOLDER", type=click.Path(path_type=Path), help="The CA's folder. [$XDG_DATA_HOME/muxwsgi/ca]")


@click.group(short_help="Make, show, hand out or replace the CA of the proxy.")
def ca() -> None:
    """The certificate authority of the proxy, for the TLS that it decrypts."""


@ca.command()
@_folder
@click.option("--key-type", type=click.Choice(["ec", "rsa"]), default="ec", show_default=True, help="P-256, or RSA with 3072 bits.")
@click.option("--name", default="muxwsgi CA", show_default=True, help="The organization in the certificate.")
def init(folder: Path | None, key_type: Any, name: str) -> None:
    """Make a CA, and print how clients learn to trust it. An existing one is not changed."""
    from muxwsgi.proxy.certificates.authority import Authority, default_folder

    folder = folder or default_folder()
    _describe(folder, Authority.create(folder, key_type=key_type, name=name).certificate)
    click.echo()
    click.echo(_installation(folder / "ca.pem"))


@ca.command()
@_folder
def show(folder: Path | None) -> None:
    """Say what it is, and what is wrong with it."""
    from muxwsgi.proxy.certificates.authority import Authority, default_folder, read_certificates, replaced_certificates

    folder = folder or default_folder()
    certificates = read_certificates(folder)
    _describe(folder, certificates[0])
    for certificate in certificates[1:]:
        click.echo(f"issued by    {certificate.subject.rfc4514_string()}")
    for serial, path in replaced_certificates(folder).items():
        click.echo(f"replaced     {path}  (serial {serial})")
    Authority.load(folder)


@ca.command(short_help="Write the certificate that clients trust, never the key.")
@_folder
@click.option("--format", "form", type=click.Choice(["pem", "der", "p12"]), default="pem", show_default=True, help="p12 is PKCS#12.")
@click.option("--output", metavar="FILE", type=click.Path(path_type=Path), help="The file to write; standard output without it.")
@click.option("--old", metavar="SERIAL", help="One that was replaced, by the serial number that `show` gives.")
def export(folder: Path | None, form: str, output: Path | None, old: str | None) -> None:
    """Write the certificate that clients trust, never the key, and print on standard error how they learn to."""
    from muxwsgi.proxy.certificates.authority import default_folder, read_certificates

    folder = folder or default_folder()
    certificate = read_certificates(folder)[-1] if old is None else _replaced(folder, old)
    data = _encoded(certificate, form)
    if output is None:
        if form != "pem" and sys.stdout.isatty():
            raise OperatorError(f"--format {form} is binary: give an --output, or redirect it")
        click.echo(data, nl=False)
    else:
        _write(output, data, folder)
    if old is None:
        click.echo(_installation(output if output is not None and form == "pem" else folder / "ca.pem"), err=True)


@ca.command()
@_folder
@click.option("--key-type", type=click.Choice(["ec", "rsa"]), help="Of the new key; as it was without it.")
def rotate(folder: Path | None, key_type: Any) -> None:
    """Replace it by a new certificate with a new key. The old certificate is kept, its key is not."""
    from muxwsgi.proxy.certificates.authority import Authority, default_folder

    folder = folder or default_folder()
    _describe(folder, Authority.rotate(folder, key_type=key_type).certificate)
    click.echo()
    click.echo("Proxies that run use the old one until they are started again. Clients have to trust the new one:\n")
    click.echo(_installation(folder / "ca.pem"))


def _describe(folder: Path, certificate: "x509.Certificate") -> None:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

    key = certificate.public_key()
    if isinstance(key, ec.EllipticCurvePublicKey):
        key_type = f"EC {key.curve.name}"
    elif isinstance(key, rsa.RSAPublicKey):
        key_type = f"RSA {key.key_size}"
    else:
        key_type = type(key).__name__
    click.echo(f"subject      {certificate.subject.rfc4514_string()}")
    click.echo(f"SHA-256      {certificate.fingerprint(hashes.SHA256()).hex(':').upper()}")
    click.echo(f"serial       {certificate.serial_number:x}")
    click.echo(f"valid        {certificate.not_valid_before_utc:%Y-%m-%d} to {certificate.not_valid_after_utc:%Y-%m-%d}")
    click.echo(f"key          {key_type}")
    click.echo(f"certificate  {folder / 'ca.pem'}")
    click.echo(f"private key  {folder / 'ca-key.pem'}")


def _replaced(folder: Path, serial: str) -> "x509.Certificate":
    from cryptography import x509

    from muxwsgi.proxy.certificates.authority import replaced_certificates

    path = replaced_certificates(folder).get(serial.lower())
    if path is None:
        raise OperatorError(f"--old: no certificate with the serial number {serial!a} was replaced in {folder}")
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError) as error:
        raise OperatorError(f"{path} cannot be read: {str(error).partition(chr(10))[0]}") from None


def _encoded(certificate: "x509.Certificate", form: str) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, pkcs12

    if form == "p12":
        return pkcs12.serialize_key_and_certificates(None, None, None, [certificate], NoEncryption())
    return certificate.public_bytes(Encoding.PEM if form == "pem" else Encoding.DER)


def _write(output: Path, data: bytes, folder: Path) -> None:
    try:
        if output.exists() and output.resolve().parent == folder.resolve():
            raise OperatorError(f"--output: {output} belongs to the CA itself")
        fd = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        with open(fd, "wb") as file:
            file.write(data)
    except OSError as error:
        raise OperatorError(f"--output: {output}: {error.strerror}") from None


def _installation(path: Path) -> str:
    file = shlex.quote(str(path.absolute()))
    return "\n".join(
        [
            "How clients learn to trust it. Its private key can forge every site for them: keep it secret.",
            "",
            f"  curl               curl --cacert {file} ...",
            f"  Python requests    export REQUESTS_CA_BUNDLE={file}",
            f"  Debian, Ubuntu     sudo install -m 644 {file} /usr/local/share/ca-certificates/muxwsgi.crt && sudo update-ca-certificates",
            f'  Chromium (NSS)     certutil -d "sql:$HOME/.pki/nssdb" -A -t C,, -n muxwsgi -i {file}',
            f'  Firefox (NSS)      certutil -d "sql:PROFILE" -A -t C,, -n muxwsgi -i {file}',
            "                     with the profile's folder of about:profiles; or in Settings, Certificates, Authorities, Import",
        ]
    )
