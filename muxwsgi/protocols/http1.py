"""HTTP/1: matchers of the request line (RFC 9112 section 3), routes that use them, malformed request lines that some servers accept."""

import re

from muxwsgi.grammar import TCHAR, TOKEN
from muxwsgi.mux.match import Match
from muxwsgi.mux.matchers import Matcher, all_of, more_of, named
from muxwsgi.mux.route import LAST, Handler, Route
from muxwsgi.protocols import Protocol, Speaks

__all__ = ["LEADING_CRLFS", "PROTOCOL", "FirstLine", "http1", "http1_line", "http_last", "http_route", "nearly_http", "word"]

YES, NO, MORE = Match.YES, Match.NO, Match.MORE

#: Empty lines in front of a request line that are served (RFC 9112 section 2.2 wants at least one to be
#: ignored).
LEADING_CRLFS = 4

#: The IANA "HTTP Method Registry" without CONNECT, which takes an authority, PRI, which is the preface of
#: HTTP/2, and `*`.
_METHODS = (
    b"ACL BASELINE-CONTROL BIND CHECKIN CHECKOUT COPY DELETE GET HEAD LABEL LINK LOCK MERGE MKACTIVITY "
    b"MKCALENDAR MKCOL MKREDIRECTREF MKWORKSPACE MOVE OPTIONS ORDERPATCH PATCH POST PROPFIND PROPPATCH PUT "
    b"QUERY REBIND REPORT SEARCH TRACE UNBIND UNCHECKOUT UNLINK UNLOCK UPDATE UPDATEREDIRECTREF "
    b"VERSION-CONTROL"
).split()

_REGISTERED = frozenset(_METHODS)
_CONNECT = b"CONNECT"
#: What a registered method begins with.
_BEGINNINGS = frozenset(method[:n] for method in [*_METHODS, _CONNECT] for n in range(1, len(method) + 1))
_METHOD_LENGTH = 17  # the longest registered
_LINE_LENGTH = 8190  # the limit of Apache and gunicorn on a request line

# request-line = method SP request-target SP HTTP-version (RFC 9112 section 3); a method is a token (RFC 9110
# section 5.6.2).
_EMPTY_LINES = re.compile(rb"(?:\r\n){0,%d}" % LEADING_CRLFS)
_TOKEN = TOKEN.encode()
#: What an authority consists of (RFC 3986 section 3.2): `{` and `"` are not in it, so NATS' `CONNECT {...}` has none.
_AUTHORITY = re.compile(rb"[A-Za-z0-9\-._~!$&'()*+,;=%%:\[\]]{1,%d}" % _LINE_LENGTH)
_SCHEMES = (b"http://", b"https://")
_SLASH, _CR, _LF = b"/\r\n"
_OTHER_TARGETS = b"*hH"  # the first bytes of targets that are not a path, except CONNECT's
_VERSION = b" HTTP/1."


@named("http1")
def http1(data: bytes) -> Match:
    """An HTTP/1 request with a registered method, as early as it is certain. Asked first, it holds back other
    protocols only by bytes that could become a request which somebody can serve.

    `YES` as soon as nothing else can be meant:

    - a registered method, a space, and `/`, `http://` or `https://`: at once;
    - OPTIONS with the target `*` (RTSP asks `OPTIONS * RTSP/1.0`), and CONNECT with its authority: after
      ` HTTP/1.`.

    `NO` for `GET key` (Redis inline), `OPTIONS rtsp://`, `OPTIONS sip:` and `PRI * HTTP/2.0`. `NO` also for
    methods that are not registered, and for request lines that can only be answered with an error: these are
    for `http1_line`, which is asked last. Up to `LEADING_CRLFS` empty lines may stand in front.

    A `YES` does not prove a valid request: `GET /\\r\\n` (HTTP/0.9), `GET / HTTP/2.0`, a NUL in the target or
    bad fields after the first line are the HTTP engine's to answer with an error. Nor does it prove that the
    client speaks no other protocol: a stream of another protocol that begins with an HTTP request line goes to HTTP.
    """
    # Most streams are decided by the byte behind their first space.
    space = data.find(b" ", 0, _METHOD_LENGTH + 1)
    if space > 0 and len(data) > space + 1 and data[0] != _CR:
        first = data[space + 1]
        if first == _SLASH:
            return YES if data[:space] in _REGISTERED else NO
        if first not in _OTHER_TARGETS and data[:space] != _CONNECT:
            return NO
    at = _empty_lines(data)
    rest = data[at : at + 1]
    if not rest:
        return MORE
    if rest == b"\r":
        return MORE if len(data) == at + 1 and at < 2 * LEADING_CRLFS else NO
    space = data.find(b" ", at, at + _METHOD_LENGTH + 1)
    if space < 0:
        return MORE if data[at : at + _METHOD_LENGTH + 1] in _BEGINNINGS else NO
    method = data[at:space]
    if method == _CONNECT:
        return _connect(data, space + 1)
    if method not in _REGISTERED:
        return NO
    start = data[space + 1 : space + 9].lower()
    if start[:1] == b"/" or start.startswith(_SCHEMES):
        return YES
    if start[:1] == b"*":
        return _starts(data, space + 2, _VERSION) if method == b"OPTIONS" else NO
    return more_of(start, _SCHEMES)


