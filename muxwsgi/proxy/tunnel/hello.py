"""What a tunnel begins with, where that is TLS or nearly TLS."""

from typing import TYPE_CHECKING, NoReturn

from muxwsgi.errors import Expired, PeerError
from muxwsgi.mux.match import Match
from muxwsgi.protocols.tls import MAX_HELLO_LENGTH, ClientHello, parse_client_hello

if TYPE_CHECKING:
    from muxwsgi.wire.connection import Connection

__all__ = ["peek_client_hello", "refuse_lookalike"]


def refuse_lookalike(connection: "Connection") -> NoReturn:
    """Raise `PeerError`: some servers take the first bytes for TLS, and the rules cannot be asked about it."""
    raise PeerError(400, "what the tunnel begins with is TLS to some servers, and nothing that can be looked into")


def peek_client_hello(connection: "Connection") -> ClientHello | None:
    """The ClientHello that the first bytes begin, left in the stream; None where we cannot read it."""
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
