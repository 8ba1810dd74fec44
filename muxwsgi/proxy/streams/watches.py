"""Chunk hooks of the proxy itself, for streams that are relayed though it is not clear yet what they are."""

from typing import TYPE_CHECKING

from muxwsgi.mux.mux import Mux, Reason
from muxwsgi.protocols.http1 import FirstLine
from muxwsgi.proxy.rules.actions import Chunk, Refused

if TYPE_CHECKING:
    from muxwsgi.proxy.context import Context

__all__ = ["NoRequest", "SlowStart"]


class SlowStart:
    """A chunk hook that goes on asking what a stream is, whose first bytes could not tell in time. Raises `Refused` as soon as it is
    something that would have been looked into: else waiting for a moment in the middle of "GET" would take anything past the rules."""

    __slots__ = ("_begun", "_mux")

    def __init__(self, mux: Mux) -> None:
        self._mux = mux
        self._begun: bytes | None = b""  # None once it is decided

    def __call__(self, chunk: Chunk, ctx: "Context") -> None:
        if self._begun is None or not chunk.from_client:
            return
        self._begun += chunk.data
        decision = self._mux.decide(self._begun)
        if decision is not None:
            self._begun = None
            if decision.reason is not Reason.UNMATCHED:
                raise Refused(f"it began too slowly to be looked into: {decision.text}")


class NoRequest:
    """A chunk hook that raises `Refused` where the client's first line could be a request to some server."""

    __slots__ = ("_line",)

    def __init__(self) -> None:
        self._line = FirstLine()

    def __call__(self, chunk: Chunk, ctx: "Context") -> None:
        if chunk.from_client and self._line.is_request(chunk.data):
            raise Refused("it begins with what some servers take for a request, and nothing that can be looked into")
