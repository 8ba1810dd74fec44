"""`Request` for rules: see `message`."""

import io
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, Literal, cast, overload
from urllib.parse import unquote

from werkzeug.datastructures import Headers
from werkzeug.exceptions import RequestEntityTooLarge

from muxwsgi.http.body import BrokenBody
from muxwsgi.http.content_coding import Undecodable, decoded
from muxwsgi.http.environ import has_chunks
from muxwsgi.proxy.fault import Fault
from muxwsgi.proxy.rules.coding_fields import coding_of
from muxwsgi.proxy.rules.pieces import BUFFER_LIMIT, OF_BYTES, PieceFile, Unread, join, pieces_of, watched
from muxwsgi.proxy.rules.request_fields import drop_fields_for_the_proxy, put_fields, received_fields
from muxwsgi.proxy.rules.request_target import RequestTarget, read_target
from muxwsgi.proxy.rules.whole_body import WholeBody

if TYPE_CHECKING:
    from werkzeug.formparser import FormDataParser

__all__ = ["Outgoing", "Request"]

#: Options of Connection that are not field names, and fields that are never hop-by-hop or are handled separately.
_NOT_NAMED = frozenset(
    {"close", "keep-alive", "upgrade", "te", "http2-settings", "proxy-connection", "connection"}
    | {"host", "content-length", "transfer-encoding", "authorization"}
)

#: What werkzeug caches of a body.
_OF_BODY = ("form", "files", "values")


@dataclass(frozen=True, slots=True)
class Outgoing:
    """The body to send with a request. `length` None and `chunked` False mean no body and no framing field."""

    length: int | None
    chunked: bool
    pieces: Iterable[bytes]


_NOTHING = Outgoing(None, False, ())


