"""Whether a server's certificate is one for the host that we connected to (RFC 9525).

service-identity has the rules. It is asked about each name of a certificate by itself: its `extract_patterns` raises for the first
one that it cannot use, and a certificate that is good for a host would be refused because of another name in it (`DNS:192.168.1.1`,
`DNS:*.lan`, `URI:urn:x:y`). A name that cannot be used covers nothing. Only names of the kind that is looked for are read: dNSName for a
name, iPAddress for an address.
"""

from cryptography import x509
from service_identity import CertificateError
from service_identity.hazmat import DNS_ID, DNSPattern

from muxwsgi.names import IPAddress

__all__ = ["is_certificate_for"]

#: Any label that is not an A-label.
_ORDINARY_LABEL = "any"


def is_certificate_for(certificate: x509.Certificate, host: "str | IPAddress") -> bool:
    """Whether one of the alternative names covers `host`, an address or a canonical name. A common name is not looked at.

    A certificate whose list of names cannot be read at all is for no host.
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
    # A wildcard stands for any whole label. service-identity never lets one stand for an A-label, which RFC 6125 forbade
    # for wildcards inside of a label alone.
    if label.startswith("xn--") and pattern.pattern.startswith(b"*."):
        host = f"{_ORDINARY_LABEL}.{parent}"
    try:
        return bool(DNS_ID(host).verify(pattern))
    except ValueError:  # not a name that it would look for
        return False
