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

__all__ = ["Head", "HeadParser", "refuse_early"]

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

_CONTENT_LENGTH = re.compile(r"[0-9]{1,18}")

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

_OWS = (" ", "\t")
_SLASH = ord("/")

#: Field names and their environ keys, "" for a name that is dropped. Learned as they come and forgotten when there are this many:
#: a client that invents names can neither fill the memory nor keep the names of others out for good.
_KEYS: dict[bytes, str] = {}
_KEYS_AT_MOST = 2048


class Head:
    """What the engine itself needs to know of a request head.

    method              as sent
    minor               of the version: HTTP/1.`minor`
    length              bytes of a body with Content-Length, None without
    chunked             whether the body is chunked
    keep_alive          whether the peer lets the connection go on
    expects_continue    whether the peer waits for 100 before it sends the body
    """

    __slots__ = ("chunked", "expects_continue", "keep_alive", "length", "method", "minor")

    def __init__(self, method: str, minor: int, length: int | None, chunked: bool, keep_alive: bool, expects_continue: bool) -> None:
        self.method = method
        self.minor = minor
        self.length = length
        self.chunked = chunked
        self.keep_alive = keep_alive
        self.expects_continue = expects_continue


class _Sink:
    """Where the parser puts fields. The dict's own method is called straight from C; a repeated name, of which the dict keeps the last,
    shows in the count of lines. The other callbacks are there to say that there are none: a new parser asks for each."""

    __slots__ = ("on_header",)

    on_message_begin = on_url = on_headers_complete = on_body = on_message_complete = None
    on_chunk_header = on_chunk_complete = on_status = None

    def __init__(self, fields: dict[bytes, bytes]) -> None:
        self.on_header = fields.__setitem__


class _ListSink:
    __slots__ = ("fields",)

    def __init__(self) -> None:
        self.fields: list[tuple[bytes, bytes]] = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name, value))


class HeadParser:
    """Parses the heads of one connection, one after the other."""

    __slots__ = ("_fields", "_good_host", "_settings", "_sink")

    def __init__(self, settings: HTTPSettings) -> None:
        self._settings = settings
        self._fields: dict[bytes, bytes] = {}
        self._sink = _Sink(self._fields)
        self._good_host = ""

    def parse(self, raw: bytes, environ: dict[str, Any]) -> Head:
        """`raw` is one head with its CRLFCRLF and without empty lines in front. What it says is added to `environ`, which has no request
        in it yet. Raises `PeerError`."""
        try:
            return self._parse(raw, environ)
        except PeerError:
            refuse_early(raw, self._settings)  # the first fault counts, as if the head had come byte by byte
            raise

    def _parse(self, raw: bytes, environ: dict[str, Any]) -> Head:
        settings = self._settings

        # 1. The request line.
        line = _REQUEST_LINE.match(raw)
        if line is None:
            raise _bad_request_line(raw)
        line_end = line.end()
        if line_end - 2 > settings.limit_request_line:
            raise _long_request_line(settings)
        method_bytes, target_bytes, minor_byte = line.groups()
        method = method_bytes.decode()
        if method in _OTHER_PROTOCOLS:
            raise PeerError(501, f"unknown method {method!r}")

        # 2. The fields.
        lines = raw.count(b"\r\n") - 2
        if lines > settings.limit_request_fields:
            raise PeerError(431, f"more than {settings.limit_request_fields} header fields")
        if len(raw) - line_end > settings.limit_request_field_size:
            _check_field_sizes(raw, settings.limit_request_field_size)
        parsed = self._fields
        parsed.clear()
        doubt = _feed(self._sink, raw)
        keys = _KEYS
        for name, value in parsed.items() if len(parsed) == lines else _all_fields(raw):
            key = keys.get(name)
            if key is None:
                key = _learn(name)
            text = value.decode("latin-1")
            if text[-1:] in _OWS:
                text = text.rstrip(" \t")  # OWS behind a value is no part of it (RFC 9112 section 5.1)
            if key in environ:
                if key in _SINGLETONS:
                    raise PeerError(400, f"the field {name.decode('latin-1')!r} is repeated")
                text = environ[key] + ("; " if key == "HTTP_COOKIE" else ", ") + text
            environ[key] = text
        environ.pop("", None)

        # 3. What they mean together.
        minor = 1 if minor_byte == b"1" else 0
        host = environ.get("HTTP_HOST")
        if host != self._good_host or host is None:
            self._check_host(host, minor)
        target = target_bytes.decode()
        if target_bytes[0] == _SLASH and method != "CONNECT":
            path, _, query = target.partition("?")
        else:
            path, query = _other_target(method, target, environ)
        environ["REQUEST_METHOD"] = method
        environ["REQUEST_URI"] = environ["RAW_URI"] = target
        environ["QUERY_STRING"] = query
        environ["SERVER_PROTOCOL"] = "HTTP/1.1" if minor else "HTTP/1.0"
        # PEP 3333: the bytes of the decoded path, as latin-1.
        environ["PATH_INFO"] = unquote_to_bytes(path).decode("latin-1") if "%" in path else path
        length: int | None = None
        chunked = False
        if "CONTENT_LENGTH" in environ or "HTTP_TRANSFER_ENCODING" in environ:
            length, chunked = _framing(environ, minor)
        if doubt is not None:
            raise doubt
        keep_alive = minor == 1
        if "HTTP_CONNECTION" in environ:
            options = [option.strip() for option in environ["HTTP_CONNECTION"].lower().split(",")]
            keep_alive = "close" not in options and (minor == 1 or "keep-alive" in options)
        expects_continue = False
        if "HTTP_EXPECT" in environ and minor == 1:
            if environ["HTTP_EXPECT"].lower() != "100-continue":
                raise PeerError(417, f"cannot meet the expectation {environ['HTTP_EXPECT']!r}")
            expects_continue = chunked or bool(length)
        return Head(method, minor, length, chunked, keep_alive, expects_continue)

    def _check_host(self, host: str | None, minor: int) -> None:
        if host is None:
            if minor == 1:
                raise PeerError(400, "the Host field is missing")
            return
        if host and not _is_host(host):  # it is empty where the target has no authority (RFC 9112 section 3.2)
            raise PeerError(400, "the Host field is not a host")
        self._good_host = host


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


def _feed(sink: object, raw: bytes) -> PeerError | None:
    """Parse `raw` into `sink`. Raises `PeerError`; returns one where the fields are all there and `_framing` may know a better status."""
    try:
        HttpRequestParser(sink).feed_data(raw)
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


def _all_fields(raw: bytes) -> list[tuple[bytes, bytes]]:
    sink = _ListSink()
    _feed(sink, raw)
    return sink.fields


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


def _framing(fields: dict[str, Any], minor: int) -> tuple[int | None, bool]:
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
    if not _CONTENT_LENGTH.fullmatch(length):
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
