"""Client certificates: their environ keys, which are Apache's (mod_ssl), and the fields in which proxies pass them on.

The forms of a field are told apart by their first bytes. The client may have written these, if the proxy appends to fields, so all of a
value has to be of its form:

    :MIIC...:                          RFC 9440: a Byte Sequence of structured fields, with the certificate in DER
    -----BEGIN%20CERTIFICATE...        nginx, `$ssl_client_escaped_cert`: PEM, percent-encoded. HAProxy can send it too
    Hash=...;Cert="-----BEGIN%20..."   Envoy, x-forwarded-client-cert: the last element is of the nearest proxy
    MIIC...                            HAProxy, `ssl_c_der,base64`
"""

import base64
import re
from datetime import datetime
from urllib.parse import unquote_to_bytes

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from muxwsgi.errors import PeerError
from muxwsgi.http.date import MONTHS

__all__ = ["certificate_environ", "passed_certificate_environ"]

#: A pair in x-forwarded-client-cert: `Subject="CN=a, O=\\"b\\""`. The subject is the client's choice, and has its quotes escaped.
_PAIR = re.compile(r'([A-Za-z]+)=(?:"((?:[^"\\]|\\.)*)"|([^",;]*))')

#: One certificate in PEM (RFC 7468 section 3).
_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----[A-Za-z0-9+/=\s]+-----END CERTIFICATE-----\s*")


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


def passed_certificate_environ(value: str) -> dict[str, str]:
    """The environ keys of the certificate in the value of a field, which the proxy has verified. Raises `PeerError` (400)."""
    try:
        return certificate_environ(_certificate(value), verified=True)
    except (ValueError, TypeError, x509.InvalidVersion) as error:  # also from the parts of it, which are parsed when they are asked for
        raise PeerError(400, f"the client certificate in a field cannot be read: {error}") from None


def _certificate(value: str) -> x509.Certificate:
    if value.startswith(":"):
        return x509.load_der_x509_certificate(_base64(value[1:].removesuffix(":")))
    if value.startswith("-----BEGIN"):
        return _from_pem(value)
    if _PAIR.match(value) and "=" in value.rstrip("=").partition(";")[0]:  # base64 has "=" at its end alone
        return _from_pem(_last_cert(value))
    return x509.load_der_x509_certificate(_base64(value))


def _last_cert(value: str) -> str:
    """`Cert` in the last element of x-forwarded-client-cert: the nearest proxy has written it."""
    found = None
    at = 0
    while True:
        pair = _PAIR.match(value, at)
        if pair is None:
            raise ValueError("it is not a list of pairs")
        if pair[1].lower() == "cert":
            found = pair[2] if pair[2] is not None else pair[3]
        at = pair.end()
        if at == len(value):
            break
        if value[at] == ",":
            found = None
            at += 1
            while value[at : at + 1] in (" ", "\t"):
                at += 1
        elif value[at] == ";":
            at += 1
        else:
            raise ValueError("it is not a list of pairs")
    if found is None:
        raise ValueError("its last element has no Cert")
    return found


def _from_pem(text: str) -> x509.Certificate:
    data = unquote_to_bytes(text)
    if not _PEM.fullmatch(data):  # a proxy that appends to the client's field would have the client choose the first one
        raise ValueError("it is not one certificate alone")
    return x509.load_pem_x509_certificate(data)


def _base64(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def _time(moment: datetime) -> str:
    """As OpenSSL prints it. Not strftime: its names follow the locale."""
    return f"{MONTHS[moment.month - 1]} {moment.day:2} {moment:%H:%M:%S %Y} GMT"
