"""Certificates, and what a TLS bind serves."""

from typing import Literal

from muxwsgi.errors import OperatorError
from muxwsgi.record import record
from muxwsgi.setting import check, setting
from muxwsgi.settings.sections import TLS

__all__ = ["CertificateFiles", "ClientCertificates", "TLSSettings", "UnknownALPN"]

#: Seconds that a handshake may take, TLS' or SOCKS', by default.
HANDSHAKE_TIMEOUT = 10.0

ClientCertificates = Literal["none", "optional", "required"]

#: What happens to a TLS client that offers ALPN ids, and none that a route owns: it is refused with no_application_protocol (RFC 7301
#: section 3.2), or goes on as if it had offered none.
UnknownALPN = Literal["refuse", "ignore"]


@record(kw_only=True)
class CertificateFiles:
    """A certificate with its chain and its private key, in PEM. One file may hold both."""

    certfile: str
    keyfile: str


@record(kw_only=True)
class TLSSettings:
    """What a TLS bind serves. The server name chooses the certificate; the first one is used if none fits."""

    certificates: tuple[CertificateFiles, ...]
    client_certificates: ClientCertificates = setting(
        "none", "Whether clients are asked for a certificate, and must have one.", section=TLS, choices=("none", "optional", "required")
    )
    client_ca: str | None = setting(
        None, "CA certificates that client certificates are verified with, PEM.", section=TLS, option="ca_certs", unit="FILE"
    )
    ciphers: str | None = setting(
        None, "OpenSSL cipher list for TLS 1.2. Default: forward secrecy and AEAD only.", section=TLS, unit="LIST"
    )
    unknown_alpn: UnknownALPN = setting(
        "refuse",
        "What happens to clients that offer ALPN ids, and none that is served: refuse (no_application_protocol), or ignore the ids, for "
        "devices with ids of their own.",
        section=TLS,
        choices=("refuse", "ignore"),
    )
    handshake_timeout: float = setting(HANDSHAKE_TIMEOUT, "Seconds that a TLS handshake may take.", section=TLS, unit="SECONDS", above=0)

    def __post_init__(self) -> None:
        if not self.certificates:
            raise OperatorError("certfile: TLS needs a certificate (--certfile and --keyfile, or --tls-dev)")
        check(self)
        if self.client_certificates != "none" and self.client_ca is None:
            raise OperatorError("ca_certs: asking clients for certificates needs the CA certificates to verify them with")
