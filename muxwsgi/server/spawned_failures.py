"""`SpawnedFailures`: logs errors of greenlets that a handler has spawned, with the trace of the handler's connection."""

import logging
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

import gevent
from greenlet import greenlet

from muxwsgi.errors import PeerError, TLSError
from muxwsgi.wire.connection import Connection
from muxwsgi.wire.lifeline import Lifeline

__all__ = ["SpawnedFailures"]

log = logging.getLogger("muxwsgi.error")

Report = Callable[[Any, type[BaseException], BaseException, TracebackType | None], None]


class SpawnedFailures:
    """Takes the place of the hub's `print_exception`, which writes to standard error and does not name the connection.

    gevent shares a dict between a greenlet and all greenlets that descend from it. The connection is found with this dict.
    """

    def __init__(self, lines: Mapping[Lifeline, greenlet | None]) -> None:
        """`lines` are the connections with the greenlets that serve them."""
        self._lines = lines
        self._before: Report | None = None

    def watch(self) -> None:
        """Begin. Errors without a connection are reported as before."""
        hub = gevent.get_hub()
        self._before = hub.print_exception
        hub.print_exception = self._report

    def unwatch(self) -> None:
        """End. Idempotent."""
        hub = gevent.get_hub()
        if self._before is not None and hub.print_exception == self._report:
            hub.print_exception = self._before
            self._before = None

    def _report(self, context: Any, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        connection = self._connection_of(context)
        if connection is None:
            if self._before is not None:
                self._before(context, kind, error, trace)
        elif isinstance(error, PeerError | ConnectionError | TimeoutError | TLSError):
            log.debug("%r: %s, in a greenlet that its handler spawned", connection, error)
        else:
            log.error(
                "%r: a greenlet that its handler spawned has failed: %s; its way: %s",
                connection,
                getattr(context, "name", context),
                "; ".join(connection.trace),
                exc_info=(kind, error, trace),
            )

    def _connection_of(self, context: Any) -> Connection | None:
        tree = getattr(context, "spawn_tree_locals", None)
        if tree is None:
            return None
        for line, serving in self._lines.items():
            if getattr(serving, "spawn_tree_locals", None) is tree:
                return line.top if isinstance(line.top, Connection) else None
        return None
