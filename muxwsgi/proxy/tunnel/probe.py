"""`Probe`: asks the destination of a tunnel by a TLS handshake, before the client's own is answered."""

import logging

from cryptography import x509

from muxwsgi.proxy.context import Context, Layer
from muxwsgi.proxy.fault import Fault
from muxwsgi.proxy.upstream.endpoint import Endpoint
from muxwsgi.proxy.upstream.upstreams import Upstreams

__all__ = ["Probe"]

log = logging.getLogger("muxwsgi.proxy")


class Probe:
    """Each question is a connection, which is closed then."""

    def __init__(self, upstreams: Upstreams) -> None:
        self._upstreams = upstreams

    def agreed_alpn(self, ctx: Context, name: str, offered: tuple[str, ...]) -> tuple[str, ...]:
        """The id of `offered` that the server agrees on, for a client that offers none that is served here, HTTP/2 alone for example: what
        is relayed has to be what the server speaks. Empty where it agrees on none, or cannot be asked."""
        assert ctx.destination is not None
        try:
            upstream = self._upstreams.stream(Endpoint(*ctx.destination, (*ctx.layers, Layer(name, offered))), ctx)
        except Fault as fault:
            log.debug("%s cannot be asked which protocol it speaks: %s", name, fault)
            return ()
        agreed = upstream.tls.alpn if upstream.tls is not None else None
        upstream.finish()
        return () if agreed is None else (agreed,)

    def certificate(self, ctx: Context, name: str) -> x509.Certificate | None:
        """The certificate of the server, whose names the leaf is to have; None where it cannot be had, or is not verified: then there is
        nothing to be like."""
        assert ctx.destination is not None
        try:
            upstream = self._upstreams.stream(Endpoint(*ctx.destination, (*ctx.layers, Layer(name))), ctx)
        except Fault as fault:
            log.debug("no certificate of %s to take the names of: %s", name, fault)
            return None
        agreed = upstream.tls
        upstream.finish()
        # Where nobody has verified it, it may name whomever it likes, and our CA would vouch for that.
        return agreed.peer_certificate if agreed is not None and agreed.peer_verified else None
