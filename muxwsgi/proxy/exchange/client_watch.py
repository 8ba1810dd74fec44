"""`ClientWatch`: detects clients that go away while the proxy waits for an upstream.

An exchange that waits for an upstream does not read from its client, so it does not see that the client has gone. About once a second, the
descriptors of all waiting clients are polled. An exchange pays nothing for that. A reset counts at once. A FIN may be a half-close by a
client that still reads, and TCP cannot tell that from a close. So a FIN counts only after `HALF_CLOSED_AT_MOST` seconds in which nothing
was sent to the client: a closed client would answer with a reset to anything that is sent. In HTTP/2 the connection is read all the time.
What counts is whether the client has reset the stream, and that ends the exchange at once, since others may need the stream to the
upstream. If the exchange does not wait for the upstream just then, the next look ends it.
"""

import select
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, NamedTuple

from gevent.monkey import get_original

from muxwsgi.http.response import Response
from muxwsgi.wire.connection import Connection
from muxwsgi.wire.every import Every

if TYPE_CHECKING:
    from muxwsgi.proxy.context import Context

__all__ = ["ClientGone", "ClientWatch", "Waiting"]

#: Seconds between two looks.
INTERVAL = 1.0

#: Seconds that an exchange goes on without a byte for a client that has ended its sending direction.
HALF_CLOSED_AT_MOST = 10.0

#: The unpatched function, because gevent's does not support POLLRDHUP.
_poll: Callable[[], "select.poll"] = get_original("select", "poll")


class ClientGone(ConnectionAbortedError):
    """The client of an exchange has gone away."""


class Waiting(NamedTuple):
    """An exchange that waits: its connection to the upstream, and its response to the client."""

    upstream: Connection
    response: Response


class ClientWatch(Every):
    """Watches the clients of exchanges that wait.

    waiting     these exchanges; see `add` and `remove`
    """

    def __init__(self) -> None:
        self.waiting: "dict[Context, Waiting]" = {}
        #: client -> the time of its FIN or of the last byte sent after it, and the bytes sent to it by then
        self._half_closed: dict[Connection, tuple[float, int]] = {}
        super().__init__(INTERVAL, lambda: self.look(monotonic()))

    def add(self, ctx: "Context", upstream: Connection, response: Response) -> None:
        """The exchange of `ctx` may wait for `upstream`."""
        self.waiting[ctx] = Waiting(upstream, response)
        if response.is_multiplexed:
            response.when_cancelled(lambda: upstream.lifeline.fail(_cancelled()))

    def remove(self, ctx: "Context") -> None:
        """It waits no more. Idempotent."""
        exchange = self.waiting.pop(ctx, None)
        if exchange is not None and exchange.response.is_multiplexed:
            exchange.response.when_cancelled(None)

    def look(self, now: float) -> None:
        """Fail the upstream connections whose clients are gone. `now` is `time.monotonic()`."""
        by_descriptor: "dict[int, list[Context]]" = {}
        poll = _poll()
        for ctx, exchange in self.waiting.items():
            client = ctx.connection
            if exchange.response.cancelled or client.lifeline.broken:
                exchange.upstream.lifeline.fail(_cancelled())
                continue
            descriptor = client.descriptor()
            if descriptor >= 0 and not exchange.response.is_multiplexed:
                by_descriptor.setdefault(descriptor, []).append(ctx)
                poll.register(descriptor, select.POLLRDHUP)
        half_closed = {}
        for descriptor, events in poll.poll(0):
            for ctx in by_descriptor[descriptor]:
                client = ctx.connection
                since, sent = self._half_closed.get(client, (now, client.bytes_sent))
                if client.bytes_sent != sent:
                    since = now
                if events & (select.POLLHUP | select.POLLERR | select.POLLNVAL) or now - since >= HALF_CLOSED_AT_MOST:
                    self.waiting[ctx].upstream.lifeline.fail(ClientGone("the client went away"))
                else:
                    half_closed[client] = (since, client.bytes_sent)
        self._half_closed = half_closed


def _cancelled() -> ClientGone:
    return ClientGone("the client has cancelled the request")
