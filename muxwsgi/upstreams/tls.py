"""The TLS context of a server of an upstream."""

import socket

from OpenSSL import SSL

from muxwsgi.settings.upstream import UpstreamServerSettings
from muxwsgi.wire.tls import start  # noqa: F401  # what each handshake needs, before the first one
from muxwsgi.wire.tls.client_context import ClientContext

__all__ = ["server_context"]


class _NamedContext(ClientContext):
    """A context that sends another server name than the one that the certificate has to be for."""

    def __init__(self, sni: str, **more: object) -> None:
        super().__init__(**more)  # type: ignore[arg-type]
        self._sni = sni

    def connection(self, sock: socket.socket | None, server_hostname: str | None) -> SSL.Connection:
        ssl = super().connection(sock, server_hostname)
        if self._sni:
            ssl.set_tlsext_host_name(self._sni.encode("ascii"))
        return ssl


def server_context(settings: UpstreamServerSettings) -> ClientContext:
    """The context. Raises `OperatorError` for a file that cannot be used."""
    return _NamedContext(
        settings.sni,
        verify=settings.verify == "required",
        ca_file=settings.ca_file or None,
        certfile=settings.crt or None,
        keyfile=settings.key or None,
        alpn=settings.alpn,
    )
