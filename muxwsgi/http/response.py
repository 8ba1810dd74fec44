"""The response of one exchange: `start_response`, `write`, and what the application returns (PEP 3333), as bytes on the connection.

The framing is ours alone (RFC 9112 section 6). A length that is known, from the application's Content-Length or from what it returned, is
stated; an unknown one is chunked in HTTP/1.1 and ends with the connection in 1.0. Head and first chunk leave in one write.

What an application may not do is an exception in its own call where it can be one. What shows only later (a body longer or shorter than it
said) is logged as its error, and the connection is never left in a state in which the next response could be read wrongly.
"""

import errno
import io
import logging
import os
import re
import stat
import sys
import time
from collections.abc import Callable, Iterable
from enum import Enum
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any

from muxwsgi.grammar import CONTROL, is_token
from muxwsgi.wire.syscalls import second

if TYPE_CHECKING:
    from muxwsgi.http.body import Body
    from muxwsgi.wire.connection import Connection

__all__ = ["MONTHS", "FileWrapper", "Response", "Terms"]

log = logging.getLogger("muxwsgi.error")

ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None]
Header = tuple[str, str]

#: Up to this size head and body are joined for one write; above, copying costs more than a second write.
JOIN_AT_MOST = 1 << 17

_CONTROL = re.compile(CONTROL)
_BEYOND_LATIN_1 = re.compile(r"[^\x00-\xff]")
_STATUS = re.compile(r"[2-9][0-9]{2}(?: [\t -~\x80-\xff]*)?")


class _Kind(Enum):
    """What a response field means for us."""

    PLAIN = 0
    LENGTH = 1
    DATE = 2
    SERVER = 3
    CONNECTION = 4
    HOP = 5


#: Enum members as globals: looking them up on the class costs more than the comparison.
_PLAIN, _LENGTH = _Kind.PLAIN, _Kind.LENGTH

#: Fields that describe the connection, which is not the application's. PEP 3333 forbids them; they are dropped, as gunicorn does, because
#: applications that pass an upstream's fields on are common and mean no harm.
_HOP_BY_HOP = frozenset({"keep-alive", "te", "transfer-encoding", "upgrade", "proxy-connection"})

#: Whether the application gave Date, and Server.
_NOTHING_STATED = (False, False)

#: Applications give the same fields again and again: by status, what the last ones have become (see `_Rendered`). Of those that make more
#: than this many bytes no copy is kept.
_RENDERED: "dict[str, _Rendered]" = {}
_RENDERED_AT_MOST = 1024

_KINDS: dict[str, _Kind] = {}
_STATUSES: dict[str, tuple[int, str]] = {}
_LEARN_AT_MOST = 2048


class FileWrapper:
    """`wsgi.file_wrapper`: an iterator over a file in blocks, which the server sends by itself where it can.

    It seeks and tells where the file does: werkzeug answers a Range by going to its first byte.
    """

    def __init__(self, file: IO[bytes], block_size: int = 65536) -> None:
        self.file = file
        self.block_size = block_size

    def __iter__(self) -> "FileWrapper":
        return self

    def __next__(self) -> bytes:
        block = self.file.read(self.block_size)
        if not block:
            raise StopIteration
        return block

    def seekable(self) -> bool:
        """Whether the file can be read from another place."""
        seekable = getattr(self.file, "seekable", None)
        return bool(seekable()) if seekable is not None else hasattr(self.file, "seek") and hasattr(self.file, "tell")

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """As the file's."""
        return self.file.seek(offset, whence)

    def tell(self) -> int:
        """As the file's."""
        return self.file.tell()

    def close(self) -> None:
        if hasattr(self.file, "close"):
            self.file.close()


_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def _date(now: int) -> str:
    """The value of a Date field (RFC 9110 section 5.6.7). Not strftime: its names follow the locale."""
    moment = time.gmtime(now)
    clock = f"{moment.tm_hour:02}:{moment.tm_min:02}:{moment.tm_sec:02}"
    return f"{_DAYS[moment.tm_wday]}, {moment.tm_mday:02} {MONTHS[moment.tm_mon - 1]} {moment.tm_year} {clock} GMT"


class Terms:
    """What the engine lays down for every response. `closing` ends connections after their exchange."""

    __slots__ = ("_second", "closing", "date", "date_and_server", "server")

    def __init__(self, server: str, *, closing: bool) -> None:
        self.server = b"Server: %b\r\n" % server.encode("ascii") if server else b""
        self.closing = closing
        self._second = -1
        self.refresh()

    def refresh(self) -> None:
        """Make the field lines of this second: `date`, and `date_and_server`, each with its CRLF."""
        now = second()
        if now != self._second:
            self._second = now
            self.date = b"Date: %b\r\n" % _date(now).encode("ascii")
            self.date_and_server = self.date + self.server


