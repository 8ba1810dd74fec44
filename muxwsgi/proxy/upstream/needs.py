"""`Needs`: what a request needs of its connection to the upstream."""

from collections.abc import Iterable
from typing import NamedTuple

__all__ = ["Needs", "needs_of"]

#: Bytes of a head that goes on a connection with the requests of others. Servers end connections for heads that are too large: nginx had a
#: limit of 4 KiB for a field, as it is sent, and of 16 KiB for a head; Node.js has 16 KiB.
SHARED_HEAD_AT_MOST = 8192

#: Bytes of a body for which a shared connection must have room at once. Larger ones wait for the window as they are sent.
SHARED_BODY_AT_MOST = 4096


class Needs(NamedTuple):
    """
    http1       HTTP/1.1, whatever the server prefers
    websocket   a WebSocket: HTTP/2 will do if the server takes extended CONNECTs (RFC 8441)
    body        bytes of the body that the server has to take at once, 0 without a body
    kept        whether a connection that was used before, or that others use, will do
    alone       no other request may be on it
    """

    http1: bool = False
    websocket: bool = False
    body: int = 0
    kept: bool = True
    alone: bool = False


def needs_of(method: str, target: str, fields: Iterable[tuple[str, str]], size: int, body: int, *, upgrade: bool, keep_hop: bool) -> Needs:
    """The needs of a request. `size` is that of its head, `body` that of a small body, or 1 if it is not known. `upgrade`: it asks for
    another protocol. `keep_hop`: its hop-by-hop fields are kept, which HTTP/2 does not have."""
    http1 = keep_hop or not (target[:1] == "/" or target == "*")
    websocket = False
    if upgrade:
        asked = [value.strip(" \t").lower() for name, value in fields if name.lower() == "upgrade"]
        websocket = asked == ["websocket"] and method == "GET" and not body
        http1 = http1 or not websocket
    body = min(body, SHARED_BODY_AT_MOST)
    alone = size > SHARED_HEAD_AT_MOST
    if alone and not any(name.lower() == "te" for name, _ in fields):
        http1 = True  # it is kept for the next one. gRPC, which has the field, knows HTTP/2 alone
    return Needs(http1, websocket, body, alone=alone)
