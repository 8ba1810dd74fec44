"""The seam between the front doors and the proxy: what each door calls when it knows who wants to go where."""

from collections.abc import Callable

from muxwsgi.proxy.context import Door
from muxwsgi.proxy.fault import Fault
from muxwsgi.wire.connection import Connection

__all__ = ["Open", "Reply"]

#: Tells the client that its tunnel stands (None), or why not. To be called once, before the first byte of the tunnel.
Reply = Callable[[Fault | None], None]

#: (connection, door, (host, port), reply): opens the tunnel and serves it until it ends. `connection` knows its destination and who is on
#: it. A `Fault` raised before `reply` was called is replied by the door.
Open = Callable[[Connection, Door, tuple[str, int], Reply], None]
