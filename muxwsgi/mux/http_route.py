"""How a mux asks for HTTP: first for what is certainly HTTP, and last, before the fallback, for what can be nothing else."""

import re

from muxwsgi.mux import matchers
from muxwsgi.mux.match import Match
from muxwsgi.mux.matchers import Matcher
from muxwsgi.mux.route import LAST, Handler, Route

__all__ = ["http_last", "http_route", "word"]

_WORD = re.compile(rb"[\r\n\t ]*+[!#$%&'*+\-.^_`|~0-9A-Za-z]*+")


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


def http_route(handler: Handler, *, name: str = "http", alpn: tuple[str, ...] = ("http/1.1", "http/1.0")) -> Route:
    """Requests with a registered method, as early as possible. Gets what comes too late too, to say so (408)."""
    return Route(name, matchers.http1, handler, alpn=alpn, takes_late=True)


def http_last(handler: Handler, *, fallback: bool, name: str = "http-line", match: Matcher = matchers.http1_line) -> Route:
    """Requests with any other method, and request lines that are malformed: served, or answered with an error.

    Asked when all others have said no. With a `fallback`, a stream that does not begin with a word does not wait for the end of its line:
    the fallback may be a protocol whose client sends no line, and waits.
    """
    return Route(name, matchers.all_of(word, match) if fallback else match, handler, priority=LAST, takes_late=True)
