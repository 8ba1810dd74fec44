"""One response head of an upstream: llhttp parses it, and the policy here closes what llhttp leaves open.

As with requests (see `head.py`) the parser is given exactly one head, to its CRLFCRLF and never past it, and is new for each. What llhttp
(through httptools) lets through and the policy refuses: versions other than HTTP/1, control characters in the reason phrase,
Transfer-Encoding in HTTP/1.0 and other than `chunked`, any size. An ambiguous framing of an upstream is never repaired, because forwarding
the message would spread it (RFC 9112 section 11). What can be read in one way only is repaired: see `response_repair.py`.

This module does no I/O.
"""

import re

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from muxwsgi.http.client.response_repair import repaired

__all__ = ["BrokenResponse", "ResponseHead", "parse_response_head", "refuse_response_early"]

#: HTTP-version SP status-code SP [ reason-phrase ] CRLF (RFC 9112 section 4). A missing second SP raises no doubt about
#: anything, and many servers leave it out together with the phrase.
_STATUS_LINE = re.compile(rb"HTTP/1\.([0-9]) ([1-9][0-9]{2})(?: ([\t -~\x80-\xff]*))?\r\n")

_VERSION = b"HTTP/1."

#: LF without a CR before it, CR without an LF behind it: neither ends a line (RFC 9112 section 2.2).
_BARE_BREAK = re.compile(rb"(?<!\r)\n|\r(?=[^\n])")

_CONTENT_LENGTH = re.compile(r"[0-9]{1,18}")

#: Fields that the engine uses. Their first letters exclude most others.
_SPECIAL = frozenset({"content-length", "transfer-encoding", "connection"})
_SPECIAL_INITIALS = frozenset("CcTt")


