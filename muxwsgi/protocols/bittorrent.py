"""BitTorrent: the handshake of a peer."""

from muxwsgi.mux.matchers import prefix
from muxwsgi.protocols import Protocol, Speaks

__all__ = ["PROTOCOL", "bittorrent"]

bittorrent = prefix(b"\x13BitTorrent protocol")

PROTOCOL = Protocol(
    name="BitTorrent",
    defined_in="BEP 3, peer protocol",
    speaks_first=Speaks.CLIENT,
    match=bittorrent,
    begins=(b"\x13BitTorrent protocol" + bytes(28),),
    not_begins=(b"\x13BitTorrent Protocol", b"\x14BitTorrent protocol"),
)
