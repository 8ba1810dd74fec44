"""Parses one request head, with a policy for what llhttp leaves open. `fields` reads its field lines.

The request line is read here: llhttp knows a list of methods and of versions, and any token is a method (RFC 9110 section 9.1). Of the
fields, what llhttp (through httptools) lets through and the policy refuses: Transfer-Encoding in HTTP/1.0, and other than `chunked`;
missing or repeated Host; any size. An ambiguous head is answered with 400 and a close (RFC 9112 sections 2.2, 3, 5, 6.3).

This module does no I/O. The head is parsed straight into the request's environ, under PEP 3333's keys: another form in
between would only be copied.
"""

import re
from typing import Any
from urllib.parse import unquote_to_bytes

from muxwsgi.errors import PeerError
from muxwsgi.grammar import BARE_LINE_END, TOKEN
from muxwsgi.http.authority import is_host
from muxwsgi.http.h1.fields import REMEMBERED_AT_MOST, Fields, finder, is_length
from muxwsgi.http.h1.sent_fields import sent_fields
from muxwsgi.settings import HTTPSettings

__all__ = ["Head", "is_host", "refuse_early"]

#: method SP request-target SP HTTP-version CRLF (RFC 9112 section 3). The target is visible ASCII without "#", which no
#: request-target can have (RFC 9112 section 3.2); what may stand in which part of it is left to the application. A minor version above 1
#: is served as 1.1, the highest that is known here (RFC 9110 section 2.5).
_REQUEST_LINE = re.compile(rb"(%b) ([!\"$-~]+) HTTP/1\.([0-9])\r\n" % TOKEN.encode())

#: Where a target that begins at a place ends. In the compiled build it is a C function (head.pxd), as in `fields`.
globals().update(_target_end=finder(re.compile(rb"[^!\"$-~]|\Z")))

#: A valid method, for a line with an error elsewhere.
_ANY_VERSION = re.compile(rb"[^ \r\n]+ [^ \r\n]+ ([A-Z]+/[0-9]+(?:\.[0-9]+)?)\r\n")

_ABSOLUTE = re.compile(r"(?i:https?)://([^/?]+)(.*)")

#: Codings that exist (the IANA registry) and are not implemented here: 501 (RFC 9112 section 6.1). Any other is 400.
_KNOWN_CODINGS = frozenset({"compress", "deflate", "gzip", "x-compress", "x-gzip", "identity"})

#: A cache of valid hosts for all connections, because most clients ask for the same few. Its size is bounded. A DNS name has at most 253
#: characters, plus a port.
_HOSTS: set[str] = set()
_HOSTS_AT_MOST = 1024
_HOST_LENGTH = 260


