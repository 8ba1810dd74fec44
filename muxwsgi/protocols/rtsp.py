"""RTSP: a request line."""

from muxwsgi.mux.matchers import regex
from muxwsgi.protocols import Protocol, Speaks

__all__ = ["PROTOCOL", "rtsp"]

rtsp = regex(rb"[A-Z_]+ (?:(?i:rtsp[su]?)://[^ \r\n]*|\*) RTSP/[0-9]")

PROTOCOL = Protocol(
    name="RTSP",
    defined_in="RFC 7826 section 7.1, RFC 2326",
    speaks_first=Speaks.CLIENT,
    match=rtsp,
    begins=(b"OPTIONS rtsp://a/b RTSP/1.0\r\n", b"OPTIONS * RTSP/1.0\r\nCSeq: 1\r\n\r\n", b"DESCRIBE rtsp://a/b RTSP/2.0\r\n"),
    not_begins=(b"OPTIONS * HTTP/1.1\r\n", b"RTSP/1.0 200 OK\r\n"),
)
