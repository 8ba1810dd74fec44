"""The exchange with the application: gives it one request, sends its response, and answers errors.

This is the same in every version of HTTP. A version reads the request, makes the environ, a `Body` and a `Response`, and calls
`Gateway.serve`. Afterwards it decides whether the connection stays open. A fault of the application is logged and answered with 500. A
fault of the peer is answered with 4xx. If the response has begun already, it is cut so that the client can tell that it is incomplete.
"""

import errno
import logging
from typing import TYPE_CHECKING

from muxwsgi.errors import Cut, Draining, Expired, PeerError, ResponseAborted, TLSError
from muxwsgi.events import Events, Refusal, tell
from muxwsgi.http.environ import Environ, ErrorStream, StandardErrors, WSGIApplication, connection_environ
from muxwsgi.http.exchange import Exchange
from muxwsgi.http.forwarding import Forwarding, ForwardingReader
from muxwsgi.http.hijack import Hijack, hijack_of
from muxwsgi.signals import may_be_ctrl_c
from muxwsgi.wire.fork import end_child
from muxwsgi.wire.syscalls import clock

if TYPE_CHECKING:
    from muxwsgi.http.body import Body
    from muxwsgi.http.response import Response
    from muxwsgi.wire.connection import Connection

__all__ = ["Gateway"]

log = logging.getLogger("muxwsgi.error")


class Gateway:
    """Calls a WSGI application for each request.

    errors      the `wsgi.errors` of new connections
    events      the events that are reported
    """

    def __init__(
        self,
        app: WSGIApplication,
        *,
        software: str,
        events: Events,
        multiprocess: bool,
        forwarding: Forwarding | None = None,
    ) -> None:
        """`forwarding` says which peers may say who their client is; None for no peer.

        `events` reports exchanges, refused requests, and the end of connections that the application had taken over. `software` and
        `multiprocess` go into the environ."""
        self._app = app
        self._software = software
        self._multiprocess = multiprocess
        self.errors: ErrorStream = StandardErrors()
        self.events = events
        self._forwarding = forwarding

    def environ_of(self, connection: "Connection") -> Environ:
        """The part of the environ that all requests of `connection` have."""
        return connection_environ(connection, self._software, self._multiprocess, self.errors)

    def forwarding(self, connection: "Connection") -> ForwardingReader | None:
        """What reads the forwarding fields of all requests of `connection`; None if there is nothing to do."""
        return None if self._forwarding is None else self._forwarding.reader(connection.client)

    def serve(self, connection: "Connection", environ: Environ, body: "Body", response: "Response", target: str) -> bool:
        """Have the application answer one request. Returns whether this exchange leaves the connection in order for another request.

        `environ` is complete but for the keys of the exchange. `target` is the request-target, for the log. Raises `Cut` if the server
        ends the exchange, and the errors of a connection that was lost while an error of the application was answered.
        """
        began = 0.0
        request = environ
        in_order = True
        exchanges = self.events.exchange
        streams = self.events.stream
        counts = self.events.counts
        if exchanges or streams or counts is not None:
            began = clock()
        if exchanges:
            request = environ.copy()  # because the application may change its environ

        # 1. The request, for the application.
        hijack = hijack_of(connection, body, response)
        environ["muxwsgi.hijack"] = hijack
        environ["muxwsgi.response"] = response
        environ["wsgi.early_hints"] = response
        environ["werkzeug.socket"] = hijack

        # 2. Call the application, and send its iterable, which is always closed once.
        try:
            result = self._app(environ, response.start_response)
            try:
                if not hijack.taken:
                    response.send(result)
            finally:
                if type(result) is not list:  # most applications return a list, which has no close()
                    close = getattr(result, "close", None)
                    if close is not None:
                        close()
        except Cut:
            hijack.connection.lifeline.reset_at_close |= hijack.taken  # the data that it has sent may be incomplete
            raise
        except BaseException as error:  # also SystemExit, GreenletExit and gevent.Timeout: they end the request, never the worker
            in_order = self._answer_for(error, connection, body, response, hijack, target)
            if may_be_ctrl_c(error):
                raise
        finally:
            hijack.end()
            if counts is not None:
                counts.note(response, body, clock() - began, hijack.taken)
            if streams and hijack.taken:
                tell(streams, hijack.connection, clock() - began)
            if exchanges:
                refused = body.fault.reason if isinstance(body.fault, PeerError) and not response.head_sent else None
                status = response.status or ""
                seconds = clock() - began
                incomplete = None if response.complete or hijack.taken or refused else _why_incomplete(response, body)
                tell(
                    exchanges,
                    Exchange(request, environ, status, response.headers, response.body_bytes, seconds, refused, None, incomplete),
                )
        return in_order and not hijack.taken

    def note_refusal(self, connection: "Connection", error: PeerError) -> None:
        """Report a request that is about to be refused."""
        if self.events.refused:
            tell(self.events.refused, connection, Refusal("refused", error.reason, status=error.status))
        log.debug("%s: refused: %s", connection, error)

    def _answer_for(
        self, error: BaseException, connection: "Connection", body: "Body", response: "Response", hijack: Hijack, target: str
    ) -> bool:
        """Answer an error in an exchange. Returns whether the connection is still in order.

        The environ is not used, because the application may have changed it.
        """
        end_child(error)  # if the application has forked, the child must not answer
        if hijack.taken:
            connection = hijack.connection
            if isinstance(error, (PeerError, ConnectionError, TimeoutError, TLSError)) or getattr(error, "errno", None) == errno.EBADF:
                log.debug("%r: %s", connection, error)  # most likely an error of the peer
                # It may be the error of a server that the application uses. Then the peer has an incomplete message.
                connection.lifeline.reset_at_close |= not isinstance(error, (PeerError, Expired, Draining))
            else:
                _log_application_error(response, target, "the connection it had taken over is closed")
                if not hijack.end(failed=True):
                    connection.lifeline.reset_at_close = True  # as after a kill
            return False
        fault = response.peer_error or body.fault
        if fault is not None:  # also if the application has caught it
            log.debug("%r: %s", connection, fault)
            if isinstance(fault, PeerError) and not response.head_sent:
                self.note_refusal(connection, fault)
                response.refuse(fault)
            return False
        if response.complete:
            _log_application_error(response, target, "the response is complete all the same")
            return True
        if isinstance(error, ResponseAborted):
            log.debug("%s: the response is cut: %s", connection, error)
        else:
            _log_application_error(response, target, response.when_cut if response.head_sent else "answered with 500")
        if response.head_sent:
            return False
        response.forget()
        status = "502 Bad Gateway" if isinstance(error, ResponseAborted) else "500 Internal Server Error"
        try:
            response.start_response(status, [("Content-Type", "text/plain; charset=utf-8")])
            response.send([status[4:].encode() + b"\n"])
        except OSError as gone:
            log.debug("%s: %s", connection, gone)
            return False
        return True


def _why_incomplete(response: "Response", body: "Body") -> str:
    """Why a response is not complete, in one line."""
    fault = response.peer_error or body.fault
    if fault is not None:
        return fault.reason if isinstance(fault, PeerError) else fault.strerror or str(fault) or type(fault).__name__
    return "the application did not complete the response"


def _log_application_error(response: "Response", target: str, consequence: str) -> None:
    log.exception("application error in %s %s: %s", response.method, target, consequence)
