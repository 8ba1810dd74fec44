"""Checks whether a server's certificate is for the host that we connected to (RFC 9525).

service-identity implements the rules. It is called for each name of a certificate separately, because its `extract_patterns` raises for
the first name that it cannot use (`DNS:192.168.1.1`, `DNS:*.lan`, `URI:urn:x:y`). A valid certificate would be refused because of such a
name. A name that cannot be used covers nothing. Only dNSNames are compared with a name, and only iPAddresses with an address.
"""

from cryptography import x509
from service_identity import CertificateError
from service_identity.hazmat import DNS_ID, DNSPattern

from muxwsgi.names import IPAddress

__all__ = ["is_certificate_for"]

#: Any label that is not an A-label.
_ORDINARY_LABEL = "any"


def is_certificate_for(certificate: x509.Certificate, host: "str | IPAddress") -> bool:
    """Whether one of the alternative names covers `host`, an address or a canonical name. The common name is ignored.

    If the list of names cannot be read, the certificate is for no host.
    """
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, x509.DuplicateExtension, x509.UnsupportedGeneralNameType, ValueError):
        return False
    if isinstance(host, str):
        return any(_covers(name, host) for name in names.get_values_for_type(x509.DNSName))
    return host in names.get_values_for_type(x509.IPAddress)


def _covers(name: str, host: str) -> bool:
    """Whether the dNSName `name` covers `host` (RFC 9525 section 6.3)."""
    try:
        pattern = DNSPattern.from_bytes(name.encode())
    except CertificateError:
        return False
    label, _, parent = host.partition(".")
    # A wildcard covers any whole label. service-identity never lets it cover an A-label. RFC 6125 forbade this only for a wildcard inside
    # of a label.
    if label.startswith("xn--") and pattern.pattern.startswith(b"*."):
        host = f"{_ORDINARY_LABEL}.{parent}"
    try:
        return bool(DNS_ID(host).verify(pattern))
    except ValueError:  # service-identity does not accept `host` as a name
        return False
