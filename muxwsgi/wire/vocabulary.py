"""For rare methods of `Connection`: the files that the kernel can send, and certificates in the form of the ssl module."""

import io
import os
import stat
from ipaddress import IPv6Address
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datetime import datetime

    from cryptography import x509


__all__ = ["as_dict", "descriptor_of", "in_der"]

_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

#: OpenSSL's long names, as `ssl.SSLSocket.getpeercert` has them, by object identifier.
_LONG_NAMES = {
    "2.5.4.3": "commonName",
    "2.5.4.4": "surname",
    "2.5.4.5": "serialNumber",
    "2.5.4.6": "countryName",
    "2.5.4.7": "localityName",
    "2.5.4.8": "stateOrProvinceName",
    "2.5.4.9": "streetAddress",
    "2.5.4.10": "organizationName",
    "2.5.4.11": "organizationalUnitName",
    "2.5.4.12": "title",
    "2.5.4.42": "givenName",
    "2.5.4.46": "dnQualifier",
    "0.9.2342.19200300.100.1.1": "userId",
    "0.9.2342.19200300.100.1.25": "domainComponent",
    "1.2.840.113549.1.9.1": "emailAddress",
}


def descriptor_of(file: IO[bytes]) -> tuple[int, int] | None:
    """Descriptor and size of a file that reads its descriptor's bytes unchanged, at any offset; None for every other object."""
    raw: object = file
    if isinstance(file, io.BufferedRandom):
        file.flush()
        raw = file.raw
    elif isinstance(file, io.BufferedReader):
        raw = file.raw
    if not isinstance(raw, io.FileIO):
        return None
    information = os.fstat(raw.fileno())
    # For files in /proc and /sys, the size is not the length of the content. They have no blocks.
    if not stat.S_ISREG(information.st_mode) or not information.st_blocks:
        return None
    return raw.fileno(), information.st_size


def _time(at: "datetime") -> str:  # `strftime` would write the month in the locale of the process
    return f"{_MONTHS[at.month - 1]} {at.day:2} {at:%H:%M:%S %Y} GMT"


def in_der(certificate: "x509.Certificate") -> bytes:
    """As `getpeercert(True)` of an `ssl.SSLSocket`."""
    from cryptography.hazmat.primitives.serialization import Encoding

    return certificate.public_bytes(Encoding.DER)


def as_dict(certificate: "x509.Certificate") -> dict[str, Any]:
    """As `getpeercert()` of an `ssl.SSLSocket`, without addresses of revocation lists and the like."""
    described: dict[str, Any] = {
        "subject": _name(certificate.subject),
        "issuer": _name(certificate.issuer),
        "version": certificate.version.value + 1,
        "serialNumber": f"{certificate.serial_number:X}".zfill(2 * ((certificate.serial_number.bit_length() + 7) // 8)),
        "notBefore": _time(certificate.not_valid_before_utc),
        "notAfter": _time(certificate.not_valid_after_utc),
    }
    names = _alternative_names(certificate)
    if names:
        described["subjectAltName"] = names
    return described


def _name(name: "x509.Name") -> tuple[tuple[tuple[str, str], ...], ...]:
    def spelled(attribute: "x509.NameAttribute[Any]") -> tuple[str, str]:
        oid = attribute.oid.dotted_string
        return _LONG_NAMES.get(oid, oid), str(attribute.value)

    return tuple(tuple(spelled(attribute) for attribute in part) for part in name.rdns)


def _alternative_names(certificate: "x509.Certificate") -> tuple[tuple[str, str], ...]:
    from cryptography import x509

    kinds: dict[Any, str] = {x509.DNSName: "DNS", x509.IPAddress: "IP Address", x509.RFC822Name: "email"}
    kinds[x509.UniformResourceIdentifier] = "URI"
    try:
        alternative = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return ()
    return tuple((kinds[type(name)], _spelled(name.value)) for name in alternative if type(name) in kinds)


def _spelled(value: object) -> str:
    if isinstance(value, IPv6Address):  # as OpenSSL writes it
        return ":".join(f"{int(group, 16):X}" for group in value.exploded.split(":"))
    return str(value)
