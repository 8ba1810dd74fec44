"""One request head: llhttp parses it, and the policy here closes what llhttp leaves open.

The parser is given exactly one head, to its CRLFCRLF and never past it, and is new for each. So no byte of a body or of a next request
is ever inside a parser when the policy says no, and what the policy sees is one message.

What llhttp (through httptools) lets through and the policy refuses: request lines of HTTP/0.9, HTTP/2.0, RTSP and ICE, double
spaces, `#` in a target; Transfer-Encoding in HTTP/1.0, `gzip, chunked`; missing or repeated Host; any size. Each is doubt about what
the peer meant, and doubt is 400 and a close (RFC 9112 sections 2.2, 3, 5, 6.3).

Nothing here reads from a connection. What the head says goes straight into the request's environ, under PEP 3333's keys: another form in
between would be made only to be copied.
"""

import re
from ipaddress import IPv6Address
from typing import Any
from urllib.parse import unquote_to_bytes

from httptools import (
    HttpParserError,
    HttpParserInvalidMethodError,
    HttpParserInvalidURLError,
    HttpParserUpgrade,
    HttpRequestParser,
)

from muxwsgi.errors import PeerError
from muxwsgi.settings import HTTPSettings

__all__ = ["Head", "refuse_early"]

#: method SP request-target SP HTTP-version CRLF (RFC 9112 section 3). The target is visible ASCII without "#", which no
#: request-target can have (RFC 9112 section 3.2); what may stand in which part of it is left to the application.
_REQUEST_LINE = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+) ([!\"$-~]+) HTTP/1\.([01])\r\n")

#: A method that is one, for a line that is wrong elsewhere.
_ANY_VERSION = re.compile(rb"[^ \r\n]+ [^ \r\n]+ ([A-Z]+/[0-9]+(?:\.[0-9]+)?)\r\n")

#: LF without a CR before it, CR without an LF behind it: neither ends a line (RFC 9112 section 2.2).
_BARE_BREAK = re.compile(rb"(?<!\r)\n|\r(?=[^\n])")

#: uri-host [ ":" port ] (RFC 9110 section 7.2, RFC 3986 section 3.2.2), without IPvFuture, which nobody has.
_HOST = re.compile(r"(?:(?:[A-Za-z0-9\-._~!$&'()*+,;=]|%[0-9A-Fa-f]{2})+|\[([0-9A-Fa-f:.]+)\])(?::([0-9]{0,5}))?")

_ABSOLUTE = re.compile(r"(?i:https?)://([^/?]+)(.*)")

#: Codings that exist (the IANA registry) and are not implemented here: 501 (RFC 9112 section 6.1). Any other is 400.
_KNOWN_CODINGS = frozenset({"compress", "deflate", "gzip", "x-compress", "x-gzip", "identity"})

#: What llhttp parses and HTTP does not have.
_OTHER_PROTOCOLS = frozenset(
    {"PRI", "SOURCE", "DESCRIBE", "ANNOUNCE", "SETUP", "PLAY", "PAUSE", "TEARDOWN", "GET_PARAMETER", "SET_PARAMETER", "REDIRECT"}
    | {"RECORD", "FLUSH"}
)

#: Fields of which a second one is doubt about the message. Others are lists, which may be split over several lines (RFC 9110
#: section 5.3).
_SINGLETONS = frozenset({"HTTP_HOST", "CONTENT_LENGTH", "CONTENT_TYPE", "HTTP_TRANSFER_ENCODING"})

#: Field names and their environ keys, "" for a name that is dropped. Learned as they come and forgotten when there are this many:
#: a client that invents names can neither fill the memory nor keep the names of others out for good.
_KEYS: dict[bytes, str] = {}
_KEYS_AT_MOST = 2048

#: Hosts that were found to be some, over all connections: most clients ask for the same few. Bounded like the names, and a DNS name has at
#: most 253 characters, to which a port is added.
_HOSTS: set[str] = set()
_HOSTS_AT_MOST = 1024
_HOST_LENGTH = 260

#: Bytes of a head that are remembered while a connection lasts: browsers send about 700 and cookies.
REMEMBERED_AT_MOST = 2048


class Head:
    """The heads of one connection, one after the other. What the engine itself needs to know of the last one that was parsed:

    method              as sent
    minor               of the version: HTTP/1.`minor`
    length              bytes of a body with Content-Length, None without
    chunked             whether the body is chunked
    keep_alive          whether the peer lets the connection go on
    expects_continue    whether the peer waits for 100 before it sends the body
    """

    __slots__ = (
        "_block",
        "_field_size",
        "_good_host",
        "_known",
        "_line_length",
        "_lines",
        "_method_part",
        "_settings",
        "_shared",
        "_template",
        "_whole",
        "_whole_environ",
        "chunked",
        "expects_continue",
        "keep_alive",
        "length",
        "method",
        "minor",
    )

    def __init__(self, settings: HTTPSettings, shared: dict[str, Any]) -> None:
        """`shared` is the part of the environ that all requests of the connection have."""
        self._settings = settings
        self._shared = shared
        self._line_length = settings.limit_request_line
        self._lines = settings.limit_request_fields
        self._field_size = settings.limit_request_field_size
        self._block = b""  # the fields of the last head as sent, up to `REMEMBERED_AT_MOST` bytes of them
        self._known: dict[str, str] = {}  # and what they are in an environ
        self._template: dict[str, Any] | None = None  # `shared` with them, once fields of these names have come again
        self._whole = b""  # the last head as sent, where it was in order and has up to as many bytes
        self._whole_environ: dict[str, Any] | None = None  # all of its environ, once it has come again
        self._method_part = b"GET "  # the last method as sent, with its space
        self._good_host = ""
        self.method = "GET"
        self.minor = 1
        self.length: int | None = None
        self.chunked = False
        self.keep_alive = True
        self.expects_continue = False

    def parse(self, raw: bytes) -> dict[str, Any]:
        """A new environ with what `raw` says, which is one head with its CRLFCRLF and without empty lines in front. Raises `PeerError`."""
        try:
            return self._parse(raw)
        except PeerError:
            refuse_early(raw, self._settings)  # the first fault counts, as if the head had come byte by byte
            raise

    def _parse(self, raw: bytes) -> dict[str, Any]:
        # 0. The same head again, byte for byte: all that is noted of it stands.
        again = raw == self._whole
        if again and self._whole_environ is not None:
            return self._whole_environ.copy()
        self._whole = b""
        self._whole_environ = None

        # 1. The request line. `_REQUEST_LINE` says what it is. Most have the method of the one before and the newest version, and are found
        # to be one without it.
        before = self._method_part
        line_end = raw.find(b"\r\n") + 2
        target = raw[len(before) : max(line_end - 11, 0)].decode("latin-1")
        if _is_target(target) and raw.startswith(before) and raw.startswith(b" HTTP/1.1\r\n", line_end - 11):
            method = self.method
            minor = 1
        else:
            line = _REQUEST_LINE.match(raw)
            if line is None:
                raise _bad_request_line(raw)
            method_bytes, target_bytes, minor_byte = line.groups()
            method = method_bytes.decode("latin-1")  # as the target, it is ASCII: see _REQUEST_LINE
            target = target_bytes.decode("latin-1")
            minor = 1 if minor_byte == b"1" else 0
        if line_end - 2 > self._line_length:
            raise _long_request_line(self._settings)
        if method in _OTHER_PROTOCOLS:
            raise PeerError(501, f"unknown method {method!r}")

        # 2. The fields. Most clients send the same ones again, byte for byte, while a connection lasts. llhttp has seen them then, and the
        # method too, and lets every target through that is a path and that `_REQUEST_LINE` lets through.
        doubt = None
        size = len(raw) - line_end
        if size == len(self._block) and raw.endswith(self._block) and method == self.method and target[0] == "/":
            fields = self._known
            template = self._template
            if template is None:
                template = self._template = self._shared | fields
            environ = template.copy()
        else:
            fields = {}
            doubt = self._read_fields(raw, line_end, fields)
            environ = self._environ_with(fields)
            if doubt is None and size <= REMEMBERED_AT_MOST:
                self._block = raw[line_end:]
                self._known = fields
            else:
                self._block = b""
                self._known = {}
                self._template = None
        environ["muxwsgi.head"] = raw

        # 3. What they mean together.
        host = fields.get("HTTP_HOST")
        if host != self._good_host or host is None:
            self._check_host(host, minor)
        query = ""
        if target[0] != "/" or method == "CONNECT":
            path, query = _other_target(method, target, environ)
        else:
            path = target
            mark = target.find("?")
            if mark >= 0:
                path = target[:mark]
                query = target[mark + 1 :]
        environ["REQUEST_METHOD"] = method
        environ["REQUEST_URI"] = target
        environ["RAW_URI"] = target
        environ["QUERY_STRING"] = query
        environ["SERVER_PROTOCOL"] = "HTTP/1.1" if minor else "HTTP/1.0"
        # PEP 3333: the bytes of the decoded path, as latin-1.
        environ["PATH_INFO"] = unquote_to_bytes(path).decode("latin-1") if "%" in path else path
        if method != self.method:
            self.method = method
            self._method_part = method.encode("latin-1") + b" "
        self.minor = minor
        self.length = None
        self.chunked = False
        framed = "CONTENT_LENGTH" in fields or "HTTP_TRANSFER_ENCODING" in fields
        if framed:
            self.length, self.chunked = _framing(fields, minor)
        if doubt is not None:
            raise doubt
        self.keep_alive = minor == 1
        if "HTTP_CONNECTION" in fields:
            connection = fields["HTTP_CONNECTION"]
            if minor == 0 or connection != "keep-alive":
                options = [option.strip() for option in connection.lower().split(",")]
                self.keep_alive = "close" not in options and (minor == 1 or "keep-alive" in options)
        self.expects_continue = False
        if "HTTP_EXPECT" in fields and minor == 1:
            if fields["HTTP_EXPECT"].lower() != "100-continue":
                raise PeerError(417, f"cannot meet the expectation {fields['HTTP_EXPECT']!r}")
            self.expects_continue = self.chunked or bool(self.length)
        if len(raw) <= REMEMBERED_AT_MOST:
            self._whole = raw
            if again:
                self._whole_environ = environ.copy()
        return environ

    def _environ_with(self, fields: dict[str, str]) -> dict[str, Any]:
        """An environ with `fields`. Where their names are those of the last ones, as when a cookie changes, it does not have to grow."""
        if fields.keys() != self._known.keys():
            self._template = None
            return self._shared | fields
        template = self._template
        if template is None:
            template = self._template = self._shared | fields
        else:
            template.update(fields)
        return template.copy()

    def _read_fields(self, raw: bytes, line_end: int, fields: dict[str, str]) -> PeerError | None:
        """Add the fields of `raw` to `fields`, under their environ keys. Raises `PeerError`, or returns one: see `_feed`."""
        lines = raw.count(b"\r\n") - 2
        if lines > self._lines:
            raise PeerError(431, f"more than {self._lines} header fields")
        if len(raw) - line_end > self._field_size:
            _check_field_sizes(raw, self._field_size)
        sink = _Sink(fields)
        doubt = _feed(HttpRequestParser(sink), raw)
        if sink.repeated:
            raise PeerError(400, f"the field {sink.repeated.decode('latin-1')!r} is repeated")
        return doubt

    def _check_host(self, host: str | None, minor: int) -> None:
        if host is None:
            if minor == 1:
                raise PeerError(400, "the Host field is missing")
            return
        if host and host not in _HOSTS:  # it is empty where the target has no authority (RFC 9112 section 3.2)
            if not _is_host(host):
                raise PeerError(400, "the Host field is not a host")
            if len(_HOSTS) >= _HOSTS_AT_MOST:
                _HOSTS.clear()
            if len(host) <= _HOST_LENGTH:
                _HOSTS.add(host)
        self._good_host = host


class _Sink:
    """Where the parser puts fields: into `fields`, under their environ keys.

    `repeated` is the name of one that may not come twice, and did: raising in a callback would only make the parser raise something else.
    The other callbacks are there to say that there are none: a new parser asks for each.
    """

    __slots__ = ("_fields", "repeated")

    on_message_begin = on_url = on_headers_complete = on_body = on_message_complete = None
    on_chunk_header = on_chunk_complete = on_status = None

    def __init__(self, fields: dict[str, str]) -> None:
        self._fields = fields
        self.repeated = b""

    def on_header(self, name: bytes, value: bytes) -> None:
        """Called by the parser."""
        keys = _KEYS
        key = keys.get(name)
        if key is None:
            key = _learn(name)
        if not key:
            return
        text = value.decode("latin-1")
        if text and text[-1] in " \t":
            text = text.rstrip(" \t")  # OWS behind a value is no part of it (RFC 9112 section 5.1)
        fields = self._fields
        if key in fields:
            if key in _SINGLETONS:
                self.repeated = self.repeated or name
                return
            text = fields[key] + ("; " if key == "HTTP_COOKIE" else ", ") + text
        fields[key] = text


def _is_target(text: str) -> bool:
    """Whether `_REQUEST_LINE` takes `text` for a target."""
    return text != "" and text.isascii() and text.isprintable() and " " not in text and "#" not in text


def _other_target(method: str, target: str, environ: dict[str, Any]) -> tuple[str, str]:
    """Path and query of a request-target that is no path: the other three forms (RFC 9112 section 3.2)."""
    if method == "CONNECT":
        if not _is_host(target, port_needed=True):
            raise PeerError(400, "the target of CONNECT is not host:port")
        return "", ""
    if target == "*":
        if method != "OPTIONS":
            raise PeerError(400, "only OPTIONS may have the target *")
        return "", ""
    absolute = _ABSOLUTE.fullmatch(target)
    if absolute is None:
        raise PeerError(400, "the request-target is neither a path nor an http URI")
    if not _is_host(absolute[1]):
        raise PeerError(400, "the authority of the request-target is not a host")
    environ["HTTP_HOST"] = absolute[1]  # the target's authority counts (RFC 9112 section 3.2.2), and the field was checked all the same
    path, _, query = absolute[2].partition("?")
    return path or "/", query


def _is_host(text: str, *, port_needed: bool = False) -> bool:
    """Whether `text` is a host, with a port or, unless `port_needed`, without."""
    match = _HOST.fullmatch(text)
    if match is None:
        return False
    address, port = match.groups()
    if address is not None:
        try:
            IPv6Address(address)
        except ValueError:
            return False
    if port_needed:
        return bool(port) and 0 < int(port) <= 65535
    return not port or int(port) <= 65535


def _feed(parser: HttpRequestParser, raw: bytes) -> PeerError | None:
    """Let `parser` read `raw`. Raises `PeerError`; returns one where the fields are all there and `_framing` may know a better status."""
    try:
        parser.feed_data(raw)
    except HttpParserUpgrade:
        pass  # CONNECT or Upgrade: what follows the head is read by us in any case
    except HttpParserInvalidMethodError:
        raise PeerError(501, "unknown method") from None
    except HttpParserInvalidURLError:
        raise PeerError(400, "the request-target is malformed") from None
    except HttpParserError as error:
        fault = PeerError(400, f"malformed head: {error}")
        if "invalid `Transfer-Encoding`" in str(error):
            return fault
        raise fault from None
    return None


def _learn(name: bytes) -> str:
    if b"_" in name:
        key = ""  # X_Y and X-Y would have the same key: nobody may forge the other's (nginx drops them too)
    elif name.lower() in (b"content-type", b"content-length"):
        key = name.decode().upper().replace("-", "_")
    else:
        key = "HTTP_" + name.decode().upper().replace("-", "_")
    if len(_KEYS) >= _KEYS_AT_MOST:
        _KEYS.clear()
    _KEYS[name] = key
    return key


def _framing(fields: dict[str, str], minor: int) -> tuple[int | None, bool]:
    """Content-Length and whether the body is chunked (RFC 9112 section 6.3)."""
    length = fields.get("CONTENT_LENGTH")
    coding = fields.get("HTTP_TRANSFER_ENCODING")
    if coding is not None:
        if minor == 0:
            raise PeerError(400, "Transfer-Encoding in HTTP/1.0")
        if length is not None:
            raise PeerError(400, "both Transfer-Encoding and Content-Length")
        if coding.lower() != "chunked":
            if coding.lower() in _KNOWN_CODINGS:
                raise PeerError(501, f"transfer coding {coding!r} is not implemented")
            raise PeerError(400, "Transfer-Encoding is not chunked")
        return None, True
    if length is None:
        return None, False
    if len(length) > 18 or not length.isascii() or not length.isdigit():
        raise PeerError(400, "Content-Length is not a number")
    return int(length), False


def _check_field_sizes(raw: bytes, limit: int) -> None:
    for line in raw.split(b"\r\n")[1:]:
        if len(line) > limit:
            raise PeerError(431, f"a header field is longer than {limit} bytes")


def _long_request_line(settings: HTTPSettings) -> PeerError:
    return PeerError(414, f"the request line is longer than {settings.limit_request_line} bytes")


def _bad_request_line(raw: bytes) -> PeerError:
    other = _ANY_VERSION.match(raw)
    if other is not None and not other[1].startswith((b"HTTP/1.0", b"HTTP/1.1")):
        return PeerError(400, f"the version {other[1].decode()} is not served here")
    return PeerError(400, "the request line is malformed")


def refuse_early(head: bytes, settings: HTTPSettings, searched: int = 0) -> None:
    """Raise `PeerError` for what is wrong with a head as far as it has come; the first `searched` bytes were looked at before.

    So a client that ends its lines with a bare LF, or speaks HTTP/0.9, is told at once: its head never ends as ours do, and it
    would wait for the deadline. The first fault in the order of the bytes counts, so that the answer does not depend on how they
    were cut into packets.
    """
    line_end = head.find(b"\r\n")
    line_length = line_end if line_end >= 0 else len(head) - head.endswith(b"\r")
    bare = _BARE_BREAK.search(head, max(searched - 1, 0))
    bare_at = bare.start() if bare is not None else len(head)
    if line_length > settings.limit_request_line < bare_at:
        raise _long_request_line(settings)
    if 0 <= line_end < bare_at and not _REQUEST_LINE.match(head):
        raise _bad_request_line(head)
    if bare_at < min(len(head), settings.limit_request_head):
        raise PeerError(400, "a line ends with a bare CR or LF")
    if len(head) > settings.limit_request_head:
        raise PeerError(431, f"the head is longer than {settings.limit_request_head} bytes")
