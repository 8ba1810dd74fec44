"""Chunk hooks of the proxy itself, for streams that are relayed before their protocol is known."""

from typing import TYPE_CHECKING

from muxwsgi.mux.mux import Mux, Reason
from muxwsgi.protocols.http1 import FirstLine
from muxwsgi.proxy.rules.actions import Chunk, Refused

if TYPE_CHECKING:
    from muxwsgi.proxy.context import Context

__all__ = ["NoRequest", "SlowStart"]


class SlowStart:
    """A chunk hook for a stream whose first bytes came too slowly to detect its protocol. It continues the detection, and raises `Refused`
    for a protocol that would have been intercepted. Otherwise a pause in the middle of "GET" would bypass the rules."""

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
                raise Refused(f"its first bytes came too slowly to intercept it: {decision.text}")


class NoRequest:
    """A chunk hook that raises `Refused` if some servers would accept the client's first line as an HTTP request."""

    __slots__ = ("_line",)

    def __init__(self) -> None:
        self._line = FirstLine()

    def __call__(self, chunk: Chunk, ctx: "Context") -> None:
        if chunk.from_client and self._line.is_request(chunk.data):
            raise Refused("some servers would accept its first line as a request, and it cannot be intercepted")
