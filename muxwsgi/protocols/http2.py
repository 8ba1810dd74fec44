"""HTTP/2 without ALPN: the client's connection preface (RFC 9113 section 3.4)."""

from muxwsgi.mux.matchers import named, prefix
from muxwsgi.mux.route import Handler, Route
from muxwsgi.protocols import Protocol, Speaks

__all__ = ["PREFACE", "PROTOCOL", "http2_preface", "http2_route"]

#: All 24 bytes of it: `PRI * HTTP/2.0\r\n` alone is a request line too.
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

http2_preface = named("http2_preface")(prefix(PREFACE))

PROTOCOL = Protocol(
    name="HTTP/2",
    defined_in="RFC 9113 section 3.4",
    speaks_first=Speaks.CLIENT,
    match=http2_preface,
    alpn=("h2",),
    begins=(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0",),
    not_begins=(b"PRI * HTTP/2.0\r\n\r\nGET", b"PRI / HTTP/1.1\r\n"),
)


def http2_route(handler: Handler) -> Route:
    """Connections of HTTP/2: by ALPN, or by their preface."""
    return Route("http2", http2_preface, handler, alpn=PROTOCOL.alpn, takes_late=True, is_stream=False)
