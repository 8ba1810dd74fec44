"""A relay with hooks: each block of bytes goes through the chunk hooks, the flow and the recorder of messages."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from muxwsgi.proxy.rules.rules import filter_chunk
from muxwsgi.wire.relay import Relayed, relay

if TYPE_CHECKING:
    from muxwsgi.proxy.context import Context
    from muxwsgi.proxy.rules.rule import ChunkFunction
    from muxwsgi.proxy.streams.messages import MessageRecorder
    from muxwsgi.wire.connection import Connection

__all__ = ["relay_inspected"]


class _Inspected:
    """One side of the relay. Bytes that are received from it go through the hooks first."""

    __slots__ = ("_ctx", "_from_client", "_hooks", "_messages", "_stream")

    def __init__(
        self,
        stream: "Connection",
        from_client: bool,
        hooks: "Sequence[ChunkFunction]",
        ctx: "Context",
        messages: "MessageRecorder | None",
    ) -> None:
        self._stream = stream
        self._from_client = from_client
        self._hooks = hooks
        self._ctx = ctx
        self._messages = messages

    def recv(self, n: int, /) -> bytes:
        while data := self._stream.recv(n):
            if self._hooks:
                data = filter_chunk(self._hooks, data, self._from_client, self._ctx)
            flow = self._ctx.flow
            if flow is not None:
                (flow.from_client if self._from_client else flow.from_server).add(data)
            if self._messages is not None:
                self._messages.add_bytes(data, self._from_client)
            if data:
                return data
        return b""

    def sendall(self, data: bytes, /) -> None:
        self._stream.sendall(data)

    def shutdown(self, how: int, /) -> None:
        self._stream.shutdown(how)

    @property
    def truncated(self) -> bool:
        return self._stream.truncated

    @property
    def bytes_sent(self) -> int:
        return self._stream.bytes_sent

    @property
    def bytes_unacknowledged(self) -> int:
        return self._stream.bytes_unacknowledged

    def cut(self, grace: float, /) -> None:
        self._stream.cut(grace)


def relay_inspected(
    client: "Connection",
    upstream: "Connection",
    ctx: "Context",
    hooks: "Sequence[ChunkFunction]",
    idle_timeout: float,
    fin_timeout: float,
    messages: "MessageRecorder | None" = None,
) -> Relayed:
    """Relay both ways until both have ended, as `wire.relay` does, through `hooks` and into the flow of `ctx`.

    A hook gets blocks as they arrive, cut at any byte. An exception of a hook ends both directions, and is raised. `messages` records the
    messages of a WebSocket.
    """
    if not hooks and ctx.flow is None:
        return relay(client, upstream, idle_timeout=idle_timeout, fin_timeout=fin_timeout)
    return relay(
        _Inspected(client, True, hooks, ctx, messages),
        _Inspected(upstream, False, hooks, ctx, messages),
        idle_timeout=idle_timeout,
        fin_timeout=fin_timeout,
    )
