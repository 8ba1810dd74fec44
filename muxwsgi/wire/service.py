"""`Service`: what the server gives to all connections of one bind."""

from dataclasses import field
from typing import TYPE_CHECKING

from gevent.event import Event

from muxwsgi.events import Events
from muxwsgi.record import record

if TYPE_CHECKING:
    from collections.abc import Callable

    from muxwsgi.wire.connection import Connection
    from muxwsgi.wire.tls.server_context import ServerSide

__all__ = ["Service"]


@record()
class Service:
    """
    draining    set when the server begins to stop
    tls         what the bind serves TLS with, None where it has no certificate
    events      hears of handshakes
    mux         chooses the handler of a connection that goes back to it, without TLS. See `Connection.back_to_mux`
    inner       the same inside of TLS, None where the bind has no certificate
    """

    draining: Event
    tls: "ServerSide | None" = None
    events: Events = field(default_factory=Events)
    mux: "Callable[[Connection], None] | None" = None
    inner: "Callable[[Connection], None] | None" = None