def _empty_lines(data: bytes) -> int:
    lines = _EMPTY_LINES.match(data) if data[:1] == b"\r" else None
    return lines.end() if lines else 0


def _connect(data: bytes, at: int) -> Match:
    """The answer, when `CONNECT ` stands before `at`."""
    target = _AUTHORITY.match(data, at)
    if target is None:
        return MORE if at == len(data) else NO
    if target.end() == len(data):
        return MORE
    return _starts(data, target.end(), _VERSION) if b":" in target[0] else NO


#: Blanks and line breaks in front of a first line, at most. No client sends more by accident.
_WHITE_AT_MOST = 256

_WHITE = re.compile(rb"[\r\n\t ]*")
_TEXT = re.compile(rb"[\t\r -~\x80-\xff]*")
_LAST_WORD = re.compile(rb"[\t ]HTTP/[0-9][0-9.]*[\t \r]*\n")
_REQUEST_BEGINS = re.compile(rb"%b (?:/|\*|(?i:https?)://)" % _TOKEN)
#: A whole request line in order, of any method, as far as it is certain.
_REQUEST = re.compile(rb"(?:\r\n){0,%d}%b (?:(?:/|(?i:https?)://)[!-~]*|\*) HTTP/1\." % (LEADING_CRLFS, _TOKEN))


@named("http1_line")
def http1_line(data: bytes) -> Match:
    """A first line of text that ends in ` HTTP/` and a digit, whatever stands before that, and however many
    blanks and empty lines. HTTP, if only to be answered with an error: `GET  / HTTP/1.1`, `junk GET / HTTP/1.1`,
    `GET urn:x HTTP/1.1`, `FOO / HTTP/2.0`.

    A line in order, of any method, is `YES` at ` HTTP/1.`, any other at its end. It is `YES` too when it begins
    as a request and is longer than any server allows, and when hundreds of blanks stand in front. RTSP, SIP and
    Redis inline are `NO`.

    Everything else waits for the end of a line of text. So a mux asks this last (see `http_last`), and a
    matcher of another text protocol leaves such a line alone: `all_of(mine, not_(http1), not_(http1_line))`.
    """
    white = _WHITE.match(data)
    at = white.end() if white else 0
    if at > _WHITE_AT_MOST:
        return YES
    if at == len(data):
        return MORE
    if _REQUEST.match(data):
        return YES
    text = _TEXT.match(data, at)
    end = text.end() if text else at
    if end - at > _LINE_LENGTH:
        return YES if _REQUEST_BEGINS.match(data, at) else NO
    if end == len(data):
        return MORE
    # The text ends: with its line, or because it is none.
    return YES if data[end] == _LF and _LAST_WORD.search(data, max(at - 1, 0), end + 1) else NO


def _starts(data: bytes, at: int, expected: bytes) -> Match:
    """Whether `data` has `expected` at `at`."""
    found = data[at : at + len(expected)]
    return YES if found == expected else more_of(found, (expected,))


PROTOCOL = Protocol(
    name="HTTP/1",
    defined_in="RFC 9112 section 3",
    speaks_first=Speaks.CLIENT,
    match=http1,
    alpn=("http/1.1", "http/1.0"),
    begins=(
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"\r\n\r\nPOST http://a/b HTTP/1.1\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
        b"CONNECT example.com:443 HTTP/1.1\r\n\r\n",
    ),
    not_begins=(
        b"get / HTTP/1.0\r\n\r\n",  # this and the next two are for `http1_line`
        b"M-SEARCH * HTTP/1.1\r\n",
        b"BREW /pot-0 HTTP/1.1\r\n",
        b"BREW /pot-0 HTCPCP/1.0\r\n",
        b"GET key\r\n",  # Redis inline
        b'CONNECT {"verbose":false}\r\n',  # NATS
        b"CONNECT\naccept-version:1.2\n\n\0",  # STOMP
    ),
)


