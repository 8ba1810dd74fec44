"""Client certificates: their environ keys, which are Apache's (mod_ssl), and the fields in which proxies pass them on.

The forms of a field are told apart by their first bytes:

    :MIIC...:                          RFC 9440: a Byte Sequence of structured fields, with the certificate in DER
    -----BEGIN%20CERTIFICATE...        nginx, `$ssl_client_escaped_cert`: PEM, percent-encoded. HAProxy can send it too
    Hash=...;Cert="-----BEGIN%20..."   Envoy, x-forwarded-client-cert: the last element is of the nearest proxy
    MIIC...                            HAProxy, `ssl_c_der,base64`
"""

import base64
import binascii
import re
from datetime import datetime
from urllib.parse import unquote_to_bytes

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from muxwsgi.errors import PeerError
from muxwsgi.http.date import MONTHS

__all__ = ["certificate_environ", "passed_certificate"]

#: `Cert` of an element of x-forwarded-client-cert.
_ENVOY = re.compile(r'(?:^|;)Cert="([^"]*)"', re.IGNORECASE)

#: What stands between two elements of x-forwarded-client-cert: a comma outside of quotes.
_BETWEEN = re.compile(r',(?=(?:[^"]*"[^"]*")*[^"]*\Z)')


def certificate_environ(certificate: x509.Certificate, *, verified: bool) -> dict[str, str]:
    """The environ keys of a client certificate."""
    return {
        "SSL_CLIENT_VERIFY": "SUCCESS" if verified else "GENEROUS",
        "SSL_CLIENT_CERT": certificate.public_bytes(Encoding.PEM).decode("ascii"),
        "SSL_CLIENT_S_DN": certificate.subject.rfc4514_string(),
        "SSL_CLIENT_I_DN": certificate.issuer.rfc4514_string(),
        "SSL_CLIENT_M_SERIAL": f"{certificate.serial_number:X}",
        "SSL_CLIENT_M_VERSION": str(certificate.version.value + 1),
        "SSL_CLIENT_V_START": _time(certificate.not_valid_before_utc),
        "SSL_CLIENT_V_END": _time(certificate.not_valid_after_utc),
    }


def passed_certificate(value: str) -> x509.Certificate:
    """The certificate in the value of a field. Raises `PeerError` (400)."""
    try:
        if value.startswith(":"):
            return x509.load_der_x509_certificate(_base64(value[1:].removesuffix(":")))
        if value.startswith("-----BEGIN"):
            return _from_pem(value)
        if "=" in value.rstrip("=").partition(";")[0]:
            found = _ENVOY.search(_BETWEEN.split(value)[-1].strip(" \t"))
            if found is None:
                raise PeerError(400, "the last element of the client certificate's field has no Cert")
            return _from_pem(found[1])
        return x509.load_der_x509_certificate(_base64(value))
    except (ValueError, binascii.Error) as error:
        raise PeerError(400, f"the client certificate in a field cannot be read: {error}") from None


def _from_pem(text: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate(unquote_to_bytes(text))


def _base64(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def _time(moment: datetime) -> str:
    """As OpenSSL prints it. Not strftime: its names follow the locale."""
    return f"{MONTHS[moment.month - 1]} {moment.day:2} {moment:%H:%M:%S %Y} GMT"
