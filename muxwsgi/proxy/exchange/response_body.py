"""`ResponseBody`: streams an upstream's response body to the client, and gives the upstream connection back at the end."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from muxwsgi.errors import Expired, ResponseAborted
from muxwsgi.http.body import BrokenBody
from muxwsgi.http.upstream_span import UpstreamSpan
from muxwsgi.proxy.exchange.client_watch import ClientGone, ClientWatch
from muxwsgi.proxy.exchange.fields import Fields
from muxwsgi.proxy.exchange.upload import Upload

if TYPE_CHECKING:
    from muxwsgi.proxy.context import Context
    from muxwsgi.proxy.upstream.upstreams import Client
    from muxwsgi.wire.connection import Connection

__all__ = ["ResponseBody"]

BLOCK = 65536


class ResponseBody:
    """The body of a response, block by block (an iterator for WSGI). Closing it early closes the upstream connection."""

    __slots__ = ("_client", "_ctx", "_done", "_first", "_give_back", "_client_watch", "_span", "_upload", "flow", "on_end", "trailers")

    def __init__(
        self,
        client: "Client",
        upload: Upload | None,
        ctx: "Context",
        client_watch: ClientWatch,
        give_back: Callable[[], None],
        *,
        switched: bool,
        span: UpstreamSpan | None,
    ) -> None:
        """`switched`: the response is a 101, so the connection carries another protocol and is not given back. `span` is ended with the
        exchange."""
        self._client = client
        self._upload = upload
        self._ctx = ctx
        self._client_watch = client_watch
        self._give_back = give_back
        self._span = span
        self._done = False
        self._first = b""
        #: Records the bytes; None if they are not recorded here.
        self.flow = ctx.flow
        #: The trailer fields, known after the end of the body.
        self.trailers: Fields = []
        #: Called once, with the error, or with None after a complete body.
        self.on_end: Callable[[str | None], None] | None = None
        if client.body.done and not switched:
            self._finish()

    def __iter__(self) -> "ResponseBody":
        return self

    def __next__(self) -> bytes:
        block = self.read()
        if not block:
            raise StopIteration
        return block

    @property
    def done(self) -> bool:
        """Whether the whole body has been read."""
        return self._done

    @property
    def ready(self) -> bool:
        """Whether `read` would return at once."""
        return self._done or self._client.body.ready

    def read(self) -> bytes:
        """The next bytes as they come; b"" at the end. Raises `ResponseAborted` if the body is incomplete."""
        if self._first:
            block, self._first = self._first, b""
            return block
        if self._done:
            return b""
        try:
            block = self._client.body.read_some(BLOCK)
        except OSError as error:
            reason = _why_broken(error)
            self._end(reason)
            raise ResponseAborted(reason) from error
        if self.flow is not None:
            self.flow.from_server.add(block)
        if self._client.body.done:
            self._finish()
        return block

    def close(self) -> None:
        """The engine always calls this."""
        if not self._done:
            self._end("the client went away")

    def put_back(self, block: bytes) -> None:
        """Let the next `read` return `block`, which was read already."""
        self._first = block

    def take_over(self) -> "Connection":
        """The upstream connection, which carries another protocol after a 101. The caller closes it."""
        self._done = True
        self._client_watch.remove(self._ctx)
        if self._upload is not None:
            self._upload.stop()
        self._end_span(None)
        return self._client.take_over()

    def _finish(self) -> None:
        self._done = True
        if self._client.body.trailers:
            self.trailers = list(self._client.body.trailers.items())  # copied, because another exchange may get the connection
        self._client_watch.remove(self._ctx)
        if self._upload is not None and not self._upload.complete:
            self._upload.stop()
            self._client.close()
        else:
            self._give_back()
        self._end_span(None)
        if self.on_end is not None:
            self.on_end(None)

    def _end(self, reason: str) -> None:
        self._done = True
        self._client_watch.remove(self._ctx)
        if self._upload is not None:
            self._upload.stop()
        self._client.close()
        self._end_span(reason)
        if self.on_end is not None:
            self.on_end(reason)

    def _end_span(self, error: str | None) -> None:
        if self._span is not None:
            self._span.end(error)
            self._span = None


def _why_broken(error: OSError) -> str:
    if isinstance(error, ClientGone):
        return str(error)
    if isinstance(error, Expired) or (isinstance(error, BrokenBody) and error.status == 408):
        reason = "no byte in time"
    elif isinstance(error, BrokenBody):
        reason = error.reason
    else:
        reason = error.strerror or str(error)
    return f"the upstream's body broke off: {reason}"
