"""The actions of rules for a tunnel, and the results of hooks for its bytes.

A hijacker gets an established tunnel: the proxy has sent the 200 of CONNECT, or the reply of SOCKS. The hijacker owns the connection until
it returns, and then the proxy closes it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Literal

import werkzeug.wrappers

from muxwsgi.wire.connection import Connection

if TYPE_CHECKING:
    from muxwsgi.proxy.context import Context

__all__ = ["CONTINUE", "DROP", "Accept", "Action", "Chunk", "Hijack", "Hijacker", "Look", "Mitm", "Passage", "Refused", "Reject"]


class Passage(Enum):
    """Results of a look or a hook."""

    CONTINUE = "continue"
    DROP = "drop"

    def __repr__(self) -> str:
        return self.name


#: A look returns this to let the proxy go on with the connection. Bytes that it has peeked at stay in the stream.
CONTINUE: Literal[Passage.CONTINUE] = Passage.CONTINUE

#: A hook returns this to drop a chunk or a frame.
DROP: Literal[Passage.DROP] = Passage.DROP

#: Owns the connection until it returns.
Hijacker = Callable[[Connection, "Context"], None]

#: It may `peek` and return `CONTINUE`. Otherwise it owns the connection, which is closed when it returns.
Look = Callable[[Connection, "Context"], Literal[Passage.CONTINUE] | None]


@dataclass(frozen=True, slots=True)
class Accept:
    """Relay the bytes without interception. Chunk hooks still see them. goproxy's `OkConnect`."""


@dataclass(frozen=True, slots=True)
class Reject:
    """Refuse the tunnel with `response`, by default a 403. SOCKS replies "not allowed by ruleset". goproxy's `RejectConnect`."""

    response: werkzeug.wrappers.Response | None = None


@dataclass(frozen=True, slots=True)
class Mitm:
    """Intercept the tunnel. goproxy's `MitmConnect`.

    before      is called with the tunnel's connection, before its protocol is detected
    after       is called with the decrypted connection, inside each layer of TLS. It is not called without TLS
    """

    before: Look | None = None
    after: Look | None = None


@dataclass(frozen=True, slots=True)
class Hijack:
    """Give the tunnel to a hijacker. goproxy's `ConnectHijack`."""

    handler: Hijacker


Action = Accept | Reject | Mitm | Hijack


@dataclass(frozen=True, slots=True)
class Chunk:
    """Bytes of a tunnel that does not carry HTTP, as they came in one read, cut at any byte."""

    data: bytes
    from_client: bool


class Refused(Exception):
    """Raised by a chunk or frame hook: the stream ends in both directions. `reason` is one line for the logs."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
