"""`Serving`: one connection of the server from accept to close, and the errors that end it."""

import errno
import logging
from functools import partial

from greenlet import getcurrent, greenlet

from muxwsgi.errors import Cut, Draining, Expired, HandedOver, PeerError, TLSError
from muxwsgi.events import Events, tell
from muxwsgi.mux.route import Handler
from muxwsgi.signals import may_be_ctrl_c
from muxwsgi.wire import fork
from muxwsgi.wire.acceptor import Serve
from muxwsgi.wire.connection import Connection
from muxwsgi.wire.lifeline import Lifeline

__all__ = ["Serving"]

log = logging.getLogger("muxwsgi.error")

#: Errors that a peer or the network causes, beside `ConnectionError`, `TimeoutError` and `TLSError`. EBADF: another greenlet closed it.
_PEER_ERRNOS = frozenset({errno.EBADF, errno.ENOTCONN, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN, errno.EPROTO})


class Serving:
    """Makes the functions that listeners call.

    peer_errors     number of connections that ended with an error of the peer
    """

    def __init__(self, lines: dict[Lifeline, greenlet | None], events: Events) -> None:
        """`lines` holds the connections that are served right now, each with its greenlet."""
        self.peer_errors = 0
        self._lines = lines
        self._events = events

    def with_handler(self, handler: Handler) -> Serve:
        """A function that serves a connection with `handler`, and then closes it."""
        return partial(self.serve, handler)

    def serve(self, handler: Handler, connection: Connection, taken_over: bool = False) -> None:
        """Have `handler` serve `connection`, and then close it. `taken_over`: another worker has accepted it."""
        line = connection.lifeline
        self._lines[line] = getcurrent()
        cut = False
        given = False
        ended_by: BaseException | None = None
        try:
            if taken_over:
                tell(self._events.handover, connection, False)
            elif self._events.accepted:
                tell(self._events.accepted, connection)
            line.may_leave = getattr(handler, "may_leave", False)
            handler(connection)
        except Cut as error:
            ended_by = error
            cut = True
            raise
        except HandedOver:
            given = True
        except (PeerError, ConnectionError, TimeoutError, TLSError) as error:
            ended_by = error
            self._note_peer_error(connection, error)
        except BaseException as error:  # also SystemExit and KeyboardInterrupt: they end the connection, never the worker
            ended_by = error
            fork.end_child(error)
            if isinstance(error, OSError) and error.errno in _PEER_ERRNOS:
                self._note_peer_error(connection, error)
            else:
                log.exception("%r failed; its way: %s", connection, "; ".join(connection.trace))
                line.reset_at_close = True  # the client must be able to tell that its data is incomplete
                if may_be_ctrl_c(error):
                    raise
        finally:
            try:
                if given:
                    connection.forsake()
                elif line.afterwards is None:
                    connection.finish(cut)
            finally:
                if line.afterwards is not None:  # a relay goes on without this greenlet
                    self._lines[line] = None
                    line.afterwards.append(self)
                else:
                    self._lines.pop(line, None)
                    if given:
                        tell(self._events.handover, connection, True)
                    elif self._events.closed:
                        tell(self._events.closed, connection, ended_by)
                ended_by = None  # its traceback refers to this frame

    def over(self, connection: Connection, error: BaseException | None) -> None:
        """A connection has ended that went on without its greenlet. See `Lifeline.afterwards`."""
        try:
            connection.finish(isinstance(error, Cut))
        finally:
            self._lines.pop(connection.lifeline, None)
            if self._events.closed:
                tell(self._events.closed, connection, error)

    def _note_peer_error(self, connection: Connection, error: Exception) -> None:
        self.peer_errors += 1
        if not isinstance(error, PeerError | Expired | Draining):
            # It may be an error of another connection, to a server that the handler uses. Then the peer has an incomplete message.
            connection.lifeline.reset_at_close = True
        log.debug("%r: %s", connection, error)
