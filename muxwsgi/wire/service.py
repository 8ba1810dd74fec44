"""`Service`: what the server gives to all connections of one bind."""

from dataclasses import field
from typing import TYPE_CHECKING

from gevent.event import Event

from muxwsgi.events import Events
from muxwsgi.record import record

if TYPE_CHECKING:
    from muxwsgi.wire.tls.server_context import ServerSide

__all__ = ["Service"]


@record()
class Service:
    """
    draining    set when the server begins to stop
    tls         what the bind serves TLS with, None where it has no certificate
    events      hears of handshakes
    """

    draining: Event
    tls: "ServerSide | None" = None
    events: Events = field(default_factory=Events)