class Head:
    """The heads of one connection, one after the other. Attributes of the last parsed head, for the engine:

    method              as sent
    target              the request-target as sent
    minor               of the version: HTTP/1.`minor`
    length              bytes of a body with Content-Length, None without
    chunked             whether the body is chunked
    keep_alive          whether the peer lets the connection go on
    expects_continue    whether the peer waits for 100 before it sends the body
    """

    __slots__ = (
        "_fields",
        "_good_host",
        "_line_length",
        "_method_part",
        "_settings",
        "_whole",
        "_whole_environ",
        "chunked",
        "expects_continue",
        "keep_alive",
        "length",
        "method",
        "minor",
        "target",
    )

    def __init__(self, settings: HTTPSettings, shared: dict[str, Any]) -> None:
        """`shared` is the part of the environ that all requests of the connection have."""
        self._settings = settings
        self._fields = Fields(settings, shared)
        self._line_length = settings.limit_request_line
        self._whole = b""  # the last head as sent, where it was in order and has up to `REMEMBERED_AT_MOST` bytes
        self._whole_environ: dict[str, Any] | None = None  # all of its environ, once it has come again
        self._method_part = b"GET "  # the last method as sent, with its space
        self._good_host = ""
        self.method = "GET"
        self.target = "/"
        self.minor = 1
        self.length: int | None = None
        self.chunked = False
        self.keep_alive = True
        self.expects_continue = False

    def parse(self, raw: bytes) -> dict[str, Any]:
        """A new environ for `raw`, which is one head with its CRLFCRLF and without empty lines in front. Raises `PeerError`."""
        try:
            return self._parse(raw)
        except PeerError:
            refuse_early(raw, self._settings)  # the first fault counts, as if the head had come byte by byte
            raise

    def _parse(self, raw: bytes) -> dict[str, Any]:
        # 0. The same head again, byte for byte: its parsed form is reused.
        again = raw == self._whole
        if again and self._whole_environ is not None:
            return self._whole_environ.copy()
        self._whole = b""
        self._whole_environ = None

        # 1. The request line, as in `_REQUEST_LINE`. Most have the method of the one before and the newest version, and are found
        # to be one without it.
        before = self._method_part
        begin = len(before)
        end = _target_end(raw, begin) if raw.startswith(before) else begin  # type: ignore[name-defined]  # noqa: F821
        if end > begin and raw.startswith(b" HTTP/1.1\r\n", end):
            method = self.method
            target = raw[begin:end].decode("latin-1")
            minor = 1
            line_end = end + 11
        else:
            line = _REQUEST_LINE.match(raw)
            if line is None:
                raise _bad_request_line(raw)
            method_bytes, target_bytes, minor_byte = line.groups()
            method = method_bytes.decode("latin-1")  # as the target, it is ASCII: see _REQUEST_LINE
            target = target_bytes.decode("latin-1")
            minor = 0 if minor_byte == b"0" else 1
            line_end = line.end()
        if line_end - 2 > self._line_length:
            raise _long_request_line(self._settings)

        # 2. The fields.
        fields = self._fields
        environ = fields.read(raw, line_end, minor)
        environ["muxwsgi.fields"] = sent_fields(raw, line_end)

        # 3. The framing.
        host = environ.get("HTTP_HOST")
        if host != self._good_host or host is None:
            self._check_host(host, minor)
        query = ""
        if target[0] != "/" or method == "CONNECT":
            path, query = _other_target(method, target, environ)
        else:
            path = target
            if "?" in target:
                path, _, query = target.partition("?")
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
        self.target = target
        self.minor = minor
        self.length = None
        self.chunked = False
        if "CONTENT_LENGTH" in environ or "HTTP_TRANSFER_ENCODING" in environ:
            self.length, self.chunked = _framing(environ, minor)
        if fields.doubt is not None:
            raise fields.doubt
        self.keep_alive = minor == 1
        if "HTTP_CONNECTION" in environ:
            connection = environ["HTTP_CONNECTION"]
            if minor == 0 or connection != "keep-alive":
                options = [option.strip() for option in connection.lower().split(",")]
                self.keep_alive = "close" not in options and (minor == 1 or "keep-alive" in options)
        self.expects_continue = False
        if "HTTP_EXPECT" in environ and minor == 1:
            if environ["HTTP_EXPECT"].lower() != "100-continue":
                raise PeerError(417, f"cannot meet the expectation {environ['HTTP_EXPECT']!r}")
            self.expects_continue = self.chunked or bool(self.length)
        if len(raw) <= REMEMBERED_AT_MOST:
            self._whole = raw
            if again:
                self._whole_environ = environ.copy()
        return environ

    def _check_host(self, host: str | None, minor: int) -> None:
        if host is None:
            if minor == 1:
                raise PeerError(400, "the Host field is missing")
            return
        if host and host not in _HOSTS:  # it is empty where the target has no authority (RFC 9112 section 3.2)
            if not is_host(host):
                raise PeerError(400, "the Host field is not a host")
            if len(_HOSTS) >= _HOSTS_AT_MOST:
                _HOSTS.clear()
            if len(host) <= _HOST_LENGTH:
                _HOSTS.add(host)
        self._good_host = host


