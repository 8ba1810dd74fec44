"""`Request` as rules see it: see `message`."""

import io
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, Literal, cast, overload
from urllib.parse import unquote

from werkzeug.datastructures import Headers
from werkzeug.exceptions import RequestEntityTooLarge

from muxwsgi.http.body import BrokenBody
from muxwsgi.http.content_coding import Undecodable, decoded
from muxwsgi.proxy.fault import Fault
from muxwsgi.proxy.rules.coding_fields import coding_of
from muxwsgi.proxy.rules.pieces import BUFFER_LIMIT, OF_BYTES, PieceFile, Unread, join, pieces_of, watched
from muxwsgi.proxy.rules.request_fields import put_fields, received_fields
from muxwsgi.proxy.rules.request_target import RequestTarget, read_target
from muxwsgi.proxy.rules.whole_body import WholeBody

if TYPE_CHECKING:
    from werkzeug.formparser import FormDataParser

__all__ = ["Outgoing", "Request"]

#: Options of Connection that say something of the connection, and fields that are never hop-by-hop, or have rules of their own.
_NOT_NAMED = frozenset(
    {"close", "keep-alive", "upgrade", "te", "http2-settings", "proxy-connection", "connection"}
    | {"host", "content-length", "transfer-encoding", "authorization"}
)

#: What werkzeug remembers of a body.
_OF_BODY = ("form", "files", "values")


@dataclass(frozen=True, slots=True)
class Outgoing:
    """The body that goes on with a request. Neither a length nor chunked: there is none, and no field says so."""

    length: int | None
    chunked: bool
    pieces: Iterable[bytes]


_NOTHING = Outgoing(None, False, ())


class Request(WholeBody, RequestTarget):
    """A client's request on its way to the upstream.

    Beyond werkzeug's: `url`, `host`, `target`, `path`, `query_string`, `method`, `headers`, `data` and `text` can be set.

    Whatever way a rule reads the body, it gets it without its Content-Encoding, and what it sets is sent as it is: without one. A body
    that is only read goes on in its coding. Reading raises `BrokenBody` for a coding that cannot be taken off here (415), and for a body
    that is none of its coding (400) or becomes too large (413).

    `url` is as it was sent, escapes included, and not the IRI that werkzeug makes of it. Setting `url` or `host` sets the Host field too,
    since an upstream would wonder otherwise; a rule that wants another one sets `headers["Host"]` afterwards.

    buffer_limit    bytes that `get_data()` keeps at most, above: 413
    redirected      whether a rule sent the request elsewhere by setting `url` or `host`
    carrier         scheme and port of the tunnel that the request came in, None outside of tunnels
    body_buffered   whether the whole body is in memory
    body_replaced   whether a rule gave it another body
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
        """`url_scheme` and `authority` are where the request goes; without them what the request itself says."""
        target, scheme, authority, absolute = read_target(environ, url_scheme, authority)
        # What werkzeug's own constructor does, without decoding what nobody may ask for.
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
        self._came: list[tuple[str, str]] = []  # what was in them at first, by identity
        self._data: bytes | None = None  # in its coding
        self._plain: tuple[bytes, bytes] | None = None  # the same, and without its coding
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
        """The fields in the client's order and spelling, hop-by-hop ones included. What a rule changes goes to the upstream."""
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
        """`headers` as a list of its own: for who sends them on."""
        return received_fields(self.environ, self._authority, absolute=self._absolute) if self._headers is None else list(self._headers)

    def fields_onward(self) -> list[tuple[str, str]]:
        """`fields` without those of the client that its Connection names (RFC 9110 section 7.6.1), and without their names in it: who sends
        the rest on takes away what is named there, and a client could have that done to what a rule has set."""
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
        """The body as a file. Where it is in memory, a new one at its beginning each time.

        A rule that reads from it takes from what the upstream would get: it must give the request a body again (`set_data`,
        `set_stream`), or answer by itself.
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
        """The body as it comes, in its coding."""
        return pieces_of(self.environ["wsgi.input"]) if self._given is None else self._given[1]

    def _uncoded(self, pieces: Iterable[bytes]) -> Iterable[bytes] | None:
        """`pieces` without their coding; None where they have none that a server would take off."""
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
        """The whole body without its Content-Encoding. It stays in memory and is sent on from there, in its coding. `cache` and
        `parse_form_data` make no difference.

        Raises `RequestEntityTooLarge` (413) above `buffer_limit`, and what reading raises.
        """
        data = self._data
        if data is None:
            self._check_unread()
            length = self.content_length
            if length is not None and length > self.buffer_limit:
                raise self._too_large()
            self._unread = self._unread or Unread(io.BytesIO())
            self._unread.touched = True  # should it end in the middle
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
            raise RuntimeError("a rule has read from the request's body and put nothing in its place: what is left is not the whole body")

    def _too_large(self) -> Exception:
        return RequestEntityTooLarge(f"The body is larger than the {self.buffer_limit} bytes that may be read at once.")

    def set_data(self, value: bytes | str) -> None:
        """Give the request another body, without any encoding; Content-Length says its size."""
        data = value.encode() if isinstance(value, str) else bytes(value)
        self._replace(len(data), (data,))
        self._data = data

    def set_stream(self, pieces: Iterable[bytes], length: int | None = None) -> None:
        """Give the request another body that is made while it is sent: chunked, unless its `length` is known. `pieces` may read from what
        `request.stream` was."""
        self._replace(length, pieces)
        self._data = None

    def watch_body(self, watch: Callable[[Iterable[bytes]], Iterable[bytes]]) -> None:
        """Let `watch` see the body on its way, without its Content-Encoding: it is given the pieces as they come, and gives them on, with
        not a byte more or less. What is sent is the body as it was, coding included."""
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
        """As werkzeug's, without a memory: the body may have changed."""
        return super().get_json(force=force, silent=silent, cache=False)

    def make_form_data_parser(self) -> "FormDataParser":
        self.get_data()  # parsing must not take the body from the upstream
        return super().make_form_data_parser()

    def outgoing(self) -> Outgoing:
        """The body as rules left it. Raises `RuntimeError` where one has read part of it and put nothing in its place."""
        if self._data is None:
            self._check_unread()
        if self._given is not None:
            length, pieces = self._given
            return Outgoing(length, length is None, pieces)
        environ = self.environ
        chunked = "HTTP_TRANSFER_ENCODING" in environ
        if not chunked and not environ.get("CONTENT_LENGTH"):
            return _NOTHING
        length = None if chunked else int(environ["CONTENT_LENGTH"])
        if self._data is not None:
            return Outgoing(length, chunked, (self._data,))
        return Outgoing(length, chunked, pieces_of(environ["wsgi.input"]))

    def to_environ(self) -> dict[str, Any]:
        """An environ for an application that answers in the upstream's place, with all that rules changed."""
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
        environ.pop("HTTP_PROXY_AUTHORIZATION", None)  # that was for us
        environ.pop("HTTP_PROXY_CONNECTION", None)
        if self._given is not None or self._data is not None:
            outgoing = self.outgoing()
            environ["wsgi.input"] = io.BytesIO(self._data) if self._data is not None else io.BufferedReader(PieceFile(outgoing.pieces))
            environ["wsgi.input_terminated"] = True
        return environ


def _as_request(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """What is wrong with a request's body is the client's fault."""
    try:
        yield from pieces
    except (Undecodable, Fault) as error:
        raise BrokenBody(400, error.reason) from error
