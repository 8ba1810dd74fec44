"""The interface between the front doors and the proxy: a door calls `Open` when it knows the client and its destination."""

from collections.abc import Callable

from muxwsgi.proxy.context import Door
from muxwsgi.proxy.fault import Fault
from muxwsgi.wire.connection import Connection

__all__ = ["Open", "Reply"]

#: Tells the client that its tunnel is established (None), or why not. It is called once, before the first byte of the tunnel.
Reply = Callable[[Fault | None], None]

#: (connection, door, (host, port), reply): opens the tunnel and serves it until it ends. `connection` has its destination and its identity.
#: If it raises a `Fault` before it has called `reply`, the door replies.
Open = Callable[[Connection, Door, tuple[str, int], Reply], None]
