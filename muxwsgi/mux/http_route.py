"""How a mux asks for HTTP: first for what is certainly HTTP, and last, before the fallback, for what can be nothing else."""

from muxwsgi.mux import matchers
from muxwsgi.mux.matchers import Matcher
from muxwsgi.mux.route import LAST, Handler, Route

__all__ = ["WORD", "http_last", "http_route"]

#: Blanks and empty lines, a token and a blank: a request line begins so. XML, JSON and binary protocols do not.
WORD = matchers.regex(rb"[\r\n\t ]*[!#$%&'*+\-.^_`|~0-9A-Za-z]+[\t ]", 16384)


def http_route(handler: Handler, *, name: str = "http", alpn: tuple[str, ...] = ("http/1.1", "http/1.0")) -> Route:
    """Requests with a registered method, as early as possible. Gets what comes too late too, to say so (408)."""
    return Route(name, matchers.http1, handler, alpn=alpn, takes_late=True)


def http_last(handler: Handler, *, fallback: bool, name: str = "http-line", match: Matcher = matchers.http1_line) -> Route:
    """Requests with any other method, and request lines that are malformed: served, or answered with an error.

    Asked when all others have said no. With a `fallback`, a stream that does not begin with a word does not wait for the end of its line:
    the fallback may be a protocol whose client sends no line, and waits.
    """
    return Route(name, matchers.all_of(WORD, match) if fallback else match, handler, priority=LAST, takes_late=True)
