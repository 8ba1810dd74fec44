"""The body of a message as its reader sees it, in any version of HTTP.

A body is read only when its reader asks for more. So a reader that is slow makes the sender wait.
"""

from typing import TYPE_CHECKING

from muxwsgi.errors import PeerError
from muxwsgi.settings import HTTPSettings

if TYPE_CHECKING:
    from muxwsgi.wire.connection import Connection

__all__ = ["Body", "BrokenBody"]

#: Further trailers are left out.
TRAILERS_AT_MOST = 100

#: Fields that would change framing, routing or authentication after the fact (RFC 9110 section 6.5.1), and those that describe the
#: connection or that each response has in its head.
_NO_TRAILERS = frozenset(
    {b"transfer-encoding", b"content-length", b"host", b"authorization", b"cookie", b"content-type", b"content-encoding", b"trailer"}
    | {b"keep-alive", b"proxy-connection", b"proxy-authorization", b"date", b"server"}
    | {b"te", b"connection", b"expect", b"upgrade", b"content-range", b"cache-control", b"max-forwards", b"range", b"set-cookie"}
)


class BrokenBody(PeerError, OSError):
    """A body that breaks off, is malformed, late or too large.

    It is an `OSError`, because Django (`UnreadablePostError`) and werkzeug (`ClientDisconnected`) take an `OSError` for the client's fault
    and not for the application's. `unreadable.py` describes what `wsgi.input` does then.
    """


class Body:
    """The body of one message.

    A version of HTTP implements `_read` (the framing), `ready` and `hand_over`. Its constructor calls `_set_up`.

    done        the end of the message has been read from the connection
    direct      `read_some` keeps nothing back: when `done` is set, everything has been given out
    withheld    the peer waits for a 100 (Continue) that has not been asked for
    fault       the error that reading met, which is the peer's: the application's response cannot be sent
    received    bytes of the body so far
    trailers    name -> value, both as sent, of the fields behind the body; complete when the body is read to its end
    """

    __slots__ = ("_settings", "direct", "done", "fault", "received", "trailers", "withheld")

    def _set_up(self, settings: HTTPSettings, expects_continue: bool) -> None:
        """A method and not `__init__`: the call of a base class's `__init__` is a slow one in the compiled build, this is a fast one."""
        self._settings = settings
        self.withheld = expects_continue
        self.done = False
        self.direct = False
        self.fault: PeerError | OSError | None = None
        self.received = 0
        self.trailers: dict[str, str] = {}

    def read_some(self, most: int) -> bytes:
        """The next bytes of the body, at most about `most`; b"" at its end.

        Raises `BrokenBody` (400 for broken framing and a body that stops short, 408 for one that comes too slowly, 413 for one over
        the limit) and the connection's errors, and again when called again.
        """
        if self.fault is not None:
            raise self.fault
        try:
            return self._read(most)
        except (PeerError, OSError) as error:
            self.fault = error
            raise

    def _read(self, most: int) -> bytes:
        """As `read_some`, without remembering the error."""
        raise NotImplementedError

    @property
    def ready(self) -> bool:
        """Whether `read_some` has something to give without waiting, the end included."""
        raise NotImplementedError

    def hand_over(self) -> "Connection":
        """The connection, whose next bytes are those behind the message. Nothing is read here from now on."""
        raise NotImplementedError

    def check_hand_over(self) -> None:
        """Raises `RuntimeError` if this version of HTTP never hands a connection over."""

    def fail(self, fault: PeerError) -> None:
        """End the body with a fault of the peer: `read_some` raises it, and the exchange is answered with its status."""
        self.fault = fault

    def forgo_continue(self) -> None:
        """A final response is sent: 100 may not follow it."""
        self.withheld = False

    def _count(self, count: int) -> None:
        self.received += count
        limit = self._settings.limit_request_body
        if limit and self.received > limit:
            raise BrokenBody(413, f"the body is larger than {limit} bytes")

    def _add_trailer(self, name: bytes, value: bytes) -> None:
        """Note one trailer field, unless a message may not have it as a trailer."""
        if b"_" in name or name.lower() in _NO_TRAILERS or len(self.trailers) >= TRAILERS_AT_MOST:
            return
        key = name.decode("latin-1")
        text = value.decode("latin-1").strip(" \t")
        self.trailers[key] = f"{self.trailers[key]}, {text}" if key in self.trailers else text
