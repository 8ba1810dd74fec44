"""The matchers: what a protocol looks like in its first bytes.

A matcher is a callable from the first bytes of a stream to a `Match`. Four laws hold for each, and for
whatever the combinators make:

- **pure**: the answer depends on the bytes alone; no I/O, no gevent, no memory of earlier calls;
- **monotonic**: after `YES` or `NO`, more bytes of the same stream never change the answer;
- **total**: no byte string makes it raise;
- **frugal**: `MORE` only while more bytes could make it `YES`, because an earlier `MORE` holds back every
  later route.

At the end of the stream, at the peek limit and at the sniff deadline the mux takes `MORE` for `NO`.

`repr` of a matcher is what listings and `muxwsgi explain` show: the expression that makes it.
"""

import re
from collections.abc import Callable
from typing import Literal

from muxwsgi.mux import client_hello
from muxwsgi.mux.client_hello import ClientHello
from muxwsgi.mux.match import Match, check_answers
from muxwsgi.mux.pattern import Automaton
from muxwsgi.names import Breadth, HostPatterns, comparable, parse_pattern

__all__ = [
    "LEADING_CRLFS",
    "Matcher",
    "all_of",
    "alpn_is",
    "any_of",
    "http1",
    "http1_line",
    "http2_preface",
    "never",
    "not_",
    "prefix",
    "regex",
    "sni_is",
    "tls",
    "tls_like",
]

YES, NO, MORE = Match.YES, Match.NO, Match.MORE

Matcher = Callable[[bytes], Match]


class _Named:
    """A matcher that shows the expression it was made by. `bare` is the same without that, for who asks often."""

    def __init__(self, name: str, ask: Matcher) -> None:
        self.name = name
        self.bare: Matcher = getattr(ask, "bare", ask)
        self.__doc__ = ask.__doc__

    def __call__(self, data: bytes) -> Match:
        return self.bare(data)

    def __repr__(self) -> str:
        return self.name


def _named(name: str) -> Callable[[Matcher], Matcher]:
    def name_it(ask: Matcher) -> Matcher:
        return _Named(name, ask)

    return name_it


def _call(name: str, arguments: tuple[object, ...]) -> str:
    return f"{name}({', '.join(map(shown, arguments))})"


def shown(argument: object) -> str:
    """A plugin's own matcher is an ordinary function: its name says more than its address."""
    if isinstance(argument, (bytes, str, _Named)):
        return repr(argument)
    return getattr(argument, "__name__", None) or repr(argument)


# HTTP/1

#: Empty lines in front of a request line that are served (RFC 9112 section 2.2 wants at least one to be
#: ignored).
LEADING_CRLFS = 4

#: The IANA "HTTP Method Registry" without CONNECT, which takes an authority, PRI, which is the preface of
#: HTTP/2, and `*`.
METHODS = (
    b"ACL BASELINE-CONTROL BIND CHECKIN CHECKOUT COPY DELETE GET HEAD LABEL LINK LOCK MERGE MKACTIVITY "
    b"MKCALENDAR MKCOL MKREDIRECTREF MKWORKSPACE MOVE OPTIONS ORDERPATCH PATCH POST PROPFIND PROPPATCH PUT "
    b"QUERY REBIND REPORT SEARCH TRACE UNBIND UNCHECKOUT UNLINK UNLOCK UPDATE UPDATEREDIRECTREF "
    b"VERSION-CONTROL"
).split()

_REGISTERED = frozenset(METHODS)
_CONNECT = b"CONNECT"
#: What a registered method begins with.
_BEGINNINGS = frozenset(method[:n] for method in [*METHODS, _CONNECT] for n in range(1, len(method) + 1))
_METHOD_LENGTH = 17  # the longest registered
_LINE_LENGTH = 8190  # the limit of Apache and gunicorn on a request line

# request-line = method SP request-target SP HTTP-version (RFC 9112 section 3); a method is a token (RFC 9110
# section 5.6.2).
_EMPTY_LINES = re.compile(rb"(?:\r\n){0,%d}" % LEADING_CRLFS)
_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
#: What an authority consists of (RFC 3986 section 3.2): `{` and `"` are not in it, so NATS' `CONNECT {...}` has none.
_AUTHORITY = re.compile(rb"[A-Za-z0-9\-._~!$&'()*+,;=%%:\[\]]{1,%d}" % _LINE_LENGTH)
_SCHEMES = (b"http://", b"https://")
_SLASH, _CR, _LF = b"/\r\n"
_OTHER_TARGETS = b"*hH"  # how those begin that are no path, CONNECT's aside
_VERSION = b" HTTP/1."