class BrokenResponse(OSError):
    """The bytes are not an HTTP/1 response, or its framing is in doubt. `reason` is one line. The connection is unusable.

    It is an `OSError`, as everything is that a connection may raise.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class ResponseHead:
    """Status line and fields of a response.

    status      100 to 999
    reason      the phrase as sent, latin-1; "" without one
    minor       of the version: HTTP/1.`minor`
    version     the version: "HTTP/1.0", "HTTP/1.1" or "HTTP/2"
    fields      (name, value) as sent, latin-1, in order, repeated ones kept; values without the white space around them
    length      the Content-Length, None without. A response to HEAD and a 304 may have one, but no body
    chunked     whether Transfer-Encoding is chunked
    keep_alive  whether another response may follow on the connection (RFC 9112 section 9.3). False if the body ends with the connection,
                and after 101 and 2xx to CONNECT
    """

    __slots__ = ("chunked", "fields", "keep_alive", "length", "minor", "reason", "status", "version")

    def __init__(
        self,
        status: int,
        reason: str,
        minor: int,
        fields: list[tuple[str, str]],
        length: int | None,
        chunked: bool,
        keep_alive: bool,
        version: str = "",
    ) -> None:
        self.version = version or ("HTTP/1.1" if minor else "HTTP/1.0")
        self.status = status
        self.reason = reason
        self.minor = minor
        self.fields = fields
        self.length = length
        self.chunked = chunked
        self.keep_alive = keep_alive

    def __repr__(self) -> str:
        return f"<ResponseHead {self.status} {self.reason!r}, {len(self.fields)} fields>"


class _Nothing:
    """Callbacks for the parser, which only checks whether the head is well-formed. It looks up each callback when it is created."""

    on_message_begin = on_status = on_header = on_headers_complete = None
    on_body = on_message_complete = on_chunk_header = on_chunk_complete = None


_NOTHING = _Nothing()


def parse_response_head(raw: bytes, limit_fields: int) -> ResponseHead:
    """Parse `raw`, one head with its CRLFCRLF. Raises `BrokenResponse`. `keep_alive` does not include the framing of the body yet."""
    # 1. The status line.
    line = _STATUS_LINE.match(raw)
    if line is None:
        raise _bad_status_line(raw)
    if raw.count(b"\r\n") - 2 > limit_fields:
        raise BrokenResponse(f"the response has more than {limit_fields} header fields")
    minor_byte, status, phrase = line.groups()
    minor = 0 if minor_byte == b"0" else 1  # a later one is served as 1.1 (RFC 9110 section 2.5), of which llhttp is told nothing
    if minor_byte not in b"01":
        raw = b"HTTP/1.1" + raw[8:]

    # 2. The fields. Once llhttp has passed them, each is one line, `token ":" OWS value OWS`: no folds, no bare CR or LF, no white space in
    # a name. Splitting there takes half the time of callbacks, with the same result as llhttp's (a property test checks that).
    try:
        HttpResponseParser(_NOTHING).feed_data(raw)
    except HttpParserUpgrade:
        pass  # 101: what follows the head is the new protocol's
    except HttpParserError as error:
        raw = _repaired(raw, error)
    fields: list[tuple[str, str]] = []
    special: list[tuple[str, str]] = []
    block = raw[line.end() : -4].decode("latin-1")
    for text in block.split("\r\n") if block else ():
        name, _, value = text.partition(":")
        field = (name, value.strip(" \t"))
        fields.append(field)
        if name[:1] in _SPECIAL_INITIALS and name.lower() in _SPECIAL:
            special.append(field)

    # 3. The framing.
    length: int | None = None
    chunked = False
    keep_alive = minor == 1
    if special:
        length, chunked, keep_alive = _framing(special, minor)
    return ResponseHead(int(status), phrase.decode("latin-1") if phrase else "", minor, fields, length, chunked, keep_alive)


def _repaired(raw: bytes, error: HttpParserError) -> bytes:
    """The repaired head, for one that llhttp refuses and that a proxy has to repair. Raises `BrokenResponse`."""
    if not raw.endswith(b"\r\n\r\n"):  # one that `normalised` could do nothing with: cut at CRLF, its last fields would be lost
        raise BrokenResponse(f"the response head is malformed: {error}")
    better = repaired(raw)
    try:
        HttpResponseParser(_NOTHING).feed_data(better)
    except HttpParserUpgrade:
        pass
    except HttpParserError:
        raise BrokenResponse(f"the response head is malformed: {error}") from None
    return better


def _framing(special: list[tuple[str, str]], minor: int) -> tuple[int | None, bool, bool]:
    """Content-Length, whether the body is chunked, whether the connection goes on (RFC 9112 sections 6.3 and 9.3)."""
    length: str | None = None
    coding: str | None = None
    options: str | None = None
    for name, value in special:
        name = name.lower()
        if name == "content-length":
            if length is not None:
                raise BrokenResponse("the response has more than one Content-Length")
            length = value
        elif name == "transfer-encoding":
            if coding is not None:
                raise BrokenResponse("the response has more than one Transfer-Encoding")
            coding = value
        else:
            options = value if options is None else f"{options},{value}"
    if coding is not None:
        if minor == 0:
            raise BrokenResponse("the response has a Transfer-Encoding in HTTP/1.0")
        if length is not None:
            raise BrokenResponse("the response has both Transfer-Encoding and Content-Length")
        if coding.lower() != "chunked":
            raise BrokenResponse("the response's Transfer-Encoding is not chunked")
    if length is not None and not _CONTENT_LENGTH.fullmatch(length):
        raise BrokenResponse("the response's Content-Length is not a number")
    keep_alive = minor == 1
    if options is not None:
        words = {option.strip(" \t") for option in options.lower().split(",")}
        keep_alive = "close" not in words and (minor == 1 or "keep-alive" in words)
    return None if length is None else int(length), coding is not None, keep_alive


def _bad_status_line(raw: bytes) -> BrokenResponse:
    if raw.startswith(b"HTTP/") and not raw.startswith(_VERSION):
        return BrokenResponse("the response is of another version than HTTP/1")
    if raw.startswith(_VERSION):
        return BrokenResponse("the status line is malformed")
    return BrokenResponse("the bytes are not an HTTP response")


def refuse_response_early(head: bytes, limit_head: int, searched: int = 0) -> None:
    """Raise `BrokenResponse` for an error in an incomplete head. The first `searched` bytes were checked before.

    A server of another protocol, or one that ends its lines with a bare LF, never ends its head. This is detected before the deadline.
    """
    if not head.startswith(_VERSION) and not _VERSION.startswith(head):
        raise _bad_status_line(head)
    if _BARE_BREAK.search(head, max(searched - 1, 0)):
        raise BrokenResponse("the response head is malformed: a line ends with a bare CR or LF")
    if len(head) > limit_head:
        raise BrokenResponse(f"the response head is longer than {limit_head} bytes")