def _other_target(method: str, target: str, environ: dict[str, Any]) -> tuple[str, str]:
    """Path and query of a request-target that is not a path: the other three forms (RFC 9112 section 3.2)."""
    if method == "CONNECT":
        if not is_host(target, port_needed=True):
            raise PeerError(400, "the target of CONNECT is not host:port")
        return "", ""
    if target == "*":
        if method != "OPTIONS":
            raise PeerError(400, "only OPTIONS may have the target *")
        return "", ""
    absolute = _ABSOLUTE.fullmatch(target)
    if absolute is None:
        raise PeerError(400, "the request-target is neither a path nor an http URI")
    if not is_host(absolute[1]):
        raise PeerError(400, "the authority of the request-target is not a host")
    environ["HTTP_HOST"] = absolute[1]  # the target's authority counts (RFC 9112 section 3.2.2), and the field was checked all the same
    path, _, query = absolute[2].partition("?")
    return path or "/", query


def _framing(environ: dict[str, Any], minor: int) -> tuple[int | None, bool]:
    """Content-Length and whether the body is chunked (RFC 9112 section 6.3)."""
    length = environ.get("CONTENT_LENGTH")
    coding = environ.get("HTTP_TRANSFER_ENCODING")
    if coding is not None:
        if minor == 0:
            raise PeerError(400, "Transfer-Encoding in HTTP/1.0")
        if length is not None:
            raise PeerError(400, "both Transfer-Encoding and Content-Length")
        if coding.lower() != "chunked":
            *others, last = [each.strip(" \t") for each in coding.lower().split(",")]
            if last != "chunked":  # the length is unknown, and one that is known at least is to be told apart from what is none
                others.append(last)
            if others and all(each in _KNOWN_CODINGS for each in others):
                raise PeerError(501, f"the transfer coding {coding!r} is not implemented")
            raise PeerError(400, "Transfer-Encoding is not chunked")
        return None, True
    if length is None:
        return None, False
    if not is_length(length):
        raise PeerError(400, "Content-Length is not a number")
    return int(length), False


def _long_request_line(settings: HTTPSettings) -> PeerError:
    return PeerError(414, f"the request line is longer than {settings.limit_request_line} bytes")


def _bad_request_line(raw: bytes) -> PeerError:
    other = _ANY_VERSION.match(raw)
    if other is not None and not other[1].startswith(b"HTTP/1."):
        status = 505 if other[1].startswith(b"HTTP/") else 400
        return PeerError(status, f"the version {other[1].decode()} is not served here")
    return PeerError(400, "the request line is malformed")


def refuse_early(head: bytes, settings: HTTPSettings, searched: int = 0) -> None:
    """Raise `PeerError` for an error in an incomplete head. The first `searched` bytes were checked before.

    So a client that ends its lines with a bare LF, or speaks HTTP/0.9, gets an error at once. Its head never ends in CRLFCRLF, so it
    would wait for the deadline otherwise. The first error in the order of the bytes counts, so the response does not depend on how they
    were cut into packets.
    """
    line_end = head.find(b"\r\n")
    line_length = line_end if line_end >= 0 else len(head) - head.endswith(b"\r")
    bare = BARE_LINE_END.search(head, max(searched - 1, 0))
    bare_at = bare.start() if bare is not None else len(head)
    if line_length > settings.limit_request_line < bare_at:
        raise _long_request_line(settings)
    if 0 <= line_end < bare_at and not _REQUEST_LINE.match(head):
        raise _bad_request_line(head)
    if bare_at < min(len(head), settings.limit_request_head):
        raise PeerError(400, "a line ends with a bare CR or LF")
    if len(head) > settings.limit_request_head:
        raise PeerError(431, f"the head is longer than {settings.limit_request_head} bytes")
