"""`Upload`: sends a request's body upstream while the proxy waits for the response.

A server may respond before it has read the body (413, or streams both ways), and it may stop reading then. The proxy still has to read the
response. So a body that is not in memory is sent by a separate greenlet.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import gevent

from muxwsgi.errors import Cut, PeerError
from muxwsgi.http.h1.chunk_line import last_chunk

if TYPE_CHECKING:
    from muxwsgi.proxy.upstream.upstreams import Client
    from muxwsgi.records.flow import Flow

__all__ = ["Upload", "chunked", "pieces_of"]

log = logging.getLogger("muxwsgi.error")

BLOCK = 65536


def pieces_of(source: Any) -> Iterator[bytes]:
    """The bytes of `wsgi.input`, as they come."""
    while piece := source.read1(BLOCK):
        yield piece


def chunked(data: bytes, trailers: Mapping[str, str]) -> bytes:
    """A whole body in one chunk (RFC 9112 section 7.1)."""
    return (b"%x\r\n%b\r\n" % (len(data), data) if data else b"") + last_chunk(trailers.items())


class Upload:
    """A body that is being sent. It ends when the whole body is sent, when either side fails, or with `stop`."""

    __slots__ = ("_client", "_flow", "_greenlet", "_left", "_pieces", "_trailers", "begun", "complete")

    def __init__(
        self, pieces: Iterable[bytes], trailers: Mapping[str, str], client: "Client", length: int | None, flow: "Flow | None"
    ) -> None:
        """`trailers` is filled once `pieces` are exhausted. `length` is the Content-Length of the request, None for chunks."""
        self._pieces = pieces
        self._trailers = trailers
        self._client = client
        self._left = length
        self._flow = flow
        self._greenlet: gevent.Greenlet[..., None] | None = None
        #: Whether it has begun to read the body. Reading sends the client a 100.
        self.begun = False
        #: Whether the whole body is sent.
        self.complete = False

    def start(self, after: float = 0.0) -> None:
        """Start to send, `after` seconds from now. A second call without `after` ends that wait."""
        if self._greenlet is None:
            self._greenlet = gevent.spawn_later(after, self._run) if after else gevent.spawn(self._run)
        elif not after and not self.begun and not self._greenlet.dead:
            self._greenlet.kill(Cut)
            self._greenlet = gevent.spawn(self._run)

    def stop(self) -> None:
        """Stop sending. A body that is half sent makes the upstream connection unusable."""
        if self._greenlet is not None:
            self._greenlet.kill(Cut)

    def _run(self) -> None:
        self.begun = True
        pieces = iter(self._pieces)
        while True:
            try:
                piece = next(pieces, b"")
            except (PeerError, OSError):
                # The engine has noted the error, and answers the client. Closing ends the wait for the response.
                self._client.close()
                return
            except Cut:
                raise
            except BaseException:
                log.exception("a rule's request body failed")
                self._client.close()
                return
            if self._left is not None:
                self._left -= len(piece)
                if self._left < 0 or (self._left and not piece):
                    # If it were sent, the server would take the next request for the rest of this body, or the rest for a request.
                    log.error("a rule's request body is not as long as its Content-Length")
                    self._client.close()
                    return
            try:
                self._send(piece)
            except OSError:
                return  # the exchange reads the response, which may have come before the end of the body
            if not piece:
                self.complete = True
                return
            if self._flow is not None:
                self._flow.from_client.add(piece)

    def _send(self, piece: bytes) -> None:
        chunked = self._left is None
        if piece:
            self._client.send_piece(piece, chunked=chunked)
        else:
            self._client.send_end(self._trailers.items() if chunked else (), chunked=chunked)
