"""The errors that callers catch. Each is named after the side that caused it.

A fault has an owner. The operator's (`OperatorError`) is one line and exit status 2 before anything is served. The
peer's (`PeerError`, and the connection errors below) costs that peer its connection, and affects no other. The
application's is none of these classes: it passes through untouched to the error log.

Connection errors are all `OSError`s, so that code written for sockets (redis-py, http.client, simple-websocket)
handles them without knowing muxwsgi.
"""

from greenlet import GreenletExit

__all__ = ["Cut", "Draining", "Expired", "HandedOver", "HandshakeError", "OperatorError", "PeerError", "ResponseAborted", "TLSError"]


class OperatorError(Exception):
    """A setting is wrong. The text is one line with the error and its place; the command line prints it and exits with 2.

    detail      printed before that line: the traceback of a module that cannot be imported. It ends with a line end, or is empty
    """

    def __init__(self, *arguments: object, detail: str = "") -> None:
        super().__init__(*arguments)
        self.detail = detail


class PeerError(Exception):
    """The peer sent something that it may not. `status` is the HTTP status that the fault deserves (RFC 9110 section 15.5), `fields` are
    what its response says besides."""

    def __init__(self, status: int, reason: str, fields: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(f"{status}: {reason}")
        self.status = status
        self.reason = reason
        self.fields = fields


class Expired(TimeoutError):
    """A deadline of the connection passed while a greenlet waited on it. The connection itself is still usable."""


class Cut(GreenletExit):  # type: ignore[misc]  # mypy is not shown its types
    """Ends a greenlet of the server from outside: a connection that lasts longer than a drain, a copy whose other way has ended. Any other
    `GreenletExit` was raised by an application, and is its error like all others."""


class Draining(ConnectionAbortedError):
    """The server drains, and the handler rests (`resting`), so that closing now loses nothing."""


class HandedOver(Exception):  # it is no error
    """Another process has the connection from now on. This process closes its copy of the descriptor, and sends and reads nothing."""


class TLSError(OSError):
    """TLS failed after the handshake: a bad record, an alert, a layer broken by an interrupted write."""


class HandshakeError(TLSError):
    """The TLS handshake did not complete; the text names the alert or the reason that OpenSSL gave."""


class ResponseAborted(Exception):
    """Raised by an application that cannot finish the response it has begun, for a reason that is not its own error and that it
    has logged: a gateway whose upstream broke off. The client's connection is cut, so the client can tell that the response is cut."""