class _Rendered:
    """What `Response._begin` made of `headers`, which are tuples of two real strings each, so that nothing about them can change."""

    __slots__ = ("block", "headers", "length", "stated")

    def __init__(self, headers: list[Header], block: bytes, length: int | None, stated: tuple[bool, bool]) -> None:
        self.headers = headers
        self.block = block
        self.length = length
        self.stated = stated

    def is_for(self, headers: list[Header]) -> bool:
        """Whether the same was made of `headers`. Only what is a tuple of two real strings is compared: a subclass may be equal to a string
        and yet say something else."""
        if len(headers) != len(self.headers):
            return False
        at = 0
        for known in self.headers:
            given = headers[at]
            at += 1
            if given is known:
                continue
            if type(given) is not tuple or len(given) != 2:
                return False
            name, value = given
            if type(name) is not str or type(value) is not str or value != known[1] or name != known[0]:
                return False
        return True


class Response:
    """One response. `keep_alive` says, once it is finished, whether another exchange may follow on the connection.

    status          as the application gave it, None before `start_response`
    headers         as the application gave them
    head_sent       whether the head is out, so that nothing can be taken back
    complete        whether the whole response is out
    body_bytes      of the body that were sent, without chunk framing
    peer_error      the error that sending met, None while all is well: so that it is not taken for the application's
    trailers        fields that an application adds until its body ends; sent where the body is chunked (RFC 9112 section 7.1.2)
    """

    __slots__ = (
        "_block",
        "_bodiless",
        "_body",
        "_chunked",
        "_connection",
        "_cut",
        "_left",
        "_length",
        "_minor",
        "_silent",
        "_stated",
        "_terms",
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

    def __init__(self, connection: "Connection", terms: Terms, body: "Body", method: str, minor: int, keep_alive: bool) -> None:
        self._connection = connection
        self._terms = terms
        self._body = body
        self._minor = minor
        self.method = method
        self.keep_alive = keep_alive
        self.head_sent = False
        self.complete = False
        self.body_bytes = 0
        self.peer_error: OSError | None = None
        self.trailers: "list[Header] | tuple[()]" = ()
        self.forget()

    def forget(self) -> None:
        """Back to the beginning: another head takes the place of one that is not sent."""
        self.status: str | None = None
        self.headers: list[Header] = []
        self._block = b""  # the status line and the application's fields, each with its CRLF
        self._stated = _NOTHING_STATED
        self._length: int | None = None  # Content-Length as the application gave it
        self._total: int | None = None  # bytes of the whole body where they are known otherwise
        self._left: int | None = None  # bytes of the body still owed, None where it is not counted
        self._cut = False  # whether there was more of it than that
        self._chunked = False
        self._silent = self.method == "HEAD"  # no body on the wire
        self._bodiless = False  # and no length of one

    # What the application calls

    def start_response(
        self, status: str, headers: list[Header], exc_info: "ExcInfo | tuple[None, None, None] | None" = None
    ) -> Callable[[bytes], None]:
        """PEP 3333. Raises what is wrong with `status` or `headers` at once, in the application's own frame."""
        if exc_info:
            try:
                if self.head_sent:
                    raise _given(exc_info)
            finally:
                exc_info = None  # a circle through this frame
            self.forget()
        elif self.status is not None:
            raise RuntimeError("start_response() was called twice without exc_info")
        if self._body.fault is not None:
            raise self._body.fault  # a request that broke off has one answer, and it is not the application's 500
        self._begin(status, headers)
        return self.write

    def _begin(self, status: str, headers: list[Header]) -> None:
        known = _STATUSES.get(status)
        if known is None:
            known = _learn_status(status)
        code = known[0]
        rendered = _RENDERED.get(status)
        if rendered is not None and type(headers) is list and rendered.is_for(headers):
            self._block = rendered.block
            self._length = rendered.length
            self._stated = rendered.stated
        else:
            self._render(status, headers, code, known[1])
        self.status = status
        self.headers = headers
        if code == 204 or code == 304:
            self._silent = True
            self._bodiless = True  # a 304 may state the length of what is not sent (RFC 9110 section 8.6); its own body has none to give
            if code == 204:
                self._length = None
        elif code < 300 and self.method == "CONNECT":
            # The peer will take what follows for its tunnel (RFC 9110 section 9.3.6), and not as we mean it.
            self.keep_alive = False

    def _render(self, status: str, headers: list[Header], code: int, line: str) -> None:
        """Make the block of `headers` below the status `line`, and note what they say that concerns the framing."""
        kinds = _KINDS
        self._length = None  # that of fields which were refused counts for nothing
        lines = [line]
        date = server = False
        pure = type(status) is str and type(headers) is list  # whether the same would come of the same again
        for header in headers:
            try:
                name, value = header
            except (TypeError, ValueError):
                raise TypeError(f"a header is a tuple of name and value, not {header!r}") from None
            kind = kinds.get(name)
            if kind is None:
                kind = _learn_name(name)
            if not isinstance(value, str):
                raise TypeError(f"the value of the header {name!r} is a string, not {type(value).__name__}: {value!r}")
            if type(header) is not tuple or type(name) is not str or type(value) is not str:
                pure = False
            if kind is not _PLAIN:
                if kind is _LENGTH:
                    if self._take_length(value) and code != 204:  # RFC 9110 section 8.6: no Content-Length there
                        lines.append(f"Content-Length: {self._length}\r\n")
                    continue
                if kind is _Kind.CONNECTION:
                    if "close" in value.lower():
                        self.keep_alive = False
                        pure = False
                    continue
                if kind is _Kind.HOP:
                    if code == 426 and name.lower() == "upgrade":  # what it is about (RFC 9110 section 15.5.22)
                        _check_value(name, value)
                        lines.append(f"{name}: {value}\r\nConnection: upgrade\r\n")
                    continue
                date = date or kind is _Kind.DATE
                server = server or kind is _Kind.SERVER
            lines.append(f"{name}: {value}\r\n")
            if not value.isprintable():
                _check_value(name, value)
        block = "".join(lines)
        try:
            self._block = block.encode("latin-1")
        except UnicodeEncodeError:
            for name, value in headers:
                _check_value(name, value)
            raise
        if date or server:
            self._stated = (date, server)
        if pure and len(block) <= _RENDERED_AT_MOST and status in _STATUSES:
            _RENDERED[status] = _Rendered(headers.copy(), self._block, self._length, self._stated)

    def write(self, data: bytes) -> None:
        """PEP 3333's `write`: sends `data`, and the head before it where that is not out yet."""
        if not isinstance(data, bytes):
            raise _not_bytes(data)
        if not self.head_sent and self.status is None:
            raise RuntimeError("there is a body before start_response() was called")
        head = b"" if self.head_sent else self._head(self._total)
        if not self._silent:
            self._put(head, data)
        elif head:
            self._send(head, 0, 0)

    # What an application may also do, through environ["muxwsgi.response"]

    def informational(self, code: int, reason: str, headers: Iterable[Header]) -> None:
        """Send an interim response (RFC 9110 section 15.2), such as 103 Early Hints; nothing to a client of HTTP/1.0, which knows none.

        100 and 101 are not for this: reading the body says the one, `muxwsgi.hijack` is for the other. Raises `ValueError` for what no
        head can hold and `RuntimeError` once the final response has begun.
        """
        if not 102 <= code <= 199:
            raise ValueError(f"{code} is no interim status that an application may send")
        if self.head_sent:
            raise RuntimeError("the final response has begun")
        lines = [f"HTTP/1.1 {code} {reason}"]
        _check_value("reason", reason)
        for name, value in headers:
            if (_KINDS.get(name) or _learn_name(name)) in (_Kind.PLAIN, _Kind.DATE, _Kind.SERVER):
                _check_value(name, value)
                lines.append(f"{name}: {value}")
        if self._minor:
            self._send("\r\n".join([*lines, "", ""]).encode("latin-1"), 0, 0)

    def omit_server(self) -> None:
        """Leave our Server field out: the response comes from somebody else (RFC 9110 section 10.2.4). Called after `start_response`."""
        self._stated = (self._stated[0], True)

    # What the engine calls

    def send(self, result: Iterable[bytes]) -> None:
        """Send what the application returned, to its end. Does not close it."""
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
                break  # no more of it can be sent: it may be endless
        self._finish()
        self.complete = True

    @property
    def ends_with_connection(self) -> bool:
        """Whether the end of the connection is the end of the body: nothing else tells the peer where that is."""
        return self.head_sent and self._left is None and not self._chunked and not self._silent

    def give_up(self) -> None:
        """The application has taken the connection over: nothing goes out from here any more, whatever it calls."""
        self.head_sent = True
        self._silent = True

    def _send_known(self, chunks: "list[bytes] | tuple[bytes, ...]") -> None:
        if len(chunks) == 1:
            body = chunks[0]
        else:
            for chunk in chunks:
                if not isinstance(chunk, bytes):
                    raise _not_bytes(chunk)
            total = sum(map(len, chunks))
            if total > JOIN_AT_MOST:
                self._total = total
                for chunk in chunks:
                    self.write(chunk)
                self._check_owed()
                return
            body = b"".join(chunks)
        if not isinstance(body, bytes):
            raise _not_bytes(body)
        head = self._head(len(body))
        if self._silent:
            self._send(head, 0, 0)
        elif self._left == len(body) <= JOIN_AT_MOST:  # what most responses are
            self._left = 0
            self._send(head + body, len(head), len(body))
        else:
            self._put(head, body)
            self._check_owed()

    def _send_file(self, wrapper: FileWrapper) -> bool:
        """Whether the kernel could send the file. Where it cannot, a length that is known is noted all the same."""
        connection = self._connection
        if self.head_sent or self.status is None:
            return False
        if not _is_plain_file(wrapper.file):
            return False
        try:
            wrapper.file.flush()  # what was written to it and has not left Python
            information = os.fstat(wrapper.file.fileno())
            offset = wrapper.file.tell()
        except (OSError, ValueError):  # a pipe, a file that is closed: reading it says what is wrong
            return False
        # The size of what /proc and /sys show says nothing, and it has no blocks. Other files without blocks (sparse, empty) are read too.
        if not stat.S_ISREG(information.st_mode) or not information.st_blocks:
            return False
        count = max(information.st_size - offset, 0)
        if self._silent or not connection.can_sendfile:
            self._total = count
            return False
        self._send(self._head(count), 0, 0)
        if self._left is not None:
            count = min(count, self._left)
        before = connection.bytes_sent
        try:
            sent = connection.sendfile(wrapper.file, offset, count) if count else 0
        except OSError as error:
            self.peer_error = error
            raise
        except BaseException:  # as in `_send`
            self.peer_error = BrokenPipeError(errno.EPIPE, "a write was interrupted")
            raise
        finally:
            self.body_bytes += connection.bytes_sent - before
        if self._left is not None:
            self._left -= sent
        self._finish()
        return True

    def _finish(self) -> None:
        """The result is exhausted: say so on the wire."""
        if not self.head_sent:
            if self.status is None:
                raise RuntimeError("the application returned without calling start_response()")
            self._send(self._head(0), 0, 0)
        elif self._chunked and not self._silent:
            self._send(b"0\r\n\r\n" if not self.trailers else _last_chunk(self.trailers), 0, 0)
        elif self.ends_with_connection:
            self._connection.reset_unless_complete(False)
        self._check_owed()

    def _check_owed(self) -> None:
        if not self._silent and self._left:
            log.error("the application's body is %d bytes shorter than its Content-Length: the connection is closed", self._left)
            self.keep_alive = False

    def _head(self, total: int | None) -> bytes:
        """The head; `total` is the length of the body where it is known. From here on there is no way back."""
        terms = self._terms
        if self._body.fault is not None:
            raise self._body.fault  # it was begun before the body was read and found to be broken: see `start_response`
        terms.refresh()
        self.head_sent = True

        # 1. How the body is framed.
        framing = b""
        if self._length is not None:  # stated among the application's fields
            self._left = self._length
        elif total is not None and not self._bodiless and (total or not self._silent):
            framing = b"Content-Length: %d\r\n" % total
            self._left = total
        elif not self._silent:
            if self._minor:
                self._chunked = True
                framing = b"Transfer-Encoding: chunked\r\n"
            else:
                self.keep_alive = False
                self._connection.reset_unless_complete(True)  # half of such a response would look like a whole one

        # 2. Whether the connection goes on.
        body = self._body
        if terms.closing:
            self.keep_alive = False
        if body.withheld:
            self.keep_alive = False
            body.forgo_continue()
        if self.keep_alive:
            connection = b"" if self._minor else b"Connection: keep-alive\r\n"
        else:
            connection = b"Connection: close\r\n"

        # 3. Who and when.
        if self._stated is _NOTHING_STATED:
            ours = terms.date_and_server
        else:
            ours = (b"" if self._stated[0] else terms.date) + (b"" if self._stated[1] else terms.server)
        return b"".join((self._block, framing, ours, connection, b"\r\n"))

    def _take_length(self, value: str) -> bool:
        """Note Content-Length. False where it is there already."""
        if not value.isascii() or not value.isdigit():
            raise ValueError(f"Content-Length is {value!r}, not a number")
        length = int(value)
        if self._length is None:
            self._length = length
            return True
        if self._length != length:
            raise ValueError("there are two Content-Length fields that differ")
        return False

    def _put(self, head: bytes, data: bytes) -> None:
        """Send `data` of the body in its framing, with `head` before it."""
        left = self._left
        if left is not None:
            if len(data) > left:
                if self._length is not None and not self._cut:  # otherwise it is a file that grows
                    log.error("the application's body is longer than its Content-Length of %d: the rest is cut off", self._length)
                self._cut = True
                data = data[:left]
            self._left = left - len(data)
        count = len(data)
        in_front = len(head)
        if self._chunked and data:
            size = b"%x\r\n" % count
            in_front += len(size)
            data = size + data + b"\r\n"
        if head and len(data) > JOIN_AT_MOST:
            first = min(len(head) + JOIN_AT_MOST - in_front, count)  # of the body; the second write has the rest, and a chunk's end
            self._send(head + data[:JOIN_AT_MOST], in_front, first)
            self._send(memoryview(data)[JOIN_AT_MOST:], 0, count - first)
        elif head or data:
            self._send(head + data, in_front, count)

    def _send(self, data: bytes | memoryview, in_front: int, count: int) -> None:
        """Send `data`, in which `count` bytes of the body come after `in_front` others."""
        if self.peer_error is not None:
            raise self.peer_error
        connection = self._connection
        before = connection.bytes_sent
        try:
            connection.sendall(data)
        except OSError as error:
            self.peer_error = error
            self.body_bytes += min(max(connection.bytes_sent - before - in_front, 0), count)
            raise
        except BaseException:  # a Timeout of the application's: nobody knows how much has reached the peer, so nothing may follow
            self.peer_error = BrokenPipeError(errno.EPIPE, "a write was interrupted")
            self.body_bytes += min(max(connection.bytes_sent - before - in_front, 0), count)
            raise
        self.body_bytes += count


def _is_plain_file(file: object) -> bool:
    """Whether `file` gives exactly the bytes of its descriptor. Others have a `fileno()` too, and change what they read: `gzip.open`, a
    `BufferedReader` over one, a class of the application's."""
    kind = type(file)
    if kind is io.BufferedReader or kind is io.BufferedRandom:
        kind = type(file.raw)  # type: ignore[attr-defined]
    return kind is io.FileIO


def _last_chunk(trailers: Iterable[Header]) -> bytes:
    lines = ["0"]
    for name, value in trailers:
        if (_KINDS.get(name) or _learn_name(name)) is not _PLAIN:
            raise ValueError(f"{name!r} cannot be a trailer")
        _check_value(name, value)
        lines.append(f"{name}: {value}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def _not_bytes(data: object) -> TypeError:
    return TypeError(f"a response body consists of bytes, not {type(data).__name__}")


def _check_value(name: str, value: str) -> None:
    """Tabs and the upper half of latin-1 are not printable to Python, and allowed."""
    if not isinstance(value, str):
        raise TypeError(f"the value of the header {name!r} is a string, not {type(value).__name__}: {value!r}")
    if _CONTROL.search(value):
        raise ValueError(f"the value of the header {name!r} has a line break or another control character in it")
    if beyond := _BEYOND_LATIN_1.search(value):
        raise ValueError(f"the value of the header {name!r} has a character in it that is not latin-1: {beyond[0]!r}")


def _given(exc_info: "ExcInfo | tuple[None, None, None]") -> BaseException:
    error = exc_info[1]
    if error is None:
        return RuntimeError("start_response() was called with an empty exc_info after the head was sent")
    return error.with_traceback(exc_info[2])


def _learn_status(status: Any) -> tuple[int, str]:
    if type(status) is not str:
        raise TypeError(f"the status is a string, not {type(status).__name__}")
    if not _STATUS.fullmatch(status):
        raise ValueError(f"{status!r} is no final status: three digits from 200 on, a space, a reason (101 goes through muxwsgi.hijack)")
    known = (int(status[:3]), f"HTTP/1.1 {status}\r\n" if len(status) > 3 else f"HTTP/1.1 {status} \r\n")
    if len(_STATUSES) < _LEARN_AT_MOST:
        _STATUSES[status] = known
    return known


def _learn_name(name: Any) -> _Kind:
    if type(name) is not str:
        raise TypeError(f"a header name is a string, not {type(name).__name__}: {name!r}")
    if not is_token(name):
        raise ValueError(f"{name!r} is no header name")
    lowered = name.lower()
    special = {"content-length": _Kind.LENGTH, "date": _Kind.DATE, "server": _Kind.SERVER, "connection": _Kind.CONNECTION}
    kind = _Kind.HOP if lowered in _HOP_BY_HOP else special.get(lowered, _Kind.PLAIN)
    if len(_KINDS) < _LEARN_AT_MOST:
        _KINDS[sys.intern(name)] = kind
    return kind
