"""`Response` for rules: see `message`. And `to_wsgi`, which converts any response for the server."""

from collections.abc import Callable, Iterable, Iterator
from http import HTTPStatus
from typing import Any, Literal, cast, overload

import werkzeug.wrappers
from werkzeug.datastructures import Headers
from werkzeug.wsgi import ClosingIterator

from muxwsgi.errors import ResponseAborted
from muxwsgi.http.content_coding import Undecodable, decoded
from muxwsgi.proxy.fault import Fault, Phase
from muxwsgi.proxy.rules.coding_fields import coding_of
from muxwsgi.proxy.rules.pieces import BUFFER_LIMIT, OF_BYTES, join, watched
from muxwsgi.proxy.rules.whole_body import WholeBody

__all__ = ["Response", "to_wsgi"]


class Response(WholeBody, werkzeug.wrappers.Response):
    """A response, before it is sent to the client. A rule can also return a new one, or any response of werkzeug or Flask.

    Rules always read the body decoded, without its Content-Encoding. A body that a rule sets is sent unencoded. A body that is only read is
    sent on in its original coding. Reading raises a `Fault` (502) for an unsupported coding, and for a body that is broken or becomes too
    large.

    buffer_limit    bytes that `get_data()` reads of an upstream's body at most; a larger body is a `Fault`
    """

    buffer_limit = BUFFER_LIMIT
    autocorrect_location_header = False

    #: Whether a rule has set another body.
    body_replaced = False

    _body: Any  # encoded

    @staticmethod
    def of_upstream(
        status: int, reason: str, fields: Iterable[tuple[str, str]], body: Iterable[bytes], *, buffer_limit: int = BUFFER_LIMIT
    ) -> "Response":
        """An upstream's response. `body` streams. Its `close` gives the connection back, and may be called more than once."""
        headers = Headers()
        headers[:] = fields
        response = _UpstreamResponse(body, status=f"{status} {reason}", headers=headers)
        response.buffer_limit = buffer_limit
        close = getattr(body, "close", None)
        if close is not None:
            response.call_on_close(close)  # also after a rule has set another body
        return response

    @property
    def response(self) -> Any:
        """The decoded body as it comes: an iterable of bytes. Setting it is `set_stream`."""
        coding = coding_of(self.headers)
        return self._body if coding is None else _Uncoded(self._body, coding, self.status_code)

    @response.setter
    def response(self, pieces: Any) -> None:
        if "_body" in self.__dict__:
            self._replace(pieces)
        else:  # werkzeug's constructor sets the first body; the caller sets its fields
            self._body = pieces

    @property
    def is_sequence(self) -> bool:
        """Whether the whole body is in memory."""
        return isinstance(self._body, (list, tuple))

    def iter_coded(self) -> Iterator[bytes]:
        """The body as it is sent, encoded."""
        return (piece.encode() if isinstance(piece, str) else piece for piece in self._body)

    def calculate_content_length(self) -> int | None:
        """The value for Content-Length; None for a body that streams."""
        return sum(map(len, self.iter_coded())) if self.is_sequence else None

    @overload
    def get_data(self, as_text: Literal[False] = ...) -> bytes: ...

    @overload
    def get_data(self, as_text: Literal[True]) -> str: ...

    def get_data(self, as_text: bool = False) -> bytes | str:
        """The whole body, decoded. The encoded body stays in memory and is sent on.

        Raises `Fault` above `buffer_limit`, and if reading from the upstream fails.
        """
        self.make_sequence()
        coded = b"".join(self.iter_coded())
        coding = coding_of(self.headers)
        pieces = None if coding is None else uncoded([coded], coding, self.status_code)
        data = coded if pieces is None else self._joined(pieces)
        return data.decode("utf-8", "replace") if as_text else data

    def make_sequence(self) -> None:
        """Read the whole encoded body into memory. Raises as `get_data`."""
        if not self.is_sequence:
            close = getattr(self._body, "close", None)
            self._body = [self._joined(self.iter_coded())]
            if close is not None:
                self.call_on_close(close)

    def _joined(self, pieces: Iterable[bytes]) -> bytes:
        try:
            return join(pieces, self.buffer_limit, self._too_large)
        except ResponseAborted as error:  # nothing has been sent yet, so the client can be told
            raise Fault(Phase.BODY, str(error)) from error

    def _too_large(self) -> Exception:
        return Fault(Phase.BODY, f"the response's body is larger than the {self.buffer_limit} bytes that may be read at once")

    def set_data(self, value: bytes | str) -> None:
        """Set another body, without a coding, and Content-Length."""
        data = value.encode() if isinstance(value, str) else bytes(value)
        self.response = [data]
        self.headers["Content-Length"] = str(len(data))

    def set_stream(self, pieces: Iterable[bytes]) -> None:
        """Set another body that is made while it is sent. `pieces` may read from the old `response.response`."""
        self._replace(pieces)

    def watch_body(self, watch: Callable[[Iterable[bytes]], Iterable[bytes]]) -> None:
        """Let `watch` observe the decoded body while it is sent. It gets the pieces as they come, and must yield them unchanged. The body
        is sent unchanged, in its coding."""
        coding = coding_of(self.headers)
        status = self.status_code
        seen = watched(self.iter_coded(), watch, None if coding is None else lambda pieces: uncoded(pieces, coding, status))
        if self.is_sequence:
            self._body = list(seen)
            return
        close = getattr(self._body, "close", None)
        if close is not None:
            self.call_on_close(close)
        self._body = seen

    def _replace(self, pieces: Iterable[bytes]) -> None:
        close = getattr(self._body, "close", None)
        if close is not None:
            self.call_on_close(close)
        self._body = pieces
        self.body_replaced = True
        for name in OF_BYTES:
            self.headers.pop(name, None)
        etag = self.headers.get("ETag")
        if etag is not None and etag.startswith('"'):
            self.headers["ETag"] = f"W/{etag}"  # weak, because the bytes have changed (RFC 9110 section 8.8.1)


