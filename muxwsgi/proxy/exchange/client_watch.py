"""`ClientWatch`: notices clients that go away while the proxy waits for an upstream on their behalf.

Who waits for an upstream does not read from the client, so that nobody would tell. About once a second the descriptors of all waiting
clients are polled, which costs nothing per exchange. A reset counts at once. An end of the client's sending direction alone may be a
half-close by a client that still reads, which TCP cannot tell from a close: it counts after a while in which nothing was sent to it, since
who is gone answers what is sent with a reset.
"""

import select
from collections.abc import Callable
from time import monotonic

from gevent.monkey import get_original

from muxwsgi.wire.connection import Connection
from muxwsgi.wire.every import Every

__all__ = ["ClientGone", "ClientWatch"]

#: Seconds between two looks.
INTERVAL = 1.0

#: Seconds that an exchange goes on without a byte for a client that has ended its sending direction.
HALF_CLOSED_AT_MOST = 10.0

#: The kernel's own, patched process or not: gevent's knows nothing of POLLRDHUP.
_poll: Callable[[], "select.poll"] = get_original("select", "poll")


class ClientGone(ConnectionAbortedError):
    """The client for whom somebody waits has left."""


class ClientWatch(Every):
    """Pairs of a client and the upstream connection that is waited on for it: add one to `waiting`, and take it out again."""

    def __init__(self) -> None:
        #: client -> upstream
        self.waiting: dict[Connection, Connection] = {}
        #: client -> since when, and the bytes that were sent to it then
        self._half_closed: dict[Connection, tuple[float, int]] = {}
        super().__init__(INTERVAL, lambda: self.look(monotonic()))

    def look(self, now: float) -> None:
        """Make the waits fail whose clients are gone. `now` is `time.monotonic()`."""
        by_descriptor: dict[int, Connection] = {}
        poll = _poll()
        for client in self.waiting:
            descriptor = client.descriptor()
            if descriptor >= 0:
                by_descriptor[descriptor] = client
                poll.register(descriptor, select.POLLRDHUP)
        half_closed = {}
        for descriptor, events in poll.poll(0):
            client = by_descriptor[descriptor]
            since, sent = self._half_closed.get(client, (now, client.bytes_sent))
            if client.bytes_sent != sent:
                since = now
            if events & (select.POLLHUP | select.POLLERR | select.POLLNVAL) or now - since >= HALF_CLOSED_AT_MOST:
                self.waiting[client].lifeline.fail(ClientGone("the client went away"))
            else:
                half_closed[client] = (since, client.bytes_sent)
        self._half_closed = half_closed
