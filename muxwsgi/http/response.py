"""The response of one exchange as PEP 3333 describes it, in any version of HTTP.

`Response` has the parts that do not depend on the version: the arguments of `start_response`, the order of calls, the length of the body,
and where the body is cut. A version of HTTP is a subclass that implements the writing: see "What a version writes".

If possible, an error of the application is raised in the application's call. An error that is found later (a body longer or shorter than
its Content-Length) is logged, and the client can tell that the response is incomplete.

The file is long because a compiled class is in one file.
"""

import logging
from collections.abc import Callable, Iterable
from http import HTTPStatus
from types import TracebackType
from typing import IO, TYPE_CHECKING

from muxwsgi.errors import PeerError
from muxwsgi.http.file_wrapper import FileWrapper, region
from muxwsgi.http.rendered import Header, Rendered
from muxwsgi.http.response_fields import KINDS, FieldKind, as_texts, check_value, code_of, kind_of

if TYPE_CHECKING:
    from muxwsgi.http.body import Body

__all__ = ["JOIN_AT_MOST", "Response"]

log = logging.getLogger("muxwsgi.error")

ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None]

#: Up to this size the chunks of a list are joined for one write. For more bytes, copying costs more than a second write.
JOIN_AT_MOST = 1 << 17

#: Enum members as globals: looking them up on the class costs more than the comparison.
_PLAIN, _LENGTH = FieldKind.PLAIN, FieldKind.LENGTH

#: Heads with more than this many bytes are not kept.
_RENDERED_AT_MOST = 1024

#: Heads are kept for this many statuses.
_STATUSES_AT_MOST = 2048


