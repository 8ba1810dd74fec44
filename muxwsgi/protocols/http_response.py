"""A response of HTTP, which no client sends: two servers or a reversed relay are connected."""

from muxwsgi.mux.matchers import regex
from muxwsgi.protocols import Protocol, Speaks

__all__ = ["PROTOCOL", "http_response"]

http_response = regex(rb"HTTP/[0-9]")

PROTOCOL = Protocol(
    name="an HTTP response",
    defined_in="RFC 9112 section 4",
    speaks_first=Speaks.SERVER,
    match=http_response,
    begins=(b"HTTP/1.1 200 OK\r\n", b"HTTP/1.0 404 Not Found\r\n"),
    not_begins=(b"HTTP 200", b"GET / HTTP/1.1\r\n"),
)
