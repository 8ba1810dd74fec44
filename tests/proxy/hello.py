"""ClientHellos for tests that need one to have been said."""

from muxwsgi.protocols.tls import ClientHello
from muxwsgi.records.fingerprint import ClientTLS

__all__ = ["client_tls"]


def client_tls(sni: str | None) -> ClientTLS:
    """What a client of TLS 1.3 said that asked for `sni`."""
    return ClientTLS(
        ClientHello(
            sni=sni,
            alpn=(),
            versions=(0x0304,),
            ciphers=(0x1301,),
            extensions=(0, 43),
            groups=(29,),
            point_formats=(0,),
            signature_algorithms=(0x0403,),
            legacy_version=0x0303,
        )
    )
