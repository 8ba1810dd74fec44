"""The errors of an upstream, beside those of `dial/errors.py`. Each is a `DialError`, so it has a phase and a reason."""

from muxwsgi.dial.errors import DialError, DialTimeout

__all__ = [
    "AllDown",
    "AllFailed",
    "CheckFailed",
    "HeaderNotTaken",
    "NotChosen",
    "QueueFull",
    "QueueTimeout",
    "ServerTLSError",
    "ServerTLSTimeout",
]


class NotChosen(DialError):
    """The operator's function names no upstream for this connection."""

    phase = "choice"


class AllDown(DialError):
    """No server is up and ready. Nobody is connected to then, not even as a last resort."""

    phase = "upstream"


class AllFailed(DialError):
    """Each attempt has failed. The reason has all of them."""

    phase = "upstream"


class QueueFull(DialError):
    """All servers are at `maxconn`, and the queue is full."""

    phase = "queue"


class QueueTimeout(DialTimeout):
    """All servers stayed at `maxconn`."""

    phase = "queue"


class HeaderNotTaken(DialError):
    """The server ends the connection before it has taken the PROXY header."""

    phase = "PROXY header"


class ServerTLSError(DialError):
    """The TLS handshake with the server fails, or its certificate is not valid for it."""

    phase = "TLS"


class ServerTLSTimeout(DialTimeout):
    """The server has not answered the TLS handshake in time."""

    phase = "TLS"


class CheckFailed(DialError):
    """The server has not answered a check as expected."""

    phase = "check"