class Response:
    """One response. The constructor of a version calls `_set_up`.

    status          as the application gave it, None before `start_response`
    headers         as the application gave them
    head_sent       whether the head was sent: it cannot be changed any more
    complete        whether the whole response was sent
    body_bytes      bytes of the body that were sent, without framing
    keep_alive      whether another exchange may follow on the connection after this response
    peer_error      the error of sending, None before one. It is the peer's and not the application's
    trailers        fields that an application adds until its body ends. They are sent if the framing allows trailers
    """

    #: What the log says of a response that cannot be completed.
    when_cut = "the connection is closed"

    __slots__ = (
        "_block",
        "_bodiless",
        "_body",
        "_cut",
        "_dated",
        "_left",
        "_length",
        "_rendered",
        "_served",
        "_silent",
        "_total",
        "body_bytes",
        "complete",
        "head_sent",
        "headers",
        "keep_alive",
        "method",
        "peer_error",
        "status",
        "trailers",
    )

    def _set_up(self, body: "Body", method: str, keep_alive: bool, rendered: "dict[str, Rendered]") -> None:
        """A method and not `__init__`, because in the compiled build the call of a base class's `__init__` is slow.

        `body` is the request's. `rendered` has the last rendered heads of the same version, by status, because applications often give the
        same fields again.
        """
        self._body = body
        self._rendered = rendered
        self.method = method
        self.keep_alive = keep_alive
        self.head_sent = False
        self.complete = False
        self.body_bytes = 0
        self.peer_error: PeerError | OSError | None = None
        self.trailers: "list[Header] | tuple[()]" = ()
        self.forget()

    def forget(self) -> None:
        """Return to the initial state, so that another head replaces one that was not sent."""
        self.status: str | None = None
        self.headers: list[Header] = []
        self._block = b""  # the status and the application's fields, as `_spell` has made them
        self._dated = False  # whether the application gave Date
        self._served = False  # whether the application gave Server
        self._length: int | None = None  # Content-Length as the application gave it
        self._total: int | None = None  # bytes of the whole body, if they are known without Content-Length
        self._left: int | None = None  # bytes of the body that are still to be sent, None if they are not counted
        self._cut = False  # whether the application gave more bytes than that
        self._silent = self.method == "HEAD"  # no body is sent
        self._bodiless = False  # neither a body nor its length is sent

    # What the application calls

    def start_response(
        self, status: str, headers: list[Header], exc_info: "ExcInfo | tuple[None, None, None] | None" = None
    ) -> Callable[[bytes], None]:
        """PEP 3333. If `status` or `headers` are invalid, it raises at once, in the application's call."""
        if exc_info:
            try:
                if self.head_sent:
                    raise _given(exc_info)
            finally:
                exc_info = None  # breaks the reference cycle through this frame
            self.forget()
        elif self.status is not None:
            raise RuntimeError("start_response() was called twice without exc_info")
        if self._body.fault is not None:
            raise self._body.fault  # an incomplete request is answered with its fault, and not with the application's 500
        if self.peer_error is not None:
            raise self.peer_error
        self._begin(status, headers)
        return self.write

    def write(self, data: bytes) -> None:
        """PEP 3333's `write`: sends `data`, and the head before it if it was not sent yet."""
        if type(data) is not bytes:
            data = _as_bytes(data)
        if self.head_sent:
            if not self._silent:
                self._put(self._owed(data))
            return
        if self.status is None:
            raise RuntimeError("there is a body before start_response() was called")
        stated = self._open(self._total)
        self._put_head(stated, b"" if self._silent else self._owed(data))

    # What an application may also do, through environ["muxwsgi.response"]

    def informational(self, code: int, reason: str, headers: Iterable[Header]) -> None:
        """Send an interim response (RFC 9110 section 15.2), such as 103 Early Hints. Nothing is sent to an HTTP/1.0 client.

        Not for 100, which is sent when the body is read, and not for 101, which `muxwsgi.hijack` sends. Raises `ValueError` for values that
        a head cannot contain, and `RuntimeError` once the final response has begun.
        """
        if not 102 <= code <= 199:
            raise ValueError(f"{code} is not an interim status that an application may send")
        if self.head_sent:
            raise RuntimeError("the final response has begun")
        check_value("reason", reason)
        fields = []
        for name, value in headers:
            if (KINDS.get(name) or kind_of(name)) in (FieldKind.PLAIN, FieldKind.DATE, FieldKind.SERVER):
                check_value(name, value)
                fields.append((name, value))
        self._put_interim(code, reason, fields)

    def __call__(self, headers: Iterable[tuple[str | bytes, str | bytes]]) -> None:
        """`wsgi.early_hints`, as gunicorn has it: send 103 (Early Hints) with these fields. Does nothing if the response has begun, or for
        an HTTP/1.0 client. Raises `ValueError` as `informational` does."""
        if not self.head_sent:
            self.informational(103, "Early Hints", as_texts(headers))

    def omit_server(self) -> None:
        """Do not add our Server field, because another server made the response (RFC 9110 section 10.2.4). Call it after
        `start_response`."""
        self._served = True

    @property
    def cancelled(self) -> bool:
        """Whether the client has cancelled this request, and the connection goes on."""
        return False

    def when_cancelled(self, call: Callable[[], None] | None) -> None:
        """Have `call` called when that happens; None to take it back. It must not wait."""

    #: Whether other requests may be under way on the same connection.
    is_multiplexed = False

    # What the gateway calls

    def send(self, result: Iterable[bytes]) -> None:
        """Send all of the application's iterable. Does not close it."""
        kind = type(result)
        if kind is list or kind is tuple:
            if not self.head_sent and self.status is not None:
                self._send_known(result)  # type: ignore[arg-type]
                self.complete = True
                return
        elif kind is FileWrapper and self._send_file(result):  # type: ignore[arg-type]
            self.complete = True
            return
        for chunk in result:
            if chunk or not isinstance(chunk, bytes):
                self.write(chunk)
            if self._cut or (self._silent and self.head_sent):
                break  # no more bytes can be sent, and the iterable may be endless
        self._finish()
        self.complete = True

    def refuse(self, error: PeerError) -> None:
        """Answer with the status and reason of `error`, in place of the application. Only before the head was sent."""
        self.forget()
        self.status = f"{error.status} {HTTPStatus(error.status).phrase}"
        self.body_bytes = self._put_refusal(error)

    def give_up(self) -> None:
        """The application has taken the connection over. Nothing is sent here any more."""
        self.head_sent = True
        self._silent = True

    # The head

    def _begin(self, status: str, headers: list[Header]) -> None:
        rendered = self._rendered.get(status)
        if rendered is not None and type(headers) is list and rendered.is_for(headers):
            code = rendered.code
            self._block = rendered.block
            self._length = rendered.length
            self._dated = rendered.dated
            self._served = rendered.served
        else:
            code = code_of(status)
            self._render(status, headers, code)
        self.status = status
        self.headers = headers
        if code == 204 or code == 304:
            self._silent = True
            self._bodiless = True  # a 304 may have the Content-Length of the body that a 200 would have (RFC 9110 section 8.6)
            if code == 204:
                self._length = None
        elif code < 300 and self.method == "CONNECT":
            # The peer takes the following bytes for those of its tunnel (RFC 9110 section 9.3.6), and not for a body.
            self.keep_alive = False

    def _render(self, status: str, headers: list[Header], code: int) -> None:
        """Render the block of `status` and `headers`, and note their framing."""
        kinds = KINDS
        self._length = None  # drop the length in fields that were refused before
        fields = []
        dated = served = False
        pure = type(status) is str and type(headers) is list  # whether the same arguments would give the same block again
        for header in headers:
            try:
                name, value = header
            except (TypeError, ValueError):
                raise TypeError(f"a header is a tuple of name and value, not {header!r}") from None
            kind = kinds.get(name)
            if kind is None:
                kind = kind_of(name)
            if not isinstance(value, str):
                raise TypeError(f"the value of the header {name!r} is a string, not {type(value).__name__}: {value!r}")
            if type(header) is not tuple or type(name) is not str or type(value) is not str:
                pure = False
            if kind is not _PLAIN:
                if kind is _LENGTH:
                    if self._take_length(value) and code != 204:  # RFC 9110 section 8.6: no Content-Length there
                        fields.append(("Content-Length", str(self._length)))
                    continue
                if kind is FieldKind.CONNECTION:
                    if "close" in value.lower():
                        self.keep_alive = False
                        pure = False
                    continue
                if kind is FieldKind.HOP:
                    if code == 426 and name.lower() == "upgrade":  # a 426 must have Upgrade (RFC 9110 section 15.5.22)
                        check_value(name, value)
                        fields.append((name, value))
                        fields.append(("Connection", "upgrade"))
                    continue
                dated = dated or kind is FieldKind.DATE
                served = served or kind is FieldKind.SERVER
            fields.append((name, value))
            if not value.isprintable():
                check_value(name, value)
        try:
            block = self._spell(status, fields)
        except UnicodeEncodeError:
            for name, value in headers:
                check_value(name, value)
            raise
        self._block = block
        self._dated = dated
        self._served = served
        if pure and len(block) <= _RENDERED_AT_MOST and (status in self._rendered or len(self._rendered) < _STATUSES_AT_MOST):
            self._rendered[status] = Rendered(headers.copy(), code, block, self._length, dated=dated, served=served)

    def _take_length(self, value: str) -> bool:
        """Note Content-Length. Returns False if the fields have it already."""
        if not value.isascii() or not value.isdigit():
            raise ValueError(f"Content-Length is {value!r}, not a number")
        length = int(value)
        if self._length is None:
            self._length = length
            return True
        if self._length != length:
            raise ValueError("there are two Content-Length fields that differ")
        return False

    def _open(self, total: int | None) -> int | None:
        """Prepare the body's length before the head is sent. `total` is the length of the body if it is known.

        Returns the length that the head must contain beside the application's fields. Afterwards `_left` is the length of the body. It is
        None if the length is not known, and may be None if no body is sent (`_silent`).
        """
        if self._body.fault is not None:
            raise self._body.fault  # the fault was found after `start_response` was called: see there
        self.head_sent = True
        if self._length is not None:
            self._left = self._length
            return None
        if total is not None and not self._bodiless and (total or not self._silent):
            self._left = total
            return total
        return None

    # The body

    def _send_known(self, chunks: "list[bytes] | tuple[bytes, ...]") -> None:
        if len(chunks) == 1:
            body = chunks[0]
        else:
            for chunk in chunks:
                if type(chunk) is not bytes:
                    _as_bytes(chunk)  # only raises for other types than bytes: `join` takes subclasses
            total = sum(map(len, chunks))
            if total > JOIN_AT_MOST:
                self._total = total
                for chunk in chunks:
                    self.write(chunk)
                self._check_owed()
                return
            body = b"".join(chunks)
        if type(body) is not bytes:
            body = _as_bytes(body)
        stated = self._open(len(body))
        if self._silent:
            self._put_head(stated, b"")
        elif self._left == len(body):  # as in most responses
            self._left = 0
            self._put_head(stated, body)
        else:
            self._put_head(stated, self._owed(body))
            self._check_owed()

    def _send_file(self, wrapper: FileWrapper) -> bool:
        """Let the kernel send the file. Returns False if that is not possible, and then notes its length if it is known."""
        if self.head_sent or self.status is None:
            return False
        found = region(wrapper.file)
        if found is None:
            return False
        offset, count = found
        if self._silent or not self._sends_files():
            self._total = count
            return False
        self._put_head(self._open(count), b"")
        left = self._left
        if left is not None:
            count = min(count, left)
        sent = self._put_file(wrapper.file, offset, count) if count else 0
        if left is not None:
            self._left = left - sent
        self._finish()
        return True

    def _owed(self, data: bytes) -> bytes:
        """`data`, the next bytes of the body, without the bytes that exceed the body's length."""
        left = self._left
        if left is None:
            return data
        if len(data) > left:
            if self._length is not None and not self._cut:  # without Content-Length it is a growing file
                log.error("the application's body is longer than its Content-Length of %d: the rest is cut off", self._length)
            self._cut = True
            data = data[:left]
        self._left = left - len(data)
        return data

    def _finish(self) -> None:
        """End the body, after the end of the application's iterable."""
        if not self.head_sent:
            if self.status is None:
                raise RuntimeError("the application returned without calling start_response()")
            self._put_head(self._open(0), b"")
        elif not self._silent:
            self._put_end()
        self._check_owed()

    def _check_owed(self) -> None:
        if not self._silent and self._left:
            log.error("the application's body is %d bytes shorter than its Content-Length: %s", self._left, self.when_cut)
            self._break_off()

    def _trailer_fields(self) -> list[Header]:
        """`trailers`, after each was checked."""
        fields = []
        for name, value in self.trailers:
            if (KINDS.get(name) or kind_of(name)) is not _PLAIN:
                raise ValueError(f"{name!r} cannot be a trailer")
            check_value(name, value)
            fields.append((name, value))
        return fields

    # What a version writes

    def _spell(self, status: str, fields: list[Header]) -> bytes:
        """The block that `_put_head` sends for `status` and the application's `fields`, without those that the server adds. It depends on
        its arguments alone, because it is used again. Raises `UnicodeEncodeError` for other characters than latin-1."""
        raise NotImplementedError

    def _put_head(self, total: int | None, data: bytes) -> None:
        """Send the head, and with it `data` of the body. `total` is the result of `_open`. `_left` counts the bytes after `data`."""
        raise NotImplementedError

    def _put(self, data: bytes) -> None:
        """Send more of the body."""
        raise NotImplementedError

    def _put_end(self) -> None:
        """Send the end of the framing, and trailers. The body may be too short."""
        raise NotImplementedError

    def _put_interim(self, code: int, reason: str, fields: list[Header]) -> None:
        """Send an interim response, if the client understands it."""
        raise NotImplementedError

    def _put_refusal(self, error: PeerError) -> int:
        """Send a whole error response for the request. Returns the number of bytes of its body."""
        raise NotImplementedError

    def _break_off(self) -> None:
        """End a body that is shorter than its length, so that the client can tell."""
        raise NotImplementedError

    def _sends_files(self) -> bool:
        """Whether `_put_file` can be called: the kernel can send a file to this client by itself."""
        return False

    def _put_file(self, file: IO[bytes], offset: int, count: int) -> int:
        """Send `count` bytes of `file` as the body, from `offset`, and return the number sent. It is less if the file ends before."""
        raise NotImplementedError


def _as_bytes(data: object) -> bytes:
    """`data` as bytes, also if it is of a subclass. The methods of a version take only bytes. Raises `TypeError` for other types."""
    if not isinstance(data, bytes):
        raise TypeError(f"a response body consists of bytes, not {type(data).__name__}")
    return bytes(memoryview(data))  # not bytes(data), which a subclass can override


def _given(exc_info: "ExcInfo | tuple[None, None, None]") -> BaseException:
    error = exc_info[1]
    if error is None:
        return RuntimeError("start_response() was called with an empty exc_info after the head was sent")
    return error.with_traceback(exc_info[2])
