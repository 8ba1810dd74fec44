"""Max-Forwards (RFC 9110 section 7.6.2): limits the hops of TRACE and OPTIONS. If it is 0, the proxy answers the request itself."""

from typing import Any

from muxwsgi.proxy.exchange.fields import Fields
from muxwsgi.proxy.rules.message import Response

__all__ = ["answer_of_the_last", "one_less"]

_LIMITED = frozenset({"TRACE", "OPTIONS"})

#: Digits of a valid value. Longer ones are passed on unchanged.
DIGITS_AT_MOST = 18

#: Fields that a response to TRACE must not contain (RFC 9110 section 9.3.8).
_SECRET = frozenset({"authorization", "proxy-authorization", "cookie"})


def answer_of_the_last(environ: dict[str, Any]) -> Response | None:
    """The proxy's response to a request with Max-Forwards 0, None for other requests."""
    method = environ["REQUEST_METHOD"]
    if method not in _LIMITED or environ.get("HTTP_MAX_FORWARDS") != "0":
        return None
    if method == "OPTIONS":
        return Response(status=204, headers=[("Allow", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS, TRACE, CONNECT")])
    line = f"{method} {environ['RAW_URI']} {environ['SERVER_PROTOCOL']}"
    shown = [f"{name}: {value}" for name, value in environ["muxwsgi.fields"] if name.lower() not in _SECRET]
    return Response("\r\n".join([line, *shown, "", ""]).encode("latin-1"), 200, mimetype="message/http")


def one_less(method: str, fields: Fields) -> Fields:
    """`fields` for the next hop. A value that is not a number is passed on unchanged."""
    if method not in _LIMITED:
        return fields
    return [(name, _less(value) if name.lower() == "max-forwards" else value) for name, value in fields]


def _less(value: str) -> str:
    counts = value.isascii() and value.isdigit() and len(value) <= DIGITS_AT_MOST
    return str(int(value) - 1) if counts and int(value) else value
