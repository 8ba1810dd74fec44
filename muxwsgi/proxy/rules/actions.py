"""What a rule may decide about a tunnel, and what hooks say of the bytes in it.

A hijack takes the tunnel's connection after the client was told that there is one: the 200 of CONNECT, or the reply of SOCKS, is sent by
the proxy and never by the hijacker. It owns the connection until it returns, and the proxy closes it then.
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
    """What may become of what was looked at."""

    CONTINUE = "continue"
    DROP = "drop"

    def __repr__(self) -> str:
        return self.name


#: What a look at a tunnel returns when the proxy shall go on with the connection, and whatever was only peeked at.
CONTINUE: Literal[Passage.CONTINUE] = Passage.CONTINUE

#: What a hook returns for a chunk or frame that shall not be sent on.
DROP: Literal[Passage.DROP] = Passage.DROP

#: Owns the connection until it returns.
Hijacker = Callable[[Connection, "Context"], None]

#: May look (`peek`) and return `CONTINUE`; otherwise it has taken the connection, which ends when it returns.
Look = Callable[[Connection, "Context"], Literal[Passage.CONTINUE] | None]


@dataclass(frozen=True, slots=True)
class Accept:
    """Relay the bytes as they come, without a look at them (beyond chunk hooks). goproxy's `OkConnect`."""


@dataclass(frozen=True, slots=True)
class Reject:
    """No tunnel: answer with `response`, 403 without one. SOCKS says "not allowed by ruleset". goproxy's `RejectConnect`."""

    response: werkzeug.wrappers.Response | None = None


@dataclass(frozen=True, slots=True)
class Mitm:
    """Look inside. goproxy's `MitmConnect`.

    before      is given the tunnel's connection first, before any byte of it is decided upon
    after       is given the decrypted connection, inside of each layer of TLS; never where the tunnel carries none
    """

    before: Look | None = None
    after: Look | None = None


@dataclass(frozen=True, slots=True)
class Hijack:
    """The tunnel is the hijacker's. goproxy's `ConnectHijack`."""

    handler: Hijacker


Action = Accept | Reject | Mitm | Hijack


@dataclass(frozen=True, slots=True)
class Chunk:
    """Bytes of a tunnel that carries no HTTP, as they came in one read: how they are cut means nothing."""

    data: bytes
    from_client: bool


class Refused(Exception):
    """Raised by a chunk or frame hook: the stream ends in both directions. `reason` is one line for the logs."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