@_named("http1")
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
    bad fields after the first line are the HTTP engine's to answer with an error. Nor does it prove a client
    that speaks no other protocol: who may write an HTTP request line in front of anything gets HTTP.
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
    return _more_of(start, _SCHEMES)


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


#: Blanks and line breaks in front of a first line, at most: nobody sends more by accident.
_WHITE_AT_MOST = 256

_WHITE = re.compile(rb"[\r\n\t ]*")
_TEXT = re.compile(rb"[\t\r -~\x80-\xff]*")
_LAST_WORD = re.compile(rb"[\t ]HTTP/[0-9][0-9.]*[\t \r]*\n")
_REQUEST_BEGINS = re.compile(rb"%b (?:/|\*|(?i:https?)://)" % _TOKEN)
#: A whole request line in order, of any method, as far as it is certain.
_REQUEST = re.compile(rb"(?:\r\n){0,%d}%b (?:(?:/|(?i:https?)://)[!-~]*|\*) HTTP/1\." % (LEADING_CRLFS, _TOKEN))


@_named("http1_line")
def http1_line(data: bytes) -> Match:
    """A first line of text that ends in ` HTTP/` and a digit, whatever stands before that, and however many
    blanks and empty lines. HTTP, if only to be answered with an error: `GET  / HTTP/1.1`, `junk GET / HTTP/1.1`,
    `GET urn:x HTTP/1.1`, `FOO / HTTP/2.0`.

    A line in order, of any method, is `YES` at ` HTTP/1.`, any other at its end. It is `YES` too when it begins
    as a request and is longer than any server allows, and when hundreds of blanks stand in front. RTSP, SIP and
    Redis inline are `NO`.

    Everything else waits for the end of a line of text. So a mux asks this last (`muxwsgi.mux.http_route`), and a
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
    return YES if found == expected else _more_of(found, (expected,))


def _more_of(start: bytes, wanted: tuple[bytes, ...]) -> Match:
    """`MORE` where `start` is the beginning of one of `wanted`, else `NO`."""
    for whole in wanted:
        if whole.startswith(start):
            return MORE
    return NO


# TLS


@_named("tls")
def tls(data: bytes) -> Match:
    """A TLS record that begins a ClientHello: content type 22, version 3.x of whatever x (RFC 5246 appendix E.1),
    a length a record may have, message type 1.

    Six bytes decide. A `YES` proves neither a well-formed ClientHello nor a version that we serve: those the
    handshake answers with an alert. SSL 2 hellos are `NO`.
    """
    if not b"\x16\x03".startswith(data[:2]):
        return NO
    if len(data) >= 5 and not 0 < (data[3] << 8 | data[4]) <= client_hello.MAX_FRAGMENT:
        return NO
    if len(data) < 6:
        return MORE
    return YES if data[5] == 1 else NO


@_named("tls_like")
def tls_like(data: bytes) -> Match:
    """What begins like TLS, whether in order or not: a record of any type with version 3.x, or a ClientHello of
    SSL 2 (RFC 5246 appendix E.2). For a port on which nothing else is served: OpenSSL answers what is broken with
    an alert.
    """
    if data[:1] < b"\x80":
        if data and not 20 <= data[0] <= 23:
            return NO
        return MORE if len(data) < 2 else YES if data[1] == 3 else NO
    if not b"\x01\x03".startswith(data[2:4]):
        return NO
    return YES if len(data) >= 4 else MORE


def _hello_matcher(name: str, wanted: Callable[[ClientHello], bool]) -> Matcher:
    def ask(data: bytes) -> Match:
        hello: ClientHello | Literal[Match.MORE, Match.NO] = client_hello.parse(data)
        if isinstance(hello, Match):
            return hello
        return YES if wanted(hello) else NO

    return _Named(name, ask)


def sni_is(*names: str) -> Matcher:
    """A ClientHello that asks for one of the server names. `*.example.com` stands for any name one label
    below, as in certificates.

    Needs the whole ClientHello, so a route without it that comes later in order waits for that.
    """
    if not names:
        raise ValueError("sni_is() needs at least one server name")
    patterns = HostPatterns(parse_pattern(name, Breadth.ONE_LABEL) for name in names)

    def wanted(hello: ClientHello) -> bool:
        return hello.sni is not None and patterns.find(comparable(hello.sni)) is not None

    return _hello_matcher(_call("sni_is", names), wanted)


def alpn_is(*protocols: str) -> Matcher:
    """A ClientHello that offers one of the ALPN protocol ids, whichever the server would choose."""
    if not protocols:
        raise ValueError("alpn_is() needs at least one protocol id")
    ids = frozenset(protocols)
    return _hello_matcher(_call("alpn_is", protocols), lambda hello: not ids.isdisjoint(hello.alpn))


# Bytes


def prefix(*prefixes: bytes) -> Matcher:
    """A stream that begins with one of the byte strings, as they are (for either case see `regex`)."""
    if not prefixes or b"" in prefixes:
        raise ValueError("prefix() needs at least one prefix, and none may be empty")

    def ask(data: bytes) -> Match:
        if data.startswith(prefixes):
            return YES
        return _more_of(data, prefixes)

    return _Named(_call("prefix", prefixes), ask)


def regex(pattern: bytes, limit: int = 1024) -> Matcher:
    """A stream whose first bytes match `pattern`, from the first byte on, within the first `limit` bytes.

    `pattern` is in the syntax of `re`, flags as in `(?i)` included. The answer is

    - `YES` as soon as the bytes up to some point, at most `limit` of them, match the whole of `pattern`; what
      follows does not matter;
    - `NO` as soon as no continuation could match, and at `limit` bytes in any case;
    - `MORE` otherwise.

    So greedy and lazy repeats are the same here, and a pattern has to end with the bytes that must be there:
    `EHLO [^\\r\\n]+` is `YES` at `EHLO a`. What cannot keep this promise is refused with `ValueError`: `$`,
    `\\Z`, `\\b`, look-around, back-references, atomic groups and possessive repeats, and a pattern that
    matches no bytes at all. No pattern takes more than linear time.
    """
    if limit < 1:
        raise ValueError("regex() needs a limit of at least one byte")
    automaton = Automaton(pattern)

    def ask(data: bytes) -> Match:
        verdict = automaton.verdict(data[:limit])
        return NO if verdict is MORE and len(data) >= limit else verdict

    return _Named(f"regex({pattern!r}, {limit})", ask)


#: The client's connection preface of HTTP/2 (RFC 9113 section 3.4), all 24 bytes: `PRI * HTTP/2.0\r\n` alone
#: is a request line too.
http2_preface = _Named("http2_preface", prefix(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"))


@_named("never")
def never(data: bytes) -> Match:
    """`NO` to everything: for routes that are reached by ALPN, or as fallback or silence route, only."""
    return NO


# Combinators. The three verdicts under and, or and not are Kleene's logic, with MORE for unknown: monotonic
# in, monotonic out.


def any_of(*matchers: Matcher) -> Matcher:
    """`YES` as soon as one says `YES`, `NO` when all say `NO`."""
    if not matchers:
        raise ValueError("any_of() needs at least one matcher")
    for each in matchers:
        check_answers(each)

    def ask(data: bytes) -> Match:
        verdict = NO
        for matcher in matchers:
            said = matcher(data)
            if said is YES:
                return YES
            if said is MORE:
                verdict = MORE
        return verdict

    return _Named(_call("any_of", matchers), ask)


def all_of(*matchers: Matcher) -> Matcher:
    """`YES` when all say `YES`, `NO` as soon as one says `NO`."""
    if not matchers:
        raise ValueError("all_of() needs at least one matcher")
    for each in matchers:
        check_answers(each)

    def ask(data: bytes) -> Match:
        verdict = YES
        for matcher in matchers:
            said = matcher(data)
            if said is NO:
                return NO
            if said is MORE:
                verdict = MORE
        return verdict

    return _Named(_call("all_of", matchers), ask)


def not_(matcher: Matcher) -> Matcher:
    """`YES` where `matcher` says `NO` and the other way round. `MORE` stays `MORE`: what is undecided at the
    deadline is `NO` here too.
    """
    check_answers(matcher)

    def ask(data: bytes) -> Match:
        said = matcher(data)
        if said is MORE:
            return MORE
        return NO if said is YES else YES

    return _Named(_call("not_", (matcher,)), ask)
