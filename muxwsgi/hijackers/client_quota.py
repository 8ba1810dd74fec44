"""`ClientQuota`: the limits of a client over all routes of all binds, asked before its first byte."""

from typing import TYPE_CHECKING

from muxwsgi.events import Events, Refusal, tell
from muxwsgi.mux.quota import Quota
from muxwsgi.mux.route import Handler
from muxwsgi.mux.turns import awaited

if TYPE_CHECKING:
    from muxwsgi.wire.connection import Connection

__all__ = ["ClientQuota"]


class ClientQuota:
    """Calls `handler` with the connections that `quota` lets in. The others are closed."""

    def __init__(self, handler: Handler, quota: Quota, wait: float, events: Events) -> None:
        """`wait` are seconds that a connection above a rate waits for its turn."""
        self.handler = handler
        self.may_leave = getattr(handler, "may_leave", False)  # see `Route`
        self._quota = quota
        self._wait = wait
        self._events = events

    def __repr__(self) -> str:
        return repr(self.handler)

    def __call__(self, connection: "Connection") -> None:
        """Raises the errors of the handler."""
        why = awaited(connection, self._quota, self._wait)
        if why is not None:
            connection.trace.append(f"{why}: closed")
            if self._events.refused:
                tell(self._events.refused, connection, Refusal("limit", why))
            return
        line = connection.lifeline
        client = connection.client  # as it was counted
        try:
            self.handler(connection)
        finally:
            if line.afterwards is None:
                self._quota.free(client)
            else:
                line.afterwards.append((self, client))

    def over(self, connection: "Connection", error: BaseException | None, client: object) -> None:
        """The relay of a connection is over. See `Lifeline.afterwards`."""
        self._quota.free(client)
