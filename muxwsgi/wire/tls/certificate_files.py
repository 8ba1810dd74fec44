"""The operator's certificates and keys, in PEM: reads the files, and describes faults in one line."""

import logging
from datetime import UTC, datetime

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from OpenSSL import SSL

from muxwsgi.errors import OperatorError
from muxwsgi.names import comparable
from muxwsgi.settings import CertificateFiles

__all__ = ["certificate_names", "read_certificate", "use_certificate", "why_refused"]

log = logging.getLogger("muxwsgi.error")


def _names(leaf: x509.Certificate) -> tuple[str, ...]:
    """The names and addresses in the SAN of a certificate; without a SAN, its CN."""
    try:
        alternative = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        common = leaf.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
        return tuple(comparable(str(name.value)) for name in common)
    # RFC 6066 section 3 does not allow an address as a server name. Some clients send one all the same.
    addresses = map(str, alternative.get_values_for_type(x509.IPAddress))
    return (*(comparable(name) for name in alternative.get_values_for_type(x509.DNSName)), *addresses)


def certificate_names(files: CertificateFiles) -> tuple[str, ...]:
    """The names and addresses that a certificate is for, in lower case. If it is not valid today, the error log gets a warning.

    Raises `OperatorError` if it cannot be read.
    """
    leaf = read_certificate(files)
    try:
        names = _names(leaf)
        begin, end = leaf.not_valid_before_utc, leaf.not_valid_after_utc
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        raise _unreadable(files, error) from None
    now = datetime.now(UTC)
    if end < now:
        log.warning("%s: the certificate expired on %s", files.certfile, f"{end:%Y-%m-%d}")
    elif begin > now:
        log.warning("%s: the certificate is not valid before %s", files.certfile, f"{begin:%Y-%m-%d %H:%M} UTC")
    return names


def read_certificate(files: CertificateFiles) -> x509.Certificate:
    """The first certificate in the file. Raises `OperatorError` if it cannot be read."""
    try:
        with open(files.certfile, "rb") as file:
            return x509.load_pem_x509_certificate(file.read())
    except (OSError, ValueError) as error:
        raise _unreadable(files, error) from None


def _unreadable(files: CertificateFiles, error: Exception) -> OperatorError:
    return OperatorError(f"certfile: {files.certfile}: the certificate cannot be read: {_first_line(error)}")


def use_certificate(context: SSL.Context, files: CertificateFiles) -> None:
    """Give `context` a certificate, its chain and its key. Raises `OperatorError` naming the file that is wrong."""
    try:
        context.use_certificate_chain_file(files.certfile)
    except SSL.Error as error:
        raise OperatorError(f"certfile: {why_refused(files.certfile, 'a certificate in PEM', error)}") from None
    try:
        with open(files.keyfile, "rb") as file:
            key = load_pem_private_key(file.read(), password=None)
    except TypeError:
        raise OperatorError(f"keyfile: {files.keyfile} is encrypted: a server cannot ask for the passphrase") from None
    except OSError as error:
        raise OperatorError(f"keyfile: {files.keyfile}: {error.strerror}") from None
    except (ValueError, UnsupportedAlgorithm):
        hint = ": give --keyfile" if files.keyfile == files.certfile else ""
        raise OperatorError(f"keyfile: {files.keyfile} does not hold a private key in PEM{hint}") from None
    try:
        context.use_privatekey(key)  # type: ignore[arg-type]  # cryptography's union of key types is wider than OpenSSL's
        context.check_privatekey()
    except (SSL.Error, TypeError):  # TypeError: a type of key that cannot be in a certificate
        raise OperatorError(f"keyfile: {files.keyfile} is not the key of the certificate in {files.certfile}") from None


def why_refused(path: str, expected: str, error: SSL.Error) -> str:
    """OpenSSL's error about a file, a list of (library, function, reason), as one line."""
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
