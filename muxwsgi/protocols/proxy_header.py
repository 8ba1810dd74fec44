"""The header by which a load balancer names the client (versions 1 and 2 of HAProxy's PROXY protocol)."""

from muxwsgi.mux.matchers import prefix
from muxwsgi.protocols import Protocol, Speaks

__all__ = ["PROTOCOL", "proxy_header"]

proxy_header = prefix(b"\r\n\r\n\0\r\nQUIT\n", b"PROXY TCP4 ", b"PROXY TCP6 ", b"PROXY UNKNOWN")

PROTOCOL = Protocol(
    name="a PROXY protocol header",
    defined_in="HAProxy, The PROXY protocol",
    speaks_first=Speaks.CLIENT,
    match=proxy_header,
    begins=(b"PROXY TCP4 192.0.2.1 192.0.2.2 5000 80\r\n", b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c"),
    not_begins=(b"PROXY\r\n", b"\r\n\r\nQUIT\n"),
)
