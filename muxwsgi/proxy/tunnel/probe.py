"""`Probe`: performs a TLS handshake with the destination of a tunnel, before the client's handshake is answered."""

import logging

from cryptography import x509

from muxwsgi.proxy.context import Context, Layer
from muxwsgi.proxy.fault import Fault
from muxwsgi.proxy.upstream.endpoint import Endpoint
from muxwsgi.proxy.upstream.upstreams import Upstreams

__all__ = ["Probe"]

log = logging.getLogger("muxwsgi.proxy")


class Probe:
    """A probe for a protocol makes the connection that the tunnel uses then. One for a certificate makes a connection and closes it."""

    def __init__(self, upstreams: Upstreams) -> None:
        self._upstreams = upstreams

    def agreed_alpn(self, ctx: Context, name: str, offered: tuple[str, ...]) -> tuple[str, ...]:
        """The id of `offered` that the server selects. For a client that offers only protocols that are relayed: the proxy has to select
        what the server speaks. Empty if the server selects none, or cannot be reached."""
        assert ctx.destination is not None
        try:
            agreed = self._upstreams.agree_early(Endpoint(*ctx.destination, (*ctx.layers, Layer(name, offered))), ctx)
        except Fault as fault:
            log.debug("cannot probe which protocol %s speaks: %s", name, fault)
            return ()
        return () if agreed is None else (agreed,)

    def certificate(self, ctx: Context, name: str) -> x509.Certificate | None:
        """The certificate of the server, for the leaf to mimic; None if the server cannot be reached or its certificate is not verified."""
        assert ctx.destination is not None
        try:
            upstream = self._upstreams.stream(Endpoint(*ctx.destination, (*ctx.layers, Layer(name))), ctx)
        except Fault as fault:
            log.debug("cannot get the certificate of %s to mimic: %s", name, fault)
            return None
        agreed = upstream.tls
        upstream.finish()
        # An unverified certificate can have any names, and the CA would sign them.
        return agreed.peer_certificate if agreed is not None and agreed.peer_verified else None