class Request(WholeBody, RequestTarget):
    """A client's request, before it is forwarded.

    Unlike werkzeug's, `url`, `host`, `target`, `path`, `query_string`, `method`, `headers`, `data` and `text` can be set.

    Rules always read the body decoded, without its Content-Encoding. A body that a rule sets is sent unencoded. A body that is only read is
    sent on in its original coding. Reading raises `BrokenBody` for an unsupported coding (415), for a body that cannot be decoded (400),
    and for one that becomes too large (413).

    `url` is the URL that was sent, with its escapes, and not werkzeug's IRI. Setting `url` or `host` also sets the Host field. A rule that
    needs another Host sets `headers["Host"]` afterwards.

    buffer_limit    bytes that `get_data()` reads at most; a larger body is 413
    redirected      whether a rule has redirected the request by setting `url` or `host`
    carrier         scheme and port of the tunnel that the request came in, None outside tunnels
    body_buffered   whether the whole body is in memory
    body_replaced   whether a rule has set another body
    """

    def __init__(
        self,
        environ: dict[str, Any],
        populate_request: bool = False,
        shallow: bool = False,
        *,
        url_scheme: str | None = None,
        authority: str | None = None,
        buffer_limit: int = BUFFER_LIMIT,
    ) -> None:
        """`url_scheme` and `authority` are the destination; by default that of the request itself."""
        target, scheme, authority, absolute = read_target(environ, url_scheme, authority)
        # Does what werkzeug's constructor does, but does not decode fields that rules may never use.
        self.method = environ.get("REQUEST_METHOD", "GET")
        self.scheme = scheme or environ.get("wsgi.url_scheme", "http")
        self.root_path = ""
        self.remote_addr = environ.get("REMOTE_ADDR")
        self.server = None
        self.environ = environ
        self.shallow = shallow
        self.buffer_limit = buffer_limit
        self.redirected = False
        self.carrier = None
        self.body_replaced = False
        self._absolute = absolute
        self._target = target
        self._authority = authority or environ.get("HTTP_HOST") or environ.get("SERVER_NAME", "")
        self._headers: Headers | None = None
        self._came: list[tuple[str, str]] = []  # the client's fields, compared by identity
        self._data: bytes | None = None  # encoded
        self._plain: tuple[bytes, bytes] | None = None  # the same bytes, and decoded
        self._given: tuple[int | None, Iterable[bytes]] | None = None
        self._unread: Unread | None = None
        if populate_request:
            environ["werkzeug.request"] = self

    @classmethod
    def of(cls, environ: dict[str, Any], url_scheme: str, authority: str, *, buffer_limit: int = BUFFER_LIMIT) -> "Request":
        """The request of `environ`, which goes to `authority` ("host" or "host:port") by `url_scheme` ("http", "https")."""
        return cls(environ, url_scheme=url_scheme, authority=authority, buffer_limit=buffer_limit)

    def __repr__(self) -> str:
        return f"<Request {self.method} {self.url}>"

    # Fields

    @property
    def headers(self) -> Headers:
        """The fields in the client's order and spelling, with the hop-by-hop ones. Changes of a rule go to the upstream."""
        if self._headers is None:
            self._headers = Headers()
            self._headers[:] = received_fields(self.environ, self._authority, absolute=self._absolute)
            self._came = list(self._headers)
        return self._headers

    @headers.setter
    def headers(self, value: Headers) -> None:
        self._headers = value

    @property
    def fields(self) -> list[tuple[str, str]]:
        """A copy of `headers` as a list."""
        return received_fields(self.environ, self._authority, absolute=self._absolute) if self._headers is None else list(self._headers)

    def fields_onward(self) -> list[tuple[str, str]]:
        """`fields` to send on, without the client's fields that Connection names (RFC 9110 section 7.6.1). Their names are removed from
        Connection too. Otherwise a client could name a field there, and the field that a rule has set would be removed later."""
        if self._headers is None or "HTTP_CONNECTION" not in self.environ:
            return self.fields
        came = set(map(id, self._came))
        named: set[str] = set()
        kept = []
        for field in self._headers:
            if id(field) in came and field[0].lower() == "connection":
                options = [option.strip() for option in field[1].split(",")]
                named.update(option.lower() for option in options if option.lower() not in _NOT_NAMED)
                field = field[0], ", ".join(option for option in options if option.lower() in _NOT_NAMED)
            kept.append(field)
        return [field for field in kept if not (id(field) in came and field[0].lower() in named)]

    # The body

    @property
    def body_buffered(self) -> bool:
        return self._data is not None

    @property
    def stream(self) -> IO[bytes]:
        """The body as a file. If it is in memory, each call returns a new file at the beginning.

        A rule that reads from a body that is not in memory consumes it. So it must set another body (`set_data`, `set_stream`), or return
        a response.
        """
        if self._data is not None:
            return io.BytesIO(self.get_data())
        if self._unread is None:
            pieces = self._uncoded(self._pieces())
            if pieces is not None:
                file: Any = io.BufferedReader(PieceFile(pieces))
            else:
                file = self.environ["wsgi.input"] if self._given is None else io.BufferedReader(PieceFile(self._given[1]))
            self._unread = Unread(file)
        return cast(IO[bytes], self._unread)

    def _pieces(self) -> Iterable[bytes]:
        """The encoded body, as it comes."""
        return pieces_of(self.environ["wsgi.input"]) if self._given is None else self._given[1]

    def _uncoded(self, pieces: Iterable[bytes]) -> Iterable[bytes] | None:
        """`pieces` decoded; None if they have no coding that a server would decode."""
        coding = coding_of(self.headers) if self._may_be_coded else None
        if coding is None:
            return None
        try:
            found = decoded(pieces, coding)
        except Undecodable as error:
            raise BrokenBody(415, error.reason) from error
        return None if found is None else _as_request(found)

    @property
    def _may_be_coded(self) -> bool:
        return self._headers is not None or "HTTP_CONTENT_ENCODING" in self.environ

    @overload
    def get_data(self, cache: bool = ..., as_text: Literal[False] = ..., parse_form_data: bool = ...) -> bytes: ...

    @overload
    def get_data(self, cache: bool = ..., as_text: Literal[True] = ..., parse_form_data: bool = ...) -> str: ...

    def get_data(self, cache: bool = True, as_text: bool = False, parse_form_data: bool = False) -> bytes | str:
        """The whole body, decoded. The encoded body stays in memory and is sent on. `cache` and `parse_form_data` have no effect.

        Raises `RequestEntityTooLarge` (413) above `buffer_limit`, and the errors of reading.
        """
        data = self._data
        if data is None:
            self._check_unread()
            length = self.content_length
            if length is not None and length > self.buffer_limit:
                raise self._too_large()
            self._unread = self._unread or Unread(io.BytesIO())
            self._unread.touched = True  # in case reading fails in the middle
            data = join(self._pieces(), self.buffer_limit, self._too_large)
            if self._given is not None:
                self._given = (None if self._given[0] is None else len(data), (data,))
            self._data = data
        if self._plain is None or self._plain[0] is not data:
            pieces = self._uncoded([data])
            self._plain = (data, data if pieces is None else join(pieces, self.buffer_limit, self._too_large))
        plain = self._plain[1]
        return plain.decode("utf-8", "replace") if as_text else plain

    def _check_unread(self) -> None:
        if self._unread is not None and self._unread.touched:
            raise RuntimeError("a rule has read from the request's body and not set another one, so the rest is not the whole body")

    def _too_large(self) -> Exception:
        return RequestEntityTooLarge(f"The body is larger than the {self.buffer_limit} bytes that may be read at once.")

    def set_data(self, value: bytes | str) -> None:
        """Set another body, without a coding, and Content-Length."""
        data = value.encode() if isinstance(value, str) else bytes(value)
        self._replace(len(data), (data,))
        self._data = data

    def set_stream(self, pieces: Iterable[bytes], length: int | None = None) -> None:
        """Set another body that is made while it is sent. It is chunked, unless `length` is given. `pieces` may read from the old
        `request.stream`."""
        self._replace(length, pieces)
        self._data = None

    def watch_body(self, watch: Callable[[Iterable[bytes]], Iterable[bytes]]) -> None:
        """Let `watch` observe the decoded body while it is sent. It gets the pieces as they come, and must yield them unchanged. The body
        is sent unchanged, in its coding."""
        body = self.outgoing()
        if body.length or body.chunked:
            self._given = (body.length, watched(body.pieces, watch, self._uncoded))
            self._unread = None
            self._data = None

    def _replace(self, length: int | None, pieces: Iterable[bytes]) -> None:
        self._given = (length, pieces)
        self._unread = None
        self.body_replaced = True
        self._forget(_OF_BODY)
        headers = self.headers
        for name in OF_BYTES:
            headers.pop(name, None)
        if length is None:
            headers["Transfer-Encoding"] = "chunked"
        else:
            headers["Content-Length"] = str(length)

    def get_json(self, force: bool = False, silent: bool = False, cache: bool = True) -> Any:
        """As werkzeug's, without a cache, because the body may have changed."""
        return super().get_json(force=force, silent=silent, cache=False)

    def make_form_data_parser(self) -> "FormDataParser":
        self.get_data()  # so that parsing does not consume the body
        return super().make_form_data_parser()

    def outgoing(self) -> Outgoing:
        """The body after the rules. Raises `RuntimeError` if a rule has read a part of it and not set another one."""
        if self._data is None:
            self._check_unread()
        if self._given is not None:
            length, pieces = self._given
            return Outgoing(length, length is None, pieces)
        environ = self.environ
        chunked = has_chunks(environ)
        if not chunked and not environ.get("CONTENT_LENGTH"):
            return _NOTHING
        length = None if chunked else int(environ["CONTENT_LENGTH"])
        if self._data is not None:
            return Outgoing(length, chunked, (self._data,))
        return Outgoing(length, chunked, pieces_of(environ["wsgi.input"]))

    def to_environ(self) -> dict[str, Any]:
        """An environ for an application that answers instead of the upstream, with the changes of the rules."""
        environ = self.environ.copy()
        host, port = self.destination
        path, _, query = self._target.partition("?")
        environ["REQUEST_METHOD"] = self.method
        environ["wsgi.url_scheme"] = self.scheme
        environ["SERVER_NAME"] = host
        environ["SERVER_PORT"] = str(port)
        environ["HTTP_HOST"] = self._authority
        environ["SCRIPT_NAME"] = ""
        environ["PATH_INFO"] = unquote(path, "latin-1") if path != "*" else ""
        environ["QUERY_STRING"] = query
        environ["REQUEST_URI"] = environ["RAW_URI"] = self._target or self._authority
        if self._headers is not None:
            put_fields(environ, self._headers)
        drop_fields_for_the_proxy(environ)
        if self._given is not None or self._data is not None:
            outgoing = self.outgoing()
            environ["wsgi.input"] = io.BytesIO(self._data) if self._data is not None else io.BufferedReader(PieceFile(outgoing.pieces))
            environ["wsgi.input_terminated"] = True
        return environ


def _as_request(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Turns errors of decoding into an error of the client."""
    try:
        yield from pieces
    except (Undecodable, Fault) as error:
        raise BrokenBody(400, error.reason) from error