# How a mux asks for it

_WORD = re.compile(rb"[\r\n\t ]*+%b*+" % TCHAR.encode())


def word(data: bytes) -> Match:
    """Blanks and empty lines, a token and a blank: a request line begins so. XML, JSON and binary protocols do not.

    Not a `regex`: that walks in Python, and is asked again at each packet. A client that sends a word of 16 KB byte by byte would keep the
    worker busy for 6 ms a byte.
    """
    begin = _WORD.match(data)
    end = begin.end() if begin else 0
    if end == len(data):
        return Match.MORE
    return Match.YES if data[end] in b"\t " else Match.NO  # a blank stands behind a token alone: those in front are all taken


def http_route(handler: Handler, *, name: str = "http", alpn: tuple[str, ...] = PROTOCOL.alpn) -> Route:
    """Requests with a registered method, as early as possible. It also gets requests that come too late, to answer 408."""
    return Route(name, http1, handler, alpn=alpn, takes_late=True, is_stream=False)


def http_last(handler: Handler, *, fallback: bool, name: str = "http-line", match: Matcher = http1_line) -> Route:
    """Requests with any other method, and request lines that are malformed: served, or answered with an error.

    Asked when all others have said no. With a `fallback`, a stream that does not begin with a word does not wait for the end of its line:
    the fallback may be a protocol whose client sends no line, and waits.
    """
    return Route(name, all_of(word, match) if fallback else match, handler, priority=LAST, takes_late=True, is_stream=False)


# Malformed request lines that some servers accept. A client could get past the rules of a proxy with them: it relays none.

_FIRST_TOKEN = re.compile(_TOKEN)
_VERSION_WORD = re.compile(rb"[\t ]HTTP/[0-9]")

#: What separates words for some server: Python's `str.split`, which `http.server` uses, takes all of these.
_BLANK = rb"\x00\t\x0b\x0c\r\x1c-\x20\x85\xa0"
_BLANKS_IN_FRONT = re.compile(rb"[%b\n]*" % _BLANK)
_GET = re.compile(rb"GET[%b]" % _BLANK)
_ANY_VERSION = re.compile(rb"[%b]HTTP/[0-9]" % _BLANK, re.IGNORECASE)  # Apache takes small letters when told to be lenient
_KEPT = len(b" HTTP/1") - 1


def nearly_http(data: bytes) -> Match:
    """A request line behind any number of line breaks and blanks, or with more than one blank between method and target (nginx takes
    both), or without a version (HTTP/0.9, in which only GET exists); and all that `http1_line` says YES to."""
    line = data.lstrip(b"\r\n\t ")
    if not line:
        return Match.YES if len(data) > _WHITE_AT_MOST else Match.MORE
    method = _FIRST_TOKEN.match(line)
    if method is None:
        return Match.NO
    rest = line[method.end() :]
    if not rest:
        return http1_line(data)
    target = rest.lstrip(b"\t ")
    if target == rest:
        return Match.NO
    if method[0] == b"GET":
        return Match.YES
    start = target[:8].lower()
    if (start[:1] == b"/" or start.startswith(_SCHEMES)) and (method[0] in _REGISTERED or _VERSION_WORD.search(target.partition(b"\n")[0])):
        return Match.YES
    return http1_line(data)


class FirstLine:
    """Whether the first line that is not empty could be a request line to some server, asked piece by piece of any stream.

    It may begin with control characters, have them between its words, and be of any length.
    """

    __slots__ = ("_begun", "_over", "_tail")

    def __init__(self) -> None:
        self._begun = b""  # the first bytes of the line
        self._tail = b""  # its last ones
        self._over = False

    def is_request(self, data: bytes) -> bool:
        """Whether it is one, now that `data` has come."""
        if self._over:
            return False
        if not self._begun:
            white = _BLANKS_IN_FRONT.match(data)
            at = white.end() if white else 0
            self._tail = (self._tail + data[:at])[-1:]  # the blank in front of a line that is a version alone
            data = data[at:]
            if not data:
                return False
        line, end, _ = data.partition(b"\n")
        line = self._tail + line
        if len(self._begun) < 4:
            self._begun += data[: 4 - len(self._begun)]
        self._over = bool(end)
        self._tail = line[-_KEPT:]
        return bool(_GET.match(self._begun) or _ANY_VERSION.search(line))
