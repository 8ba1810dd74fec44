"""`UpstreamSpan`: what a tracer is told of a request that a proxy sends on. The tracer puts a `BeginSpan` into the environ, so the proxy
knows of no tracer."""

from collections.abc import Callable
from typing import Protocol

__all__ = ["KEY", "BeginSpan", "UpstreamSpan"]

#: The key of the environ that has the `BeginSpan`. Without a tracer it is missing.
KEY = "muxwsgi.upstream_span"


class UpstreamSpan(Protocol):
    """One request to an upstream. `end` is called once."""

    def carried_in(self, fields: list[tuple[str, str]]) -> list[tuple[str, str]]:
        """The fields of the request, with those that tell the upstream of the span."""

    def resent(self) -> None:
        """The request is sent again, on another connection."""

    def answered(self, status: int, version: str) -> None:
        """The final response has come, in this version of HTTP ("1.1")."""

    def end(self, error: str | None, kind: str | None = None) -> None:
        """The exchange is complete, or has ended with `error`, one line, of one of a few kinds (None: `incomplete`)."""


#: (method, URL, host, port) -> the span of a request that is about to be sent. Host and port are those of the upstream.
BeginSpan = Callable[[str, str, str, int], UpstreamSpan]
