"""A response as HTTP/2 writes it (RFC 9113 section 8.1): HEADERS, DATA, trailers.

A response that is complete, and for which the windows have room, goes into the sender at once, and leaves with all others of the same turn.
Anything else is written by `Writing.send`, which waits until the peer takes it.
"""

import errno
from http import HTTPStatus
from typing import IO, TYPE_CHECKING

from muxwsgi.errors import PeerError
from muxwsgi.http.h2.encoder import Pair
from muxwsgi.http.h2.engine import Engine
from muxwsgi.http.h2.errors import INTERNAL_ERROR
from muxwsgi.http.h2.sender import spelled
from muxwsgi.http.h2.stream import Stream
from muxwsgi.http.h2.writing import OUT_AT_MOST, Writing
from muxwsgi.http.rendered import Header, Rendered
from muxwsgi.http.response import Response

if TYPE_CHECKING:
    from collections.abc import Callable

    from muxwsgi.http.body import Body

__all__ = ["H2Response", "UpgradeResponse", "response_to", "response_to_upgrade"]

#: See `Response._set_up`.
_RENDERED: dict[str, Rendered] = {}


class H2Response(Response):
    """One response on a stream. `response_to` makes it."""

    __slots__ = ("_ended", "_engine", "_sender", "_stream", "_writer")

    #: What the log says of a response that is cut.
    when_cut = "the stream is reset"

    is_multiplexed = True

    def _take(self, writer: Writing, engine: Engine, stream: Stream, body: "Body") -> None:
        """Begin: see `response_to`. Not `__init__`, for the same reason as `Response._set_up`."""
        self._writer = writer
        self._engine = engine
        self._sender = engine.sender
        self._stream = stream
        self._ended = False  # END_STREAM is sent
        self._set_up(body, stream.method, True, _RENDERED)

    @property
    def cancelled(self) -> bool:
        return self._stream.code >= 0

    def when_cancelled(self, call: "Callable[[], None] | None") -> None:
        self._stream.gone = call

    def _spell(self, status: str, fields: list[Header]) -> bytes:
        return spelled(status, fields)

    def _put_head(self, total: int | None, data: bytes) -> None:
        stream = self._stream
        sender = self._sender
        if self._body.withheld:
            self._body.forgo_continue()
        if stream.code >= 0:
            self._raise_reset()
        block = sender.head(self._block, -1 if total is None else total, self._dated, self._served)
        size = len(data)
        ends = self._silent or self._left == 0
        if ends and not self.trailers and (not size or self._fits(size)):
            sender.respond(stream, block, data, True)
            self.body_bytes += size
            self._ended = True
            self._engine.finish(stream)
            if not sender.due:
                self._writer.note_output()
            return
        sender.respond(stream, block, b"", False)
        if data or ends:
            self._write(data, ends)
        elif not sender.due:
            self._writer.note_output()

    def _fits(self, size: int) -> bool:
        """Whether `size` bytes of DATA can be sent at once."""
        sender = self._sender
        return size <= self._stream.window and size <= sender.window and size <= sender.frame_at_most and sender.size < OUT_AT_MOST

    def _put(self, data: bytes) -> None:
        if not self._ended:
            self._write(data, self._left == 0)

    def _put_end(self) -> None:
        if not self._ended and not self._left:  # a body that is too short has no end
            self._write(b"", True)

    def _put_interim(self, code: int, reason: str, fields: list[Header]) -> None:
        if self._stream.code >= 0:
            self._raise_reset()
        self._sender.fields(self._stream, [(b":status", b"%d" % code), *_pairs(fields)], False)
        self._writer.flush_within()

    def _put_refusal(self, error: PeerError) -> int:
        body = f"{error.reason}\n".encode()
        fields = [("content-type", "text/plain; charset=utf-8"), *error.fields]
        self._block = spelled(f"{error.status} {HTTPStatus(error.status).phrase}", fields)
        self._left = 0
        self._dated = self._served = False
        self._put_head(len(body), b"" if self._silent else body)
        return len(body)

    def _break_off(self) -> None:
        self._engine.reset(self._stream, INTERNAL_ERROR, "the response is shorter than its Content-Length")

    def _sends_files(self) -> bool:
        return True

    def _put_file(self, file: IO[bytes], offset: int, count: int) -> int:
        stream = self._stream
        end = count == self._left and not self.trailers
        try:
            sent = self._writer.send_file(stream, file.fileno(), offset, count, end)
        except OSError as error:
            self.peer_error = error
            raise
        except BaseException:  # as in `_write`
            self.peer_error = BrokenPipeError(errno.EPIPE, "a write was interrupted")
            raise
        finally:
            self.body_bytes = stream.sent
        if end and sent == count:
            self._ended = True
            self._engine.finish(stream)
        return sent

    def _write(self, data: bytes, end: bool) -> None:
        """Send `data` of the body. `end`: it is the last, and trailers come behind it."""
        if self.peer_error is not None:
            raise self.peer_error
        stream = self._stream
        try:
            if end and self.trailers and not self._silent:
                pairs = _pairs(self._trailer_fields())
                if data:
                    self._writer.send(stream, data, False)
                if stream.code >= 0:
                    self._raise_reset()
                self._sender.fields(stream, pairs, True)
                if not self._sender.due:
                    self._writer.note_output()
            else:
                self._writer.send(stream, data, end)
        except OSError as error:
            self.peer_error = error
            raise
        except ValueError:
            raise
        except BaseException:  # a Timeout of the application's: a part of `data` is lost, so nothing may follow
            self.peer_error = BrokenPipeError(errno.EPIPE, "a write was interrupted")
            raise
        finally:
            self.body_bytes = stream.sent
        if end:
            self._ended = True
            self._engine.finish(stream)

    def _raise_reset(self) -> None:
        self.peer_error = ConnectionResetError(errno.ECONNRESET, f"the stream was reset (error code {self._stream.code})")
        raise self.peer_error


class UpgradeResponse(H2Response):
    """The response to an extended CONNECT. Any 2xx would tell the client that its stream speaks the protocol from now on (RFC 8441 section
    5). An application that does not know the protocol takes the request for an ordinary one, so its 2xx becomes 501."""

    __slots__ = ()

    def _begin(self, status: str, headers: list[Header]) -> None:
        if status[:1] == "2":
            fault = PeerError(501, f"{self._stream.protocol} is not served here")
            self._body.fail(fault)
            raise fault
        H2Response._begin(self, status, headers)


def _pairs(fields: list[Header]) -> list[Pair]:
    return [(name.lower().encode("latin-1"), value.strip(" \t").encode("latin-1")) for name, value in fields]


def response_to(writer: Writing, engine: Engine, stream: Stream, body: "Body") -> H2Response:
    """The response to the request on `stream`, with `body`."""
    response = H2Response.__new__(H2Response)
    response._take(writer, engine, stream, body)
    return response


def response_to_upgrade(writer: Writing, engine: Engine, stream: Stream, body: "Body") -> UpgradeResponse:
    """The same for an extended CONNECT."""
    response = UpgradeResponse.__new__(UpgradeResponse)
    response._take(writer, engine, stream, body)
    return response