def uncoded(pieces: Iterable[bytes], coding: str, status: int) -> Iterator[bytes] | None:
    """`pieces` decoded; None for a coding that a client would not decode. Raises `Fault`."""
    if status == HTTPStatus.PARTIAL_CONTENT:
        raise Fault(Phase.BODY, f"a part of a body that is encoded with {coding!r} cannot be decoded")
    try:
        found = decoded(pieces, coding)
    except Undecodable as error:
        raise Fault(Phase.BODY, error.reason) from error
    return None if found is None else _as_response(found)


def _as_response(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Turns errors of decoding into a fault of the upstream."""
    try:
        yield from pieces
    except Undecodable as error:
        raise Fault(Phase.BODY, error.reason) from error


class _Uncoded:
    """The body of a response, which is decoded when it is iterated."""

    __slots__ = ("_body", "_coding", "_status")

    def __init__(self, body: Any, coding: str, status: int) -> None:
        self._body = body
        self._coding = coding
        self._status = status

    def __iter__(self) -> Iterator[bytes]:
        pieces = iter(self._body)
        found = uncoded(pieces, self._coding, self._status)
        return pieces if found is None else found

    def close(self) -> None:
        close = getattr(self._body, "close", None)
        if close is not None:
            close()


class _UpstreamResponse(Response):
    """An upstream's response. A missing Content-Type is not added."""

    default_mimetype = None


def to_wsgi(response: werkzeug.wrappers.Response, method: str) -> tuple[str, list[tuple[str, str]], Iterable[bytes]]:
    """(status, fields, body) for `start_response` and the server, without the corrections that werkzeug makes for applications.

    A body in memory is a list, which the engine sends in one write with the head, and the response is closed. The server must call
    `close()` of any other body, as PEP 3333 says. A `Fault` while the body is read becomes `ResponseAborted`.
    """
    headers = list(response.headers)
    code = response.status_code
    ours = response if isinstance(response, Response) else None
    if method == "HEAD" or code in (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED):
        # Content-Length is that of a GET. A rule that replaced the empty body does not know it, so it is removed.
        if ours is not None and ours.body_replaced:
            headers = [field for field in headers if field[0].lower() != "content-length"]
        response.close()
        return response.status, headers, []
    if response.is_sequence:
        body = list(response.iter_encoded() if ours is None else ours.iter_coded())
        response.close()
        return response.status, [field for field in headers if field[0].lower() != "content-length"], body
    if isinstance(response, _UpstreamResponse):
        pieces = cast(Iterable[bytes], response._body)
    elif ours is not None:
        pieces = ours.iter_coded()
    else:
        pieces = response.iter_encoded()
    return response.status, headers, ClosingIterator(_cut_short(pieces), response.close)


def _cut_short(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Turns a fault while the body is sent into `ResponseAborted`, because it is too late for another response."""
    try:
        yield from pieces
    except Fault as fault:
        raise ResponseAborted(fault.reason) from fault
