"""What both TLS transports have in common. Imports no OpenSSL."""

import errno
from time import monotonic
from typing import TYPE_CHECKING, Protocol, TypeGuard

from muxwsgi.wire.transport import Transport

if TYPE_CHECKING:
    from OpenSSL import SSL

__all__ = ["TLSTransport", "encrypts", "left"]


class TLSTransport(Transport, Protocol):
    """A transport that encrypts.

    truncated   the stream has ended without close_notify. An attacker on the network path may have cut it (RFC 8446 section 6.1)
    """

    ssl: "SSL.Connection"

    @property
    def truncated(self) -> bool: ...

    def handshake(self) -> None:
        """Complete the handshake. Raises `HandshakeError`, or `Expired` at the connection's deadline."""

    def abandon(self) -> None:
        """Send nothing any more, also no close_notify, so that the peer can tell that the stream was cut."""


def encrypts(transport: Transport) -> TypeGuard[TLSTransport]:
    """Whether it is one of the TLS transports. They are not imported for that, because most processes never use TLS."""
    return hasattr(transport, "ssl")


def left(give_up: float) -> float:
    """The seconds until `give_up`, for the next wait. So a peer that sends a record slowly, or records without data, cannot prolong the
    timeout. Raises `TimeoutError`."""
    left = give_up - monotonic()
    if left <= 0:
        raise TimeoutError(errno.ETIMEDOUT, "timed out")
    return left
