"""`Response` as rules see it: see `message`. And `to_wsgi`, which hands any response on."""

from collections.abc import Callable, Iterable, Iterator
from http import HTTPStatus
from typing import Literal, cast, overload

import werkzeug.wrappers
from werkzeug.datastructures import Headers
from werkzeug.wsgi import ClosingIterator

from muxwsgi.errors import ResponseAborted
from muxwsgi.proxy.fault import Fault, Phase
from muxwsgi.proxy.rules.decode import decoded
from muxwsgi.proxy.rules.pieces import BUFFER_LIMIT, join

__all__ = ["Response", "to_wsgi"]


class Response(werkzeug.wrappers.Response):
    """A response on its way to the client. A rule that answers by itself may make one, or any other of werkzeug's or Flask's.

    buffer_limit    bytes that `get_data()` keeps of an upstream's body at most, above: a `Fault`, which is 502
    """

    buffer_limit = BUFFER_LIMIT
    autocorrect_location_header = False

    @staticmethod
    def of_upstream(
        status: int, reason: str, fields: Iterable[tuple[str, str]], body: Iterable[bytes], *, buffer_limit: int = BUFFER_LIMIT
    ) -> "Response":
        """The response that an upstream gave. `body` streams; its `close` gives the connection back, and may be called more than once."""
        headers = Headers()
        headers[:] = fields
        response = _UpstreamResponse(body, status=f"{status} {reason}", headers=headers)
        response.buffer_limit = buffer_limit
        close = getattr(body, "close", None)
        if close is not None:
            response.call_on_close(close)  # also when a rule has put another body in its place
        return response

    @overload
    def get_data(self, as_text: Literal[False] = ...) -> bytes: ...

    @overload
    def get_data(self, as_text: Literal[True]) -> str: ...

    def get_data(self, as_text: bool = False) -> bytes | str:
        """The whole body, encoded as it came: see `decoded` of `on_response().do()`. It stays in memory and is sent on from there.

        Raises `Fault` above `buffer_limit`, and for what reading from the upstream met.
        """
        if self.is_sequence:
            data = b"".join(self.iter_encoded())
        else:
            close = getattr(self.response, "close", None)
            try:
                data = join(self.iter_encoded(), self.buffer_limit, self._too_large)
            except ResponseAborted as error:  # nothing has been sent yet, so the client can be told
                raise Fault(Phase.BODY, str(error)) from error
            self.response = [data]
            if close is not None:
                self.call_on_close(close)
        return data.decode("utf-8", "replace") if as_text else data

    def _too_large(self) -> Exception:
        return Fault(Phase.BODY, f"the response's body is larger than the {self.buffer_limit} bytes that may be read at once")

    def set_data(self, value: bytes | str) -> None:
        """Give the response another body, without any encoding; Content-Length says its size."""
        data = value.encode() if isinstance(value, str) else bytes(value)
        if "response" in self.__dict__:
            self._replace([data])
        else:  # werkzeug's constructor gives it its first body, whose fields are the caller's
            self.response = [data]
        self.headers["Content-Length"] = str(len(data))

    def set_stream(self, pieces: Iterable[bytes]) -> None:
        """Give the response another body that is made while it is sent. `pieces` may read from what `response.response` was."""
        self._replace(pieces)

    def watch_body(self, watch: Callable[[Iterable[bytes]], Iterable[bytes]]) -> None:
        """Let `watch` see the body on its way: it is given the pieces as they come, and gives them on, with not a byte more or less."""
        if self.is_sequence:
            self.response = list(watch(list(self.iter_encoded())))
            return
        close = getattr(self.response, "close", None)
        if close is not None:
            self.call_on_close(close)
        self.response = watch(self.iter_encoded())

    def _replace(self, pieces: Iterable[bytes]) -> None:
        close = getattr(self.response, "close", None)
        if close is not None:
            self.call_on_close(close)
        self.response = pieces
        for name in ("Transfer-Encoding", "Content-Encoding", "Content-Length", "Trailer"):
            self.headers.pop(name, None)

    @property
    def data(self) -> bytes:
        """`get_data()`, and `set_data()` when set."""
        return self.get_data()

    @data.setter
    def data(self, value: bytes | str) -> None:
        self.set_data(value)

    def decode(self) -> None:
        """Take the Content-Encoding off, piece by piece while the body streams. Raises `Fault` for one that cannot be."""
        coding = self.headers.get("Content-Encoding")
        if coding is None:
            return
        if self.status_code == 206:
            raise Fault(Phase.BODY, f"a part of a body that is encoded with {coding!r} cannot be decoded")
        pieces = decoded(self.iter_encoded(), coding)
        if pieces is None:
            return
        self._replace(pieces)
        # What was said of the encoded bytes.
        for name in ("Content-MD5", "Digest", "Content-Digest", "Repr-Digest"):
            self.headers.pop(name, None)
        etag = self.headers.get("ETag")
        if etag is not None and etag.startswith('"'):
            self.headers["ETag"] = f"W/{etag}"  # RFC 9110 section 8.8.1


class _UpstreamResponse(Response):
    """An upstream may leave Content-Type out, and it stays out."""

    default_mimetype = None


def to_wsgi(response: werkzeug.wrappers.Response, method: str) -> tuple[str, list[tuple[str, str]], Iterable[bytes]]:
    """(status, fields, body) for `start_response` and the server, without the corrections that werkzeug makes for applications.

    A body in memory comes as a list, which the engine sends in one write with the head, and the response is closed; of any other the
    server must call `close()`, as of any application's result. A `Fault` in it becomes `ResponseAborted`.
    """
    headers = list(response.headers)
    code = response.status_code
    if method == "HEAD" or code in (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED):
        response.close()
        return response.status, headers, []
    if response.is_sequence:
        body = list(response.iter_encoded())
        response.close()
        return response.status, [field for field in headers if field[0].lower() != "content-length"], body
    if isinstance(response, _UpstreamResponse) or response.direct_passthrough:
        pieces = cast(Iterable[bytes], response.response)
    else:
        pieces = response.iter_encoded()
    return response.status, headers, ClosingIterator(_cut_short(pieces), response.close)


def _cut_short(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """A fault that shows while the body is sent is nobody's error here, and too late for another answer."""
    try:
        yield from pieces
    except Fault as fault:
        raise ResponseAborted(fault.reason) from fault
