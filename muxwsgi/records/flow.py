"""`Flow`: the record of one exchange or raw stream. It is filled in while that runs. At its end the sinks (flow log, HAR) get it.

Flows are made only while there are sinks.
"""

import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

__all__ = ["AnsweredBy", "Captured", "Close", "Flow", "FlowSink", "Head", "Message", "TLSSide", "WebSocketRecord", "number_flows"]

Kind = Literal["http", "websocket", "raw", "connect"]

AnsweredBy = Literal["upstream", "rule", "application", "proxy"]

#: Called with each flow that has ended, in the greenlet that served it. It must not wait.
FlowSink = Callable[["Flow"], None]

_ids: Iterator[int] = itertools.count(1)


def number_flows(numbers: Iterator[int]) -> None:
    """Take the numbers of flows from there, so that several processes give each number once."""
    global _ids
    _ids = numbers

#: Bytes of memory for a message without its content, about.
MESSAGE_SIZE = 400


class Captured:
    """A body, or one direction of a stream: `size` bytes passed, of which `data` keeps the first `limit`."""

    __slots__ = ("data", "limit", "size")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.size = 0
        self.data = bytearray()

    def add(self, chunk: bytes) -> None:
        room = self.limit - len(self.data)
        if room > 0:
            self.data += chunk[:room]
        self.size += len(chunk)

    @property
    def truncated(self) -> bool:
        return len(self.data) < self.size


@dataclass(slots=True)
class Head:
    """A request or status line with its fields, as they were sent on.

    line        ("GET", "https://example.com/", "HTTP/1.1") or ("HTTP/1.1", "200", "OK")
    fields      (name, value) in order
    """

    line: tuple[str, str, str]
    fields: list[tuple[str, str]]


@dataclass(slots=True)
class TLSSide:
    """TLS on one side of the proxy. `ja3` and `ja4` are known of clients only. `version` is None if TLS was passed through."""

    version: str | None
    cipher: str | None
    sni: str | None = None
    alpn: str | None = None
    ja3: str | None = None
    ja4: str | None = None
    peer_certificate: str | None = None  # SHA-256 fingerprint in hex


@dataclass(slots=True)
class Message:
    """One message of a WebSocket: the content of its frames, unmasked and inflated.

    opcode      1 for text, 2 for binary (RFC 6455 section 5.6)
    time        when its last frame passed, in seconds since the flow started
    complete    whether its last frame passed, and all of it could be read
    """

    from_client: bool
    opcode: int
    time: float
    complete: bool
    content: Captured


@dataclass(slots=True)
class Close:
    """A Close frame. `code` is None if it had none (RFC 6455 section 5.5.1)."""

    from_client: bool
    code: int | None
    reason: str


@dataclass(slots=True)
class WebSocketRecord:
    """The messages of a WebSocket.

    messages    the kept messages, in the order in which they ended
    count       number of messages that ended, kept or not, as far as frames could be read
    close       the first Close frame
    stopped     why not all messages were kept; None if all were
    """

    messages: list[Message] = field(default_factory=list)
    count: int = 0
    close: Close | None = None
    stopped: str | None = None


@dataclass(slots=True)
class Flow:
    """One HTTP exchange, WebSocket, raw stream, or refused or accepted CONNECT.

    id                  number; no other worker gives the same one
    session             number of the context, `tunnel` that of the tunnel around it, `connection` that of the accepted connection
    kind                http, websocket, raw (relayed bytes), connect (a tunnel that was refused, or could not be made)
    capture_limit       bytes that are kept of each body, and of each message
    started             seconds since the epoch; all other times are seconds since `started`, None if the event did not happen
    client, server      "address:port" of the client, and of the proxy's socket that it connected to
    door                how it came in: http, connect, socks4, socks5, redirect, tproxy
    destination         "host:port"
    address             the address that was dialled, None if no upstream was dialled
    answered_by         the source of the response: upstream, rule, application (a mounted one) or proxy (an error of the proxy, or
                        Max-Forwards was 0); None without a response
    trace               why each route matched, a line each; until the flow ends, this is the connection's list
    tags                words added by rules
    websocket           the messages of a WebSocket; None for other flows, and if messages are not recorded
    """

    kind: Kind
    client: str
    server: str
    door: str
    session: int
    connection: int
    capture_limit: int
    tunnel: int | None = None
    destination: str | None = None
    address: str | None = None
    identity: str | None = None
    id: int = field(default_factory=lambda: next(_ids))
    started: float = field(default_factory=time.time)
    began: float = field(default_factory=time.monotonic)
    trace: list[str] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    client_tls: TLSSide | None = None
    upstream_tls: TLSSide | None = None
    reused: bool = False  # the upstream connection came from the pool
    answered_by: AnsweredBy | None = None
    dialling: float | None = None  # the rules have run, and the search for a connection begins
    resolved: float | None = None
    connected: float | None = None
    secured: float | None = None
    sent: float | None = None
    first_byte: float | None = None
    ended: float | None = None
    request: Head | None = None
    response: Head | None = None
    error: str | None = None
    from_client: Captured = field(init=False)  # request body, or bytes from the client
    from_server: Captured = field(init=False)  # response body, or bytes to the client
    websocket: WebSocketRecord | None = None

    def __post_init__(self) -> None:
        self.from_client = Captured(self.capture_limit)
        self.from_server = Captured(self.capture_limit)

    def now(self) -> float:
        """Seconds since the flow started."""
        return time.monotonic() - self.began

    @property
    def kept(self) -> int:
        """Bytes of memory for its bodies and messages, about."""
        messages = self.websocket.messages if self.websocket is not None else ()
        bodies = len(self.from_client.data) + len(self.from_server.data)
        return bodies + sum(MESSAGE_SIZE + len(message.content.data) for message in messages)
