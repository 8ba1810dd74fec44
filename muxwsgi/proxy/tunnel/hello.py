"""The first bytes of a tunnel that begins with TLS, or with bytes that some servers accept as TLS."""

from typing import TYPE_CHECKING, NoReturn

from muxwsgi.errors import Expired, PeerError
from muxwsgi.mux.match import Match
from muxwsgi.protocols.tls import MAX_HELLO_LENGTH, ClientHello, parse_client_hello

if TYPE_CHECKING:
    from muxwsgi.wire.connection import Connection

__all__ = ["peek_client_hello", "refuse_lookalike"]


def refuse_lookalike(connection: "Connection") -> NoReturn:
    """Raise `PeerError`: some servers accept the first bytes as TLS, but the proxy cannot parse them, so the rules cannot be applied."""
    raise PeerError(400, "some servers would accept the first bytes of the tunnel as TLS, and they cannot be intercepted")


def peek_client_hello(connection: "Connection") -> ClientHello | None:
    """The ClientHello at the start of the stream, without consuming it; None if it cannot be parsed."""
    seen = 0
    try:
        while True:
            data = connection.peek_beyond(seen, MAX_HELLO_LENGTH)
            found = parse_client_hello(data)
            if isinstance(found, ClientHello):
                return found
            if found is Match.NO or len(data) <= seen:
                return None
            seen = len(data)
    except Expired:
        raise PeerError(408, "the ClientHello came too late") from None
    finally:
        connection.settle()
