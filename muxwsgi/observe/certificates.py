"""When certificates expire: rows for metrics, which processes share."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from cryptography import x509

__all__ = ["ROWS", "CertificateRow", "rows_of"]

#: Certificates that are reported.
ROWS = 64


class CertificateRow(NamedTuple):
    """A certificate.

    bind        the address of the bind that shows it, or `proxy CA`
    name        the first DNS name that it is for, its common name, or its whole subject
    not_after   when it expires, seconds since the epoch
    """

    bind: str
    name: str
    not_after: int


def rows_of(certificates: "Iterable[tuple[str, x509.Certificate]]") -> Sequence[CertificateRow]:
    """The rows of certificates, each given with its bind: those that expire first, in this order. Of two with the same bind and name the
    one that expires first."""
    first: dict[tuple[str, str], CertificateRow] = {}
    rows = [CertificateRow(bind, _name(each), int(each.not_valid_after_utc.timestamp())) for bind, each in certificates]
    for row in sorted(rows, key=lambda row: row.not_after):
        first.setdefault(row[:2], row)
    return list(first.values())[:ROWS]


def _name(certificate: "x509.Certificate") -> str:
    from cryptography import x509  # loaded where there are certificates, and only there

    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(x509.DNSName)
    except (x509.ExtensionNotFound, ValueError):  # ValueError: an extension that cannot be read
        names = []
    common = [str(each.value) for each in certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)]
    return next(iter([*names, *common]), certificate.subject.rfc4514_string())
