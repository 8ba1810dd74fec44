"""All peers by name, and why one takes no part in a load."""

from tests.bench.loads import Load
from tests.bench.packages import why_missing
from tests.bench.peers import FILE_PEERS, HTTP2_PEERS, HTTP_PEERS, STREAM_PEERS, WEBSOCKET_PEERS, Peer
from tests.bench.proxies import PROXY_PEERS
from tests.bench.relays import RELAY_PEERS

__all__ = ["PEERS", "why_not"]

_GROUPS = (HTTP_PEERS, STREAM_PEERS, RELAY_PEERS, WEBSOCKET_PEERS, HTTP2_PEERS, FILE_PEERS, PROXY_PEERS)

PEERS: dict[str, Peer] = {peer.name: peer for group in _GROUPS for peer in group}


def why_not(peer: Peer, load: Load) -> str | None:
    """None where `peer` can be measured under `load`."""
    asked = [load.name, load.mode, load.group, *(["tls"] if load.tls else [])]
    return why_missing(peer.needs) or why_missing(load.front) or next((peer.cannot[each] for each in asked if each in peer.cannot), None)
